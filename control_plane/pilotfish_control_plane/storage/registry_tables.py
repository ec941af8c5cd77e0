"""The tables of the registry: models, versions, aliases, profiles, history.

Owns their columns and indexes; `storage.registry` and `storage.registry_lists` read and write them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import BigId, Json, UtcDateTime

__all__ = [
    "aliases",
    "model_tags",
    "models",
    "profiles",
    "registry_changes",
    "version_files",
    "version_metrics",
    "version_tags",
    "versions",
]

models = Table(
    "models",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("description", Text, nullable=False),
    Column("tags", Json, nullable=False),
    Column("author", String(255), nullable=False),
    Column("next_number", BigInteger, nullable=False, comment="the number of the next version; only ever grows"),
    Column("latest_number", BigInteger, nullable=False, comment="the newest resolvable version; 0: none"),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("ix_models_created", "project", "created", "model"),
    Index("ix_models_updated", "project", "updated", "model"),
)

model_tags = Table(
    "model_tags",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", String(256), nullable=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"], ondelete="CASCADE"),
    Index("ix_model_tags_value", "project", "key", "value", "model"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("label", String(63), comment="NULL: none; unique within the model"),
    Column("status", String(10), nullable=False),
    Column("author", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("tags", Json, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("hyperparameters", Json, nullable=False),
    Column("training_data_hash", String(64), nullable=False),
    Column("artifact_size_bytes", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("framework", String(32), nullable=False),
    Column("dependencies", Json, nullable=False),
    Column("signature", Json, nullable=False),
    Column("artifact_path", String(255), nullable=False, comment="empty: no artifact"),
    Column("profile_id", String(64), nullable=False, comment="empty: none"),
    Column("lineage", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    UniqueConstraint("project", "model", "number"),
    UniqueConstraint("project", "model", "label"),
    # Lists end their order with the id, and read nothing but these columns until they have their page.
    Index("ix_versions_number", "project", "number", "id"),
    Index("ix_versions_status", "project", "status", "number", "id"),
    Index("ix_versions_latest", "project", "model", "status", "number"),
    Index("ix_versions_created", "project", "created", "id"),
    Index("ix_versions_updated", "project", "updated", "id"),
)

# Not in `versions`: an artifact may have 10,000 files, and no list wants to read them all.
version_files = Table(
    "version_files",
    metadata,
    Column("version", ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("files", Json, nullable=False, comment="[[path, size_bytes, sha256], …]"),
)

# Project and model are repeated here so that one index finds the versions with a tag.
version_tags = Table(
    "version_tags",
    metadata,
    Column("version", ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", String(256), nullable=False),
    Column("project", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Index("ix_version_tags_value", "project", "key", "value", "version"),
    Index("ix_version_tags_model", "project", "model", "key", "value", "version"),
    # For the filter grammar, which knows no project.
    Index("ix_version_tags_key", "key", "value", "version"),
)

version_metrics = Table(
    "version_metrics",
    metadata,
    Column("version", ForeignKey("versions.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", Float(53), nullable=False),
    Index("ix_version_metrics_value", "key", "value", "version"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("alias", String(63), primary_key=True),
    Column("version", ForeignKey("versions.id"), nullable=False, index=True),
    Column("number", BigInteger, nullable=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
)

profiles = Table(
    "profiles",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("json", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

registry_changes = Table(
    "registry_changes",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("project", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("number", BigInteger, nullable=False, comment="0: the model itself"),
    Column("time", UtcDateTime, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(63), nullable=False),
    Column("before", Json),
    Column("after", Json),
    Column("reason", Text, nullable=False),
    Index("ix_registry_changes_subject", "project", "model", "number", "id"),
    sqlite_autoincrement=True,
)
