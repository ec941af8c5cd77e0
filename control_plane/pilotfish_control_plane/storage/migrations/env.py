"""Alembic's entry: runs revisions on the connection that `storage.migrate` passes in."""

from __future__ import annotations

from alembic import context

from pilotfish_control_plane.storage.all_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_as_batch=True,
    transactional_ddl=True,
)
# The transaction is the caller's: it holds the lock, and ends with its commit.
context.run_migrations()
