"""The first schema: every table that the package defines."""

from __future__ import annotations

from alembic import op

from pilotfish_control_plane.storage.all_tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create what the metadata defines.

    No release has this schema yet, so nothing has to be carried over, and the tables still change every day.
    Spelling them out here would only be a second copy to keep equal. With the first release this revision is
    frozen as explicit operations; from then on every change is a revision of its own.
    """
    metadata.create_all(op.get_bind(), checkfirst=True)
