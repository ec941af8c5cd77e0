"""Processes that outlive the node: recorded, adopted, ended; a foreign process is never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotfish_node.processes import Process, adopt, start

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    found = start(SLEEP, record=tmp_path / "p.json", log_path=tmp_path / "p.log")
    yield found
    if found.alive():
        os.kill(found.pid, signal.SIGKILL)


async def test_a_recorded_process_is_adopted_and_ended(process: Process, tmp_path: Path) -> None:
    assert os.getsid(process.pid) == process.pid, "it runs in a session of its own"
    again = adopt(tmp_path / "p.json")
    assert again is not None and again.pid == process.pid and again.alive()
    assert again.usage()[0] > 0
    await again.stop(grace_s=5.0)
    assert not process.alive() and not (tmp_path / "p.json").exists()


async def test_a_frozen_process_is_ended(process: Process) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    await process.stop(grace_s=5.0)
    assert not process.alive()


async def test_a_process_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    found = start([sys.executable, "-c", code], record=tmp_path / "p.json", log_path=tmp_path / "p.log")
    while "up" not in (tmp_path / "p.log").read_text():
        assert found.alive()
    await found.stop(grace_s=0.3)
    assert not found.alive()


def test_a_record_of_another_life_of_the_pid_touches_nobody(tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEP)
    try:
        (tmp_path / "p.json").write_text(json.dumps({"pid": other.pid, "started": 1.0, "argv": ["x"]}))
        assert adopt(tmp_path / "p.json") is None
        assert not (tmp_path / "p.json").exists()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_an_unreadable_record_is_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    assert adopt(tmp_path / "p.json") is None
