"""How much a single feature tells about the label, as a number from 0 to 1.

Owns the measures behind the leakage check. Pure: arrays in, numbers out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pilotfish_control_plane.trainer.spec import Task

__all__ = ["association", "recovers"]

_MAX_LEVELS = 200


def recovers(values: npt.NDArray[Any], label: npt.NDArray[Any], *, numeric: bool) -> bool:
    """Return whether the feature is the label itself, or a renaming of it: one value for each label and back.

    Continuous numbers are compared directly; codes are compared as a mapping in both directions.

    Args:
        values: shape (rows,); float32 or texts.
        label: shape (rows,).
        numeric: whether `values` are numbers.
    """
    if numeric and label.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            return bool(np.ptp(label) > 0 and np.array_equal(values, label.astype(np.float32)))
    codes, levels = pd.factorize(values, use_na_sentinel=False)
    classes, names = pd.factorize(label)
    if len(levels) != len(names) or len(names) < 2:
        return False
    pairs = len(np.unique(codes.astype(np.int64) * len(names) + classes))
    # With two levels and two classes a 1:1 mapping may be an honest, perfect sign; it is still worth stopping for.
    return pairs == len(names)


def association(values: npt.NDArray[Any], label: npt.NDArray[Any], *, numeric: bool, task: Task) -> float | None:
    """Return how surely the feature alone tells the label: 0 nothing, 1 everything; None where it is not defined.

    Numbers against two classes: |2 AUC - 1|. Numbers against more classes, and categories against numbers: correlation
    ratio (eta squared). Numbers against numbers: squared rank correlation. Categories against classes: the share of
    errors of always guessing the commonest class that knowing the category removes (Goodman and Kruskal's lambda).
    """
    if label.dtype.kind == "f":
        values, label = values[np.isfinite(label)], label[np.isfinite(label)]
    if numeric:
        known = np.isfinite(values)
        values, label = values[known].astype(np.float64), label[known]
        if len(values) < 20 or np.ptp(values) == 0:
            return None
    if task is Task.REGRESSION:
        if np.ptp(label) == 0:
            return None
        return _rank_correlation(values, label) ** 2 if numeric else _eta_squared(label, pd.factorize(values)[0])
    classes, names = pd.factorize(label)
    if len(names) < 2:
        return None
    if not numeric:
        return _lambda(values, classes)
    if len(names) == 2:
        return _auc_strength(values, classes == 1)
    return _eta_squared(np.asarray(pd.Series(values).rank(), dtype=np.float64), classes)


def _auc_strength(values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float:
    ranks = pd.Series(values).rank().to_numpy()
    ones, zeros = int(positive.sum()), int((~positive).sum())
    area = (ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    return abs(2 * float(area) - 1)


def _rank_correlation(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    ranks = [pd.Series(side).rank().to_numpy() for side in (left, right)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _eta_squared(values: npt.NDArray[np.float64], groups: npt.NDArray[np.intp]) -> float | None:
    if len(np.unique(groups)) > max(2, min(_MAX_LEVELS, len(values) // 5)):
        return None  # nearly one group per row explains anything
    total = float(((values - values.mean()) ** 2).sum())
    counts = np.bincount(groups)
    sums = np.bincount(groups, weights=values)
    between = float((counts * (sums / np.maximum(counts, 1) - values.mean()) ** 2).sum())
    return between / total if total > 0 else None


def _lambda(values: npt.NDArray[Any], classes: npt.NDArray[np.intp]) -> float | None:
    codes, levels = pd.factorize(values)
    if len(levels) > max(2, min(_MAX_LEVELS, len(values) // 5)):
        return None
    table = np.zeros((len(levels), int(classes.max()) + 1), dtype=np.int64)
    np.add.at(table, (codes, classes), 1)
    errors = len(classes) - int(table.sum(axis=0).max())
    left = len(classes) - int(table.max(axis=1).sum())
    return 1 - left / errors if errors else None
