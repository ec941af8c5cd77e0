"""What the relay knows of itself, for the agent to read.

Owns a few counters and the histogram of the time that forwarding takes, in a JSON file that is replaced whole. It never
knows a call.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from pathlib import Path
from typing import Any, Final

from pilotfish_sidecar.relay.tee_wire import Direction

__all__ = ["ADDED_BOUNDS_US", "RelayStats", "read_stats"]

ADDED_BOUNDS_US: Final = (5, 10, 20, 50, 100, 200, 500, 1000, 5000, 20000)
"""Upper bounds of the buckets, microseconds; the last bucket is open."""


class RelayStats:
    """Counters of one relay process.

    Attributes:
        connections: accepted so far.
        refused: of them, those whose model server took no connection.
        opaque: of them, those of a protocol that is not followed.
        blind: of them, those that went blind or were so from the beginning.
        tls_failed: handshakes that failed.
        carried: bytes that were passed on, to the server and to the client.
        lag_us: how late the loop was at its worst since the file was written last, microseconds: a call that came then
            waited so long before it was read.
        added: chunks per bucket of the time from read to written, one chunk of 64.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self.connections = self.refused = self.opaque = self.blind = 0
        self.tls_failed = 0
        self.carried = [0, 0]
        self.lag_us = 0
        self.added = [0] * (len(ADDED_BOUNDS_US) + 1)

    def note_added_us(self, added_us: float) -> None:
        """Count how long one chunk took from read to written."""
        self.added[bisect_left(ADDED_BOUNDS_US, added_us)] += 1

    def write(self, path: Path, *, open_connections: int, tee_bytes: int) -> None:
        """Replace the file.

        Raises:
            OSError: it cannot be written.
        """
        values = {
            "pid": os.getpid(),
            "connections": self.connections,
            "open": open_connections,
            "refused": self.refused,
            "opaque": self.opaque,
            "blind": self.blind,
            "tls_failed": self.tls_failed,
            "tee_bytes": tee_bytes,
            "bytes_to_server": self.carried[Direction.TO_SERVER],
            "bytes_to_client": self.carried[Direction.TO_CLIENT],
            "lag_us": self.lag_us,
            "added_bounds_us": ADDED_BOUNDS_US,
            "added_counts": self.added,
        }
        self.lag_us = 0
        scratch = path.with_name(f".{path.name}")
        scratch.write_text(json.dumps(values))
        scratch.replace(path)


def read_stats(path: Path) -> dict[str, Any]:  # Any: JSON values
    """Return what a relay wrote last; nothing when there is none."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
