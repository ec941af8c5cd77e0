"""How many replicas there should be, which must go, and what that makes of their deployment.

Owns the plan of changes, the state of a deployment that follows from its replicas, and scaling by load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pilotfish_control_plane.deployments.configuration import Scaling
from pilotfish_control_plane.deployments.model import Deployment, DeploymentState, Replica, ReplicaState

__all__ = ["Load", "NodeLink", "ReplicaPlan", "StateChange", "load_replicas", "plan_replicas", "state_of"]

MAX_RESTARTS = 5
"""Restarts without becoming ready in between, after which a replica is replaced by a new one."""

SCALE_DOWN_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What to change: how many to create, whose revision to raise, and which to drain, each with the reason."""

    create: int = 0
    raise_revision: tuple[str, ...] = ()
    drain: tuple[tuple[str, str], ...] = ()


def plan_replicas(
    deployment: Deployment,
    replicas: Sequence[Replica],
    same_process: Callable[[int], bool],
    now: datetime,
) -> ReplicaPlan:
    """Return the changes that bring a deployment's replicas nearer to its desired revision.

    Args:
        deployment: the deployment, not draining and not ended.
        replicas: its replicas that have not ended.
        same_process: whether a replica of this revision may go on under the desired one without a restart.
        now: the time.
    """
    live = [r for r in replicas if not r.draining]
    worn_out = [r for r in live if _is_worn_out(r, deployment, now)]
    kept = [r for r in live if r not in worn_out]
    raised = tuple(r.id for r in kept if r.revision != deployment.revision and same_process(r.revision))
    outdated = [r for r in kept if r.revision != deployment.revision and r.id not in raised]
    current = [r for r in kept if r not in outdated]
    desired = deployment.desired_replicas
    drain = [(r.id, f"replaced after {r.restarts - r.restarts_when_ready} failed starts") for r in worn_out]
    if not outdated:
        # Those that do not serve go first, then the newest.
        by_worth = sorted(current, key=lambda r: (r.serves, -r.created.timestamp(), r.id))
        surplus = by_worth[: max(0, len(current) - desired)]
        drain += [(r.id, f"scaled to {desired}") for r in surplus]
        return ReplicaPlan(max(0, desired - len(current)), raised, tuple(drain))
    # One more than desired while revisions change: a new one first, then an old one leaves.
    create = min(max(0, desired - len(current)), max(0, desired + 1 - len(kept)))
    spare = sum(r.serves for r in kept) - desired
    for replica in sorted(outdated, key=lambda r: (r.serves, r.created, r.id)):
        if replica.serves and spare <= 0:
            break
        if not replica.serves and len(current) < desired and create == 0 and len(kept) <= desired:
            continue
        spare -= replica.serves
        drain.append((replica.id, f"revision {replica.revision} is replaced by {deployment.revision}"))
    return ReplicaPlan(create, raised, tuple(drain))


def _is_worn_out(replica: Replica, deployment: Deployment, now: datetime) -> bool:
    """Return whether the node's restarts did not help; before READY the startup timeout decides instead."""
    if replica.serves or deployment.state.is_coming or deployment.attached:
        return False
    if replica.restarts - replica.restarts_when_ready >= MAX_RESTARTS:
        return True
    since = replica.unhealthy if replica.state is ReplicaState.UNHEALTHY else None
    patience = timedelta(seconds=deployment.config.health_check.startup_timeout_s * 2)
    return since is not None and now - since >= patience


@dataclass(frozen=True, slots=True)
class NodeLink:
    """Whether the node's stream is open, and since when."""

    connected: bool
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StateChange:
    """The state that a deployment should have, why, and in how many seconds to look again."""

    state: DeploymentState
    reason: str
    look_again_s: float | None = None


def state_of(deployment: Deployment, replicas: Sequence[Replica], link: NodeLink, now: datetime) -> StateChange:
    """Return the state that follows from the replicas; not for deployments that drain or have ended."""
    live = [r for r in replicas if not r.draining and r.state is not ReplicaState.STOPPED]
    desired = deployment.desired_replicas
    serving = sum(r.serves for r in live)
    state = deployment.state
    if state.serves:
        # While revisions change, an outdated replica serves as well as a new one.
        ill = "; ".join(f"{r.id}: {r.state_reason or r.state.value}" for r in live if not r.serves)
        if serving >= desired:
            # A change of revision that does not get on must be seen, though enough of the old one serves.
            return StateChange(DeploymentState.READY, ill)
        text = f"{serving} of {desired} replicas serve" + (f" ({ill})" if ill else "")
        return StateChange(DeploymentState.DEGRADED, text)
    if not link.connected and not deployment.attached and desired:
        text = "waits for its node to connect"
        return StateChange(state, text)
    if state is DeploymentState.PENDING:
        return StateChange(DeploymentState.STARTING, "")
    if serving >= desired:
        # One step at a time: every state is entered, and each has its event.
        return StateChange(
            DeploymentState.READY if state is DeploymentState.WARMING else DeploymentState.WARMING, "", 0.0
        )
    return _coming(deployment, live, link, now)


def _coming(deployment: Deployment, live: Sequence[Replica], link: NodeLink, now: datetime) -> StateChange:
    answering = sum(r.state is ReplicaState.READY for r in live)
    timeout_s = deployment.config.health_check.startup_timeout_s
    begins = [t for t in (deployment.starting, link.since) if t is not None]
    left_s = timeout_s - (now - max(begins, default=now)).total_seconds()
    ill = "; ".join(f"{r.id}: {r.state_reason or r.state.value}" for r in live if not r.serves)
    if left_s <= 0 and not deployment.attached:
        text = f"not ready within {timeout_s:g} s" + (f" ({ill})" if ill else "")
        return StateChange(DeploymentState.FAILED, text)
    text = "; ".join(f"{r.id}: {r.state_reason}" for r in live if not r.serves and r.state_reason)
    again = None if deployment.attached else left_s
    if answering >= deployment.desired_replicas or deployment.state is DeploymentState.WARMING:
        return StateChange(DeploymentState.WARMING, text, again)
    return StateChange(DeploymentState.STARTING, text, again)


@dataclass(frozen=True, slots=True)
class Load:
    """What a deployment has to do: requests in flight over all replicas, and over how many seconds that was seen."""

    in_flight: float
    calls: int
    span_s: float


def load_replicas(scaling: Scaling, now_running: int, load: Load) -> int:
    """Return how many replicas the load asks for, between the least and the most.

    The count rises as soon as the target is passed and falls only when fewer would still be 10 % below it, so
    that it does not swing.
    """
    if scaling.target_in_flight <= 0:
        return scaling.replicas
    wanted = math.ceil(load.in_flight / scaling.target_in_flight - 1e-9)
    if wanted < now_running:
        wanted = min(now_running, math.ceil(load.in_flight / scaling.target_in_flight / (1 - SCALE_DOWN_TOLERANCE)))
    return max(scaling.min_replicas, min(scaling.max_replicas, max(wanted, 0)))
