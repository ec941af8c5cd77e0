"""Processes that outlive their supervisor: started in sessions of their own, recorded, and taken over by the next one.

Owns a process's record and when it is started again. It never ends a process whose start does not match its record.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["TICK_S", "Child", "read_json", "start_ticks", "write_json"]

TICK_S = 0.05
"""Seconds between two looks at a process."""


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a small JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    scratch.write_text(json.dumps(value))
    os.replace(scratch, path)


def read_json(path: Path) -> dict[str, Any]:
    """Return a small JSON object; whatever a crash left behind counts as nothing."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def start_ticks(pid: int) -> str:
    """Return what tells this life of the pid from another's; empty where the system does not say or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Child:
    """A process under supervision, started here or taken over from an earlier supervisor."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.due_at = 0.0
        self._failures = 0
        self._started_at = 0.0
        self._record = home / "run" / f"{name}.process.json"
        self._log = home / "logs" / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None
        saved = read_json(self._record)
        self.pid = int(saved.get("pid", 0))
        self._ticks = str(saved.get("ticks", ""))
        if not self.alive():
            self.pid = 0

    @property
    def log_path(self) -> Path:
        """Return where its output goes."""
        return self._log

    def alive(self) -> bool:
        """Tell whether it runs."""
        if self._popen is not None:
            return self._popen.poll() is None
        if self.pid <= 0:
            return False
        if Path("/proc").is_dir():
            return bool(self._ticks) and start_ticks(self.pid) == self._ticks
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return True

    def start(self, argv: Sequence[str]) -> None:
        """Start it in a session of its own, with its output appended to its log."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as out:
            self._popen = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._started_at = time.monotonic()
        self.pid = self._popen.pid
        self._ticks = start_ticks(self.pid)
        write_json(self._record, {"pid": self.pid, "ticks": self._ticks, "argv": list(argv)})

    def next_pause_s(self) -> float:
        """Return the seconds to wait before the next start: 0.1, 0.2 … 30; a minute of life starts the count again."""
        if time.monotonic() - self._started_at > 60.0:
            self._failures = 0
        self._failures += 1
        return min(30.0, 0.1 * 2.0 ** min(self._failures - 1, 9))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; tell whether it has ended."""
        until = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(TICK_S)
        self._record.unlink(missing_ok=True)
        return True

    def last_words(self) -> str:
        """Return the end of its log, at most 20 lines."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-20:])
