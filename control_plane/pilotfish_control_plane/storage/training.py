"""Rows of pipelines, jobs and their progress. Owns the tables and queries; decides nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Row,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.puts import put
from pilotfish_control_plane.storage.types import BigId, Json, UtcDateTime
from pilotfish_control_plane.training.model import Delivery, Job, JobState, Pipeline, Progress, Trigger

pipelines = Table(
    "pipelines",
    metadata,
    Column("project", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("due", UtcDateTime),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("author", Text, nullable=False),
)

pipeline_revisions = Table(
    "pipeline_revisions",
    metadata,
    Column("project", Text, primary_key=True),
    Column("pipeline", Text, primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("description", Text, nullable=False),
    Column("definition", Json, nullable=False),
    Column("triggers", Json, nullable=False),
    Column("schedule", Text, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("author", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("author", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("trigger_reason", Text, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("version_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("champion_version", BigInteger, nullable=False),
    Column("result", Json, nullable=False),
    Column("delivery", Json),
    Column("cancel_requested", Boolean, nullable=False),
    Column("runner", Text, nullable=False),
    Column("started", UtcDateTime),
    Column("ended", UtcDateTime),
)
Index("jobs_by_pipeline", jobs.c.project, jobs.c.pipeline, jobs.c.number)

job_progress = Table(
    "job_progress",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("job", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("source_sequence", BigInteger, nullable=False),
    Column("stage", Text, nullable=False),
    Column("fraction", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)
Index("job_progress_by_job", job_progress.c.job, job_progress.c.sequence, unique=True)

pipeline_cursors = Table(
    "pipeline_cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("serial", BigInteger, nullable=False),
)


# Pipelines ----------------------------------------------------------------------------------------------------


def _pipeline(head: Row[Any], revision: Row[Any]) -> Pipeline:
    return Pipeline(
        head.project, head.id, head.model, revision.description, revision.definition,
        tuple(Trigger(**t) for t in revision.triggers), revision.schedule, revision.timeout_s, revision.revision,
        head.author, head.created, head.updated, head.due,
    )  # fmt: skip


def pipeline(conn: Connection, project: str, pipeline_id: str, revision: int = 0) -> Pipeline | None:
    """Return a revision of a pipeline, 0: its newest; None: there is none."""
    head = conn.execute(select(pipelines).where(pipelines.c.project == project, pipelines.c.id == pipeline_id)).first()
    if head is None:
        return None
    found = conn.execute(
        select(pipeline_revisions).where(
            pipeline_revisions.c.project == project,
            pipeline_revisions.c.pipeline == pipeline_id,
            pipeline_revisions.c.revision == (revision or head.revision),
        )
    ).first()
    return None if found is None else _pipeline(head, found)


def put_pipeline(conn: Connection, found: Pipeline, author: str) -> None:
    """Store a pipeline's new revision and make it the newest."""
    head = {"model": found.model, "revision": found.revision, "schedule": found.schedule, "updated": found.updated}
    key, once = {"project": found.project, "id": found.id}, {"created": found.created, "author": found.author}
    put(conn, pipelines, key, head | {"due": found.due}, once=once)
    conn.execute(
        insert(pipeline_revisions).values(
            project=found.project,
            pipeline=found.id,
            revision=found.revision,
            description=found.description,
            definition=dict(found.definition),
            triggers=[dataclasses.asdict(t) for t in found.triggers],
            schedule=found.schedule,
            timeout_s=found.timeout_s,
            author=author,
            created=found.updated,
        )
    )


def scheduled(conn: Connection) -> list[Pipeline]:
    """Return every pipeline with a schedule."""
    rows = conn.execute(select(pipelines.c.project, pipelines.c.id).where(pipelines.c.schedule != "")).all()
    return [p for r in rows if (p := pipeline(conn, r.project, r.id)) is not None]


def set_due(conn: Connection, found: Pipeline, due: datetime | None) -> None:
    """Keep when a pipeline's schedule is due next."""
    key = (pipelines.c.project == found.project) & (pipelines.c.id == found.id)
    conn.execute(update(pipelines).where(key).values(due=due))


def all_pipelines(conn: Connection, project: str) -> list[Pipeline]:
    """Return every pipeline of a project."""
    rows = conn.execute(select(pipelines.c.id).where(pipelines.c.project == project).order_by(pipelines.c.id)).all()
    return [p for r in rows if (p := pipeline(conn, project, r.id)) is not None]


def cursor(conn: Connection, name: str) -> int:
    """Return how far a reader of evidence has come."""
    found = conn.execute(select(pipeline_cursors.c.serial).where(pipeline_cursors.c.name == name)).scalar()
    return int(found or 0)


