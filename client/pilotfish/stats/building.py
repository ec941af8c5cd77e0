"""Makes profiles from training data: where the bins are cut, which values and levels get one of their own.

It owns the choice of bins. It never compares anything and keeps no rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any  # Any: cells of object columns

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument
from pilotfish.stats.columns import as_levels, as_numbers, checked_columns, holds_numbers, is_missing
from pilotfish.stats.profile import MAX_RARE, FeatureGroup, FeatureKind, FeatureProfile, Profile

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_LEVELS = 50
"""Levels of one feature that can have a bin of their own."""
MIN_LEVEL_ROWS = 5
MIN_LEVEL_SHARE = 0.005
_HUGE = float(np.finfo(np.float64).max)


def build_profile(
    inputs: Mapping[str, npt.ArrayLike],
    outputs: Mapping[str, npt.ArrayLike] | None = None,
    *,
    learned: bool = False,
    max_bins: int = 20,
    kinds: Mapping[str, FeatureKind] | None = None,
) -> Profile:
    """Return the profile of a reference data set.

    Numbers get at most `max_bins` bins at quantiles of the reference, and a value that holds a bin's worth of rows gets
    a bin of its own. Texts are categorical, and so are outputs that look like class labels: bools, and whole numbers
    with at most 50 distinct values.

    Args:
        inputs: name → column, shape (rows,), any dtype; None, NaN and infinities are missing values.
        outputs: name → column of the model's answers; None: outputs are not watched. Take them on held-out rows (their
            number may differ): most models are surer of rows they were trained on than of any other, and that
            difference is drift (a random forest on digits: 40 of 40 clean windows; cross-validated: 0).
        learned: the rows were served, not trained on.
        max_bins: most bins of a numeric feature, 4..1000.
        kinds: name → kind where the choice by dtype is not wanted (an integer code that has no order, for example).

    Raises:
        InvalidArgument: no rows, no columns, columns of one side that differ in length or shape, or max_bins out of
            range.
    """
    if not 4 <= max_bins <= 1000:
        raise InvalidArgument(f"max_bins is {max_bins}, it must be in 4..1000", reason="BAD_MAX_BINS")
    in_columns, _, rows = checked_columns(inputs, {})
    _, out_columns, out_rows = checked_columns({}, outputs or {})
    if (rows == 0 and in_columns) or (out_rows == 0 and out_columns) or not (in_columns or out_columns):
        raise InvalidArgument("a profile needs at least one column with at least one row", reason="EMPTY_REFERENCE")
    chosen = kinds or {}
    features = [
        _feature(name, group, column, max_bins, chosen.get(name))
        for group, columns in ((FeatureGroup.INPUT, in_columns), (FeatureGroup.OUTPUT, out_columns))
        for name, column in columns.items()
    ]
    return Profile(tuple(features), rows if in_columns else out_rows, learned)


def _feature(
    name: str, group: FeatureGroup, column: npt.NDArray[Any], max_bins: int, kind: FeatureKind | None
) -> FeatureProfile:
    if kind is None:
        kind = FeatureKind.NUMERIC if holds_numbers(column) else FeatureKind.CATEGORICAL
        if kind is FeatureKind.NUMERIC and group is FeatureGroup.OUTPUT and _are_labels(column):
            kind = FeatureKind.CATEGORICAL
    if kind is FeatureKind.NUMERIC:
        return _numeric(name, group, column, max_bins)
    return _categorical(name, group, column)


def _are_labels(column: npt.NDArray[Any]) -> bool:
    """Return whether an output of numbers is a class label: whole numbers by type, and few of them."""
    if column.dtype.kind == "O":
        present = [c for c in column.tolist() if not is_missing(c)]
        return all(isinstance(c, (int, np.integer, np.bool_)) for c in present) and len(set(present)) <= MAX_LEVELS
    return column.dtype.kind == "b" or (column.dtype.kind in "iu" and np.unique(column).size <= MAX_LEVELS)


def _numeric(name: str, group: FeatureGroup, column: npt.NDArray[Any], max_bins: int) -> FeatureProfile:
    numbers, unreadable = as_numbers(column)
    values = numbers[~np.isnan(numbers)]
    garbled = 0 if unreadable is None else int(unreadable.sum())
    distinct, counts = np.unique(values, return_counts=True)
    edges, atoms = numeric_bins(distinct, counts, max_bins, whole=column.dtype.kind in "iub")
    bins = np.searchsorted(edges, distinct, side="right")
    per_bin = np.bincount(bins, weights=counts, minlength=len(edges) + 1).astype(np.int64)
    empty = values.size == 0
    # Two passes over scaled values: squares of large numbers must not overflow.
    scale = 1.0 if empty else max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    return FeatureProfile(
        name=name,
        group=group,
        kind=FeatureKind.NUMERIC,
        dtype=str(column.dtype),
        edges=tuple(edges.tolist()),
        atoms=tuple(atoms.tolist()),
        levels=(),
        counts=tuple(per_bin.tolist()),
        missing=int(column.shape[0] - values.size - garbled),
        rows=int(column.shape[0]),
        mean=0.0 if empty else float(np.mean(values / scale) * scale),
        sd=0.0 if empty else min(float(np.std(values / scale) * scale), _HUGE),
        min=0.0 if empty else float(distinct[0]),
        max=0.0 if empty else float(distinct[-1]),
        novel=garbled,
    )


def _categorical(name: str, group: FeatureGroup, column: npt.NDArray[Any]) -> FeatureProfile:
    levels = as_levels(column)
    tally = Counter(level for level in levels if level is not None)
    ordered = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    enough = max(MIN_LEVEL_ROWS, MIN_LEVEL_SHARE * len(levels))
    own = [level for level, count in ordered[:MAX_LEVELS] if count >= enough]
    rest = ordered[len(own) :]
    rare = rest[:MAX_RARE]
    unlisted = sum(count for _, count in rest[MAX_RARE:])
    return FeatureProfile(
        name=name,
        group=group,
        kind=FeatureKind.CATEGORICAL,
        dtype=str(column.dtype),
        edges=(),
        atoms=(),
        levels=tuple(own),
        counts=(*(tally[level] for level in own), sum(count for _, count in rare)),
        missing=sum(level is None for level in levels),
        rows=len(levels),
        mean=0.0,
        sd=0.0,
        min=0.0,
        max=0.0,
        rare=tuple(level for level, _ in rare),
        novel=unlisted + sum(count == 1 for _, count in rare),
    )


def numeric_bins(distinct: Floats, counts: npt.NDArray[Any], max_bins: int, *, whole: bool) -> tuple[Floats, Floats]:
    """Return the edges of at most `max_bins` bins, and the atoms: values with a bin of their own.

    Args:
        distinct: the reference's values, rising, without repeats.
        counts: rows per value.
        max_bins: most bins.
        whole: the type holds whole numbers only, so nothing can lie between 3 and 4.
    """
    if distinct.size == 0:
        return np.empty(0), np.empty(0)
    target = float(counts.sum()) / max_bins
    while True:
        is_atom = counts >= max(target, 2.0)
        for with_gaps in (True, False):
            edges = _edges(distinct, counts, is_atom, target, with_gaps=with_gaps, whole=whole)
            if edges.size < max_bins:
                return edges, distinct[is_atom]
        target *= 1.1


def _edges(
    distinct: Floats,
    counts: npt.NDArray[Any],
    is_atom: npt.NDArray[np.bool_],
    target: float,
    *,
    with_gaps: bool,
    whole: bool,
) -> Floats:
    low, high = _atom_bounds(distinct)
    cuts: list[float] = []
    atoms = np.flatnonzero(is_atom)
    begin = 0
    for at in [*atoms.tolist(), distinct.size]:
        cuts += _quantile_cuts(distinct[begin:at], counts[begin:at], target)
        if at == distinct.size:
            break
        after_atom = at > 0 and bool(is_atom[at - 1])
        gap = with_gaps and not (whole and distinct[at] - distinct[at - 1] <= 1.0)
        if after_atom and (not gap or cuts[-1] >= low[at]):
            cuts[-1] = _between(float(distinct[at - 1]), float(distinct[at]))
        else:
            cuts.append(float(low[at]))
        cuts.append(float(high[at]))
        begin = at + 1
    return np.unique(np.array(cuts, dtype=np.float64))


def _atom_bounds(distinct: Floats) -> tuple[Floats, Floats]:
    """Return the bounds of an atom's bin around each value: low <= value < high.

    They include the value's nearest float32: models are trained on float64 and served float32, and 0.1 differs there.
    """
    with np.errstate(over="ignore"):
        single = distinct.astype(np.float32).astype(np.float64)
        single = np.where(np.isfinite(single), single, distinct)
        low = np.minimum(distinct, single)
        high = np.nextafter(np.maximum(distinct, single), np.inf)
    low[1:] = np.maximum(low[1:], np.nextafter(distinct[:-1], np.inf))
    high[:-1] = np.minimum(high[:-1], distinct[1:])
    return low, np.minimum(high, _HUGE)


def _quantile_cuts(distinct: Floats, counts: npt.NDArray[Any], target: float) -> list[float]:
    """Return cuts between the values of one run without atoms, about `target` rows apart."""
    if distinct.size < 2:
        return []
    reached = np.cumsum(counts)
    bins = max(1, round(float(reached[-1]) / target))
    wanted = reached[-1] * np.arange(1, bins) / bins
    last = np.unique(np.searchsorted(reached, wanted - 1e-9))
    return [_between(float(distinct[i]), float(distinct[i + 1])) for i in last.tolist() if i + 1 < distinct.size]


def _between(a: float, b: float) -> float:
    """Return a cut c with a < c <= b: in the middle, so that rounding to float32 moves no row across it."""
    middle = 0.5 * a + 0.5 * b
    return middle if middle > a else b
