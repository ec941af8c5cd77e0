"""Decides whether a trained model is good enough.

Owns the three verdicts and the rule that no data is never a pass. Pure: numbers in, verdicts out.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pilotfish_control_plane.trainer.comparison import Comparison
from pilotfish_control_plane.trainer.metric_names import METRICS
from pilotfish_control_plane.trainer.spec import ChampionRule, Threshold

__all__ = ["GateEntry", "Verdict", "gate_passed", "judge_champion", "judge_thresholds"]

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Verdict(enum.StrEnum):
    """What one criterion says."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class GateEntry:
    """One criterion and its verdict.

    Attributes:
        metric: what was measured.
        comparison: `>=`, `>`, `<=` or `<`.
        bound: what `value` is compared with.
        value: what was measured on the test rows; None: not defined for them.
        verdict: the decision.
        n: rows it rests on.
        against: `threshold`, or `champion`.
        reason: why, in words.
        evidence: further numbers.
    """

    metric: str
    comparison: str
    bound: float | None
    value: float | None
    verdict: Verdict
    n: int
    against: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def judge_thresholds(
    metrics: Mapping[str, float | None], thresholds: Sequence[Threshold], rows: int, minimum_rows: int
) -> list[GateEntry]:
    """Return a verdict for each threshold.

    Args:
        metrics: values on the test rows.
        thresholds: what must hold.
        rows: number of test rows.
        minimum_rows: with fewer rows every verdict is INCONCLUSIVE.
    """
    return [_judge_threshold(metrics.get(item.metric), item, rows, minimum_rows) for item in thresholds]


def _judge_threshold(value: float | None, threshold: Threshold, rows: int, minimum_rows: int) -> GateEntry:
    least = max(minimum_rows, threshold.min_sample)
    wanted = f"{threshold.comparison} {threshold.bound:g}"
    if value is None:
        verdict, reason = Verdict.INCONCLUSIVE, f"{threshold.metric} is not defined on the {rows} test rows"
    elif rows < least:
        verdict, reason = Verdict.INCONCLUSIVE, f"{rows} test rows are too few, at least {least} are needed"
    elif _OPERATORS[threshold.comparison](value, threshold.bound):
        verdict, reason = Verdict.PASS, f"{threshold.metric} is {value:.6g}, it must be {wanted}"
    else:
        verdict, reason = Verdict.FAIL, f"{threshold.metric} is {value:.6g}, it must be {wanted}"
    return GateEntry(threshold.metric, threshold.comparison, threshold.bound, value, verdict, rows, "threshold", reason)


def judge_champion(
    rule: ChampionRule, metric: str, comparison: Comparison | None, why_not: str, minimum_rows: int, note: str = ""
) -> GateEntry:
    """Return the verdict of the comparison with the champion.

    Args:
        rule: how much better the candidate must be, and how sure.
        metric: what they are compared by.
        comparison: the numbers; None: they could not be compared.
        why_not: why they could not.
        minimum_rows: with fewer common rows the verdict is INCONCLUSIVE.
        note: what else a reader should know, such as which rows were used.
    """
    greater = METRICS[metric].greater_is_better
    sign = ">=" if greater else "<="
    if comparison is None:
        return GateEntry(metric, sign, None, None, Verdict.INCONCLUSIVE, 0, "champion", why_not)
    bound = comparison.champion + (rule.margin if greater else -rule.margin)
    verdict, reason = _judge_difference(rule, comparison, minimum_rows)
    evidence = {
        name: value for name, value in asdict(comparison).items() if name not in ("metric", "candidate", "rows")
    }
    evidence["margin"] = rule.margin
    evidence["require"] = rule.require
    return GateEntry(
        metric,
        sign,
        bound,
        comparison.candidate,
        verdict,
        comparison.rows,
        "champion",
        f"{reason}{f'; {note}' if note else ''}",
        evidence,
    )


def _judge_difference(rule: ChampionRule, found: Comparison, minimum_rows: int) -> tuple[Verdict, str]:
    said = (
        f"{found.metric} is {found.candidate:.6g}, the champion's {found.champion:.6g}; "
        f"better by {found.difference:.6g}, margin {rule.margin:g}"
    )
    if found.rows < minimum_rows:
        return Verdict.INCONCLUSIVE, f"{found.rows} common test rows are too few, at least {minimum_rows} are needed"
    if rule.require == "point":
        # A difference of two floats: 0.9 - 0.8 must still reach a margin of 0.1.
        return (Verdict.PASS if found.difference >= rule.margin - 1e-12 else Verdict.FAIL), said
    if found.low is None or found.high is None:
        return Verdict.INCONCLUSIVE, f"{said}; the difference has no interval on {found.rows} rows"
    said += f", 95 % interval {found.low:.6g} to {found.high:.6g}"
    if found.low >= rule.margin:
        return Verdict.PASS, said
    return (Verdict.FAIL if found.high < rule.margin else Verdict.INCONCLUSIVE), said


def gate_passed(entries: Sequence[GateEntry]) -> bool:
    """Return whether every criterion passed; INCONCLUSIVE is no pass."""
    return all(entry.verdict is Verdict.PASS for entry in entries)
