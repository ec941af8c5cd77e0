"""What goes into the prediction log and what comes back from an append.

Owns the columnar batches, the identity of their senders and the answers. It never touches a disk and knows
no wire format: the edge converts to and from these.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Append", "Appended", "Batch", "ColumnBatch", "Gap", "Role", "Source", "TruthBatch"]

Column = npt.NDArray[Any]  # float32, float64, int64, bool, str or object (str and None): the dtype is checked on append


class Role(enum.IntEnum):
    """Why a prediction was made; only LIVE rows count as predictions."""

    LIVE = 0
    SHADOW = 1
    REPLAY = 2


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of offsets: a process (`instance`), its start (`incarnation`) and the stream's name in it."""

    instance: str
    incarnation: int
    stream: str


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """Predictions of one deployment as columns; every array has one entry per row.

    Attributes:
        deployment: id of the deployment that answered.
        endpoint: id of its endpoint.
        model: id of its model.
        version: number of the version that answered.
        replica: id of the replica that answered.
        prediction_ids: shape (rows,); "" where the caller has none, which is stored and can join no truth.
        times_us: int64, microseconds since 1970 UTC, when the request arrived.
        latency_us: int64, microseconds; -1 where unknown.
        roles: uint8, see `Role`.
        codes: uint16, 0 for OK, otherwise the gRPC or HTTP status.
        inputs: one typed column per feature; NaN or None where missing.
        outputs: one typed column per output; NaN or None where missing.
        input_hash: uint64, equal for equal inputs.
        metadata: JSON text per row, or None for no row having any.
    """

    deployment: str
    endpoint: str
    model: str
    version: int
    replica: str
    prediction_ids: Sequence[str]
    times_us: npt.NDArray[np.int64]
    latency_us: npt.NDArray[np.int64]
    roles: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.uint16]
    inputs: Mapping[str, Column]
    outputs: Mapping[str, Column]
    input_hash: npt.NDArray[np.uint64]
    metadata: Sequence[str | None] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.prediction_ids)


@dataclass(frozen=True, slots=True)
class TruthBatch:
    """What turned out to be true, by prediction id; it may come before the prediction or weeks after.

    Attributes:
        prediction_ids: shape (rows,), none of them empty.
        values: a number or a class name per row.
        times_us: int64, microseconds since 1970 UTC; of two truths for one prediction the later wins.
        deployments: deployment id per row, "" for any; None for "" in every row.
    """

    prediction_ids: Sequence[str]
    values: Sequence[float | str]
    times_us: npt.NDArray[np.int64]
    deployments: Sequence[str] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.prediction_ids)


Batch = ColumnBatch | TruthBatch


@dataclass(frozen=True, slots=True)
class Append:
    """One range of a source's offsets, `[first_offset, last_offset)`, with the rows in it.

    Attributes:
        allow_gap: accept and record that offsets between the watermark and `first_offset` are lost.
    """

    source: Source
    first_offset: int
    last_offset: int
    batch: Batch
    allow_gap: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """The durable answer to an append.

    Attributes:
        watermark: every offset of the source below it is durable, or recorded as lost.
        stored_rows: rows that this call added.
        duplicate: the whole range had been stored before.
    """

    watermark: int
    stored_rows: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets `[first_offset, last_offset)` of a source that will never be stored.

    Attributes:
        reason: `skipped` (the sender said so) or `damaged` (a record could not be read back).
        recorded_us: when it was noticed, microseconds since 1970 UTC.
    """

    source: Source
    first_offset: int
    last_offset: int
    reason: str = field(default="skipped")
    recorded_us: int = field(default=0)
