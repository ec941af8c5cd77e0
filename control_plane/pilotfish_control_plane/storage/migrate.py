"""Bringing a database's schema to the newest revision, under a lock.

Owns running Alembic; the revisions are in `storage/migrations/versions`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

__all__ = ["upgrade_to_head"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x70696C6F75  # any fixed number; shared by all control planes on one database


def alembic_config() -> Config:
    """Return the configuration of Alembic, without a file of its own."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def upgrade_to_head(engine: Engine) -> None:
    """Run the missing revisions in one transaction; two control planes that start together take turns.

    SQLite's BEGIN IMMEDIATE is the lock there; both engines undo a failed migration as a whole.
    """
    config = alembic_config()
    with engine.connect() as conn:
        if engine.dialect.name == "postgresql":
            conn = conn.execution_options(isolation_level="READ COMMITTED")
        with conn.begin():
            if engine.dialect.name == "postgresql":
                conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
