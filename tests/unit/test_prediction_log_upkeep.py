"""The thread that rolls and merges, what a merge leaves alone, and what the package may import."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pilotfish_control_plane.clock import FakeClock, SystemClock
from pilotfish_control_plane.prediction_log import LogOptions, PredictionLog, maintenance

from .prediction_log_rows import DAY_0, DAY_US, SOURCE, predictions

OPTIONS = LogOptions(min_free_bytes=0)


def _wait_for(log: PredictionLog, parts: int) -> None:
    deadline = time.monotonic() + 20
    while log.statistics().parts < parts and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.statistics().parts >= parts


def test_the_thread_rolls_full_files_and_merges_what_gathers(tmp_path: Path) -> None:
    options = LogOptions(min_free_bytes=0, segment_records=1, merge_at_parts=4)
    with PredictionLog.open(tmp_path, clock=SystemClock(), options=options) as log:
        for i in range(8):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
        deadline = time.monotonic() + 20
        while (log.statistics().log_files or log.statistics().parts > 4) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.statistics().log_files == 0
        assert log.statistics().parts <= 4
        assert log.count() == 8


def test_the_thread_goes_on_after_a_failed_roll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = maintenance.write_segment_parts  # type: ignore[attr-defined]  # replaced where it is looked up
    failures = iter([OSError(28, "No space left on device"), ValueError("a bug")])

    def fail_twice(*arguments: Any) -> Any:  # Any: whatever the real one takes and gives
        for error in failures:
            raise error
        return real(*arguments)

    monkeypatch.setattr(maintenance, "write_segment_parts", fail_twice)
    options = LogOptions(min_free_bytes=0, segment_records=1, retry_roll_s=0.01)
    with (
        caplog.at_level(logging.ERROR),
        PredictionLog.open(tmp_path, clock=SystemClock(), options=options) as log,
    ):
        log.append(SOURCE, 0, 1, predictions(["a"]))
        _wait_for(log, 1)
        assert log.count() == 1
    assert "is full" in caplog.text
    assert "a bug" in caplog.text


def test_without_everything_only_many_small_parts_of_one_size_are_merged(tmp_path: Path) -> None:
    options = LogOptions(min_free_bytes=0, merge_at_parts=3)
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=options, background=False) as log:
        for i in range(2):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
            log.roll()
        assert log.compact().parts_before == 0
        log.append(SOURCE, 2, 3, predictions(["p2"]))
        log.roll()
        done = log.compact()
        assert (done.parts_before, done.parts_after) == (3, 1)
        assert done.bytes_after < done.bytes_before
        log.append(SOURCE, 3, 20_003, predictions([f"q{i}" for i in range(20_000)]))
        log.roll()
        assert log.compact(everything=True).parts_before == 2
        assert log.count() == 20_003


def test_a_merge_stops_at_the_size_it_may_make(tmp_path: Path) -> None:
    options = LogOptions(min_free_bytes=0, small_part_bytes=10**9, merged_part_bytes=9_000)
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=options, background=False) as log:
        for i in range(6):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
            log.roll()
        log.compact(everything=True)
        assert 1 < log.statistics().parts < 6
        assert log.count() == 6


def test_rows_of_many_deployments_and_days_in_one_file_become_one_part_each(tmp_path: Path) -> None:
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:
        for i in range(20):
            times = [DAY_0, DAY_0 + DAY_US]
            log.append(SOURCE, 2 * i, 2 * i + 2, predictions([f"{i}-0", f"{i}-1"], at=times, deployment=f"d-{i % 5}"))
        log.roll()
        assert log.statistics().parts == 10
        assert [(d.deployment, d.predictions) for d in log.daily_counts()] == [(f"d-{i // 2}", 4) for i in range(10)]


def test_the_library_imports_no_wire_format_no_database_and_no_pandas(tmp_path: Path) -> None:
    program = f"""
import sys
import numpy as np
from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.prediction_log import ColumnBatch, LogOptions, PredictionLog, Source, TruthBatch
zeros = np.zeros(2, np.int64)
batch = ColumnBatch("d", "e", "m", 1, "r", ["a", "b"], zeros, zeros, zeros.astype(np.uint8), zeros.astype(np.uint16),
    {{"x": np.array([1.0, np.nan]), "t": np.array(["x", None], object)}}, {{"y": np.array([True, False])}},
    zeros.astype(np.uint64))
with PredictionLog.open({str(tmp_path)!r}, clock=SystemClock(), options=LogOptions(min_free_bytes=0)) as log:
    log.append(Source("s", 1, "p"), 0, 2, batch)
    log.append(Source("s", 1, "t"), 0, 1, TruthBatch(["a"], [1.0], zeros[:1]))
    log.roll()
    log.compact(everything=True)
    assert log.query().num_rows == log.count() == 2
    assert log.labelled("d").ids == ["a"]
    assert log.daily_counts(quantiles=[0.5])
bad = {{"grpc", "google.protobuf", "sqlalchemy", "pandas", "onnxruntime"}} & set(sys.modules)
assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
