"""Table and queries of attachments: what the sidecars beside foreign model servers stand beside.

Owns rows and their conversion to the values of `deployments.attachment`; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Row, String, Table, delete, insert, select

from pilotfish_control_plane.deployments.attachment import Attachment
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import Json, UtcDateTime

__all__ = ["attachments", "attachments_at", "attachments_of", "remove_attachment", "save_attachment"]

# Bound values in one IN (...): SQLite's limit is 32766, kept far below.
CHUNK = 500

attachments = Table(
    "attachments",
    metadata,
    Column("instance", String(127), primary_key=True),
    Column("project", String(63), primary_key=True),
    Column("endpoint", String(63), primary_key=True),
    Column("server_model", String(255), primary_key=True),
    Column("server_version", String(255), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("codec", Json, nullable=False),
    Column("grpc_address", String(255), nullable=False),
    Column("http_address", String(255), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Index("ix_attachments_endpoint", "project", "endpoint"),
)


def _attachment(row: Row[Any]) -> Attachment:  # Any: columns of several types
    return Attachment(**{name: getattr(row, name) for name in Attachment.__slots__})


def save_attachment(conn: Connection, value: Attachment) -> None:
    """Write an attachment's row whole, new or not."""
    remove_attachment(conn, value)
    values = {name: getattr(value, name) for name in Attachment.__slots__}
    conn.execute(insert(attachments).values({**values, "codec": dict(value.codec)}))


def remove_attachment(conn: Connection, value: Attachment) -> None:
    """Delete an attachment's row."""
    key = (attachments.c[name] == getattr(value, name) for name in Attachment.KEY)
    conn.execute(delete(attachments).where(*key))


def attachments_of(conn: Connection, instances: Collection[str]) -> list[Attachment]:
    """Return what sidecars stand beside, oldest first."""
    found: list[Attachment] = []
    wanted = sorted(instances)
    for i in range(0, len(wanted), CHUNK):
        query = select(attachments).where(attachments.c.instance.in_(wanted[i : i + CHUNK]))
        found += (_attachment(r) for r in conn.execute(query.order_by(attachments.c.created)))
    return found


def attachments_at(conn: Connection, project: str, endpoint: str) -> list[Attachment]:
    """Return what serves an endpoint, oldest first."""
    query = select(attachments).where(attachments.c.project == project, attachments.c.endpoint == endpoint)
    return [_attachment(r) for r in conn.execute(query.order_by(attachments.c.created, attachments.c.instance))]
