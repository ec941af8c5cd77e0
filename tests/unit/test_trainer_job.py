"""Whole jobs in this process: what each outcome leaves behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from pilotfish.stats import FeatureGroup, FeatureKind, Profile
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.trainer.fit import trials_of
from pilotfish_control_plane.trainer.importance import importance
from pilotfish_control_plane.trainer.job_directory import DirectoryBusy, EventLog, JobDirectory
from pilotfish_control_plane.trainer.main import STAGES
from pilotfish_control_plane.trainer.outcome import Outcome, plain
from pilotfish_control_plane.trainer.scorer import input_table, load_artifact
from pilotfish_control_plane.trainer.spec import FeatureConfig, SearchConfig, SearchRange, Task
from pilotfish_control_plane.trainer.table import prepare_table, resolve_roles

from .trainer_data import people, run, spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    people().to_csv(tmp_path / "data" / "people.csv", index=False)
    return tmp_path / "data"


def document(root: Path, **changes: Any) -> dict[str, Any]:
    return spec(root, **changes)


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def artifact(directory: Path, name: str) -> Any:
    return json.loads((directory / "artifact" / f"{name}.json").read_text())


def test_a_job_leaves_a_complete_version(root: Path, tmp_path: Path) -> None:
    wanted = document(
        root, evaluation_config={"thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.7}]}
    )
    result, found = run(tmp_path / "job", wanted)
    assert (result.outcome, found["artifact_dir"], found["reason"]) == (Outcome.SUCCEEDED, "artifact", "")
    assert {path.name for path in (tmp_path / "job" / "artifact").iterdir()} == {
        "model.onnx", "signature.json", "example.json", "profile.json", "feature_set.json", "requirements.json",
        "model_card.json", "training_rows.bin",
    }  # fmt: skip
    assert found["rows"] == {"total": 400, "train": 240, "validation": 80, "test": 80}
    assert set(found["metrics"]) == {
        "accuracy", "balanced_accuracy", "precision", "recall", "f1_score", "roc_auc", "log_loss",
    }  # fmt: skip
    assert [entry["verdict"] for entry in found["gate"]] == ["PASS"]
    assert np.sum(found["confusion_matrix"]["counts"]) == 80
    assert set(found["feature_importance"]) == set(found["feature_statistics"]) == {"age", "city", "flag", "income"}
    assert max(found["feature_importance"], key=found["feature_importance"].get) in ("age", "income")
    assert found["hyperparameters"]["C"] == 1.0
    assert len(found["data_hash"]) == 64
    assert found["details"]["parity"]["rows"] == 400
    card = artifact(tmp_path / "job", "model_card")
    assert (card["pipeline"], card["pipeline_revision"], card["data"]["hash"]) == ("churn", 2, found["data_hash"])
    assert artifact(tmp_path / "job", "requirements")["scikit-learn"]


def test_the_example_is_answered_as_it_says_by_a_plain_onnx_runtime(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "job", document(root))
    example = artifact(tmp_path / "job", "example")
    session = onnxruntime.InferenceSession((tmp_path / "job/artifact/model.onnx").read_bytes())
    kinds: dict[str, Any] = {"FP32": np.float32, "BYTES": object, "INT64": np.int64}
    feeds = {
        item["name"]: np.asarray(item["data"], dtype=kinds[item["datatype"]]).reshape(item["shape"])
        for item in example["inputs"]
    }
    for item, value in zip(example["outputs"], session.run(None, feeds), strict=True):
        np.testing.assert_allclose(np.ravel(np.asarray(value)), item["data"], atol=example["atol"])
        assert list(np.asarray(value).shape) == item["shape"]


def test_metrics_are_those_of_the_served_graph_on_the_test_rows(root: Path, tmp_path: Path) -> None:
    _, found = run(tmp_path / "job", document(root))
    scorer = load_artifact(tmp_path / "job" / "artifact")
    learned = set(np.fromfile(tmp_path / "job/artifact/training_rows.bin", dtype="<u8").tolist())
    assert len(learned) == 240
    frame = people()
    roles, _ = resolve_roles(frame, FeatureConfig(label="bought", features=("age", "city", "flag", "income")))
    table, _ = prepare_table(frame, roles, Task.CLASSIFICATION)
    unseen = table.take(np.flatnonzero(~np.isin(table.hashes, list(learned))))
    assert len(unseen) == 160
    # Validation and test together; the two parts' accuracies bracket it.
    accuracy = accuracy_score(unseen.label, scorer.answer(unseen.features).label)
    assert abs(accuracy - found["metrics"]["accuracy"]) < 0.1


def test_the_profile_has_the_training_rows_and_the_outputs(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "job", document(root))
    profile = Profile.from_json((tmp_path / "job/artifact/profile.json").read_text())
    assert profile.rows == 240
    kinds = {(item.group, item.name): item.kind for item in profile.features}
    assert kinds[FeatureGroup.INPUT, "city"] is FeatureKind.CATEGORICAL
    assert kinds[FeatureGroup.INPUT, "age"] is FeatureKind.NUMERIC
    assert {name for group, name in kinds if group is FeatureGroup.OUTPUT} == {
        "label",
        "probability_0",
        "probability_1",
    }


def test_events_are_numbered_and_move_forward_through_the_stages(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "job", document(root))
    found = events(tmp_path / "job")
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    fractions = [event["fraction"] for event in found]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert ["start", *dict.fromkeys(event["stage"] for event in found)] == list(STAGES)
    assert found[-1]["metrics"]["accuracy"] > 0.5


def test_the_same_job_gives_the_same_model_whatever_the_order_of_rows(root: Path, tmp_path: Path) -> None:
    forest = {"model_config": {"type": "random_forest"}, "hyperparameters": {"n_estimators": 10}}
    _, first = run(tmp_path / "a", document(root, training_config=forest))
    people().sample(frac=1, random_state=3).to_csv(root / "people.csv", index=False)
    _, second = run(tmp_path / "b", document(root, training_config=forest))
    assert first["data_hash"] == second["data_hash"]
    assert first["metrics"] == second["metrics"]
    digests = [hashlib.sha256((tmp_path / name / "artifact/model.onnx").read_bytes()).hexdigest() for name in "ab"]
    assert digests[0] == digests[1]


def test_a_model_below_its_threshold_is_rejected_and_leaves_no_artifact(root: Path, tmp_path: Path) -> None:
    wanted = document(root, evaluation_config={"thresholds": [{"metric": "accuracy", "bound": 0.999}]})
    _, found = run(tmp_path / "job", wanted)
    assert (found["outcome"], found["reason"], found["artifact_dir"]) == ("REJECTED", "GATE_FAILED", None)
    assert not (tmp_path / "job" / "artifact").exists()
    (entry,) = found["gate"]
    assert (entry["verdict"], entry["bound"], entry["n"], entry["against"]) == ("FAIL", 0.999, 80, "threshold")
    assert "it must be >= 0.999" in found["message"]
    assert found["metrics"]["accuracy"] == entry["value"]
    assert found["feature_statistics"] and found["data_hash"]


def test_too_few_test_rows_are_no_pass(root: Path, tmp_path: Path) -> None:
    config = {"thresholds": [{"metric": "accuracy", "bound": 0.1}], "minimum_rows": 81}
    _, found = run(tmp_path / "job", document(root, evaluation_config=config))
    assert found["outcome"] == "REJECTED"
    assert found["gate"][0]["verdict"] == "INCONCLUSIVE"


def test_bad_data_stops_the_job_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    frame = people()
    frame["copy"] = frame["bought"]
    frame.loc[:300, "age"] = None
    frame.to_csv(root / "people.csv", index=False)
    wanted = document(root)
    wanted["feature_config"]["features"].append("copy")
    _, found = run(tmp_path / "job", wanted)
    assert (found["outcome"], found["reason"]) == ("FAILED", "DATA_QUALITY")
    errors = {(issue["check"], issue["column"]) for issue in found["issues"] if issue["severity"] == "error"}
    assert errors == {("missing", "age"), ("leakage", "copy")}
    assert found["metrics"] == {} and found["artifact_dir"] is None
    assert events(tmp_path / "job")[-1]["stage"] == "quality"


def test_missing_columns_stop_the_job_with_every_name(root: Path, tmp_path: Path) -> None:
    wanted = document(root)
    wanted["feature_config"] |= {"label": "bougth", "features": ["age", "citty"]}
    _, found = run(tmp_path / "job", wanted)
    assert found["reason"] == "DATA_QUALITY"
    assert [issue["column"] for issue in found["issues"]] == ["bougth", "citty"]


def test_a_wrong_specification_fails_with_every_path(root: Path, tmp_path: Path) -> None:
    wanted = document(root, training_config={"model_config": {"type": "oracle"}}, evaluation_config={"metrics": ["x"]})
    _, found = run(tmp_path / "job", wanted)
    assert (found["outcome"], found["reason"]) == ("FAILED", "SPEC_INVALID")
    assert {issue["column"] for issue in found["issues"]} == {
        "training_config.model_config.type",
        "evaluation_config.metrics[0]",
    }
    (tmp_path / "broken").mkdir()
    _, found = run(tmp_path / "broken", None)
    assert found["reason"] == "SPEC_INVALID"


def test_wrong_hyperparameters_fail_before_training(root: Path, tmp_path: Path) -> None:
    config = {"model_config": {"type": "logistic_regression"}, "hyperparameters": {"C": -1, "depth": 3}}
    _, found = run(tmp_path / "job", document(root, training_config=config))
    assert found["reason"] == "SPEC_INVALID"
    assert {issue["column"].rsplit(".", 1)[1] for issue in found["issues"]} == {"C", "depth"}


def test_rows_without_a_label_are_left_out_and_told(root: Path, tmp_path: Path) -> None:
    frame = people().astype({"bought": "float64"})
    frame.loc[:99, "bought"] = None
    frame.to_csv(root / "people.csv", index=False)
    _, found = run(tmp_path / "job", document(root))
    assert found["outcome"] == "SUCCEEDED"
    assert found["rows"]["total"] == 300
    assert any("100 of 400 rows have no label" in issue["message"] for issue in found["issues"])


def test_repeated_rows_are_dropped_when_told_to(root: Path, tmp_path: Path) -> None:
    frame = people()
    pd.concat([frame, frame.head(150)]).to_csv(root / "people.csv", index=False)
    _, kept = run(tmp_path / "kept", document(root))
    _, dropped = run(tmp_path / "dropped", document(root, quality_config={"duplicates": {"drop": True}}))
    assert (kept["rows"]["total"], dropped["rows"]["total"]) == (550, 400)
    assert "duplicates" in {issue["check"] for issue in dropped["issues"]}


def test_a_regression_is_trained_judged_and_served(root: Path, tmp_path: Path) -> None:
    wanted = document(
        root,
        training_config={"model_config": {"type": "ridge", "task": "regression"}},
        evaluation_config={"thresholds": [{"metric": "r2", "bound": 0.5}, {"metric": "rmse", "bound": 9}]},
    )
    wanted["feature_config"]["label"] = "amount"
    _, found = run(tmp_path / "job", wanted)
    assert found["outcome"] == "SUCCEEDED", found["message"]
    assert [entry["comparison"] for entry in found["gate"]] == [">=", "<="]
    assert found["confusion_matrix"] is None
    assert set(found["metrics"]) == {"mae", "mse", "rmse", "mape", "r2"}
    assert artifact(tmp_path / "job", "signature")["outputs"] == [
        {"name": "prediction", "datatype": "FP32", "shape": [-1]}
    ]


# Champion


def champion_config(**changes: Any) -> dict[str, Any]:
    return {"importance_seconds": 0, "champion": {"metric": "accuracy", "margin": 0.0, **changes}}


def test_a_first_version_has_no_champion_to_beat(root: Path, tmp_path: Path) -> None:
    _, found = run(tmp_path / "job", document(root, evaluation_config=champion_config()))
    assert (found["outcome"], found["gate"], found["champion_metrics"]) == ("SUCCEEDED", [], None)


def test_the_champion_is_evaluated_on_the_same_rows_and_its_own_training_rows_are_left_out(
    root: Path, tmp_path: Path
) -> None:
    run(tmp_path / "one", document(root))
    people(1000).to_csv(root / "people.csv", index=False)
    wanted = document(root, evaluation_config=champion_config(), champion_dir=str(tmp_path / "one" / "artifact"))
    _, found = run(tmp_path / "two", wanted)
    (entry,) = found["gate"]
    assert entry["against"] == "champion"
    # people(1000) does not begin with people(400): no row is known to the champion.
    assert entry["n"] == 200 and "left out" not in entry["reason"]
    assert set(entry["evidence"]) >= {"champion", "difference", "low", "high", "only_candidate", "only_champion", "p"}
    scorer = load_artifact(tmp_path / "one" / "artifact")
    assert found["champion_metrics"]["accuracy"] == pytest.approx(entry["evidence"]["champion"])
    assert scorer.feature_names == ["age", "city", "flag", "income"]


def test_a_candidate_from_the_same_data_ties_with_the_champion_on_unseen_rows(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", document(root, seed=1))
    wanted = document(
        root, seed=2, evaluation_config=champion_config(), champion_dir=str(tmp_path / "one" / "artifact")
    )
    _, found = run(tmp_path / "two", wanted)
    (entry,) = found["gate"]
    assert "test rows that the champion was trained on are left out" in entry["reason"]
    assert 20 <= entry["n"] < 80


def test_a_worse_candidate_is_rejected_against_the_champion(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", document(root))
    people(1000).to_csv(root / "people.csv", index=False)
    wanted = document(
        root,
        evaluation_config=champion_config(),
        champion_dir=str(tmp_path / "one" / "artifact"),
        training_config={"model_config": {"type": "decision_tree"}, "hyperparameters": {"max_depth": 1}},
    )
    _, found = run(tmp_path / "two", wanted)
    (entry,) = found["gate"]
    assert (found["outcome"], entry["verdict"]) == ("REJECTED", "FAIL")
    assert entry["value"] < entry["bound"] == pytest.approx(found["champion_metrics"]["accuracy"])


def test_a_champion_with_other_features_is_still_evaluated(root: Path, tmp_path: Path) -> None:
    first = document(root)
    first["feature_config"]["features"] = ["age", "income"]
    run(tmp_path / "one", first)
    second = document(root, evaluation_config=champion_config(), champion_dir=str(tmp_path / "one" / "artifact"))
    _, found = run(tmp_path / "two", second)
    assert found["gate"][0]["verdict"] == "PASS"
    assert found["metrics"]["accuracy"] > found["champion_metrics"]["accuracy"]


def test_a_champion_that_cannot_be_run_makes_the_gate_inconclusive(root: Path, tmp_path: Path) -> None:
    for name, said in (("missing", "cannot be read"), ("regression", "does not answer label, probabilities")):
        directory = tmp_path / name
        if name == "regression":
            wanted = document(root, training_config={"model_config": {"type": "ridge", "task": "regression"}})
            wanted["feature_config"]["label"] = "amount"
            run(directory, wanted)
        wanted = document(root, evaluation_config=champion_config(), champion_dir=str(directory / "artifact"))
        _, found = run(tmp_path / f"after-{name}", wanted)
        assert (found["outcome"], found["gate"][0]["verdict"]) == ("REJECTED", "INCONCLUSIVE")
        assert said in found["gate"][0]["reason"]
        assert found["champion_metrics"] is None


def test_drift_against_the_last_run_warns_or_stops(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "one", document(root))
    frame = people()
    frame["income"] *= 50
    frame.to_csv(root / "people.csv", index=False)
    last = str(tmp_path / "one" / "artifact" / "profile.json")
    _, found = run(tmp_path / "two", document(root, previous_profile=last))
    assert found["outcome"] == "SUCCEEDED"
    assert [issue["column"] for issue in found["issues"] if issue["check"] == "drift"] == ["income"]
    strict = document(root, previous_profile=last, quality_config={"drift": {"severity": "error"}})
    _, found = run(tmp_path / "three", strict)
    assert found["reason"] == "DATA_QUALITY"


# Search


def test_a_grid_search_is_decided_on_the_validation_split(root: Path, tmp_path: Path) -> None:
    config = {
        "model_config": {"type": "decision_tree"},
        "search": {"method": "grid", "space": {"max_depth": [1, 4], "criterion": ["gini", "entropy"]}},
    }
    _, found = run(tmp_path / "job", document(root, training_config=config))
    assert [entry["hyperparameters"] for entry in found["search"]] == [
        {"max_depth": depth, "criterion": criterion} for depth in (1, 4) for criterion in ("gini", "entropy")
    ]
    best = max(found["search"], key=lambda entry: entry["value"])
    assert best["value"] > found["search"][0]["value"], "the first trial is not the best here"
    # A whole number of the 80 validation rows.
    assert best["value"] * 80 == pytest.approx(round(best["value"] * 80))
    assert {name: found["hyperparameters"][name] for name in best["hyperparameters"]} == best["hyperparameters"]
    trials = [event for event in events(tmp_path / "job") if event["message"].startswith("trial ")]
    assert [event["metrics"]["trial"] for event in trials] == [1, 2, 3, 4]


def test_a_trial_that_fails_does_not_fail_the_search(root: Path, tmp_path: Path) -> None:
    config = {
        "model_config": {"type": "logistic_regression"},
        "hyperparameters": {"solver": "lbfgs"},
        "search": {"method": "grid", "space": {"l1_ratio": [0.0, 1.0]}},
    }
    _, found = run(tmp_path / "job", document(root, training_config=config))
    assert found["outcome"] == "SUCCEEDED"
    assert [("error" in entry, entry["value"] is None) for entry in found["search"]] == [(False, False), (True, True)]
    config["search"] = {"method": "grid", "space": {"l1_ratio": [1.0]}}
    _, found = run(tmp_path / "other", document(root, training_config=config))
    assert (found["outcome"], found["reason"]) == ("FAILED", "FIT_FAILED")


def test_random_draws_repeat_with_the_seed_and_stay_in_their_ranges() -> None:
    space: dict[str, Any] = {"a": SearchRange(1e-3, 1e3, log=True), "b": SearchRange(1, 4, integer=True), "c": ("x",)}
    search = SearchConfig("random", space, trials=200)
    trials = trials_of(search, 5)
    assert trials == trials_of(search, 5) != trials_of(search, 6)
    assert len(trials) == 200
    assert all(1e-3 <= trial["a"] <= 1e3 and trial["b"] in (1, 2, 3, 4) for trial in trials)
    # Evenly in the logarithm: about half below 1.
    assert 70 < sum(trial["a"] < 1 for trial in trials) < 130
    assert len(trials_of(SearchConfig("random", {"c": ("x", "y")}, trials=50), 1)) == 2
    assert len(trials_of(SearchConfig("grid", {"c": tuple(range(30))}, trials=7), 1)) == 7


# The directory


def test_half_a_line_left_by_a_killed_process_is_cut_off_and_numbering_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, FakeClock())
    log.append("load", 0.1, "one")
    log.append("load", 0.2, "two", durable=True)
    log.close()
    with open(path, "ab") as stream:
        stream.write(b'{"seq": 3, "sta')
    log = EventLog(path, FakeClock())
    log.append("load", 7.0, "three", {"loss": float("nan")})
    log.close()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["seq"], event["message"]) for event in found] == [(1, "one"), (2, "two"), (3, "three")]
    assert (found[2]["fraction"], found[2]["metrics"]) == (1.0, {"loss": None})


def test_the_first_result_stands(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path)
    assert directory.write_result({"outcome": "CANCELLED"})
    assert not directory.write_result({"outcome": "SUCCEEDED"})
    assert json.loads((tmp_path / "result.json").read_text()) == {"outcome": "CANCELLED"}
    assert not list(tmp_path.glob("*.tmp"))


def test_one_trainer_at_a_time_works_in_a_directory(tmp_path: Path) -> None:
    first = JobDirectory(tmp_path)
    with pytest.raises(DirectoryBusy):
        JobDirectory(tmp_path)
    first.close()
    JobDirectory(tmp_path).close()


def test_no_nan_reaches_a_document() -> None:
    value = {"a": float("nan"), "b": [np.float32(1.5), np.inf], "c": np.asarray([1, 2]), "d": (np.int64(3), None, True)}
    assert plain(value) == {"a": None, "b": [1.5, None], "c": [1, 2], "d": [3, None, True]}


def test_importance_stops_when_its_time_is_over(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "job", document(root))
    scorer = load_artifact(tmp_path / "job" / "artifact")
    frame = people()
    roles, _ = resolve_roles(frame, FeatureConfig(label="bought", features=("age", "city", "flag", "income")))
    table, _ = prepare_table(frame, roles, Task.CLASSIFICATION)

    class Slow(FakeClock):
        def monotonic(self) -> float:
            self.advance(1.0)
            return super().monotonic()

    found = importance(scorer, table, Task.CLASSIFICATION, np.random.default_rng(1), Slow(), 2.5)
    assert (len(found.values), found.repeats) == (2, 0)
    whole = importance(scorer, table, Task.CLASSIFICATION, np.random.default_rng(1), FakeClock(), 1.0)
    assert (len(whole.values), whole.repeats) == (4, 5)
    assert list(whole.values.values()) == sorted(whole.values.values(), reverse=True)


def test_a_served_table_is_read_like_the_training_table(root: Path, tmp_path: Path) -> None:
    run(tmp_path / "job", document(root))
    signature = artifact(tmp_path / "job", "signature")
    frame = people()
    roles, _ = resolve_roles(frame, FeatureConfig(label="bought", features=("age", "city", "flag", "income")))
    table, _ = prepare_table(frame, roles, Task.CLASSIFICATION)
    assert input_table(table.raw, signature).equals(table.features)
