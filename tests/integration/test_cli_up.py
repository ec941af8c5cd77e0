"""`pilotfish up`, `status` and `down` as real processes, on any free ports, and a control plane that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FREE_PORTS = ("--port", "0", "--http-port", "0", "--gateway-port", "0", "--endpoint-ports", "0")


class Machine:
    """The command line for one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as a process of its own."""
        given = {k: v for k, v in os.environ.items() if not k.startswith("PILOTFISH_")}
        ended = subprocess.run(
            [sys.executable, "-m", "pilotfish", *arguments], capture_output=True, text=True, timeout=110, check=False,
            env=given | {"PILOTFISH_HOME": str(self.home)},
        )  # fmt: skip
        assert code is None or ended.returncode == code, (
            f"{arguments}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        )
        return ended

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        """Return the one document that a command writes."""
        return json.loads(self.run(*arguments, "-o", "json", code=code).stdout)

    def pids(self) -> dict[str, int]:
        """Return the processes that run."""
        return {p["name"]: p["pid"] for p in self.json("status", code=None)["processes"]}

    def eventually(self, what: str, check: Callable[[], bool], timeout_s: float = 45.0) -> None:
        """Wait until something holds."""
        until = time.monotonic() + timeout_s
        while not check():
            assert time.monotonic() < until, f"{what}: not within {timeout_s} s\n{self.logs()}"
            time.sleep(0.2)

    def logs(self) -> str:
        """Return the end of every log."""
        return "\n".join(f"{p.name}:\n{p.read_text(errors='replace')[-1500:]}" for p in self.home.glob("logs/*.log"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a home where nothing runs; whatever is started there ends with the test."""
    found = Machine(tmp_path / "home")
    yield found
    with contextlib.suppress(subprocess.TimeoutExpired):
        found.run("down", code=None)


def alive(pid: int) -> bool:
    """Tell whether a process runs, one that was not waited for excepted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.timeout(240)
@pytest.mark.ledger("G5", "G2")
def test_up_runs_on_restarts_what_is_killed_and_ends_with_down(machine: Machine) -> None:
    before = machine.json("status", code=1)
    assert before["processes"][0]["pid"] == 0
    facts = machine.json("up", "--detach", *FREE_PORTS)
    assert facts["grpc"].startswith("127.0.0.1:") and not facts["grpc"].endswith(":0")
    assert Path(facts["token_file"]).stat().st_mode & 0o777 == 0o600
    status = machine.json("status")
    assert (status["address"], status["version"], status["role"]) == (facts["grpc"], "0.1.0", "admin")
    first = machine.pids()
    assert all(first.values())
    twice = machine.run("up", "--detach", *FREE_PORTS, code=5)
    assert "already runs" in twice.stderr and "pilotfish down" in twice.stderr

    os.kill(first["control_plane"], signal.SIGKILL)
    machine.eventually(
        "a new control plane", lambda: machine.pids()["control_plane"] not in (0, first["control_plane"])
    )
    machine.eventually("an answer", lambda: machine.run("get", "models", code=None).returncode == 0)
    after = machine.json("status")
    assert after["address"] == facts["grpc"], "it comes back at the same port"
    names = {p["name"]: p for p in after["processes"]}
    assert names["control_plane"]["restarts"] == 1
    assert (names["node"]["pid"], names["supervisor"]["pid"]) == (first["node"], first["supervisor"])

    pids = machine.pids()
    ended = machine.json("down")
    assert ended["stopped"] is True
    assert not any(alive(pid) for pid in pids.values())
    assert machine.json("down")["stopped"] is False
    assert not (machine.home / "run" / "up.json").exists()


@pytest.mark.timeout(240)
def test_what_a_killed_supervisor_left_is_taken_over_or_ended(machine: Machine) -> None:
    machine.run("up", "--detach", *FREE_PORTS)
    first = machine.pids()
    os.kill(first["supervisor"], signal.SIGKILL)
    machine.eventually("no supervisor", lambda: machine.pids()["supervisor"] == 0)
    assert machine.run("get", "models").returncode == 0, "what serves goes on"
    machine.run("up", "--detach", *FREE_PORTS)
    second = machine.pids()
    assert (second["control_plane"], second["node"]) == (first["control_plane"], first["node"])
    os.kill(second["supervisor"], signal.SIGKILL)
    machine.eventually("no supervisor", lambda: machine.pids()["supervisor"] == 0)
    assert machine.json("down")["stopped"] is True
    assert not any(alive(pid) for pid in second.values())


@pytest.mark.timeout(120)
def test_up_that_cannot_start_says_why_and_leaves_nothing(machine: Machine) -> None:
    failed = machine.run("up", "--detach", *FREE_PORTS, "--host", "0.0.0.0", code=1)
    assert "tls_cert" in failed.stderr and "Traceback" not in failed.stderr
    assert not any(machine.pids().values())


@pytest.mark.timeout(120)
def test_ctrl_c_ends_up_in_the_foreground(machine: Machine) -> None:
    argv = [sys.executable, "-m", "pilotfish", "--home", str(machine.home), "up", *FREE_PORTS]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        machine.eventually("up", lambda: (machine.home / "run" / "up.json").exists())
        pids = machine.pids()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "is up" in out and "stopped" in err
    assert not any(alive(pid) for pid in pids.values())
