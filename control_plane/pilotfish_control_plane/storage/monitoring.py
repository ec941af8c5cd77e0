"""Rows of monitoring: windows, verdicts, outcomes, quality, evidence.

Owns the tables and their queries. It decides nothing; times are aware UTC.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
    and_,
    insert,
    select,
    update,
)

from pilotfish_control_plane.monitoring.model import (
    Capture,
    EvidenceEvent,
    EvidenceKind,
    Outcome,
    Quality,
    StoredVerdict,
    WindowReport,
)
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.puts import put
from pilotfish_control_plane.storage.types import BigId, Json, UtcDateTime

BUCKET_S = 10

windows = Table(
    "windows",
    metadata,
    Column("id", Text, primary_key=True),
    Column("replica", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime, nullable=False),
    Column("profile_id", Text, nullable=False),
    Column("counts", Json, nullable=False),
    Column("verdict", Json, nullable=False),
    Column("received", UtcDateTime, nullable=False),
)
Index("windows_by_deployment", windows.c.deployment, windows.c.ended)

drift_verdicts = Table(
    "drift_verdicts",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("window", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("drifted", Boolean, nullable=False),
    Column("verdict", Json, nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime, nullable=False),
    Column("episode", Text, nullable=False),
    Column("profile_id", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("drift_verdicts_by_deployment", drift_verdicts.c.deployment, drift_verdicts.c.id)
Index("drift_verdicts_by_endpoint", drift_verdicts.c.project, drift_verdicts.c.endpoint, drift_verdicts.c.id)

episodes = Table(
    "episodes",
    metadata,
    Column("deployment", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("open", Boolean, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("state", Json, nullable=False),
)

evidence_events = Table(
    "evidence_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("serial", BigInteger, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("details", Json, nullable=False),
    Column("evidence_time", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("deployment", Text, primary_key=True),
    Column("replica", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("errors_by_code", Json, nullable=False),
    Column("bounds_us", Json, nullable=False),
    Column("counts", Json, nullable=False),
    Column("sum_us", BigInteger, nullable=False),
)

deployment_quality = Table(
    "deployment_quality",
    metadata,
    Column("deployment", Text, primary_key=True),
    Column("computed", UtcDateTime, nullable=False),
    Column("labelled", BigInteger, nullable=False),
    Column("answered", BigInteger, nullable=False),
    Column("metrics", Json, nullable=False),
)

captures = Table(
    "captures",
    metadata,
    Column("replica", Text, primary_key=True),
    Column("deployment", Text, nullable=False, index=True),
    Column("served", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("in_flight", BigInteger, nullable=False),
    Column("dropped", Json, nullable=False),
    Column("undecodable", Json, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
)

learned_profiles = Table(
    "learned_profiles",
    metadata,
    Column("deployment", Text, primary_key=True),
    Column("profile_id", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)

direct_windows = Table(
    "direct_windows",
    metadata,
    Column("deployment", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
)


# Windows and verdicts -----------------------------------------------------------------------------------------


def add_window(conn: Connection, report: WindowReport, now: datetime) -> bool:
    """Store a window; False: it was stored before."""
    if conn.execute(select(windows.c.id).where(windows.c.id == report.window)).first() is not None:
        return False
    counts = {str(scale): base64.b64encode(data).decode() for scale, data in report.counts.items()}
    conn.execute(
        insert(windows).values(
            id=report.window,
            replica=report.replica,
            deployment=report.deployment,
            number=report.index,
            rows=report.rows,
            started=report.started,
            ended=report.ended,
            profile_id=report.profile_id,
            counts=counts,
            verdict=dict(report.verdict),
            received=now,
        )
    )
    return True


def newest_windows(conn: Connection, deployment: str, profile_id: str, since: datetime) -> dict[str, WindowReport]:
    """Return the newest window of every replica of a deployment that closed since then, by replica."""
    rows = conn.execute(
        select(windows)
        .where(windows.c.deployment == deployment, windows.c.profile_id == profile_id, windows.c.ended >= since)
        .order_by(windows.c.ended, windows.c.id)
    )
    return {r.replica: _window(r) for r in rows}


# Any: a row's shape is known to its query only.
def _window(row: Row[Any]) -> WindowReport:
    counts = {int(scale): base64.b64decode(text) for scale, text in row.counts.items()}
    return WindowReport(
        row.id, row.replica, row.deployment, row.number, row.rows, row.started, row.ended, row.profile_id, counts,
        row.verdict,
    )  # fmt: skip


def add_verdict(conn: Connection, found: StoredVerdict) -> int:
    """Store a deployment's verdict; return its id."""
    key = conn.execute(
        insert(drift_verdicts).values(
            window=found.window,
            project=found.project,
            endpoint=found.endpoint,
            deployment=found.deployment,
            drifted=bool(found.verdict["drifted"]),
            verdict=dict(found.verdict),
            started=found.started,
            ended=found.ended,
            episode=found.episode,
            profile_id=found.profile_id,
        )
    ).inserted_primary_key
    return int(key[0]) if key is not None else 0


