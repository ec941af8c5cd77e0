"""Requests and answers of the Open Inference Protocol v2, from and to columns. Owns the conversion, no connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.frames import columns_of
from pilotfish.oip import grpc_predict_v2_pb2 as oip

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Predictions", "infer_request", "read_answer", "rows_of"]

Cells = npt.NDArray[Any]  # typed by the model

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Answers in the order of the rows.

    Attributes:
        ids: prediction ids; log true values by them.
        outputs: output's name → values, shape (rows, …).
        version: number of the version that answered the last row.
        deployment: id of the deployment that answered it.
    """

    ids: list[str]
    outputs: dict[str, Cells]
    version: int
    deployment: str

    @property
    def label(self) -> Cells:
        """Return the predicted values: the output `label`, else the first one."""
        return self.outputs.get("label", next(iter(self.outputs.values())))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per prediction, indexed by prediction id; a matrix has a column per entry."""
        import pandas as pd

        columns: dict[str, Any] = {}
        for name, values in self.outputs.items():
            if values.ndim == 1:
                columns[name] = values
            else:
                flat = values.reshape(len(values), -1)
                columns |= {f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
        return pd.DataFrame(columns, index=pd.Index(self.ids, name="prediction_id"))


# Any: a DataFrame, a mapping of columns, or a matrix.
def rows_of(
    rows: Any, metadata: oip.ModelMetadataResponse
) -> list[tuple[oip.ModelMetadataResponse.TensorMetadata, Cells]]:
    """Return rows as the model's input tensors, row by row in the first dimension.

    A model with one matrix takes a matrix as it is, or columns in the order that they are given in.

    Raises:
        InvalidArgument: tensors that the model needs are missing.
    """
    tensors = list(metadata.inputs)
    is_matrix = len(tensors) == 1 and len(tensors[0].shape) == 2
    if is_matrix and not isinstance(rows, dict) and not hasattr(rows, "columns"):
        matrix = np.asarray(rows)
        return [(tensors[0], matrix.reshape(1, -1) if matrix.ndim == 1 else matrix)]
    columns = columns_of(rows)
    if is_matrix:
        names = list(columns)
        width = tensors[0].shape[1]
        if width not in (-1, len(names)):
            raise InvalidArgument(
                f"the model takes {width} features, {len(names)} columns are given",
                violations=[Violation("rows", f"columns: {', '.join(names[:10])}")],
            )
        return [(tensors[0], np.column_stack([columns[n] for n in names]))]
    missing = [t.name for t in tensors if t.name not in columns]
    if missing:
        raise InvalidArgument(
            f"columns are missing: {', '.join(missing)}",
            violations=[Violation(n, "is an input of the model") for n in missing],
        )
    return [(t, columns[t.name].reshape(-1, *[1] * (len(t.shape) - 1))) for t in tensors]


def infer_request(
    model: str,
    tensors: list[tuple[oip.ModelMetadataResponse.TensorMetadata, Cells]],
    first: int,
    last: int,
    prediction_id: str,
) -> oip.ModelInferRequest:
    """Return a request for rows [first, last)."""
    request = oip.ModelInferRequest(model_name=model, id=prediction_id)
    raw = all(t.datatype != "BYTES" for t, _ in tensors)
    for tensor, values in tensors:
        part = values[first:last]
        message = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=list(part.shape))
        if raw:
            request.raw_input_contents.append(np.ascontiguousarray(part, dtype=DTYPES[tensor.datatype]).tobytes())
        elif tensor.datatype == "BYTES":
            message.contents.bytes_contents.extend(str(v).encode() for v in part.ravel().tolist())
        else:
            flat = np.ascontiguousarray(part, dtype=DTYPES[tensor.datatype]).ravel().tolist()
            getattr(message.contents, CONTENTS[tensor.datatype]).extend(flat)
    return request


def read_answer(answer: oip.ModelInferResponse) -> dict[str, Cells]:
    """Return the outputs of an answer by name."""
    found: dict[str, Cells] = {}
    for i, output in enumerate(answer.outputs):
        shape = tuple(output.shape)
        if output.datatype == "BYTES":
            texts = [b.decode("utf-8", "replace") for b in output.contents.bytes_contents]
            if answer.raw_output_contents:
                texts = _raw_texts(answer.raw_output_contents[i])
            found[output.name] = np.array(texts, dtype=object).reshape(shape)
        elif answer.raw_output_contents:
            found[output.name] = np.frombuffer(answer.raw_output_contents[i], DTYPES[output.datatype]).reshape(shape)
        else:
            values = getattr(output.contents, CONTENTS[output.datatype])
            found[output.name] = np.array(values, dtype=DTYPES[output.datatype]).reshape(shape)
    return found


def _raw_texts(data: bytes) -> list[str]:
    """Return texts that are each preceded by their length, four bytes, little-endian."""
    found, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 4 : at + 4 + size].decode("utf-8", "replace"))
        at += 4 + size
    return found
