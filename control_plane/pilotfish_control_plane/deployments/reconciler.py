"""The loops that bring about what the rows say.

Owns when each deployment and rollout is looked at; one that fails holds up no other. What follows from what is seen is
decided in `deployments.rules`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from pilotfish_control_plane.deployments import changes
from pilotfish_control_plane.deployments.attaching import unclaimed
from pilotfish_control_plane.deployments.attachment import Attachment
from pilotfish_control_plane.deployments.model import Deployment, DeploymentState, LinkState, Replica
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rules.replicas import (
    Load,
    NodeLink,
    load_replicas,
    plan_replicas,
    state_of,
)
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.fleet.model import LOCAL_NODE
from pilotfish_control_plane.storage import attachments as attachment_rows
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.faults import is_retryable
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["DeploymentReconciler", "LoadReconciler", "RolloutReconciler"]

log = logging.getLogger(__name__)

MEMBERS_TOPIC = "fleet.members"
LOAD_SPAN_S = 30.0
LOAD_EVERY_S = 5.0


class _Soonest:
    """The shortest of several waits."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def add(self, seconds: float | None) -> None:
        if seconds is not None:
            self.seconds = seconds if self.seconds is None else min(self.seconds, seconds)


def _alone(tx: Tx, what: str, step: Callable[[], float | None]) -> float | None:
    """Run a step so that its failure undoes only what it did itself."""
    try:
        with tx.savepoint():
            return step()
    except Exception as error:
        if is_retryable(error):
            # The whole transaction is doomed, not this step: the database runs it again.
            raise
        log.exception("%s could not be moved on; the others go on, it is tried again", what)
        return 5.0


