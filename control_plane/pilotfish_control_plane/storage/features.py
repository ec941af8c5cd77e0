"""Rows of feature sets and their statistics. Owns the tables and queries; decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Row, Table, Text, insert, select

from pilotfish_control_plane.features.model import FeatureSet
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import Json, UtcDateTime

feature_sets = Table(
    "feature_sets",
    metadata,
    Column("project", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("description", Text, nullable=False),
    Column("definition", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("author", Text, nullable=False),
)

feature_statistics = Table(
    "feature_statistics",
    metadata,
    Column("project", Text, primary_key=True),
    Column("feature_set", Text, primary_key=True),
    Column("job", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("statistics", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)


def _value(row: Row[Any]) -> FeatureSet:
    return FeatureSet(row.project, row.id, row.revision, row.description, row.definition, row.created, row.author)


def feature_set(conn: Connection, project: str, feature_set_id: str, revision: int = 0) -> FeatureSet | None:
    """Return a revision of a feature set, 0: its newest; None: there is none."""
    query = select(feature_sets).where(feature_sets.c.project == project, feature_sets.c.id == feature_set_id)
    if revision:
        query = query.where(feature_sets.c.revision == revision)
    row = conn.execute(query.order_by(feature_sets.c.revision.desc()).limit(1)).first()
    return None if row is None else _value(row)


def add_feature_set(conn: Connection, found: FeatureSet) -> None:
    """Store a new revision."""
    conn.execute(
        insert(feature_sets).values(
            project=found.project,
            id=found.id,
            revision=found.revision,
            description=found.description,
            definition=dict(found.definition),
            created=found.created,
            author=found.author,
        )
    )


def newest_feature_sets(conn: Connection, project: str) -> list[FeatureSet]:
    """Return the newest revision of every feature set of a project, by id."""
    rows = conn.execute(
        select(feature_sets)
        .where(feature_sets.c.project == project)
        .order_by(feature_sets.c.id, feature_sets.c.revision)
    )
    return list({r.id: _value(r) for r in rows}.values())


def add_statistics(
    conn: Connection,
    project: str,
    feature_set_id: str,
    revision: int,
    job: str,
    statistics: dict[str, Any],
    now: datetime,
) -> None:
    """Keep the statistics of a job, once."""
    key = (
        (feature_statistics.c.project == project)
        & (feature_statistics.c.feature_set == feature_set_id)
        & (feature_statistics.c.job == job)
    )
    if conn.execute(select(feature_statistics.c.job).where(key)).first() is None:
        row = {"project": project, "feature_set": feature_set_id, "job": job, "revision": revision}
        conn.execute(insert(feature_statistics).values(**row, statistics=statistics, created=now))


def statistics_of(
    conn: Connection, project: str, feature_set_id: str
) -> list[tuple[str, int, dict[str, Any], datetime]]:
    """Return (job, revision, statistics, time), newest first."""
    rows = conn.execute(
        select(feature_statistics)
        .where(feature_statistics.c.project == project, feature_statistics.c.feature_set == feature_set_id)
        .order_by(feature_statistics.c.created.desc())
    )
    return [(r.job, r.revision, r.statistics, r.created) for r in rows]
