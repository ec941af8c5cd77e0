"""SQLAlchemy engines for SQLite and PostgreSQL, set up for durability.

Owns pragmas, isolation levels and pools: everything in which the two differ, beside `storage.writers`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.pool import QueuePool

from pilotfish.errors import InvalidArgument

__all__ = ["BUSY_TIMEOUT_S", "Engines", "open_engines"]

BUSY_TIMEOUT_S = 5.0
_EVENT_ORDER_LOCK = 0x70696C6F74  # any fixed number; shared by all control planes on one database


@dataclass(frozen=True, slots=True)
class Engines:
    """The engine that writes and the engine that reads, on the same database."""

    writer: Engine
    reader: Engine

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self.writer.dialect.name == "sqlite"

    def lock_event_order(self, conn: Connection) -> None:
        """Make commits that carry events happen one after the other until the end of this transaction.

        Sequences on PostgreSQL are not in commit order: without this, a watcher that has read event 11 would
        never see event 10 that commits a moment later. SQLite has one writer anyway.
        """
        if not self.is_sqlite:
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _EVENT_ORDER_LOCK})

    def dispose(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.reader.dispose()


def open_engines(url: str, *, readers: int, writers: int) -> Engines:
    """Return engines for `url`; connects only when used.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/name`.
        readers: largest number of concurrent reads.
        writers: largest number of concurrent writes (SQLite: always 1).

    Raises:
        InvalidArgument: another kind of database, or SQLite in memory.
    """
    parsed = make_url(url)
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database and parsed.database != ":memory:":
        return _sqlite(parsed, readers)
    if kind == "postgresql":
        return _postgresql(parsed, readers, writers)
    raise InvalidArgument(
        f"the database {parsed.render_as_string()} cannot be used: give sqlite:///FILE or postgresql://USER@HOST/NAME",
        reason="DATABASE_URL",
    )


def _sqlite(url: URL, readers: int) -> Engines:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)

    def make(begin: str, size: int, *, query_only: bool) -> Engine:
        engine = create_engine(
            url,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False, "isolation_level": None},
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=0,
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, _record: object) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            # "name begins with" must mean the same as on PostgreSQL, and must be able to use an index.
            cursor.execute("PRAGMA case_sensitive_like=ON")
            cursor.execute("PRAGMA temp_store=MEMORY")
            cursor.execute("PRAGMA cache_size=-16000")
            if query_only:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            # The driver's own BEGIN is off (isolation_level=None): it would come late and deferred,
            # and a deferred transaction that turns into a writer fails at once with SQLITE_BUSY.
            connection.exec_driver_sql(begin)

        return engine

    return Engines(make("BEGIN IMMEDIATE", 1, query_only=False), make("BEGIN", readers, query_only=True))


def _postgresql(url: URL, readers: int, writers: int) -> Engines:
    # Any: SQLAlchemy types its engine options as Any.
    options: dict[str, Any] = {
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_timeout": BUSY_TIMEOUT_S,
        "connect_args": {"connect_timeout": 5, "application_name": "pilotfish"},
    }
    url = url.set(drivername="postgresql+psycopg")
    # SERIALIZABLE gives "check, then write" in a service the same meaning that SQLite's single writer gives it;
    # the price is that a transaction may have to run again (see storage.writers).
    writer = create_engine(url, pool_size=writers + 1, isolation_level="SERIALIZABLE", **options)
    reader = create_engine(url, pool_size=readers, isolation_level="REPEATABLE READ", **options)

    @event.listens_for(reader, "begin")
    def read_only(connection: Connection) -> None:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")

    return Engines(writer, reader)
