"""The directory that a training job and the control plane share.

Owns how `spec.json` is read and how `events.jsonl` and `result.json` are written: events are appended whole lines,
the result appears atomically and exactly once. Never interprets what is in them.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.trainer.outcome import plain

__all__ = ["DirectoryBusy", "EventLog", "JobDirectory"]


class DirectoryBusy(RuntimeError):
    """Another trainer process works in this directory."""


class JobDirectory:
    """The files of one job; holding the object means holding the directory's lock.

    Args:
        path: the job's directory; it must exist.

    Raises:
        DirectoryBusy: another process holds the lock.
        FileNotFoundError: there is no such directory.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock of the directory."""
        self.path = path.resolve(strict=True)
        self._lock_file = open(self.path / "lock", "a+b")  # noqa: SIM115  held until close()
        self._result_guard = threading.Lock()
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise DirectoryBusy(f"another trainer already works in {self.path}") from error

    def close(self) -> None:
        """Give the lock back."""
        self._lock_file.close()

    @property
    def artifact(self) -> Path:
        """The directory of the version's files."""
        return self.path / "artifact"

    def has_result(self) -> bool:
        """Return whether the job has already ended."""
        return (self.path / "result.json").exists()

    def read_spec(self) -> Any:
        """Return the parsed `spec.json`.

        Raises:
            FileNotFoundError: it is missing.
            ValueError: it is not JSON in UTF-8.
        """
        return json.loads((self.path / "spec.json").read_bytes())

    def write_result(self, document: Mapping[str, Any]) -> bool:
        """Write `result.json` atomically and return True; return False, changing nothing, when there is one already.

        The first result stands: a job that was cancelled in its last instant has one outcome, not two.
        """
        with self._result_guard:
            target = self.path / "result.json"
            if target.exists():
                return False
            write_atomically(target, json.dumps(plain(document), indent=1, allow_nan=False).encode())
            return True


def write_atomically(target: Path, content: bytes) -> None:
    """Replace `target` by `content` so that a reader, and a crash, sees the old or the new file, never a part."""
    draft = target.with_name(target.name + ".tmp")
    with open(draft, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class EventLog:
    """The job's progress as JSON lines; safe to use from several threads.

    A process that was killed may have left half a line: it is cut off, and numbering goes on after the last whole one.

    Args:
        path: the file, created when missing.
        clock: gives each event its time.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open the file for appending and find the last sequence number."""
        self._clock = clock
        self._guard = threading.Lock()
        self._seq = _repair(path)
        self._stream = open(path, "ab")  # noqa: SIM115  open as long as the job runs

    def append(
        self,
        stage: str,
        fraction: float,
        message: str,
        metrics: Mapping[str, Any] | None = None,
        *,
        durable: bool = False,
    ) -> None:
        """Append one event.

        Args:
            stage: the stage's name, such as `train`.
            fraction: progress of the whole job, 0..1.
            message: one line for people.
            metrics: numbers known at this point.
            durable: also force it to the disk; done at the end of each stage.
        """
        with self._guard:
            self._seq += 1
            event = {
                "seq": self._seq,
                "time": self._clock.now().isoformat(),
                "stage": stage,
                "fraction": round(min(max(fraction, 0.0), 1.0), 4),
                "message": message,
                "metrics": plain(metrics or {}),
            }
            self._stream.write(json.dumps(event, allow_nan=False).encode() + b"\n")
            self._stream.flush()
            if durable:
                os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Force what was written to the disk and close the file."""
        with self._guard:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()


def _repair(path: Path) -> int:
    """Cut a half-written last line off and return the last sequence number, 0 when there is none."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    for line in reversed(whole.splitlines()):
        try:
            return int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
