"""Rollouts: how a deployment comes into canary or production, step by step.

Owns every move of a rollout and what goes with it: weights, decisions, slots, standings, quarantine. When to move is
decided by `deployments.rules.rollouts`.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.deployments import changes, routing
from pilotfish_control_plane.deployments.creation import Creation
from pilotfish_control_plane.deployments.endings import Endings
from pilotfish_control_plane.deployments.model import FULL_WEIGHT_BP, Deployment, DeploymentState, Endpoint, Stage
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rollout_model import (
    Decision,
    PauseCause,
    Rollout,
    RolloutKind,
    RolloutState,
    RolloutStrategy,
    Verdict,
)
from pilotfish_control_plane.deployments.rules import traffic
from pilotfish_control_plane.deployments.rules.judgement import Judgement, judge
from pilotfish_control_plane.deployments.rules.rollouts import Move, RolloutMove, Subject, decide, judges
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Rolling"]

log = logging.getLogger(__name__)


class Rolling:
    """Moves rollouts; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours, endings: Endings, creation: Creation) -> None:
        """End deployments with `endings`, begin promotions with `creation`."""
        self._neighbours = neighbours
        self._endings = endings
        self._creation = creation

    def advance(self, tx: Tx, rollout: Rollout) -> float | None:
        """Make every move that is due; return in how many seconds to look again, None: when something changes."""
        while True:
            deployment = rows.deployment(tx.conn, rollout.deployment)
            assert deployment is not None
            if rollout.state is RolloutState.ABORTING:
                return self._finish_abort(tx, rollout, deployment)
            judgement = self._judge(tx, rollout, deployment) if judges(rollout) else None
            move = decide(rollout, _subject(deployment), judgement, tx.now)
            if move.move is Move.WAIT:
                return move.look_again_s
            if move.decided and judgement is not None:
                self._decide(tx, rollout, deployment, judgement)
            rollout = self._perform(tx, rollout, deployment, move)
            if not rollout.state.is_open:
                return None

    def _judge(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> Judgement:
        judgement = self._judge_since(tx, rollout, deployment, rollout.step_began)
        grain_s = self._neighbours.monitoring().grain_s
        if judgement.verdict is not Verdict.PASS or rollout.step == 0 or rollout.step_began is None or not grain_s:
            return judgement
        # Evidence is kept in grains, so it reaches back into the step before: enough for a FAIL, but one step's calls
        # must not carry a rollout through all the others.
        return self._judge_since(tx, rollout, deployment, rollout.step_began + timedelta(seconds=grain_s))

    def _judge_since(self, tx: Tx, rollout: Rollout, deployment: Deployment, since: datetime | None) -> Judgement:
        monitoring = self._neighbours.monitoring()
        evidence = monitoring.evidence(tx, deployment.id, since)
        baseline = None
        if any(c.against_baseline for c in rollout.plan.criteria):
            standard = self._production(tx, rollout)
            if standard is not None:
                baseline = monitoring.evidence(tx, standard.id, since)
        return judge(rollout.plan.criteria, evidence, baseline)

    def _decide(self, tx: Tx, rollout: Rollout, deployment: Deployment, judgement: Judgement) -> Decision:
        return changes.add_decision(
            tx,
            Decision(
                rollout.project,
                self._neighbours.new_id("j"),
                judgement.verdict,
                judgement.verdicts,
                rollout.name,
                f"rollouts/{rollout.id}",
                tx.now,
                rollout.id,
                judgement.evidence,
            ),
        )

    def _perform(self, tx: Tx, rollout: Rollout, deployment: Deployment, move: RolloutMove) -> Rollout:
        match move.move:
            case Move.START:
                rollout = changes.enter_rollout(
                    tx, rollout, RolloutState.PROGRESSING, move.reason, step_began=tx.now, wait_began=tx.now
                )
                self._begin_step(tx, rollout, deployment)
                return rollout
            case Move.NEXT_STEP:
                return self.next_step(tx, rollout, deployment)
            case Move.PAUSE:
                return changes.enter_rollout(
                    tx, rollout, RolloutState.PAUSED, move.reason, pause_cause=move.pause_cause
                )
            case Move.SUCCEED:
                return self.succeed(tx, rollout, deployment, move.reason)
            case Move.ABORT:
                return self.abort(tx, rollout, move.reason, quarantine=move.quarantine)
            case Move.WAIT:
                raise AssertionError("waiting is no move")

    def _production(self, tx: Tx, rollout: Rollout) -> Deployment | None:
        """Return the serving production deployment that is not the rollout's own."""
        held = rows.slots_of(tx.conn, rollout.project, rollout.endpoint).get(Stage.PRODUCTION)
        return held if held is not None and held.id != rollout.deployment and held.state.serves else None

    def _endpoint(self, tx: Tx, rollout: Rollout) -> Endpoint:
        endpoint = endpoint_rows.endpoint(tx.conn, rollout.project, rollout.endpoint)
        assert endpoint is not None
        return endpoint

    def _begin_step(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> None:
        """Set the weights of the current step; a canary takes its stage with the first."""
        if rollout.stage is Stage.CANARY:
            self._take_slot(tx, rollout, deployment)
        if rollout.plan.strategy is RolloutStrategy.ALL_AT_ONCE and rollout.stage is Stage.PRODUCTION:
            return
        standard = self._production(tx, rollout)
        weights = traffic.share(
            deployment.id, rollout.plan.steps[rollout.step].weight_bp, None if standard is None else standard.id
        )
        routing.set_weights(tx, self._endpoint(tx, rollout), weights, f"rollout {rollout.id} step {rollout.step + 1}")

    def _take_slot(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> None:
        """Make the deployment the current one of its stage and retire the one before."""
        held = rows.slots_of(tx.conn, rollout.project, rollout.endpoint).get(rollout.stage)
        if held is not None and held.id == deployment.id:
            return
        rows.set_slot(tx.conn, deployment)
        changes.wake_deployment(tx, deployment.id)
        if held is not None:
            keep_s = 0 if rollout.kind is RolloutKind.ROLLBACK else deployment.config.rollback.keep_previous_s
            self._endings.retire(tx, held, f"superseded by {deployment.id}", keep_s)

    def next_step(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> Rollout:
        """Go to the next step; return the rollout."""
        rollout = changes.save_rollout(
            tx, rollout, step=rollout.step + 1, step_began=tx.now, wait_began=tx.now, state_reason=""
        )
        tx.emit("rollout.step", rollout.name, {"step": rollout.step, "deployment": deployment.id})
        self._begin_step(tx, rollout, deployment)
        return rollout

    def succeed(self, tx: Tx, rollout: Rollout, deployment: Deployment, reason: str) -> Rollout:
        """End a PROGRESSING rollout well: production takes all traffic, a canary stays at its last weight."""
        if rollout.stage is Stage.PRODUCTION:
            self._become_production(tx, rollout, deployment)
        rollout = changes.enter_rollout(tx, rollout, RolloutState.SUCCEEDED, reason)
        if rollout.stage is Stage.CANARY and rollout.plan.auto_promote:
            rollout = self._auto_promote(tx, rollout, deployment)
        return rollout

    def _become_production(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> None:
        cause = f"rollout {rollout.id}: {deployment.id} is production"
        # Traffic first: the old one must not be without weight and slot while the new one has neither.
        routing.set_weights(tx, self._endpoint(tx, rollout), ((deployment.id, FULL_WEIGHT_BP),), cause)
        self._take_slot(tx, rollout, deployment)
        self._endings.refresh_standing(tx, deployment)
        source = rows.deployment(tx.conn, rollout.source) if rollout.source else None
        if source is not None and source.stage.is_live and source.state.serves:
            self._endings.end(tx, source, f"{rollout.kind.value}: {deployment.id} took over")

    def _auto_promote(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> Rollout:
        try:
            with tx.savepoint():
                self._creation.promotion(tx, deployment, Stage.PRODUCTION, None, automation=True)
        except FailedPrecondition as refusal:
            log.warning("rollout %s succeeded and was not promoted: %s", rollout.id, refusal)
            return changes.save_rollout(tx, rollout, state_reason=f"succeeded; not promoted: {refusal.message}")
        return rollout

    def abort(
        self,
        tx: Tx,
        rollout: Rollout,
        reason: str,
        *,
        quarantine: bool = False,
        at_once: bool = False,
        cancelled: bool = False,
    ) -> Rollout:
        """Take the weight away and end the deployment.

        Args:
            tx: the transaction.
            rollout: PENDING, PROGRESSING or PAUSED.
            reason: why.
            quarantine: the version is bad: automation may not deploy it here again.
            at_once: end the rollout without waiting for the gateway, because another one must begin.
            cancelled: somebody said so, and nothing speaks against the version.
        """
        deployment = rows.deployment(tx.conn, rollout.deployment)
        assert deployment is not None
        rollout = changes.enter_rollout(tx, rollout, RolloutState.ABORTING, reason, cancelled=cancelled)
        ended = self._endings.end(tx, deployment, f"rollout {rollout.id} was aborted: {reason}")
        if quarantine:
            self._endings.quarantine(tx, deployment, reason)
            self._endings.record_rollback(tx, deployment, self._production(tx, rollout), reason)
        if at_once or self._endings.drained(tx, ended):
            rollout = changes.enter_rollout(tx, rollout, RolloutState.ABORTED, reason)
        return rollout

    def _finish_abort(self, tx: Tx, rollout: Rollout, deployment: Deployment) -> float | None:
        if self._endings.drained(tx, deployment):
            changes.enter_rollout(tx, rollout, RolloutState.ABORTED, rollout.state_reason)
        return None

    def finish(self, tx: Tx, rollout: Rollout, reason: str) -> Rollout:
        """End an ABORTING rollout without waiting for the gateway, because another one must begin."""
        return changes.enter_rollout(tx, rollout, RolloutState.ABORTED, reason)

    def pause(self, tx: Tx, rollout: Rollout, reason: str) -> Rollout:
        """Stay at this step until a person says otherwise."""
        return changes.enter_rollout(
            tx, rollout, RolloutState.PAUSED, reason or f"paused by {tx.actor.name}", pause_cause=PauseCause.PERSON
        )

    def resume(self, tx: Tx, rollout: Rollout, reason: str) -> Rollout:
        """Go on: with the next step after a step that asked for a person, else with the same one.

        Raises:
            FailedPrecondition: it is not PAUSED.
        """
        if rollout.state is not RolloutState.PAUSED:
            raise FailedPrecondition(
                f"rollout {rollout.id} is {rollout.state.value.upper()}: only a PAUSED one is resumed",
                reason="STATE_FORBIDS",
                metadata={"state": rollout.state.value.upper()},
            )
        after_step = rollout.pause_cause is PauseCause.STEP
        rollout = self._go_on(tx, rollout, reason or f"resumed by {tx.actor.name}")
        deployment = rows.deployment(tx.conn, rollout.deployment)
        assert deployment is not None
        if not after_step:
            return rollout
        if rollout.step + 1 == len(rollout.plan.steps):
            return self.succeed(tx, rollout, deployment, rollout.state_reason)
        return self.next_step(tx, rollout, deployment)

    def _go_on(self, tx: Tx, rollout: Rollout, reason: str) -> Rollout:
        return changes.enter_rollout(
            tx, rollout, RolloutState.PROGRESSING, reason, pause_cause=PauseCause.NONE, wait_began=tx.now
        )

    def skip_to_end(self, tx: Tx, rollout: Rollout, reason: str) -> Rollout:
        """Skip the steps that are left: the last weight now, and success.

        Raises:
            FailedPrecondition: its deployment does not serve.
        """
        deployment = rows.deployment(tx.conn, rollout.deployment)
        assert deployment is not None
        if not deployment.state.serves or not rollout.state.can_move:
            raise FailedPrecondition(
                f"rollout {rollout.id} cannot skip its steps: it is {rollout.state.value.upper()} and its deployment "
                f"{deployment.id} is {deployment.state.value.upper()}, which must be READY or DEGRADED",
                reason="STATE_FORBIDS",
            )
        if rollout.state is RolloutState.PENDING:
            began: datetime = tx.now
            rollout = changes.enter_rollout(
                tx, rollout, RolloutState.PROGRESSING, reason, step_began=began, wait_began=began
            )
        elif rollout.state is RolloutState.PAUSED:
            rollout = self._go_on(tx, rollout, reason)
        rollout = changes.save_rollout(tx, rollout, step=len(rollout.plan.steps) - 1, step_began=tx.now)
        self._begin_step(tx, rollout, deployment)
        return self.succeed(tx, rollout, deployment, f"steps skipped by {tx.actor.name}: {reason}")

    def end_for_promotion(self, tx: Tx, deployment: Deployment) -> None:
        """End the deployment's own rollout well, because it is promoted under criteria of its own."""
        rollout = rollout_rows.rollout(tx.conn, deployment.rollout) if deployment.rollout else None
        if rollout is None or not rollout.state.can_move or rollout.state is RolloutState.PENDING:
            return
        if rollout.state is RolloutState.PAUSED:
            rollout = self._go_on(tx, rollout, "promoted")
        changes.enter_rollout(tx, rollout, RolloutState.SUCCEEDED, f"promoted by {tx.actor.name}")


def _subject(deployment: Deployment) -> Subject:
    if deployment.state.has_ended or deployment.state is DeploymentState.DRAINING:
        return Subject.GONE
    return Subject.SERVING if deployment.state.serves else Subject.COMING
