"""Uploads and how much of each of their files is durable: tables and queries.

Owns the tables. The bytes are `artifacts.uploads`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any  # column values of several types

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    Row,
    String,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from pilotfish_control_plane.artifacts.model import ArtifactFile, Upload, UploadFile, UploadState
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import UtcDateTime

__all__ = ["upload_files", "uploads"]

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("principal", String(255), nullable=False),
    Column("state", String(10), nullable=False),
    Column("version", String(32), nullable=False, comment="id of the version it became; empty: none yet"),
    Column("created", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime, nullable=False),
    Index("ix_uploads_expires", "state", "expires"),
)

upload_files = Table(
    "upload_files",
    metadata,
    Column("upload", ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("path", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("committed_bytes", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
)


def add(conn: Connection, upload: Upload) -> None:
    """Insert an upload with its files."""
    conn.execute(
        insert(uploads).values(
            id=upload.id,
            principal=upload.principal,
            state=upload.state.value,
            version=upload.version_id,
            created=upload.created_at,
            expires=upload.expires_at,
        )
    )
    rows = [
        {
            "upload": upload.id,
            "position": f.position,
            "path": f.file.path,
            "size_bytes": f.file.size_bytes,
            "sha256": f.file.sha256,
            "committed_bytes": f.committed_bytes,
            "complete": f.complete,
        }
        for f in upload.files
    ]
    conn.execute(insert(upload_files), rows)


def _upload(row: Row[Any], files: Sequence[UploadFile]) -> Upload:
    return Upload(
        id=row.id,
        principal=row.principal,
        state=UploadState(row.state),
        files=tuple(files),
        created_at=row.created,
        expires_at=row.expires,
        version_id=row.version,
    )


def find(conn: Connection, upload_id: str) -> Upload | None:
    """Return the upload with its files, or None."""
    row = conn.execute(select(uploads).where(uploads.c.id == upload_id)).first()
    if row is None:
        return None
    rows = conn.execute(
        select(upload_files).where(upload_files.c.upload == upload_id).order_by(upload_files.c.position)
    )
    files = [
        UploadFile(r.position, ArtifactFile(r.path, r.size_bytes, r.sha256), r.committed_bytes, r.complete)
        for r in rows
    ]
    return _upload(row, files)


def set_progress(conn: Connection, upload_id: str, position: int, committed_bytes: int, complete: bool) -> None:
    """Write how much of a file is durable."""
    this = and_(upload_files.c.upload == upload_id, upload_files.c.position == position)
    conn.execute(update(upload_files).where(this).values(committed_bytes=committed_bytes, complete=complete))


def set_expiry(conn: Connection, upload_id: str, expires: datetime) -> None:
    """Write when the upload expires."""
    conn.execute(update(uploads).where(uploads.c.id == upload_id).values(expires=expires))


def set_registered(conn: Connection, upload_id: str, version_id: str) -> None:
    """Mark the upload as registered."""
    values = {"state": UploadState.REGISTERED.value, "version": version_id}
    conn.execute(update(uploads).where(uploads.c.id == upload_id).values(**values))


def remove(conn: Connection, upload_id: str) -> None:
    """Delete the upload's rows."""
    conn.execute(delete(upload_files).where(upload_files.c.upload == upload_id))
    conn.execute(delete(uploads).where(uploads.c.id == upload_id))


def expired(conn: Connection, now: datetime, limit: int = 500) -> list[str]:
    """Return ids of uploads, registered or not, whose time is over."""
    query = select(uploads.c.id).where(uploads.c.expires <= now).order_by(uploads.c.expires).limit(limit)
    return list(conn.execute(query).scalars())


def open_ids(conn: Connection) -> set[str]:
    """Return the ids of all uploads that are not registered."""
    return set(conn.execute(select(uploads.c.id).where(uploads.c.state == UploadState.OPEN.value)).scalars())


def open_load(conn: Connection, principal: str) -> tuple[int, int]:
    """Return how many uploads the principal has open, and how many bytes all open uploads still lack."""
    mine = (
        select(func.count())
        .select_from(uploads)
        .where(uploads.c.state == UploadState.OPEN.value, uploads.c.principal == principal)
    )
    lacking = (
        select(func.coalesce(func.sum(upload_files.c.size_bytes - upload_files.c.committed_bytes), 0))
        .select_from(upload_files.join(uploads, upload_files.c.upload == uploads.c.id))
        .where(uploads.c.state == UploadState.OPEN.value)
    )
    return int(conn.execute(mine).scalar_one()), int(conn.execute(lacking).scalar_one())
