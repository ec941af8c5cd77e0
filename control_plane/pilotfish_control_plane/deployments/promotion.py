"""Promotion: judge the live deployment, and begin the next stage if it passes.

Owns the order: what forbids a promotion is an error, what the evidence says is an answer.
"""

from __future__ import annotations

from pilotfish.errors import FailedPrecondition, InvalidArgument, Violation
from pilotfish_control_plane.deployments import changes
from pilotfish_control_plane.deployments.commands import PromoteCommand, Promoted
from pilotfish_control_plane.deployments.creation import Creation, Origin
from pilotfish_control_plane.deployments.model import Deployment, Stage
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rolling import Rolling
from pilotfish_control_plane.deployments.rollout_model import Decision, RolloutKind, RolloutState, Verdict
from pilotfish_control_plane.deployments.rules import configuration
from pilotfish_control_plane.deployments.rules.judgement import judge
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Promotion"]


class Promotion:
    """Promotes deployments; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours, creation: Creation, rolling: Rolling) -> None:
        """Judge with the monitoring among `neighbours`, begin with `creation`."""
        self._neighbours = neighbours
        self._creation = creation
        self._rolling = rolling

    def promote(self, tx: Tx, source: Deployment, command: PromoteCommand) -> Promoted:
        """Judge a deployment and, if it passes, begin the deployment of the target stage.

        Raises:
            InvalidArgument: criteria or plan make no sense.
            FailedPrecondition: stage order, state, another rollout, or a readiness check; every reason.
        """
        target = self._target(source, command.target)
        problems = configuration.criteria_problems(command.criteria)
        if command.plan is not None and target.is_live:
            problems += configuration.plan_problems(command.plan, target)
        configuration.check("the promotion", problems)
        own = self._own_rollout(tx, source)
        endpoint = endpoint_rows.endpoint(tx.conn, source.project, source.endpoint)
        assert endpoint is not None
        origin = Origin(RolloutKind.PROMOTE, source, command.automation, own)
        self._creation.check_promotion(tx, endpoint, source, target, origin)
        decision = self._judge(tx, source, command)
        tx.audit(
            "Promote",
            source.name,
            {"stage": source.stage.value},
            {"target": target.value, "verdict": decision.verdict.value, "decision": decision.name},
        )
        if decision.verdict is not Verdict.PASS:
            return Promoted(False, decision)
        self._rolling.end_for_promotion(tx, source)
        deployment, rollout = self._creation.promotion(
            tx, source, target, command.plan, automation=command.automation, own_rollout=own
        )
        return Promoted(True, decision, deployment, rollout)

    def _target(self, source: Deployment, target: Stage | None) -> Stage:
        stages = list(Stage)
        if target is None and source.stage is not Stage.PRODUCTION:
            target = stages[source.stage.rank + 1]
        if target is not None and target.rank <= source.stage.rank:
            later = ", ".join(s.value for s in stages[source.stage.rank + 1 :]) or "none"
            raise FailedPrecondition(
                f"{source.id} is in {source.stage.value} and cannot be promoted to {target.value}; later: {later}",
                reason="STAGE_ORDER",
                violations=[Violation("stage_order", f"later stages: {later}", "STAGE_ORDER")],
            )
        if target is None:
            raise FailedPrecondition(
                f"{source.id} is in production already: there is no later stage", reason="STAGE_ORDER"
            )
        if not source.state.serves:
            raise FailedPrecondition(
                f"{source.id} is {source.state.value.upper()}: only a READY or DEGRADED deployment is promoted",
                reason="STATE_FORBIDS",
                violations=[Violation("state", f"is {source.state.value.upper()}", "STATE_FORBIDS")],
            )
        if source.drain_after is not None:
            raise FailedPrecondition(f"{source.id} was superseded and leaves", reason="STATE_FORBIDS")
        return target

    def _own_rollout(self, tx: Tx, source: Deployment) -> str:
        """Return the id of the source's own running rollout: a promotion under criteria of its own ends it well."""
        rollout = rollout_rows.rollout(tx.conn, source.rollout) if source.rollout else None
        running = (RolloutState.PROGRESSING, RolloutState.PAUSED)
        return rollout.id if rollout is not None and rollout.state in running else ""

    def _judge(self, tx: Tx, source: Deployment, command: PromoteCommand) -> Decision:
        monitoring = self._neighbours.monitoring()
        evidence = monitoring.evidence(tx, source.id, None)
        baseline = None
        if any(c.against_baseline for c in command.criteria):
            held = rows.slots_of(tx.conn, source.project, source.endpoint).get(Stage.PRODUCTION)
            if held is not None and held.state.serves:
                baseline = monitoring.evidence(tx, held.id, source.ready)
        if not command.criteria:
            raise InvalidArgument("a promotion needs criteria", violations=[Violation("criteria", "empty", "REQUIRED")])
        judgement = judge(command.criteria, evidence, baseline)
        return changes.add_decision(
            tx,
            Decision(
                source.project,
                self._neighbours.new_id("j"),
                judgement.verdict,
                judgement.verdicts,
                source.name,
                tx.actor.name,
                tx.now,
                "",
                judgement.evidence,
            ),
        )
