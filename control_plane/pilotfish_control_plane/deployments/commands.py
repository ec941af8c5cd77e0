"""What callers ask of deployments, and what came of it, as frozen values.

Owns the arguments and results of `DeploymentService`; protobuf is converted to these at the edge.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from pilotfish_control_plane.deployments.configuration import DeploymentConfig, Resources
from pilotfish_control_plane.deployments.model import Deployment, Shadow, Stage
from pilotfish_control_plane.deployments.rollout_model import (
    DEFAULT_CRITERIA,
    Criterion,
    Decision,
    Rollout,
    RolloutPlan,
)
from pilotfish_control_plane.deployments.rules.readiness import ReadinessCheck
from pilotfish_control_plane.names import DEFAULT_PROJECT

__all__ = [
    "DeployCommand",
    "Deployed",
    "PromoteCommand",
    "Promoted",
    "RolledBack",
    "RolloutControl",
    "ScaleCommand",
    "SetTrafficCommand",
]


@dataclass(frozen=True, slots=True)
class DeployCommand:
    """Deploy a version.

    Args:
        version_ref: `m@v`, `m` or a full name.
        stage: the stage to deploy to.
        endpoint: the endpoint's id; empty: the model's id.
        plan: how it comes in; None: the stage's default.
        automation: no person asks for it: a quarantine binds.
        artifact_problems: what was found wrong with its files before; None: not looked at.
        check_only: answer failed checks instead of raising them.
    """

    version_ref: str
    stage: Stage
    project: str = DEFAULT_PROJECT
    endpoint: str = ""
    config: DeploymentConfig = field(default_factory=DeploymentConfig)
    plan: RolloutPlan | None = None
    automation: bool = False
    artifact_problems: Sequence[str] | None = None
    check_only: bool = False


@dataclass(frozen=True, slots=True)
class Deployed:
    """The deployment (None: `check_only` found something), every check, and the rollout (None: there is none)."""

    deployment: Deployment | None
    checks: tuple[ReadinessCheck, ...]
    rollout: Rollout | None


@dataclass(frozen=True, slots=True)
class PromoteCommand:
    """Promote a deployment (`endpoint/stage` or a full name); `target` None: the next stage."""

    deployment: str
    target: Stage | None = None
    criteria: tuple[Criterion, ...] = DEFAULT_CRITERIA
    plan: RolloutPlan | None = None
    automation: bool = False
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class Promoted:
    """Whether it is promoted, the judgement, and what was begun."""

    promoted: bool
    decision: Decision
    deployment: Deployment | None = None
    rollout: Rollout | None = None


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The deployment that comes back (None: a canary without a previous version) and the one that stops."""

    restored: Deployment | None
    stopped: Deployment


@dataclass(frozen=True, slots=True)
class SetTrafficCommand:
    """The whole table: weights by deployment's id or stage's name in basis points, shadows, sticky header."""

    weights: tuple[tuple[str, int], ...]
    shadows: tuple[Shadow, ...] = ()
    sticky_header: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True)
class ScaleCommand:
    """Another size; None: as it is."""

    deployment: str
    replicas: int | None = None
    resources: Resources | None = None
    etag: str = ""
    project: str = DEFAULT_PROJECT


class RolloutControl(enum.StrEnum):
    """What a person may do with a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    PROMOTE_FULL = "promote_full"
