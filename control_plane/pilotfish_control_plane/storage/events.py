"""The table of events: one row per change, numbered in commit order.

Owns writing and tailing. Rows are appended by `Tx.emit` at the end of a transaction and never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Index, String, Table, and_, func, insert, or_, select

from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import BigId, Json, JsonObject, UtcDateTime

__all__ = ["Event", "append", "events", "head", "project_of", "tail"]

events = Table(
    "events",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=True),
    Column("time", UtcDateTime, nullable=False),
    Column("project", String(63), nullable=False),
    Column("kind", String(127), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("actor", String(255), nullable=False),
    Column("payload", Json, nullable=False),
    Index("ix_events_kind", "kind", "seq"),
    Index("ix_events_subject", "subject", "seq"),
    # Without AUTOINCREMENT SQLite may give the number of a deleted last row again,
    # and a watcher that has seen the first would never see the second.
    sqlite_autoincrement=True,
)


_INSERT = insert(events)


@dataclass(frozen=True, slots=True)
class Event:
    """One committed change; `seq` grows in commit order."""

    seq: int
    time: datetime
    project: str
    kind: str
    subject: str
    actor: str
    payload: JsonObject


def project_of(resource: str) -> str:
    """Return the project of a full resource name, or "" when it names none."""
    parts = resource.split("/", 2)
    return parts[1] if len(parts) > 1 and parts[0] == "projects" else ""


def append(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert events in order; call it last in the transaction, under the engine's commit-order lock."""
    conn.execute(_INSERT, list(rows))


def head(conn: Connection) -> int:
    """Return the newest seq, 0 when there is none."""
    return int(conn.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one())


def tail(
    conn: Connection,
    after_seq: int,
    *,
    kinds: Sequence[str] = (),
    subject_prefix: str = "",
    project: str | None = None,
    limit: int = 500,
) -> list[Event]:
    """Return events after `after_seq` in order, at most `limit`.

    Args:
        conn: a connection in a transaction.
        after_seq: the last seq already seen, exclusive.
        kinds: kinds wanted; `a` also takes `a.b`; empty: all.
        subject_prefix: the start of the subject's resource name; empty: all.
        project: only this project's; None: all.
        limit: largest number of events.
    """
    wanted = [events.c.seq > after_seq]
    if kinds:
        wanted.append(
            or_(*(or_(events.c.kind == k, events.c.kind.startswith(k + ".", autoescape=True)) for k in kinds))
        )
    if project is not None:
        wanted.append(events.c.project == project)
    if subject_prefix:
        wanted.append(events.c.subject.startswith(subject_prefix, autoescape=True))
    rows = conn.execute(select(events).where(and_(*wanted)).order_by(events.c.seq).limit(limit))
    return [Event(r.seq, r.time, r.project, r.kind, r.subject, r.actor, r.payload) for r in rows]
