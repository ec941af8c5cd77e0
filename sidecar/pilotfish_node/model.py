"""What a node is told and what it sees, as frozen values; protobuf stays in `link`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = [
    "DeploymentRoute",
    "EndpointRoute",
    "FileSpec",
    "GatewaySpec",
    "GatewayView",
    "HealthCheck",
    "NodeSpec",
    "Probe",
    "ReplicaAddress",
    "ReplicaSpec",
    "ReplicaState",
    "ReplicaStatus",
    "Shadow",
]


class ReplicaState(enum.Enum):
    """How a replica stands, as the contract names it."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One file of an artifact: relative path, size in bytes, SHA-256 in hex."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a replica is probed; times in seconds, thresholds in probes in a row."""

    interval_s: float = 2.0
    timeout_s: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1
    startup_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One replica to run."""

    replica: str
    deployment: str
    endpoint: str
    model: str
    version: int
    revision: int
    version_name: str
    files: tuple[FileSpec, ...]
    artifact_dir: str
    cpu_cores: float
    memory_mib: int
    health_check: HealthCheck
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Shadow:
    """A deployment that gets copies of live requests; fraction in basis points."""

    deployment: str
    fraction_bp: int


@dataclass(frozen=True, slots=True)
class DeploymentRoute:
    """A deployment as the gateway is told of it; addresses are its replicas' own, or `NodeSpec.attached`."""

    deployment: str
    stage: str
    version: int
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """Routes of one endpoint; weights in basis points, sum 10000 or empty."""

    endpoint: str
    port: int
    weights: tuple[tuple[str, int], ...]
    shadows: tuple[Shadow, ...]
    sticky_header: str
    deployments: tuple[DeploymentRoute, ...]


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What the gateway routes, whole; the generation rises with every change."""

    generation: int = 0
    shared_port: int = 0
    endpoints: tuple[EndpointRoute, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where a replica's model server listens, host:port each; empty: not by this protocol."""

    grpc: str
    http: str


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """The node's configuration, whole; `attached` are replicas that somebody else runs and the gateway reaches."""

    version: int = 0
    replicas: tuple[ReplicaSpec, ...] = ()
    gateway: GatewaySpec = field(default_factory=GatewaySpec)
    attached: tuple[tuple[str, ReplicaAddress], ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What the gateway renders: the spec, the ports in use, and the replicas in service."""

    spec: GatewaySpec
    shared_port: int
    endpoint_ports: tuple[tuple[str, int], ...]
    addresses: tuple[tuple[str, ReplicaAddress], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Probes in a row: passed and failed since the last change."""

    passed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What the node sees of a replica."""

    replica: str
    deployment: str
    state: ReplicaState
    reason: str
    revision: int
    address: ReplicaAddress | None = None
    server_pid: int = 0
    sidecar_pid: int = 0
    restarts: int = 0
    rss_bytes: int = 0
    cpu_seconds: float = 0.0
    warmed: bool = False
