"""Transitions, traffic, readiness, replicas and configuration, by hand-worked cases."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.deployments.configuration import (
    DeploymentConfig,
    DriftDetection,
    HealthCheck,
    MonitoringConfig,
    Resources,
    Scaling,
    config_from_json,
    config_to_json,
)
from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    Replica,
    ReplicaState,
    Shadow,
    Stage,
)
from pilotfish_control_plane.deployments.rollout_model import (
    Criterion,
    RolloutPlan,
    RolloutState,
    RolloutStep,
    RolloutStrategy,
    plan_from_json,
    plan_to_json,
)
from pilotfish_control_plane.deployments.rules import configuration, traffic, transitions
from pilotfish_control_plane.deployments.rules.readiness import Capacity, ReadinessFacts, readiness, violations
from pilotfish_control_plane.deployments.rules.replicas import (
    MAX_RESTARTS,
    Load,
    NodeLink,
    load_replicas,
    plan_replicas,
    state_of,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LINKED = NodeLink(True, NOW)
D: TypeAlias = DeploymentState
R: TypeAlias = ReplicaState


def a_deployment(**changes: Any) -> Deployment:
    config = DeploymentConfig(scaling=Scaling(2, 2, 2), health_check=HealthCheck(startup_timeout_s=60))
    made = Deployment("default", "d1", 1, "fraud", "fraud", 1, Stage.STAGING, D.READY, config, "ann", NOW)
    return dataclasses.replace(made, starting=NOW, **changes)


def a_replica(name: str, **changes: Any) -> Replica:
    made = Replica("default", "fraud", "d1", name, 1, "local", NOW, R.READY, warmed=True)
    return dataclasses.replace(made, **changes)


# Transitions


def test_only_the_transitions_of_the_words_are_allowed() -> None:
    def pairs(table: Any) -> set[str]:
        return {f"{a.value}>{b.value}" for a, allowed in table.items() for b in allowed}

    assert pairs(transitions.DEPLOYMENT) == {
        "pending>starting", "starting>warming", "warming>ready", "ready>degraded", "degraded>ready",
        "ready>draining", "degraded>draining", "draining>stopped",
        "pending>failed", "starting>failed", "warming>failed",
    }  # fmt: skip
    assert pairs(transitions.REPLICA) == {
        "starting>ready", "ready>unhealthy", "unhealthy>ready",
        "starting>stopped", "ready>stopped", "unhealthy>stopped",
    }  # fmt: skip
    assert pairs(transitions.ROLLOUT) == {
        "pending>progressing", "progressing>paused", "paused>progressing", "progressing>succeeded",
        "pending>aborting", "progressing>aborting", "paused>aborting", "aborting>aborted",
    }  # fmt: skip


def test_a_forbidden_transition_says_what_is_allowed() -> None:
    with pytest.raises(FailedPrecondition, match=r"STOPPED and cannot become READY; allowed: nothing"):
        transitions.check_deployment("d1", D.STOPPED, D.READY)
    with pytest.raises(FailedPrecondition, match=r"allowed: ABORTING, PROGRESSING"):
        transitions.check_rollout("r1", RolloutState.PAUSED, RolloutState.SUCCEEDED)


# Traffic


def test_a_share_leaves_the_rest_to_the_other() -> None:
    assert traffic.share("new", 1000, "old") == (("old", 9000), ("new", 1000))
    assert traffic.share("new", 1000, None) == (("new", 10_000),)
    assert traffic.share("new", 10_000, "old") == (("new", 10_000),)
    assert traffic.share("new", 0, "old") == (("old", 10_000),)


def test_who_leaves_gives_its_share_to_the_heir_or_to_the_others_in_proportion() -> None:
    weights = (("a", 6000), ("b", 3000), ("c", 1000))
    assert traffic.without(weights, "c", "a") == (("a", 7000), ("b", 3000))
    assert traffic.without(weights, "a", None) == (("b", 7500), ("c", 2500))
    assert traffic.without((("a", 10_000),), "a", None) == ()
    assert traffic.without((("a", 10_000),), "a", "z") == (("z", 10_000),)


def test_weights_sum_to_everything_or_nothing_whatever_leaves() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    generator = random.Random(seed)
    for _ in range(2000):
        names = [f"d{i}" for i in range(generator.randint(1, 7))]
        cuts = sorted(generator.sample(range(10_001), len(names) - 1))
        parts = [b - a for a, b in zip([0, *cuts], [*cuts, 10_000], strict=True)]
        weights = tuple(zip(names, parts, strict=True))
        gone = generator.choice(names)
        heir = generator.choice([None, *names, "other"])
        left = traffic.without(weights, gone, heir)
        assert sum(w for _, w in left) in (0, 10_000)
        assert gone not in dict(left)
        assert all(w > 0 for _, w in left)


def test_every_mistake_in_weights_is_told_at_once() -> None:
    ready = a_deployment(id="p", stage=Stage.PRODUCTION)
    targets = {
        "production": ready,
        "p": ready,
        "s": a_deployment(id="s", stage=Stage.STAGING),
        "c": a_deployment(id="c", stage=Stage.CANARY, state=D.STARTING),
    }
    found = traffic.weight_problems([("p", -1), ("production", 5), ("s", 1), ("c", 1), ("nobody", 1)], targets)
    assert [(v.field, v.reason) for v in found] == [
        ("weights[0].weight_bp", "OUT_OF_RANGE"),
        ("weights[1].deployment", "REPEATED"),
        ("weights[2].deployment", "NOT_LIVE_STAGE"),
        ("weights[3].deployment", "NOT_SERVING"),
        ("weights[4].deployment", "UNKNOWN"),
        ("weights", "SUM"),
    ]
    assert traffic.weight_problems([("p", 10_000)], targets) == []


def test_a_shadow_may_be_any_serving_deployment_once() -> None:
    targets = {"s": a_deployment(id="s"), "dead": a_deployment(id="dead", state=D.DRAINING)}
    assert traffic.shadow_problems([Shadow("s", 10_000)], targets) == []
    bad = [Shadow("s", 1), Shadow("s", 0), Shadow("dead", 1), Shadow("x", 1)]
    assert [v.reason for v in traffic.shadow_problems(bad, targets)] == [
        "OUT_OF_RANGE",
        "REPEATED",
        "NOT_SERVING",
        "UNKNOWN",
    ]


@pytest.mark.parametrize("header", ["Host Name", "UPPER", "a:b", "host", "grpc-timeout", "pilotfish-stage", "x" * 129])
def test_a_sticky_header_that_cannot_be_one_is_refused(header: str) -> None:
    assert len(traffic.sticky_problems(header)) == 1


@pytest.mark.parametrize("header", ["", "x-user-id", "te-user", "hosted-by"])
def test_a_sticky_header_may_be_any_other_name(header: str) -> None:
    assert traffic.sticky_problems(header) == []


# Readiness


def facts(**changes: Any) -> ReadinessFacts:
    made = ReadinessFacts("fraud@3", Stage.STAGING, Resources(1, 1024), 2, status="staging")
    return dataclasses.replace(made, **changes)


def failed(**changes: Any) -> list[str]:
    return [v.field for v in violations(readiness(facts(**changes)))]


def test_a_fine_version_passes_every_check() -> None:
    assert failed() == []
    assert len(readiness(facts())) == 7


def test_every_failed_check_is_told_not_only_the_first() -> None:
    assert failed(
        status="archived",
        artifact_problems=["model.onnx: other content"],
        capacity=Capacity("local", 0.5, 1024, 512),
        stage=Stage.PRODUCTION,
        production="d9",
        automation=True,
        quarantine="was bad",
        open_rollout="r9",
    ) == [
        "status_allows",
        "artifact_intact",
        "resources_fit",
        "stage_order",
        "not_quarantined",
        "no_other_rollout",
    ]
    assert failed(missing="there is no version 3", status="") == ["version_exists", "status_allows", "artifact_intact"]


@pytest.mark.parametrize("status", ["training", "evaluating", "failed", "archived", "deprecated"])
def test_only_staging_and_production_versions_are_deployed(status: str) -> None:
    assert failed(status=status) == ["status_allows"]


def test_a_rollback_may_bring_a_deprecated_version_back() -> None:
    assert failed(status="deprecated", rollback=True) == []
    assert failed(status="archived", rollback=True) == ["status_allows"]


def test_a_quarantine_binds_automation_and_nobody_else() -> None:
    assert failed(quarantine="bad", automation=False) == []
    assert failed(quarantine="bad", automation=True) == ["not_quarantined"]


def test_an_unfinished_rollout_stands_in_the_way_of_live_stages_only() -> None:
    assert failed(open_rollout="r1", stage=Stage.CANARY) == ["no_other_rollout"]
    assert failed(open_rollout="r1", stage=Stage.STAGING) == []


@pytest.mark.parametrize(
    ("capacity", "fits"),
    [
        (None, True),
        (Capacity("local", 1.0, 2048, 0), True),
        (Capacity("local", 0.9, 2048, 0), False),
        (Capacity("local", 1.0, 2047, 0), False),
        (Capacity("local", 8.0, 8192, 6144), True),
        (Capacity("local", 8.0, 8192, 6145), False),
    ],
)
def test_resources_fit_by_cores_of_one_replica_and_memory_of_all(capacity: Capacity | None, fits: bool) -> None:
    assert failed(capacity=capacity) == ([] if fits else ["resources_fit"])


def test_production_is_deployed_to_directly_only_while_there_is_none() -> None:
    assert failed(stage=Stage.PRODUCTION) == []
    assert failed(stage=Stage.PRODUCTION, production="d1") == ["stage_order"]
    assert failed(stage=Stage.PRODUCTION, production="d1", promotion=True) == []
    assert failed(stage=Stage.CANARY, production="") == []


# Replicas


def plan(deployment: Deployment, replicas: list[Replica], **changes: Any) -> Any:
    changed = {"same_process": lambda _: False, "now": NOW, **changes}
    return plan_replicas(deployment, replicas, **changed)


def test_missing_replicas_are_created_and_surplus_ones_drained_the_useless_first() -> None:
    deployment = a_deployment()
    assert plan(deployment, []).create == 2
    ill = a_replica("c", state=R.UNHEALTHY)
    found = plan(deployment, [a_replica("a"), a_replica("b"), ill])
    assert (found.create, [i for i, _ in found.drain]) == (0, ["c"])
    newer = a_replica("z", created=NOW + timedelta(seconds=1))
    assert [i for i, _ in plan(deployment, [a_replica("a"), newer, a_replica("b")]).drain] == ["z"]
    assert plan(deployment, [a_replica("a"), a_replica("b"), a_replica("x", draining=True)]).drain == ()


def test_a_replica_that_the_node_cannot_revive_is_replaced() -> None:
    deployment = a_deployment()
    dying = a_replica("b", state=R.UNHEALTHY, unhealthy=NOW, restarts=MAX_RESTARTS + 2, restarts_when_ready=2)
    found = plan(deployment, [a_replica("a"), dying])
    assert (found.create, [i for i, _ in found.drain]) == (1, ["b"])
    patient = dataclasses.replace(dying, restarts=MAX_RESTARTS + 1)
    assert plan(deployment, [a_replica("a"), patient]).drain == ()
    later = plan(deployment, [a_replica("a"), patient], now=NOW + timedelta(seconds=120))
    assert [i for i, _ in later.drain] == ["b"]


def test_before_it_was_ready_the_startup_timeout_decides_instead() -> None:
    starting = a_deployment(state=D.STARTING)
    looping = a_replica("a", state=R.STARTING, restarts=50)
    assert plan(starting, [looping, a_replica("b")]).drain == ()


def test_a_revision_that_needs_no_restart_is_taken_over_in_place() -> None:
    deployment = a_deployment(revision=2)
    found = plan(deployment, [a_replica("a"), a_replica("b")], same_process=lambda _: True)
    assert (found.create, found.drain, found.raise_revision) == (0, (), ("a", "b"))


def test_a_new_revision_never_leaves_fewer_replicas_than_desired() -> None:
    deployment = a_deployment(revision=2)
    replicas = [a_replica("a"), a_replica("b")]
    number = 0
    for _ in range(20):
        found = plan(deployment, replicas)
        if not found.create and not found.drain:
            break
        assert sum(r.serves for r in replicas) >= 2
        assert len([r for r in replicas if not r.draining]) <= 3
        for _ in range(found.create):
            number += 1
            replicas.append(a_replica(f"n{number}", revision=2, state=R.STARTING))
        gone = {i for i, _ in found.drain}
        replicas = [r for r in replicas if r.id not in gone]
        replicas = [dataclasses.replace(r, state=R.READY) for r in replicas]
    assert {r.revision for r in replicas} == {2}
    assert len(replicas) == 2


@pytest.mark.parametrize(
    ("state", "replicas", "link", "now_s", "expected"),
    [
        (D.PENDING, [], NodeLink(False), 0, D.PENDING),
        (D.PENDING, [], LINKED, 0, D.STARTING),
        (D.STARTING, [R.STARTING, R.STARTING], LINKED, 59.9, D.STARTING),
        (D.STARTING, [R.STARTING, R.STARTING], LINKED, 60, D.FAILED),
        (D.STARTING, [R.READY, R.STARTING], LINKED, 60, D.FAILED),
        (D.STARTING, [R.STARTING, R.STARTING], NodeLink(False), 3600, D.STARTING),
        (D.STARTING, [R.STARTING, R.STARTING], NodeLink(True, NOW + timedelta(seconds=50)), 100, D.STARTING),
        (D.STARTING, [R.READY, R.READY], LINKED, 1, D.WARMING),
        (D.WARMING, [R.READY, R.READY], LINKED, 1, D.READY),
        (D.READY, [R.READY, R.READY], LINKED, 1, D.READY),
        (D.READY, [R.READY, R.UNHEALTHY], LINKED, 1, D.DEGRADED),
        (D.READY, [], LINKED, 1, D.DEGRADED),
        (D.DEGRADED, [R.READY, R.READY], LINKED, 1, D.READY),
        (D.READY, [R.READY, R.READY], NodeLink(False), 1, D.READY),
    ],
)
def test_the_state_follows_from_the_replicas(
    state: D, replicas: list[R], link: NodeLink, now_s: float, expected: D
) -> None:
    rows = [a_replica(str(i), state=s) for i, s in enumerate(replicas)]
    change = state_of(a_deployment(state=state), rows, link, NOW + timedelta(seconds=now_s))
    assert change.state is expected
    if expected in (D.FAILED, D.DEGRADED):
        assert change.reason


def test_replicas_that_answer_but_are_not_warm_make_it_warming() -> None:
    cold = [a_replica("a", warmed=False), a_replica("b", warmed=False)]
    change = state_of(a_deployment(state=D.STARTING), cold, LINKED, NOW + timedelta(seconds=1))
    assert change.state is D.WARMING
    again = state_of(a_deployment(state=D.WARMING), cold, LINKED, NOW + timedelta(seconds=1))
    assert (again.state, again.look_again_s) == (D.WARMING, 59.0)


@pytest.mark.parametrize(
    ("running", "in_flight", "expected"),
    [(1, 0.0, 1), (1, 4.0, 1), (1, 4.1, 2), (2, 4.0, 2), (2, 3.5, 1), (4, 100.0, 5), (5, 0.0, 1), (3, 8.0, 3)],
)
def test_the_load_asks_for_replicas_at_once_and_lets_go_of_them_slowly(
    running: int, in_flight: float, expected: int
) -> None:
    scaling = Scaling(1, 1, 5, target_in_flight=4.0)
    assert load_replicas(scaling, running, Load(in_flight, 100, 30)) == expected


# Configuration


def test_a_configuration_survives_its_stored_form() -> None:
    config = DeploymentConfig(
        Resources(0.5, 256),
        Scaling(3, 1, 5, 2.5),
        HealthCheck(0.5, 0.2, 2, 2, 5),
        monitoring=MonitoringConfig(DriftDetection(False, "psi", 0.3, scales=(1, 2)), sample_bp=5),
    )
    assert config_from_json(config_to_json(config)) == config
    assert config_from_json({}) == DeploymentConfig()
    plan = RolloutPlan(RolloutStrategy.CANARY, (RolloutStep(500, 3, True), RolloutStep(5000)), auto_promote=True)
    assert plan_from_json(plan_to_json(plan)) == plan


def test_every_bad_field_of_a_configuration_is_named() -> None:
    config = DeploymentConfig(
        Resources(0, -1),
        Scaling(0, 2, 1),
        HealthCheck(0.01, 0, 0, 0, 0),
        monitoring=MonitoringConfig(DriftDetection(method="magic", window_size=99, scales=(4, 1)), sample_bp=10_001),
    )
    found = {v.field.removeprefix("config.") for v in configuration.config_problems(config, Stage.PRODUCTION)}
    assert found == {
        "resources.cpu_cores",
        "resources.memory_mib",
        "scaling.replicas",
        "scaling.min_replicas",
        "health_check.interval_s",
        "health_check.timeout_s",
        "health_check.failure_threshold",
        "health_check.success_threshold",
        "health_check.startup_timeout_s",
        "monitoring.drift_detection.method",
        "monitoring.drift_detection.window_size",
        "monitoring.drift_detection.scales",
        "monitoring.sample_bp",
    }
    for stage in Stage:
        assert configuration.config_problems(DeploymentConfig(), stage) == []
        assert configuration.plan_problems(RolloutPlan.default(stage), stage) == []


def test_every_bad_part_of_a_plan_is_named() -> None:
    plan = RolloutPlan(
        RolloutStrategy.CANARY,
        (RolloutStep(5000), RolloutStep(0, -1), RolloutStep(10_001)),
        (Criterion("", "<", float("nan"), 0),),  # type: ignore[arg-type]
        max_wait_s=0,
        auto_promote=True,
    )
    assert [v.field for v in configuration.plan_problems(plan, Stage.PRODUCTION)] == [
        "plan.criteria[0].metric",
        "plan.criteria[0].bound",
        "plan.criteria[0].min_sample",
        "plan.steps[1].weight_bp",
        "plan.steps[1].min_duration_s",
        "plan.steps[2].weight_bp",
        "plan.steps",
        "plan.max_wait_s",
        "plan.auto_promote",
    ]
