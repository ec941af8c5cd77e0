"""Rows of alerts. Owns the table and its queries; when an alert begins is decided in `monitoring`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Row, Table, Text, UniqueConstraint, insert, select, update

from pilotfish_control_plane.monitoring.model import Alert, AlertKind, AlertState, Severity
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import Json, UtcDateTime

alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("details", Json, nullable=False),
    Column("episode", Text, nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime),
    Column("acknowledged_by", Text, nullable=False),
    Column("acknowledged", UtcDateTime),
    Column("note", Text, nullable=False),
    Column("silenced_until", UtcDateTime),
    UniqueConstraint("deployment", "kind", "episode", name="alerts_once_per_episode"),
)


def alert_of_episode(conn: Connection, deployment: str, kind: str, episode: str) -> Alert | None:
    """Return the alert of an episode."""
    row = conn.execute(
        select(alerts).where(alerts.c.deployment == deployment, alerts.c.kind == kind, alerts.c.episode == episode)
    ).first()
    return None if row is None else alert_from(row)


def alert(conn: Connection, project: str, alert_id: str) -> Alert | None:
    """Return an alert by its id."""
    row = conn.execute(select(alerts).where(alerts.c.project == project, alerts.c.id == alert_id)).first()
    return None if row is None else alert_from(row)


def open_alerts(conn: Connection, deployment: str, kind: str | None = None) -> list[Alert]:
    """Return a deployment's alerts that are not resolved."""
    query = select(alerts).where(alerts.c.deployment == deployment, alerts.c.state != AlertState.RESOLVED.value)
    if kind is not None:
        query = query.where(alerts.c.kind == kind)
    return [alert_from(r) for r in conn.execute(query.order_by(alerts.c.number))]


def alerts_between(conn: Connection, deployments: Sequence[str], start: datetime, end: datetime) -> list[Alert]:
    """Return the alerts of some deployments that began in [start, end), oldest first."""
    rows = conn.execute(
        select(alerts)
        .where(alerts.c.deployment.in_(deployments), alerts.c.started >= start, alerts.c.started < end)
        .order_by(alerts.c.number)
    )
    return [alert_from(r) for r in rows]


def add_alert(conn: Connection, found: Alert) -> None:
    """Store a new alert."""
    newest = conn.execute(select(alerts.c.number).order_by(alerts.c.number.desc()).limit(1)).scalar()
    conn.execute(insert(alerts).values(_alert_row(found) | {"number": int(newest or 0) + 1}))


def set_alert(conn: Connection, found: Alert) -> None:
    """Store a changed alert."""
    conn.execute(update(alerts).where(alerts.c.id == found.id).values(_alert_row(found)))


def _alert_row(found: Alert) -> dict[str, Any]:
    row = dataclasses.asdict(found)
    row |= {"kind": found.kind.value, "state": found.state.value, "severity": found.severity.value}
    return row | {"details": dict(found.details)}


def alert_from(row: Row[Any]) -> Alert:
    """Return a row of alerts as a value."""
    return Alert(
        row.id, row.project, AlertKind(row.kind), AlertState(row.state), Severity(row.severity), row.endpoint,
        row.deployment, row.summary, row.details, row.episode, row.started, row.ended, row.acknowledged_by,
        row.acknowledged, row.note, row.silenced_until,
    )  # fmt: skip
