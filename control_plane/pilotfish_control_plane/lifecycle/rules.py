"""When rules fire and what follows. Pure: evidence and time are passed in, nothing is read or written."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from cronsim import CronSim, CronSimError

from pilotfish.errors import Violation
from pilotfish_control_plane.lifecycle.model import (
    ACTION_TYPES,
    PHASES,
    TRIGGER_TYPES,
    Condition,
    FiringState,
    Migration,
    Phase,
    Rule,
    RuleAction,
    RuleTrigger,
    Watch,
)

__all__ = [
    "COMPARISONS",
    "advance_watch",
    "check_migration",
    "check_rule",
    "condition_failure",
    "crossed",
    "ended_state",
    "next_slot",
    "phases_of",
    "postponed",
    "reduction_due",
]

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# What is measured of a deployment, as monitoring names it.
METRICS = (
    "error_ratio", "latency_mean_ms", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "prediction_count",
    "drift_score", "prediction_drift_score", "drifted", "label_count", "label_coverage", "accuracy", "precision",
    "recall", "f1_score", "roc_auc", "mae", "rmse", "r2",
)  # fmt: skip
STAGES = ("development", "staging", "canary", "production")


class Measured(Protocol):
    """A metric with its sample."""

    @property
    def value(self) -> float | None:
        """None: there is none."""
        ...

    @property
    def n(self) -> int:
        """Observations behind it."""
        ...


Evidence = Mapping[str, Measured]


def next_slot(cron: str, after: datetime) -> datetime:
    """Return the first time of a schedule after a time, UTC."""
    return next(CronSim(cron, after.astimezone(UTC)))


def check_rule(rule: Rule) -> list[Violation]:
    """Return everything that is wrong with a rule in itself; whether its targets exist is told elsewhere."""
    found: list[Violation] = []
    if not rule.triggers:
        found.append(Violation("rule.triggers", "there is none; give at least one"))
    if not rule.actions:
        found.append(Violation("rule.actions", "there is none; give at least one"))
    if not (math.isfinite(rule.cooldown_s) and rule.cooldown_s >= 0):
        found.append(Violation("rule.cooldown_s", f"{rule.cooldown_s:g} is not a number of seconds, 0 or more"))
    for i, trigger in enumerate(rule.triggers):
        found += [dataclasses.replace(v, field=f"rule.triggers[{i}].{v.field}") for v in _check_trigger(trigger)]
    for i, condition in enumerate(rule.conditions):
        if condition.metric not in (*METRICS, "hour_of_day"):
            found.append(Violation(f"rule.conditions[{i}].metric", _unknown(condition.metric, "hour_of_day")))
        if condition.comparison not in COMPARISONS:
            found.append(Violation(f"rule.conditions[{i}].comparison", "is not set"))
        if not math.isfinite(condition.bound):
            found.append(Violation(f"rule.conditions[{i}].bound", f"{condition.bound:g} is no finite number"))
        if condition.min_sample < 1:
            found.append(Violation(f"rule.conditions[{i}].min_sample", "must be at least 1"))
    for i, action in enumerate(rule.actions):
        found += [dataclasses.replace(v, field=f"rule.actions[{i}].{v.field}") for v in _check_action(action, rule)]
    return found


def _check_trigger(trigger: RuleTrigger) -> list[Violation]:
    found: list[Violation] = []
    if trigger.type not in TRIGGER_TYPES:
        return [Violation("type", f"{trigger.type!r} is not one of {', '.join(TRIGGER_TYPES)}")]
    found += [
        Violation("stages", f"{s!r} is not one of {', '.join(STAGES)}") for s in trigger.stages if s not in STAGES
    ]
    if trigger.confirmations < 1:
        found.append(Violation("confirmations", "must be at least 1"))
    if trigger.min_sample < 1:
        found.append(Violation("min_sample", "must be at least 1"))
    if trigger.type == "performance_degradation":
        if trigger.metric not in METRICS:
            words = f"performance_degradation needs the metric to watch: {_unknown(trigger.metric)}"
            found.append(Violation("metric", words))
        if trigger.comparison not in COMPARISONS:
            found.append(
                Violation("comparison", "performance_degradation needs how a good value compares with the threshold")
            )
    if trigger.type in ("performance_degradation", "data_drift") and not math.isfinite(trigger.threshold):
        found.append(Violation("threshold", f"{trigger.threshold:g} is no finite number"))
    if trigger.type == "error_rate_increase" and not 0 < trigger.threshold < 1:
        found.append(Violation("threshold", f"{trigger.threshold:g} is not an error ratio between 0 and 1"))
    if trigger.type == "schedule":
        # The parser would take a sixth field, seconds.
        if len(trigger.cron.split()) != 5:
            return [*found, Violation("cron", f"{trigger.cron!r} is no cron expression of five fields")]
        try:
            CronSim(trigger.cron, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            found.append(Violation("cron", f"{trigger.cron!r} is no cron expression of five fields: {error}"))
    return found


def _unknown(metric: str, *more: str) -> str:
    what = f"{metric!r} is not measured" if metric else "is empty"
    return f"{what}; use one of {', '.join((*METRICS, *more))}"


def _check_action(action: RuleAction, rule: Rule) -> list[Violation]:
    if action.type not in ACTION_TYPES:
        return [Violation("type", f"{action.type!r} is not one of {', '.join(ACTION_TYPES)}")]
    needs = {
        "retrain_model": ("pipeline",),
        "scale_deployment": ("replicas",),
        "update_traffic_allocation": ("weights",),
    }.get(action.type, ())
    found = [Violation(f"parameters.{n}", f"{action.type} needs it") for n in needs if n not in action.parameters]
    only_schedule = bool(rule.triggers) and all(t.type == "schedule" for t in rule.triggers)
    targets = {
        "rollback_deployment": "deployment",
        "scale_deployment": "deployment",
        "update_traffic_allocation": "endpoint",
    }
    target = targets.get(action.type)
    if target and only_schedule and target not in action.parameters:
        found.append(Violation(f"parameters.{target}", "a schedule triggers for no deployment: name the target"))
    return found


def crossed(trigger: RuleTrigger, evidence: Evidence) -> tuple[bool, float, int] | None:
    """Tell whether a metric trigger's evidence is bad, with its value and sample; None: too little to tell."""
    metric = "error_ratio" if trigger.type == "error_rate_increase" else trigger.metric
    measured = evidence.get(metric)
    if measured is None or measured.value is None or math.isnan(measured.value) or measured.n < trigger.min_sample:
        return None
    if trigger.type == "error_rate_increase":
        return measured.value > trigger.threshold, measured.value, measured.n
    good = COMPARISONS[trigger.comparison](measured.value, trigger.threshold)
    return not good, measured.value, measured.n


