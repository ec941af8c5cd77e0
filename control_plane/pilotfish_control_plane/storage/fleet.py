"""Tables and queries of members, nodes, configuration versions and control planes.

Owns rows and their conversion to the values of `fleet.model`; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
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

from pilotfish_control_plane.deployments.model import LinkState
from pilotfish_control_plane.fleet.model import Member, MemberKind, NodeFacts
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import Json, UtcDateTime

__all__ = [
    "BindingVersion",
    "binding_versions",
    "bindings_after",
    "connected_elsewhere",
    "forget_dead_servers",
    "forget_lost",
    "forget_server",
    "keep_server",
    "living_servers",
    "member",
    "members",
    "members_by_instance",
    "next_lease_end",
    "next_value",
    "node",
    "overdue",
    "raise_binding_versions",
    "raise_node_config",
    "save_members",
    "save_node",
    "value",
]

# The largest number of bound values in one IN (...): SQLite's limit is 32766, kept far below.
CHUNK = 500

_members = Table(
    "members",
    metadata,
    Column("instance", String(255), primary_key=True),
    Column("kind", String(7), nullable=False),
    Column("link", String(9), nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("program_version", String(127), nullable=False),
    Column("host", String(255), nullable=False),
    Column("replicas", Json, nullable=False),
    Column("server", String(127), nullable=False),
    Column("connection", BigInteger, nullable=False),
    Column("seen", UtcDateTime, nullable=False),
    Column("connected", UtcDateTime, nullable=False),
    Column("lease_ends", UtcDateTime),
    Column("config_version", BigInteger, nullable=False),
    Column("config_error", Text, nullable=False),
    Index("ix_members_link", "link", "lease_ends"),
    Index("ix_members_server", "server", "link"),
)

_nodes = Table(
    "nodes",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("config_version", BigInteger, nullable=False),
    Column("cpu_cores", Float, nullable=False),
    Column("memory_mib", BigInteger, nullable=False),
    Column("gateway_running", Boolean, nullable=False),
    Column("gateway_generation", BigInteger, nullable=False),
    Column("shared_port", Integer, nullable=False),
    Column("endpoint_ports", Json, nullable=False),
    Column("gateway_reason", Text, nullable=False),
    Column("reported", UtcDateTime),
)

_binding_versions = Table(
    "binding_versions",
    metadata,
    Column("replica", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Index("ix_binding_versions_version", "version"),
)

_counters = Table(
    "fleet_counters",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

_servers = Table(
    "fleet_servers",
    metadata,
    Column("server", String(127), primary_key=True),
    Column("expires", UtcDateTime, nullable=False),
)


def next_value(conn: Connection, name: str) -> int:
    """Count a counter up by one; return its new value, from 1. Values are given in commit order."""
    mine = _counters.c.name == name
    # The update locks the row until the commit: a later value never commits before an earlier one.
    if not conn.execute(update(_counters).where(mine).values(value=_counters.c.value + 1)).rowcount:
        conn.execute(insert(_counters).values(name=name, value=1))
    return int(conn.execute(select(_counters.c.value).where(mine)).scalar_one())


def value(conn: Connection, name: str) -> int:
    """Return a counter's value; 0: it has not counted yet."""
    found = conn.execute(select(_counters.c.value).where(_counters.c.name == name)).scalar_one_or_none()
    return int(found or 0)


# Any, in the rows below: columns of several types.
def _member(row: Row[Any]) -> Member:
    values = {name: getattr(row, name) for name in Member.__slots__}
    return Member(
        **{
            **values,
            "kind": MemberKind(row.kind),
            "link": LinkState(row.link),
            "replicas": tuple(row.replicas),
        }
    )


def _member_values(value: Member) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in Member.__slots__}
    return {**found, "kind": value.kind.value, "link": value.link.value, "replicas": list(value.replicas)}


def save_members(conn: Connection, values: Sequence[Member]) -> None:
    """Write members' rows whole, new or not."""
    instances = [v.instance for v in values]
    for i in range(0, len(instances), CHUNK):
        conn.execute(delete(_members).where(_members.c.instance.in_(instances[i : i + CHUNK])))
    if values:
        conn.execute(insert(_members), [_member_values(v) for v in values])


def member(conn: Connection, instance: str) -> Member | None:
    """Return a member, or None."""
    row = conn.execute(select(_members).where(_members.c.instance == instance)).first()
    return None if row is None else _member(row)


def members(conn: Connection, kind: MemberKind | None = None) -> list[Member]:
    """Return the members by instance."""
    query = select(_members).order_by(_members.c.instance)
    if kind is not None:
        query = query.where(_members.c.kind == kind.value)
    return [_member(r) for r in conn.execute(query)]


def members_by_instance(conn: Connection, instances: Collection[str]) -> dict[str, Member]:
    """Return members by instance."""
    found: dict[str, Member] = {}
    wanted = sorted(instances)
    for i in range(0, len(wanted), CHUNK):
        rows = conn.execute(select(_members).where(_members.c.instance.in_(wanted[i : i + CHUNK])))
        found.update({r.instance: _member(r) for r in rows})
    return found


