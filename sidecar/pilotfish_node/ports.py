"""Ports that this machine has free. Owns the choice; never holds a port open."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

__all__ = ["free_port", "is_free"]

_LOWEST: Final = 10_000
_TRIES: Final = 50
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def is_free(host: str, port: int) -> bool:
    """Tell whether nobody listens on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str, wanted: int = 0) -> int:
    """Return the wanted port if it is free, else any free one.

    A port of the range that the system gives to outgoing connections is the last resort: it is free now, and while
    nobody listens there any connection may take it, so that whoever is restarted could not have it again.
    """
    if wanted and is_free(host, wanted):
        return wanted
    ephemeral = _first_ephemeral()
    for _ in range(_TRIES if ephemeral > _LOWEST else 0):
        # Drawn, not counted: two processes that look at the same moment should not find the same port.
        port = random.randrange(_LOWEST, ephemeral)
        if is_free(host, port):
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _first_ephemeral() -> int:
    try:
        return int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
