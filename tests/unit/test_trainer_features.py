"""Features are fitted on the training rows, and the exported graph computes the very same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
import pytest
from onnx import helper
from onnx.checker import check_model

from pilotfish.errors import Violation
from pilotfish_control_plane.trainer.encoders import FrequencyEncoder, OrdinalCodes, TargetMeans
from pilotfish_control_plane.trainer.features import FittedFeatures, feature_statistics, fit_features
from pilotfish_control_plane.trainer.fields import Fields
from pilotfish_control_plane.trainer.onnx_features import feature_graph
from pilotfish_control_plane.trainer.outcome import TrainingFailed
from pilotfish_control_plane.trainer.spec import FeatureConfig, Task
from pilotfish_control_plane.trainer.spec_features import read_feature_set
from pilotfish_control_plane.trainer.table import Table, prepare_table, resolve_roles

from .trainer_data import people

FEATURES = ("age", "city", "flag", "income")


def table(definition: dict[str, Any], features: tuple[str, ...] = FEATURES, label: str = "bought") -> Table:
    task = Task.REGRESSION if label == "amount" else Task.CLASSIFICATION
    frame = people(300)
    roles, issues = resolve_roles(frame, config(definition, features, label))
    assert not issues
    return prepare_table(frame, roles, task)[0]


def config(definition: dict[str, Any], features: tuple[str, ...], label: str) -> FeatureConfig:
    problems: list[Violation] = []
    feature_set = read_feature_set(Fields(definition, "", problems))
    assert not problems
    return FeatureConfig(label=label, feature_set=feature_set, features=features)


def fit(
    definition: dict[str, Any], features: tuple[str, ...] = FEATURES, label: str = "bought"
) -> tuple[Table, FittedFeatures, npt.NDArray[np.float32]]:
    data = table(definition, features, label)
    data = data.take(np.random.default_rng(1).permutation(len(data)))
    train = data.take(np.arange(200))
    task = Task.REGRESSION if label == "amount" else Task.CLASSIFICATION
    fitted, matrix = fit_features(config(definition, features, label).feature_set, train, task, seed=5)
    return data, fitted, matrix


def served(fitted: FittedFeatures, features: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return what the graph computes for rows, in onnxruntime."""
    graph = feature_graph(fitted)
    output = helper.make_tensor_value_info(graph.output, 1, [None, len(fitted.names)])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "f", graph.inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )
    check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    if len(graph.inputs) == 1 and graph.inputs[0].name == "input":
        feeds: dict[str, Any] = {"input": features.to_numpy(dtype=np.float32)}
    else:
        feeds = {str(name): features[name].to_numpy()[:, None] for name in features}
    return np.asarray(session.run([graph.output], feeds)[0], dtype=np.float32)


NUMERIC_AGE: dict[str, Any] = {
    "features": [{"name": "age", "kind": "numeric"}],
    "encoding": {"method": "onehot", "columns": ["age"]},
}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "usual": {"scaling": "standard", "encoding": "onehot"},
    "minmax and ordinal": {"scaling": "minmax", "encoding": "ordinal"},
    "robust and frequency": {"scaling": "robust", "encoding": "frequency", "imputation": "most_frequent"},
    "max_abs and target": {"scaling": "max_abs", "encoding": "target"},
    "each its own": {
        "scaling": [{"method": "standard", "columns": ["age"]}, {"method": "minmax", "columns": ["income"]}],
        "imputation": [
            {"method": "mean", "columns": ["age"]},
            {"method": "constant", "value": "Oslo", "columns": ["city"]},
        ],
    },
    "k best": {"scaling": "standard", "feature_selection": {"method": "k_best", "k": 3}},
    "percentile by information": {
        "feature_selection": {"method": "percentile", "percentile": 50, "score": "mutual_information"}
    },
    "variance": {"feature_selection": {"method": "variance", "threshold": 0.2}},
    "columns": {"feature_selection": {"method": "columns", "columns": ["income", "city"]}},
}


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("features", [FEATURES, ("age", "flag", "income")], ids=["mixed", "numbers"])
def test_serving_computes_bit_for_bit_what_training_did(name: str, features: tuple[str, ...]) -> None:
    definition = DEFINITIONS[name]
    if features != FEATURES and "city" in str(definition):
        definition = {"scaling": "robust", "imputation": {"method": "constant", "value": -1}}
    data, fitted, _ = fit(definition, features)
    rows = data.features.copy()
    if "city" in rows:
        rows.loc[0, "city"] = "a city that training never saw"
    rows.loc[1, "age"] = np.nan
    expected = fitted.transform(rows)
    found = served(fitted, rows)
    assert expected.dtype == found.dtype == np.float32
    assert expected.shape[1] == len(fitted.names)
    np.testing.assert_array_equal(found, expected)


