"""Tables and queries of endpoints, deployments, revisions, replicas, slots and quarantines.

Owns rows and their conversion to the values of `deployments.model`; it decides nothing. Rollouts and decisions are
in `storage.rollouts`.
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
    Select,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from pilotfish_control_plane.deployments.configuration import config_from_json, config_to_json
from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    Endpoint,
    LinkState,
    Quarantine,
    Replica,
    ReplicaState,
    Revision,
    RouteTable,
    Shadow,
    Stage,
)
from pilotfish_control_plane.storage import rollouts as _rollouts  # its tables belong to the same area
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import BigId, Json, JsonObject, UtcDateTime

__all__ = [
    "add_deployment",
    "add_endpoint",
    "add_quarantine",
    "add_replica",
    "add_revision",
    "clear_quarantine",
    "clear_slot",
    "delete_endpoint",
    "deployment",
    "endpoint",
    "find_endpoint_of",
    "holders",
    "list_deployments",
    "list_endpoints",
    "open_deployments",
    "open_replicas",
    "ports_in_use",
    "quarantines_of",
    "replica",
    "replicas_of",
    "restorable",
    "revision",
    "save_deployment",
    "save_endpoint",
    "save_replica",
    "set_slot",
    "slots_of",
]

_ = _rollouts

endpoints = Table(
    "endpoints",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=True),
    Column("project", String(63), nullable=False),
    Column("id", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("port", Integer, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("routes", Json, nullable=False),
    Column("routes_updated", UtcDateTime),
    Column("open_rollout", String(63), nullable=False),
    Column("automation_paused", Boolean, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Index("uq_endpoints_project_id", "project", "id", unique=True),
    sqlite_autoincrement=True,
)

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

replicas = Table(
    "replicas",
    metadata,
    Column("seq", BigId, primary_key=True, autoincrement=True),
    Column("id", String(63), nullable=False, unique=True),
    Column("project", String(63), nullable=False),
    Column("endpoint", String(63), nullable=False),
    Column("deployment", String(63), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("node", String(63), nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("state", String(9), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("warmed", Boolean, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("grpc_address", String(255), nullable=False),
    Column("http_address", String(255), nullable=False),
    Column("link", String(9), nullable=False),
    Column("server_pid", BigInteger, nullable=False),
    Column("sidecar_pid", BigInteger, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("restarts_when_ready", Integer, nullable=False),
    Column("unhealthy", UtcDateTime),
    Column("ended", UtcDateTime),
    Index("ix_replicas_deployment", "deployment", "seq"),
    Index("ix_replicas_node_open", "node", "open"),
    sqlite_autoincrement=True,
)

quarantines = Table(
    "quarantines",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("endpoint", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)


# Any, in all rows below: columns of several types.
def _endpoint_values(value: Endpoint) -> dict[str, Any]:
    routes = value.routes
    return {
        "project": value.project,
        "id": value.id,
        "model": value.model,
        "port": value.port,
        "created": value.created,
        "routes": {
            "generation": routes.generation,
            "weights": [list(w) for w in routes.weights],
            "shadows": [[s.deployment, s.fraction_bp] for s in routes.shadows],
            "sticky_header": routes.sticky_header,
        },
        "routes_updated": routes.updated,
        "open_rollout": value.open_rollout,
        "automation_paused": value.automation_paused,
        "serial": value.serial,
    }


def _routes(stored: JsonObject, row: Row[Any]) -> RouteTable:
    return RouteTable(
        stored["generation"],
        tuple((d, w) for d, w in stored["weights"]),
        tuple(Shadow(d, f) for d, f in stored["shadows"]),
        stored["sticky_header"],
        row.routes_updated,
    )


def _endpoint(row: Row[Any]) -> Endpoint:
    return Endpoint(
        row.project,
        row.id,
        row.model,
        row.port,
        row.created,
        _routes(row.routes, row),
        row.open_rollout,
        row.automation_paused,
        row.serial,
    )


def _of_slots(cls: type[Any], row: Row[Any], **given: Any) -> Any:
    """Return a `cls` from the row's columns of the same names, those in `given` converted."""
    return cls(**{name: given.get(name, getattr(row, name, None)) for name in cls.__slots__})


def _deployment(row: Row[Any]) -> Deployment:
    found: Deployment = _of_slots(
        Deployment,
        row,
        stage=Stage(row.stage),
        state=DeploymentState(row.state),
        config=config_from_json(row.config),
    )
    return found


def _deployment_values(value: Deployment) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in Deployment.__slots__ if name != "number"}
    return {
        **found,
        "stage": value.stage.value,
        "state": value.state.value,
        "open": not value.state.has_ended,
        "config": config_to_json(value.config),
    }


def _replica(row: Row[Any]) -> Replica:
    found: Replica = _of_slots(Replica, row, state=ReplicaState(row.state), link=LinkState(row.link))
    return found


def _replica_values(value: Replica) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in Replica.__slots__}
    return {
        **found,
        "state": value.state.value,
        "open": value.state is not ReplicaState.STOPPED,
        "link": value.link.value,
    }


def add_endpoint(conn: Connection, value: Endpoint) -> None:
    """Insert an endpoint."""
    conn.execute(insert(endpoints).values(**_endpoint_values(value)))


def save_endpoint(conn: Connection, value: Endpoint) -> None:
    """Write an endpoint's row whole."""
    mine = (endpoints.c.project == value.project) & (endpoints.c.id == value.id)
    conn.execute(update(endpoints).where(mine).values(**_endpoint_values(value)))


