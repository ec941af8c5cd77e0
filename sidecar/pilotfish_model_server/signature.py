"""What a model takes and gives: tensors, feature names, classes.

Owns the form of `signature.json` and its agreement with the ONNX graph. It never loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_sidecar.decode.datatypes import DATATYPES

__all__ = ["Signature", "TensorSpec", "check_against_graph", "parse_signature"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name, its datatype in the protocol's words, its shape with -1 for a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What one model takes and gives.

    Attributes:
        inputs: tensors of the graph.
        outputs: tensors of the graph.
        feature_names: names of the columns of the one matrix input; empty when there are none.
        classes: names of the columns of a probability matrix; empty for a regression.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feature_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def matrix(self) -> TensorSpec | None:
        """Return the input that feature columns are assembled to; None when the graph has no such input."""
        if len(self.inputs) != 1 or len(self.inputs[0].shape) != 2 or not self.feature_names:
            return None
        return self.inputs[0]


def parse_signature(raw: bytes) -> Signature:
    """Return the signature that `signature.json` holds.

    Raises:
        InvalidArgument: it is no JSON or not of the form; every problem is named.
    """
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise InvalidArgument(f"signature.json is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument("signature.json is not a JSON object")
    problems: list[Violation] = []
    signature = Signature(
        inputs=_specs(document, "inputs", problems),
        outputs=_specs(document, "outputs", problems),
        feature_names=_names(document, "feature_names", problems),
        classes=_names(document, "classes", problems),
    )
    matrix = signature.matrix
    if matrix is not None and matrix.shape[1] not in (-1, len(signature.feature_names)):
        text = f"{len(signature.feature_names)} names, but {matrix.name} has {matrix.shape[1]} columns"
        problems.append(Violation("feature_names", text))
    if len(set(signature.feature_names)) != len(signature.feature_names):
        problems.append(Violation("feature_names", "a name occurs twice"))
    if problems:
        raise InvalidArgument("signature.json is not valid", violations=problems)
    return signature


def _specs(document: Mapping[str, Any], key: str, problems: list[Violation]) -> tuple[TensorSpec, ...]:
    entries = document.get(key)
    if not isinstance(entries, list) or not entries:
        problems.append(Violation(key, "must be a list of at least one tensor"))
        return ()
    specs = []
    for index, entry in enumerate(entries):
        where = f"{key}[{index}]"
        name = entry.get("name") if isinstance(entry, dict) else None
        datatype = entry.get("datatype") if isinstance(entry, dict) else None
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            problems.append(Violation(f"{where}.name", "must be a text that is not empty"))
        if datatype not in DATATYPES:
            problems.append(Violation(f"{where}.datatype", f"{datatype!r} is none of {', '.join(DATATYPES)}"))
        if not isinstance(shape, list) or not all(type(size) is int and size >= -1 for size in shape):
            problems.append(Violation(f"{where}.shape", "must be a list of integers, -1 for a free dimension"))
            shape = []
        specs.append(TensorSpec(str(name), str(datatype), tuple(shape)))
    return tuple(specs)


def _names(document: Mapping[str, Any], key: str, problems: list[Violation]) -> tuple[str, ...]:
    names = document.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        problems.append(Violation(key, "must be a list of texts"))
        return ()
    return tuple(str(name) for name in names)


def check_against_graph(signature: Signature, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Refuse a signature that the graph does not have.

    Raises:
        InvalidArgument: a tensor is missing in the graph, unknown to it, or of another datatype or shape.
    """
    problems: list[Violation] = []
    for key, said, real in (("inputs", signature.inputs, inputs), ("outputs", signature.outputs, outputs)):
        graph = {spec.name: spec for spec in real}
        for spec in said:
            found = graph.pop(spec.name, None)
            if found is None:
                problems.append(
                    Violation(key, f"the graph has no {spec.name!r}; it has {', '.join(s.name for s in real)}")
                )
            elif found.datatype != spec.datatype or not _fits(spec.shape, found.shape):
                text = f"{spec.name!r} is {spec.datatype}{list(spec.shape)}"
                problems.append(Violation(key, f"{text}, in the graph {found.datatype}{list(found.shape)}"))
        if key == "inputs":
            problems += [Violation(key, f"the graph's input {name!r} is missing") for name in graph]
    if problems:
        raise InvalidArgument("signature.json does not fit model.onnx", violations=problems)


def _fits(said: tuple[int, ...], real: tuple[int, ...]) -> bool:
    return len(said) == len(real) and all(-1 in (a, b) or a == b for a, b in zip(said, real, strict=True))
