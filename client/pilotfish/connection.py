"""Where the control plane is and how to talk to it: address, token, channel options.

Owns the search: what is given, then PILOTFISH_ADDRESS and PILOTFISH_TOKEN, then what `pilotfish up` left in
PILOTFISH_HOME. It opens nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pilotfish.errors import Unauthenticated

__all__ = ["CHANNEL_OPTIONS", "Connection", "default_home", "find_connection"]

DEFAULT_ADDRESS = "127.0.0.1:7433"

RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2.0,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # Every mutation carries a request id, so that a retry can never do a thing twice.
    ("grpc.service_config", json.dumps(RETRIES)),
    ("grpc.enable_retries", 1),
    # A request of this size is kept for a retry when a connection is drained under it.
    ("grpc.per_rpc_retry_buffer_size", 16 * 1024 * 1024),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """An address host:port and the bearer token; the gateway's address where it is known."""

    address: str
    token: str
    gateway: str = ""
    home: Path | None = None


def default_home() -> Path:
    """Return PILOTFISH_HOME, else the XDG data directory of pilotfish."""
    given = os.environ.get("PILOTFISH_HOME")
    if given:
        return Path(given).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "pilotfish"


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_connection(
    address: str | None = None, token: str | None = None, *, home: str | Path | None = None
) -> Connection:
    """Return how to reach the control plane.

    Args:
        address: host:port; None: PILOTFISH_ADDRESS, then what runs in the home, then 127.0.0.1:7433.
        token: bearer token; None: PILOTFISH_TOKEN, then the home's token file.
        home: PILOTFISH_HOME of a control plane on this machine.

    Raises:
        Unauthenticated: there is no token anywhere.
    """
    base = Path(home).expanduser() if home is not None else default_home()
    running = _json(base / "run" / "control_plane.json")
    if address is None:
        address = os.environ.get("PILOTFISH_ADDRESS") if home is None else None
    if address is None and running.get("grpc_port"):
        address = f"{running.get('host') or '127.0.0.1'}:{running['grpc_port']}"
    if token is None:
        token = os.environ.get("PILOTFISH_TOKEN") if home is None else None
    if token is None:
        try:
            token = (base / "token").read_text().strip()
        except OSError as error:
            raise Unauthenticated(
                "there is no token: give token=…, set PILOTFISH_TOKEN, "
                f"or start `pilotfish up`, which writes {base / 'token'}"
            ) from error
    ports = _json(base / "nodes" / "local" / "gateway" / "ports.json")
    gateway = f"127.0.0.1:{ports['shared']}" if ports.get("shared") else ""
    return Connection(address or DEFAULT_ADDRESS, token, gateway, base)
