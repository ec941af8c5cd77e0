"""Answers already given, so that a repeated request_id gets the same one.

Owns the table. Rows are written in the transaction of the mutation and forgotten after `RETENTION`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Column, Connection, Index, LargeBinary, String, Table, bindparam, delete, insert, select

from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import UtcDateTime

__all__ = ["RETENTION", "Answer", "find", "forget", "idempotency", "remember"]

RETENTION = timedelta(days=7)

idempotency = Table(
    "idempotency",
    metadata,
    Column("principal", String(255), primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("method", String(127), nullable=False),
    Column("body_hash", String(64), nullable=False),
    Column("response_type", String(255), nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Index("ix_idempotency_time", "time"),
)


# Built once: a statement that is built for each call costs as much as running it.
_FIND = select(idempotency).where(
    idempotency.c.principal == bindparam("caller"), idempotency.c.request_id == bindparam("id")
)
_INSERT = insert(idempotency)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a request_id: the serialised message and the hash of the request it answers."""

    method: str
    body_hash: str
    response_type: str
    response: bytes


def find(conn: Connection, principal: str, request_id: str) -> Answer | None:
    """Return the stored answer, or None when this caller has not used the id."""
    row = conn.execute(_FIND, {"caller": principal, "id": request_id}).first()
    return None if row is None else Answer(row.method, row.body_hash, row.response_type, row.response)


def remember(conn: Connection, principal: str, request_id: str, answer: Answer, now: datetime) -> None:
    """Store the answer."""
    conn.execute(
        _INSERT,
        {
            "principal": principal,
            "request_id": request_id,
            "method": answer.method,
            "body_hash": answer.body_hash,
            "response_type": answer.response_type,
            "response": answer.response,
            "time": now,
        },
    )


def forget(conn: Connection, now: datetime) -> int:
    """Delete answers older than `RETENTION`; return how many."""
    return conn.execute(delete(idempotency).where(idempotency.c.time < now - RETENTION)).rowcount