def newest_verdict(conn: Connection, deployment: str, since: datetime | None = None) -> StoredVerdict | None:
    """Return the newest verdict of a deployment over a window that began since then."""
    query = select(drift_verdicts).where(drift_verdicts.c.deployment == deployment)
    if since is not None:
        query = query.where(drift_verdicts.c.ended >= since)
    row = conn.execute(query.order_by(drift_verdicts.c.id.desc()).limit(1)).first()
    return verdict_of(row) if row is not None else None


def verdicts_between(
    conn: Connection, deployments: Sequence[str], start: datetime, end: datetime
) -> list[StoredVerdict]:
    """Return the verdicts of deployments over windows that closed in [start, end), oldest first."""
    rows = conn.execute(
        select(drift_verdicts)
        .where(
            drift_verdicts.c.deployment.in_(list(deployments)),
            drift_verdicts.c.ended >= start,
            drift_verdicts.c.ended < end,
        )
        .order_by(drift_verdicts.c.id)
    )
    return [verdict_of(r) for r in rows]


def verdict_of(row: Row[Any]) -> StoredVerdict:
    """Return a row of drift_verdicts as a value."""
    return StoredVerdict(
        row.id, row.window, row.project, row.endpoint, row.deployment, row.verdict, row.started, row.ended,
        row.episode, row.profile_id,
    )  # fmt: skip


def episode(conn: Connection, deployment: str, kind: str) -> Mapping[str, Any] | None:
    """Return the state of the newest episode of a kind, as JSON; None: there was none."""
    row = conn.execute(
        select(episodes.c.state).where(episodes.c.deployment == deployment, episodes.c.kind == kind)
    ).first()
    return None if row is None else dict(row.state)


def set_episode(
    conn: Connection, deployment: str, kind: str, number: int, is_open: bool, state: Mapping[str, Any]
) -> None:
    """Keep the state of the newest episode of a kind."""
    values = {"open": is_open, "number": number, "state": dict(state)}
    put(conn, episodes, {"deployment": deployment, "kind": kind}, values)


def learned_profile(conn: Connection, deployment: str) -> tuple[str, str] | None:
    """Return (id, JSON) of the reference that a deployment learned."""
    row = conn.execute(select(learned_profiles).where(learned_profiles.c.deployment == deployment)).first()
    return None if row is None else (row.profile_id, row.profile)


def set_learned_profile(conn: Connection, deployment: str, profile_id: str, profile: str, now: datetime) -> bool:
    """Keep the reference that a deployment learned; the first one stays. Return whether it is this one."""
    if learned_profile(conn, deployment) is not None:
        return False
    row = {"deployment": deployment, "profile_id": profile_id, "profile": profile, "created": now}
    conn.execute(insert(learned_profiles).values(row))
    return True


def direct_state(conn: Connection, deployment: str) -> bytes | None:
    """Return the window state of predictions that were logged straight to the control plane."""
    text = conn.execute(select(direct_windows.c.state).where(direct_windows.c.deployment == deployment)).scalar()
    return None if text is None else base64.b64decode(text)


def set_direct_state(conn: Connection, deployment: str, state: bytes, now: datetime) -> None:
    """Keep the window state of predictions that were logged straight to the control plane."""
    values = {"state": base64.b64encode(state).decode(), "updated": now}
    put(conn, direct_windows, {"deployment": deployment}, values)


# Evidence -----------------------------------------------------------------------------------------------------


def add_evidence(conn: Connection, event: EvidenceEvent) -> bool:
    """Store a piece of evidence; False: its episode is known."""
    if conn.execute(select(evidence_events.c.id).where(evidence_events.c.id == event.id)).first() is not None:
        return False
    newest = conn.execute(select(evidence_events.c.serial).order_by(evidence_events.c.serial.desc()).limit(1)).scalar()
    row = dataclasses.asdict(event) | {"kind": event.kind.value, "serial": int(newest or 0) + 1}
    conn.execute(insert(evidence_events).values(row | {"details": dict(event.details)}))
    return True


def evidence_after(conn: Connection, serial: int, limit: int = 200) -> list[tuple[int, EvidenceEvent]]:
    """Return evidence that came after a serial number, in order, each with its own."""
    rows = conn.execute(
        select(evidence_events).where(evidence_events.c.serial > serial).order_by(evidence_events.c.serial).limit(limit)
    )
    return [(int(r.serial), _evidence(r)) for r in rows]


def _evidence(row: Row[Any]) -> EvidenceEvent:
    return EvidenceEvent(
        row.id, EvidenceKind(row.kind), row.project, row.endpoint, row.deployment, row.stage, row.value,
        row.threshold, row.n, row.details, row.evidence_time, row.created,
    )  # fmt: skip


# Outcomes -----------------------------------------------------------------------------------------------------


