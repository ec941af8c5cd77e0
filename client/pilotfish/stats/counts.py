"""Counts of a window: whole numbers per bin that merge by addition. Exact, so replicas and windows add up.

It owns the counts and their addition. It never sees rows (`counting.py` does) and never judges (`verdict.py` does).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BLOCK_ROWS = 10
"""Rows of a block; the spread of block sums tells how much neighbouring rows depend on each other."""

MISSING, UNSEEN, BLOCK_SUM, BLOCK_SQUARES = range(4)
SUM, SUM_SQ, MIN, MAX = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCounts:
    """One feature's rows of a window.

    Attributes:
        bins: rows per bin of the profile, int64, shape (bins,).
        missing: rows without a value.
        unseen: rows whose value fits no bin: an unknown level, or text among numbers.
        n: rows with a value; sum(bins) + unseen.
        sum, sum_sq: of the numbers; 0 for categories.
        min, max: of the numbers; None without any.
        block_sum, block_squares: sum and sum of squares, over whole blocks of 10 rows, of the sum of their bin numbers.
    """

    bins: Ints
    missing: int
    unseen: int
    n: int
    sum: float
    sum_sq: float
    min: float | None
    max: float | None
    block_sum: int = 0
    block_squares: int = 0


class WindowCounts:
    """All features of one window, kept flat so that adding two is four array additions.

    Attributes:
        profile_id: the profile whose bins these are.
        rows: rows of the window.
        blocks: whole blocks of 10 successive rows in it.
        bins: all features' bins in the profile's order, int64, shape (all bins,).
        offsets: where each feature begins in `bins`, int64, shape (features + 1,).
        whole: missing, unseen, block_sum, block_squares per feature, int64, shape (features, 4).
        moments: sum, sum_sq, min, max per feature, float64, shape (features, 4); inf and -inf for no values.
    """

    __slots__ = ("bins", "blocks", "moments", "offsets", "profile_id", "rows", "whole")

    def __init__(self, profile_id: str, rows: int, features: Sequence[FeatureCounts], blocks: int = 0) -> None:
        """Take features one by one, in the profile's order."""
        none = (np.inf, -np.inf)
        self._set(
            profile_id,
            rows,
            blocks,
            np.concatenate([f.bins for f in features]).astype(np.int64) if features else np.empty(0, np.int64),
            np.concatenate(([0], np.cumsum([f.bins.size for f in features]))).astype(np.int64),
            np.array([(f.missing, f.unseen, f.block_sum, f.block_squares) for f in features], np.int64).reshape(-1, 4),
            np.array(
                [
                    (f.sum, f.sum_sq, none[0] if f.min is None else f.min, none[1] if f.max is None else f.max)
                    for f in features
                ],
                np.float64,
            ).reshape(-1, 4),
        )

    def _set(
        self, profile_id: str, rows: int, blocks: int, bins: Ints, offsets: Ints, whole: Ints, moments: Floats
    ) -> None:
        self.profile_id = profile_id
        self.rows = rows
        self.blocks = blocks
        self.bins = bins
        self.offsets = offsets
        self.whole = whole
        self.moments = moments
        for array in (bins, offsets, whole, moments):
            array.setflags(write=False)

    @classmethod
    def of_arrays(
        cls, profile_id: str, rows: int, blocks: int, bins: Ints, offsets: Ints, whole: Ints, moments: Floats
    ) -> WindowCounts:
        """Return counts over the given arrays, which become read-only; see the attributes for their shapes."""
        counts = cls.__new__(cls)
        counts._set(profile_id, rows, blocks, bins, offsets, whole, moments)
        return counts

    @property
    def features(self) -> tuple[FeatureCounts, ...]:
        """The counts feature by feature, in the profile's order."""
        return tuple(self.features_at(i) for i in range(self.whole.shape[0]))

    def features_at(self, i: int) -> FeatureCounts:
        """Return the counts of the feature at index i."""
        bins = self.bins[self.offsets[i] : self.offsets[i + 1]]
        missing, unseen, block_sum, block_squares = self.whole[i].tolist()
        total, squares, low, high = self.moments[i].tolist()
        empty = low > high
        return FeatureCounts(
            bins,
            missing,
            unseen,
            int(bins.sum()) + unseen,
            total,
            squares,
            None if empty else low,
            None if empty else high,
            block_sum,
            block_squares,
        )

    def to_bytes(self) -> bytes:
        """Return the counts packed: little-endian, versioned, with a checksum; see `packing.py`."""
        from pilotfish.stats.packing import pack_counts  # packing imports this module

        return pack_counts(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> WindowCounts:
        """Return the counts of a packed text.

        Raises:
            InvalidArgument: it is cut short, damaged, of another format, or contradicts itself.
        """
        from pilotfish.stats.packing import unpack_counts

        return unpack_counts(data)

    def __eq__(self, other: object) -> bool:
        """Return whether all counts and moments are equal."""
        if not isinstance(other, WindowCounts):
            return NotImplemented
        return (
            (self.profile_id, self.rows, self.blocks) == (other.profile_id, other.rows, other.blocks)
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.bins, other.bins)
            and np.array_equal(self.whole, other.whole)
            and np.array_equal(self.moments, other.moments)
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays; equal by value

    def __repr__(self) -> str:
        """Return the profile, the rows and the number of features."""
        return f"WindowCounts(profile_id={self.profile_id!r}, rows={self.rows}, features={self.whole.shape[0]})"


def merge_counts(a: WindowCounts, b: WindowCounts) -> WindowCounts:
    """Return the counts of both windows' rows together; every whole number is exact, in any order.

    Raises:
        InvalidArgument: they were counted against different profiles.
    """
    return sum_counts((a, b))


def sum_counts(windows: Iterable[WindowCounts]) -> WindowCounts:
    """Return the counts of all windows' rows together.

    Raises:
        InvalidArgument: there is none, or they were counted against different profiles.
    """
    parts = list(windows)
    if not parts:
        raise InvalidArgument("there is no window to add up", reason="NO_WINDOWS")
    first = parts[0]
    strangers = sorted({p.profile_id for p in parts if p.profile_id != first.profile_id})
    if strangers or any(not np.array_equal(p.offsets, first.offsets) for p in parts[1:]):
        others = ", ".join(strangers) or f"{first.profile_id} with other bins"
        raise InvalidArgument(
            f"windows of profile {first.profile_id} and of {others} have different bins and do not add up",
            reason="PROFILE_MISMATCH",
        )
    if len(parts) == 1:
        return first
    bins, whole, moments = first.bins.copy(), first.whole.copy(), first.moments.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts[1:]:
            bins += part.bins
            whole += part.whole
            moments[:, :MIN] += part.moments[:, :MIN]
            np.minimum(moments[:, MIN], part.moments[:, MIN], out=moments[:, MIN])
            np.maximum(moments[:, MAX], part.moments[:, MAX], out=moments[:, MAX])
    moments[:, :MIN] = np.nan_to_num(moments[:, :MIN])
    return WindowCounts.of_arrays(
        first.profile_id, sum(p.rows for p in parts), sum(p.blocks for p in parts), bins, first.offsets, whole, moments
    )
