"""The whole service under random commands, evidence, faults and crashes, on a real database, with a seed.

No grpc here: the node is a few lines that say what a node may say, the clock is moved by hand, and after every
transaction everything that must always hold is looked up in the rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from pilotfish.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from pilotfish_control_plane.artifacts.model import ArtifactFile
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.core import Reconciler
from pilotfish_control_plane.deployments.commands import DeployCommand, PromoteCommand, RolloutControl
from pilotfish_control_plane.deployments.configuration import DeploymentConfig, HealthCheck, RollbackSettings, Scaling
from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    Endpoint,
    LinkState,
    ReplicaState,
    Shadow,
    Stage,
)
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.reconciler import DeploymentReconciler, RolloutReconciler
from pilotfish_control_plane.deployments.rollout_model import (
    Comparison,
    Criterion,
    OnInconclusive,
    RolloutPlan,
    RolloutStep,
    RolloutStrategy,
)
from pilotfish_control_plane.deployments.rules import transitions
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.fleet.model import GatewayReport, Member, MemberKind, NodeReport, ReplicaReport
from pilotfish_control_plane.registry.model import Lineage, Version, VersionStatus
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.events import head, tail
from pilotfish_control_plane.storage.paging import PageRequest
from pilotfish_control_plane.storage.transaction import Tx

MODEL = "fraud"
VERSIONS = 6
STEPS = int(os.environ.get("PILOTFISH_SIMULATION_STEPS", "160"))


@dataclass(frozen=True)
class Value:
    value: float | None
    n: int
    source: str = "w"


class Registry:
    """Versions in memory; a transaction that is undone leaves them as they were (see `World.do`)."""

    def __init__(self) -> None:
        self.status = dict.fromkeys(range(1, VERSIONS + 1), VersionStatus.STAGING)

    def get_version(self, tx: Tx, project: str, model: str, number: int) -> Version:
        if number not in self.status or model != MODEL:
            raise NotFound(f"there is no {model}@{number}")
        return Version(
            f"v{number}", project, model, number, "", self.status[number], "ann", "", {}, {}, {}, "", 1, "onnx", {}, {},
            (ArtifactFile("model.onnx", 1, "0" * 64),), f"models/{model}/{number}/x", "", Lineage(), tx.now, tx.now, 1,
        )  # fmt: skip

    def resolve_version(self, tx: Tx, ref: str, project: str) -> Version:
        return self.get_version(tx, project, MODEL, int(ref.rpartition("@")[2]))

    def has_model(self, tx: Tx, project: str, model: str) -> bool:
        return model == MODEL

    def set_standing(self, tx: Tx, version: Version, *, in_production: bool, reason: str) -> None:
        before, after = (VersionStatus.STAGING, VersionStatus.PRODUCTION)[:: 1 if in_production else -1]
        assert self.status[version.number] is before, "a standing is changed only from its opposite"
        self.status[version.number] = after

    def profile_json(self, tx: Tx, version: Version) -> str:
        return ""


class Monitoring:
    """Evidence that the simulation makes up, by deployment."""

    def __init__(self) -> None:
        self.found: dict[str, Mapping[str, Value]] = {}
        self.grain_s = 0.0

    def evidence(self, tx: Tx, deployment_id: str, since: datetime | None) -> Mapping[str, Value]:
        return self.found.get(deployment_id, {})

    def learned_profile(self, tx: Tx, deployment_id: str) -> str:
        return ""


class Experiments:
    def record_rollback(self, tx: Tx, experiment: str, subject: str, parameters: Any, tags: Any) -> None:
        return None


@dataclass
class SimulatedNode:
    """What runs where, as far as the node knows."""

    replicas: dict[str, ReplicaReport] = field(default_factory=dict)
    version: int = 0
    generation: int = 0
    wanted: dict[str, bool] = field(default_factory=dict)


class World:
    def __init__(self, db: Database, clock: FakeClock, seed: int) -> None:
        self.db, self.clock, self.random = db, clock, random.Random(seed)
        self.registry, self.monitoring = Registry(), Monitoring()
        ids = itertools.count(1)
        experiments = Experiments()
        self.service = DeploymentService(
            Neighbours(lambda: self.registry, lambda: self.monitoring, lambda: experiments, lambda p: f"{p}{next(ids)}")
        )
        self.reconcilers: list[Reconciler] = [DeploymentReconciler(self.service), RolloutReconciler(self.service)]
        self.node = SimulatedNode()
        self.seen_states: dict[str, Any] = {}
        self.decisions: dict[str, Any] = {}
        self.had_production: set[str] = set()
        self.forced: set[str] = set()
        self.log: list[str] = []
        self.refused = 0
        self.done = 0
        self.may_die = True

    # Doing things

    def do(self, what: str, fn: Any) -> Any:
        """Run `fn` in one transaction, which sometimes dies at its very end; then check everything."""
        before = dict(self.registry.status)
        dies = self.may_die and self.random.random() < 0.05

        class Death(Exception):
            pass

        def run(tx: Tx) -> Any:
            self.registry.status = dict(before)
            found = fn(tx)
            if dies:
                raise Death
            return found

        self.log.append(f"{self.clock.now():%H:%M:%S} {what}{' (dies)' if dies else ''}")
        try:
            answer = self.db.write_sync(run)
            self.done += 1
        except (FailedPrecondition, InvalidArgument, NotFound, Aborted) as error:
            assert type(error) in (FailedPrecondition, NotFound, InvalidArgument), error
            self.refused += 1
            self.registry.status = before
            self.log.append(f"    refused: {error.message[:100]}")
            answer = None
        except Death:
            self.registry.status = before
            answer = None
        self.db.read_sync(self.check)
        return answer

    def random_plan(self, stage: Stage) -> RolloutPlan | None:
        if self.random.random() < 0.3:
            return None
        steps = sorted(self.random.sample([100, 1000, 2500, 5000, 9000, 10_000], self.random.randint(1, 3)))
        return RolloutPlan(
            self.random.choice(list(RolloutStrategy)),
            tuple(RolloutStep(w, self.random.choice([0, 5]), self.random.random() < 0.15) for w in steps),
            max_wait_s=self.random.choice([5.0, 50.0]),
            on_inconclusive=self.random.choice(list(OnInconclusive)),
            auto_promote=stage is Stage.CANARY and self.random.random() < 0.4,
        )

    def config(self) -> DeploymentConfig:
        n = self.random.choice([1, 1, 2, 3])
        return DeploymentConfig(
            scaling=Scaling(n, n, n),
            health_check=HealthCheck(startup_timeout_s=20),
            rollback=RollbackSettings(keep_previous_s=self.random.choice([0, 0, 30])),
        )

    def somebody(self, tx: Tx) -> Deployment | None:
        found = self.service.live(tx, "default")
        return self.random.choice(found) if found else None

    def act(self) -> None:
        """Do one random thing that a person or automation may do."""
        kind = self.random.choices(
            ["deploy", "promote", "rollback", "stop", "scale", "traffic", "control", "standing"],
            [30, 15, 10, 5, 8, 10, 15, 4],
        )[0]
        getattr(self, f"act_{kind}")()

    def act_deploy(self) -> None:
        stage = self.random.choices(list(Stage), [1, 2, 5, 2])[0]
        command = DeployCommand(
            f"{MODEL}@{self.random.randint(1, VERSIONS)}",
            stage,
            endpoint=self.random.choice(["one", "two"]),
            config=self.config(),
            plan=self.random_plan(stage),
            automation=self.random.random() < 0.5,
        )
        self.do(f"deploy {command.version_ref} {stage.value} {command.endpoint}",
                lambda tx: self.service.deploy(tx, command))  # fmt: skip

    def act_promote(self) -> None:
        criterion = Criterion("error_ratio", Comparison.LESS_THAN_OR_EQUAL, 0.5, min_sample=1)

        def promote(tx: Tx) -> Any:
            if (source := self.somebody(tx)) is None:
                return None
            target = self.random.choice([None, Stage.PRODUCTION])
            return self.service.promote(tx, PromoteCommand(source.name, target, (criterion,)))

        self.do("promote", promote)

    def act_rollback(self) -> None:
        def rollback(tx: Tx) -> Any:
            bad = self.somebody(tx)
            return None if bad is None else self.service.rollback(tx, bad.name, "because")

        self.do("rollback", rollback)

    def act_stop(self) -> None:
        force = self.random.random() < 0.2

        def stop(tx: Tx) -> Any:
            if (found := self.somebody(tx)) is None:
                return None
            if force:
                self.forced.add(found.endpoint)
            return self.service.stop(tx, found.name, "enough", force)

        self.do(f"stop force={force}", stop)

    def act_scale(self) -> None:
        def scale(tx: Tx) -> Any:
            found = self.somebody(tx)
            return None if found is None else self.service.scale(tx, found.name, self.random.randint(0, 3))

        self.do("scale", scale)

    def act_traffic(self) -> None:
        def set_traffic(tx: Tx) -> Any:
            endpoint = self.random.choice(["one", "two"])
            live = [d for d in self.service.live(tx, "default", endpoint) if d.stage.is_live]
            share = self.random.randint(0, 10_000)
            chosen = self.random.sample(live, min(2, len(live)))
            weights = list(zip([d.id for d in chosen], [share, 10_000 - share], strict=False))
            shadows = [Shadow(d.id, 5000) for d in self.service.live(tx, "default", endpoint)[:1]]
            return self.service.set_traffic(tx, endpoint, weights, shadows)

        self.do("traffic", set_traffic)

    def act_control(self) -> None:
        command = self.random.choice(list(RolloutControl))

        def control(tx: Tx) -> Any:
            found = rollout_rows.open_rollouts(tx.conn)
            if not found:
                return None
            return self.service.control_rollout(tx, self.random.choice(found).name, command, "so be it")

        self.do(f"control {command.value}", control)

    def act_standing(self) -> None:
        """Deprecate a version, or take it back, as the registry would allow it."""
        number = self.random.randint(1, VERSIONS)
        status = self.registry.status[number]
        if status is VersionStatus.STAGING:
            self.registry.status[number] = VersionStatus.DEPRECATED
        elif status is VersionStatus.DEPRECATED:
            self.registry.status[number] = VersionStatus.STAGING

    # What happens by itself

    def evidence(self, healthy: bool = False) -> None:
        for deployment in self.db.read_sync(lambda tx: self.service.live_everywhere(tx)):
            if healthy or self.random.random() < 0.5:
                ratio = 0.0 if healthy or self.random.random() < 0.8 else 1.0
                n = 1000 if healthy or self.random.random() < 0.7 else 3
                self.monitoring.found[deployment.id] = {"error_ratio": Value(ratio, n)}

    def node_tick(self, healthy: bool = False) -> None:
        """Let the node take its configuration, move its replicas on, and report; each may be late."""
        if healthy or self.random.random() < 0.7:
            config = self.db.read_sync(lambda tx: self.service.node_config(tx, "local"))
            assert config.version >= self.node.version
            self.node.version = config.version
            self.node.wanted = {s.replica.id: s.replica.draining for s in config.replicas}
            if healthy or self.random.random() < 0.7:
                self.node.generation = config.version
        for name, draining in self.node.wanted.items():
            self.node.replicas[name] = self.move_replica(name, draining, healthy)
        self.node.replicas = {n: r for n, r in self.node.replicas.items() if n in self.node.wanted}
        if healthy or self.random.random() < 0.8:
            report = NodeReport(
                tuple(self.node.replicas.values()), GatewayReport(True, 1, self.node.generation), 8.0, 1 << 20
            )
            self.do("node reports", lambda tx: self.service.apply_node_state(tx, "local", report))

    def move_replica(self, name: str, draining: bool, healthy: bool) -> ReplicaReport:
        old = self.node.replicas.get(name) or ReplicaReport(name, ReplicaState.STARTING, grpc_address="h:1")
        if draining or old.state is ReplicaState.STOPPED:
            gone = healthy or self.random.random() < 0.5
            return dataclasses.replace(old, state=ReplicaState.STOPPED) if gone else old
        if healthy:
            return dataclasses.replace(old, state=ReplicaState.READY, warmed=True, server_pid=1)
        chance = self.random.random()
        if chance < 0.05:
            return dataclasses.replace(old, state=ReplicaState.UNHEALTHY, restarts=old.restarts + 1)
        if chance < 0.5:
            return dataclasses.replace(old, state=ReplicaState.READY, warmed=True, server_pid=1)
        return old

    def node_link(self, link: LinkState) -> None:
        def write(tx: Tx) -> None:
            now = tx.now
            member = Member("local", MemberKind.NODE, link, 1, "", "", (), "me", 1, now, now, now)
            fleet_rows.save_members(tx.conn, [member])
            fleet_rows.keep_server(tx.conn, "me", now + timedelta(days=365))

        self.do(f"node {link.value}", write)

    def reconcile(self) -> None:
        for reconciler in self.reconcilers:
            self.do(f"reconcile {reconciler.name}", reconciler.reconcile)

    def events(self) -> list[str]:
        """Return what happened last, for a failing history."""
        last = self.db.read_sync(lambda tx: tail(tx.conn, max(0, head(tx.conn) - 60), limit=60))
        return [f"{e.time:%H:%M:%S} {e.kind} {e.subject.rpartition('/')[2]} {dict(e.payload)}" for e in last]

    # What must always hold

    def check(self, tx: Tx) -> None:
        standing = rows.open_deployments(tx.conn)
        by_id = {d.id: d for d in standing}
        for endpoint in endpoint_rows.all_endpoints(tx.conn):
            self.check_endpoint(tx, endpoint, by_id)
        self.check_standing(tx)
        self.check_replicas(tx)
        self.check_history(tx)

    def check_endpoint(self, tx: Tx, endpoint: Endpoint, by_id: Mapping[str, Deployment]) -> None:
        weights = dict(endpoint.routes.weights)
        assert sum(weights.values()) in (0, 10_000), weights
        for name in [*weights, *(s.deployment for s in endpoint.routes.shadows)]:
            assert name in by_id, f"{name} has traffic and has ended"
            assert by_id[name].state.serves, f"{name} has traffic and is {by_id[name].state}"
        assert all(by_id[name].stage.is_live for name in weights)
        slots = rows.slots_of(tx.conn, endpoint.project, endpoint.id)
        for stage, held in slots.items():
            assert held.stage is stage
            assert not held.state.has_ended and held.state is not DeploymentState.DRAINING
        unfinished = [r for r in rollout_rows.open_rollouts(tx.conn) if r.endpoint == endpoint.id]
        assert [r.id for r in unfinished] == ([endpoint.open_rollout] if endpoint.open_rollout else [])
        production = slots.get(Stage.PRODUCTION)
        # A first one that comes by steps is under judgement, and nobody stands behind it.
        judged = production is not None and production.rollout == endpoint.open_rollout
        if production is not None and production.state.serves and not judged:
            self.had_production.add(endpoint.id)
        if endpoint.id in self.had_production and endpoint.id not in self.forced:
            assert weights, f"{endpoint.id} once had production and now nobody answers"
        for deployment in by_id.values():
            if deployment.endpoint == endpoint.id and deployment.stage.is_live and deployment.state.is_coming:
                assert deployment.rollout == endpoint.open_rollout, "it comes in without a rollout"

    def check_standing(self, tx: Tx) -> None:
        for number, status in self.registry.status.items():
            held = rows.holders(tx.conn, "default", MODEL, number, Stage.PRODUCTION)
            serving = any(d.ready is not None and d.state.serves for d in held)
            if status is VersionStatus.PRODUCTION:
                assert serving, f"{number} stands as production and serves nowhere"
            if serving:
                assert status in (VersionStatus.PRODUCTION, VersionStatus.DEPRECATED, VersionStatus.STAGING)

    def check_replicas(self, tx: Tx) -> None:
        for endpoint in ("one", "two"):
            found = rows.of_endpoint(tx.conn, "default", endpoint)
            for deployment_id, replicas in replica_rows.replicas_of(tx.conn, [d.id for d in found]).items():
                state = next(d.state for d in found if d.id == deployment_id)
                if state.has_ended:
                    assert all(r.draining for r in replicas), f"{deployment_id} has ended and keeps replicas"
                assert state is not DeploymentState.STOPPED or not replicas

    def check_history(self, tx: Tx) -> None:
        """Compare with the state after the last transaction: nothing ended comes back, no decision changes."""
        for endpoint in ("one", "two"):
            for deployment in rows.of_endpoint(tx.conn, "default", endpoint):
                old = self.seen_states.get(deployment.id)
                if old is not None:
                    assert _reachable(transitions.DEPLOYMENT, old, deployment.state), (old, deployment.state)
                self.seen_states[deployment.id] = deployment.state
        page = rollout_rows.list_rollouts(tx.conn, "default", "", PageRequest(page_size=1000))
        for rollout in page.items:
            old = self.seen_states.get(rollout.id)
            if old is not None:
                assert _reachable(transitions.ROLLOUT, old, rollout.state), (old, rollout.state)
            self.seen_states[rollout.id] = rollout.state
            for decision in rollout_rows.decisions_of(tx.conn, [rollout.id], 1000)[rollout.id]:
                assert self.decisions.setdefault(decision.id, decision) == decision


def _reachable(table: Mapping[Any, frozenset[Any]], old: Any, new: Any) -> bool:
    found, frontier = {old}, [old]
    while frontier:
        for state in table[frontier.pop()] - found:
            found.add(state)
            frontier.append(state)
    return new in found


def run_history(world: World, steps: int) -> None:
    world.node_link(LinkState.CONNECTED)
    for _ in range(steps):
        event = world.random.random()
        if event < 0.35:
            world.act()
        elif event < 0.6:
            world.node_tick()
        elif event < 0.75:
            world.evidence()
        elif event < 0.77:
            world.node_link(world.random.choice([LinkState.UNKNOWN, LinkState.LOST, LinkState.CONNECTED]))
        world.clock.advance(world.random.choice([0.0, 0.1, 1.0, 10.0]))
        world.reconcile()


def calm_down(world: World) -> None:
    """Let everything go well for a while, with a person who resumes what is paused."""
    world.may_die = False
    world.node_link(LinkState.CONNECTED)

    def resume(tx: Tx) -> None:
        for rollout in rollout_rows.open_rollouts(tx.conn):
            if rollout.state.value == "paused":
                world.service.control_rollout(tx, rollout.name, RolloutControl.RESUME)

    for _ in range(60):
        world.evidence(healthy=True)
        world.node_tick(healthy=True)
        world.do("resume", resume)
        world.clock.advance(10.0)
        world.reconcile()


@pytest.mark.timeout(300)
def test_no_history_breaks_a_promise_and_every_one_calms_down(
    database: Database, clock: FakeClock, engine_name: str
) -> None:
    seed = int(os.environ.get("PILOTFISH_SEED", random.randrange(2**32)))
    print(f"seed {seed}")  # shown when the test fails
    world = World(database, clock, seed)
    try:
        run_history(world, STEPS if engine_name == "sqlite" else STEPS // 4)
        calm_down(world)
    except BaseException:
        print("\n".join([*world.log[-40:], *world.events()]))  # shown when the test fails
        raise
    assert world.done > 100
    standing = database.read_sync(lambda tx: world.service.live_everywhere(tx))
    assert {d.state for d in standing} <= {DeploymentState.READY}, [(d.id, d.state, d.state_reason) for d in standing]
    assert not database.read_sync(lambda tx: rollout_rows.open_rollouts(tx.conn))
    config = database.read_sync(lambda tx: world.service.node_config(tx, "local"))
    assert sorted(world.node.replicas) == sorted(s.replica.id for s in config.replicas)
    desired = sum(d.desired_replicas for d in standing)
    assert len(config.replicas) == desired
