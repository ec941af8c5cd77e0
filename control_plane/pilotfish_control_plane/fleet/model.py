"""Members, nodes and what they report, as frozen values.

Owns the values that cross between the streams and the transactions; it knows neither protobuf nor SQL.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pilotfish_control_plane.deployments.model import LinkState, ReplicaState

__all__ = [
    "LOCAL_NODE",
    "GatewayReport",
    "Hello",
    "Member",
    "MemberKind",
    "NodeFacts",
    "NodeReport",
    "ReplicaReport",
    "SidecarReplica",
]

LOCAL_NODE = "local"
"""The node of this machine; other machines are reached through other engines."""


class MemberKind(enum.StrEnum):
    """What a member is."""

    SIDECAR = "sidecar"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Member:
    """A member as it was last heard.

    Args:
        replicas: a sidecar's replicas; a node's, as it found them running.
        server: the control plane that holds, or last held, its stream.
        connection: counts the streams that were opened, over all members: a newer one takes over.
        seen: when it was last heard.
        connected: when its stream was opened.
        lease_ends: when it counts as lost; None while its stream is open.
        config_version: the newest configuration it acknowledged.
        config_error: why it refused the newest one; empty: it did not.
    """

    instance: str
    kind: MemberKind
    link: LinkState
    incarnation: int
    program_version: str
    host: str
    replicas: tuple[str, ...]
    server: str
    connection: int
    seen: datetime
    connected: datetime
    lease_ends: datetime | None = None
    config_version: int = 0
    config_error: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node: the version of its configuration, its size in cores and MiB, its gateway."""

    node: str
    config_version: int = 0
    cpu_cores: float = 0.0
    memory_mib: int = 0
    gateway_running: bool = False
    gateway_generation: int = 0
    shared_port: int = 0
    endpoint_ports: Mapping[str, int] = field(default_factory=dict)
    gateway_reason: str = ""
    reported: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a node sees of a replica."""

    replica: str
    state: ReplicaState
    reason: str = ""
    revision: int = 0
    grpc_address: str = ""
    http_address: str = ""
    server_pid: int = 0
    sidecar_pid: int = 0
    restarts: int = 0
    warmed: bool = False


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What a node sees of its gateway; `generation` is the newest that is in force."""

    running: bool = False
    shared_port: int = 0
    generation: int = 0
    reason: str = ""
    endpoint_ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node sees, whole."""

    replicas: tuple[ReplicaReport, ...] = ()
    gateway: GatewayReport = field(default_factory=GatewayReport)
    cpu_cores: float = 0.0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class SidecarReplica:
    """What a sidecar sees of a replica: served = captured + dropped + in_flight."""

    replica: str
    healthy: bool
    learned_rows: int = 0
    served: int = 0
    captured: int = 0
    in_flight: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    undecodable: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a member is and what it holds."""

    kind: MemberKind
    instance: str
    incarnation: int = 1
    program_version: str = ""
    host: str = ""
    replicas: tuple[str, ...] = ()
    config_version: int = 0
