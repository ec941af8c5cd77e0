"""How many rows a second the prediction log makes durable, and how long a week's report takes.

Figures `ingest.rows_per_s` (30 float features, batches of 1000 rows, groups of 8, rolling into Parquet
meanwhile, until the last row is in a part) and `report.seconds` (seven days: counts, errors and latency
quantiles per day, then the error rate). The peer of both is SQLite with WAL and synchronous=FULL, one
transaction a group, which is what the registry itself uses.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.prediction_log import Append, Appended, ColumnBatch, LogOptions, PredictionLog, Source

FEATURES = 30
BATCH_ROWS = 1000
GROUP = 8
DAY_US = 86_400_000_000
START_US = 20_000 * DAY_US
SOURCE = Source("bench", 1, "predictions")
Floats = NDArray[np.float64]


def _scale() -> float:
    """Return the share of the full size, from PILOTFISH_BENCH_SCALE; 1 is 10M rows for the report."""
    return float(os.environ.get("PILOTFISH_BENCH_SCALE", "0.2"))


def _batches(rng: np.random.Generator, rows: int, features: int, span_us: int) -> Iterator[ColumnBatch]:
    """Yield batches whose rows are spread evenly over `span_us`; every id is new, every value random."""
    pool = rng.normal(size=(features, 64 * BATCH_ROWS))
    latency = rng.lognormal(8, 1, 64 * BATCH_ROWS).astype(np.int64)
    failed = (rng.random(64 * BATCH_ROWS) < 0.01).astype(np.uint16) * 13
    for first in range(0, rows, BATCH_ROWS):
        at = int(rng.integers(0, 63 * BATCH_ROWS))
        span = slice(at, at + BATCH_ROWS)
        step = np.arange(first, first + BATCH_ROWS, dtype=np.int64)
        yield ColumnBatch(
            deployment="fraud-canary",
            endpoint="fraud",
            model="fraud",
            version=3,
            replica="replica-1",
            prediction_ids=[f"{number:08x}-7d1c-4a52-9f0e-{number * 7919:012x}" for number in step.tolist()],
            times_us=START_US + step * span_us // rows,
            latency_us=latency[span],
            roles=np.zeros(BATCH_ROWS, np.uint8),
            codes=failed[span],
            inputs={f"f{index}": pool[index, span] for index in range(features)},
            outputs={"score": pool[0, span].astype(np.float32)},
            input_hash=rng.integers(0, 2**63, BATCH_ROWS, dtype=np.uint64),
        )


def _groups(batches: list[ColumnBatch]) -> Iterator[list[Append]]:
    for first in range(0, len(batches), GROUP):
        yield [
            Append(SOURCE, (first + index) * BATCH_ROWS, (first + index + 1) * BATCH_ROWS, batch)
            for index, batch in enumerate(batches[first : first + GROUP])
        ]


def _fill(log: PredictionLog, batches: list[ColumnBatch]) -> None:
    for group in _groups(batches):
        if not all(isinstance(answer, Appended) for answer in log.append_many(group)):
            raise RuntimeError("the prediction log refused a batch of the benchmark")


def _ingest_ours(folder: Path, batches: list[ColumnBatch]) -> tuple[float, float]:
    """Return rows/s acknowledged, with rolling meanwhile, and rows/s until the last row was in Parquet."""
    rows = sum(len(batch) for batch in batches)
    with PredictionLog.open(folder, clock=SystemClock(), options=LogOptions(min_free_bytes=0)) as log:
        start = time.perf_counter()
        _fill(log, batches)
        acknowledged_s = time.perf_counter() - start
        log.roll()
        rolled_s = time.perf_counter() - start
        if log.statistics().part_rows != rows:
            raise RuntimeError("rows are missing after the benchmark")
    return rows / acknowledged_s, rows / rolled_s


def _open_peer(folder: Path, features: int) -> sqlite3.Connection:
    folder.mkdir()
    peer = sqlite3.connect(folder / "peer.db", isolation_level=None)
    peer.execute("PRAGMA journal_mode=WAL")
    peer.execute("PRAGMA synchronous=FULL")
    columns = ", ".join(f"f{index} REAL" for index in range(features))
    peer.execute(f"CREATE TABLE p (id TEXT, deployment TEXT, time INTEGER, latency INTEGER, code INTEGER, {columns})")
    return peer


def _fill_peer(peer: sqlite3.Connection, batches: list[ColumnBatch]) -> float:
    """Insert the batches in groups and return rows/s."""
    marks = ", ".join("?" * (5 + len(batches[0].inputs)))
    start = time.perf_counter()
    for first in range(0, len(batches), GROUP):
        peer.execute("BEGIN IMMEDIATE")
        for batch in batches[first : first + GROUP]:
            columns: list[list[Any]] = [list(batch.prediction_ids), [batch.deployment] * len(batch)]
            columns += [array.tolist() for array in (batch.times_us, batch.latency_us, batch.codes)]
            columns += [array.tolist() for array in batch.inputs.values()]
            peer.executemany(f"INSERT INTO p VALUES ({marks})", zip(*columns, strict=True))
        peer.execute("COMMIT")
    return sum(len(batch) for batch in batches) / (time.perf_counter() - start)


def _ingest(folder: Path, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    rows = max(200_000, int(5_000_000 * _scale()) // BATCH_ROWS * BATCH_ROWS)
    batches = list(_batches(rng, rows, FEATURES, DAY_US // 24))
    few = batches[: max(GROUP, len(batches) // 50)]
    ours, rolled, theirs = [], [], []
    for turn in range(3):
        acknowledged, until_parts = _ingest_ours(folder / f"ours-{turn}", batches)
        ours.append(acknowledged)
        rolled.append(until_parts)
        peer = _open_peer(folder / f"peer-{turn}", FEATURES)
        theirs.append(_fill_peer(peer, few))
        peer.close()
        shutil.rmtree(folder / f"ours-{turn}")
    for figure, values in (("ingest.rows_per_s", ours), ("ingest.rows_per_s_in_parquet", rolled)):
        value, peer_value = statistics.median(values), statistics.median(theirs)
        yield {
            "figure": figure,
            "value": round(value),
            "unit": "rows/s",
            "peer": "SQLite WAL FULL",
            "peer_value": round(peer_value),
            "ratio": round(value / peer_value, 2),
            "n": rows,
        }


def _report(folder: Path, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    rows = max(100_000, int(10_000_000 * _scale()) // BATCH_ROWS * BATCH_ROWS)
    end_us = START_US + 7 * DAY_US
    peer = _open_peer(folder / "report-peer", 2)
    with PredictionLog.open(folder / "report", clock=SystemClock(), options=LogOptions(min_free_bytes=0)) as log:
        chunk: list[ColumnBatch] = []
        offset = 0
        for batch in _batches(rng, rows, 2, 7 * DAY_US):
            answer = log.append(SOURCE, offset, offset + len(batch), batch)
            offset = answer.watermark
            chunk.append(batch)
            if len(chunk) == 64:
                _fill_peer(peer, chunk)
                chunk.clear()
        if chunk:
            _fill_peer(peer, chunk)
        log.roll()
        first = time.perf_counter()
        _run_report(log, end_us)
        first_s = time.perf_counter() - first
        ours, theirs = [], []
        for _ in range(3):
            start = time.perf_counter()
            _run_report(log, end_us)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            _run_peer_report(peer, end_us)
            theirs.append(time.perf_counter() - start)
    peer.close()
    for figure, value in (("report.seconds", statistics.median(ours)), ("report.seconds_first", first_s)):
        peer_value = statistics.median(theirs)
        yield {
            "figure": figure,
            "value": round(value, 3),
            "unit": "s",
            "peer": "SQLite WAL FULL",
            "peer_value": round(peer_value, 3),
            "ratio": round(peer_value / value, 2),
            "n": rows,
        }


def _run_report(log: PredictionLog, end_us: int) -> None:
    days = log.daily_counts(["fraud-canary"], START_US, end_us, quantiles=(0.5, 0.95, 0.99))
    rate = log.error_rate(["fraud-canary"], START_US, end_us)
    if len(days) != 7 or sum(day.predictions for day in days) != rate.predictions:
        raise RuntimeError("the report of the benchmark is wrong")


def _run_peer_report(peer: sqlite3.Connection, end_us: int) -> None:
    where = "WHERE deployment = 'fraud-canary' AND time >= ? AND time < ?"
    peer.execute(
        f"SELECT time / {DAY_US} AS day, count(*), sum(code <> 0) FROM p {where} GROUP BY day", (START_US, end_us)
    ).fetchall()
    peer.execute(
        f"WITH r AS (SELECT latency, percent_rank() OVER (PARTITION BY time / {DAY_US} ORDER BY latency) AS place, "
        f"time / {DAY_US} AS day FROM p {where}) SELECT day, min(latency) FILTER (WHERE place >= 0.5), "
        "min(latency) FILTER (WHERE place >= 0.95), min(latency) FILTER (WHERE place >= 0.99) FROM r GROUP BY day",
        (START_US, end_us),
    ).fetchall()
    peer.execute(f"SELECT count(*), sum(code <> 0) FROM p {where}", (START_US, end_us)).fetchall()


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures; sizes follow PILOTFISH_BENCH_SCALE."""
    rng = np.random.default_rng(20261123)
    with tempfile.TemporaryDirectory(prefix="bench-prediction-log-") as name:
        yield from _ingest(Path(name), rng)
        yield from _report(Path(name), rng)


if __name__ == "__main__":
    import json
    import sys

    for row in run():
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