def delete_endpoint(conn: Connection, project: str, endpoint_id: str) -> None:
    """Delete an endpoint's row, slots and quarantines; its deployments stay as history."""
    for table, key in ((endpoints, endpoints.c.id), (slots, slots.c.endpoint), (quarantines, quarantines.c.endpoint)):
        conn.execute(delete(table).where(table.c.project == project, key == endpoint_id))


def endpoint(conn: Connection, project: str, endpoint_id: str) -> Endpoint | None:
    """Return an endpoint, or None."""
    row = conn.execute(select(endpoints).where(endpoints.c.project == project, endpoints.c.id == endpoint_id)).first()
    return None if row is None else _endpoint(row)


def find_endpoint_of(conn: Connection, model: str, project: str) -> list[Endpoint]:
    """Return the endpoints that serve a model."""
    query = select(endpoints).where(endpoints.c.project == project, endpoints.c.model == model)
    return [_endpoint(r) for r in conn.execute(query.order_by(endpoints.c.seq))]


def all_endpoints(conn: Connection) -> list[Endpoint]:
    """Return every endpoint of every project, oldest first."""
    return [_endpoint(r) for r in conn.execute(select(endpoints).order_by(endpoints.c.seq))]


def ports_in_use(conn: Connection) -> set[int]:
    """Return the ports that endpoints have."""
    return set(conn.execute(select(endpoints.c.port).where(endpoints.c.port > 0)).scalars())


_ENDPOINTS = Listing(
    key=Scalar(endpoints.c.id),
    fields={"name": Scalar(endpoints.c.id), "model": Scalar(endpoints.c.model)},
    orders={},
)


def list_endpoints(conn: Connection, project: str, request: PageRequest) -> Page[Endpoint]:
    """Return a page of a project's endpoints, by id."""
    query = select(endpoints).where(endpoints.c.project == project)
    return fetch_page(conn, query, _ENDPOINTS, request, _endpoint)


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


def restorable(conn: Connection, like: Deployment, since: Any) -> list[Deployment]:
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


def add_replica(conn: Connection, value: Replica) -> None:
    """Insert a replica."""
    conn.execute(insert(replicas).values(**_replica_values(value)))


def save_replica(conn: Connection, value: Replica) -> None:
    """Write a replica's row whole."""
    conn.execute(update(replicas).where(replicas.c.id == value.id).values(**_replica_values(value)))


def replica(conn: Connection, replica_id: str) -> Replica | None:
    """Return a replica, or None."""
    row = conn.execute(select(replicas).where(replicas.c.id == replica_id)).first()
    return None if row is None else _replica(row)


def replicas_by_id(conn: Connection, ids: Collection[str]) -> dict[str, Replica]:
    """Return replicas by id."""
    found = {}
    wanted = sorted(ids)
    # SQLite takes a limited number of bound parameters in one statement.
    for i in range(0, len(wanted), 500):
        rows = conn.execute(select(replicas).where(replicas.c.id.in_(wanted[i : i + 500])))
        found.update({r.id: _replica(r) for r in rows})
    return found


def replicas_of(
    conn: Connection, deployment_ids: Sequence[str], *, show_ended: bool = False
) -> dict[str, list[Replica]]:
    """Return the replicas of each deployment, oldest first; a deployment without any has an empty list."""
    found: dict[str, list[Replica]] = {d: [] for d in deployment_ids}
    for i in range(0, len(deployment_ids), 500):
        query = select(replicas).where(replicas.c.deployment.in_(deployment_ids[i : i + 500]))
        if not show_ended:
            query = query.where(replicas.c.open)
        for row in conn.execute(query.order_by(replicas.c.seq)):
            found[row.deployment].append(_replica(row))
    return found


def open_replicas(conn: Connection, node: str) -> list[Replica]:
    """Return the replicas of a node that have not ended, oldest first."""
    query: Select[Any] = select(replicas).where(replicas.c.node == node, replicas.c.open).order_by(replicas.c.seq)
    return [_replica(r) for r in conn.execute(query)]


def count_open_replicas(conn: Connection) -> int:
    """Return how many replicas have not ended."""
    return int(conn.execute(select(func.count()).select_from(replicas).where(replicas.c.open)).scalar_one())


def add_quarantine(conn: Connection, project: str, endpoint_id: str, value: Quarantine) -> None:
    """Mark a version; an older mark is replaced."""
    clear_quarantine(conn, project, endpoint_id, value.version)
    conn.execute(
        insert(quarantines).values(
            project=project, endpoint=endpoint_id, version=value.version, reason=value.reason, created=value.created
        )
    )


def clear_quarantine(conn: Connection, project: str, endpoint_id: str, version: int) -> bool:
    """Take the mark away; return whether there was one."""
    mine = (quarantines.c.project == project) & (quarantines.c.endpoint == endpoint_id)
    return bool(conn.execute(delete(quarantines).where(mine, quarantines.c.version == version)).rowcount)


def quarantines_of(conn: Connection, project: str, endpoint_id: str) -> list[Quarantine]:
    """Return the marks of an endpoint by version."""
    query = select(quarantines).where(quarantines.c.project == project, quarantines.c.endpoint == endpoint_id)
    rows = conn.execute(query.order_by(quarantines.c.version))
    return [Quarantine(r.version, r.reason, r.created) for r in rows]
