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

from sqlalchemy import BigInteger, Column, Connection, Index, Row, String, Table, func, insert, select, update

from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import BigId, Json, JsonObject, UtcDateTime

__all__ = ["TOPIC", "AuditRow", "Verification", "append", "audit", "listing", "seal", "verify"]

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
    Index("ix_audit_resource", "resource", "id"),
    sqlite_autoincrement=True,
)


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
    """What a walk along the chain found; `problems` is empty when nothing was tampered with."""

    sealed: int
    unsealed: int
    problems: tuple[str, ...]


def append(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, not sealed yet."""
    conn.execute(insert(audit), list(rows))


def _digest(key: bytes, chain: int, previous: str, row: Row[Any]) -> str:
    fields = {name: getattr(row, name) for name in _SEALED}
    fields["time"] = row.time.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps([chain, previous, row.id, fields], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def seal(conn: Connection, key: bytes, limit: int = 1000) -> int:
    """Seal the oldest unsealed rows, at most `limit`; return how many.

    Call it as the leader, in a write transaction: `chain` is unique, so two sealers cannot both commit.
    """
    last = conn.execute(
        select(audit.c.chain, audit.c.seal).where(audit.c.chain.is_not(None)).order_by(audit.c.chain.desc()).limit(1)
    ).first()
    chain, previous = (last.chain, last.seal) if last else (0, GENESIS)
    rows = conn.execute(select(audit).where(audit.c.chain.is_(None)).order_by(audit.c.id).limit(limit)).all()
    for row in rows:
        chain += 1
        previous = _digest(key, chain, previous, row)
        conn.execute(update(audit).where(audit.c.id == row.id).values(chain=chain, seal=previous))
    return len(rows)


def verify(conn: Connection, key: bytes, limit: int = 20) -> Verification:
    """Walk the chain and report every break: a changed, removed or re-ordered row. Stops after `limit` problems."""
    problems: list[str] = []
    expected, previous = 0, GENESIS
    rows = conn.execute(select(audit).where(audit.c.chain.is_not(None)).order_by(audit.c.chain))
    for row in rows.yield_per(1000):
        expected += 1
        if row.chain != expected:
            problems.append(f"links {expected} to {row.chain - 1} are missing")
            expected = row.chain
        elif not hmac.compare_digest(_digest(key, row.chain, previous, row), row.seal or ""):
            problems.append(f"link {row.chain} (row {row.id}, {row.method} {row.resource}) does not match its seal")
        previous = row.seal or ""
        if len(problems) >= limit:
            break
    unsealed = conn.execute(select(func.count()).select_from(audit).where(audit.c.chain.is_(None))).scalar_one()
    return Verification(expected, unsealed, tuple(problems))


def listing(conn: Connection, *, resource: str = "", after_id: int = 0, limit: int = 100) -> list[AuditRow]:
    """Return rows after `after_id`, oldest first; `resource`: only of that resource."""
    query = select(audit).where(audit.c.id > after_id).order_by(audit.c.id).limit(limit)
    if resource:
        query = query.where(audit.c.resource == resource)
    return [
        AuditRow(r.id, r.time, r.principal, r.request_id, r.method, r.resource, r.before, r.after, r.chain)
        for r in conn.execute(query)
    ]
