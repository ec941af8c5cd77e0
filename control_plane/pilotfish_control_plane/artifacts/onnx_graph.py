"""Reading an ONNX file without running it: what it refers to, what it takes and gives.

Owns the walk over every tensor of a graph, nested graphs and functions included. It opens no other file: a tensor
that lies outside the model's own bytes is a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any  # onnx's protobuf classes carry no types

from pilotfish_control_plane.artifacts.signatures import Signature, Tensor

__all__ = ["MAX_MODEL_BYTES", "external_data", "graph_signature", "negative_sizes"]

MAX_MODEL_BYTES = 2**31 - 1
"""Protobuf's own limit."""

_DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64",
}  # fmt: skip
_EXTERNAL = 1  # TensorProto.EXTERNAL


def _graphs(model: Any) -> Iterator[Any]:
    """Yield every graph, outermost first."""
    waiting = [model.graph]
    for training in model.training_info:
        waiting += [training.algorithm, training.initialization]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += _nested(graph.node)
    for function in model.functions:
        waiting = list(_nested(function.node))
        while waiting:
            graph = waiting.pop()
            yield graph
            waiting += _nested(graph.node)


def _nested(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor that carries data, wherever it hangs."""
    nodes: list[Any] = [node for function in model.functions for node in function.node]
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes += graph.node
    attributes = [a for function in model.functions for a in function.attribute_proto]
    for attribute in attributes + [a for node in nodes for a in node.attribute]:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            yield from (sparse.values, sparse.indices)


def external_data(model: Any) -> list[str]:
    """Return every place outside the file that a tensor wants its data from."""
    found: dict[str, None] = {}
    for tensor in _tensors(model):
        if tensor.data_location == _EXTERNAL or len(tensor.external_data):
            place = next((e.value for e in tensor.external_data if e.key == "location"), "")
            found[f"tensor {tensor.name[:64]!r} at {place[:120]!r}"] = None
    return list(found)


def negative_sizes(model: Any) -> list[str]:
    """Return every tensor with a negative or absurd size."""
    found = []
    for tensor in _tensors(model):
        count = 1
        for size in tensor.dims:
            count *= max(size, 0) if size >= 0 else -(2**63)
        if count < 0 or count > 2**40 or any(size < 0 for size in tensor.dims):
            found.append(f"tensor {tensor.name[:64]!r} has the shape {list(tensor.dims)[:8]}")
    return found


def graph_signature(model: Any) -> tuple[Signature, list[str]]:
    """Return the graph's signature, and every input or output that the protocol cannot carry."""
    found: list[str] = []
    own = {t.name for t in model.graph.initializer}
    inputs = [_tensor(v, "input", found) for v in model.graph.input if v.name not in own]
    outputs = [_tensor(v, "output", found) for v in model.graph.output]
    if not outputs:
        found.append("it has no output")
    return Signature(tuple(t for t in inputs if t), tuple(t for t in outputs if t)), found


def _tensor(value: Any, side: str, found: list[str]) -> Tensor | None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        what = (kind or "nothing known").removesuffix("_type").replace("_", " ")
        hint = "; convert a classifier with zipmap off" if kind == "sequence_type" else ""
        found.append(f"{side} {value.name!r} is a {what}, only tensors can be served{hint}")
        return None
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None:
        found.append(f"{side} {value.name!r} has the element type {tensor.elem_type}, which cannot be served")
        return None
    if not tensor.HasField("shape"):
        return Tensor(value.name, datatype, None)
    shape = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    if any(d < -1 for d in shape):
        found.append(f"{side} {value.name!r} has the shape {shape}")
        return None
    # Exporters write 0 for "any number of rows" as well.
    return Tensor(value.name, datatype, tuple(-1 if d == 0 else d for d in shape))
