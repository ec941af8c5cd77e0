"""Where the control plane is and how to talk to it: address, token, channel options.

Owns the search: what is given, then PILOTFISH_ADDRESS and PILOTFISH_TOKEN, then what `pilotfish up` left in
PILOTFISH_HOME. It opens nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pilotfish.errors import InvalidArgument, Unauthenticated, Violation

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
    """How the control plane is reached.

    Attributes:
        address: host:port.
        token: the bearer token.
        gateway: the gateway's address where it is known.
        home: the home on this machine.
        ca_file: PEM file with the authority that signed the server's certificate; None: no TLS.
        cert_file: PEM file with the caller's own certificate, for mutual TLS.
        key_file: PEM file with its key.
    """

    address: str
    token: str
    gateway: str = ""
    home: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def certificates(self) -> tuple[bytes, bytes | None, bytes | None] | None:
        """Return the authority, the key and the certificate as they are in their files; None: no TLS.

        Raises:
            InvalidArgument: a file cannot be read; names each.
        """
        if self.ca_file is None:
            return None
        found: list[bytes | None] = []
        wrong = []
        for name in ("ca_file", "key_file", "cert_file"):
            path: Path | None = getattr(self, name)
            try:
                found.append(path.read_bytes() if path is not None else None)
            except OSError as error:
                wrong.append(Violation(name, f"{path}: {error.strerror}"))
        if (self.cert_file is None) != (self.key_file is None):
            wrong.append(Violation("cert_file", "set both cert_file and key_file, or neither"))
        if wrong:
            raise InvalidArgument("the certificates cannot be used", violations=wrong)
        authority, key, own = found
        return authority or b"", key, own


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
    address: str | None = None,
    token: str | None = None,
    *,
    home: str | Path | None = None,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> Connection:
    """Return how to reach the control plane.

    Args:
        address: host:port; None: PILOTFISH_ADDRESS, then what runs in the home, then 127.0.0.1:7433.
        token: bearer token; None: PILOTFISH_TOKEN, then the home's token file.
        home: PILOTFISH_HOME of a control plane on this machine.
        ca_file: PEM file of the server's authority; None: PILOTFISH_CA_FILE, then no TLS.
        cert_file: PEM file of the caller's certificate; None: PILOTFISH_CERT_FILE.
        key_file: PEM file of its key; None: PILOTFISH_KEY_FILE.

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
    files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    given = {name: path or os.environ.get(f"PILOTFISH_{name.upper()}") for name, path in files.items()}
    paths = {name: Path(path).expanduser() if path else None for name, path in given.items()}
    return Connection(address or DEFAULT_ADDRESS, token, gateway, base, **paths)
