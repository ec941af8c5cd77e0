"""What nodes and sidecars are told, and what a node's word changes.

Owns the configuration of a node (every replica that must run, every route of the gateway), the bindings of sidecars,
and the one transaction that takes a node's state in. Desired state goes out whole, so nothing depends on order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pilotfish_control_plane.deployments import changes
from pilotfish_control_plane.deployments.attachment import Attachment
from pilotfish_control_plane.deployments.configuration import HealthCheck, MonitoringConfig, Resources
from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    LinkState,
    Replica,
    ReplicaState,
    RouteTable,
    Stage,
)
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.fleet.model import NodeFacts, NodeReport, ReplicaReport
from pilotfish_control_plane.registry.model import Version
from pilotfish_control_plane.storage import attachments as attachment_rows
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["GatewayDeployment", "GatewayEndpoint", "NodeConfig", "NodeSide", "ReplicaBinding", "ReplicaSpec"]


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One replica to run: the row, its version, and what its revision says."""

    replica: Replica
    version: Version
    resources: Resources
    health_check: HealthCheck


@dataclass(frozen=True, slots=True)
class GatewayDeployment:
    """A deployment as the gateway sees it, with its replicas in service."""

    deployment: str
    stage: Stage
    version: int
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class GatewayEndpoint:
    """Routes of one endpoint; `port` 0: none of its own."""

    endpoint: str
    port: int
    routes: RouteTable
    deployments: tuple[GatewayDeployment, ...]


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """All that a node runs; `version` is the configuration's and the gateway's generation alike."""

    version: int
    replicas: tuple[ReplicaSpec, ...]
    endpoints: tuple[GatewayEndpoint, ...]


@dataclass(frozen=True, slots=True)
class ReplicaBinding:
    """What a sidecar knows of a replica.

    Args:
        profile_json: empty: it learns a reference.
        number: of the deployment, in the order of creation.
        attachment: what the foreign model server calls the model; None: it is none, or was bound by hand.
    """

    replica: str
    deployment: str
    endpoint: str
    model: str
    version: int
    monitoring: MonitoringConfig
    profile_json: str
    signature_json: str
    stage: Stage
    number: int
    attachment: Attachment | None = None

    @property
    def served_as(self) -> tuple[str, str] | None:
        """Name and version under which a foreign model server knows the model; None: it is none."""
        return None if self.attachment is None else (self.attachment.server_model, self.attachment.server_version)


