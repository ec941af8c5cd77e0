"""Tables and queries of endpoints and quarantines.

Owns rows and their conversion to the values of `deployments.model`; it decides nothing.
"""

from __future__ import annotations

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

from pilotfish_control_plane.deployments.model import Endpoint, Quarantine, RouteTable, Shadow
from pilotfish_control_plane.storage.filter_sql import Scalar
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.types import BigId, Json, JsonObject, UtcDateTime

__all__ = [
    "add_endpoint",
    "add_quarantine",
    "all_endpoints",
    "clear_quarantine",
    "delete_endpoint",
    "endpoint",
    "endpoints",
    "find_endpoint_of",
    "list_endpoints",
    "ports_in_use",
    "quarantines",
    "quarantines_of",
    "save_endpoint",
]

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


quarantines = Table(
    "quarantines",
    metadata,
    Column("project", String(63), primary_key=True),
    Column("endpoint", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
)


# Any, in the rows below: columns of several types.
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


def add_endpoint(conn: Connection, value: Endpoint) -> None:
    """Insert an endpoint."""
    conn.execute(insert(endpoints).values(**_endpoint_values(value)))


def save_endpoint(conn: Connection, value: Endpoint) -> None:
    """Write an endpoint's row whole."""
    mine = (endpoints.c.project == value.project) & (endpoints.c.id == value.id)
    conn.execute(update(endpoints).where(mine).values(**_endpoint_values(value)))


def delete_endpoint(conn: Connection, project: str, endpoint_id: str) -> None:
    """Delete an endpoint's row and quarantines; its deployments stay as history."""
    for table, key in ((endpoints, endpoints.c.id), (quarantines, quarantines.c.endpoint)):
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
