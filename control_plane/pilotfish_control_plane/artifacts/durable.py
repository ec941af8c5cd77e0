"""Files that survive a crash: written, forced to the disk, then given their name.

Owns the order of system calls. It knows nothing about artifacts.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from pilotfish.errors import PilotfishError, ResourceExhausted

__all__ = ["copy_hashed", "disk_fault", "fsync_directory", "hash_file", "link_or_copy", "make_directories"]

_BLOCK = 1024 * 1024
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS)


def fsync_directory(path: Path) -> None:
    """Force the names in a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path, root: Path) -> None:
    """Make `path` and what lacks between it and `root`, each name forced to the disk; `root` must exist."""
    if path == root or path.is_dir():
        return
    make_directories(path.parent, root)
    path.mkdir(exist_ok=True)
    fsync_directory(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` the further name `target`; where links are not possible, copy it and force it to the disk."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        with open(source, "rb") as reading, open(target, "xb") as writing:
            shutil.copyfileobj(reading, writing, _BLOCK)
            writing.flush()
            os.fsync(writing.fileno())
        os.chmod(target, 0o444)


def hash_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a file's content, in hex, and its size in bytes."""
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return digest.hexdigest(), stream.tell()


def copy_hashed(reading: BinaryIO, target: Path) -> tuple[str, int]:
    """Copy an open file to the new file `target`, durably; return its SHA-256 in hex and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with open(target, "xb") as writing:
        while block := reading.read(_BLOCK):
            digest.update(block)
            size += writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest(), size


def disk_fault(error: OSError, doing: str) -> PilotfishError | None:
    """Return the error to show for a full disk, or None when `error` is something else."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return ResourceExhausted(
        f"the disk of the artifact store is full ({doing}): free space on it, then go on where the upload stopped",
        reason="STORE_FULL",
        retry_after_s=30.0,
    )
