"""Storing a row that may be there already, in one statement on either engine.

Owns the dialects' upsert. It commits nothing and knows no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

__all__ = ["put"]


# Any: columns of several types.
def put(
    conn: Connection,
    table: Table,
    key: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    once: Mapping[str, Any] | None = None,
) -> None:
    """Give the row with `key` these values, and make it if there is none.

    Two transactions that put the same new row at once do not collide: the second waits, and its values stay.

    Args:
        conn: a connection in a transaction.
        table: where.
        key: the columns of its primary key or of a unique index, all of them.
        values: what is written either way; at least one.
        once: what is written only when the row is made.
    """
    insert = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    row = insert(table).values({**(once or {}), **key, **values})
    conn.execute(
        row.on_conflict_do_update(index_elements=list(key), set_={name: row.excluded[name] for name in values})
    )
