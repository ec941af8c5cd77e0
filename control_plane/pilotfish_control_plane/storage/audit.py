"""The audit trail: who changed what, sealed in order into an HMAC chain.

Owns the table, the sealing and the verification. Rows are written in the transaction of the change (so several
writers append at once, without a lock); the leader gives them their place in the chain within a second. A row
is never changed after its seal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Row,
    String,
    Table,
    bindparam,
    func,
    insert,
    select,
    update,
)

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import BigId, Json, JsonObject, UtcDateTime

__all__ = [
    "TOPIC",
    "AuditRow",
    "Head",
    "Verification",
    "append",
    "audit",
    "head",
    "key_id",
    "listing",
    "page",
    "seal",
    "verify",
]

TOPIC = "audit"
GENESIS = "0" * 64
_SEALED = ("time", "principal", "request_id", "method", "resource", "before", "after")

audit = Table(
    "audit",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("time", UtcDateTime, nullable=False),
    Column("principal", String(255), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("method", String(127), nullable=False),
    Column("resource", String(512), nullable=False),
    Column("before", Json),
    Column("after", Json),
    Column("chain", BigInteger, unique=True, comment="1, 2, 3 … in the order of sealing; NULL: not sealed yet"),
    Column("seal", String(64)),
    Column("key_id", String(16), comment="which key sealed it; tells a wrong key from a changed row"),
    Index("ix_audit_resource", "resource", "id"),
    sqlite_autoincrement=True,
)


_INSERT = insert(audit)
_SEAL = update(audit).where(audit.c.id == bindparam("row"))
_UNSEALED = select(audit).where(audit.c.chain.is_(None)).order_by(audit.c.id)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change; `chain` is None until the leader has sealed it."""

    id: int
    time: datetime
    principal: str
    request_id: str
    method: str
    resource: str
    before: JsonObject | None
    after: JsonObject | None
    chain: int | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk along the chain found; `problems` is empty when nothing was tampered with.

    Args:
        sealed: rows in the chain.
        unsealed: rows that wait for the sealer.
        problems: every break, in words.
        first_broken: id of the first row whose seal does not hold; 0: none.
    """

    sealed: int
    unsealed: int
    problems: tuple[str, ...]
    first_broken: int = 0


def key_id(key: bytes) -> str:
    """Return a name for `key` that does not give it away."""
    return hashlib.sha256(b"pilotfish audit key" + key).hexdigest()[:16]


def append(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, not sealed yet."""
    conn.execute(_INSERT, list(rows))


def _digest(key: bytes, chain: int, previous: str, row: Row[Any]) -> str:
    fields = {name: getattr(row, name) for name in _SEALED}
    fields["time"] = row.time.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps([chain, previous, row.id, fields], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def seal(conn: Connection, key: bytes, limit: int = 1000) -> int:
    """Seal the oldest unsealed rows, at most `limit`; return how many.

    Call it as the leader, in a write transaction: `chain` is unique, so two sealers cannot both commit.

    Raises:
        FailedPrecondition: the last row was sealed with another key.
    """
    last = conn.execute(
        select(audit.c.chain, audit.c.seal, audit.c.key_id)
        .where(audit.c.chain.is_not(None))
        .order_by(audit.c.chain.desc())
        .limit(1)
    ).first()
    chain, previous = (last.chain, last.seal) if last else (0, GENESIS)
    if last is not None and last.key_id != key_id(key):
        raise FailedPrecondition(
            "the audit trail was sealed with another key: give every control plane of one database the same audit_key",
            reason="AUDIT_KEY",
        )
    rows = conn.execute(_UNSEALED.limit(limit)).all()
    seals = []
    for row in rows:
        chain += 1
        previous = _digest(key, chain, previous, row)
        seals.append({"row": row.id, "chain": chain, "seal": previous, "key_id": key_id(key)})
    if seals:
        conn.execute(_SEAL, seals)
    return len(rows)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain at some time: a link and its seal; (0, "") before the first."""

    chain: int
    seal: str


def head(conn: Connection) -> Head:
    """Return the newest link."""
    newest = select(audit.c.chain, audit.c.seal).where(audit.c.chain.is_not(None)).order_by(audit.c.chain.desc())
    row = conn.execute(newest.limit(1)).first()
    return Head(row.chain, row.seal) if row else Head(0, "")


def verify(conn: Connection, key: bytes, limit: int = 20, known: Head | None = None) -> Verification:
    """Walk the chain and report every break: a changed, removed or re-ordered row.

    Args:
        conn: a connection in a transaction.
        key: what it was sealed with.
        limit: stop after so many problems.
        known: a link that was once seen, kept outside the database: tells when the chain's end was cut off.
    """
    problems: list[str] = []
    first_broken = 0
    expected, previous = 0, GENESIS
    rows = conn.execute(select(audit).where(audit.c.chain.is_not(None)).order_by(audit.c.chain))
    for row in rows.yield_per(1000):
        expected += 1
        if row.chain != expected:
            problems.append(f"links {expected} to {row.chain - 1} are missing")
            expected = row.chain
        elif row.key_id != key_id(key):
            problems.append(f"link {row.chain} (row {row.id}) was sealed with another key")
        elif not hmac.compare_digest(_digest(key, row.chain, previous, row), row.seal or ""):
            problems.append(f"link {row.chain} (row {row.id}, {row.method} {row.resource}) does not match its seal")
        previous = row.seal or ""
        if known is not None and row.chain == known.chain and row.seal != known.seal:
            problems.append(f"link {row.chain} (row {row.id}) is not the one that was sealed")
        first_broken = first_broken or (row.id if problems else 0)
        if len(problems) >= limit:
            break
    if known is not None and expected < known.chain and len(problems) < limit:
        problems.append(f"links {expected + 1} to {known.chain} were cut off the end")
    unsealed = conn.execute(select(func.count()).select_from(audit).where(audit.c.chain.is_(None))).scalar_one()
    return Verification(expected, unsealed, tuple(problems), first_broken)


def listing(conn: Connection, *, resource: str = "", after_id: int = 0, limit: int = 100) -> list[AuditRow]:
    """Return rows after `after_id`, oldest first; `resource`: only of that resource."""
    query = select(audit).where(audit.c.id > after_id).order_by(audit.c.id).limit(limit)
    if resource:
        query = query.where(audit.c.resource == resource)
    return [_row(r) for r in conn.execute(query)]


def page(conn: Connection, request: PageRequest) -> Page[AuditRow]:
    """Return a page of the trail, newest first."""
    return fetch_page(conn, select(audit), _LISTING, request, _row)


def _row(r: Row[Any]) -> AuditRow:
    return AuditRow(r.id, r.time, r.principal, r.request_id, r.method, r.resource, r.before, r.after, r.chain)


_LISTING = Listing(
    key=Scalar(audit.c.id, Kind.NUMBER),
    fields={
        "actor": Scalar(audit.c.principal),
        "method": Scalar(audit.c.method),
        "resource": Scalar(audit.c.resource),
        "request_id": Scalar(audit.c.request_id),
        "time": Scalar(audit.c.time, Kind.TIME),
    },
    orders={"sequence": Scalar(audit.c.id, Kind.NUMBER)},
    default_order="sequence desc",
)
