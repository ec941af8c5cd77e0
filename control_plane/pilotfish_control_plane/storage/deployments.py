"""Tables and queries of deployments, their revisions, and the slots that they hold.

Owns rows and their conversion to the values of `deployments.model`; it decides nothing. Endpoints, replicas and
rollouts have modules of their own, and belong to the same area.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
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
    delete,
    insert,
    select,
    update,
)

from pilotfish_control_plane.deployments.configuration import config_from_json, config_to_json
from pilotfish_control_plane.deployments.model import Deployment, DeploymentState, Revision, Stage
from pilotfish_control_plane.storage import endpoints, replicas, rollouts
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import BigId, Json, UtcDateTime

__all__ = [
    "add_deployment",
    "add_revision",
    "clear_slot",
    "deployment",
    "deployments",
    "deployments_by_id",
    "holders",
    "list_deployments",
    "of_endpoint",
    "of_version",
    "open_deployments",
    "restorable",
    "revision",
    "revisions",
    "save_deployment",
    "set_slot",
    "slots",
    "slots_of",
]

# Whoever loads this module, to create the schema above all, has loaded the whole area's tables.
_AREA = (endpoints.endpoints, replicas.replicas, rollouts.rollouts)


deployments = Table(
    "deployments",
    metadata,
    Column("number", BigId, primary_key=True, autoincrement=True),
    Column("id", String(63), nullable=False, unique=True),
    Column("project", String(63), nullable=False),
    Column("endpoint", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("stage", String(11), nullable=False),
    Column("state", String(8), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("config", Json, nullable=False),
    Column("author", String(255), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("attached", Boolean, nullable=False),
    Column("previous", String(63), nullable=False),
    Column("rollout", String(63), nullable=False),
    Column("load_replicas", Integer),
    Column("starting", UtcDateTime),
    Column("ready", UtcDateTime),
    Column("ended", UtcDateTime),
    Column("drain_after", UtcDateTime),
    Column("gateway_generation", BigInteger, nullable=False),
    Column("next_replica", Integer, nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Index("ix_deployments_endpoint", "project", "endpoint", "number"),
    Index("ix_deployments_version", "project", "model", "version"),
    Index("ix_deployments_open", "open", "number"),
    sqlite_autoincrement=True,
)


revisions = Table(
    "deployment_revisions",
    metadata,
    Column("deployment", String(63), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("config", Json, nullable=False),
    Column("author", String(255), nullable=False),
    Column("created", UtcDateTime, nullable=False),
)


slots = Table(
    "deployment_slots",
    metadata,
    # The primary key is the promise: at most one current deployment per endpoint and stage.
    Column("project", String(63), primary_key=True),
    Column("endpoint", String(63), primary_key=True),
    Column("stage", String(11), primary_key=True),
    Column("deployment", String(63), nullable=False),
)


# Any, in the rows below: columns of several types.
def _deployment(row: Row[Any]) -> Deployment:
    values = {name: getattr(row, name) for name in Deployment.__slots__}
    changed = {
        "stage": Stage(row.stage),
        "state": DeploymentState(row.state),
        "config": config_from_json(row.config),
    }
    return Deployment(**{**values, **changed})


def _deployment_values(value: Deployment) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in Deployment.__slots__ if name != "number"}
    return {
        **found,
        "stage": value.stage.value,
        "state": value.state.value,
        "open": not value.state.has_ended,
        "config": config_to_json(value.config),
    }


def add_deployment(conn: Connection, value: Deployment) -> Deployment:
    """Insert a deployment; return it with its number."""
    key = conn.execute(insert(deployments).values(**_deployment_values(value))).inserted_primary_key
    assert key is not None
    return _of_number(conn, int(key[0]))


def _of_number(conn: Connection, number: int) -> Deployment:
    return _deployment(conn.execute(select(deployments).where(deployments.c.number == number)).one())


def save_deployment(conn: Connection, value: Deployment) -> None:
    """Write a deployment's row whole."""
    conn.execute(update(deployments).where(deployments.c.number == value.number).values(**_deployment_values(value)))


def deployment(conn: Connection, deployment_id: str) -> Deployment | None:
    """Return a deployment, or None."""
    row = conn.execute(select(deployments).where(deployments.c.id == deployment_id)).first()
    return None if row is None else _deployment(row)


def deployments_by_id(conn: Connection, ids: Collection[str]) -> dict[str, Deployment]:
    """Return deployments by id."""
    rows = conn.execute(select(deployments).where(deployments.c.id.in_(ids)))
    return {r.id: _deployment(r) for r in rows}


def open_deployments(conn: Connection, project: str | None = None, endpoint_id: str | None = None) -> list[Deployment]:
    """Return deployments that have not ended, oldest first."""
    query = select(deployments).where(deployments.c.open)
    if project is not None:
        query = query.where(deployments.c.project == project)
    if endpoint_id is not None:
        query = query.where(deployments.c.endpoint == endpoint_id)
    return [_deployment(r) for r in conn.execute(query.order_by(deployments.c.number))]


