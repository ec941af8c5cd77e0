"""What is typed: criteria, weights, steps, spans, times, options anywhere, files of rows and definitions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pilotfish.cli.apply import differences, parse_definitions
from pilotfish.cli.context import hoist
from pilotfish.cli.delivery import parse_steps, rollout_plan
from pilotfish.cli.documents import read_documents
from pilotfish.cli.registry import pairs
from pilotfish.cli.rollouts import parse_weights
from pilotfish.cli.rows import choose, read_columns, split_truths
from pilotfish.cli.spans import parse_span, parse_when
from pilotfish.cli.verdicts import parse_criteria, parse_criterion
from pilotfish.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("error_ratio<=0.01:100", ("error_ratio", "<=", 0.01, 100, False)),
        ("accuracy >= 0.9", ("accuracy", ">=", 0.9, None, False)),
        ("latency_p99_ms<250", ("latency_p99_ms", "<", 250.0, None, False)),
        ("r2>-1e-3 : 5", ("r2", ">", -0.001, 5, False)),
        ("latency_p99_ms<=baseline+5:200", ("latency_p99_ms", "<=", 5.0, 200, True)),
        ("accuracy>=baseline-0.01", ("accuracy", ">=", -0.01, None, True)),
        ("accuracy>=baseline", ("accuracy", ">=", 0.0, None, True)),
        ("Accuracy>=.5", ("accuracy", ">=", 0.5, None, False)),
    ],
)
def test_a_criterion_is_read_as_it_is_written(text: str, wanted: tuple[object, ...]) -> None:
    made = parse_criterion(text)
    keys = ("metric", "comparison", "bound", "min_sample")
    assert (*(made.get(k) for k in keys), made.get("against_baseline", False)) == wanted


@pytest.mark.parametrize(
    "text", ["", "accuracy", "accuracy=0.9", "accuracy=>0.9", ">=0.9", "accuracy>=x", "a>=1:", "a>=1:-3", "a>=1e999",
             "a>=baseline+", "a>=baseline 5", "a>=1.2.3", "a>=nan"],
)  # fmt: skip
def test_what_is_no_criterion_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_criterion(text)
    assert "METRIC<=BOUND" in str(caught.value)


def test_every_bad_criterion_is_named_at_once() -> None:
    with pytest.raises(InvalidArgument, match=r"'b'.*'c=1'"):
        parse_criteria(["a<1", "b", "c=1"])


def test_weights_in_percent_become_basis_points() -> None:
    assert parse_weights(["canary=10", "production=90%"]) == {"canary": 1000, "production": 9000}
    assert parse_weights(["a=0.25", "b=99.75"]) == {"a": 25, "b": 9975}


@pytest.mark.parametrize(
    "texts", [["a=50", "b=40"], ["a"], ["a=x"], ["=100"], ["a=101"], ["a=-1", "b=101"], ["a=33.333", "b=66.667"]]
)
def test_weights_that_are_no_whole_are_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        parse_weights(texts)


def test_steps_of_a_canary_have_a_share_and_a_least_time() -> None:
    assert parse_steps("5,25:600, 50%:30s") == [
        {"weight_bp": 500},
        {"weight_bp": 2500, "min_duration_s": 600.0},
        {"weight_bp": 5000, "min_duration_s": 30.0},
    ]
    for bad in ("0", "101", "x", "5:-1", "5:x"):
        with pytest.raises(InvalidArgument, match="PERCENT"):
            parse_steps(bad)


def test_a_plan_names_only_what_was_asked_for() -> None:
    assert rollout_plan("", [], 0.0, False) is None
    assert rollout_plan("10", ["a<1"], 60.0, True) == {
        "strategy": "canary",
        "steps": [{"weight_bp": 1000}],
        "criteria": [{"metric": "a", "comparison": "<", "bound": 1.0}],
        "max_wait_s": 60.0,
        "auto_promote": True,
    }


def test_spans_and_times() -> None:
    assert [parse_span(t) for t in ("90", "90s", "1.5m", "6h", "7d", "2w")] == [90, 90, 90, 21600, 604800, 1209600]
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert parse_when("2027-01-02", now) == datetime(2027, 1, 2, tzinfo=UTC)
    assert parse_when("2027-01-02T03:04:05+02:00", now) == datetime(2027, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert parse_when("40d", now) == datetime(2027, 1, 2, 12, tzinfo=UTC)
    for bad in ("", "soon", "5y", "-3d", "99999999999999w"):
        with pytest.raises(InvalidArgument):
            parse_when(bad, now)


def test_global_options_may_stand_anywhere() -> None:
    asked = ["get", "models", "-o", "json", "--home=/x", "--filter", "a = 1", "--address", "h:1", "-oyaml"]
    assert hoist(asked) == [
        "-o",
        "json",
        "--home=/x",
        "--address",
        "h:1",
        "-oyaml",
        "get",
        "models",
        "--filter",
        "a = 1",
    ]
    assert hoist(["truth", "e", "--", "-o", "json"]) == ["truth", "e", "--", "-o", "json"]
    assert hoist(["get", "-o"]) == ["-o", "get"]
    assert hoist(["--home", "--home", "x"]) == ["--home", "--home", "x"]


def test_pairs_need_an_equals_sign() -> None:
    assert pairs(["a=1", "b = x=y"], "--tag") == {"a": "1", "b": "x=y"}
    with pytest.raises(InvalidArgument) as caught:
        pairs(["a", "b=1", "c"], "--tag")
    assert len(caught.value.violations) == 2


def test_csv_cells_become_numbers_where_all_of_a_column_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffn,x,word,hole\n1,0.5,a,\n2,1e3,7,3\n")
    columns = read_columns(path)
    assert columns["n"] == [1, 2] and columns["x"] == [0.5, 1000.0] and columns["word"] == ["a", "7"]
    assert columns["hole"][0] != columns["hole"][0] and columns["hole"][1] == 3.0


@pytest.mark.parametrize("text", ['[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]', '{"a": [1, 2], "b": ["x", "y"]}'])
def test_json_rows_and_json_columns_are_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert read_columns(path) == {"a": [1, 2], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "a,b\n1\n"), ("a.csv", ""), ("a.csv", "a,b\n"), ("a.json", "{"), ("a.json", "[1]"), ("a.json", "3")],
)
def test_files_that_hold_no_rows_are_refused(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InvalidArgument):
        read_columns(path)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_columns(tmp_path / "none.csv")


def test_truths_are_numbers_if_all_are_and_words_otherwise() -> None:
    assert split_truths({"id": ["a", "b"], "y": [1, 0.5]}, "", "") == (["a", "b"], [1.0, 0.5])
    assert split_truths({"y": ["cat", "dog"], "pid": [7, 8]}, "pid", "y") == (["7", "8"], ["cat", "dog"])
    with pytest.raises(InvalidArgument, match="missing"):
        choose({"a": [1]}, ["a", "z"])


def test_yaml_and_json_hold_one_or_many_documents(tmp_path: Path) -> None:
    many = tmp_path / "many.yaml"
    many.write_text("kind: Model\nname: a\n---\n---\n- {kind: Rule, name: b}\n- {kind: Rule, name: c}\n")
    assert [d["name"] for d in read_documents(many)] == ["a", "b", "c"]
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"kind": "Model", "name": "a"}))
    assert read_documents(one) == [{"kind": "Model", "name": "a"}]
    for name, text in (("bad.json", "{"), ("bad.yaml", "a: ]"), ("list.yaml", "- 1\n"), ("empty.yaml", "")):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(InvalidArgument):
            read_documents(path)


def test_everything_wrong_in_every_document_is_named_before_anything_is_sent() -> None:
    documents = [
        ("f.yaml", {"kind": "Frob", "name": "x"}),
        ("f.yaml", {"kind": "Rule"}),
        ("f.yaml", {"kind": "Rule", "name": "r", "triggers": [{"typ": "data_drift"}]}),
        (
            "g.yaml",
            {"kind": "Pipeline", "name": "p", "spec": {"evaluation_config": {"thresholds": [{"comparison": "?"}]}}},
        ),
    ]
    with pytest.raises(InvalidArgument) as caught:
        parse_definitions(documents)
    told = [f"{v.field} {v.description}" for v in caught.value.violations]
    assert len(told) == 4
    assert "kind is one of Model" in told[0] and "has no name" in told[1]
    assert "rule.triggers[0].typ" in told[2] and "less_than" in told[3]


def test_a_definition_that_was_read_back_is_one_again() -> None:
    given = {"etag": "x", "revision": 3, "author": "a", "create_time": "2026-01-01T00:00:00Z"}
    read = {"kind": "Rule", "name": "projects/default/rules/r", "description": "d", **given}
    [made] = parse_definitions([("f", read)])
    assert (made.name, made.spec) == ("r", {"description": "d"})


def test_defaults_that_were_filled_in_are_no_difference() -> None:
    found = {"a": 1, "b": {"c": 2, "filled": 30}, "l": [{"x": 1, "filled": 2}]}
    assert not differences({"a": 1, "b": {"c": 2}, "l": [{"x": 1}]}, found)
    assert differences({"a": 2}, found)
    assert differences({"b": {"c": 3}}, found)
    assert differences({"l": []}, found)
    assert differences({"new": ""}, found)
    assert differences({"on": True}, {"on": 1})
