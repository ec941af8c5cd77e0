"""Principals, their role bindings and their tokens.

Owns the tables. A token is kept as its SHA-256 only: tokens are 256 random bits, so a slow hash adds nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, ForeignKey, String, Table, delete, insert, select, update

from pilotfish_control_plane.access.model import Principal, Role
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import UtcDateTime

__all__ = ["TOPIC", "Holder", "add_token", "bind", "digest", "holder", "principal", "revoke_token", "unbind"]

TOPIC = "access"

principals = Table(
    "principals",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("disabled", UtcDateTime),
)

role_bindings = Table(
    "role_bindings",
    metadata,
    Column("principal", ForeignKey("principals.name", ondelete="CASCADE"), primary_key=True),
    Column("project", String(63), primary_key=True, comment="a project's id, or * for all"),
    Column("role", String(9), primary_key=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("principal", ForeignKey("principals.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("label", String(255), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime),
    Column("revoked", UtcDateTime),
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a token stands for, and until when."""

    principal: Principal
    expires: datetime | None


def digest(token: str) -> str:
    """Return the hash under which a token is kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def principal(conn: Connection, name: str) -> Principal | None:
    """Return the principal with its bindings; None when unknown or disabled."""
    row = conn.execute(select(principals).where(principals.c.name == name)).first()
    if row is None or row.disabled is not None:
        return None
    bindings: dict[str, frozenset[Role]] = {}
    for b in conn.execute(select(role_bindings).where(role_bindings.c.principal == name)):
        bindings[b.project] = bindings.get(b.project, frozenset()) | {Role[b.role]}
    return Principal(name, bindings)


def holder(conn: Connection, token_hash: str, now: datetime) -> Holder | None:
    """Return who holds the token; None when it is unknown, expired or revoked."""
    row = conn.execute(select(tokens).where(tokens.c.hash == token_hash)).first()
    if row is None or row.revoked is not None or (row.expires is not None and row.expires <= now):
        return None
    who = principal(conn, row.principal)
    return None if who is None else Holder(who, row.expires)


def bind(tx: Tx, name: str, project: str, role: Role) -> None:
    """Give `name` the role in `project`, creating the principal when it is new."""
    if tx.conn.execute(select(principals.c.name).where(principals.c.name == name)).first() is None:
        tx.conn.execute(insert(principals).values(name=name, created=tx.now))
    key = {"principal": name, "project": project, "role": role.name}
    if tx.conn.execute(select(role_bindings).filter_by(**key)).first() is None:
        tx.conn.execute(insert(role_bindings).values(**key))
    tx.wake(TOPIC)


def unbind(tx: Tx, name: str, project: str, role: Role) -> bool:
    """Take the role away; return whether it was held."""
    tx.wake(TOPIC)
    key = {"principal": name, "project": project, "role": role.name}
    return bool(tx.conn.execute(delete(role_bindings).filter_by(**key)).rowcount)


def add_token(tx: Tx, name: str, token_hash: str, label: str, expires: datetime | None = None) -> None:
    """Let a token stand for the existing principal `name`; a known hash is left as it is."""
    if tx.conn.execute(select(tokens.c.hash).where(tokens.c.hash == token_hash)).first() is None:
        tx.conn.execute(
            insert(tokens).values(hash=token_hash, principal=name, label=label, created=tx.now, expires=expires)
        )
    tx.wake(TOPIC)


def revoke_token(tx: Tx, token_hash: str) -> bool:
    """End a token at once; return whether it was valid."""
    tx.wake(TOPIC)
    alive = (tokens.c.hash == token_hash) & tokens.c.revoked.is_(None)
    return bool(tx.conn.execute(update(tokens).where(alive).values(revoked=tx.now)).rowcount)
