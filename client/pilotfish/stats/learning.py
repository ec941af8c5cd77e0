"""Learns a reference from the first rows served, for versions without training data.

It owns those rows until there are enough, then the profile, marked as learned. It gives no verdict before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # Any: cells of object columns

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument
from pilotfish.stats.building import build_profile
from pilotfish.stats.columns import checked_columns
from pilotfish.stats.config import ROWS_FOR_A_VERDICT
from pilotfish.stats.profile import FeatureGroup, Profile

DEFAULT_LEARNED_ROWS = 5000
"""Rows that a learned reference is taken from unless the caller says otherwise."""

_Key = tuple[FeatureGroup, str]


class ReferenceLearner:
    """Collects the first n rows and makes a learned profile of exactly those."""

    def __init__(self, n: int = DEFAULT_LEARNED_ROWS) -> None:
        """Begin without rows.

        Args:
            n: rows to learn from, >= 100.

        Raises:
            InvalidArgument: n is too small for any verdict.
        """
        if n < ROWS_FOR_A_VERDICT:
            raise InvalidArgument(
                f"a reference of {n} rows is too small, learn from at least {ROWS_FOR_A_VERDICT}", reason="TOO_FEW_ROWS"
            )
        self.n = n
        self.rows = 0
        self.profile: Profile | None = None
        self._parts: dict[_Key, list[tuple[int, npt.NDArray[Any]]]] = {}

    @property
    def remaining(self) -> int:
        """Rows that are still needed."""
        return self.n - self.rows

    def add(self, inputs: Mapping[str, npt.ArrayLike], outputs: Mapping[str, npt.ArrayLike] | None = None) -> int:
        """Return how many of these rows were taken, from the first on; `profile` is set once there are enough.

        Args:
            inputs: name → column, shape (rows,). A column that comes and goes is missing in between.
            outputs: name → column of the answers.

        Raises:
            InvalidArgument: the columns are not one table.
        """
        in_columns, out_columns, rows = checked_columns(inputs, outputs or {})
        take = min(rows, self.remaining)
        if take <= 0:
            return 0
        for group, columns in ((FeatureGroup.INPUT, in_columns), (FeatureGroup.OUTPUT, out_columns)):
            for name, column in columns.items():
                # A copy: the caller's buffer may be reused for the next batch.
                self._parts.setdefault((group, name), []).append((self.rows, column[:take].copy()))
        self.rows += take
        if self.remaining == 0:
            groups = {group: self._columns(group) for group in FeatureGroup}
            self.profile = build_profile(groups[FeatureGroup.INPUT], groups[FeatureGroup.OUTPUT], learned=True)
            self._parts.clear()
        return take

    def _columns(self, of: FeatureGroup) -> dict[str, npt.NDArray[Any]]:
        return {name: self._column(parts) for (group, name), parts in self._parts.items() if group is of}

    def _column(self, parts: list[tuple[int, npt.NDArray[Any]]]) -> npt.NDArray[Any]:
        complete = sum(part.size for _, part in parts) == self.rows
        kinds = {part.dtype.kind for _, part in parts}
        if complete and (kinds <= set("fiu") or len(kinds) == 1):
            return np.concatenate([part for _, part in parts])
        column = np.full(self.rows, None, dtype=object)
        for start, part in parts:
            column[start : start + part.size] = part.tolist() if part.dtype.kind not in "mM" else part.astype(object)
        return column