class NodeSide:
    """The side of deployments that nodes and sidecars see; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours) -> None:
        """Find versions and profiles among `neighbours`."""
        self._node_neighbours = neighbours

    def node_config(self, tx: Tx, node: str) -> NodeConfig:
        """Return a node's whole configuration."""
        facts = fleet_rows.node(tx.conn, node)
        replicas = [r for r in replica_rows.open_replicas(tx.conn, node) if not _is_out(r, facts)]
        deployments = rows.deployments_by_id(tx.conn, {r.deployment for r in replicas})
        versions: dict[str, Version] = {}
        specs = tuple(
            self._spec(tx, r, deployments[r.deployment], versions)
            for r in replicas
            if not deployments[r.deployment].attached
        )
        return NodeConfig(facts.config_version if facts is not None else 0, specs, self._endpoints(tx))

    def _spec(self, tx: Tx, replica: Replica, deployment: Deployment, versions: dict[str, Version]) -> ReplicaSpec:
        name = deployment.version_name
        if name not in versions:
            versions[name] = self._node_neighbours.registry().get_version(
                tx, deployment.project, deployment.model, deployment.version
            )
        config = deployment.config
        if replica.revision != deployment.revision:
            revision = rows.revision(tx.conn, deployment.id, replica.revision)
            config = revision.config if revision is not None else config
        return ReplicaSpec(replica, versions[name], config.resources, config.health_check)

    def _endpoints(self, tx: Tx) -> tuple[GatewayEndpoint, ...]:
        known = rows.open_deployments(tx.conn)
        serving = [d for d in known if d.state.serves or d.state is DeploymentState.WARMING]
        replicas = replica_rows.replicas_of(tx.conn, [d.id for d in serving])
        # The gateway knows a foreign server only where its sidecar said how to reach it.
        serving = [d for d in serving if not d.attached or any(_has_address(r) for r in replicas[d.id])]
        found = []
        for endpoint in endpoint_rows.all_endpoints(tx.conn):
            mine = tuple(
                GatewayDeployment(d.id, d.stage, d.version, tuple(r for r in replicas[d.id] if r.serves))
                for d in serving
                if (d.project, d.endpoint) == (endpoint.project, endpoint.id)
            )
            found.append(GatewayEndpoint(endpoint.id, endpoint.port, endpoint.routes, mine))
        return tuple(found)

    def binding(self, tx: Tx, replica_id: str) -> ReplicaBinding | None:
        """Return what the sidecar of a replica is told; None: there is no such replica, or it has ended."""
        return self.bindings(tx, [replica_id]).get(replica_id)

    def bindings(self, tx: Tx, replica_ids: Collection[str]) -> dict[str, ReplicaBinding]:
        """Return what sidecars are told of replicas, without those that have ended."""
        replicas = [r for r in replica_rows.replicas_by_id(tx.conn, replica_ids).values() if r.ended is None]
        deployments = rows.deployments_by_id(tx.conn, {r.deployment for r in replicas})
        described: dict[str, tuple[str, str]] = {}
        attached = attachment_rows.attachments_of(tx.conn, {r.instance for r in replicas if r.instance})
        found = {}
        for replica in replicas:
            deployment = deployments[replica.deployment]
            attachment = next((a for a in attached if _is_of(a, replica, deployment)), None)
            if replica.instance and attachment is None:
                # Its server serves something else by now.
                continue
            if deployment.id not in described:
                described[deployment.id] = self._describe(tx, deployment)
            profile_json, signature_json = described[deployment.id]
            found[replica.id] = ReplicaBinding(
                replica.id,
                deployment.id,
                deployment.endpoint,
                deployment.model,
                deployment.version,
                deployment.config.monitoring,
                profile_json,
                signature_json,
                deployment.stage,
                deployment.number,
                attachment,
            )
        return found

    def _describe(self, tx: Tx, deployment: Deployment) -> tuple[str, str]:
        registry = self._node_neighbours.registry()
        version = registry.get_version(tx, deployment.project, deployment.model, deployment.version)
        signature = json.dumps(dict(version.signature), sort_keys=True) if version.signature else ""
        profile = registry.profile_json(tx, version)
        if not profile:
            profile = self._learned(tx, deployment)
        return profile, signature

    def _learned(self, tx: Tx, deployment: Deployment) -> str:
        """Return what a deployment learned, or another one of its version at its endpoint: empty: nothing yet."""
        monitoring = self._node_neighbours.monitoring()
        if profile := monitoring.learned_profile(tx, deployment.id):
            return profile
        others = rows.of_version(tx.conn, deployment.project, deployment.model, deployment.version)
        mine = sorted((d for d in others if d.endpoint == deployment.endpoint), key=lambda d: -d.number)
        return next(filter(None, (monitoring.learned_profile(tx, d.id) for d in mine)), "")

    def touch_learned(self, tx: Tx, deployment_id: str) -> None:
        """Tell the sidecars of a deployment's replicas that one of them learned its reference."""
        changes.touch_bindings(tx, [r.id for r in replica_rows.replicas_of(tx.conn, [deployment_id])[deployment_id]])

    def touch_profile(self, tx: Tx, project: str, model: str, version: int) -> None:
        """Tell the sidecars of a version's replicas that its profile or signature changed."""
        ids = [d.id for d in rows.of_version(tx.conn, project, model, version) if not d.state.has_ended]
        changes.touch_bindings(tx, [r.id for rs in replica_rows.replicas_of(tx.conn, ids).values() for r in rs])

    def apply_node_state(self, tx: Tx, node: str, state: NodeReport) -> None:
        """Take in what a node sees, whole; a replica it does not report is not running."""
        before = fleet_rows.node(tx.conn, node) or NodeFacts(node)
        after = self._apply_facts(tx, before, state)
        reports = {r.replica: r for r in state.replicas}
        moved = False
        for replica in replica_rows.open_replicas(tx.conn, node):
            changed = _apply(tx, replica, reports.get(replica.id))
            moved = moved or _route(changed) != _route(replica) or _is_out(changed, after) != _is_out(replica, before)
        if moved:
            changes.touch_node(tx, node)

    def _apply_facts(self, tx: Tx, before: NodeFacts, state: NodeReport) -> NodeFacts:
        gateway = state.gateway
        after = dataclasses.replace(
            before,
            cpu_cores=state.cpu_cores,
            memory_mib=state.memory_mib,
            gateway_running=gateway.running,
            gateway_generation=gateway.generation,
            shared_port=gateway.shared_port,
            endpoint_ports=dict(gateway.endpoint_ports),
            gateway_reason=gateway.reason,
            reported=before.reported,
        )
        if after != before or before.reported is None:
            fleet_rows.save_node(tx.conn, dataclasses.replace(after, reported=tx.now))
            # Whoever drains waits for the gateway's generation.
            tx.wake(changes.TOPIC)
        return after

    def link_changed(self, tx: Tx, replica_ids: Collection[str], link: LinkState) -> None:
        """Note how the streams of replicas' sidecars stand; it moves no traffic."""
        for deployment_id in replica_rows.set_link(tx.conn, replica_ids, link):
            changes.show_deployment(tx, deployment_id)

    def apply_sidecar_health(self, tx: Tx, healthy: Mapping[str, bool]) -> None:
        """Take in how sidecars find attached model servers, which no node watches."""
        for replica in replica_rows.replicas_by_id(tx.conn, healthy).values():
            deployment = rows.deployment(tx.conn, replica.deployment)
            if deployment is None or not deployment.attached or replica.ended is not None:
                continue
            state = ReplicaState.READY if healthy[replica.id] else ReplicaState.UNHEALTHY
            if replica.state is ReplicaState.STARTING and state is ReplicaState.UNHEALTHY:
                continue
            if replica.state is not state:
                reason = "" if healthy[replica.id] else "its model server fails its health checks"
                changes.enter_replica(tx, replica, state, reason, warmed=True)
                if _has_address(replica):
                    changes.touch_node(tx)


