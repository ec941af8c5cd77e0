"""Specifications are read whole or refused with every problem and its path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.trainer.spec import ApiSource, DatabaseSource, SearchRange, Task
from pilotfish_control_plane.trainer.spec_reader import read_spec

from .trainer_data import spec


def problems(document: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        read_spec(document)
    assert caught.value.reason == "SPEC_INVALID"
    return {item.field: item.description for item in caught.value.violations}


def with_field(path: str, value: Any) -> dict[str, Any]:
    document = spec(Path("/data"))
    target: Any = document
    *parents, last = path.split(".")
    for name in parents:
        target = target[int(name)] if name.isdigit() else target.setdefault(name, {})
    target[int(last) if last.isdigit() else last] = value
    return document


def test_a_small_specification_gets_the_documented_defaults() -> None:
    found = read_spec(spec(Path("/data")))
    assert found.training.model.task is Task.CLASSIFICATION
    assert (found.training.split.method, found.training.split.seed) == ("stratified", 3)
    assert found.evaluation.minimum_rows == 20
    assert found.quality.checks["missing"].limits == {"max_fraction": 0.5}
    assert [step.type for step in found.features.feature_set.transformations] == ["scaling", "encoding"]


def test_every_problem_is_told_at_once_with_its_path() -> None:
    found = problems(
        {
            "data_sources": [{"name": "a", "type": "ftp"}, {"name": "b", "type": "file", "pth": "x.csv"}],
            "feature_config": {"features": ["x", "x"], "join_config": {"base": "a", "joins": [{"source": "c"}]}},
            "training_config": {
                "model_config": {"type": "svn"},
                "split_config": {"method": "time", "train": 0.9},
                "search": {"method": "random", "space": {"C": {"low": 0, "high": 1, "log": True}}},
            },
            "evaluation_config": {"metrics": ["acc"], "thresholds": [{"metric": "rmse", "bound": "high"}]},
            "quality_config": {"drft": {"max_psi": 1}, "size": {"min_rows": -1}},
        }
    )
    assert "api, database, file, prediction_log" in found["data_sources[0].type"]
    assert "did you mean 'path'" in found["data_sources[1].pth"]
    assert "is missing" in found["data_sources[1].path"]
    assert "is missing" in found["feature_config.label"]
    assert "listed twice" in found["feature_config.features[1]"]
    assert "no source 'c'" in found["feature_config.join_config.joins[0].source"]
    assert "feature_config.join_config.joins[0].on" in found
    assert "did you mean 'svm'" in found["training_config.model_config.type"]
    assert "must be 1, got 1.3" in found["training_config.split_config"]
    assert "above 0 for log" in found["training_config.search.space.C.low"]
    assert "the time split needs it" in found["feature_config.time_column"]
    assert "not a metric" in found["evaluation_config.metrics[0]"]
    assert "classification" in found["evaluation_config.thresholds[0].metric"]
    assert "must be a number" in found["evaluation_config.thresholds[0].bound"]
    assert "did you mean 'drift'" in found["quality_config.drft"]
    assert "within 0" in found["quality_config.size.min_rows"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused_wherever_it_stands(value: float) -> None:
    found = problems(with_field("training_config.hyperparameters", {"C": [1.0, {"deep": value}]}))
    assert "finite" in found["training_config.hyperparameters.C[1].deep"]
    assert (
        "finite"
        in problems(with_field("evaluation_config.thresholds", [{"metric": "accuracy", "bound": value}]))[
            "evaluation_config.thresholds[0].bound"
        ]
    )


@pytest.mark.parametrize("document", [None, [], "x", 3, {}])
def test_what_is_no_specification_at_all_is_refused_without_a_crash(document: Any) -> None:
    assert problems(document)


@pytest.mark.parametrize(
    ("path", "value", "where", "said"),
    [
        ("seed", True, "seed", "whole number"),
        ("seed", 1.5, "seed", "whole number"),
        ("data_sources", [], "data_sources", "at least one"),
        ("data_sources.0.max_rows", 0, "data_sources[0].max_rows", "within 1"),
        ("data_sources.0.format", "xml", "data_sources[0].format", "csv, json, jsonl, parquet"),
        ("feature_config.features", ["age", "bought"], "feature_config.features", "is the label"),
        ("feature_config.features", ["age", "id"], "feature_config.features", "is the id_column"),
        ("feature_config.feature_set.scaling", "log", "feature_config.feature_set.scaling.method", "robust"),
        (
            "feature_config.feature_set.feature_selection",
            {"method": "k_best"},
            "feature_config.feature_set.feature_selection.k",
            "is missing",
        ),
        ("training_config.model_config.task", "ranking", "training_config.model_config.task", "regression"),
        ("training_config.model_config.type", "ridge", "training_config.model_config.type", "does not do"),
        ("training_config.model_config.framework", "torch", "training_config.model_config.framework", "sklearn"),
        ("training_config.split_config.test", 0, "training_config.split_config.test", "above 0"),
        ("evaluation_config.champion", {"require": "luck"}, "evaluation_config.champion.require", "significant"),
        ("quality_config.columns", {"age": {"min": 9, "max": 1}}, "quality_config.columns.age.max", "below min"),
        ("quality_config.drift", {"severity": "fatal"}, "quality_config.drift.severity", "warning"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(path: str, value: Any, where: str, said: str) -> None:
    assert said in problems(with_field(path, value))[where]


def test_numbers_written_as_floats_and_empty_fields_are_read_as_meant() -> None:
    # google.protobuf.Struct knows only floats, and some writers write unset fields out.
    document = with_field("seed", 7.0)
    document["data_sources"][0] |= {"format": "", "connection": "", "parameters": {}}
    document["feature_config"] |= {"time_column": "", "join_config": {}}
    document["evaluation_config"] |= {"metrics": [], "minimum_rows": 30.0}
    found = read_spec(document)
    assert (found.seed, found.evaluation.minimum_rows, found.features.time_column) == (7, 30, None)


def test_options_of_a_source_may_stand_in_an_object_of_their_own() -> None:
    document = spec(Path("/data"))
    document["data_sources"] = [
        {
            "name": "a",
            "type": "api",
            "endpoint": "https://example.org/rows",
            "parameters": {"since": 3, "all": True},
            "options": {"records_path": "data", "pagination": {"type": "cursor", "cursor_path": "next"}},
        }
    ]
    source = read_spec(document).sources[0]
    assert isinstance(source, ApiSource)
    assert (source.records_path, source.pagination.style, source.pagination.cursor_path) == ("data", "cursor", "next")
    assert source.parameters == {"since": "3", "all": "true"}


def test_a_cursor_without_its_place_in_the_answer_is_refused() -> None:
    document = spec(Path("/data"))
    document["data_sources"] = [
        {"name": "a", "type": "api", "endpoint": "https://x/", "pagination": {"type": "cursor"}}
    ]
    assert "data_sources[0].pagination.cursor_path" in problems(document)


def test_union_true_stacks_what_is_not_joined() -> None:
    document = spec(Path("/data"))
    document["data_sources"] = [{"name": name, "type": "file", "path": f"{name}.csv"} for name in "abc"]
    document["feature_config"]["join_config"] = {"base": "a", "joins": [{"source": "b", "on": "id"}], "union": True}
    join = read_spec(document).features.join
    assert join is not None
    assert (join.base, [step.source for step in join.joins], join.union) == ("a", ["b"], ("c",))
    document["feature_config"]["join_config"] = {"union": True}
    join = read_spec(document).features.join
    assert join is not None
    assert (join.base, join.union) == ("a", ("b", "c"))


def test_several_sources_need_a_join_and_none_may_be_forgotten() -> None:
    document = spec(Path("/data"))
    document["data_sources"] = [{"name": name, "type": "file", "path": f"{name}.csv"} for name in "ab"]
    assert "how a, b become one table" in problems(document)["feature_config.join_config"]
    document["feature_config"]["join_config"] = {"base": "a"}
    assert "leaves out b" in problems(document)["feature_config.join_config"]


def test_a_feature_set_is_read_as_the_registry_stores_it() -> None:
    document = with_field(
        "feature_config.feature_set",
        {
            "name": "projects/default/featureSets/f",
            "revision": 4.0,
            "author": "ann",
            "transformations": [
                {"type": "scaling", "method": "minmax", "columns": []},
                {"type": "feature_selection", "method": "k_best", "parameters": {"k": 3.0}},
            ],
        },
    )
    feature_set = read_spec(document).features.feature_set
    assert feature_set.version == 4
    assert [(step.method, step.columns, dict(step.options)) for step in feature_set.transformations] == [
        ("minmax", None, {}),
        ("k_best", None, {"k": 3, "score": "f"}),
    ]


def test_search_spaces_become_values_and_ranges() -> None:
    document = with_field(
        "training_config.search",
        {"method": "random", "space": {"C": {"low": 0.1, "high": 10, "log": True}, "solver": ["lbfgs"]}, "trials": 4},
    )
    search = read_spec(document).training.search
    assert search is not None
    assert search.space == {"C": SearchRange(0.1, 10, log=True), "solver": ("lbfgs",)}


def test_a_hyperparameter_is_given_in_one_place_only() -> None:
    document = with_field("training_config.search", {"method": "grid", "space": {"C": [1]}})
    document["training_config"]["hyperparameters"] = {"C": 2}
    assert "also in search.space" in problems(document)["training_config.hyperparameters.C"]


def test_sql_parameters_keep_their_types() -> None:
    document = spec(Path("/data"))
    document["data_sources"] = [
        {"name": "a", "type": "database", "connection": "sqlite:///x", "query": "SELECT 1", "parameters": {"n": 3}}
    ]
    source = read_spec(document).sources[0]
    assert isinstance(source, DatabaseSource)
    assert source.parameters == {"n": 3}


def test_reading_a_specification_imports_no_numerical_package() -> None:
    code = (
        "import sys, pilotfish_control_plane.trainer.spec_reader as r; "
        "print([m for m in ('numpy', 'pandas', 'sklearn', 'grpc', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
