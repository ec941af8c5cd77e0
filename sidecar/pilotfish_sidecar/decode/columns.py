"""Rows and columns of one inference call.

Owns the naming of columns and the agreement of tensors in rows. It never reads bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pilotfish_sidecar.decode.datatypes import Array
from pilotfish_sidecar.decode.reasons import Reason, TensorError

__all__ = ["MAX_COLUMNS", "NO_SIGNATURE", "Block", "DecodeSignature", "Decoded", "NamedTensor", "arrange"]

MAX_COLUMNS: Final = 4096
"""Columns of one tensor; an image is no row of features."""

NamedTensor = tuple[str, tuple[int, ...], Array]
"""Name, shape, flat values."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodeSignature:
    """What the decoder needs to know of a model; all of it may be empty.

    Keep one per model: it is compared by identity, so that the names of columns are found without
    hashing hundreds of texts per call.

    Attributes:
        inputs: names of the graph's inputs; empty accepts any tensor.
        feature_names: names of the columns of the matrix input.
        classes: names of the columns of the probability matrix.
    """

    inputs: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    accepted: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Collect the names that an input tensor may have; none when any may."""
        names = {*self.inputs, *self.feature_names} if self.inputs else ()
        object.__setattr__(self, "accepted", frozenset(names))


NO_SIGNATURE: Final = DecodeSignature()


@dataclass(frozen=True, slots=True)
class Block:
    """Columns that came as one tensor.

    Attributes:
        names: of the columns; the same tuple object for every call of the same form.
        values: shape (rows, columns), read-only for numbers; objects are str.
    """

    names: tuple[str, ...]
    values: Array


@dataclass(frozen=True, slots=True)
class Decoded:
    """One call as rows.

    Attributes:
        input_blocks: the inputs, one block per tensor; stack equal blocks of many calls before looking at columns.
        output_blocks: the outputs; empty for a failed call.
        rows: predictions in the call, at least 1.
        id: the request's own id, else the response's, else empty.
        model_name: as the caller wrote it (gRPC) or as the response says (REST).
        model_version: the version that answered, where the response says it; else the one asked for.
        skipped: tensors that are not in the blocks, and why; the rest of the call is whole.
    """

    input_blocks: tuple[Block, ...]
    output_blocks: tuple[Block, ...]
    rows: int
    id: str
    model_name: str
    model_version: str
    skipped: tuple[tuple[str, Reason], ...] = ()

    @property
    def inputs(self) -> dict[str, Array]:
        """Return every input column by name, each of shape (rows,)."""
        return _by_name(self.input_blocks)

    @property
    def outputs(self) -> dict[str, Array]:
        """Return every output column by name, each of shape (rows,)."""
        return _by_name(self.output_blocks)

    def row_ids(self, fallback: str = "") -> list[str]:
        """Return one prediction id per row: the call's id, with `/0`, `/1` … where it has several rows.

        Args:
            fallback: the id to use when the call carries none (the tap's).
        """
        base = self.id or fallback
        return [base] if self.rows == 1 else [f"{base}/{index}" for index in range(self.rows)]


def _by_name(blocks: Iterable[Block]) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    for block in blocks:
        columns.update(zip(block.names, block.values.T, strict=True))
    return columns


@functools.lru_cache(maxsize=512)
def _input_names(tensor: str, columns: int, signature: DecodeSignature) -> tuple[str, ...]:
    if columns == len(signature.feature_names) and tensor not in signature.feature_names:
        return signature.feature_names
    return (tensor,) if columns == 1 else tuple(f"{tensor}_{index}" for index in range(columns))


@functools.lru_cache(maxsize=512)
def _output_names(tensor: str, columns: int, signature: DecodeSignature) -> tuple[str, ...]:
    if columns == 1:
        return (tensor,)
    if columns == len(signature.classes):
        return tuple(f"probability_{name}" for name in signature.classes)
    stem = "probability" if "prob" in tensor.lower() and not signature.classes else tensor
    return tuple(f"{stem}_{index}" for index in range(columns))


def _as_rows(shape: tuple[int, ...], values: Array) -> Array:
    rows = shape[0] if shape else 1
    columns = values.size // rows
    if columns > MAX_COLUMNS:
        raise TensorError(Reason.TOO_MANY_COLUMNS, f"{columns} columns, the limit is {MAX_COLUMNS}")
    return values.reshape(rows, columns)


def arrange(
    inputs: Sequence[NamedTensor],
    outputs: Sequence[NamedTensor],
    signature: DecodeSignature,
    *,
    ident: str,
    model_name: str,
    model_version: str,
    skipped: Mapping[str, Reason],
) -> Decoded:
    """Return the call as rows.

    An output whose rows are not those of the inputs is skipped; inputs must agree.

    Raises:
        TensorError: no usable input (`no_inputs`, `unknown_tensor`, `too_many_columns`), or they disagree
            in rows (`bad_shape`).
    """
    left_out = dict(skipped)
    blocks: list[Block] = []
    rows = 0
    accepted = signature.accepted
    for name, shape, values in inputs:
        if accepted and name not in accepted:
            left_out[name] = Reason.UNKNOWN_TENSOR
            continue
        table = _try_rows(name, shape, values, left_out)
        if table is None:
            continue
        if rows not in (0, len(table)):
            raise TensorError(Reason.BAD_SHAPE, f"{name[:80]!r} has {len(table)} rows, the tensors before it {rows}")
        rows = len(table)
        blocks.append(Block(_input_names(name, table.shape[1], signature), table))
    if not blocks:
        reason = next(iter(left_out.values()), Reason.NO_INPUTS)
        raise TensorError(reason, f"no input can be used: {', '.join(left_out)[:200] or 'there is none'}")
    answers: list[Block] = []
    for name, shape, values in outputs:
        table = _try_rows(name, shape, values, left_out)
        if table is not None and len(table) != rows:
            left_out[name] = Reason.BAD_SHAPE
        elif table is not None:
            answers.append(Block(_output_names(name, table.shape[1], signature), table))
    return Decoded(tuple(blocks), tuple(answers), rows, ident, model_name, model_version, tuple(left_out.items()))


def _try_rows(name: str, shape: tuple[int, ...], values: Array, left_out: dict[str, Reason]) -> Array | None:
    try:
        return _as_rows(shape, values)
    except TensorError as error:
        left_out[name] = error.reason
        return None