def connected_elsewhere(conn: Connection, alive: Collection[str]) -> list[Member]:
    """Return the members whose stream was open at a control plane that is not among `alive`."""
    query = select(_members).where(_members.c.link == LinkState.CONNECTED.value, _members.c.server.not_in(alive))
    return [_member(r) for r in conn.execute(query)]


def overdue(conn: Connection, now: datetime) -> list[Member]:
    """Return the members whose stream is gone and whose lease is over."""
    query = select(_members).where(_members.c.link == LinkState.UNKNOWN.value, _members.c.lease_ends <= now)
    return [_member(r) for r in conn.execute(query)]


def forget_lost(conn: Connection, kind: MemberKind, before: datetime) -> int:
    """Delete members of a kind that were lost before `before`; return how many."""
    lost = (_members.c.link == LinkState.LOST.value) & (_members.c.lease_ends < before)
    return conn.execute(delete(_members).where(_members.c.kind == kind.value, lost)).rowcount


def next_lease_end(conn: Connection) -> datetime | None:
    """Return when the next lease of a member without a stream ends; None: there is none."""
    query = select(_members.c.lease_ends).where(_members.c.link == LinkState.UNKNOWN.value)
    found: datetime | None = conn.execute(query.order_by(_members.c.lease_ends).limit(1)).scalar_one_or_none()
    return found


def node(conn: Connection, name: str) -> NodeFacts | None:
    """Return what is known of a node, or None."""
    row = conn.execute(select(_nodes).where(_nodes.c.node == name)).first()
    if row is None:
        return None
    return NodeFacts(**{name: getattr(row, name) for name in NodeFacts.__slots__})


def save_node(conn: Connection, value: NodeFacts) -> None:
    """Write a node's row whole, new or not."""
    values = {name: getattr(value, name) for name in NodeFacts.__slots__}
    values["endpoint_ports"] = dict(value.endpoint_ports)
    if not conn.execute(update(_nodes).where(_nodes.c.node == value.node).values(**values)).rowcount:
        conn.execute(insert(_nodes).values(**values))


def raise_node_config(conn: Connection, name: str) -> int:
    """Give a node's configuration a new version; return it."""
    version = next_value(conn, "config")
    changed = update(_nodes).where(_nodes.c.node == name).values(config_version=version)
    if not conn.execute(changed).rowcount:
        save_node(conn, NodeFacts(name, config_version=version))
    return version


@dataclass(frozen=True, slots=True)
class BindingVersion:
    """A replica whose binding changed, and the version that it has since."""

    replica: str
    version: int


def raise_binding_versions(conn: Connection, replicas: Iterable[str]) -> int:
    """Give the bindings of replicas a new version; return it."""
    version = next_value(conn, "config")
    wanted = sorted(set(replicas))
    for i in range(0, len(wanted), CHUNK):
        conn.execute(delete(_binding_versions).where(_binding_versions.c.replica.in_(wanted[i : i + CHUNK])))
    if wanted:
        conn.execute(insert(_binding_versions), [{"replica": r, "version": version} for r in wanted])
    return version


def bindings_after(conn: Connection, version: int) -> list[BindingVersion]:
    """Return the bindings that changed after `version`, in order of their versions."""
    query = select(_binding_versions).where(_binding_versions.c.version > version)
    rows = conn.execute(query.order_by(_binding_versions.c.version))
    return [BindingVersion(r.replica, r.version) for r in rows]


def binding_versions(conn: Connection, replicas: Collection[str]) -> dict[str, int]:
    """Return the version of each replica's binding."""
    found: dict[str, int] = {}
    wanted = sorted(replicas)
    for i in range(0, len(wanted), CHUNK):
        query = select(_binding_versions).where(_binding_versions.c.replica.in_(wanted[i : i + CHUNK]))
        found.update({r.replica: r.version for r in conn.execute(query)})
    return found


def keep_server(conn: Connection, server: str, expires: datetime) -> None:
    """Note that a control plane lives until `expires`, and forget those that are long gone."""
    mine = _servers.c.server == server
    if not conn.execute(update(_servers).where(mine).values(expires=expires)).rowcount:
        conn.execute(insert(_servers).values(server=server, expires=expires))


def forget_server(conn: Connection, server: str) -> None:
    """Note that a control plane has ended."""
    conn.execute(delete(_servers).where(_servers.c.server == server))


def living_servers(conn: Connection, now: datetime) -> set[str]:
    """Return the control planes that live."""
    return set(conn.execute(select(_servers.c.server).where(_servers.c.expires > now)).scalars())


def forget_dead_servers(conn: Connection, before: datetime) -> None:
    """Delete control planes that have not been heard of since `before`."""
    conn.execute(delete(_servers).where(_servers.c.expires < before))