class DeploymentReconciler:
    """Creates, replaces and drains replicas; moves deployments through their states."""

    name = "deployments"
    topics: Sequence[str] = (changes.TOPIC, MEMBERS_TOPIC)

    def __init__(self, service: DeploymentService) -> None:
        """Move the deployments of `service`."""
        self._service = service

    def reconcile(self, tx: Tx) -> float | None:
        """Move every deployment on that has not ended."""
        soonest, link = _Soonest(), node_link(tx)
        standing = rows.open_deployments(tx.conn)
        replicas = replica_rows.replicas_of(tx.conn, [d.id for d in standing])
        for deployment in standing:
            # Most have nothing to do, and a transaction that many wait for must not ask about each of them.
            settled, look_again_s = _settled(deployment, replicas[deployment.id], link, tx.now)
            soonest.add(look_again_s)
            if not settled:
                soonest.add(_alone(tx, deployment.name, lambda d=deployment: self._step(tx, d.id, link)))  # type: ignore[misc]
        return soonest.seconds

    def _step(self, tx: Tx, deployment_id: str, link: NodeLink) -> float | None:
        # An earlier step of this transaction may have changed it.
        deployment = self._service.get(tx, deployment_id)
        if deployment.state.has_ended:
            return None
        if deployment.state is DeploymentState.DRAINING:
            self._service.endings.go_on_draining(tx, deployment)
            return None
        if deployment.drain_after is not None:
            left_s = (deployment.drain_after - tx.now).total_seconds()
            if left_s <= 0:
                self._service.endings.end(tx, deployment, "was kept warm long enough")
                return 0.0
            return self._keep(tx, deployment, link, left_s)
        return self._keep(tx, deployment, link, None)

    def _keep(self, tx: Tx, deployment: Deployment, link: NodeLink, left_s: float | None) -> float | None:
        soonest = _Soonest()
        soonest.add(left_s)
        replicas = self._fill(tx, deployment)
        deployment = self._service.get(tx, deployment.id)
        while True:
            change = state_of(deployment, replicas, link, tx.now)
            if change.state is deployment.state:
                if change.reason != deployment.state_reason and not deployment.drain_after:
                    changes.save_deployment(tx, deployment, state_reason=change.reason)
                soonest.add(change.look_again_s)
                return soonest.seconds
            if change.state is DeploymentState.FAILED:
                self._fail(tx, deployment, change.reason)
                return soonest.seconds
            warmed = change.state is DeploymentState.READY and deployment.state is DeploymentState.WARMING
            if warmed and not self._service.endings.reachable(tx, deployment):
                # READY means that callers reach it: the gateway must have its routes.
                return soonest.seconds
            deployment = changes.enter_deployment(tx, deployment, change.state, change.reason)
            if deployment.state is DeploymentState.WARMING:
                generation = changes.touch_node(tx)
                deployment = changes.save_deployment(tx, deployment, gateway_generation=generation)
            if deployment.state is DeploymentState.READY:
                soonest.add(self._became_ready(tx, deployment))
                deployment = self._service.get(tx, deployment.id)
                if not deployment.state.serves:
                    return soonest.seconds

    def _fill(self, tx: Tx, deployment: Deployment) -> list[Replica]:
        """Create, raise and drain replicas as planned; return those that have not ended."""
        replicas = replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id]

        def same_process(number: int) -> bool:
            revision = rows.revision(tx.conn, deployment.id, number)
            return revision is not None and revision.config.resources == deployment.config.resources

        plan = plan_replicas(deployment, replicas, same_process, tx.now)
        for replica in (r for r in replicas if r.id in plan.raise_revision):
            changes.save_replica(tx, replica, revision=deployment.revision)
        for replica_id, reason in plan.drain:
            self._service.endings.drain_replica(tx, deployment, replica_id, reason)
        self._create(tx, deployment, plan.create)
        if plan.create or plan.drain or plan.raise_revision:
            changes.touch_node(tx)
            return replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id]
        return replicas

    def _create(self, tx: Tx, deployment: Deployment, count: int) -> None:
        if not count:
            return
        attachments = iter(self._unclaimed(tx, deployment) if deployment.attached else ())
        first = deployment.next_replica
        changes.save_deployment(tx, deployment, next_replica=first + count)
        for number in range(first, first + count):
            replica = Replica(
                deployment.project,
                deployment.endpoint,
                deployment.id,
                f"{deployment.id}-{number}",
                deployment.revision,
                "" if deployment.attached else LOCAL_NODE,
                tx.now,
            )
            if (attachment := next(attachments, None)) is not None:
                replica = dataclasses.replace(
                    replica,
                    instance=attachment.instance,
                    grpc_address=attachment.grpc_address,
                    http_address=attachment.http_address,
                )
            replica_rows.add_replica(tx.conn, replica)
            changes.touch_bindings(tx, [replica.id])
            tx.emit("replica.starting", replica.name, {"deployment": deployment.id, "revision": deployment.revision})

    def _unclaimed(self, tx: Tx, deployment: Deployment) -> list[Attachment]:
        """Return what serves the deployment's version and has no replica of it yet."""
        known = attachment_rows.attachments_at(tx.conn, deployment.project, deployment.endpoint)
        replicas = replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id]
        return unclaimed([a for a in known if a.version == deployment.version], replicas)

    def _fail(self, tx: Tx, deployment: Deployment, reason: str) -> None:
        rollout = self._service.open_rollout_of(tx, deployment)
        self._service.endings.end(tx, deployment, reason)
        if rollout is not None:
            self._service.rolling.advance(tx, rollout)

    def _became_ready(self, tx: Tx, deployment: Deployment) -> float | None:
        """Take the stage from the one before, or go on with the rollout; return when to look again."""
        if deployment.stage.is_live:
            rollout = self._service.open_rollout_of(tx, deployment)
            if rollout is not None:
                return self._service.rolling.advance(tx, rollout)
            self._service.endings.refresh_standing(tx, deployment)
            return None
        held = self._service.current(tx, deployment.project, deployment.endpoint, deployment.stage)
        if held is not None and held.id != deployment.id and held.number < deployment.number:
            rows.set_slot(tx.conn, deployment)
            keep_s = deployment.config.rollback.keep_previous_s
            self._service.endings.retire(tx, held, f"superseded by {deployment.id}", keep_s)
        return None


