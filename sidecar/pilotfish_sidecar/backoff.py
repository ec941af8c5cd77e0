"""How long to wait before the next try.

Owns the schedule: quick at first, so that a restart of the control plane is over soon, then full jitter up to 30 s.
"""

from __future__ import annotations

import random
from typing import Final

__all__ = ["Backoff"]

_QUICK_TRIES: Final = 3
_LEAST_S: Final = 0.2
_QUICK_S: Final = 1.0
_MOST_S: Final = 30.0


class Backoff:
    """Delays between tries, for ever.

    Args:
        rng: of the jitter.
    """

    def __init__(self, rng: random.Random) -> None:
        """Begin with the quick tries."""
        self._rng = rng
        self._tries = 0

    def next_s(self) -> float:
        """Return the seconds to wait before the next try."""
        self._tries += 1
        slow = min(self._tries - _QUICK_TRIES, 16)
        top = _QUICK_S if slow <= 0 else min(_MOST_S, _QUICK_S * 2.0**slow)
        return self._rng.uniform(_LEAST_S, top)

    def reset(self) -> None:
        """Begin anew: the last try went well."""
        self._tries = 0
