"""Where time comes from.

Owns the `Clock` that every part is given, the real one and one that is moved by hand. Nothing else in the
control plane reads the time of day.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "FakeClock", "SystemClock"]


class Clock(Protocol):
    """A source of time: `now` for what is stored, `monotonic` for what is measured."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary point; it never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since an arbitrary point; it never goes back."""
        return time.monotonic()


class FakeClock:
    """A clock that stands still until it is moved; for tests and simulations. Safe to share between threads."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        """Start at `start`, which must be aware."""
        if start.tzinfo is None:
            raise ValueError(f"the start {start!r} has no time zone")
        self._lock = threading.Lock()
        self._now = start.astimezone(UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time of day that was set."""
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        """Return the seconds that `advance` has moved so far."""
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both readings forward by `seconds` >= 0."""
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} s: use jump() to move the time of day back")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Move only the time of day, forward or back, as a stepped system clock does."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
