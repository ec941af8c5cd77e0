"""What a query returns: repeated ids, truths, roles, days, types, and that rolling and merging change nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.prediction_log import Batch, LogOptions, PredictionLog, Source, TruthBatch

from .prediction_log_rows import DAY_0, DAY_US, predictions, truths


class Filled:
    """A log with one offset counter, so that tests only name rows; `settle` decides where the rows are."""

    def __init__(self, log: PredictionLog, settle: str) -> None:
        self.log = log
        self._settle = settle
        self._offsets = {"p": 0, "t": 0}

    def add(self, batch: Batch) -> None:
        stream = "t" if isinstance(batch, TruthBatch) else "p"
        first = self._offsets[stream]
        self._offsets[stream] = first + len(batch)
        self.log.append(Source("s", 1, stream), first, first + len(batch), batch)
        if self._settle == "parts":
            self.log.roll()
        elif self._settle == "merged":
            self.log.roll()
            self.log.compact(everything=True)


@pytest.fixture(params=["log", "parts", "merged"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Filled]:
    options = LogOptions(min_free_bytes=0)
    with PredictionLog.open(tmp_path / "a [b] *", clock=FakeClock(), options=options, background=False) as log:
        yield Filled(log, request.param)


def rows(log: PredictionLog, *columns: str, **request: object) -> list[tuple[object, ...]]:
    table = log.query(columns=list(columns), **request)  # type: ignore[arg-type]  # the test's own keywords
    return list(zip(*(c.to_pylist() for c in table.columns), strict=True))


def test_an_empty_log_answers_everything_with_nothing(filled: Filled) -> None:
    log = filled.log
    assert log.query().num_rows == 0
    assert {"prediction_id", "time", "truth", "attempts", "conflict"} <= set(log.query().column_names)
    assert log.query(columns=["input.x", "prediction_id"]).num_rows == 0
    assert (log.count(), log.daily_counts(), log.error_rate().ratio) == (0, [], None)
    assert log.latency_quantiles().values_us == {}
    assert log.labelled("d-1").ids == []
    assert log.training_frame(None, None, None, ["x"], "y").num_rows == 0
    assert log.roll() == 0


def test_a_repeated_id_with_equal_inputs_is_one_row_with_its_attempts(filled: Filled) -> None:
    filled.add(predictions(["a", "b", "a"], hashes=[1, 2, 1], codes=[14, 0, 0], at=[DAY_0, DAY_0 + 1, DAY_0 + 2]))
    filled.add(predictions(["a"], hashes=[1], at=DAY_0 + 3))
    assert rows(filled.log, "prediction_id", "attempts", "conflict", "code", "time") == [
        ("b", 1, False, 0, _time(DAY_0 + 1)),
        # The attempt that was answered stands for the prediction, not the failed first one.
        ("a", 3, False, 0, _time(DAY_0 + 2)),
    ]
    assert filled.log.count() == 2
    (day,) = filled.log.daily_counts()
    assert (day.predictions, day.attempts, day.errors, day.conflicts) == (2, 4, 0, 0)
    assert filled.log.error_rate().errors == 0


def test_a_repeated_id_with_other_inputs_is_kept_flagged_and_joins_no_label(filled: Filled) -> None:
    filled.add(predictions(["a", "b"], hashes=[1, 2]))
    filled.add(truths(["a", "b"], [1.0, 0.0]))
    assert filled.log.labelled("d-1").ids == ["a", "b"]
    filled.add(predictions(["a"], hashes=[9]))
    assert rows(filled.log, "prediction_id", "conflict", "truth") == [
        ("a", True, None),
        ("b", False, 0.0),
        ("a", True, None),
    ]
    assert filled.log.labelled("d-1").ids == ["b"]
    assert filled.log.training_frame(None, None, None, ["amount"], "y").num_rows == 1
    (day,) = filled.log.daily_counts()
    assert (day.predictions, day.conflicts) == (3, 2)


def test_the_same_id_in_two_deployments_or_roles_is_no_repeat(filled: Filled) -> None:
    filled.add(predictions(["a"], hashes=[1]))
    filled.add(predictions(["a"], hashes=[2], deployment="d-2"))
    filled.add(predictions(["a"], hashes=[3], roles=2))
    assert rows(filled.log, "deployment", "attempts", "conflict") == [("d-1", 1, False), ("d-2", 1, False)]
    assert filled.log.query(roles=(0, 1, 2), columns=["conflict"]).column(0).to_pylist() == [False] * 3


def test_rows_without_an_id_are_never_repeats_and_join_nothing(filled: Filled) -> None:
    filled.add(predictions(["", ""], hashes=[1, 2]))
    filled.add(truths(["x"], [1.0]))
    assert rows(filled.log, "attempts", "conflict", "truth") == [(1, False, None)] * 2


def test_a_repeat_is_found_across_days_outside_of_the_asked_time(filled: Filled) -> None:
    filled.add(predictions(["a", "b"], hashes=[1, 2], at=DAY_0))
    filled.add(predictions(["a", "b", "c"], hashes=[1, 9, 3], at=DAY_0 + 3 * DAY_US))
    later = {"start_us": DAY_0 + DAY_US}
    assert rows(filled.log, "prediction_id", "conflict", **later) == [("b", True), ("c", False)]
    assert [(d.day, d.predictions, d.attempts) for d in filled.log.daily_counts()] == [
        (date(2024, 10, 4), 2, 3),
        (date(2024, 10, 7), 2, 2),
    ]


def test_only_live_rows_count_unless_others_are_asked_for(filled: Filled) -> None:
    filled.add(predictions(["a", "b", "c"], roles=[0, 1, 2]))
    assert filled.log.count() == 1
    assert rows(filled.log, "prediction_id", roles=(1,)) == [("b",)]
    assert filled.log.count(roles=(0, 1, 2)) == 3


def test_a_truth_may_come_before_the_prediction_or_days_after(filled: Filled) -> None:
    filled.add(truths(["early"], [1.0], at=DAY_0 - 5 * DAY_US))
    filled.add(predictions(["early", "late", "never"], at=DAY_0))
    filled.add(truths(["late"], [0.0], at=DAY_0 + 40 * DAY_US))
    found = filled.log.labelled("d-1")
    assert dict(zip(found.ids, found.truths.tolist(), strict=True)) == {"early": 1.0, "late": 0.0}
    assert found.truth_times_us.tolist() == [DAY_0 - 5 * DAY_US, DAY_0 + 40 * DAY_US]
    assert found.truths.dtype == np.float64


def test_the_latest_truth_wins_whatever_the_order_of_arrival(filled: Filled) -> None:
    filled.add(predictions(["a", "b"]))
    filled.add(truths(["a", "b"], [2.0, 1.0], at=[DAY_0 + 20, DAY_0 + 5]))
    filled.add(truths(["a", "b"], [1.0, 2.0], at=[DAY_0 + 10, DAY_0 + 5]))
    # b: equal times, so the later arrival wins.
    assert rows(filled.log, "prediction_id", "truth") == [("a", 2.0), ("b", 2.0)]


def test_a_truth_for_one_deployment_labels_no_other(filled: Filled) -> None:
    filled.add(predictions(["a", "b"]))
    filled.add(predictions(["a", "b"], deployment="d-2"))
    filled.add(truths(["a", "b", "b"], [1.0, 5.0, 7.0], at=[DAY_0, DAY_0, DAY_0 + 1], deployments=["d-2", "", "d-2"]))
    assert rows(filled.log, "deployment", "prediction_id", "truth") == [
        ("d-1", "a", None),
        ("d-1", "b", 5.0),
        ("d-2", "a", 1.0),
        ("d-2", "b", 7.0),
    ]


def test_truths_may_be_class_names(filled: Filled) -> None:
    filled.add(predictions(["a", "b"], outputs={"label": np.array(["cat", None], object)}))
    filled.add(truths(["a", "b"], ["cat", 3]))
    found = filled.log.labelled("d-1")
    assert found.truths.tolist() == ["cat", "3"]
    assert found.outputs["label"].tolist() == ["cat", None]
    frame = filled.log.training_frame(["d-1"], None, None, ["amount"], "kind")
    assert frame.to_pylist() == [{"amount": 0.0, "kind": "cat"}, {"amount": 1.0, "kind": "3"}]


def test_failed_predictions_give_no_training_rows(filled: Filled) -> None:
    filled.add(predictions(["a", "b"], codes=[13, 0]))
    filled.add(truths(["a", "b"], [1.0, 0.0]))
    assert filled.log.labelled("d-1").ids == ["b"]
    assert filled.log.training_frame(None, None, None, ["amount"], "y").to_pylist() == [{"amount": 1.0, "y": 0.0}]


def test_a_day_ends_at_midnight_utc_and_an_interval_before_its_end(filled: Filled) -> None:
    midnight = DAY_0 + DAY_US
    filled.add(predictions(["a", "b", "c"], at=[midnight - 1, midnight, midnight + DAY_US]))
    assert [(d.day.day, d.predictions) for d in filled.log.daily_counts()] == [(4, 1), (5, 1), (6, 1)]
    assert rows(filled.log, "prediction_id", start_us=midnight, end_us=midnight + DAY_US) == [("b",)]
    assert rows(filled.log, "prediction_id", start_us=midnight - 1, end_us=midnight) == [("a",)]
    assert filled.log.count(start_us=midnight, end_us=midnight) == 0


def test_days_are_folders_named_by_deployment_and_date(filled: Filled, tmp_path: Path) -> None:
    filled.add(predictions(["a", "b"], at=[DAY_0, DAY_0 + DAY_US]))
    filled.add(truths(["a"], [1.0]))
    filled.log.roll()
    root = tmp_path / "a [b] *"
    folders = {path.parent.relative_to(root).as_posix() for path in root.rglob("*.parquet")}
    assert folders == {
        "parts/deployment=d-1/day=2024-10-04",
        "parts/deployment=d-1/day=2024-10-05",
        "truth/day=2024-10-04",
    }
    assert not list((root / "log").iterdir())


def test_counts_errors_and_latencies_are_those_worked_by_hand(filled: Filled) -> None:
    filled.add(
        predictions(
            [str(i) for i in range(10)],
            latency=[100, 200, 300, 400, 500, 600, 700, 800, 900, -1],
            codes=[0, 0, 13, 0, 14, 0, 0, 0, 0, 0],
        )
    )
    filled.add(predictions(["x"], deployment="d-2", latency=5))
    assert filled.log.latency_quantiles(["d-1"], quantiles=[0.5, 1.0]).values_us == {0.5: 500, 1.0: 900}
    assert filled.log.latency_quantiles("d-1").n == 9
    assert filled.log.error_rate(["d-1"]).ratio == pytest.approx(0.2)
    counts = filled.log.daily_counts(quantiles=[0.5])
    assert [(d.deployment, d.predictions, d.errors, d.latency_us) for d in counts] == [
        ("d-1", 10, 2, {0.5: 500}),
        ("d-2", 1, 0, {0.5: 5}),
    ]
    assert rows(filled.log, "latency_us", "prediction_id")[9] == (None, "9")


def test_columns_of_every_type_come_back_with_nothing_where_missing(filled: Filled) -> None:
    filled.add(
        predictions(
            ["a", "b"],
            inputs={
                "f64": np.array([1.5, np.nan]),
                "f32": np.array([np.nan, 2.5], np.float32),
                "i64": np.array([-(2**62), 7]),
                "flag": np.array([True, False]),
                "text": np.array(["é", None], object),
                "maybe": np.array([None, True], object),
                "none": np.array([None, None], object),
                "wide": np.array(["ab", "c"]),
                "raw": np.array([b"x", b"yz"]),
                "small": np.array([1, 2], np.uint8),
            },
            metadata=['{"a":1}', None],
        )
    )
    table = filled.log.query()
    assert {n: str(table.schema.field(f"input.{n}").type) for n in ("f64", "f32", "i64", "flag", "text", "small")} == {
        "f64": "double",
        "f32": "float",
        "i64": "int64",
        "flag": "bool",
        "text": "string",
        "small": "int64",
    }
    first, second = table.to_pylist()
    assert [first[f"input.{n}"] for n in ("f64", "f32", "i64", "flag", "text", "maybe", "wide", "raw", "small")] == [
        1.5, None, -(2**62), True, "é", None, "ab", "x", 1,
    ]  # fmt: skip
    assert [second[f"input.{n}"] for n in ("f64", "f32", "text", "maybe")] == [None, 2.5, None, True]
    assert (first["metadata"], second["metadata"]) == ('{"a":1}', None)


def test_batches_with_other_columns_and_types_are_read_together(filled: Filled) -> None:
    filled.add(predictions(["a"], inputs={"x": np.array([1]), "only_a": np.array([True])}))
    filled.add(predictions(["b"], inputs={"x": np.array([2.5]), "only_b": np.array(["t"])}))
    assert rows(filled.log, "input.x", "input.only_a", "input.only_b") == [(1.0, True, None), (2.5, None, "t")]
    filled.add(predictions(["c"], inputs={"x": np.array(["word"])}))
    assert [x for (x,) in rows(filled.log, "input.x")] == ["1", "2.5", "word"]


def test_features_that_differ_only_in_case_stay_apart(filled: Filled) -> None:
    filled.add(predictions(["a"], inputs={"Age": np.array([1.0]), "age": np.array([2.0]), "AGE": np.array([3.0])}))
    filled.add(predictions(["b"], inputs={"age": np.array([5.0]), "Age": np.array([4.0])}))
    filled.add(truths(["a", "b"], [1.0, 0.0]))
    assert rows(filled.log, "input.Age", "input.age", "input.AGE") == [(1.0, 2.0, 3.0), (4.0, 5.0, None)]
    assert {"input.Age", "input.age", "input.AGE"} <= set(filled.log.query().column_names)
    frame = filled.log.training_frame(None, None, None, ["age", "Age"], "y")
    assert frame.to_pylist() == [{"age": 2.0, "Age": 1.0, "y": 1.0}, {"age": 5.0, "Age": 4.0, "y": 0.0}]


def test_names_with_quotes_dots_and_spaces_are_only_names(filled: Filled) -> None:
    names = ['a"b', "a.b", "drop table p; --", "f0", "ñ x", "input.x"]
    filled.add(predictions(["a"], inputs={name: np.array([float(i)]) for i, name in enumerate(names)}))
    (row,) = filled.log.query().to_pylist()
    assert [row[f"input.{name}"] for name in names] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_unknown_columns_roles_and_intervals_are_refused_by_name(filled: Filled) -> None:
    filled.add(predictions(["a"]))
    with pytest.raises(InvalidArgument, match=r"input\.nope, other"):
        filled.log.query(columns=["input.nope", "other", "time"])
    with pytest.raises(InvalidArgument) as error:
        filled.log.query(start_us=5, end_us=4, roles=(0, 7))
    assert {v.field for v in error.value.violations} == {"start", "roles"}
    with pytest.raises(InvalidArgument) as error:
        filled.log.training_frame(None, None, None, ["amount", "x", "y"], "amount")
    assert len(error.value.violations) == 3
    with pytest.raises(InvalidArgument, match="between 0 and 1"):
        filled.log.latency_quantiles(quantiles=[50])


def test_rows_are_ordered_by_time_and_a_limit_takes_the_first_or_the_newest(filled: Filled) -> None:
    filled.add(predictions(["c", "a", "b"], at=[DAY_0 + 3, DAY_0 + 1, DAY_0 + 2]))
    filled.add(truths(["c"], [1.0]))
    assert rows(filled.log, "prediction_id", "truth") == [("a", None), ("b", None), ("c", 1.0)]
    assert rows(filled.log, "prediction_id", "truth", limit=2) == [("a", None), ("b", None)]
    assert rows(filled.log, "prediction_id", "truth", limit=1, newest_first=True) == [("c", 1.0)]


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_an_export_has_the_rows_of_the_query(filled: Filled, tmp_path: Path, file_format: str) -> None:
    text = np.array(['say "hi"\n, you', None], object)
    filled.add(predictions(["a", "b"], inputs={"x": np.array([1.5, np.nan]), "t": text}))
    filled.add(truths(["a"], [1.0]))
    target = tmp_path / f"out.{file_format}"
    assert filled.log.export(target, ["d-1"], file_format=file_format) == 2  # type: ignore[arg-type]  # parametrised
    if file_format == "parquet":
        found = pq.read_table(target)
    elif file_format == "csv":
        options = pyarrow.csv.ParseOptions(newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
        found = pyarrow.csv.read_csv(target, parse_options=options, convert_options=convert)
    else:
        found = pa.Table.from_pylist([json.loads(line) for line in target.read_text().splitlines()])
    wanted = filled.log.query(["d-1"])
    assert found.column_names == wanted.column_names
    for name in ("prediction_id", "input.x", "input.t", "truth", "latency_us"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a [b] *", target.name]


def test_a_refused_export_leaves_no_file(filled: Filled, tmp_path: Path) -> None:
    filled.add(predictions(["a"]))
    with pytest.raises(InvalidArgument, match="xlsx"):
        filled.log.export(tmp_path / "out.xlsx", file_format="xlsx")  # type: ignore[arg-type]  # on purpose
    assert [path.name for path in tmp_path.iterdir()] == ["a [b] *"]


def test_batches_give_every_row_once(filled: Filled) -> None:
    for first in range(0, 50, 10):
        filled.add(predictions([f"p{i}" for i in range(first, first + 10)]))
    found = [i for b in filled.log.query_batches(columns=["prediction_id"], rows=7) for i in b.column(0).to_pylist()]
    assert sorted(found) == sorted(f"p{i}" for i in range(50))


def test_a_purge_removes_whole_days_and_says_before_what_would_go(filled: Filled) -> None:
    filled.add(predictions(["a", "b", "c"], hashes=[1, 2, 3], at=[DAY_0, DAY_0 + DAY_US, DAY_0 + 2 * DAY_US]))
    filled.add(predictions(["a", "c"], hashes=[9, 9], at=DAY_0 + 2 * DAY_US, deployment="d-2"))
    filled.add(truths(["a", "c"], [1.0, 1.0], at=[DAY_0, DAY_0 + 2 * DAY_US]))
    filled.log.roll()
    before = (DAY_0 + 2 * DAY_US) // DAY_US
    planned = filled.log.purge(before, dry_run=True)
    assert (planned.rows, planned.truth_rows, planned.dry_run) == ({"d-1": 2}, 1, True)
    assert filled.log.count() == 5
    done = filled.log.purge(before)
    assert (done.rows, done.truth_rows, done.days) == ({"d-1": 2}, 1, (20_000, 20_001))
    assert rows(filled.log, "prediction_id", "deployment", "truth") == [
        ("c", "d-1", 1.0),
        ("a", "d-2", None),
        ("c", "d-2", 1.0),
    ]
    assert filled.log.append(Source("s", 1, "p"), 0, 3, predictions(["a", "b", "c"])).duplicate


def test_after_a_purge_an_id_may_come_back(filled: Filled) -> None:
    filled.add(predictions(["a", "b"], hashes=[1, 2], at=[DAY_0, DAY_0 + 9 * DAY_US]))
    filled.add(predictions(["a"], hashes=[5], at=DAY_0 + 9 * DAY_US))
    assert [c for (_, c) in rows(filled.log, "prediction_id", "conflict")] == [True, False, True]
    filled.log.purge(DAY_0 // DAY_US + 1)
    assert rows(filled.log, "prediction_id", "conflict") == [("b", False), ("a", False)]


def test_merging_leaves_one_part_per_deployment_and_day(filled: Filled) -> None:
    for i in range(6):
        filled.add(predictions([f"p{i}", "again"], hashes=[i, 7], at=[DAY_0 + i, DAY_0 + DAY_US]))
    filled.log.roll()
    before = filled.log.query().to_pylist()
    filled.log.compact(everything=True)
    assert filled.log.statistics().parts == 2
    assert filled.log.query().to_pylist() == before
    assert len(before) == 7


def _time(us: int) -> object:
    return pa.scalar(us, pa.timestamp("us", tz="UTC")).as_py()


def test_predictions_can_be_asked_for_by_id(filled: Filled) -> None:
    filled.add(predictions(["a", "b", "c", "b"], hashes=[1, 2, 3, 9]))
    filled.add(truths(["c"], [1.0]))
    found = rows(filled.log, "prediction_id", "conflict", "truth", prediction_ids=["c", "b", "zzz", "b"])
    assert sorted(found, key=str) == [("b", True, None), ("b", True, None), ("c", False, 1.0)]
    assert rows(filled.log, "prediction_id", prediction_ids=["b"], limit=1) == [("b",)]
    assert rows(filled.log, "prediction_id", prediction_ids=[]) == []