def _settled(
    deployment: Deployment, replicas: Sequence[Replica], link: NodeLink, now: datetime
) -> tuple[bool, float | None]:
    """Return whether a deployment has nothing to do, and in how many seconds that may change."""
    if not deployment.state.serves or any(r.revision != deployment.revision for r in replicas):
        return False, None
    left_s = None if deployment.drain_after is None else (deployment.drain_after - now).total_seconds()
    if left_s is not None and left_s <= 0:
        return False, None
    plan = plan_replicas(deployment, replicas, lambda _: True, now)
    change = state_of(deployment, replicas, link, now)
    same = change.state is deployment.state and (change.reason == deployment.state_reason or left_s is not None)
    return same and not plan.create and not plan.drain, left_s


class RolloutReconciler:
    """Judges rollouts when evidence comes, and moves them on."""

    name = "rollouts"
    topics: Sequence[str] = (changes.ROLLOUT_TOPIC,)

    def __init__(self, service: DeploymentService) -> None:
        """Move the rollouts of `service`."""
        self._service = service

    def reconcile(self, tx: Tx) -> float | None:
        """Move every unfinished rollout on."""
        soonest = _Soonest()
        for rollout in rollout_rows.open_rollouts(tx.conn):

            def step(rollout_id: str = rollout.id) -> float | None:
                current = rollout_rows.rollout(tx.conn, rollout_id)
                if current is None or not current.state.is_open:
                    return None
                return self._service.rolling.advance(tx, current)

            soonest.add(_alone(tx, rollout.name, step))
        return soonest.seconds


class LoadReconciler:
    """Scales deployments by load, where their configuration says so."""

    name = "load"
    topics: Sequence[str] = ()

    def __init__(self, neighbours: Neighbours) -> None:
        """Ask the monitoring among `neighbours` for the load."""
        self._neighbours = neighbours

    def reconcile(self, tx: Tx) -> float | None:
        """Set the number of replicas that the load asks for."""
        scaled = [d for d in rows.open_deployments(tx.conn) if d.config.scaling.target_in_flight > 0]
        for deployment in (d for d in scaled if d.state.serves):
            _alone(tx, deployment.name, lambda d=deployment: self._scale(tx, d))  # type: ignore[misc]
        return LOAD_EVERY_S if scaled else None

    def _scale(self, tx: Tx, deployment: Deployment) -> None:
        since = tx.now - timedelta(seconds=LOAD_SPAN_S)
        evidence = self._neighbours.monitoring().evidence(tx, deployment.id, since)
        calls, latency = evidence.get("prediction_count"), evidence.get("latency_mean_ms")
        count = 0.0 if calls is None or calls.value is None else calls.value
        mean_s = 0.0 if latency is None or latency.value is None else latency.value / 1000
        # Little's law: calls in flight = arrivals per second times seconds in the server.
        load = Load(count / LOAD_SPAN_S * mean_s, int(count), LOAD_SPAN_S)
        wanted = load_replicas(deployment.config.scaling, deployment.desired_replicas, load)
        if wanted == deployment.desired_replicas:
            return
        scaled = changes.save_deployment(tx, deployment, load_replicas=wanted)
        payload = {"replicas": wanted, "before": deployment.desired_replicas, "in_flight": load.in_flight}
        tx.emit("deployment.scaled", scaled.name, payload)


def node_link(tx: Tx, node: str = LOCAL_NODE) -> NodeLink:
    """Return how the stream of a node stands."""
    member = fleet_rows.member(tx.conn, node)
    # A control plane that died cannot say that its streams are gone.
    if member is None or member.server not in fleet_rows.living_servers(tx.conn, tx.now):
        return NodeLink(False)
    return NodeLink(member.link is LinkState.CONNECTED, member.connected)
