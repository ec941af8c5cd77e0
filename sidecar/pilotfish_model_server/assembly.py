"""From the tensors of a call to the arrays that the graph takes.

Owns the two shapes of a call: the graph's own tensors, or one tensor per feature that is assembled to the
matrix. All problems of a call are found before it is refused. It never sees the protocol's messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_model_server.signature import Signature, TensorSpec
from pilotfish_sidecar.decode.datatypes import DATATYPES, Array, Datatype

__all__ = ["Feeds", "Tensor", "assemble", "choose_outputs"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a call or of an answer; `values` is flat for a call, shaped for an answer."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    values: Array


@dataclass(frozen=True, slots=True)
class Feeds:
    """What the graph is run with.

    Attributes:
        arrays: one per input of the graph.
        rows: predictions in the call.
    """

    arrays: dict[str, Array]
    rows: int


def assemble(signature: Signature, tensors: Sequence[Tensor]) -> Feeds:
    """Return the arrays for the graph.

    Raises:
        InvalidArgument: unknown, missing or repeated tensors, wrong datatypes or shapes; all are named.
    """
    given = {tensor.name: tensor for tensor in tensors}
    problems = [Violation("inputs", "the request has no tensors")] if not tensors else []
    if len(given) != len(tensors):
        problems.append(Violation("inputs", "a tensor's name occurs twice"))
    matrix = signature.matrix
    graph_names = {spec.name for spec in signature.inputs}
    features = frozenset(signature.feature_names)
    if matrix is not None and not graph_names & given.keys() and features & given.keys():
        wanted: Sequence[str] = signature.feature_names
    else:
        wanted, matrix = [spec.name for spec in signature.inputs], None
    problems += _name_problems(signature, given.keys() - set(wanted), [name for name in wanted if name not in given])
    if problems:
        raise InvalidArgument("the tensors do not fit the model", violations=problems)
    arrays = _columns(matrix, wanted, given, problems) if matrix else _as_in_graph(signature, given, problems)
    rows = {len(array) for array in arrays.values() if array.ndim}
    if len(rows) > 1:
        problems.append(Violation("inputs", f"the tensors disagree in rows: {sorted(rows)}"))
    if problems:
        raise InvalidArgument("the tensors do not fit the model", violations=problems)
    return Feeds(arrays, rows.pop() if rows else 1)


def _name_problems(signature: Signature, unknown: set[str], missing: list[str]) -> list[Violation]:
    problems = []
    known = ", ".join(spec.name for spec in signature.inputs)
    if signature.matrix is not None:
        known += f"; or one tensor per feature: {', '.join(signature.feature_names[:20])}"
        known += ", …" if len(signature.feature_names) > 20 else ""
    for name in sorted(unknown):
        problems.append(Violation(f"inputs[{name[:80]}]", f"unknown tensor; the model takes {known}"))
    if missing and (len(missing) <= 20):
        problems += [Violation(f"inputs[{name}]", "is missing") for name in missing]
    elif missing:
        problems.append(
            Violation("inputs", f"{len(missing)} tensors are missing, among them {', '.join(missing[:20])}")
        )
    return problems


def _as_in_graph(signature: Signature, given: dict[str, Tensor], problems: list[Violation]) -> dict[str, Array]:
    arrays = {}
    for spec in signature.inputs:
        tensor = given[spec.name]
        if tensor.datatype.name != spec.datatype:
            text = f"datatype is {tensor.datatype.name}, the model takes {spec.datatype}"
            problems.append(Violation(f"inputs[{spec.name}]", text))
        shape = _shape_for(spec, tensor.shape)
        if shape is None:
            text = f"shape is {list(tensor.shape)}, the model takes {list(spec.shape)}"
            problems.append(Violation(f"inputs[{spec.name}]", text))
        else:
            arrays[spec.name] = tensor.values.reshape(shape)
    return arrays


def _shape_for(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape to feed; a column [n] counts as [n, 1] where the graph has one column."""
    if len(spec.shape) == 2 and spec.shape[1] == 1 and len(shape) == 1:
        shape = (*shape, 1)
    fits = len(shape) == len(spec.shape) and all(b in (-1, a) for a, b in zip(shape, spec.shape, strict=True))
    return shape if fits else None


def _columns(
    matrix: TensorSpec, wanted: Sequence[str], given: dict[str, Tensor], problems: list[Violation]
) -> dict[str, Array]:
    """Return the matrix assembled from one tensor per feature; numbers of any width are converted."""
    dtype = DATATYPES[matrix.datatype].dtype
    rows = given[wanted[0]].shape[0] if given[wanted[0]].shape else 1
    for name in wanted:
        tensor = given[name]
        if (tensor.datatype.name == "BYTES") != (matrix.datatype == "BYTES"):
            text = f"datatype is {tensor.datatype.name}, the model takes {matrix.datatype}"
            problems.append(Violation(f"inputs[{name}]", text))
        elif tensor.shape not in ((rows,), (rows, 1)):
            text = f"shape is {list(tensor.shape)}; a feature is [{rows}] or [{rows}, 1], as {wanted[0]} is"
            problems.append(Violation(f"inputs[{name}]", text))
    if problems:
        return {}
    filled = np.empty((rows, len(wanted)), dtype)
    for index, name in enumerate(wanted):
        filled[:, index] = given[name].values
    return {matrix.name: filled}


def choose_outputs(signature: Signature, asked: Sequence[str]) -> list[str]:
    """Return the names of the outputs to compute: those asked for, or all.

    Raises:
        InvalidArgument: an output is unknown.
    """
    known = [spec.name for spec in signature.outputs]
    unknown = [name for name in asked if name not in known]
    if unknown:
        text = f"unknown output; the model gives {', '.join(known)}"
        raise InvalidArgument(
            "the model does not give that output",
            violations=[Violation(f"outputs[{name[:80]}]", text) for name in unknown],
        )
    return list(asked) or known