def set_cursor(conn: Connection, name: str, serial: int) -> None:
    """Keep how far a reader of evidence has come."""
    put(conn, pipeline_cursors, {"name": name}, {"serial": serial})


# Jobs ---------------------------------------------------------------------------------------------------------


def _row(found: Job) -> dict[str, Any]:
    row = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    row["state"] = found.state.value
    row["result"] = dict(found.result)
    row["delivery"] = None if found.delivery is None else dataclasses.asdict(found.delivery)
    return row


def job_from(row: Row[Any]) -> Job:
    """Return a row of jobs as a value."""
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(Job)}
    values["state"] = JobState(row.state)
    values["delivery"] = None if row.delivery is None else Delivery(**row.delivery)
    return Job(**values)


def next_job_number(conn: Connection) -> int:
    """Return the number of the next job."""
    return int(conn.execute(select(jobs.c.number).order_by(jobs.c.number.desc()).limit(1)).scalar() or 0) + 1


def add_job(conn: Connection, found: Job) -> None:
    """Store a new job."""
    conn.execute(insert(jobs).values(_row(found)))


def set_job(conn: Connection, found: Job) -> None:
    """Store a changed job."""
    conn.execute(update(jobs).where(jobs.c.id == found.id).values(_row(found)))


def job(conn: Connection, job_id: str) -> Job | None:
    """Return a job by its id."""
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).first()
    return None if row is None else job_from(row)


def jobs_by_id(conn: Connection, ids: Collection[str]) -> dict[str, Job]:
    """Return jobs by id."""
    return {r.id: job_from(r) for r in conn.execute(select(jobs).where(jobs.c.id.in_(ids)))}


def jobs_in(conn: Connection, states: Sequence[JobState], runner: str | None = None) -> list[Job]:
    """Return the jobs in some states, oldest first; of one runner only where it is given."""
    query = select(jobs).where(jobs.c.state.in_([s.value for s in states]))
    if runner is not None:
        query = query.where(jobs.c.runner == runner)
    return [job_from(r) for r in conn.execute(query.order_by(jobs.c.number))]


def newest_job(conn: Connection, project: str, pipeline_id: str, triggers: Sequence[str] = ()) -> Job | None:
    """Return a pipeline's newest job; with triggers, the newest that one of them started."""
    query = select(jobs).where(jobs.c.project == project, jobs.c.pipeline == pipeline_id)
    if triggers:
        query = query.where(jobs.c.trigger.in_(list(triggers)))
    row = conn.execute(query.order_by(jobs.c.number.desc()).limit(1)).first()
    return None if row is None else job_from(row)


def last_progress(conn: Connection, job_id: str, attempt: int) -> tuple[int, int]:
    """Return (sequence over all attempts, the trainer's own sequence in this attempt) of the last line taken."""
    newest = conn.execute(
        select(job_progress.c.sequence)
        .where(job_progress.c.job == job_id)
        .order_by(job_progress.c.sequence.desc())
        .limit(1)
    ).scalar()
    source = conn.execute(
        select(job_progress.c.source_sequence)
        .where(job_progress.c.job == job_id, job_progress.c.attempt == attempt)
        .order_by(job_progress.c.sequence.desc())
        .limit(1)
    ).scalar()
    return int(newest or 0), int(source or 0)


def add_progress(conn: Connection, job_id: str, attempt: int, source_sequence: int, line: Progress) -> None:
    """Store a line of progress."""
    conn.execute(
        insert(job_progress).values(
            job=job_id,
            sequence=line.sequence,
            attempt=attempt,
            source_sequence=source_sequence,
            stage=line.stage,
            fraction=line.fraction,
            message=line.message,
            metrics=dict(line.metrics),
            time=line.time,
        )
    )


def told_last(conn: Connection, ids: Collection[str]) -> dict[str, datetime]:
    """Return when each job last told of its progress; one that never did is left out."""
    query = select(job_progress.c.job, func.max(job_progress.c.time).label("time"))
    return {r.job: r.time for r in conn.execute(query.where(job_progress.c.job.in_(ids)).group_by(job_progress.c.job))}


def progress_after(conn: Connection, job_id: str, sequence: int) -> list[Progress]:
    """Return the lines of progress after a sequence number."""
    rows = conn.execute(
        select(job_progress)
        .where(job_progress.c.job == job_id, job_progress.c.sequence > sequence)
        .order_by(job_progress.c.sequence)
    )
    return [Progress(r.sequence, r.stage, r.fraction, r.message, r.metrics, r.time) for r in rows]
