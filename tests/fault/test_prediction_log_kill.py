"""kill -9 in the middle of appending, rolling and merging: every acknowledged row is there, once.

A child process appends small groups as fast as it can, with log files so small that rolls and merges run all the
time, and prints the offset that each append acknowledged. It is killed after a random time, again and again on
the same directory; each next child goes on from the watermark, and resends some of what it already sent.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.prediction_log import LogOptions, PredictionLog, Source

KILLS = int(os.environ.get("SEEDS") or 12)
SOURCE = Source("child", 1, "predictions")

CHILD = """
import random, sys
import numpy as np
from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.prediction_log import Append, ColumnBatch, LogOptions, PredictionLog, Source

path, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
source = Source("child", 1, "predictions")
options = LogOptions(min_free_bytes=0, segment_records=rng.choice([2, 5, 9]), merge_at_parts=3, segment_age_s=0.02)
log = PredictionLog.open(path, clock=SystemClock(), options=options)

def batch(first, last):
    at = np.arange(first, last, dtype=np.int64)
    rows = last - first
    return ColumnBatch(
        "d-%d" % (first % 2), "e", "m", 1, "r", [str(n) for n in range(first, last)],
        1_728_000_000_000_000 + at * 3_600_000_000, at, np.zeros(rows, np.uint8), np.zeros(rows, np.uint16),
        {"x": at.astype(np.float64)}, {"y": at * 2}, at.astype(np.uint64) + 1,
    )

mark = log.watermark(source)
print("ready", mark, flush=True)
while True:
    group, first = [], max(0, mark - rng.randrange(6))
    for _ in range(rng.randrange(1, 5)):
        last = first + rng.randrange(1, 12)
        group.append(Append(source, first, last, batch(first, last)))
        first = max(0, last - rng.randrange(3))
    for answer in log.append_many(group):
        mark = answer.watermark
    print(mark, flush=True)
"""


def _run_and_kill(path: Path, seed: int, life_s: float) -> int:
    """Run a child for `life_s` seconds after it is ready, kill it, and return the last offset it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        first = child.stdout.readline()
        if not first.startswith("ready"):
            pytest.fail(f"the child did not start: {child.stderr.read()}")
        time.sleep(life_s)
        assert child.poll() is None, child.stderr.read()
        child.send_signal(signal.SIGKILL)
        # What is not a whole line was never said.
        lines = [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    return int(lines[-1]) if lines else int(first.split()[1])


@pytest.mark.timeout(400)  # seconds when alone; many kills on a busy machine take longer
def test_no_kill_loses_or_doubles_an_acknowledged_row(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}, kills {KILLS}")  # shown when the test fails
    rng = random.Random(seed)
    acknowledged = 0
    for kill in range(KILLS):
        said = _run_and_kill(tmp_path, rng.randrange(2**32), rng.choice([0.0, 0.01, 0.05, 0.15, 0.3]))
        assert said >= acknowledged, f"seed {seed}, kill {kill}: the watermark went back"
        acknowledged = said
        if kill % 3 == 2:
            acknowledged = _check(tmp_path, acknowledged, f"seed {seed}, kill {kill}")
    assert acknowledged > 100, f"seed {seed}: the children hardly worked"


def _check(path: Path, acknowledged: int, where: str) -> int:
    """Read everything back and return the watermark."""
    options = LogOptions(min_free_bytes=0)
    with PredictionLog.open(path, clock=SystemClock(), options=options, background=False) as log:
        mark = log.watermark(SOURCE)
        table = log.query(columns=["prediction_id", "attempts", "conflict", "input.x", "output.y", "latency_us"])
        rows = table.to_pylist()
        assert mark >= acknowledged, f"{where}: {acknowledged - mark} acknowledged rows are lost"
        assert sorted(int(row["prediction_id"]) for row in rows) == list(range(mark)), where
        assert all(row["attempts"] == 1 and not row["conflict"] for row in rows), f"{where}: a row is there twice"
        for row in rows:
            number = int(row["prediction_id"])
            assert (row["input.x"], row["output.y"], row["latency_us"]) == (number, 2 * number, number), where
        assert not log.damages() and not log.gaps(), where
        statistics = log.statistics()
        assert statistics.part_rows + statistics.log_rows == mark, where
        files = len(list(path.rglob("*.parquet")))
        assert files == statistics.parts + statistics.truth_parts, f"{where}: stray parts"
    return mark


def test_a_log_open_in_another_process_is_refused_and_free_once_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(FailedPrecondition, match=f"process {child.pid}"):
            PredictionLog.open(tmp_path, clock=SystemClock())
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
    PredictionLog.open(tmp_path, clock=SystemClock(), options=LogOptions(min_free_bytes=0)).close()
