"""How a deployment leaves: out of the traffic, out of its slot, its replicas, and its version's standing.

Owns the order: weight 0 first, then the gateway's word that it is in force, then the replicas, then STOPPED.
"""

from __future__ import annotations

from datetime import timedelta

from pilotfish_control_plane.deployments import changes, routing
from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    Endpoint,
    Quarantine,
    ReplicaState,
    Stage,
)
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.fleet.model import LOCAL_NODE
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Endings"]


class Endings:
    """Ends deployments; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours) -> None:
        """Tell the registry among `neighbours` when a version leaves production."""
        self._neighbours = neighbours

    def end(self, tx: Tx, deployment: Deployment, reason: str) -> Deployment:
        """Begin to end a deployment, however far it is: READY drains, what was never ready is FAILED."""
        if deployment.state.has_ended or deployment.state is DeploymentState.DRAINING:
            return deployment
        self.leave_slot(tx, deployment)
        routing.leave_traffic(tx, deployment, f"{deployment.id} leaves: {reason}")
        if deployment.state.is_coming:
            ended = changes.enter_deployment(tx, deployment, DeploymentState.FAILED, reason, drain_after=None)
            self._drain_replicas(tx, ended, reason)
            changes.touch_node(tx)
        else:
            generation = changes.touch_node(tx)
            ended = changes.enter_deployment(
                tx, deployment, DeploymentState.DRAINING, reason, gateway_generation=generation, drain_after=None
            )
        self.refresh_standing(tx, deployment)
        return ended

    def retire(self, tx: Tx, deployment: Deployment, reason: str, keep_s: int = 0) -> Deployment:
        """End a deployment that was superseded, after `keep_s` seconds without traffic in which it stays warm."""
        if keep_s <= 0 or not deployment.state.serves:
            return self.end(tx, deployment, reason)
        self.leave_slot(tx, deployment)
        routing.leave_traffic(tx, deployment, f"{deployment.id} leaves: {reason}")
        self.refresh_standing(tx, deployment)
        after = tx.now + timedelta(seconds=keep_s)
        return changes.save_deployment(tx, deployment, state_reason=f"{reason}; kept warm", drain_after=after)

    def leave_slot(self, tx: Tx, deployment: Deployment) -> None:
        """Leave the stage without a current deployment, if it is this one."""
        held = rows.slots_of(tx.conn, deployment.project, deployment.endpoint).get(deployment.stage)
        if held is not None and held.id == deployment.id:
            rows.clear_slot(tx.conn, deployment.project, deployment.endpoint, deployment.stage)

    def refresh_standing(self, tx: Tx, deployment: Deployment) -> None:
        """Make the status of the deployment's version say whether a current deployment of it is production."""
        if deployment.stage is not Stage.PRODUCTION:
            return
        held = rows.holders(tx.conn, deployment.project, deployment.model, deployment.version, Stage.PRODUCTION)
        in_production = any(d.ready is not None and d.state.serves for d in held)
        registry = self._neighbours.registry()
        version = registry.get_version(tx, deployment.project, deployment.model, deployment.version)
        wanted, other = ("production", "staging") if in_production else ("staging", "production")
        # A deprecated version that still serves, or comes back by a rollback, stays deprecated.
        if version.status.value == other:
            reason = f"{'serves' if in_production else 'left'} production at {deployment.endpoint} ({deployment.id})"
            registry.set_standing(tx, version, in_production=wanted == "production", reason=reason)

    def drained(self, tx: Tx, deployment: Deployment) -> bool:
        """Return whether no gateway sends the deployment anything any more."""
        if deployment.state.has_ended or deployment.attached:
            return True
        node = fleet_rows.node(tx.conn, LOCAL_NODE)
        return node is None or not node.gateway_running or node.gateway_generation >= deployment.gateway_generation

    def reachable(self, tx: Tx, deployment: Deployment) -> bool:
        """Return whether the gateway has taken a configuration with the deployment in it; True without a gateway."""
        node = fleet_rows.node(tx.conn, LOCAL_NODE)
        if deployment.attached or node is None:
            return True
        return bool(node.gateway_reason) or node.gateway_generation >= deployment.gateway_generation

    def go_on_draining(self, tx: Tx, deployment: Deployment) -> Deployment:
        """Take the next step of a DRAINING deployment, if it is due; return the deployment."""
        if not self.drained(tx, deployment):
            return deployment
        self._drain_replicas(tx, deployment, deployment.state_reason)
        if replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id]:
            return deployment
        return changes.enter_deployment(tx, deployment, DeploymentState.STOPPED, deployment.state_reason)

    def _drain_replicas(self, tx: Tx, deployment: Deployment, reason: str) -> None:
        for replica in replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id]:
            if not replica.draining:
                self.drain_replica(tx, deployment, replica.id, reason)

    def drain_replica(self, tx: Tx, deployment: Deployment, replica_id: str, reason: str) -> None:
        """Let a replica finish its calls and stop; one that never ran is STOPPED at once."""
        replica = replica_rows.replica(tx.conn, replica_id)
        if replica is None or replica.state is ReplicaState.STOPPED:
            return
        generation = changes.touch_node(tx)
        never_ran = replica.state is ReplicaState.STARTING and not replica.server_pid and not replica.grpc_address
        if never_ran or deployment.attached:
            # Should its node have begun it just now: it is in no configuration any more, so it is stopped there.
            changes.enter_replica(tx, replica, ReplicaState.STOPPED, reason, draining=True)
        else:
            changes.save_replica(tx, replica, draining=True, drain_generation=generation, state_reason=reason)

    def quarantine(self, tx: Tx, deployment: Deployment, reason: str) -> None:
        """Stop automation from deploying the deployment's version at its endpoint."""
        endpoint = endpoint_rows.endpoint(tx.conn, deployment.project, deployment.endpoint)
        if endpoint is not None:
            self.mark(tx, endpoint, deployment.version, reason)

    def mark(self, tx: Tx, endpoint: Endpoint, version: int, reason: str) -> None:
        """Put a version into quarantine at an endpoint."""
        endpoint_rows.add_quarantine(tx.conn, endpoint.project, endpoint.id, Quarantine(version, reason, tx.now))
        changes.save_endpoint(tx, endpoint)
        tx.emit("endpoint.quarantined", endpoint.name, {"version": version, "reason": reason, "actor": tx.actor.name})

    def record_rollback(self, tx: Tx, stopped: Deployment, restored: Deployment | None, reason: str) -> None:
        """Record a rollback as an event and in the experiment tracker."""
        changes.emit_deployment(tx, stopped, "rolled_back")
        parameters = {
            "endpoint": stopped.endpoint,
            "stage": stopped.stage.value,
            "from_version": stopped.version,
            "to_version": None if restored is None else restored.version,
            "restored": "" if restored is None else restored.name,
            "reason": reason,
            "actor": tx.actor.name,
        }
        tags = {"endpoint": stopped.endpoint, "stage": stopped.stage.value}
        self._neighbours.experiments().record_rollback(tx, stopped.model, stopped.name, parameters, tags)
