"""Writes the whole model, from columns to answers, as one ONNX graph.

Owns the graph's outputs and its signature. That it answers like scikit-learn is proved in `parity`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from pilotfish_control_plane.trainer.features import FittedFeatures
from pilotfish_control_plane.trainer.onnx_features import FeatureGraph, feature_graph
from pilotfish_control_plane.trainer.onnx_trees import boosting_nodes, is_boosting
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed
from pilotfish_control_plane.trainer.scorer import ModelUnusable, Scorer, load_scorer
from pilotfish_control_plane.trainer.spec import Task
from pilotfish_control_plane.trainer.table import NUMERIC, class_names

__all__ = ["Exported", "export_model"]

_OPSET = 18
_ML_OPSET = 3
_IR_VERSION = 8
_PREFIX = "pf_est_"


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """The graph as bytes, its signature, and a scorer that has it loaded."""

    content: bytes
    signature: dict[str, Any]
    scorer: Scorer


def export_model(
    estimator: Any, fitted: FittedFeatures, label: npt.NDArray[Any], label_name: str, task: Task
) -> Exported:
    """Return features and estimator as one loaded ONNX model.

    Args:
        estimator: fitted.
        fitted: the transformations in front of it.
        label: training labels, for the type and the spread of the answers.
        label_name: column that is predicted.
        task: what the answers are.

    Raises:
        TrainingFailed: EXPORT_FAILED, when the estimator has no ONNX form or its graph does not load.
    """
    classes = list(class_names(label)) if task is Task.CLASSIFICATION else []
    try:
        features = feature_graph(fitted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converters read attributes that scikit-learn is about to rename
            nodes, constants, outputs = _estimator_nodes(estimator, features, classes, len(fitted.names))
        model = _model(features, nodes, constants, outputs, classes)
        signature = _signature(fitted, features, classes, label_name)
        content = model.SerializeToString()
        return Exported(content, signature, load_scorer(content, signature))
    except TrainingFailed:
        raise
    except (ModelUnusable, onnx.checker.ValidationError, Exception) as error:
        message = f"{type(estimator).__name__} cannot be written as ONNX: {str(error).strip()[:500]}"
        issue = Issue("export", Severity.ERROR, "training_config.model_config", message)
        raise TrainingFailed(Reason.EXPORT_FAILED, message, [issue]) from error


def _estimator_nodes(
    estimator: Any, features: FeatureGraph, classes: Sequence[Any], width: int
) -> tuple[list[NodeProto], list[TensorProto], dict[str, str]]:
    """Return the estimator's nodes and constants, and the internal names of its outputs."""
    if is_boosting(estimator):
        nodes, constants, found = boosting_nodes(estimator, features.output)
        if not classes:
            return nodes, constants, {"prediction": found}
        constants.append(numpy_helper.from_array(_class_array(classes), "pf_classes"))
        nodes.append(helper.make_node("ArgMax", [found], ["pf_best"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Gather", ["pf_classes", "pf_best"], ["pf_label"], axis=0))
        return nodes, constants, {"label": "pf_label", "probabilities": found}
    return _converted(estimator, features, classes, width)


def _class_array(classes: Sequence[Any]) -> npt.NDArray[Any]:
    return np.asarray(classes, dtype=np.int64 if isinstance(classes[0], int) else object)


def _converted(
    estimator: Any, features: FeatureGraph, classes: Sequence[Any], width: int
) -> tuple[list[NodeProto], list[TensorProto], dict[str, str]]:
    import skl2onnx  # imported here: it takes a second
    from skl2onnx.common.data_types import FloatTensorType

    # Any: the declared types of both arguments and result are narrower than what is accepted and given.
    to_onnx: Any = skl2onnx.to_onnx
    model: Any = to_onnx(
        estimator,
        initial_types=[("matrix", FloatTensorType([None, width]))],
        options={id(estimator): {"zipmap": False}} if classes else None,
        target_opset={"": _OPSET, "ai.onnx.ml": _ML_OPSET},
    )
    # Features keep their own names as inputs, so no name inside may be one that a user could choose.
    graph = onnx.compose.add_prefix(model, _PREFIX).graph
    first = helper.make_node("Identity", [features.output], [f"{_PREFIX}matrix"], "pf_to_estimator")
    names = [output.name for output in graph.output]
    if classes:
        outputs = {
            "label": next(name for name in names if "label" in name),
            "probabilities": next(name for name in names if "prob" in name),
        }
    else:
        outputs = {"prediction": names[0]}
    return [first, *graph.node], list(graph.initializer), outputs


def _model(
    features: FeatureGraph,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    outputs: dict[str, str],
    classes: Sequence[Any],
) -> onnx.ModelProto:
    shaped: list[NodeProto] = []
    infos: list[ValueInfoProto] = []
    for name, inner in outputs.items():
        if name == "probabilities":
            # Forests add up float32 shares: 1.0000001 would be served without this.
            shaped.append(helper.make_node("Clip", [inner, "pf_zero", "pf_one"], [name], f"pf_{name}"))
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, len(classes)]))
            continue
        # One value per row, whatever shape the converter gives it.
        shaped.append(helper.make_node("Reshape", [inner, "pf_flat"], [name], f"pf_{name}"))
        kind = TensorProto.FLOAT if name == "prediction" else _label_type(classes)
        infos.append(helper.make_tensor_value_info(name, kind, [None]))
    shapes = [
        numpy_helper.from_array(np.asarray([-1], dtype=np.int64), "pf_flat"),
        numpy_helper.from_array(np.asarray(0.0, dtype=np.float32), "pf_zero"),
        numpy_helper.from_array(np.asarray(1.0, dtype=np.float32), "pf_one"),
    ]
    graph = helper.make_graph(
        [*features.nodes, *nodes, *shaped],
        "pilotfish",
        features.inputs,
        infos,
        [*features.constants, *constants, *shapes],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="pilotfish")
    onnx.checker.check_model(model)
    return model


def _label_type(classes: Sequence[Any]) -> int:
    return TensorProto.INT64 if isinstance(classes[0], int) else TensorProto.STRING


def _signature(
    fitted: FittedFeatures, features: FeatureGraph, classes: Sequence[Any], label_name: str
) -> dict[str, Any]:
    roles = fitted.roles
    if len(features.inputs) == 1 and all(kind == NUMERIC for kind in roles.kinds.values()):
        inputs = [{"name": features.inputs[0].name, "datatype": "FP32", "shape": [-1, len(roles.features)]}]
    else:
        inputs = [
            {"name": name, "datatype": "FP32" if roles.kinds[name] == NUMERIC else "BYTES", "shape": [-1, 1]}
            for name in roles.features
        ]
    if classes:
        datatype = "INT64" if isinstance(classes[0], int) else "BYTES"
        outputs = [
            {"name": "label", "datatype": datatype, "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(classes)]},
        ]
    else:
        outputs = [{"name": "prediction", "datatype": "FP32", "shape": [-1]}]
    return {
        "inputs": inputs,
        "outputs": outputs,
        "feature_names": list(roles.features),
        "feature_kinds": dict(roles.kinds),
        "classes": list(classes),
        "label": label_name,
    }
