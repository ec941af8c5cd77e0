"""Writes fitted feature transformations as an ONNX graph that computes the very same numbers.

Owns the graph from the model's inputs to the float32 matrix of the estimator. The arithmetic is done in double, in the
order that scikit-learn does it, and rounded to float32 once: a scaled value that lies exactly on a tree's threshold
falls to the same side here as in training. Fits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from pilotfish_control_plane.trainer.features import FittedFeatures, Group
from pilotfish_control_plane.trainer.table import NUMERIC

__all__ = ["MATRIX_INPUT", "FeatureGraph", "feature_graph"]

MATRIX_INPUT = "input"
_MATRIX_OUTPUT = "pf_features"


@dataclass(slots=True)
class FeatureGraph:
    """Nodes, constants and inputs of the graph; `output` is the name of its float32 matrix."""

    inputs: list[ValueInfoProto] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    output: str = _MATRIX_OUTPUT
    _count: int = 0

    def constant(self, values: npt.NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self._count += 1
        name = f"pf_const_{self._count}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: list[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        self._count += 1
        name = output or f"pf_{operator.lower()}_{self._count}"
        self.nodes.append(
            helper.make_node(operator, inputs, [name], f"pf_node_{self._count}", domain=domain, **attributes)
        )
        return name


def feature_graph(fitted: FittedFeatures) -> FeatureGraph:
    """Return the graph of the fitted transformations.

    With numbers only there is one input `input` [-1, features] of float32, else one input [-1, 1] for each feature
    under its own name, float32 or text.
    """
    graph = FeatureGraph()
    roles = fitted.roles
    matrix = all(roles.kinds[name] == NUMERIC for name in roles.features)
    if matrix:
        graph.inputs.append(_input(MATRIX_INPUT, TensorProto.FLOAT, len(roles.features)))
    else:
        for name in roles.features:
            kind = TensorProto.FLOAT if roles.kinds[name] == NUMERIC else TensorProto.STRING
            graph.inputs.append(_input(name, kind, 1))
    parts: list[str] = []
    for group in fitted.groups:
        parts += _numbers(graph, fitted, group, matrix) if group.kind == NUMERIC else _categories(graph, fitted, group)
    whole = parts[0] if len(parts) == 1 else graph.node("Concat", parts, axis=1)
    width = sum(_width(fitted, group) for group in fitted.groups)
    if not np.array_equal(fitted.support, np.arange(width)):
        whole = graph.node("Gather", [whole, graph.constant(fitted.support.astype(np.int64))], axis=1)
    graph.node("Cast", [whole], graph.output, to=TensorProto.FLOAT)
    return graph


def _input(name: str, kind: int, width: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None, width])


def _steps(fitted: FittedFeatures, group: Group) -> tuple[Any, Any]:
    steps = fitted.columns.named_transformers_[group.key].named_steps
    return steps["impute"], steps["transform"]


def _width(fitted: FittedFeatures, group: Group) -> int:
    _, transform = _steps(fitted, group)
    if hasattr(transform, "categories_"):
        return sum(len(levels) for levels in transform.categories_)
    return len(group.columns)


def _numbers(graph: FeatureGraph, fitted: FittedFeatures, group: Group, matrix: bool) -> list[str]:
    """Add a group of numbers: gather, to double, fill what is missing, scale."""
    names = fitted.roles.features
    if not matrix:
        columns = list(group.columns)
        value = columns[0] if len(columns) == 1 else graph.node("Concat", columns, axis=1)
    elif group.columns == names:
        value = MATRIX_INPUT
    else:
        positions = np.asarray([names.index(name) for name in group.columns], dtype=np.int64)
        value = graph.node("Gather", [MATRIX_INPUT, graph.constant(positions)], axis=1)
    missing = graph.node("IsNaN", [value])
    value = graph.node("Cast", [value], to=TensorProto.DOUBLE)
    impute, scale = _steps(fitted, group)
    fill = np.nan_to_num(np.asarray(impute.statistics_, dtype=np.float64))
    value = graph.node("Where", [missing, graph.constant(fill[None, :]), value])
    for operator, numbers in _scaling(scale):
        value = graph.node(operator, [value, graph.constant(np.asarray(numbers, dtype=np.float64)[None, :])])
    return [value]


def _scaling(scaler: Any) -> list[tuple[str, Any]]:
    """Return the operations of a fitted scaler, in its own order."""
    kind = type(scaler).__name__
    if kind == "StandardScaler":
        return [("Sub", scaler.mean_), ("Div", scaler.scale_)]
    if kind == "RobustScaler":
        return [("Sub", scaler.center_), ("Div", scaler.scale_)]
    if kind == "MinMaxScaler":
        return [("Mul", scaler.scale_), ("Add", scaler.min_)]
    if kind == "MaxAbsScaler":
        return [("Div", scaler.scale_)]
    if scaler == "passthrough" or kind == "FunctionTransformer":
        return []
    raise TypeError(f"the scaler {kind} has no graph")


def _categories(graph: FeatureGraph, fitted: FittedFeatures, group: Group) -> list[str]:
    """Add a group of categories: each column is one look-up; a missing category is looked up as what fills it."""
    impute, encode = _steps(fitted, group)
    parts = []
    for index, (name, fill) in enumerate(zip(group.columns, impute.fill_, strict=True)):
        if hasattr(encode, "categories_"):
            levels = encode.categories_[index].tolist()
            codes = {str(level): code for code, level in enumerate(levels)}
            found = _look_up(graph, name, _filled(codes, fill, -1), -1)
            hot = graph.node("Equal", [found, graph.constant(np.arange(len(levels), dtype=np.int64)[None, :])])
            parts.append(graph.node("Cast", [hot], to=TensorProto.DOUBLE))
        else:
            # A double cannot be looked up (the operator gives float32), so the position is, and the number gathered.
            table, unknown = encode.tables_[index], encode.unknown_[index]
            positions = {level: code for code, level in enumerate(table)}
            found = _look_up(graph, name, _filled(positions, fill, len(table)), len(table))
            numbers = graph.constant(np.asarray([*table.values(), unknown], dtype=np.float64))
            parts.append(graph.node("Gather", [numbers, found], axis=0))
    return parts


def _filled(codes: dict[str, int], fill: str, unknown: int) -> dict[str, int]:
    """Return the codes with the empty text meaning what `fill` means."""
    return {**codes, "": codes.get(fill, unknown)} if fill else codes


def _look_up(graph: FeatureGraph, column: str, codes: dict[str, int], unknown: int) -> str:
    return graph.node(
        "LabelEncoder",
        [column],
        domain="ai.onnx.ml",
        keys_strings=list(codes),
        values_int64s=list(codes.values()),
        default_int64=unknown,
    )
