"""The datatypes of the Open Inference Protocol v2, and the way between its contents and numpy.

Owns the table datatype → numpy and the packing and unpacking of typed and raw contents. Typed contents
of fixed width go through the sub-message's own bytes: one serialisation and one `np.frombuffer` instead
of a Python object per element. It never looks at names or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pilotfish_sidecar.decode.reasons import Reason, TensorError

if TYPE_CHECKING:
    from pilotfish.oip.grpc_predict_v2_pb2 import InferTensorContents

__all__ = [
    "DATATYPES",
    "Array",
    "Datatype",
    "count_elements",
    "datatype_of",
    "find_datatype",
    "pack_raw",
    "pack_typed",
    "unpack_raw",
    "unpack_typed",
]

Array = npt.NDArray[Any]
"""An array of any dtype: which one is data, not type."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol.

    Attributes:
        name: as on the wire.
        dtype: numpy's, little-endian; object (of str) for BYTES.
        field: name of the contents field, empty when the type travels raw only.
        number: that field's number.
        packed_dtype: dtype of the field's packed bytes where they have a fixed width, else None.
    """

    name: str
    dtype: np.dtype[Any]
    field: str = ""
    number: int = 0
    packed_dtype: np.dtype[Any] | None = None


def _table() -> dict[str, Datatype]:
    i32, u32 = ("int_contents", 2), ("uint_contents", 4)
    rows: list[tuple[str, str, tuple[str, int], str | None]] = [
        ("BOOL", "?", ("bool_contents", 1), "u1"),
        ("INT8", "i1", i32, None),
        ("INT16", "<i2", i32, None),
        ("INT32", "<i4", i32, None),
        ("INT64", "<i8", ("int64_contents", 3), None),
        ("UINT8", "u1", u32, None),
        ("UINT16", "<u2", u32, None),
        ("UINT32", "<u4", u32, None),
        ("UINT64", "<u8", ("uint64_contents", 5), None),
        ("FP16", "<f2", ("", 0), None),
        ("FP32", "<f4", ("fp32_contents", 6), "<f4"),
        ("FP64", "<f8", ("fp64_contents", 7), "<f8"),
        ("BYTES", "O", ("bytes_contents", 8), None),
    ]
    return {
        name: Datatype(name, np.dtype(dtype), field, number, np.dtype(packed) if packed else None)
        for name, dtype, (field, number), packed in rows
    }


DATATYPES: Final[Mapping[str, Datatype]] = MappingProxyType(_table())
_BY_DTYPE: Final = {kind.dtype: kind for kind in DATATYPES.values()}
_MAX_ELEMENTS: Final = 1 << 40


def find_datatype(name: str) -> Datatype:
    """Return the datatype of that name.

    Raises:
        TensorError: there is none (`unknown_dtype`).
    """
    kind = DATATYPES.get(name)
    if kind is None:
        raise TensorError(Reason.UNKNOWN_DTYPE, f"unknown datatype {name[:40]!r}; known are {', '.join(DATATYPES)}")
    return kind


def datatype_of(array: Array) -> Datatype:
    """Return the datatype in which an array travels; text of any kind is BYTES.

    Raises:
        TensorError: the protocol has none for its dtype (`unknown_dtype`).
    """
    if array.dtype.kind in "OUS":
        return DATATYPES["BYTES"]
    kind = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
    if kind is None:
        raise TensorError(Reason.UNKNOWN_DTYPE, f"numpy's {array.dtype} has no datatype in the protocol")
    return kind


def count_elements(shape: tuple[int, ...]) -> int:
    """Return the product of the dimensions; 1 for a scalar.

    Raises:
        TensorError: a dimension is negative or zero, or the product is absurd (`bad_shape`).
    """
    elements = 1
    for dimension in shape:
        elements *= dimension
        if dimension <= 0 or elements > _MAX_ELEMENTS:
            raise TensorError(Reason.BAD_SHAPE, f"shape {list(shape[:16])} is not possible for data")
    return elements


def _packed(contents: InferTensorContents, kind: Datatype) -> bytes | memoryview:
    """Return the packed bytes of the datatype's field, which must be the only field set."""
    data = contents.SerializeToString()
    if not data:
        return b""
    if data[0] != kind.number << 3 | 2:
        raise _wrong_field(contents, kind)
    length, position, shift = 0, 1, 0
    while True:
        byte = data[position]
        length |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            break
    if position + length != len(data):
        raise _wrong_field(contents, kind)
    return memoryview(data)[position:]


def _wrong_field(contents: InferTensorContents, kind: Datatype) -> TensorError:
    used = ", ".join(field.name for field, _ in contents.ListFields())
    text = f"{kind.name} travels in {kind.field}, the tensor has {used or 'unknown fields'}"
    return TensorError(Reason.WRONG_CONTENTS, text)


