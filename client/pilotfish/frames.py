"""Rows between callers and the wire: DataFrames, mappings of columns and matrices become columns, and back.

pandas is imported only when a DataFrame is asked for. Owns the conversion; it opens no connection.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import monitoring_pb2 as pb

if TYPE_CHECKING:
    import pandas as pd

    from pilotfish.v1 import monitoring_service_pb2 as svc

__all__ = ["PredictionRows", "batch_from_rows", "columns_of", "rows_from_batch", "to_pandas"]

Cells = npt.NDArray[Any]  # a column's values: float, int, bool or object (str)

DTYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
}


# Any: a DataFrame, a mapping of columns, a matrix or one column.
def columns_of(rows: Any, *, single: str = "label") -> dict[str, Cells]:
    """Return rows as named columns.

    Args:
        rows: a DataFrame (pandas or polars), a mapping of columns, or one column, which is called `single`.
        single: that name.

    Raises:
        InvalidArgument: the columns have different lengths.
    """
    if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):
        found = {str(name): np.asarray(rows[name]) for name in rows.columns}
    elif isinstance(rows, Mapping):
        found = {str(name): np.asarray(values) for name, values in rows.items()}
    else:
        values = np.asarray(rows)
        if values.ndim == 2:
            found = {f"{single}_{i}": values[:, i] for i in range(values.shape[1])}
        else:
            found = {single: values}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidArgument(
            "the columns have different lengths",
            violations=[Violation(n, f"{size} rows") for n, size in lengths.items()],
        )
    return found


def _column(name: str, group: str, values: Cells) -> pb.Column:
    if values.dtype.kind in "OUS":
        texts = ["" if v is None else str(v) for v in values.tolist()]
        missing = bytes(int(v is None) for v in values.tolist())
        return pb.Column(
            name=name, group=group, datatype="BYTES", strings=texts, missing=missing if any(missing) else b""
        )
    kind = {"f": "FP64", "i": "INT64", "u": "INT64", "b": "BOOL"}.get(values.dtype.kind)
    if kind is None:
        raise InvalidArgument(
            f"column {name} cannot be logged",
            violations=[Violation(name, f"dtype {values.dtype} is no number and no text")],
        )
    kind = "FP32" if values.dtype == np.float32 else kind
    return pb.Column(name=name, group=group, datatype=kind, data=values.astype(DTYPES[kind]).tobytes())


def batch_from_rows(
    inputs: Any,
    predictions: Any,
    prediction_ids: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    times: Sequence[datetime] | None,
) -> pb.PredictionBatch:
    """Return rows as a batch for the wire."""
    features, outputs = columns_of(inputs, single="input"), columns_of(predictions)
    rows = len(next(iter(features.values()), next(iter(outputs.values()), [])))
    ids = list(prediction_ids) if prediction_ids is not None else [uuid.uuid4().hex for _ in range(rows)]
    now = int(datetime.now(UTC).timestamp() * 1e6)
    return pb.PredictionBatch(
        prediction_ids=ids,
        times_us=[int(t.timestamp() * 1e6) for t in times] if times is not None else [now] * rows,
        columns=[_column(n, "COLUMN_GROUP_INPUT", v) for n, v in features.items()]
        + [_column(n, "COLUMN_GROUP_OUTPUT", v) for n, v in outputs.items()],
        metadata_json=[json.dumps(dict(m)) for m in metadata] if metadata is not None else (),
    )


@dataclass(frozen=True, slots=True, eq=False)
class PredictionRows:
    """A part of the prediction log: one entry per row in everything.

    Attributes:
        times: numpy datetime64[us], UTC.
        latencies_us: microseconds; -1: not known.
        codes: gRPC status codes; 0 is OK.
        truths: true values as text; "": not known.
        attempts: times the id was sent.
        conflicts: whether the id was sent with other inputs.
    """

    deployment: str
    version: int
    prediction_ids: list[str]
    times: Cells
    latencies_us: Cells
    codes: list[int]
    inputs: dict[str, Cells]
    outputs: dict[str, Cells]
    truths: list[str]
    attempts: list[int]
    conflicts: list[bool]


def _cells(column: pb.Column) -> Cells:
    if column.datatype == "BYTES":
        texts = np.array(list(column.strings), dtype=object)
        if column.missing:
            texts[np.frombuffer(column.missing, dtype=np.uint8).astype(bool)] = None
        return texts
    return np.frombuffer(column.data, dtype=DTYPES[column.datatype])


def rows_from_batch(answer: svc.ExportPredictionsResponse) -> PredictionRows:
    """Return a part of an export as columns."""
    batch = answer.batch
    groups: dict[int, dict[str, Cells]] = {pb.COLUMN_GROUP_INPUT: {}, pb.COLUMN_GROUP_OUTPUT: {}}
    for column in batch.columns:
        groups[column.group][column.name] = _cells(column)
    return PredictionRows(
        batch.deployment,
        batch.version,
        list(batch.prediction_ids),
        np.asarray(batch.times_us, dtype="datetime64[us]"),
        np.asarray(batch.latencies_us, dtype=np.int64),
        list(batch.codes),
        groups[pb.COLUMN_GROUP_INPUT],
        groups[pb.COLUMN_GROUP_OUTPUT],
        list(answer.truths),
        list(answer.attempts),
        list(answer.conflicts),
    )


def to_pandas(parts: Iterable[PredictionRows]) -> pd.DataFrame:
    """Return parts of the prediction log as one DataFrame, indexed by prediction id."""
    import pandas as pd

    frames = []
    for part in parts:
        columns: dict[str, Any] = {
            "time": part.times,
            "deployment": part.deployment,
            "version": part.version,
            "latency_us": part.latencies_us,
            "code": part.codes,
        }
        columns |= {f"input.{k}": v for k, v in part.inputs.items()}
        columns |= {f"output.{k}": v for k, v in part.outputs.items()}
        columns |= {"truth": part.truths, "attempts": part.attempts, "conflict": part.conflicts}
        frames.append(pd.DataFrame(columns, index=pd.Index(part.prediction_ids, name="prediction_id")))
    return pd.concat(frames) if frames else pd.DataFrame()
