"""Processes that outlive the node: started in sessions of their own, recorded, found again, stopped.

A record holds pid and start time, because a pid alone may belong to somebody else after a reboot or a wrap.
It never touches a process that it did not start or that no longer matches its record.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pilotfish_node.files import read_json, write_atomically

__all__ = ["Process", "Record", "adopt", "start"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What identifies a process: its pid, its start in seconds since 1970, and its command line."""

    pid: int
    started: float
    argv: tuple[str, ...]


class Process:
    """A process that this node started, or adopted from its record."""

    def __init__(self, record: Record, path: Path, child: subprocess.Popen[bytes] | None) -> None:
        self.record = record
        self._path = path
        self._child = child
        self._handle: psutil.Process | None = None

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.record.pid

    def alive(self) -> bool:
        """Tell whether it runs still; a zombie does not."""
        if self._child is not None and self._child.poll() is not None:
            return False
        handle = self._process()
        try:
            return handle is not None and handle.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.Error:
            return False

    def usage(self) -> tuple[int, float]:
        """Return resident bytes and CPU seconds used so far; zeros when it is gone."""
        handle = self._process()
        try:
            if handle is None:
                return 0, 0.0
            with handle.oneshot():
                times = handle.cpu_times()
                return int(handle.memory_info().rss), float(times.user + times.system)
        except psutil.Error:
            return 0, 0.0

    async def stop(self, *, grace_s: float) -> None:
        """Ask it to end, then end it; its record goes with it."""
        self.signal(signal.SIGTERM)
        # A frozen process takes no SIGTERM until it is continued.
        self.signal(signal.SIGCONT)
        until = time.monotonic() + grace_s
        while self.alive() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if self.alive():
            self.signal(signal.SIGKILL)
            while self.alive():
                await asyncio.sleep(0.02)
        self.forget()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still is the one of the record."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def forget(self) -> None:
        """Remove the record of a process that has ended."""
        if self._child is not None:
            self._child.poll()
        self._path.unlink(missing_ok=True)

    def _process(self) -> psutil.Process | None:
        if self._handle is None:
            try:
                handle = psutil.Process(self.pid)
                if abs(handle.create_time() - self.record.started) > 1.0:
                    return None
            except psutil.Error:
                return None
            self._handle = handle
        return self._handle if self._handle.is_running() else None


def start(argv: Sequence[str], *, record: Path, log_path: Path, env: Mapping[str, str] | None = None) -> Process:
    """Start a process in a session of its own, with its output appended to log_path, and record it.

    Raises:
        OSError: the program cannot be started.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "ab") as out:
        # The child inherits the file, not the node's terminal: it must live on when the node dies.
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    try:
        started = psutil.Process(child.pid).create_time()
    except psutil.Error:
        started = time.time()
    found = Record(child.pid, started, tuple(argv))
    write_atomically(record, json.dumps(asdict(found)).encode())
    return Process(found, record, child)


def adopt(record: Path) -> Process | None:
    """Return the recorded process if it still runs, else None; a stale record is removed."""
    value = read_json(record)
    if value is None:
        return None
    try:
        found = Record(int(value["pid"]), float(value["started"]), tuple(str(a) for a in value["argv"]))
    except (KeyError, TypeError, ValueError):
        log.warning("unreadable process record removed", extra={"path": str(record)})
        record.unlink(missing_ok=True)
        return None
    process = Process(found, record, None)
    if process.alive():
        return process
    record.unlink(missing_ok=True)
    return None
