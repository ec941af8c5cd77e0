"""What evidence says about criteria: PASS, FAIL or INCONCLUSIVE, and why.

Owns the only judge: promotions, rollouts and gates all call it. No data is never a pass.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pilotfish_control_plane.deployments.rollout_model import (
    Comparison,
    Criterion,
    CriterionVerdict,
    Evidence,
    Measured,
    Verdict,
)

__all__ = ["Judgement", "judge", "verdict_of"]

_HOLDS: Mapping[Comparison, Callable[[float, float], bool]] = {
    Comparison.LESS_THAN: operator.lt,
    Comparison.LESS_THAN_OR_EQUAL: operator.le,
    Comparison.GREATER_THAN: operator.gt,
    Comparison.GREATER_THAN_OR_EQUAL: operator.ge,
}

# A count is its own evidence: that few calls came is known exactly.
_COUNTS = frozenset({"prediction_count", "label_count"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict over all criteria, one verdict per criterion in their order, and the ids of the evidence."""

    verdict: Verdict
    verdicts: tuple[CriterionVerdict, ...]
    evidence: tuple[str, ...]


def judge(criteria: Sequence[Criterion], evidence: Evidence, baseline: Evidence | None = None) -> Judgement:
    """Return what `evidence` says about each of `criteria`.

    Args:
        criteria: what must hold.
        evidence: the metrics of the deployment that is judged.
        baseline: the metrics of the production deployment over the same time; None: there is none.
    """
    verdicts = tuple(_judge_one(c, evidence, baseline) for c in criteria)
    used = [evidence.get(c.metric) for c in criteria]
    used += [(baseline or {}).get(c.metric) for c in criteria if c.against_baseline]
    sources = dict.fromkeys(m.source for m in used if m is not None and m.source)
    return Judgement(verdict_of(verdicts), verdicts, tuple(sources))


def verdict_of(verdicts: Sequence[CriterionVerdict]) -> Verdict:
    """Return FAIL if any fails, else INCONCLUSIVE if any is or there is none, else PASS."""
    found = {v.verdict for v in verdicts}
    if Verdict.FAIL in found:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in found or not found else Verdict.PASS


def _known(measured: Measured | None) -> float | None:
    if measured is None or measured.value is None or not math.isfinite(measured.value):
        return None
    return measured.value


def _judge_one(criterion: Criterion, evidence: Evidence, baseline: Evidence | None) -> CriterionVerdict:
    measured = evidence.get(criterion.metric)
    value, n = _known(measured), measured.n if measured is not None else 0
    base: float | None = None

    def verdict(which: Verdict, why: str) -> CriterionVerdict:
        bound = criterion.bound + (base or 0.0)
        return CriterionVerdict(criterion, which, value, bound, n, base, f"{criterion.metric}: {why}")

    if criterion.against_baseline:
        standard = (baseline or {}).get(criterion.metric)
        base = _known(standard)
        if baseline is None:
            return verdict(Verdict.INCONCLUSIVE, "there is no production deployment to compare with")
        base_n = standard.n if standard is not None else 0
        if base is None or (base_n < criterion.min_sample and criterion.metric not in _COUNTS):
            return verdict(
                Verdict.INCONCLUSIVE,
                f"production has {base_n} observations, {criterion.min_sample} are needed",
            )
    if value is None:
        return verdict(Verdict.INCONCLUSIVE, "nothing was measured yet")
    if n < criterion.min_sample and criterion.metric not in _COUNTS:
        return verdict(Verdict.INCONCLUSIVE, f"{n} observations, {criterion.min_sample} are needed")
    bound = criterion.bound + (base or 0.0)
    holds = _HOLDS[criterion.comparison](value, bound)
    if not holds and criterion.metric in _COUNTS and _is_least(criterion):
        # More calls may still come: too few now is no failure.
        return verdict(Verdict.INCONCLUSIVE, f"{value:g} so far, {criterion.comparison.value} {bound:g} is asked for")
    relation = f"{value:g} {criterion.comparison.value} {bound:g}"
    if holds:
        return verdict(Verdict.PASS, f"{relation} holds with {n} observations")
    return verdict(Verdict.FAIL, f"{relation} does not hold with {n} observations")


def _is_least(criterion: Criterion) -> bool:
    return criterion.comparison in (Comparison.GREATER_THAN, Comparison.GREATER_THAN_OR_EQUAL)