def _is_out(replica: Replica, facts: NodeFacts | None) -> bool:
    """Return whether a draining replica gets no calls any more, so that its node may let go of it."""
    if not replica.draining or facts is None:
        return False
    return not facts.gateway_running or facts.gateway_generation >= replica.drain_generation


def _is_of(attachment: Attachment, replica: Replica, deployment: Deployment) -> bool:
    return (attachment.instance, attachment.project, attachment.endpoint, attachment.version) == (
        replica.instance,
        deployment.project,
        deployment.endpoint,
        deployment.version,
    )


def _has_address(replica: Replica) -> bool:
    return bool(replica.grpc_address or replica.http_address)


def _route(replica: Replica) -> tuple[Any, ...]:
    """Return what the gateway's configuration and the replica's own specification depend on."""
    return (replica.serves, replica.grpc_address, replica.http_address, replica.ended is None)


def _apply(tx: Tx, replica: Replica, report: ReplicaReport | None) -> Replica:
    """Write what a node says of one replica; return the row as it is then."""
    if report is None:
        return _apply_missing(tx, replica)
    facts = {
        "grpc_address": report.grpc_address,
        "http_address": report.http_address,
        "server_pid": report.server_pid,
        "sidecar_pid": report.sidecar_pid,
        "restarts": report.restarts,
        "warmed": report.warmed,
    }
    state, reason = _next_state(replica, report)
    if state is replica.state:
        facts["state_reason"] = replica.state_reason if replica.draining else reason
        if all(getattr(replica, name) == value for name, value in facts.items()):
            return replica
        return changes.save_replica(tx, replica, **facts)
    if state is ReplicaState.READY:
        facts |= {"restarts_when_ready": report.restarts, "unhealthy": None}
    if state is ReplicaState.UNHEALTHY:
        facts["unhealthy"] = tx.now
    if state is ReplicaState.STOPPED:
        facts = {"restarts": report.restarts}
    return changes.enter_replica(tx, replica, state, reason, **facts)


def _next_state(replica: Replica, report: ReplicaReport) -> tuple[ReplicaState, str]:
    if report.state is ReplicaState.STOPPED and replica.draining:
        return ReplicaState.STOPPED, replica.state_reason
    if report.state is ReplicaState.READY:
        return ReplicaState.READY, report.reason
    if replica.state is ReplicaState.STARTING:
        return ReplicaState.STARTING, report.reason
    return ReplicaState.UNHEALTHY, report.reason or f"the node says {report.state.value.upper()}"


def _apply_missing(tx: Tx, replica: Replica) -> Replica:
    if replica.draining:
        return changes.enter_replica(tx, replica, ReplicaState.STOPPED, replica.state_reason)
    if replica.state is ReplicaState.READY:
        reason = "the node does not report it"
        return changes.enter_replica(tx, replica, ReplicaState.UNHEALTHY, reason, unhealthy=tx.now)
    return replica