def advance_watch(watch: Watch, trigger: RuleTrigger, bad: bool, mark: str) -> tuple[Watch, FiringState | None]:
    """Return how a metric trigger stands after new evidence, and what its firing becomes.

    Args:
        watch: before.
        trigger: whose it is.
        bad: what the evidence says.
        mark: what the evidence rests on; the same mark again says nothing new.
    """
    if mark == watch.seen:
        return watch, None
    if not bad:
        state = FiringState.LAPSED if watch.open and watch.hits < trigger.confirmations else None
        return dataclasses.replace(watch, open=False, hits=0, seen=mark), state
    if not watch.open:
        begun = dataclasses.replace(watch, open=True, number=watch.number + 1, hits=1, seen=mark)
        return begun, FiringState.CONFIRMED if trigger.confirmations <= 1 else FiringState.SUSPECTED
    hits = watch.hits + 1
    state = FiringState.CONFIRMED if hits == trigger.confirmations else None
    return dataclasses.replace(watch, hits=hits, seen=mark), state


def condition_failure(conditions: Sequence[Condition], evidence: Evidence, now: datetime) -> str:
    """Return why a condition does not hold, in words; empty: all hold. No data never holds."""
    for c in conditions:
        if c.metric == "hour_of_day":
            value, n = float(now.astimezone(UTC).hour), c.min_sample
        else:
            measured = evidence.get(c.metric)
            if measured is None or measured.value is None or math.isnan(measured.value):
                return f"condition {c.metric} {c.comparison} {c.bound:g}: nothing was measured"
            value, n = measured.value, measured.n
        if n < c.min_sample:
            return f"condition {c.metric} {c.comparison} {c.bound:g}: {n} observations, {c.min_sample} are needed"
        if not COMPARISONS[c.comparison](value, c.bound):
            return f"condition {c.metric} {c.comparison} {c.bound:g} does not hold: it is {value:g}"
    return ""


def ended_state(outcomes: Sequence[bool], total: int) -> FiringState:
    """Return how a firing ends by its actions' outcomes; fewer than `total` mean that some were not performed."""
    if outcomes and all(outcomes) and len(outcomes) == total:
        return FiringState.DONE
    return FiringState.PARTIAL if any(outcomes) else FiringState.FAILED


# Retirement ---------------------------------------------------------------------------------------------------


def phases_of(day: datetime) -> tuple[Phase, ...]:
    """Return the four phases with their dates."""
    return tuple(Phase(name, day - timedelta(days=days)) for name, days, _ in PHASES)


def postponed(phases: Sequence[Phase], day: datetime) -> tuple[Phase, ...]:
    """Return the phases with another day: dates of phases that have begun stay."""
    return tuple(
        p if p.started is not None else dataclasses.replace(p, due=day - timedelta(days=days))
        for p, (_, days, _) in zip(phases, PHASES, strict=True)
    )


def reduction_due(migration: Migration, phase: Phase, after: Phase, now: datetime) -> int | None:
    """Return what is left to the retiring one now, basis points: the reduction's steps are spread evenly."""
    steps = migration.reduction_steps_bp
    if not steps:
        return None
    span = (after.due - phase.due).total_seconds()
    gone = (now - phase.due).total_seconds() / span if span > 0 else 1.0
    index = min(len(steps) - 1, max(0, int(gone * len(steps))))
    return steps[index]


def check_migration(migration: Migration) -> list[Violation]:
    """Return everything that is wrong with a migration plan in itself."""
    steps = migration.reduction_steps_bp
    found: list[Violation] = []
    if any(not 0 <= s <= 10_000 for s in steps):
        found.append(Violation("migration_plan.reduction_steps_bp", "a share is between 0 and 10000 basis points"))
    if any(b >= a for a, b in itertools.pairwise(steps)):
        found.append(Violation("migration_plan.reduction_steps_bp", "the shares must fall"))
    if migration.replacement_version < 0:
        found.append(Violation("migration_plan.replacement_version", "is negative"))
    return found


# Any: plain JSON.
def details_of(trigger: RuleTrigger, value: float, n: int) -> dict[str, Any]:
    """Return what was seen, for the firing's record."""
    metric = "error_ratio" if trigger.type == "error_rate_increase" else trigger.metric
    return {"trigger": trigger.type, "metric": metric, "value": value, "threshold": trigger.threshold, "n": n}
