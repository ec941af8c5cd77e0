"""Runs of experiments, their metrics and series: tables and queries.

Owns the tables. It decides nothing: `experiments.rules` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any  # column values of several types

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Row,
    String,
    Table,
    delete,
    insert,
    select,
    tuple_,
    update,
)

from pilotfish_control_plane.experiments.model import Point, Run, RunKind, RunState
from pilotfish_control_plane.storage.filter_sql import Kind, MapField, Scalar
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import Json, UtcDateTime

__all__ = ["run_metrics", "run_points", "run_tags", "runs"]

runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("project", String(63), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("state", String(8), nullable=False),
    Column("experiment", String(128), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("parameters", Json, nullable=False),
    Column("tags", Json, nullable=False),
    Column("author", String(255), nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime),
    Column("revision", BigInteger, nullable=False, comment="grows with every change"),
    Column("unexported", Boolean, nullable=False, comment="changed since it was handed to an outside tracker"),
    Index("ix_runs_project", "project", "started", "id"),
    Index("ix_runs_experiment", "project", "experiment", "started", "id"),
    Index("ix_runs_subject", "project", "subject", "started", "id"),
    Index("ix_runs_unexported", "unexported", "started"),
)

run_tags = Table(
    "run_tags",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", String(256), nullable=False),
    Index("ix_run_tags_value", "key", "value", "run"),
)

run_metrics = Table(
    "run_metrics",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("value", Float(53), nullable=False, comment="at the highest step"),
    Column("step", BigInteger, nullable=False),
    Index("ix_run_metrics_value", "key", "value", "run"),
)

run_points = Table(
    "run_points",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("metric", String(128), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("value", Float(53), nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

_LISTING = Listing(
    key=Scalar(runs.c.id),
    fields={
        "experiment": Scalar(runs.c.experiment),
        "kind": Scalar(runs.c.kind, choices={k.value: k.value for k in RunKind}),
        "state": Scalar(runs.c.state, choices={s.value: s.value for s in RunState}),
        "subject": Scalar(runs.c.subject),
        "author": Scalar(runs.c.author),
        "start_time": Scalar(runs.c.started, Kind.TIME),
        "tags": MapField(runs.c.id, run_tags.c.run, run_tags.c.key, run_tags.c.value),
        "metrics": MapField(runs.c.id, run_metrics.c.run, run_metrics.c.key, run_metrics.c.value, Kind.NUMBER),
    },
    orders={"start_time": Scalar(runs.c.started, Kind.TIME)},
    default_order="start_time desc",
)


def _run(row: Row[Any], metrics: Mapping[str, float]) -> Run:
    return Run(
        project=row.project,
        id=row.id,
        kind=RunKind(row.kind),
        state=RunState(row.state),
        experiment=row.experiment,
        subject=row.subject,
        parameters=row.parameters,
        metrics=metrics,
        tags=row.tags,
        started_at=row.started,
        ended_at=row.ended,
        author=row.author,
    )


def add(conn: Connection, run: Run) -> None:
    """Insert a run with its tags; its metrics come as points."""
    conn.execute(
        insert(runs).values(
            id=run.id,
            project=run.project,
            kind=run.kind.value,
            state=run.state.value,
            experiment=run.experiment,
            subject=run.subject,
            parameters=dict(run.parameters),
            tags=dict(run.tags),
            author=run.author,
            started=run.started_at,
            ended=run.ended_at,
            revision=1,
            unexported=True,
        )
    )
    _put_tags(conn, run)


def change(conn: Connection, run: Run) -> None:
    """Write state, end, parameters, tags and subject."""
    values = {
        "state": run.state.value,
        "ended": run.ended_at,
        "parameters": dict(run.parameters),
        "tags": dict(run.tags),
        "subject": run.subject,
    }
    conn.execute(update(runs).where(runs.c.id == run.id).values(**values))
    conn.execute(delete(run_tags).where(run_tags.c.run == run.id))
    _put_tags(conn, run)


def _put_tags(conn: Connection, run: Run) -> None:
    if run.tags:
        conn.execute(insert(run_tags), [{"run": run.id, "key": k, "value": v} for k, v in run.tags.items()])


def touch(conn: Connection, run_id: str) -> None:
    """Count a change of the run."""
    conn.execute(update(runs).where(runs.c.id == run_id).values(revision=runs.c.revision + 1, unexported=True))


def unexported(conn: Connection, limit: int) -> list[tuple[str, str, int]]:
    """Return project, id and revision of runs that changed since they were exported, oldest first."""
    query = (
        select(runs.c.project, runs.c.id, runs.c.revision)
        .where(runs.c.unexported)
        .order_by(runs.c.started)
        .limit(limit)
    )
    return [(r.project, r.id, r.revision) for r in conn.execute(query)]


def set_exported(conn: Connection, run_id: str) -> None:
    """Write that the run as it is now was handed to the exporter."""
    conn.execute(update(runs).where(runs.c.id == run_id).values(unexported=False))


def find(conn: Connection, project: str, run_id: str) -> Run | None:
    """Return the run, or None."""
    row = conn.execute(select(runs).where(runs.c.id == run_id, runs.c.project == project)).first()
    return None if row is None else _run(row, metrics_of(conn, [run_id]).get(run_id, {}))


def metrics_of(conn: Connection, ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return run -> metric -> newest value; runs without metrics are left out."""
    query = select(run_metrics).where(run_metrics.c.run.in_(ids)).order_by(run_metrics.c.key)
    found: dict[str, dict[str, float]] = {}
    for row in conn.execute(query):
        found.setdefault(row.run, {})[row.key] = row.value
    return found


