"""Watermarks of published reports: the first offset of each stream that is not stored. Owns the table and queries."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Table, Text, select

from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.puts import put

publish_watermarks = Table(
    "publish_watermarks",
    metadata,
    Column("instance", Text, primary_key=True),
    Column("incarnation", BigInteger, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("watermark", BigInteger, nullable=False),
)


def watermark(conn: Connection, instance: str, incarnation: int, stream: str) -> int:
    """Return the first offset of the stream that is not stored; 0 for a new one."""
    found = conn.execute(
        select(publish_watermarks.c.watermark).where(
            publish_watermarks.c.instance == instance,
            publish_watermarks.c.incarnation == incarnation,
            publish_watermarks.c.stream == stream,
        )
    ).scalar()
    return int(found or 0)


def set_watermark(conn: Connection, instance: str, incarnation: int, stream: str, offset: int) -> None:
    """Keep the first offset that is not stored."""
    key = {"instance": instance, "incarnation": incarnation, "stream": stream}
    put(conn, publish_watermarks, key, {"watermark": offset})


def watermarks_of(conn: Connection, instance: str) -> list[tuple[str, int, int]]:
    """Return (stream, incarnation, watermark) of everything that an instance ever sent."""
    rows = conn.execute(select(publish_watermarks).where(publish_watermarks.c.instance == instance))
    return [(r.stream, int(r.incarnation), int(r.watermark)) for r in rows]