def test_scaling_uses_the_training_rows_only() -> None:
    data, fitted, matrix = fit({"scaling": "standard", "imputation": "mean"}, ("age", "income"))
    train = data.features.iloc[:200].to_numpy(dtype=np.float64)
    filled = np.where(np.isnan(train), np.nanmean(train, axis=0), train)
    expected = (filled - filled.mean(axis=0)) / filled.std(axis=0)
    np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-6)
    outside = fitted.transform(data.features.iloc[200:])
    assert abs(float(outside.mean())) > 1e-3


def test_one_column_for_each_known_category_and_none_for_an_unknown_one() -> None:
    _, fitted, _ = fit({"encoding": "onehot"}, ("city",))
    assert fitted.names == ("city=", "city=Oslo", "city=Rom", "city=Žilina")
    rows = pd.DataFrame({"city": pd.Series(["Rom", "", "Atlantis"], dtype=object)})
    assert fitted.transform(rows).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_frequencies_codes_and_means_by_hand() -> None:
    X = np.asarray([["a"], ["a"], ["b"], ["c"]], dtype=object)
    new = np.asarray([["a"], ["b"], ["?"]], dtype=object)
    assert FrequencyEncoder().fit(X).transform(new).tolist() == [[0.5], [0.25], [0.0]]
    assert OrdinalCodes().fit(X).transform(new).tolist() == [[0.0], [1.0], [-1.0]]
    # Mean 0.5; a: (1 + 0 + 2·0.5) / (2 + 2), b: (1 + 2·0.5) / (1 + 2).
    means = TargetMeans(smoothing=2.0).fit(X, np.asarray([1, 0, 1, 0]))
    np.testing.assert_allclose(means.transform(new).ravel(), [0.5, 2 / 3, 0.5])


def test_target_means_do_not_carry_a_rows_own_label_into_training() -> None:
    draw = np.random.default_rng(0)
    X = np.asarray([[f"id{i}"] for i in range(400)], dtype=object)
    y = draw.integers(0, 2, 400)
    encoded = TargetMeans(smoothing=1.0).fit_transform(X, y).ravel()
    # Every category occurs once: nothing can be known of it. Fitted on itself, it would tell its label exactly.
    assert abs(float(np.corrcoef(encoded, y)[0, 1])) < 0.15
    assert float(np.corrcoef(TargetMeans(smoothing=1.0).fit(X, y).transform(X).ravel(), y)[0, 1]) > 0.99


def test_k_best_keeps_the_features_with_the_largest_f() -> None:
    from sklearn.feature_selection import f_classif

    data, fitted, _ = fit({"feature_selection": {"method": "k_best", "k": 2}}, ("age", "flag", "income"))
    train = data.take(np.arange(200))
    values = train.features.fillna(train.features.median()).to_numpy()
    scores = dict(zip(("age", "flag", "income"), f_classif(values, train.label)[0], strict=True))
    assert set(fitted.names) == set(sorted(scores, key=lambda name: -scores[name])[:2])


def test_a_regression_selects_by_its_own_score() -> None:
    _, fitted, _ = fit(
        {"feature_selection": {"method": "percentile", "percentile": 34}}, ("age", "flag", "income"), "amount"
    )
    assert len(fitted.names) == 1


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ({"scaling": {"method": "standard", "columns": ["agee"]}}, "did you mean 'age'"),
        (NUMERIC_AGE, "'age' is numeric"),
        ({"imputation": {"method": "mean", "columns": ["city"]}}, "'city' is categorical"),
        ({"feature_selection": {"method": "k_best", "k": 99}}, "asks for 99 of"),
        ({"feature_selection": {"method": "variance", "threshold": 1e12}}, "leaves no feature"),
    ],
)
def test_a_definition_that_does_not_fit_the_data_is_refused(definition: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingFailed, match="does not fit") as caught:
        fit(definition)
    assert said in caught.value.issues[0].message


def test_target_encoding_of_three_classes_is_refused() -> None:
    with pytest.raises(TrainingFailed) as caught:
        fit({"encoding": "target"}, label="level")
    assert "needs two classes" in caught.value.issues[0].message


def test_statistics_describe_the_training_rows() -> None:
    data, fitted, _ = fit({"feature_selection": {"method": "columns", "columns": ["age", "city"]}})
    train = data.take(np.arange(200))
    found = feature_statistics(train, fitted)
    age = train.features["age"].dropna().to_numpy(dtype=np.float64)
    assert found["age"]["count"] + found["age"]["missing"] == 200
    assert found["age"]["mean"] == pytest.approx(age.mean())
    assert found["age"]["sd"] == pytest.approx(age.std())
    assert (found["age"]["used"], found["income"]["used"], found["city"]["used"]) == (True, False, True)
    assert found["city"]["distinct"] == 3
    assert sum(found["city"]["levels"].values()) == found["city"]["count"]
