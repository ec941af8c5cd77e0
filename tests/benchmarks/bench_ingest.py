"""Rows into the prediction log through a real Publish stream, from another process, rolling into Parquet meanwhile.

The peer is SQLite (WAL, synchronous=FULL, one transaction per batch) on the same disk with the same rows.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import fleet_service_pb2_grpc
from pilotfish.v1 import monitoring_pb2 as pb

ROWS, FEATURES = 1000, 30
BATCHES = int(os.environ.get("BENCH_BATCHES", "300"))
ROUNDS = 3


def run() -> Iterator[dict[str, Any]]:
    """Yield the figure."""
    with tempfile.TemporaryDirectory(prefix="pilotfish-bench-") as directory:
        ours, peers = [], []
        with _ControlPlane(Path(directory) / "home") as plane:
            for n in range(ROUNDS):
                ours.append(_publish(plane, incarnation=n + 1))
                peers.append(_sqlite(Path(directory) / f"peer{n}.db"))
        value, peer = statistics.median(ours), statistics.median(peers)
    yield {
        "figure": "ingest.rows_per_s",
        "value": round(value),
        "unit": "rows/s",
        "peer": "sqlite WAL synchronous=FULL",
        "peer_value": round(peer),
        "ratio": round(value / peer, 2),
        "n": BATCHES * ROWS * ROUNDS,
    }


class _ControlPlane:
    """A control plane in a process of its own."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True)
        self.home = home
        argv = [sys.executable, "-m", "pilotfish_control_plane", "--home", str(home), "--port", "0", "--http-port", "0"]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> _ControlPlane:
        until = time.monotonic() + 60
        path = self.home / "run" / "control_plane.json"
        while not path.exists():
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("the control plane did not start")
            time.sleep(0.05)
        self.port = int(json.loads(path.read_text())["grpc_port"])
        self.token = (self.home / "node_token").read_text().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


def _batches(incarnation: int) -> list[fleet.PublishRequest]:
    rng = np.random.default_rng(incarnation)
    found = []
    for b in range(BATCHES):
        first = b * ROWS
        columns = [
            pb.Column(name=f"f{i}", group=pb.COLUMN_GROUP_INPUT, datatype="FP64", data=rng.normal(size=ROWS).tobytes())
            for i in range(FEATURES)
        ]
        columns.append(
            pb.Column(
                name="label", group=pb.COLUMN_GROUP_OUTPUT, datatype="INT64", data=np.zeros(ROWS, np.int64).tobytes()
            )
        )
        at = 1_760_000_000_000_000 + first
        batch = pb.PredictionBatch(
            deployment="bench",
            endpoint="bench",
            model="bench",
            version=1,
            replica="r",
            prediction_ids=[f"{incarnation}-{first + i:x}" for i in range(ROWS)],
            times_us=list(range(at, at + ROWS)),
            latencies_us=[900] * ROWS,
            input_hashes=rng.integers(0, 2**63, ROWS).tolist(),
            columns=columns,
        )
        found.append(
            fleet.PublishRequest(
                instance="bench", incarnation=incarnation, stream="predictions", first_offset=first,
                end_offset=first + ROWS, predictions=batch,
            )
        )  # fmt: skip
    return found


def _publish(plane: _ControlPlane, incarnation: int) -> float:
    """Return rows per second from the first message to the watermark of the last."""
    requests = _batches(incarnation)
    with grpc.insecure_channel(f"127.0.0.1:{plane.port}") as channel:
        stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        began = time.perf_counter()
        answers = stub.Publish(iter(requests), metadata=(("authorization", f"Bearer {plane.token}"),))
        for answer in answers:
            if answer.watermark >= BATCHES * ROWS:
                break
        took = time.perf_counter() - began
        answers.cancel()
    return BATCHES * ROWS / took


def _sqlite(path: Path) -> float:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ROWS, FEATURES)).tolist()
    count = max(10, BATCHES // 10)
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        columns = ", ".join(f"f{i} REAL" for i in range(FEATURES))
        connection.execute(f"CREATE TABLE rows (id TEXT PRIMARY KEY, at INTEGER, {columns})")
        marks = ", ".join("?" * (FEATURES + 2))
        began = time.perf_counter()
        for b in range(count):
            connection.execute("BEGIN")
            rows = [(f"{b}-{i}", i, *row) for i, row in enumerate(values)]
            connection.executemany(f"INSERT INTO rows VALUES ({marks})", rows)
            connection.execute("COMMIT")
        took = time.perf_counter() - began
    connection.close()
    return count * ROWS / took
