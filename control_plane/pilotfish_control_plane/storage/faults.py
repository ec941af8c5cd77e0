"""What a driver's exception means.

Owns the only place that looks into driver errors: store down, disk full, worth a retry, or none of these.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pilotfish.errors import PilotfishError, ResourceExhausted, Unavailable

__all__ = ["is_retryable", "translate"]

_SQLITE_DOWN = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
}
# serialization_failure, deadlock_detected, and unique_violation: under SERIALIZABLE two writers that both saw
# "no such name" can meet in the index; on the second run the loser sees the winner's row and says so properly.
_RETRYABLE = {"40001", "40P01", "23505"}
_FULL = {"53100", "53200"}  # disk_full, out_of_memory
_DOWN_CLASSES = ("08", "57", "53", "58")  # connection, operator intervention, resources, system error


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def is_retryable(error: BaseException) -> bool:
    """Return whether the same transaction, run again, may succeed (PostgreSQL only)."""
    return isinstance(error, DBAPIError) and _sqlstate(error) in _RETRYABLE


def _full(cause: str) -> ResourceExhausted:
    return ResourceExhausted(
        f"the control plane's store is full ({cause}): free space on its disk, then repeat the call",
        reason="STORE_FULL",
        retry_after_s=10.0,
    )


def _down(cause: str, outcome: str = "nothing was changed, repeat the call") -> Unavailable:
    return Unavailable(
        f"the control plane's store does not answer ({cause}): {outcome}",
        reason="STORE_UNAVAILABLE",
        retry_after_s=1.0,
    )


def translate(error: BaseException, *, reading: bool = False) -> PilotfishError | None:
    """Return the error to show for a fault of the store, or None when `error` is not one.

    Args:
        error: any exception.
        reading: a read-only transaction; a refused write there is a bug, not a fault of the store.
    """
    if isinstance(error, PoolTimeout):
        return _down("no free connection")
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
        return None
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return _full("SQLITE_FULL")
        if code == sqlite3.SQLITE_READONLY and reading:
            return None
        return _down(error.orig.sqlite_errorname) if code in _SQLITE_DOWN else None
    state = _sqlstate(error)
    if state in _FULL:
        return _full(f"SQLSTATE {state}")
    if error.connection_invalidated or (state is None and type(error).__name__ == "OperationalError"):
        # It may have been lost during COMMIT.
        return _down("connection lost", "a change may have been made, repeat it with the same request_id")
    if state is not None and state[:2] in _DOWN_CLASSES:
        return _down(f"SQLSTATE {state}")
    return _down("too many conflicting changes") if is_retryable(error) else None
