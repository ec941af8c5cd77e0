"""Exactly once by offset: duplicates, overlaps, gaps, refusals, groups, and what survives a restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pilotfish.errors import FailedPrecondition, InvalidArgument, Unavailable
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.prediction_log import Append, Appended, Gap, LogOptions, PredictionLog, Source

from .prediction_log_rows import DAY_0, SOURCE, predictions, truths

OPTIONS = LogOptions(min_free_bytes=0)


def open_log(path: Path, options: LogOptions = OPTIONS) -> PredictionLog:
    return PredictionLog.open(path, clock=FakeClock(), options=options, background=False)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    with open_log(tmp_path / "log") as opened:
        yield opened


def ids(log: PredictionLog) -> list[str]:
    return list(log.query(columns=["prediction_id"]).column(0).to_pylist())


def test_a_batch_sent_twice_is_stored_once(log: PredictionLog) -> None:
    assert log.append(SOURCE, 0, 2, predictions(["a", "b"])) == Appended(2, 2, duplicate=False)
    assert log.append(SOURCE, 0, 2, predictions(["a", "b"])) == Appended(2, 0, duplicate=True)
    assert log.statistics().log_rows == 2


def test_of_a_partial_overlap_only_the_new_tail_is_stored(log: PredictionLog) -> None:
    log.append(SOURCE, 0, 3, predictions(["a", "b", "c"]))
    late = predictions(
        ["b", "c", "d", "e"],
        inputs={
            "amount": np.array([1.0, 2.0, 3.0, 4.0]),
            "kind": np.array(["x", "y", "zzz", None], object),
            "flag": np.array([True, False, True, False]),
            "n": np.array([1, 2, 3, 4]),
        },
        metadata=[None, "{}", '{"k":1}', None],
    )
    assert log.append(SOURCE, 1, 5, late) == Appended(5, 2, duplicate=False)
    rows = {row["prediction_id"]: row for row in log.query().to_pylist()}
    assert sorted(rows) == ["a", "b", "c", "d", "e"]
    assert log.statistics().log_rows == 5
    assert [rows["d"][f"input.{n}"] for n in ("amount", "kind", "flag", "n")] == [3.0, "zzz", True, 3]
    assert [rows["e"][f"input.{n}"] for n in ("amount", "kind", "flag", "n")] == [4.0, None, False, 4]
    assert (rows["d"]["metadata"], rows["c"]["metadata"]) == ('{"k":1}', None)


def test_a_gap_is_refused_and_names_the_expected_offset(log: PredictionLog) -> None:
    log.append(SOURCE, 0, 2, predictions(["a", "b"]))
    with pytest.raises(FailedPrecondition) as error:
        log.append(SOURCE, 3, 4, predictions(["d"]))
    assert error.value.reason == "OFFSET_GAP"
    assert error.value.metadata["expected_offset"] == "2"
    assert log.watermark(SOURCE) == 2
    assert ids(log) == ["a", "b"]


def test_a_gap_that_is_allowed_is_recorded_and_survives_restart_and_roll(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 2, predictions(["a", "b"]))
        assert log.append(SOURCE, 5, 6, predictions(["f"]), allow_gap=True).watermark == 6
        expected = [(SOURCE, 2, 5, "skipped")]
        assert [(g.source, g.first_offset, g.last_offset, g.reason) for g in log.gaps()] == expected
    with open_log(tmp_path) as log:
        assert [(g.source, g.first_offset, g.last_offset, g.reason) for g in log.gaps()] == expected
        log.roll()
    with open_log(tmp_path) as log:
        assert [(g.source, g.first_offset, g.last_offset, g.reason) for g in log.gaps()] == expected
        assert isinstance(log.gaps()[0], Gap)
        assert log.append(SOURCE, 3, 4, predictions(["d"])).duplicate


def test_sources_incarnations_and_streams_have_their_own_offsets(log: PredictionLog) -> None:
    others = [Source("sidecar-1", 2, "predictions"), Source("sidecar-2", 1, "predictions"), Source("sidecar-1", 1, "x")]
    for number, source in enumerate([SOURCE, *others]):
        assert log.append(source, 0, 1, predictions([f"p{number}"])).stored_rows == 1
    assert log.watermarks() == dict.fromkeys([SOURCE, *others], 1)
    assert log.watermark(Source("nobody", 0, "predictions")) == 0


@pytest.mark.parametrize("roll", [False, True])
def test_watermarks_and_rows_survive_a_restart(tmp_path: Path, roll: bool) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 2, predictions(["a", "b"]))
        log.append(Source("t", 1, "truths"), 0, 1, truths(["a"], [1.0]))
        if roll:
            log.roll()
    with open_log(tmp_path) as log:
        assert log.watermarks() == {SOURCE: 2, Source("t", 1, "truths"): 1}
        assert log.append(SOURCE, 0, 2, predictions(["a", "b"])).duplicate
        assert log.append(SOURCE, 1, 3, predictions(["b", "c"])) == Appended(3, 1, duplicate=False)
        assert ids(log) == ["a", "b", "c"]
        assert log.labelled("d-1").ids == ["a"]


def test_a_group_is_answered_item_by_item_and_later_items_build_on_earlier_ones(log: PredictionLog) -> None:
    other = Source("sidecar-2", 1, "predictions")
    answers = log.append_many(
        [
            Append(SOURCE, 0, 2, predictions(["a", "b"])),
            Append(other, 7, 8, predictions(["x"])),
            Append(SOURCE, 1, 3, predictions(["b", "c"])),
            Append(other, 0, 2, predictions(["only one row"])),
            Append(SOURCE, 0, 3, predictions(["a", "b", "c"])),
            Append(other, 0, 1, predictions(["y"], deployment="../etc")),
        ]
    )
    assert answers[0] == Appended(2, 2, duplicate=False)
    assert isinstance(answers[1], FailedPrecondition)
    assert answers[2] == Appended(3, 1, duplicate=False)
    assert isinstance(answers[3], InvalidArgument)
    assert answers[4] == Appended(3, 0, duplicate=True)
    assert isinstance(answers[5], InvalidArgument)
    assert ids(log) == ["a", "b", "c"]


def test_a_group_costs_one_sync(log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilotfish_control_plane.prediction_log import durable, journal

    steps: list[str] = []
    write, sync = durable.write_all, durable.sync_file

    def counted_write(handle: int, buffers: Sequence[bytes | memoryview]) -> int:
        steps.append("write")
        return write(handle, buffers)

    def counted_sync(handle: int) -> None:
        steps.append("sync")
        sync(handle)

    monkeypatch.setattr(journal, "write_all", counted_write)
    monkeypatch.setattr(journal, "sync_file", counted_sync)
    log.append_many([Append(SOURCE, i, i + 1, predictions([f"p{i}"])) for i in range(50)])
    assert steps == ["write", "sync"]


def test_every_problem_of_a_batch_is_named_at_once(log: PredictionLog) -> None:
    bad = predictions(
        ["a", "b"],
        deployment="../x",
        roles=[0, 9],
        at=[-1, 0],
        inputs={"amount": np.zeros(3), "": np.zeros(2), "when": np.array(["2024-01-01"] * 2, "datetime64[D]")},
        metadata=["{}"],
    )
    with pytest.raises(InvalidArgument) as error:
        log.append(SOURCE, 0, 2, bad)
    fields = {violation.field for violation in error.value.violations}
    assert fields == {"deployment", "roles", "times_us", "inputs[amount]", "inputs", "inputs[when]", "metadata"}
    assert log.watermark(SOURCE) == 0


def test_truths_are_checked_too(log: PredictionLog) -> None:
    with pytest.raises(InvalidArgument) as error:
        log.append(SOURCE, 0, 2, truths(["a", ""], [float("nan"), 1.0], deployments=["d-1", "a/b"]))
    assert {v.field for v in error.value.violations} == {"prediction_ids", "values", "deployments"}


def test_rows_and_offsets_must_agree(log: PredictionLog) -> None:
    for first, last in ((0, 1), (0, 3), (-1, 1), (3, 1)):
        with pytest.raises(InvalidArgument, match="offset"):
            log.append(SOURCE, first, last, predictions(["a", "b"]))


def test_an_empty_batch_changes_nothing(log: PredictionLog) -> None:
    assert log.append(SOURCE, 0, 0, predictions([])) == Appended(0, 0, duplicate=True)
    assert log.append(SOURCE, 0, 2, truths([], [])).watermark == 2
    assert log.roll() == 1
    assert log.watermark(SOURCE) == 2
    assert log.query().num_rows == 0


def test_a_second_opener_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    import os

    with open_log(tmp_path), pytest.raises(FailedPrecondition, match=f"process {os.getpid()}"):
        open_log(tmp_path)
    open_log(tmp_path).close()


def test_a_closed_log_takes_no_rows(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.close()
    log.close()
    with pytest.raises(Unavailable, match="closed"):
        log.append(SOURCE, 0, 1, predictions(["a"]))


def test_a_log_file_is_sealed_by_size_by_count_and_by_age(tmp_path: Path) -> None:
    clock = FakeClock()
    options = LogOptions(min_free_bytes=0, segment_bytes=20_000, segment_records=3, segment_age_s=60)
    with PredictionLog.open(tmp_path, clock=clock, options=options, background=False) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        log.maintain()
        assert log.statistics().parts == 0
        clock.advance(59)
        log.maintain()
        assert log.statistics().parts == 0
        clock.advance(1)
        log.maintain()
        assert (log.statistics().parts, log.statistics().log_files) == (1, 0)
        for i in range(1, 4):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
        log.maintain()
        assert log.statistics().parts == 2
        log.append(SOURCE, 4, 1004, predictions([f"q{i}" for i in range(1000)]))
        log.maintain()
        assert log.statistics().parts == 3
        assert log.count() == 1004


def test_text_ids_of_any_length_and_script_come_back(log: PredictionLog) -> None:
    wanted = ["", "x", "ü" * 100, "a" * 512, "1" * 8, "1" * 9, "日本", "q'\"%_"]
    log.append(SOURCE, 0, len(wanted), predictions(wanted, at=list(range(DAY_0, DAY_0 + len(wanted)))))
    assert ids(log) == wanted
    log.roll()
    assert ids(log) == wanted
    with pytest.raises(InvalidArgument, match="512"):
        log.append(SOURCE, len(wanted), len(wanted) + 1, predictions(["a" * 513]))


def test_truths_of_a_partly_known_range_are_stored_again_without_harm(log: PredictionLog) -> None:
    log.append(SOURCE, 0, 1, predictions(["a"]))
    stream = Source("t", 1, "truths")
    log.append(stream, 0, 3, truths(["a"], [1.0]))
    assert log.append(stream, 2, 6, truths(["a", "b"], [1.0, 0.0])) == Appended(6, 2, duplicate=False)
    assert log.append(stream, 3, 6, truths(["b"], [0.0])).duplicate
    assert log.labelled("d-1").truths.tolist() == [1.0]
