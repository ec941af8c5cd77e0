"""Rules, firings and retirement plans on the wire, both ways. Owns the conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf import json_format

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish.v1 import training_pb2
from pilotfish_control_plane.grpc_server.deployments_wire import timestamp
from pilotfish_control_plane.grpc_server.training_wire import (
    BY_SYMBOL,
    COMPARISONS,
    UNSET,
    delivery_from_wire,
    plain,
    struct,
)
from pilotfish_control_plane.lifecycle.model import (
    DEFAULT_STAGES,
    PHASES,
    Condition,
    Firing,
    Migration,
    Plan,
    Rule,
    RuleAction,
    RuleTrigger,
)
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.training.model import Delivery

__all__ = [
    "delivery_from_json",
    "firing_to_wire",
    "migration_from_wire",
    "plan_to_wire",
    "rule_from_wire",
    "rule_to_wire",
]


def rule_from_wire(message: pb.Rule, project: str, rule_id: str, now: datetime) -> Rule:
    """Return a rule as a value; it is checked by the service."""
    triggers = tuple(
        RuleTrigger(
            t.type,
            t.endpoint,
            tuple(t.stages) or DEFAULT_STAGES,
            t.metric,
            COMPARISONS.get(t.comparison, ""),
            t.threshold,
            t.min_sample or 100,
            t.cron,
            t.confirmations or 1,
        )
        for t in message.triggers
    )
    conditions = tuple(
        Condition(c.metric, COMPARISONS.get(c.comparison, ""), c.bound, c.min_sample or 1) for c in message.conditions
    )
    actions = tuple(RuleAction(a.type, plain(a.parameters), a.stop_on_failure) for a in message.actions)
    enabled = message.enabled if message.HasField("enabled") else True
    cooldown = message.cooldown_s if message.HasField("cooldown_s") else 300.0
    return Rule(
        project, rule_id, message.description, triggers, conditions, actions, enabled, cooldown, 0, now, now, ""
    )


def rule_to_wire(rule: Rule) -> pb.Rule:
    """Return a rule in the wire's form."""
    return pb.Rule(
        name=rule.name,
        description=rule.description,
        triggers=[
            pb.RuleTrigger(
                type=t.type,
                endpoint=t.endpoint,
                stages=t.stages,
                metric=t.metric,
                comparison=BY_SYMBOL.get(t.comparison, UNSET),
                threshold=t.threshold,
                min_sample=t.min_sample,
                cron=t.cron,
                confirmations=t.confirmations,
            )
            for t in rule.triggers
        ],
        conditions=[
            pb.RuleCondition(
                metric=c.metric, comparison=BY_SYMBOL.get(c.comparison, UNSET), bound=c.bound, min_sample=c.min_sample
            )
            for c in rule.conditions
        ],
        actions=[
            pb.RuleAction(type=a.type, parameters=struct(a.parameters), stop_on_failure=a.stop_on_failure)
            for a in rule.actions
        ],
        enabled=rule.enabled,
        cooldown_s=rule.cooldown_s,
        revision=rule.revision,
        create_time=timestamp(rule.created),
        update_time=timestamp(rule.updated),
        author=rule.author,
        etag=rule.etag,
    )


def _action_to_wire(action: Action, kind: str) -> pb.ActionExecution:
    return pb.ActionExecution(
        key=action.key,
        type=kind,
        state=f"ACTION_STATE_{action.state.value}",
        attempts=action.attempts,
        result=struct(action.result) if action.result else None,
        error=action.error or "",
        start_time=timestamp(action.started),
        end_time=timestamp(action.finished),
    )


def firing_to_wire(firing: Firing, actions: Sequence[Action]) -> pb.Firing:
    """Return a firing with its actions in the wire's form; those not begun yet are PENDING."""
    message = pb.Firing(
        name=firing.name,
        rule=firing.rule,
        rule_revision=firing.rule_revision,
        deployment=firing.deployment,
        endpoint=firing.endpoint,
        evidence=firing.evidence,
        state=f"FIRING_STATE_{firing.state.name}",
        state_reason=firing.state_reason,
        evidence_details=struct(firing.evidence_details),
        evidence_time=timestamp(firing.evidence_time),
        create_time=timestamp(firing.created),
        act_time=timestamp(firing.acted),
        end_time=timestamp(firing.ended),
        actions=[_action_to_wire(a, a.kind) for a in actions],
    )
    for i in range(len(actions), len(firing.actions)):
        message.actions.add(key=firing.action_key(i), type=firing.actions[i].type, state=pb.ACTION_STATE_PENDING)
    return message


# Any: plain JSON.
def delivery_from_json(value: Mapping[str, Any]) -> Delivery | None:
    """Return a delivery plan given as JSON in the contract's own names.

    Raises:
        InvalidArgument: a field that the contract does not know, or a value of the wrong kind.
    """
    if not value:
        return None
    message = training_pb2.DeliveryPlan()
    try:
        json_format.ParseDict(dict(value), message)
    except json_format.ParseError as error:
        raise InvalidArgument(
            f"the delivery plan cannot be read: {error}",
            violations=[Violation("parameters.delivery", str(error))],
        ) from error
    return delivery_from_wire(message)


def migration_from_wire(message: pb.MigrationPlan) -> Migration:
    """Return a migration plan as a value."""
    return Migration(
        message.replacement_version,
        message.replacement_model,
        tuple(message.reduction_steps_bp) or (5000, 2000),
        tuple(message.notify),
        message.notes,
    )


def plan_to_wire(plan: Plan, actions: Mapping[str, Action]) -> pb.RetirementPlan:
    """Return a plan with the newest action of each step in the wire's form."""
    message = pb.RetirementPlan(
        name=plan.name,
        subject=plan.subject,
        retirement_time=timestamp(plan.retirement),
        migration_plan=pb.MigrationPlan(
            replacement_version=plan.migration.replacement_version,
            replacement_model=plan.migration.replacement_model,
            reduction_steps_bp=plan.migration.reduction_steps_bp,
            notify=plan.migration.notify,
            notes=plan.migration.notes,
        ),
        state=f"RETIREMENT_STATE_{plan.state.name}",
        state_reason=plan.state_reason,
        blockers=plan.blockers,
        create_time=timestamp(plan.created),
        author=plan.author,
        etag=plan.etag,
    )
    for phase, (_, _, steps) in zip(plan.phases, PHASES, strict=True):
        shown = message.phases.add(
            phase=phase.phase,
            due_time=timestamp(phase.due),
            start_time=timestamp(phase.started),
            end_time=timestamp(phase.ended),
        )
        for i, step in enumerate(steps):
            key = plan.step_key(phase.phase, i)
            newest = actions.get(key)
            if newest is not None:
                shown.steps.append(_action_to_wire(newest, step))
            else:
                shown.steps.add(key=key, type=step, state=pb.ACTION_STATE_PENDING)
    return message
