"""Ports that this machine has free. Owns the choice; never holds a port open."""

from __future__ import annotations

import socket

__all__ = ["free_port", "is_free"]


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
    """Return the wanted port if it is free, else any free one."""
    if wanted and is_free(host, wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
