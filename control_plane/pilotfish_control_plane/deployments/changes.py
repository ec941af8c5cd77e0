"""Every write of a deployment, replica, rollout or route: the row, its event, its wakes, its audit.

Owns that no state changes without its transition being allowed and its event being recorded. It decides nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    Endpoint,
    Replica,
    ReplicaState,
)
from pilotfish_control_plane.deployments.rollout_model import Decision, Rollout, RolloutState
from pilotfish_control_plane.deployments.rules import transitions
from pilotfish_control_plane.fleet.model import LOCAL_NODE
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = [
    "FLEET_TOPIC",
    "ROLLOUT_TOPIC",
    "TOPIC",
    "WATCH_TOPIC",
    "add_decision",
    "enter_deployment",
    "enter_replica",
    "enter_rollout",
    "save_deployment",
    "save_endpoint",
    "save_replica",
    "save_rollout",
    "show_deployment",
    "touch_bindings",
    "touch_node",
    "wake_deployment",
    "wake_rollout",
]

TOPIC = "deployments"
ROLLOUT_TOPIC = "rollouts"
WATCH_TOPIC = "watch"
FLEET_TOPIC = "fleet.config"

_MOVED = frozenset({DeploymentState.READY, DeploymentState.DEGRADED})


def touch_node(tx: Tx, node: str = LOCAL_NODE) -> int:
    """Note that the node's configuration changed; return the version from which on the change is in it."""
    tx.wake(FLEET_TOPIC)
    return fleet_rows.raise_node_config(tx.conn, node)


def touch_bindings(tx: Tx, replicas: list[str]) -> None:
    """Note that what sidecars are told of these replicas changed."""
    if replicas:
        fleet_rows.raise_binding_versions(tx.conn, replicas)
        tx.wake(FLEET_TOPIC)


# Any, in all `changes` below: values of several fields.
def save_endpoint(tx: Tx, endpoint: Endpoint, **changes: Any) -> Endpoint:
    """Write an endpoint with some fields changed; return it."""
    changed = dataclasses.replace(endpoint, **changes, serial=endpoint.serial + 1)
    endpoint_rows.save_endpoint(tx.conn, changed)
    tx.wake(f"endpoints.{endpoint.id}")
    return changed


def save_deployment(tx: Tx, deployment: Deployment, **changes: Any) -> Deployment:
    """Write a deployment with some fields changed; return it."""
    changed = dataclasses.replace(deployment, **changes, serial=deployment.serial + 1)
    rows.save_deployment(tx.conn, changed)
    wake_deployment(tx, deployment.id)
    return changed


def wake_deployment(tx: Tx, deployment_id: str) -> None:
    """Wake the reconciler and whoever follows a deployment."""
    tx.wake(TOPIC)
    show_deployment(tx, deployment_id)


def show_deployment(tx: Tx, deployment_id: str) -> None:
    """Wake whoever follows a deployment; nothing changed that the reconciler would act on."""
    tx.wake(f"{WATCH_TOPIC}.{deployment_id}")


def enter_deployment(
    tx: Tx, deployment: Deployment, state: DeploymentState, reason: str = "", **changes: Any
) -> Deployment:
    """Bring a deployment into a state; return it.

    Raises:
        FailedPrecondition: the transition is not allowed.
    """
    transitions.check_deployment(deployment.name, deployment.state, state)
    if state is DeploymentState.STARTING:
        changes["starting"] = tx.now
    if state is DeploymentState.READY:
        changes["ready"] = tx.now
    if state.has_ended:
        changes["ended"] = tx.now
    if state in _MOVED or deployment.state in _MOVED:
        touch_node(tx)
    changed = save_deployment(tx, deployment, state=state, state_reason=reason, **changes)
    emit_deployment(tx, changed)
    return changed


def emit_deployment(tx: Tx, deployment: Deployment, kind: str = "") -> None:
    """Record how a deployment stands now."""
    tx.emit(
        f"deployment.{kind or deployment.state.value}",
        deployment.name,
        {
            "endpoint": deployment.endpoint,
            "model": deployment.model,
            "version": deployment.version,
            "stage": deployment.stage.value,
            "reason": deployment.state_reason,
            "actor": tx.actor.name,
        },
    )


def save_replica(tx: Tx, replica: Replica, **changes: Any) -> Replica:
    """Write a replica with some fields changed; return it."""
    changed = dataclasses.replace(replica, **changes)
    replica_rows.save_replica(tx.conn, changed)
    wake_deployment(tx, replica.deployment)
    return changed


def enter_replica(tx: Tx, replica: Replica, state: ReplicaState, reason: str = "", **changes: Any) -> Replica:
    """Bring a replica into a state; return it.

    Raises:
        FailedPrecondition: the transition is not allowed.
    """
    transitions.check_replica(replica.name, replica.state, state)
    if state is ReplicaState.STOPPED:
        changes |= {"ended": tx.now, "server_pid": 0, "sidecar_pid": 0}
        # A node ends the sidecars of its own replicas, and they have work until then.
        if not replica.node:
            touch_bindings(tx, [replica.id])
    changed = save_replica(tx, replica, state=state, state_reason=reason, **changes)
    payload = {"deployment": replica.deployment, "reason": reason, "restarts": changed.restarts}
    tx.emit(f"replica.{state.value}", replica.name, payload)
    return changed


def save_rollout(tx: Tx, rollout: Rollout, **changes: Any) -> Rollout:
    """Write a rollout with some fields changed; return it."""
    changed = dataclasses.replace(rollout, **changes, serial=rollout.serial + 1)
    rollout_rows.save_rollout(tx.conn, changed)
    wake_rollout(tx, rollout.id)
    return changed


def wake_rollout(tx: Tx, rollout_id: str) -> None:
    """Wake the reconciler and whoever follows a rollout."""
    tx.wake(ROLLOUT_TOPIC)
    tx.wake(f"{WATCH_TOPIC}.{rollout_id}")


def enter_rollout(tx: Tx, rollout: Rollout, state: RolloutState, reason: str = "", **changes: Any) -> Rollout:
    """Bring a rollout into a state; one that ends frees its endpoint for the next.

    Raises:
        FailedPrecondition: the transition is not allowed.
    """
    transitions.check_rollout(rollout.name, rollout.state, state)
    if not state.is_open:
        changes["ended"] = tx.now
        endpoint = endpoint_rows.endpoint(tx.conn, rollout.project, rollout.endpoint)
        if endpoint is not None and endpoint.open_rollout == rollout.id:
            save_endpoint(tx, endpoint, open_rollout="")
    changed = save_rollout(tx, rollout, state=state, state_reason=reason, **changes)
    payload = {
        "deployment": rollout.deployment,
        "stage": rollout.stage.value,
        "step": changed.step,
        "reason": reason,
        "actor": tx.actor.name,
    }
    tx.emit(f"rollout.{state.value}", rollout.name, payload)
    return changed


def add_decision(tx: Tx, decision: Decision) -> Decision:
    """Record a decision; return it."""
    rollout_rows.add_decision(tx.conn, decision)
    tx.emit(
        "decision.made",
        decision.name,
        {
            "verdict": decision.verdict.value,
            "subject": decision.subject,
            "actor": decision.actor,
            "explanations": [v.explanation for v in decision.verdicts],
        },
    )
    return decision
