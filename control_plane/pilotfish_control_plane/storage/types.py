"""Column types that mean the same on SQLite and PostgreSQL.

Owns `UtcDateTime`, `Json` and the plain-JSON type aliases. It never holds a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Integer
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

__all__ = ["BigId", "Json", "JsonObject", "UtcDateTime"]

# Any: JSON nests without end; the values are those that json.dumps takes.
JsonObject = Mapping[str, Any]

Json = JSON(none_as_null=True)
"""A JSON column in which None is SQL NULL."""

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key that counts up by itself; SQLite does that only for a column called INTEGER."""


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: takes any aware datetime, gives back aware UTC, microseconds kept.

    Raises:
        ValueError: a datetime without a time zone is bound.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return UTC; SQLite has no zones, so there the zone is dropped after the conversion."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: pass tx.now or a datetime with tzinfo=UTC")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
