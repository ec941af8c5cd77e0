"""Rollback: the previous version comes back, the bad one stops and is quarantined.

Owns the choice of what comes back and what happens to a rollout that stands in the way.
"""

from __future__ import annotations

from pilotfish.errors import FailedPrecondition, NotFound
from pilotfish_control_plane.deployments import changes, routing
from pilotfish_control_plane.deployments.commands import RolledBack
from pilotfish_control_plane.deployments.creation import Creation, Origin
from pilotfish_control_plane.deployments.endings import Endings
from pilotfish_control_plane.deployments.model import FULL_WEIGHT_BP, Deployment, DeploymentState, Endpoint, Stage
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rolling import Rolling
from pilotfish_control_plane.deployments.rollout_model import Rollout, RolloutKind, RolloutPlan
from pilotfish_control_plane.registry.model import Version
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Restoring"]

RESTORABLE = ("staging", "production", "deprecated")


class Restoring:
    """Rolls back deployments; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours, creation: Creation, endings: Endings, rolling: Rolling) -> None:
        """Begin what comes back with `creation`, end the bad one with `endings`."""
        self._neighbours = neighbours
        self._creation = creation
        self._endings = endings
        self._rolling = rolling

    def rollback(self, tx: Tx, bad: Deployment, reason: str) -> RolledBack:
        """Bring back what served before `bad` in its stage, and stop `bad`.

        A bad canary loses its weight at once. A bad production deployment serves until the restored one is READY,
        unless its predecessor is still warm: then that one takes the traffic at once.

        Raises:
            FailedPrecondition: it has ended, is being rolled back already, or nothing can come back.
        """
        self._check_state(bad)
        endpoint = self._endpoint(tx, bad)
        rollout = rollout_rows.rollout(tx.conn, endpoint.open_rollout) if endpoint.open_rollout else None
        if rollout is not None and rollout.kind is RolloutKind.ROLLBACK and rollout.source == bad.id:
            raise FailedPrecondition(
                f"{bad.id} is being rolled back already by rollout {rollout.id}",
                reason="ROLLBACK_UNDER_WAY",
                metadata={"rollout": rollout.name, "deployment": rollout.deployment},
            )
        held = rows.slots_of(tx.conn, bad.project, bad.endpoint).get(bad.stage)
        tx.audit("Rollback", bad.name, {"state": bad.state.value, "version": bad.version}, {"reason": reason})
        if held is not None and held.id != bad.id:
            return self._never_mind(tx, rollout, bad, held, reason)
        found = self._previous(tx, endpoint, bad)
        if found is None and bad.stage is not Stage.CANARY:
            raise FailedPrecondition(
                f"{bad.id} cannot be rolled back: no other version was READY in {bad.stage.value} of {bad.endpoint} "
                "that is neither quarantined nor archived; deploy another version instead",
                reason="NO_PREVIOUS_VERSION",
            )
        self._clear_the_way(tx, rollout, bad, reason)
        self._endings.quarantine(tx, bad, reason)
        restored = self._restore(tx, bad, found, reason)
        self._endings.record_rollback(tx, bad, restored, reason)
        stopped = rows.deployment(tx.conn, bad.id)
        assert stopped is not None
        return RolledBack(restored, stopped)

    def _check_state(self, bad: Deployment) -> None:
        if bad.state.has_ended or bad.state is DeploymentState.DRAINING or bad.drain_after is not None:
            raise FailedPrecondition(
                f"{bad.id} is {bad.state.value.upper()} and leaves already: roll back the current deployment, "
                f"{bad.endpoint}/{bad.stage.value}",
                reason="STATE_FORBIDS",
            )

    def _never_mind(
        self, tx: Tx, rollout: Rollout | None, bad: Deployment, held: Deployment, reason: str
    ) -> RolledBack:
        """Take back a deployment that has not taken its stage yet: the current one simply stays."""
        if rollout is not None and rollout.deployment == bad.id and rollout.state.can_move:
            self._rolling.abort(tx, rollout, f"rolled back: {reason}")
        else:
            self._endings.end(tx, bad, f"rolled back: {reason}")
        self._endings.quarantine(tx, bad, reason)
        self._endings.record_rollback(tx, bad, held, reason)
        stopped, restored = rows.deployment(tx.conn, bad.id), rows.deployment(tx.conn, held.id)
        assert stopped is not None
        return RolledBack(restored, stopped)

    def _previous(self, tx: Tx, endpoint: Endpoint, bad: Deployment) -> tuple[Deployment, Version] | None:
        marks = endpoint_rows.quarantines_of(tx.conn, endpoint.project, endpoint.id)
        barred = {bad.version, *(m.version for m in marks)}
        for candidate in rows.restorable(tx.conn, bad, endpoint.created):
            if candidate.version in barred:
                continue
            try:
                version = self._neighbours.registry().get_version(
                    tx, candidate.project, candidate.model, candidate.version
                )
            except NotFound:
                continue
            if version.status.value in RESTORABLE:
                return candidate, version
        return None

    def _clear_the_way(self, tx: Tx, rollout: Rollout | None, bad: Deployment, reason: str) -> None:
        """Abort the unfinished rollout, unless a canary goes and the rollout brings another version to production."""
        if rollout is None or not bad.stage.is_live:
            return
        other = rows.deployment(tx.conn, rollout.deployment)
        assert other is not None
        if bad.stage is Stage.CANARY and other.stage is Stage.PRODUCTION and other.version != bad.version:
            return
        why = f"{bad.id} is rolled back: {reason}"
        if rollout.state.can_move:
            self._rolling.abort(tx, rollout, why, at_once=True)
        else:
            self._rolling.finish(tx, rollout, why)

    def _restore(
        self, tx: Tx, bad: Deployment, found: tuple[Deployment, Version] | None, reason: str
    ) -> Deployment | None:
        if bad.stage is Stage.CANARY:
            self._end(tx, bad, reason)
        endpoint = self._endpoint(tx, bad)
        if found is None or (bad.stage.is_live and endpoint.open_rollout):
            return None
        candidate, version = found
        if bad.stage is Stage.PRODUCTION and candidate.state.serves:
            self._take_over(tx, endpoint, candidate, bad, reason)
            endpoint = self._endpoint(tx, bad)
        before = rollout_rows.rollout(tx.conn, candidate.rollout) if candidate.rollout else None
        plan = before.plan if before is not None and bad.stage is Stage.CANARY else RolloutPlan.default(bad.stage)
        restored, _ = self._creation.begin(
            tx, endpoint, version, bad.stage, candidate.config, plan, Origin(RolloutKind.ROLLBACK, bad)
        )
        return restored

    def _take_over(self, tx: Tx, endpoint: Endpoint, warm: Deployment, bad: Deployment, reason: str) -> None:
        """Give production back to a predecessor that is still warm; the new deployment of it comes after."""
        cause = f"{bad.id} is rolled back to {warm.id}, which is still warm"
        routing.set_weights(tx, endpoint, ((warm.id, FULL_WEIGHT_BP),), cause)
        rows.set_slot(tx.conn, warm)
        warm = changes.save_deployment(tx, warm, drain_after=None, state_reason="took production back")
        self._end(tx, bad, reason)
        self._endings.refresh_standing(tx, warm)

    def _end(self, tx: Tx, bad: Deployment, reason: str) -> None:
        current = rows.deployment(tx.conn, bad.id)
        assert current is not None
        self._endings.end(tx, current, f"rolled back: {reason}")

    def _endpoint(self, tx: Tx, bad: Deployment) -> Endpoint:
        endpoint = endpoint_rows.endpoint(tx.conn, bad.project, bad.endpoint)
        assert endpoint is not None
        return endpoint