def bucket_of(at: datetime) -> int:
    """Return the bucket of ten seconds that a time lies in."""
    return int(at.timestamp()) // BUCKET_S


def add_outcome(conn: Connection, outcome: Outcome) -> None:
    """Add the counts of a span to its bucket; a histogram with other bounds counts calls and errors only."""
    bucket = bucket_of(outcome.ended)
    key = and_(
        outcomes.c.deployment == outcome.deployment, outcomes.c.replica == outcome.replica, outcomes.c.bucket == bucket
    )
    row = conn.execute(select(outcomes).where(key)).first()
    errors = sum(outcome.errors.values())
    if row is None:
        conn.execute(
            insert(outcomes).values(
                deployment=outcome.deployment,
                replica=outcome.replica,
                bucket=bucket,
                calls=outcome.calls,
                errors=errors,
                errors_by_code=dict(outcome.errors),
                bounds_us=list(outcome.bounds_us),
                counts=list(outcome.counts),
                sum_us=outcome.sum_us,
            )
        )
        return
    by_code = dict(row.errors_by_code)
    for code, count in outcome.errors.items():
        by_code[code] = by_code.get(code, 0) + count
    counts = list(row.counts)
    if list(row.bounds_us) == list(outcome.bounds_us):
        counts = [a + b for a, b in zip(counts, outcome.counts, strict=True)]
    conn.execute(
        update(outcomes)
        .where(key)
        .values(
            calls=row.calls + outcome.calls,
            errors=row.errors + errors,
            errors_by_code=by_code,
            counts=counts,
            sum_us=row.sum_us + outcome.sum_us,
        )
    )


def outcomes_between(conn: Connection, deployment: str, start: datetime | None, end: datetime | None = None) -> Outcome:
    """Return the sum over all replicas of the buckets that overlap [start, end)."""
    query = select(outcomes).where(outcomes.c.deployment == deployment)
    if start is not None:
        query = query.where(outcomes.c.bucket >= bucket_of(start))
    if end is not None:
        query = query.where(outcomes.c.bucket <= bucket_of(end - timedelta(microseconds=1)))
    calls = sum_us = 0
    errors: dict[str, int] = {}
    bounds: tuple[int, ...] = ()
    counts: list[int] = []
    first: int | None = None
    last = 0
    for row in conn.execute(query.order_by(outcomes.c.bucket)):
        calls, sum_us = calls + row.calls, sum_us + row.sum_us
        first, last = (row.bucket if first is None else first), row.bucket
        for code, count in row.errors_by_code.items():
            errors[code] = errors.get(code, 0) + count
        if not bounds:
            bounds, counts = tuple(row.bounds_us), list(row.counts)
        elif bounds == tuple(row.bounds_us):
            counts = [a + b for a, b in zip(counts, row.counts, strict=True)]
    began = datetime.fromtimestamp((first or 0) * BUCKET_S, UTC)
    ended = datetime.fromtimestamp((last + 1) * BUCKET_S, UTC)
    return Outcome("", deployment, began, ended, calls, errors, bounds, tuple(counts), sum_us)


# Quality and capture ------------------------------------------------------------------------------------------


def set_quality(conn: Connection, quality: Quality) -> None:
    """Keep the quality of a deployment."""
    values = {
        "computed": quality.computed,
        "labelled": quality.labelled,
        "answered": quality.answered,
        "metrics": dict(quality.metrics),
    }
    put(conn, deployment_quality, {"deployment": quality.deployment}, values)


def quality(conn: Connection, deployment: str) -> Quality | None:
    """Return the quality of a deployment; None: nothing was labelled yet."""
    row = conn.execute(select(deployment_quality).where(deployment_quality.c.deployment == deployment)).first()
    return None if row is None else Quality(row.deployment, row.computed, row.labelled, row.answered, row.metrics)


def set_capture(conn: Connection, replica: str, deployment: str, capture: Capture, now: datetime) -> None:
    """Keep what a replica's tap counted."""
    values = {
        "deployment": deployment,
        "served": capture.served,
        "captured": capture.captured,
        "in_flight": capture.in_flight,
        "dropped": dict(capture.dropped),
        "undecodable": dict(capture.undecodable),
        "updated": now,
    }
    put(conn, captures, {"replica": replica}, values)


def capture(conn: Connection, deployment: str) -> Capture | None:
    """Return the sum over a deployment's replicas; None: nobody reported."""
    rows = conn.execute(select(captures).where(captures.c.deployment == deployment)).all()
    if not rows:
        return None
    dropped: dict[str, int] = {}
    undecodable: dict[str, int] = {}
    for row in rows:
        for into, found in ((dropped, row.dropped), (undecodable, row.undecodable)):
            for reason, count in found.items():
                into[reason] = into.get(reason, 0) + count
    return Capture(
        sum(r.served for r in rows), sum(r.captured for r in rows), sum(r.in_flight for r in rows), dropped, undecodable
    )
