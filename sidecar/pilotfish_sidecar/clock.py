"""Time as it is passed in: the wall clock for stamps, the monotonic one for waiting.

Owns nothing but the protocol and the system's clock.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What the agent knows of time."""

    def time_s(self) -> float:
        """Return seconds since 1970, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        ...


class SystemClock:
    """The system's clocks."""

    def time_s(self) -> float:
        """Return seconds since 1970, UTC."""
        return time.time()

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()