def of_version(conn: Connection, project: str, model: str, version: int) -> list[Deployment]:
    """Return every deployment of a version, newest first."""
    query = select(deployments).where(
        deployments.c.project == project, deployments.c.model == model, deployments.c.version == version
    )
    return [_deployment(r) for r in conn.execute(query.order_by(deployments.c.number.desc()))]


def of_endpoint(conn: Connection, project: str, endpoint_id: str) -> list[Deployment]:
    """Return every deployment of an endpoint, newest first."""
    query = select(deployments).where(deployments.c.project == project, deployments.c.endpoint == endpoint_id)
    return [_deployment(r) for r in conn.execute(query.order_by(deployments.c.number.desc()))]


def restorable(conn: Connection, like: Deployment, since: datetime) -> list[Deployment]:
    """Return deployments of the same endpoint, stage and model that were READY once, newest first, without `like`."""
    query = select(deployments).where(
        deployments.c.project == like.project,
        deployments.c.endpoint == like.endpoint,
        deployments.c.stage == like.stage.value,
        deployments.c.model == like.model,
        deployments.c.ready.is_not(None),
        deployments.c.created >= since,
        deployments.c.id != like.id,
    )
    return [_deployment(r) for r in conn.execute(query.order_by(deployments.c.number.desc()))]


_DEPLOYMENTS = Listing(
    key=Scalar(deployments.c.number, Kind.NUMBER),
    fields={
        "endpoint": Scalar(deployments.c.endpoint),
        "model": Scalar(deployments.c.model),
        "version": Scalar(deployments.c.version, Kind.NUMBER),
        "stage": Scalar(deployments.c.stage, choices={s.value: s.value for s in Stage}),
        "state": Scalar(deployments.c.state, choices={s.value.upper(): s.value for s in DeploymentState}),
    },
    orders={"number": Scalar(deployments.c.number, Kind.NUMBER)},
    default_order="number desc",
)


def list_deployments(
    conn: Connection, project: str, endpoint_id: str, show_ended: bool, request: PageRequest
) -> Page[Deployment]:
    """Return a page of deployments, newest first; `endpoint_id` "": of all endpoints."""
    query = select(deployments).where(deployments.c.project == project)
    if endpoint_id:
        query = query.where(deployments.c.endpoint == endpoint_id)
    if not show_ended:
        query = query.where(deployments.c.open)
    return fetch_page(conn, query, _DEPLOYMENTS, request, _deployment)


def add_revision(conn: Connection, value: Revision) -> None:
    """Insert a revision."""
    conn.execute(
        insert(revisions).values(
            deployment=value.deployment,
            number=value.number,
            config=config_to_json(value.config),
            author=value.author,
            created=value.created,
        )
    )


def revision(conn: Connection, deployment_id: str, number: int) -> Revision | None:
    """Return a revision, or None."""
    row = conn.execute(
        select(revisions).where(revisions.c.deployment == deployment_id, revisions.c.number == number)
    ).first()
    if row is None:
        return None
    return Revision(row.deployment, row.number, config_from_json(row.config), row.author, row.created)


def set_slot(conn: Connection, value: Deployment) -> None:
    """Make a deployment the current one of its stage."""
    clear_slot(conn, value.project, value.endpoint, value.stage)
    conn.execute(
        insert(slots).values(
            project=value.project, endpoint=value.endpoint, stage=value.stage.value, deployment=value.id
        )
    )


def clear_slot(conn: Connection, project: str, endpoint_id: str, stage: Stage) -> None:
    """Leave a stage without a current deployment."""
    mine = (slots.c.project == project) & (slots.c.endpoint == endpoint_id) & (slots.c.stage == stage.value)
    conn.execute(delete(slots).where(mine))


def slots_of(conn: Connection, project: str, endpoint_id: str) -> dict[Stage, Deployment]:
    """Return the current deployment of each stage that has one."""
    query = select(deployments).join(slots, slots.c.deployment == deployments.c.id)
    rows = conn.execute(query.where(slots.c.project == project, slots.c.endpoint == endpoint_id))
    return {Stage(r.stage): _deployment(r) for r in rows}


def holders(conn: Connection, project: str, model: str, version: int, stage: Stage) -> list[Deployment]:
    """Return the current deployments of a version in a stage, over all endpoints."""
    query = (
        select(deployments)
        .join(slots, slots.c.deployment == deployments.c.id)
        .where(
            deployments.c.project == project,
            deployments.c.model == model,
            deployments.c.version == version,
            deployments.c.stage == stage.value,
        )
    )
    return [_deployment(r) for r in conn.execute(query)]
