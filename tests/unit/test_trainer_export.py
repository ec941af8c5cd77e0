"""Every model type becomes an ONNX graph that answers like scikit-learn, or the job says which row differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from pilotfish_control_plane.trainer.estimator_names import ESTIMATORS
from pilotfish_control_plane.trainer.estimators import check_hyperparameters, make_estimator
from pilotfish_control_plane.trainer.export import export_model
from pilotfish_control_plane.trainer.features import fit_features
from pilotfish_control_plane.trainer.onnx_trees import _rounded_down
from pilotfish_control_plane.trainer.outcome import TrainingFailed
from pilotfish_control_plane.trainer.parity import check_parity
from pilotfish_control_plane.trainer.scorer import ModelUnusable, input_table, load_artifact
from pilotfish_control_plane.trainer.spec import FeatureConfig, FeatureSet, ModelConfig, Task, Transformation
from pilotfish_control_plane.trainer.table import Table, prepare_table, resolve_roles

from .trainer_data import people

SMALL: dict[str, dict[str, Any]] = {
    "extra_trees": {"n_estimators": 10},
    "gradient_boosting": {"n_estimators": 10},
    "hist_gradient_boosting": {"max_iter": 10},
    "mlp": {"max_iter": 30, "hidden_layer_sizes": [8]},
    "random_forest": {"n_estimators": 10},
}
SCALED = FeatureSet(transformations=(Transformation("scaling", "standard"), Transformation("encoding", "onehot")))


def table(label: str, features: tuple[str, ...] = ("age", "city", "flag", "income")) -> Table:
    frame = people(300)
    task = Task.REGRESSION if label == "amount" else Task.CLASSIFICATION
    roles, _ = resolve_roles(frame, FeatureConfig(label=label, features=features))
    return prepare_table(frame, roles, task)[0]


def trained(data: Table, task: Task, kind: str, feature_set: FeatureSet = SCALED) -> Any:
    fitted, matrix = fit_features(feature_set, data, task, 1)
    estimator = make_estimator(ModelConfig(kind, task), SMALL.get(kind, {}), 1, data.label)
    estimator.fit(matrix, data.label)
    return fitted, estimator, export_model(estimator, fitted, data.label, "y", task)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "label"),
    [(kind, label) for kind in ESTIMATORS[Task.CLASSIFICATION] for label in ("bought", "level")]
    + [(kind, "amount") for kind in ESTIMATORS[Task.REGRESSION]],
)
def test_every_model_type_answers_the_same_as_a_graph(kind: str, label: str) -> None:
    task = Task.REGRESSION if label == "amount" else Task.CLASSIFICATION
    data = table(label)
    fitted, estimator, exported = trained(data, task, kind)
    spread = float(np.std(data.label)) if task is Task.REGRESSION else 1.0
    parity = check_parity(exported, estimator, fitted, data.features, task, spread)
    assert parity.rows == 300
    assert parity.worst <= parity.tolerance
    # Beside the product's own check: the plain numbers.
    session = onnxruntime.InferenceSession(exported.content, providers=["CPUExecutionProvider"])
    answers: Any = session.run(None, exported.scorer.feeds(data.features))
    matrix = fitted.transform(data.features)
    if task is Task.REGRESSION:
        assert [output.name for output in session.get_outputs()] == ["prediction"]
        np.testing.assert_allclose(answers[0], estimator.predict(matrix), rtol=1e-4, atol=1e-3 * spread)
    else:
        assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
        np.testing.assert_allclose(answers[1], estimator.predict_proba(matrix), atol=1e-4)
        # In one thread, as it is served here, ten trees that agree add up to 1.0000001.
        shares = exported.scorer.answer(data.features).probabilities
        assert shares is not None and shares.min() >= 0.0 and shares.max() <= 1.0
        assert (answers[0] == estimator.predict(matrix)).mean() > 0.99
        assert exported.signature["classes"] == sorted(set(data.label.tolist()))


def test_the_converter_of_skl2onnx_is_still_wrong_about_histogram_boosting() -> None:
    # The day this fails, onnx_trees may go.
    import skl2onnx  # its declared types are narrower than what it takes
    from skl2onnx.common.data_types import FloatTensorType

    data = table("amount", ("age", "income"))
    _, matrix = fit_features(FeatureSet(), data, Task.REGRESSION, 1)
    estimator = make_estimator(ModelConfig("hist_gradient_boosting", Task.REGRESSION), {}, 1)
    estimator.fit(matrix, data.label)
    try:
        to_onnx: Any = skl2onnx.to_onnx
        model = to_onnx(estimator, initial_types=[("x", FloatTensorType([None, 2]))])
    except Exception:
        return
    found: Any = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": matrix})[0]
    assert np.abs(found.ravel() - estimator.predict(matrix)).max() > 1e-3


def test_values_on_a_threshold_fall_to_the_same_side_as_in_training() -> None:
    # Whole numbers put values exactly on the midpoints that trees cut at; scaling in float32 would move some of them.
    draw = np.random.default_rng(4)
    frame = pd.DataFrame({f"p{i}": draw.integers(0, 17, 800) for i in range(20)})
    frame["y"] = (frame.sum(axis=1) + draw.normal(0, 8, 800) > 160).astype(int)
    roles, _ = resolve_roles(frame, FeatureConfig(label="y"))
    data, _ = prepare_table(frame, roles, Task.CLASSIFICATION)
    for kind in ("decision_tree", "gradient_boosting", "hist_gradient_boosting"):
        fitted, estimator, exported = trained(data.take(np.arange(400)), Task.CLASSIFICATION, kind)
        parity = check_parity(exported, estimator, fitted, data.features, Task.CLASSIFICATION, 1.0)
        assert (parity.rows, parity.ties) == (800, 0)
        assert parity.worst < 1e-6


@pytest.mark.parametrize("threshold", [0.1, 1 / 3, -1 / 3, 16777217.0, 1e-42, 0.5, -0.1])
def test_thresholds_are_rounded_down_so_that_comparisons_stay_the_same(threshold: float) -> None:
    rounded = _rounded_down(threshold)
    assert float(rounded) <= threshold < float(np.nextafter(rounded, np.float32(np.inf)))


def test_a_graph_that_answers_otherwise_is_refused_with_its_worst_row() -> None:
    data = table("bought", ("age", "income"))
    fitted, estimator, exported = trained(data, Task.CLASSIFICATION, "logistic_regression")
    estimator.intercept_ = estimator.intercept_ + 0.5
    with pytest.raises(TrainingFailed) as caught:
        check_parity(exported, estimator, fitted, data.features, Task.CLASSIFICATION, 1.0)
    (issue,) = caught.value.issues
    assert "of 300 rows differently" in issue.message
    assert "age=" in issue.message
    assert (issue.check, issue.limit) == ("parity", 1e-4)
    regression = table("amount", ("age", "income"))
    fitted, estimator, exported = trained(regression, Task.REGRESSION, "ridge")
    estimator.intercept_ = estimator.intercept_ + 1.0
    with pytest.raises(TrainingFailed, match="300 of 300 rows"):
        check_parity(exported, estimator, fitted, regression.features, Task.REGRESSION, 10.0)


def test_a_model_without_a_graph_is_refused_with_the_cause() -> None:
    data = table("bought", ("age", "income"))
    fitted, _ = fit_features(SCALED, data, Task.CLASSIFICATION, 1)

    class Unknown:
        classes_ = np.asarray([0, 1])

    with pytest.raises(TrainingFailed, match="Unknown cannot be written as ONNX"):
        export_model(Unknown(), fitted, data.label, "y", Task.CLASSIFICATION)


def test_numbers_only_are_one_matrix_and_anything_else_one_tensor_each() -> None:
    _, _, exported = trained(table("bought", ("age", "income")), Task.CLASSIFICATION, "naive_bayes")
    assert exported.signature["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 2]}]
    assert exported.signature["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ]
    _, _, exported = trained(table("level", ("city", "age")), Task.CLASSIFICATION, "naive_bayes")
    assert exported.signature["inputs"] == [
        {"name": "city", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "age", "datatype": "FP32", "shape": [-1, 1]},
    ]
    assert exported.signature["outputs"][0]["datatype"] == "BYTES"
    assert (exported.signature["classes"], exported.signature["label"]) == (["high", "low", "mid"], "y")


@pytest.mark.parametrize("name", ["input", "variable", "matrix", "mul_result", "a b/c:0", "ünï"])
def test_a_feature_may_have_any_name(name: str) -> None:
    frame = people(100).rename(columns={"age": name})
    roles, issues = resolve_roles(frame, FeatureConfig(label="bought", features=(name, "city")))
    assert not issues
    data, _ = prepare_table(frame, roles, Task.CLASSIFICATION)
    for kind in ("logistic_regression", "knn"):
        fitted, estimator, exported = trained(data, Task.CLASSIFICATION, kind)
        check_parity(exported, estimator, fitted, data.features, Task.CLASSIFICATION, 1.0)


def test_a_single_number_called_input_is_still_served() -> None:
    frame = people(100).rename(columns={"income": "input"})
    roles, _ = resolve_roles(frame, FeatureConfig(label="bought", features=("input",)))
    data, _ = prepare_table(frame, roles, Task.CLASSIFICATION)
    exported = trained(data, Task.CLASSIFICATION, "logistic_regression")[2]
    assert exported.scorer.answer(data.features).label.shape == (100,)


def test_neighbours_at_one_distance_may_be_chosen_either_way_and_are_counted() -> None:
    # Whole ages and few cities: most rows have several neighbours that are equally far away.
    data = table("bought", ("age", "city"))
    fitted, estimator, exported = trained(data, Task.CLASSIFICATION, "knn", FeatureSet())
    parity = check_parity(exported, estimator, fitted, data.features, Task.CLASSIFICATION, 1.0)
    assert 0 < parity.ties < 300
    assert parity.worst < 1e-6


# Hyperparameters


def test_wrong_hyperparameters_are_all_named() -> None:
    model = ModelConfig("svm", Task.CLASSIFICATION)
    issues = check_hyperparameters(
        model, {"C": -1, "kernal": "rbf", "random_state": 3, "n_jobs": 8, "gamma": "scale", "degree": 3.0}
    )
    found = {issue.column: issue.message for issue in issues}
    assert set(found) == {
        f"training_config.hyperparameters.{name}" for name in ("C", "kernal", "random_state", "n_jobs")
    }
    assert "Got -1 instead" in found["training_config.hyperparameters.C"]
    assert "did you mean 'kernel'?" in found["training_config.hyperparameters.kernal"]
    assert "decided by the job" in found["training_config.hyperparameters.n_jobs"]


def test_whole_numbers_written_as_floats_reach_the_estimator_as_meant() -> None:
    forest = make_estimator(
        ModelConfig("random_forest"), {"n_estimators": 7.0, "max_depth": 3.0, "max_features": 1.0}, 1
    )
    assert (forest.n_estimators, type(forest.n_estimators)) == (7, int)
    assert (forest.max_depth, forest.max_features) == (3, 1.0)
    assert make_estimator(ModelConfig("mlp"), {"hidden_layer_sizes": [8.0, 4.0]}, 1).hidden_layer_sizes == (8, 4)
    assert forest.random_state == 1 and forest.n_jobs is None


def test_class_weights_are_looked_up_by_the_classes_text() -> None:
    labels = np.asarray([0, 1, 1])
    model = make_estimator(ModelConfig("logistic_regression"), {"class_weight": {"0": 2, "1": 1}}, 1, labels)
    assert model.class_weight == {0: 2, 1: 1}


# Artifacts of others


def test_an_artifact_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="cannot be read"):
        load_artifact(tmp_path)
    (tmp_path / "signature.json").write_text(json.dumps({"inputs": []}))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelUnusable, match="no outputs, feature_names"):
        load_artifact(tmp_path)
    signature = {"inputs": [], "outputs": [], "feature_names": ["x", "z"]}
    (tmp_path / "signature.json").write_text(json.dumps(signature))
    with pytest.raises(ModelUnusable, match="does not load"):
        load_artifact(tmp_path)
    with pytest.raises(ModelUnusable, match="reads 2 columns that this data does not have: x, z"):
        input_table(people(3), signature)
