"""Compares two models on the same rows: how large the difference is, how sure it is, how often one alone is right.

Owns the paired statistics behind the champion's verdict. Pure: arrays and a generator in, numbers out. Every difference
is signed so that more than 0 means that the candidate is better, whatever the metric's direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotfish_control_plane.trainer.metric_names import METRICS

__all__ = ["Comparison", "Scored", "compare", "mcnemar_p"]

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_RESAMPLES_SLOW = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One model's answers, and how to compute the metric on some of the rows.

    Attributes:
        label: answers, shape (rows,).
        row_scores: what the metric is the mean of, by row; None when it is not a mean over rows.
        metric: the metric on the rows of an index array; None where it is not defined.
    """

    label: npt.NDArray[Any]
    row_scores: Floats | None
    metric: Callable[[npt.NDArray[np.intp]], float | None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate against champion on the same rows.

    Attributes:
        candidate: the candidate's value of the metric.
        champion: the champion's value.
        difference: by how much the candidate is better, in the metric's unit.
        low: lower end of the 95 % interval of the difference, by a paired bootstrap.
        high: upper end.
        only_candidate: rows where only the candidate is right (classes), or is closer (numbers).
        only_champion: rows where only the champion is.
        p: probability of a split this uneven if both were equally good (exact McNemar, or sign test); 1 without any.
        rows: rows compared.
    """

    metric: str
    candidate: float
    champion: float
    difference: float
    low: float | None
    high: float | None
    only_candidate: int
    only_champion: int
    p: float
    rows: int


def compare(
    metric: str,
    candidate: Scored,
    champion: Scored,
    wins: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> Comparison | None:
    """Return the comparison; None when the metric is not defined for one of them.

    Args:
        metric: its name.
        candidate: the new model's answers.
        champion: the answers of the version in charge, for the same rows.
        wins: by row 1 where only the candidate is right or closer, -1 where only the champion is, else 0.
        generator: draws the resamples.
    """
    rows = len(wins)
    every = np.arange(rows)
    values = (candidate.metric(every), champion.metric(every)) if rows else (None, None)
    if values[0] is None or values[1] is None:
        return None
    sign = 1.0 if METRICS[metric].greater_is_better else -1.0
    low, high = _interval(metric, candidate, champion, rows, sign, generator)
    better, worse = int((wins > 0).sum()), int((wins < 0).sum())
    return Comparison(
        metric=metric,
        candidate=values[0],
        champion=values[1],
        difference=sign * (values[0] - values[1]),
        low=low,
        high=high,
        only_candidate=better,
        only_champion=worse,
        p=mcnemar_p(better, worse),
        rows=rows,
    )


def mcnemar_p(better: int, worse: int) -> float:
    """Return the two-sided p of the exact McNemar test: a fair coin for each row on which the two differ."""
    total = better + worse
    if total == 0:
        return 1.0
    # Logarithms: 0.5 ** 2000 is 0 in a float.
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(min(better, worse) + 1)
    ]
    return min(1.0, 2.0 * math.fsum(math.exp(value) for value in logs))


def _interval(
    metric: str, candidate: Scored, champion: Scored, rows: int, sign: float, generator: np.random.Generator
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of the signed difference."""
    if rows < 2:
        return None, None
    if candidate.row_scores is not None and champion.row_scores is not None:
        found = _resampled_means(metric, candidate.row_scores, champion.row_scores, generator)
    else:
        found = np.asarray(_resampled(candidate, champion, rows, generator))
    if len(found) < _RESAMPLES_SLOW // 2:
        return None, None
    low, high = np.quantile(sign * found, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2]).tolist()
    return low, high


def _resampled_means(metric: str, candidate: Floats, champion: Floats, generator: np.random.Generator) -> Floats:
    rows = len(candidate)
    found = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        drawn = generator.integers(rows, size=rows)
        means = candidate[drawn].mean(), champion[drawn].mean()
        found[index] = math.sqrt(means[0]) - math.sqrt(means[1]) if metric == "rmse" else means[0] - means[1]
    return found


def _resampled(candidate: Scored, champion: Scored, rows: int, generator: np.random.Generator) -> list[float]:
    found = []
    for _ in range(_RESAMPLES_SLOW):
        drawn = generator.integers(rows, size=rows)
        values = candidate.metric(drawn), champion.metric(drawn)
        if values[0] is not None and values[1] is not None:
            found.append(values[0] - values[1])
    return found
