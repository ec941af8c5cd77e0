"""Endpoints, deployments, replicas and routes as frozen values.

Owns the words and their states. Rollouts and decisions are in `deployments.rollout_model`, configuration in
`deployments.configuration`; which change of state is allowed is told by `deployments.rules.transitions`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from pilotfish_control_plane.deployments.configuration import DeploymentConfig
from pilotfish_control_plane.names import DeploymentName, EndpointName, ReplicaName, VersionName

__all__ = [
    "FULL_WEIGHT_BP",
    "Deployment",
    "DeploymentState",
    "Endpoint",
    "LinkState",
    "Quarantine",
    "Replica",
    "ReplicaState",
    "Revision",
    "RouteTable",
    "Shadow",
    "Stage",
]

FULL_WEIGHT_BP = 10_000


class Stage(enum.StrEnum):
    """A slot of an endpoint, in the order of promotion."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    CANARY = "canary"
    PRODUCTION = "production"

    @property
    def rank(self) -> int:
        """Its place in the order of promotion, from 0."""
        return list(Stage).index(self)

    @property
    def is_live(self) -> bool:
        """Whether it takes live traffic."""
        return self in (Stage.CANARY, Stage.PRODUCTION)


class DeploymentState(enum.StrEnum):
    """How a deployment stands."""

    PENDING = "pending"
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether it is over for good."""
        return self in (DeploymentState.STOPPED, DeploymentState.FAILED)

    @property
    def serves(self) -> bool:
        """Whether it may have a share of the live traffic."""
        return self in (DeploymentState.READY, DeploymentState.DEGRADED)

    @property
    def is_coming(self) -> bool:
        """Whether it has not been ready yet and still may be."""
        return self in (DeploymentState.PENDING, DeploymentState.STARTING, DeploymentState.WARMING)


class ReplicaState(enum.StrEnum):
    """How a replica stands."""

    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"


class LinkState(enum.StrEnum):
    """A stream to the control plane; never moves traffic."""

    NONE = "none"
    CONNECTED = "connected"
    UNKNOWN = "unknown"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A deployment that gets copies of live requests; share in basis points, 1 to 10000."""

    deployment: str
    fraction_bp: int


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Who gets which share of an endpoint's live traffic.

    Args:
        generation: counts every change.
        weights: (deployment's id, basis points), sum 10000, or empty: nobody answers.
        shadows: deployments that get copies.
        sticky_header: header that keeps a caller on one deployment; empty: none.
        updated: when the table last changed.
    """

    generation: int = 0
    weights: tuple[tuple[str, int], ...] = ()
    shadows: tuple[Shadow, ...] = ()
    sticky_header: str = ""
    updated: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with every change of the table."""
        return f"r{self.generation}"

    def weight_bp(self, deployment: str) -> int:
        """Return a deployment's share in basis points."""
        return dict(self.weights).get(deployment, 0)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A stable callable name that serves one model; `open_rollout` is the id of its unfinished rollout."""

    project: str
    id: str
    model: str
    port: int
    created: datetime
    routes: RouteTable = field(default_factory=RouteTable)
    open_rollout: str = ""
    automation_paused: bool = False
    serial: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return str(EndpointName(self.project, self.id))

    @property
    def etag(self) -> str:
        """Changes with every write."""
        return f"e{self.serial}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One version at one endpoint in one stage.

    Args:
        number: counts all deployments in the order of their creation.
        attached: the model server is somebody else's: no replica is started for it.
        previous: id of the deployment that it replaces in its stage; empty: none.
        rollout: id of the rollout that brings it in; empty: none.
        load_replicas: replicas that the load asks for; None: not scaled by load.
        starting, ready, ended: when it began to start, last became ready, ended.
        drain_after: when it drains by itself; None: not planned.
        cancelled: it was stopped by somebody's word before it had been ready.
        gateway_generation: the configuration of the gateway that its next step waits for: warming, the one that can
            reach it; draining, the one that sends it nothing. 0: none.
        next_replica: number of its next replica.
        serial: counts the writes.
    """

    project: str
    id: str
    number: int
    endpoint: str
    model: str
    version: int
    stage: Stage
    state: DeploymentState
    config: DeploymentConfig
    author: str
    created: datetime
    state_reason: str = ""
    revision: int = 1
    attached: bool = False
    previous: str = ""
    rollout: str = ""
    load_replicas: int | None = None
    starting: datetime | None = None
    ready: datetime | None = None
    ended: datetime | None = None
    drain_after: datetime | None = None
    gateway_generation: int = 0
    next_replica: int = 1
    cancelled: bool = False
    serial: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return str(DeploymentName(self.project, self.endpoint, self.id))

    @property
    def version_name(self) -> str:
        """The version's resource name."""
        return str(VersionName(self.project, self.model, self.version))

    @property
    def etag(self) -> str:
        """Changes with every write."""
        return f"d{self.serial}"

    @property
    def desired_replicas(self) -> int:
        """How many replicas it should have now."""
        return self.config.scaling.replicas if self.load_replicas is None else self.load_replicas


@dataclass(frozen=True, slots=True)
class Revision:
    """An immutable snapshot of a deployment's configuration."""

    deployment: str
    number: int
    config: DeploymentConfig
    author: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Replica:
    """One running copy of a deployment.

    Args:
        revision: the revision it runs.
        warmed: its warm-up requests were answered.
        draining: it is to stop when its calls in flight have ended.
        drain_generation: the configuration of the gateway from which on it gets no calls; 0: not draining.
        restarts: times its model server was started again.
        restarts_when_ready: `restarts` when it last became ready.
        unhealthy: since when its health checks fail; None: they do not.
        instance: the sidecar beside the foreign model server that it is; empty: none was attached to it.
    """

    project: str
    endpoint: str
    deployment: str
    id: str
    revision: int
    node: str
    created: datetime
    state: ReplicaState = ReplicaState.STARTING
    state_reason: str = ""
    warmed: bool = False
    draining: bool = False
    drain_generation: int = 0
    grpc_address: str = ""
    http_address: str = ""
    link: LinkState = LinkState.NONE
    server_pid: int = 0
    sidecar_pid: int = 0
    restarts: int = 0
    restarts_when_ready: int = 0
    unhealthy: datetime | None = None
    ended: datetime | None = None
    instance: str = ""

    @property
    def name(self) -> str:
        """The resource name."""
        return str(ReplicaName(self.project, self.endpoint, self.deployment, self.id))

    @property
    def serves(self) -> bool:
        """Whether it answers and is to be given calls."""
        return self.state is ReplicaState.READY and self.warmed and not self.draining


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A mark that stops automation from deploying a version at an endpoint."""

    version: int
    reason: str
    created: datetime
