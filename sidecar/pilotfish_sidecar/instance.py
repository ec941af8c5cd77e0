"""Whose spool it is: the lock that keeps it to one process, and the count of its incarnations.

Owns the files `lock` and `instance.json` of a spool. It never touches a segment.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path

from pilotfish.errors import FailedPrecondition
from pilotfish_sidecar.segments import sync_directory

__all__ = ["lock_directory", "read_incarnation", "write_incarnation"]

log = logging.getLogger(__name__)


def lock_directory(directory: Path) -> int:
    """Return a handle that holds the directory until it is closed.

    Raises:
        FailedPrecondition: another process has it.
    """
    path = directory / "lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise FailedPrecondition(
            f"another sidecar uses the spool {directory}; stop it, or give this one another --spool-dir",
            reason="SPOOL_LOCKED",
        ) from error
    return handle


def read_incarnation(directory: Path, instance: str) -> int:
    """Return the last incarnation that wrote here, 0 for none.

    Raises:
        FailedPrecondition: the spool belongs to another instance.
    """
    path = directory / "instance.json"
    try:
        document = json.loads(path.read_text())
        known, incarnation = str(document["instance"]), int(document["incarnation"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        log.warning("spool: %s is damaged and written anew", path)
        return 0
    if known != instance:
        raise FailedPrecondition(
            f"the spool {directory} belongs to {known}, not to {instance}; give this sidecar another --spool-dir",
            reason="SPOOL_OF_ANOTHER",
        )
    return incarnation


def write_incarnation(directory: Path, instance: str, incarnation: int) -> None:
    """Make an incarnation the last one, durably, before it writes anything."""
    temporary = directory / ".instance.json"
    with temporary.open("w") as file:
        json.dump({"instance": instance, "incarnation": incarnation}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / "instance.json")
    sync_directory(directory)
