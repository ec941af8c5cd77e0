"""The first tokens: made at the first start, kept in files that only their owner can read.

Owns the files `token` (administrator), `node_token` (nodes and sidecars), `audit_key` and `audit_head`; never prints
one.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.access.model import ALL_PROJECTS, Role
from pilotfish_control_plane.storage import access
from pilotfish_control_plane.storage.audit import Head
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["bootstrap", "read_head", "secret_file", "token_for_node", "write_head"]

ADMIN, NODE = "admin", "node"


def secret_file(path: Path) -> str:
    """Return the secret in `path`, making it (0600, 256 random bits) when there is no such file.

    Raises:
        FailedPrecondition: others may read the file, or it is empty.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        _write_secret(path, secrets.token_urlsafe(32))
        mode = path.stat().st_mode
    if mode & 0o077:
        raise FailedPrecondition(
            f"{path} can be read by others (mode {mode & 0o777:o}): chmod 600 it, and replace the secret if need be",
            reason="SECRET_FILE_MODE",
        )
    text = path.read_text().strip()
    if not text:
        raise FailedPrecondition(f"{path} is empty: remove it to get a new one", reason="SECRET_FILE_EMPTY")
    return text


def _write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_head(path: Path, head: Head) -> None:
    """Keep the end of the audit chain in `path`."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"chain": head.chain, "seal": head.seal}) + "\n")
    temporary.replace(path)


def read_head(path: Path) -> Head | None:
    """Return the end of the audit chain that was kept in `path`; None when there is none."""
    try:
        kept = json.loads(path.read_text())
        return Head(int(kept["chain"]), str(kept["seal"]))
    except FileNotFoundError:
        return None


def token_for_node(node_token: Path) -> str:
    """Return the token that nodes and sidecars of this home use."""
    return secret_file(node_token)


def bootstrap(tx: Tx, instance: str, token: str, node_token: str) -> None:
    """Let the two tokens stand for the principals `admin` and `node`; changes nothing when they do already.

    Args:
        tx: a write transaction.
        instance: this home's id: several homes on one database have tokens of their own.
        token: the administrator's token.
        node_token: the token of nodes and sidecars.
    """
    for name, role, text in ((ADMIN, Role.ADMIN, token), (NODE, Role.SIDECAR, node_token)):
        access.bind(tx, name, ALL_PROJECTS, role)
        access.replace_token(tx, f"{name}-{instance[:8]}", name, access.digest(text))
