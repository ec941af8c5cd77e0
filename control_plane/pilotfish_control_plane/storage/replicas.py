"""Tables and queries of replicas.

Owns rows and their conversion to the values of `deployments.model`; it decides nothing.
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

from pilotfish_control_plane.deployments.model import LinkState, Replica, ReplicaState
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import BigId, UtcDateTime

__all__ = [
    "add_replica",
    "of_instance",
    "of_instances",
    "open_replicas",
    "replica",
    "replicas",
    "replicas_by_id",
    "replicas_of",
    "save_replica",
    "set_link",
]

# Bound values in one IN (...): SQLite's limit is 32766, kept far below.
CHUNK = 500

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
    Column("drain_generation", BigInteger, nullable=False),
    Column("grpc_address", String(255), nullable=False),
    Column("http_address", String(255), nullable=False),
    Column("link", String(9), nullable=False),
    Column("server_pid", BigInteger, nullable=False),
    Column("sidecar_pid", BigInteger, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("restarts_when_ready", Integer, nullable=False),
    Column("unhealthy", UtcDateTime),
    Column("ended", UtcDateTime),
    Column("instance", String(127), nullable=False),
    Index("ix_replicas_deployment", "deployment", "seq"),
    Index("ix_replicas_node_open", "node", "open"),
    Index("ix_replicas_instance_open", "instance", "open"),
    sqlite_autoincrement=True,
)


# Any, in the rows below: columns of several types.
def _replica(row: Row[Any]) -> Replica:
    values = {name: getattr(row, name) for name in Replica.__slots__}
    return Replica(**{**values, "state": ReplicaState(row.state), "link": LinkState(row.link)})


def _replica_values(value: Replica) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in Replica.__slots__}
    return {
        **found,
        "state": value.state.value,
        "open": value.state is not ReplicaState.STOPPED,
        "link": value.link.value,
    }


def add_replica(conn: Connection, value: Replica) -> None:
    """Insert a replica."""
    conn.execute(insert(replicas).values(**_replica_values(value)))


def save_replica(conn: Connection, value: Replica) -> None:
    """Write a replica's row whole."""
    conn.execute(update(replicas).where(replicas.c.id == value.id).values(**_replica_values(value)))


def set_link(conn: Connection, ids: Collection[str], link: LinkState) -> set[str]:
    """Write how the sidecars' streams of replicas stand; return the deployments of those that it changed."""
    changed: set[str] = set()
    wanted = sorted(ids)
    for i in range(0, len(wanted), CHUNK):
        mine = replicas.c.id.in_(wanted[i : i + CHUNK]) & replicas.c.open & (replicas.c.link != link.value)
        found = set(conn.execute(select(replicas.c.deployment).where(mine)).scalars())
        if found:
            conn.execute(update(replicas).where(mine).values(link=link.value))
        changed |= found
    return changed


def replica(conn: Connection, replica_id: str) -> Replica | None:
    """Return a replica, or None."""
    row = conn.execute(select(replicas).where(replicas.c.id == replica_id)).first()
    return None if row is None else _replica(row)


def replicas_by_id(conn: Connection, ids: Collection[str]) -> dict[str, Replica]:
    """Return replicas by id."""
    found = {}
    wanted = sorted(ids)
    # SQLite takes a limited number of bound parameters in one statement.
    for i in range(0, len(wanted), CHUNK):
        rows = conn.execute(select(replicas).where(replicas.c.id.in_(wanted[i : i + CHUNK])))
        found.update({r.id: _replica(r) for r in rows})
    return found


def replicas_of(
    conn: Connection, deployment_ids: Sequence[str], *, show_ended: bool = False
) -> dict[str, list[Replica]]:
    """Return the replicas of each deployment, oldest first; a deployment without any has an empty list."""
    found: dict[str, list[Replica]] = {d: [] for d in deployment_ids}
    for i in range(0, len(deployment_ids), CHUNK):
        query = select(replicas).where(replicas.c.deployment.in_(deployment_ids[i : i + CHUNK]))
        if not show_ended:
            query = query.where(replicas.c.open)
        for row in conn.execute(query.order_by(replicas.c.seq)):
            found[row.deployment].append(_replica(row))
    return found


def open_replicas(conn: Connection, node: str) -> list[Replica]:
    """Return the replicas of a node that have not ended, oldest first."""
    query = select(replicas).where(replicas.c.node == node, replicas.c.open).order_by(replicas.c.seq)
    return [_replica(r) for r in conn.execute(query)]


def of_instance(conn: Connection, instance: str) -> list[Replica]:
    """Return the replicas behind which a sidecar stands and that have not ended, oldest first."""
    query = select(replicas).where(replicas.c.instance == instance, replicas.c.open).order_by(replicas.c.seq)
    return [_replica(r) for r in conn.execute(query)]


def of_instances(conn: Connection, instances: Collection[str]) -> dict[str, list[str]]:
    """Return the ids of the replicas of attached sidecars that have not ended; without sidecars that have none."""
    found: dict[str, list[str]] = {}
    wanted = sorted(instances)
    for i in range(0, len(wanted), CHUNK):
        query = select(replicas.c.instance, replicas.c.id).where(
            replicas.c.instance.in_(wanted[i : i + CHUNK]), replicas.c.open
        )
        for row in conn.execute(query.order_by(replicas.c.seq)):
            found.setdefault(row.instance, []).append(row.id)
    return found