def newest_of(conn: Connection, run_id: str) -> dict[str, tuple[int, float]]:
    """Return metric -> (step, value) at its highest step."""
    rows = conn.execute(select(run_metrics).where(run_metrics.c.run == run_id))
    return {r.key: (r.step, r.value) for r in rows}


def put_newest(conn: Connection, run_id: str, newest: Mapping[str, tuple[int, float]]) -> None:
    """Write metric -> (step, value) at its highest step."""
    if not newest:
        return
    these = run_metrics.c.key.in_(list(newest))
    conn.execute(delete(run_metrics).where(run_metrics.c.run == run_id, these))
    rows = [{"run": run_id, "key": k, "step": step, "value": value} for k, (step, value) in newest.items()]
    conn.execute(insert(run_metrics), rows)


def put_points(conn: Connection, run_id: str, points: Sequence[Point], now: Any) -> None:
    """Write points; one with the metric and step of an earlier one replaces it."""
    last = {(p.metric, p.step): p for p in points}
    keys = list(last)
    for start in range(0, len(keys), 200):  # SQLite takes only so many parameters at once
        pairs = tuple_(run_points.c.metric, run_points.c.step).in_(keys[start : start + 200])
        conn.execute(delete(run_points).where(run_points.c.run == run_id, pairs))
    rows = [
        {"run": run_id, "metric": p.metric, "step": p.step, "value": p.value, "time": p.time or now}
        for p in last.values()
    ]
    if rows:
        conn.execute(insert(run_points), rows)


def points_of(conn: Connection, run_id: str, limit: int) -> list[Point]:
    """Return the series by metric and step, at most `limit` points."""
    query = (
        select(run_points)
        .where(run_points.c.run == run_id)
        .order_by(run_points.c.metric, run_points.c.step)
        .limit(limit)
    )
    return [Point(r.metric, r.step, r.value, r.time) for r in conn.execute(query)]


def list_runs(conn: Connection, project: str, request: PageRequest) -> Page[Run]:
    """Return a page of the project's runs, newest first unless ordered otherwise.

    Raises:
        InvalidArgument: filter, order or token cannot be used.
    """
    page: Page[Row[Any]] = fetch_page(
        conn, select(runs).where(runs.c.project == project), _LISTING, request, lambda row: row
    )
    metrics = metrics_of(conn, [row.id for row in page.items])
    return Page([_run(row, metrics.get(row.id, {})) for row in page.items], page.next_page_token)
