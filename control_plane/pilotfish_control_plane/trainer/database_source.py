"""Reads the rows of one query from a database, and can change nothing there.

Owns the guards: one SELECT statement only, a read-only transaction, for SQLite a read-only file under an allowed
directory and an authoriser that lets nothing but reading through. Passwords never appear in a message.
"""

from __future__ import annotations

import re
import sqlite3
import urllib.parse
from collections.abc import Sequence
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pilotfish_control_plane.trainer.file_source import SourceError, allowed_path
from pilotfish_control_plane.trainer.spec import DatabaseSource

__all__ = ["DRIVERS", "read_database"]

DRIVERS = ("postgresql", "postgresql+psycopg", "sqlite")
_STATEMENT = re.compile(r"^\s*(select|with|values|table)\b", re.IGNORECASE)
_COMMENT = re.compile(r"^\s*(--[^\n]*\n|/\*.*?\*/)", re.DOTALL)
_CHUNK_ROWS = 50_000
_CONNECT_TIMEOUT_S = 15
_SQLITE_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


def read_database(source: DatabaseSource, roots: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the source's query.

    Raises:
        SourceError: the driver is unknown, the statement is no single SELECT, the database refuses, or there are more
            than `max_rows` rows.
    """
    url = _checked_url(source.connection)
    statement = _checked_query(source.query)
    engine = _sqlite_engine(url, roots) if url.get_backend_name() == "sqlite" else _postgres_engine(url)
    try:
        return _fetch(engine, statement, source)
    except SQLAlchemyError as error:
        shown = url.render_as_string(hide_password=True)
        cause = getattr(error, "orig", None) or error
        text = str(cause).strip().replace(url.password or "\0", "***")
        raise SourceError(f"{shown} answered: {text}") from None
    finally:
        engine.dispose()


def _checked_url(connection: str) -> URL:
    try:
        url = make_url(connection)
    except (ArgumentError, ValueError):
        raise SourceError("connection is no database URL; write it like postgresql://user:password@host/name") from None
    if url.drivername not in DRIVERS:
        raise SourceError(f"the database driver {url.drivername!r} is not known; allowed: {', '.join(DRIVERS)}")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _checked_query(query: str) -> str:
    """Return the query without its last semicolon.

    The check is coarse on purpose: the database's own read-only transaction is the guard, this is the clear message.
    """
    statement = query.strip().rstrip(";").strip()
    bare = statement
    while match := _COMMENT.match(bare):
        bare = bare[match.end() :]
    if not _STATEMENT.match(bare):
        raise SourceError("query must be one SELECT (or WITH … SELECT) statement; it reads and changes nothing")
    if ";" in statement:
        raise SourceError("query must be a single statement: take the ';' out, or pass the text as a parameter")
    return statement


def _sqlite_engine(url: URL, roots: Sequence[str]) -> sa.Engine:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise SourceError("connection must name a SQLite file, like sqlite:////data/rows.db")
    real = allowed_path(url.database, roots)
    uri = f"file:{urllib.parse.quote(str(real))}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=_CONNECT_TIMEOUT_S)

    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool, isolation_level="AUTOCOMMIT")


def _guard_sqlite(connection: sa.Connection) -> None:
    """Let nothing but reading through: ATTACH would open other files, and PRAGMA would switch guards off."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _SQLITE_ALLOWED else sqlite3.SQLITE_DENY)


def _postgres_engine(url: URL) -> sa.Engine:
    return sa.create_engine(
        url,
        poolclass=sa.pool.NullPool,
        connect_args={
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "options": "-c default_transaction_read_only=on",
            "application_name": "pilotfish-trainer",
        },
    )


def _fetch(engine: sa.Engine, statement: str, source: DatabaseSource) -> pd.DataFrame:
    options: dict[str, Any] = {"stream_results": True, "max_row_buffer": _CHUNK_ROWS}
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    with engine.connect().execution_options(**options) as connection:
        if engine.dialect.name == "sqlite":
            _guard_sqlite(connection)
        result = connection.execute(sa.text(statement), dict(source.parameters))
        columns = list(result.keys())
        doubled = sorted({name for name in columns if columns.count(name) > 1})
        if doubled:
            raise SourceError(f"query returns column {', '.join(doubled)} more than once; name them apart with AS")
        rows: list[Any] = []
        for chunk in result.partitions(_CHUNK_ROWS):
            rows.extend(tuple(row) for row in chunk)
            if len(rows) > source.max_rows:
                raise SourceError(
                    f"query returns more than max_rows = {source.max_rows} rows; raise max_rows or select fewer rows"
                )
    return pd.DataFrame.from_records(rows, columns=columns)
