"""Writing files so that they survive a crash, and saying so when the disk cannot.

Owns fsync, rename and the errors of a full or failing disk. It never decides what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from pilotfish.errors import PilotfishError, ResourceExhausted, Unavailable

__all__ = ["disk_error", "free_bytes", "publish", "sync_directory", "sync_file", "write_all"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MOST_BUFFERS = 512  # below IOV_MAX (1024 on Linux)

sync_file = getattr(os, "fdatasync", os.fsync)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path, root: Path) -> None:
    """Create `path` below `root` with its parents, each of them durable in its own parent."""
    missing: list[Path] = []
    while path != root and not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def publish(temporary: Path, final: Path) -> None:
    """Sync `temporary` and give it its final name, durable when this returns."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temporary, final)
    sync_directory(final.parent)


def write_all(handle: int, buffers: Sequence[bytes | memoryview]) -> int:
    """Write every buffer at the file's position and return the bytes written.

    Raises:
        OSError: a part may have been written; the caller truncates.
    """
    waiting = [memoryview(b).cast("B") for b in buffers if len(b)]
    total = 0
    while waiting:
        written = os.writev(handle, waiting[:_MOST_BUFFERS])
        total += written
        done = 0
        while done < len(waiting) and written >= len(waiting[done]):
            written -= len(waiting[done])
            done += 1
        waiting = waiting[done:]
        if written:
            waiting[0] = waiting[0][written:]
    return total


def free_bytes(path: Path) -> int:
    """Return the bytes that an unprivileged process may still write on the disk of `path`."""
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def disk_error(error: OSError, path: Path, retry_after_s: float) -> PilotfishError:
    """Return the error to raise for a failed write: full disks differ from broken ones."""
    if error.errno in _FULL or "No space left" in str(error):
        return ResourceExhausted(
            f"the disk of the prediction log {path} is full: free space or lower its retention; nothing was stored",
            reason="PREDICTION_LOG_FULL",
            metadata={"path": str(path)},
            retry_after_s=retry_after_s,
        )
    return Unavailable(
        f"the prediction log {path} could not be written: {error}; nothing was stored, check the disk",
        reason="PREDICTION_LOG_UNWRITABLE",
        metadata={"path": str(path)},
        retry_after_s=retry_after_s,
    )
