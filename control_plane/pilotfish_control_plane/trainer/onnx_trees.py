"""Writes scikit-learn's histogram gradient boosting as ONNX.

Owns a converter of its own because skl2onnx's gives wrong numbers or none at all: it hands NumPy integers to protobuf,
which refuses them, and rounds thresholds to the nearest float32, so that a value next to one can fall to the other
side. Here every threshold is rounded down: for float32 values `x <= t` then means the same as in double.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["boosting_nodes", "is_boosting"]


def is_boosting(estimator: Any) -> bool:
    """Return whether `estimator` is a histogram gradient boosting."""
    return type(estimator).__name__ in ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")


def boosting_nodes(estimator: Any, matrix: str) -> tuple[list[NodeProto], list[TensorProto], str]:
    """Return the nodes, the constants, and the name of the output of a fitted estimator.

    The output is the prediction [-1, 1] of a regression, or the probabilities [-1, classes].

    Args:
        estimator: fitted, without categorical features.
        matrix: name of the float32 matrix it reads.
    """
    trees = [tree for stage in estimator._predictors for tree in stage]
    outputs = len(estimator._predictors[0])
    attributes: dict[str, Any] = _tree_attributes(trees, outputs)
    baseline = np.ravel(np.asarray(estimator._baseline_prediction, dtype=np.float64))
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor",
            [matrix],
            ["pf_boost_raw"],
            "pf_boost",
            domain="ai.onnx.ml",
            n_targets=outputs,
            base_values=[float(value) for value in baseline],
            post_transform="NONE",
            **attributes,
        )
    ]
    if not hasattr(estimator, "classes_"):
        return nodes, [], "pf_boost_raw"
    if outputs > 1:
        nodes.append(helper.make_node("Softmax", ["pf_boost_raw"], ["pf_boost_probabilities"], axis=1))
        return nodes, [], "pf_boost_probabilities"
    one = numpy_helper.from_array(np.asarray([[1.0]], dtype=np.float32), "pf_boost_one")
    nodes += [
        helper.make_node("Sigmoid", ["pf_boost_raw"], ["pf_boost_second"]),
        helper.make_node("Sub", ["pf_boost_one", "pf_boost_second"], ["pf_boost_first"]),
        helper.make_node("Concat", ["pf_boost_first", "pf_boost_second"], ["pf_boost_probabilities"], axis=1),
    ]
    return nodes, [one], "pf_boost_probabilities"


def _tree_attributes(trees: Sequence[Any], outputs: int) -> dict[str, list[Any]]:
    """Return the trees as the parallel lists of the ONNX operator."""
    found: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids",
            "nodes_nodeids",
            "nodes_featureids",
            "nodes_modes",
            "nodes_values",
            "nodes_truenodeids",
            "nodes_falsenodeids",
            "nodes_missing_value_tracks_true",
            "target_treeids",
            "target_nodeids",
            "target_ids",
            "target_weights",
        )
    }
    for tree_id, tree in enumerate(trees):
        for node_id, node in enumerate(tree.nodes):
            leaf = bool(node["is_leaf"])
            found["nodes_treeids"].append(tree_id)
            found["nodes_nodeids"].append(node_id)
            found["nodes_featureids"].append(0 if leaf else int(node["feature_idx"]))
            found["nodes_modes"].append("LEAF" if leaf else "BRANCH_LEQ")
            found["nodes_values"].append(0.0 if leaf else float(_rounded_down(float(node["num_threshold"]))))
            found["nodes_truenodeids"].append(0 if leaf else int(node["left"]))
            found["nodes_falsenodeids"].append(0 if leaf else int(node["right"]))
            found["nodes_missing_value_tracks_true"].append(0 if leaf else int(node["missing_go_to_left"]))
            if leaf:
                found["target_treeids"].append(tree_id)
                found["target_nodeids"].append(node_id)
                found["target_ids"].append(tree_id % outputs)
                found["target_weights"].append(float(node["value"]))
    return found


def _rounded_down(threshold: float) -> np.float32:
    """Return the largest float32 that is not above `threshold`."""
    if np.isinf(threshold):
        return np.float32(threshold)
    nearest = np.float32(threshold)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > threshold else nearest
