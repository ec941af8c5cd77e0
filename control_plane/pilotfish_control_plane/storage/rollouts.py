"""Tables and queries of rollouts and decisions.

Owns rows and their conversion to the values of `deployments.rollout_model`. Decisions are never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)

from pilotfish_control_plane.deployments.model import Stage
from pilotfish_control_plane.deployments.rollout_model import (
    Decision,
    PauseCause,
    Rollout,
    RolloutKind,
    RolloutState,
    Verdict,
    plan_from_json,
    plan_to_json,
    verdict_from_json,
    verdict_to_json,
)
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import BigId, Json, UtcDateTime

__all__ = [
    "add_decision",
    "add_rollout",
    "decisions_of",
    "list_rollouts",
    "newest_rollout",
    "open_rollouts",
    "rollout",
    "rollouts",
    "rollouts_by_id",
    "save_rollout",
]

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", BigId, primary_key=True, autoincrement=True),
    Column("id", String(63), nullable=False, unique=True),
    Column("project", String(63), nullable=False),
    Column("endpoint", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("stage", String(11), nullable=False),
    Column("state", String(11), nullable=False),
    Column("plan", Json, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("author", String(255), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("step_began", UtcDateTime),
    Column("wait_began", UtcDateTime),
    Column("pause_cause", String(12), nullable=False),
    Column("source", String(63), nullable=False),
    Column("ended", UtcDateTime),
    Column("cancelled", Boolean, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Index("ix_rollouts_endpoint", "project", "endpoint", "number"),
    Index("ix_rollouts_state", "state", "number"),
    sqlite_autoincrement=True,
)

decisions = Table(
    "decisions",
    metadata,
    Column("number", BigId, primary_key=True, autoincrement=True),
    Column("id", String(63), nullable=False, unique=True),
    Column("project", String(63), nullable=False),
    Column("verdict", String(12), nullable=False),
    Column("verdicts", Json, nullable=False),
    Column("subject", String(512), nullable=False),
    Column("actor", String(255), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("rollout", String(63), nullable=False),
    Column("evidence", Json, nullable=False),
    Index("ix_decisions_rollout", "rollout", "number"),
    Index("ix_decisions_subject", "subject", "number"),
    sqlite_autoincrement=True,
)

_OPEN = tuple(s.value for s in RolloutState if s.is_open)


# Any, in the functions below: columns of several types.
def _rollout(row: Row[Any]) -> Rollout:
    values = {name: getattr(row, name) for name in Rollout.__slots__}
    return Rollout(
        **{
            **values,
            "stage": Stage(row.stage),
            "state": RolloutState(row.state),
            "plan": plan_from_json(row.plan),
            "kind": RolloutKind(row.kind),
            "pause_cause": PauseCause(row.pause_cause),
        }
    )


def _values(value: Rollout) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in Rollout.__slots__ if name != "number"}
    return {
        **found,
        "stage": value.stage.value,
        "state": value.state.value,
        "plan": plan_to_json(value.plan),
        "kind": value.kind.value,
        "pause_cause": value.pause_cause.value,
    }


def add_rollout(conn: Connection, value: Rollout) -> Rollout:
    """Insert a rollout; return it with its number."""
    conn.execute(insert(rollouts).values(**_values(value)))
    found = rollout(conn, value.id)
    assert found is not None
    return found


def save_rollout(conn: Connection, value: Rollout) -> None:
    """Write a rollout's row whole."""
    conn.execute(update(rollouts).where(rollouts.c.number == value.number).values(**_values(value)))


def rollout(conn: Connection, rollout_id: str) -> Rollout | None:
    """Return a rollout, or None."""
    row = conn.execute(select(rollouts).where(rollouts.c.id == rollout_id)).first()
    return None if row is None else _rollout(row)


def rollouts_by_id(conn: Connection, ids: Collection[str]) -> dict[str, Rollout]:
    """Return rollouts by id."""
    return {r.id: _rollout(r) for r in conn.execute(select(rollouts).where(rollouts.c.id.in_(ids)))}


def newest_rollout(conn: Connection, project: str, endpoint: str) -> Rollout | None:
    """Return the newest rollout of an endpoint, or None."""
    query = select(rollouts).where(rollouts.c.project == project, rollouts.c.endpoint == endpoint)
    row = conn.execute(query.order_by(rollouts.c.number.desc()).limit(1)).first()
    return None if row is None else _rollout(row)


def open_rollouts(conn: Connection) -> list[Rollout]:
    """Return every unfinished rollout, oldest first."""
    query = select(rollouts).where(rollouts.c.state.in_(_OPEN)).order_by(rollouts.c.number)
    return [_rollout(r) for r in conn.execute(query)]


_ROLLOUTS = Listing(
    key=Scalar(rollouts.c.number, Kind.NUMBER),
    fields={},
    orders={"number": Scalar(rollouts.c.number, Kind.NUMBER)},
    default_order="number desc",
)


def list_rollouts(conn: Connection, project: str, endpoint: str, request: PageRequest) -> Page[Rollout]:
    """Return a page of rollouts, newest first; `endpoint` "": of all endpoints."""
    query = select(rollouts).where(rollouts.c.project == project)
    if endpoint:
        query = query.where(rollouts.c.endpoint == endpoint)
    return fetch_page(conn, query, _ROLLOUTS, request, _rollout)


def add_decision(conn: Connection, value: Decision) -> None:
    """Insert a decision; there is no way to change one."""
    conn.execute(
        insert(decisions).values(
            id=value.id,
            project=value.project,
            verdict=value.verdict.value,
            verdicts=[verdict_to_json(v) for v in value.verdicts],
            subject=value.subject,
            actor=value.actor,
            created=value.created,
            rollout=value.rollout,
            evidence=list(value.evidence),
        )
    )


def _decision(row: Row[Any]) -> Decision:
    return Decision(
        row.project,
        row.id,
        Verdict(row.verdict),
        tuple(verdict_from_json(v) for v in row.verdicts),
        row.subject,
        row.actor,
        row.created,
        row.rollout,
        tuple(row.evidence),
        row.number,
    )


def decisions_of(conn: Connection, rollout_ids: Sequence[str], limit: int = 20) -> dict[str, list[Decision]]:
    """Return the decisions of each rollout, newest first, at most `limit` each."""
    found: dict[str, list[Decision]] = {r: [] for r in rollout_ids}
    for rollout_id in rollout_ids:
        query = select(decisions).where(decisions.c.rollout == rollout_id).order_by(decisions.c.number.desc())
        found[rollout_id] = [_decision(r) for r in conn.execute(query.limit(limit))]
    return found


def decisions_about(conn: Connection, subject: str, limit: int = 50) -> list[Decision]:
    """Return the decisions about a resource, newest first."""
    query = select(decisions).where(decisions.c.subject == subject).order_by(decisions.c.number.desc()).limit(limit)
    return [_decision(r) for r in conn.execute(query)]
