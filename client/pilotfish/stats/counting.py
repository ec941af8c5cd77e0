"""Counts a batch of rows against a profile: one searchsorted per numeric feature, one bincount over all.

It owns the plan by which rows become bin numbers, kept with the profile. It never changes the arrays it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any  # Any: cells of object columns

import numpy as np
import numpy.typing as npt

from pilotfish.stats.columns import as_levels, as_numbers, checked_columns
from pilotfish.stats.counts import BLOCK_ROWS, MAX, MIN, WindowCounts
from pilotfish.stats.profile import FeatureGroup, FeatureKind, FeatureProfile, Profile

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Beyond this a sum of squares can overflow to infinity.
_LARGEST_SQUARE = 1e140


class OpenBlock:
    """The rows since the last whole block of a stream: how many, and their summed bin numbers per feature.

    It lets small batches of one stream be counted like one large batch.
    """

    __slots__ = ("rows", "sums")

    def __init__(self, features: int) -> None:
        """Begin with no rows."""
        self.rows = 0
        self.sums: Ints = np.zeros(features, dtype=np.int64)


class _Plan:
    """What is looked up for every batch of one profile."""

    __slots__ = ("cells", "edges", "levels", "names", "numeric", "offsets", "starts", "unseen", "zero_moments")

    def __init__(self, profile: Profile) -> None:
        features = profile.features
        self.offsets = profile.offsets()
        bins = np.diff(self.offsets)
        # Each feature's cells: its bins, then missing, then unseen.
        self.starts: Ints = np.concatenate(([0], np.cumsum(bins + 2)))[:-1].astype(np.int64)
        self.cells = int((bins + 2).sum())
        self.unseen: list[int] = (bins + 1).tolist()
        self.numeric = [f.kind is FeatureKind.NUMERIC for f in features]
        self.edges = [np.array(f.edges, dtype=np.float64) for f in features]
        self.levels = [_level_codes(f) for f in features]
        self.names = {group: {f.name for f in features if f.group is group} for group in FeatureGroup}
        self.zero_moments = np.tile(np.array([0.0, 0.0, np.inf, -np.inf]), (len(features), 1))


def _level_codes(feature: FeatureProfile) -> dict[str | None, int]:
    own = len(feature.levels)
    codes: dict[str | None, int] = dict.fromkeys(feature.rare, own)
    codes.update({level: i for i, level in enumerate(feature.levels)})
    codes[None] = own + 1
    return codes


def _plan(profile: Profile) -> _Plan:
    plan = profile._kept.get("plan")
    if not isinstance(plan, _Plan):
        plan = profile._kept["plan"] = _Plan(profile)
    return plan


def count_window(
    profile: Profile,
    inputs: Mapping[str, npt.ArrayLike],
    outputs: Mapping[str, npt.ArrayLike] | None = None,
    *,
    block: OpenBlock | None = None,
) -> WindowCounts:
    """Return the counts of these rows in the profile's bins.

    A column that the profile has and the rows lack counts as missing in every row; a whole group without any column
    (no outputs given) is not counted at all. Columns that the profile lacks are ignored.

    Args:
        profile: the reference.
        inputs: name → column, shape (rows,).
        outputs: name → column of the answers to the same rows; None or empty: not known.
        block: carries the open block from batch to batch of one stream; None: the rows stand alone.

    Raises:
        InvalidArgument: columns of the profile that are not 1-d or differ in length; every one is named.
    """
    in_columns, out_columns, rows = known_columns(profile, inputs, outputs or {})
    plan = _plan(profile)
    codes = np.empty((len(profile.features), rows), dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        return _count(profile, plan, codes, in_columns, out_columns, block)


def known_columns(
    profile: Profile, inputs: Mapping[str, npt.ArrayLike], outputs: Mapping[str, npt.ArrayLike]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]], int]:
    """Return the columns of both groups that the profile has, as arrays, and the number of rows.

    A group that was given but has none of them keeps one column: it must not be taken for a group that was not given.

    Raises:
        InvalidArgument: those columns are not 1-d or differ in length; every one is named.
    """
    names = _plan(profile).names
    groups: list[dict[str, npt.ArrayLike]] = []
    for group, columns in ((FeatureGroup.INPUT, inputs), (FeatureGroup.OUTPUT, outputs)):
        known: dict[str, npt.ArrayLike] = {name: column for name, column in columns.items() if name in names[group]}
        if columns and not known:
            name, column = next(iter(columns.items()))
            known[name] = np.empty(np.shape(column)[:1] or 1)
        groups.append(known)
    return checked_columns(groups[0], groups[1])


def _count(
    profile: Profile,
    plan: _Plan,
    codes: Ints,
    in_columns: Mapping[str, npt.NDArray[Any]],
    out_columns: Mapping[str, npt.NDArray[Any]],
    block: OpenBlock | None,
) -> WindowCounts:
    moments = plan.zero_moments.copy()
    absent: list[int] = []
    for i, feature in enumerate(profile.features):
        columns = in_columns if feature.group is FeatureGroup.INPUT else out_columns
        column = columns.get(feature.name)
        if column is None:
            codes[i] = plan.unseen[i] - 1
            if not columns:
                absent.append(i)
        elif plan.numeric[i]:
            _count_numbers(column, plan.edges[i], plan.unseen[i], codes[i], moments[i])
        else:
            unseen, known = plan.unseen[i], plan.levels[i]
            codes[i] = [known.get(level, unseen) for level in as_levels(column)]
    return _assemble(profile, plan, codes, moments, absent, block)


def _count_numbers(column: npt.NDArray[Any], edges: Floats, unseen: int, codes: Ints, moments: Floats) -> None:
    """Write the bin numbers of a numeric column into `codes`, its moments into `moments`."""
    if column.size == 0:
        return
    numbers, unreadable = _numbers(column)
    codes[:] = edges.searchsorted(numbers, side="right")
    total = float(np.add.reduce(numbers))
    if total != total:  # NaN: searchsorted has put the missing rows into the last bin
        missing = np.isnan(numbers)
        codes[missing] = unseen - 1
        if unreadable is not None:
            codes[unreadable] = unseen
        numbers = numbers[~missing]
        if numbers.size == 0:
            return
        total = float(np.add.reduce(numbers))
    low, high = float(np.minimum.reduce(numbers)), float(np.maximum.reduce(numbers))
    moments[:] = (total, float(numbers @ numbers), low, high)
    if max(-low, high) > _LARGEST_SQUARE:
        moments[:MIN] = np.nan_to_num(moments[:MIN])


def _numbers(column: npt.NDArray[Any]) -> tuple[Floats, npt.NDArray[np.bool_] | None]:
    """Return what `as_numbers` returns, sooner for a column of finite floats."""
    if column.dtype.kind == "f":
        numbers = np.ascontiguousarray(column, dtype=np.float64)
        if math.isfinite(float(np.add.reduce(numbers))):
            return numbers, None
    return as_numbers(column)


def _assemble(
    profile: Profile, plan: _Plan, codes: Ints, moments: Floats, absent: list[int], block: OpenBlock | None
) -> WindowCounts:
    features, rows = codes.shape
    blocks, whole_sums = _block_sums(codes, block)
    cells = np.bincount((codes + plan.starts[:, None]).ravel(), minlength=plan.cells).astype(np.int64, copy=False)
    ends = plan.starts + np.array(plan.unseen, dtype=np.int64)
    whole = np.empty((features, 4), dtype=np.int64)
    whole[:, 0] = cells[ends - 1]
    whole[:, 1] = cells[ends]
    whole[:, 2] = whole_sums.sum(axis=1)
    whole[:, 3] = (whole_sums * whole_sums).sum(axis=1)
    if absent:
        whole[absent] = 0
        moments[absent, MIN], moments[absent, MAX] = np.inf, -np.inf
    bins = np.delete(cells, np.concatenate((ends - 1, ends)))
    return WindowCounts.of_arrays(profile.id, rows, blocks, bins, plan.offsets, whole, moments)


def _block_sums(codes: Ints, block: OpenBlock | None) -> tuple[int, Ints]:
    """Return how many blocks these rows complete, and their summed bin numbers, shape (features, blocks)."""
    features, rows = codes.shape
    head = 0 if block is None or block.rows == 0 else min(BLOCK_ROWS - block.rows, rows)
    blocks = (rows - head) // BLOCK_ROWS
    tail = head + blocks * BLOCK_ROWS
    sums = codes[:, head:tail].reshape(features, blocks, BLOCK_ROWS).sum(axis=2)
    if block is None:
        return blocks, sums
    if head:
        block.sums = block.sums + codes[:, :head].sum(axis=1)
        block.rows += head
        if block.rows == BLOCK_ROWS:
            sums = np.concatenate((block.sums[:, None], sums), axis=1)
            blocks += 1
            block.rows, block.sums = 0, np.zeros(features, dtype=np.int64)
    if tail < rows:
        block.sums = block.sums + codes[:, tail:].sum(axis=1)
        block.rows += rows - tail
    return blocks, sums
