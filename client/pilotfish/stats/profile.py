"""Profiles: what the training data of a version looked like, as counts per bin. Frozen values with a JSON form.

It owns the shape of a profile and its identity. It never sees rows: `building.py` makes profiles, `profile_json.py`
reads them from untrusted JSON, `counting.py` counts windows against them.
"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any  # Any: plain JSON values, and what is kept with a profile

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 1
MAX_FEATURES = 20_000
MAX_BINS = 1_000
MAX_RARE = 2_000


class FeatureKind(enum.Enum):
    """How a feature is compared: by order, or by name."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"


class FeatureGroup(enum.Enum):
    """Which side of the model a feature is on: data drift is of inputs, prediction drift of outputs."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """One feature of the reference.

    Attributes:
        name: the column's name.
        group: input or output.
        kind: numeric or categorical.
        dtype: numpy's name of the column's type in the reference, for people.
        edges: numeric: rising cuts; bin i holds edges[i-1] <= x < edges[i], the first and last are open.
        atoms: numeric: values that hold a bin of their own.
        levels: categorical: levels with a bin of their own, most frequent first.
        counts: reference rows per bin; numeric len(edges) + 1, categorical len(levels) + 1 with `other` last.
        missing: reference rows without a value.
        rows: reference rows in all; outputs may have been taken from other rows than inputs.
        mean, sd, min, max: of the finite values; 0 for categories and for no values. sd divides by n.
        rare: categorical: known levels that are counted as `other`; any further level is `unseen`.
        novel: reference rows that would be unseen had they been left out of the reference (a level that occurs once),
            so novel / (rows - missing) is the share of unseen values to expect from unchanged data (Good-Turing).
    """

    name: str
    group: FeatureGroup
    kind: FeatureKind
    dtype: str
    edges: tuple[float, ...]
    atoms: tuple[float, ...]
    levels: tuple[str, ...]
    counts: tuple[int, ...]
    missing: int
    rows: int
    mean: float
    sd: float
    min: float
    max: float
    rare: tuple[str, ...] = ()
    novel: int = 0

    @property
    def present(self) -> int:
        """Reference rows that hold a value."""
        return self.rows - self.missing

    @property
    def unlisted(self) -> int:
        """Reference rows with a value that fits no bin: levels beyond the longest list, text among numbers."""
        return self.present - sum(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the feature as plain JSON values."""
        return {
            "name": self.name,
            "group": self.group.value,
            "kind": self.kind.value,
            "dtype": self.dtype,
            "edges": list(self.edges),
            "atoms": list(self.atoms),
            "levels": list(self.levels),
            "counts": list(self.counts),
            "missing": self.missing,
            "rows": self.rows,
            "mean": self.mean,
            "sd": self.sd,
            "min": self.min,
            "max": self.max,
            "rare": list(self.rare),
            "novel": self.novel,
        }


@dataclass(frozen=True, slots=True)
class Profile:
    """The reference of one version: every feature's counts. Equal content has an equal `id` on every machine.

    Attributes:
        features: inputs first, then outputs, in the order of the data.
        rows: reference rows; of the inputs, if there are any.
        learned: taken from the first rows served instead of from training data.
    """

    features: tuple[FeatureProfile, ...]
    rows: int
    learned: bool = False
    # What is computed from a profile once and then kept with it: its JSON, its id, the counting plan.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False, hash=False)

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        if "id" not in self._kept:
            self._kept["id"] = hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
        return str(self._kept["id"])

    def feature(self, name: str, group: FeatureGroup = FeatureGroup.INPUT) -> FeatureProfile:
        """Return one feature.

        Raises:
            KeyError: the profile has no such feature; the message names those it has.
        """
        for feature in self.features:
            if feature.name == name and feature.group is group:
                return feature
        known = ", ".join(f.name for f in self.features if f.group is group) or "none"
        raise KeyError(f"the profile has no {group.value} feature {name!r}; it has: {known}")

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces, shortest exact numbers."""
        if "json" not in self._kept:
            document = {
                "version": FORMAT_VERSION,
                "rows": self.rows,
                "learned": self.learned,
                "features": [feature.to_dict() for feature in self.features],
            }
            self._kept["json"] = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return str(self._kept["json"])

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Return the profile of a JSON text, checked field by field.

        Raises:
            InvalidArgument: it is no JSON, or no profile; `violations` names every field that is wrong (at most 50).
        """
        from pilotfish.stats.profile_json import read_profile  # it imports this module

        return read_profile(text)

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return where each feature's bins begin in an array of all bins, shape (features + 1,)."""
        if "offsets" not in self._kept:
            sizes = [len(feature.counts) for feature in self.features]
            self._kept["offsets"] = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)
        kept: npt.NDArray[np.int64] = self._kept["offsets"]
        return kept
