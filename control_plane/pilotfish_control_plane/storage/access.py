"""Principals, their role bindings and their tokens.

Owns the tables. A token is kept as its SHA-256 only: tokens are 256 random bits, so a slow hash adds nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, ForeignKey, Row, String, Table, bindparam, delete, insert, select, update

from pilotfish_control_plane.access.model import Principal, Role
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import UtcDateTime

__all__ = [
    "TOPIC",
    "Holder",
    "TokenRow",
    "add_token",
    "all_tokens",
    "bind",
    "digest",
    "holder",
    "principal",
    "replace_token",
    "revoke_token",
    "token",
    "unbind",
]

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
    Column("name", String(127), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("principal", ForeignKey("principals.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime),
    Column("revoked", UtcDateTime),
)


_BY_HASH = select(tokens).where(tokens.c.hash == bindparam("given"))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who a token stands for, and until when."""

    principal: Principal
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token without its text."""

    name: str
    principal: str
    hash: str
    created: datetime
    expires: datetime | None
    revoked: datetime | None


def digest(text: str) -> str:
    """Return the hash under which a token is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


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
    row = conn.execute(_BY_HASH, {"given": token_hash}).first()
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


def add_token(tx: Tx, name: str, principal_name: str, token_hash: str, expires: datetime | None = None) -> TokenRow:
    """Let a token called `name` stand for the existing principal; the name must be free."""
    tx.conn.execute(
        insert(tokens).values(name=name, hash=token_hash, principal=principal_name, created=tx.now, expires=expires)
    )
    tx.wake(TOPIC)
    return TokenRow(name, principal_name, token_hash, tx.now, expires, None)


def replace_token(tx: Tx, name: str, principal_name: str, token_hash: str) -> None:
    """Make `token_hash` the one valid text of the token `name`; unchanged when it is that already, even revoked."""
    known = token(tx.conn, name)
    if known is None:
        add_token(tx, name, principal_name, token_hash)
    elif known.hash != token_hash:
        changed = {"hash": token_hash, "created": tx.now, "revoked": None}
        tx.conn.execute(update(tokens).where(tokens.c.name == name).values(**changed))
        tx.wake(TOPIC)


def token(conn: Connection, name: str) -> TokenRow | None:
    """Return the token called `name`, valid or not."""
    row = conn.execute(select(tokens).where(tokens.c.name == name)).first()
    return None if row is None else _token(row)


def all_tokens(conn: Connection) -> list[TokenRow]:
    """Return every token, by name."""
    return [_token(row) for row in conn.execute(select(tokens).order_by(tokens.c.name))]


def _token(row: Row[Any]) -> TokenRow:
    return TokenRow(row.name, row.principal, row.hash, row.created, row.expires, row.revoked)


def revoke_token(tx: Tx, name: str) -> bool:
    """End a token at once; return whether it was valid."""
    tx.wake(TOPIC)
    alive = (tokens.c.name == name) & tokens.c.revoked.is_(None)
    return bool(tx.conn.execute(update(tokens).where(alive).values(revoked=tx.now)).rowcount)