def unpack_typed(contents: InferTensorContents, kind: Datatype, elements: int) -> Array:
    """Return typed contents as a flat array of `elements` values; read-only for fixed-width types.

    Raises:
        TensorError: `wrong_contents`, `truncated`, `bad_shape` or `bad_value`.
    """
    if not kind.field:
        raise TensorError(Reason.WRONG_CONTENTS, f"{kind.name} has no typed contents in the protocol: send it raw")
    if kind.name == "BYTES":
        texts = contents.bytes_contents
        if len(texts) != elements and not texts and contents.ByteSize():
            raise _wrong_field(contents, kind)
        _check_count(len(texts), elements)
        return _texts(texts)
    packed = _packed(contents, kind)
    if kind.packed_dtype is not None:
        _check_count(len(packed) // kind.packed_dtype.itemsize, elements)
        values: Array = np.frombuffer(packed, kind.packed_dtype)
        return values.view(np.bool_) if kind.name == "BOOL" else values
    if len(packed) == elements:
        # Every varint is one byte: labels and small counts, the common case.
        small = bytes(packed)
        if small.isascii():
            return np.frombuffer(small, np.uint8).astype(kind.dtype)
    return _integers(getattr(contents, kind.field), kind, elements)


def _integers(field: Any, kind: Datatype, elements: int) -> Array:  # Any: protobuf's repeated container
    _check_count(len(field), elements)
    wide = np.array(field, dtype=np.uint64 if kind.dtype.kind == "u" else np.int64)
    if kind.dtype.itemsize == 8:
        return wide
    # The fields are wider than the datatypes: a value beyond must be refused, not wrapped.
    limits = np.iinfo(kind.dtype)
    if wide.min() < limits.min or wide.max() > limits.max:
        raise TensorError(Reason.BAD_VALUE, f"a value does not fit {kind.name}")
    return wide.astype(kind.dtype)


def _check_count(found: int, elements: int) -> None:
    if found != elements:
        reason = Reason.TRUNCATED if found < elements else Reason.BAD_SHAPE
        raise TensorError(reason, f"the shape holds {elements} elements, the data {found}")


def _texts(values: Any) -> Array:  # Any: protobuf's repeated container, or a list of bytes
    array = np.empty(len(values), dtype=object)
    array[:] = [value.decode("utf-8", "replace") for value in values]
    return array


def unpack_raw(raw: bytes, kind: Datatype, elements: int) -> Array:
    """Return raw contents as a flat array of `elements` values; read-only for fixed-width types.

    Raises:
        TensorError: `truncated`, `bad_shape` or `bad_value`.
    """
    if kind.name == "BYTES":
        return _raw_texts(raw, elements)
    width = kind.dtype.itemsize
    if len(raw) != elements * width:
        reason = Reason.TRUNCATED if len(raw) < elements * width else Reason.BAD_SHAPE
        raise TensorError(
            reason, f"{elements} elements of {kind.name} are {elements * width} bytes, the data {len(raw)}"
        )
    if kind.name != "BOOL":
        values: Array = np.frombuffer(raw, kind.dtype)
        return values
    flags = np.frombuffer(raw, np.uint8)
    if flags.size and flags.max() > 1:
        raise TensorError(Reason.BAD_VALUE, "a BOOL is neither 0 nor 1")
    return flags.view(np.bool_)


def _raw_texts(raw: bytes, elements: int) -> Array:
    texts: list[bytes] = []
    position = 0
    while position < len(raw):
        size = int.from_bytes(raw[position : position + 4], "little")
        end = position + 4 + size
        if position + 4 > len(raw) or end > len(raw):
            raise TensorError(Reason.TRUNCATED, "a BYTES element reaches beyond its data")
        texts.append(raw[position + 4 : end])
        position = end
    _check_count(len(texts), elements)
    return _texts(texts)


def _encoded(array: Array) -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode("utf-8", "replace") for value in array.ravel()]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_typed(contents: InferTensorContents, array: Array, kind: Datatype) -> None:
    """Write an array into the field of its datatype, flattened row by row.

    Raises:
        TensorError: the datatype travels raw only (`wrong_contents`).
    """
    if not kind.field:
        raise TensorError(Reason.WRONG_CONTENTS, f"{kind.name} has no typed contents in the protocol")
    if kind.packed_dtype is not None:
        data = np.ascontiguousarray(array, kind.dtype).tobytes()
        contents.MergeFromString(bytes([kind.number << 3 | 2]) + _varint(len(data)) + data)
    elif kind.name == "BYTES":
        contents.bytes_contents.extend(_encoded(array))
    else:
        getattr(contents, kind.field).extend(array.ravel().tolist())


def pack_raw(array: Array, kind: Datatype) -> bytes:
    """Return an array as raw contents, flattened row by row, little-endian."""
    if kind.name == "BYTES":
        return b"".join(len(text).to_bytes(4, "little") + text for text in _encoded(array))
    return np.ascontiguousarray(array, kind.dtype).tobytes()
