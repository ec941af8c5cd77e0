"""kill -9 at random moments: actions' effects come once, the process comes back; on SQLite and PostgreSQL."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from pilotfish.v1 import event_service_pb2_grpc
from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.storage import actions, audit, events
from pilotfish_control_plane.storage.actions import ActionState
from pilotfish_control_plane.storage.database import Database

pytestmark = pytest.mark.timeout(120)
WORKER = Path(__file__).with_name("foundation_worker.py")
EACH = 50
MOST_KILLS = 6


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_effects_come_once_under_kill_9_at_random_moments(database_url: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("PILOTFISH_TEST_SEED", time.time_ns() % 10**6))
    print(f"seed {seed}: repeat with PILOTFISH_TEST_SEED={seed}")
    rng = random.Random(seed)
    database = Database.open(database_url, SystemClock(), migrate=False)
    for i in range(EACH):
        for kind in ("inside", "outside"):
            database.write_sync(
                lambda tx, k=kind, i=i: actions.enqueue(tx, key=f"{k}/{i}", kind=k, payload={}, max_attempts=50)  # type: ignore[misc]
            )

    def unfinished() -> int:
        query = select(func.count()).where(actions.actions.c.state != ActionState.SUCCEEDED.value)
        return int(database.read_sync(lambda tx: tx.conn.execute(query).scalar_one()))

    log = tmp_path / "external.log"
    kills = 0
    deadline = time.monotonic() + 100
    while (left := unfinished()) > 0:
        worker = subprocess.Popen([sys.executable, str(WORKER), database_url, str(log), f"worker/{kills}"])
        while unfinished() >= left and worker.poll() is None:  # until it has begun to work
            assert time.monotonic() < deadline, f"{left} actions left after {kills} kills"
            time.sleep(0.005)
        if kills < MOST_KILLS:
            time.sleep(rng.uniform(0.0, 0.15))
        else:
            wait_for(lambda: unfinished() == 0, 60)
        assert worker.poll() is None, "the worker ended by itself"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        kills += 1
    print(f"{kills} kills")
    assert kills >= 3
    found = database.read_sync(lambda tx: events.tail(tx.conn, 0, kinds=["effect"], limit=10_000))
    effects = collections.Counter(e.subject for e in found)
    assert effects == {f"inside/{i}": 1 for i in range(EACH)}
    performed = collections.Counter(log.read_text().split())
    assert set(performed) == {f"outside/{i}" for i in range(EACH)}
    finished = database.read_sync(lambda tx: events.tail(tx.conn, 0, kinds=["actions.finished"], limit=10_000))
    assert max(collections.Counter(e.subject for e in finished).values()) == 1
    database.close()


# The process

Processes = list[subprocess.Popen[str]]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def start(processes: Processes, home: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pilotfish_control_plane", "--home", str(home), "--port", "0", "--http-port", "0"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    processes.append(process)
    return process


def facts(home: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the run file that this process wrote."""
    path = home / "run" / "control_plane.json"

    def written() -> bool:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            return bool(json.loads(path.read_text())["pid"] == process.pid)
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    wait_for(written, 20)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_process_starts_serves_and_drains_on_sigterm(processes: Processes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = start(processes, home)
    run = facts(home, process)
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    for port in (run["grpc_port"], run["http_port"]):
        socket.create_connection(("127.0.0.1", port), 2).close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    assert not (home / "run" / "control_plane.json").exists()


def test_a_second_process_in_one_home_is_refused_and_after_a_kill_the_next_one_starts(
    processes: Processes, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = start(processes, home)
    facts(home, first)
    token = (home / "token").read_text()
    second = start(processes, home)
    _, said = second.communicate(timeout=20)
    assert second.returncode == 3
    assert "is in use by another control plane" in said
    first.kill()
    first.wait()
    third = start(processes, home)
    facts(home, third)
    assert (home / "token").read_text() == token
    database = Database.open(f"sqlite:///{home / 'pilotfish.db'}", SystemClock(), migrate=False)
    key = (home / "audit_key").read_text().strip().encode()
    assert database.read_sync(lambda tx: audit.verify(tx.conn, key)).problems == ()
    database.close()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--host", "0.0.0.0"], 2, "set tls_cert and tls_key"),
        (["--log-level", "loud"], 2, "no such level"),
        (["--database", "postgresql://nobody@127.0.0.1:1/none"], 4, "does not answer"),
        (["--database", "mysql://x@y/z"], 2, "cannot be used"),
    ],
)
def test_a_start_that_cannot_work_exits_with_its_code_and_says_what_to_do(
    processes: Processes, tmp_path: Path, flags: list[str], code: int, said: str
) -> None:
    process = start(processes, tmp_path / "home", *flags)
    _, text = process.communicate(timeout=30)
    assert process.returncode == code
    assert said in text and "Traceback" not in text


def test_a_taken_port_is_refused_by_name(processes: Processes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(processes, tmp_path / "home", "--port", str(port))
        _, text = process.communicate(timeout=30)
    assert process.returncode == 3
    assert f"cannot listen on 127.0.0.1:{port}" in text


def test_two_servers_never_share_a_port(processes: Processes, tmp_path: Path) -> None:
    first = start(processes, tmp_path / "one")
    port = facts(tmp_path / "one", first)["grpc_port"]
    second = start(processes, tmp_path / "two", "--port", str(port))
    second.communicate(timeout=30)
    assert second.returncode == 3


def test_an_open_stream_does_not_hold_the_end_up(processes: Processes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = start(processes, home)
    run = facts(home, process)
    with grpc.insecure_channel(f"127.0.0.1:{run['grpc_port']}") as channel:
        stub = event_service_pb2_grpc.EventServiceStub(channel)
        from pilotfish.v1 import event_service_pb2

        metadata = (("authorization", f"Bearer {(home / 'token').read_text().strip()}"),)
        stream: Any = stub.Watch(event_service_pb2.WatchRequest(), metadata=metadata)
        started = time.monotonic()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            for _ in stream:
                pass
        assert process.wait(15) == 0
        assert time.monotonic() - started < 5
