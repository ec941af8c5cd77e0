"""Signatures: what a model takes and gives, as plain JSON values, and whether two of them agree.

Owns the form of `signature.json`. It never reads a file and never loads a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any  # JSON before it is checked

__all__ = ["DATATYPES", "FEATURE_LIMIT", "Signature", "Tensor", "disagreements", "read_signature", "refine"]

DATATYPES = (
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip
"""Datatypes of the Open Inference Protocol."""

FEATURE_LIMIT = 20_000
_TENSOR_LIMIT = 4_096
_RANK_LIMIT = 16
_NAME_CHARS = 512
_KINDS = ("numeric", "categorical")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `shape` is None where its rank is not known, -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    levels: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as `FP32[-1,4]`."""
        shape = "?" if self.shape is None else ",".join(map(str, self.shape))
        return f"{self.datatype}[{shape}]"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        known = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape or ())}
        return {**known, "levels": list(self.levels)} if self.levels else known


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out.

    Attributes:
        feature_names: names of the columns of a single matrix input, in order.
        classes: of a classifier, in the order of its probabilities.
        feature_kinds: feature -> numeric or categorical.
        label: name of the column that was learned.
    """

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    feature_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    feature_kinds: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, as in signature.json."""
        known = {
            "inputs": [t.to_json() for t in self.inputs],
            "outputs": [t.to_json() for t in self.outputs],
            "feature_names": list(self.feature_names),
            "classes": list(self.classes),
        }
        more = {"feature_kinds": dict(self.feature_kinds), "label": self.label}
        return known | {key: value for key, value in more.items() if value}


def read_signature(document: object) -> tuple[Signature, list[str]]:
    """Return the signature in a JSON document, and everything that is wrong with it."""
    if not isinstance(document, dict):
        return Signature(), ["is not a JSON object"]
    found: list[str] = []
    known = {"inputs", "outputs", "feature_names", "classes", "feature_kinds", "label"}
    found += [f"{key[:64]!r} is not a field of a signature" for key in sorted(set(document) - known)[:5]]
    signature = Signature(
        _tensors(document.get("inputs", []), "inputs", found),
        _tensors(document.get("outputs", []), "outputs", found),
        _texts(document.get("feature_names", []), "feature_names", found),
        _texts(document.get("classes", []), "classes", found),
        _kinds(document.get("feature_kinds", {}), found),
        str(document.get("label") or ""),
    )
    for side in ("inputs", "outputs"):
        names = [t.name for t in getattr(signature, side)]
        found += [f"{side}: {name!r} comes twice" for name in sorted({n for n in names if names.count(n) > 1})[:5]]
    found += _features_fit(signature)
    return signature, found


def _kinds(value: object, found: list[str]) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > FEATURE_LIMIT or any(v not in _KINDS for v in value.values()):
        found.append(f"feature_kinds: must be an object, feature to one of {', '.join(_KINDS)}")
        return {}
    return {str(name): str(kind) for name, kind in value.items()}


def _features_fit(signature: Signature) -> list[str]:
    """Return whether the feature names fit the one matrix that they name the columns of."""
    if not signature.feature_names or len(signature.inputs) != 1:
        return []
    shape = signature.inputs[0].shape
    if shape is None or len(shape) != 2 or shape[1] in (-1, len(signature.feature_names)):
        return []
    name = signature.inputs[0].name
    return [f"feature_names: {len(signature.feature_names)} names for the {shape[1]} columns of {name!r}"]


def _tensors(value: object, where: str, found: list[str]) -> tuple[Tensor, ...]:
    if not isinstance(value, list) or len(value) > _TENSOR_LIMIT:
        found.append(f"{where}: must be a list of at most {_TENSOR_LIMIT} tensors")
        return ()
    read = [_tensor(item, f"{where}[{i}]", found) for i, item in enumerate(value)]
    return tuple(t for t in read if t is not None)


def _tensor(item: object, where: str, found: list[str]) -> Tensor | None:
    if not isinstance(item, dict):
        found.append(f"{where}: must be an object with name, datatype and shape")
        return None
    before = len(found)
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    found += [
        f"{where}: {key[:64]!r} is not a field of a tensor"
        for key in sorted(set(item) - {"name", "datatype", "shape", "levels"})[:5]
    ]
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_CHARS or "\x00" in name:
        found.append(f"{where}.name: must be a text of 1 to {_NAME_CHARS} characters")
    if datatype not in DATATYPES:
        found.append(f"{where}.datatype: must be one of {', '.join(DATATYPES)}")
    if not _is_shape(shape):
        found.append(f"{where}.shape: must be a list of at most {_RANK_LIMIT} whole numbers, -1 for a variable one")
    levels = _texts(item.get("levels", []), f"{where}.levels", found)
    if len(found) > before or not _is_shape(shape):
        return None
    return Tensor(str(name), str(datatype), tuple(shape or ()), levels)


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, list) or len(shape) > _RANK_LIMIT:
        return False
    return all(isinstance(d, int) and not isinstance(d, bool) and -1 <= d < 2**40 for d in shape)


def _texts(value: object, where: str, found: list[str]) -> tuple[str, ...]:
    """Return a list of texts; whole numbers, as class labels often are, are taken as texts."""
    if not isinstance(value, list) or len(value) > FEATURE_LIMIT:
        found.append(f"{where}: must be a list of at most {FEATURE_LIMIT} texts")
        return ()
    texts = []
    for i, item in enumerate(value):
        text = str(item) if isinstance(item, int) and not isinstance(item, bool) else item
        if not isinstance(text, str) or len(text) > _NAME_CHARS or "\x00" in text:
            found.append(f"{where}[{i}]: must be a text of at most {_NAME_CHARS} characters")
            return ()
        texts.append(text)
    if len(set(texts)) < len(texts):
        found.append(f"{where}: a name comes twice")
    return tuple(texts)


def disagreements(said: Signature, real: Signature) -> list[str]:
    """Return every way in which what was said contradicts the graph.

    All inputs must be named when any is; outputs may be left out. -1 on either side fits every size.
    """
    found: list[str] = []
    for side, wanted, there in (("input", said.inputs, real.inputs), ("output", said.outputs, real.outputs)):
        graph = {t.name: t for t in there}
        for tensor in wanted:
            twin = graph.pop(tensor.name, None)
            if twin is None:
                names = ", ".join(t.name for t in there) or "none"
                found.append(f"{side} {tensor.name!r} is not in the model; its {side}s are: {names}")
            elif twin.datatype != tensor.datatype or not _fits(tensor.shape, twin.shape):
                found.append(f"{side} {tensor.name!r} is said to be {tensor}, and is {twin} in the model")
        if wanted and side == "input":
            found += [f"input {name!r} of the model is missing" for name in graph]
    return found + _features_fit(Signature(real.inputs, (), said.feature_names))


def _fits(said: Sequence[int] | None, real: Sequence[int] | None) -> bool:
    if said is None or real is None:
        return True
    return len(said) == len(real) and all(a == b or -1 in (a, b) for a, b in zip(said, real, strict=True))


def refine(real: Signature, *said: Signature) -> tuple[Signature, list[str]]:
    """Return the graph's signature with what was said added to it, and where two that said something contradict.

    The graph gives names, order and datatypes; a fixed size that was said replaces a variable one.
    """
    found: list[str] = []
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    for one in said:
        for what, old, new in (("feature_names", features, one.feature_names), ("classes", classes, one.classes)):
            if old and new and old != new:
                found.append(f"{what} differ between signature.json and the request")
        features, classes = features or one.feature_names, classes or one.classes
    sides = []
    for side in ("inputs", "outputs"):
        spoken = [{t.name: t for t in getattr(one, side)} for one in said]
        sides.append(tuple(_refined(t, [s[t.name] for s in spoken if t.name in s], found) for t in getattr(real, side)))
    kinds: Mapping[str, str] = next((one.feature_kinds for one in said if one.feature_kinds), {})
    label = next((one.label for one in said if one.label), "")
    return Signature(sides[0], sides[1], features, classes, kinds, label), found


def _refined(real: Tensor, said: Sequence[Tensor], found: list[str]) -> Tensor:
    shape, levels = real.shape, real.levels
    for one in said:
        if not _fits(one.shape, shape):
            found.append(f"tensor {real.name!r}: the shapes in signature.json and the request differ")
            continue
        if shape is None:
            shape = one.shape
        elif one.shape is not None:
            shape = tuple(a if a != -1 else b for a, b in zip(shape, one.shape, strict=True))
        if levels and one.levels and levels != one.levels:
            found.append(f"tensor {real.name!r}: the levels in signature.json and the request differ")
        levels = levels or one.levels
    return Tensor(real.name, real.datatype, shape, levels)


def as_mapping(signature: Signature) -> Mapping[str, Any]:
    """Return plain JSON values; an empty object for an empty signature."""
    return signature.to_json() if signature.inputs or signature.outputs else {}
