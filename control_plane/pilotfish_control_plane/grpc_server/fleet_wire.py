"""The fleet between protobuf and the values of `fleet`.

Owns the conversion of both directions of a stream; it reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from google.protobuf import json_format

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import deployment_pb2, monitoring_pb2, registry_pb2
from pilotfish.v1 import fleet_service_pb2 as pb
from pilotfish_control_plane.deployments.configuration import MonitoringConfig
from pilotfish_control_plane.deployments.model import ReplicaState
from pilotfish_control_plane.deployments.node_side import (
    GatewayEndpoint,
    NodeConfig,
    ReplicaBinding,
    ReplicaSpec,
)
from pilotfish_control_plane.fleet.model import (
    GatewayReport,
    Hello,
    Member,
    MemberKind,
    NodeReport,
    ReplicaReport,
    SidecarReplica,
)
from pilotfish_control_plane.fleet.sessions import Beat, Command, Configuration, Goodbye, Outgoing
from pilotfish_control_plane.grpc_server import deployments_wire as wire

__all__ = ["LocalPath", "hello_from", "member_to", "node_config_to", "node_report_from", "outgoing_to", "sidecar_from"]

MAX_REPLICAS = 256
MAX_INSTANCE_CHARS = 127

KINDS: Mapping[int, MemberKind] = {pb.MEMBER_KIND_SIDECAR: MemberKind.SIDECAR, pb.MEMBER_KIND_NODE: MemberKind.NODE}
_KIND_TO = {k: f"MEMBER_KIND_{k.name}" for k in MemberKind}

LocalPath = Callable[[str], Path | None]
"""Where an artifact lies on this machine, by its path in the store; None: not here."""


def hello_from(message: pb.Hello) -> Hello:
    """Return who a member is.

    Raises:
        InvalidArgument: kind, instance or replicas make no sense; every problem.
    """
    found = []
    if message.kind not in KINDS:
        found.append(Violation("hello.kind", f"{message.kind} is no kind of member", "ENUM"))
    if not 0 < len(message.instance) <= MAX_INSTANCE_CHARS or not message.instance.isprintable():
        text = f"must have 1 to {MAX_INSTANCE_CHARS} printable characters"
        found.append(Violation("hello.instance", text, "INSTANCE"))
    if len(message.replicas) > MAX_REPLICAS and message.kind == pb.MEMBER_KIND_SIDECAR:
        text = f"{len(message.replicas)} replicas are too many for one sidecar, at most {MAX_REPLICAS}"
        found.append(Violation("hello.replicas", text, "OUT_OF_RANGE"))
    if found:
        raise InvalidArgument("the hello makes no sense", reason="HELLO", violations=found)
    return Hello(
        KINDS[message.kind],
        message.instance,
        message.incarnation,
        message.program_version[:127],
        message.host[:255],
        tuple(message.replicas),
        message.config_version,
    )


def node_report_from(message: pb.NodeState) -> NodeReport:
    """Return what a node sees; a replica in a state that is unknown here counts as STARTING."""
    return NodeReport(
        tuple(
            ReplicaReport(
                r.replica,
                wire.REPLICA_STATE_FROM.get(r.state, ReplicaState.STARTING),
                r.reason[:1000],
                r.revision,
                r.grpc_address,
                r.http_address,
                r.server_pid,
                r.sidecar_pid,
                r.restarts,
                r.warmed,
            )
            for r in message.replicas
        ),
        GatewayReport(
            message.gateway.running,
            message.gateway.shared_port,
            message.gateway.generation,
            message.gateway.reason[:1000],
            dict(message.gateway.endpoint_ports),
        ),
        message.cpu_cores,
        message.memory_mib,
    )


def sidecar_from(message: pb.SidecarState) -> tuple[SidecarReplica, ...]:
    """Return what a sidecar sees."""
    return tuple(
        SidecarReplica(
            r.replica,
            r.healthy,
            r.learned_rows,
            r.capture.served,
            r.capture.captured,
            r.capture.in_flight,
            dict(r.capture.dropped),
            dict(r.capture.undecodable),
        )
        for r in message.replicas[:MAX_REPLICAS]
    )


@lru_cache(maxsize=256)
def _monitoring_to(config: MonitoringConfig) -> monitoring_pb2.MonitoringConfig:
    """Return the one message for all replicas that are watched alike; it is copied, never changed."""
    return wire.monitoring_config_to(config)


def _binding_to(binding: ReplicaBinding) -> pb.ReplicaBinding:
    attachment = binding.attachment
    return pb.ReplicaBinding(
        replica=binding.replica,
        deployment=binding.deployment,
        endpoint=binding.endpoint,
        model=binding.model,
        version=binding.version,
        monitoring=_monitoring_to(binding.monitoring),
        profile_json=binding.profile_json,
        signature_json=binding.signature_json,
        server_model=attachment.server_model if attachment is not None else "",
        server_version=attachment.server_version if attachment is not None else "",
        codec=json_format.ParseDict(dict(attachment.codec), pb.Codec()) if attachment is not None else None,
    )


def _spec_to(spec: ReplicaSpec, local_path: LocalPath) -> pb.ReplicaSpec:
    replica, version = spec.replica, spec.version
    directory = local_path(version.artifact_path) if version.artifact_path else None
    return pb.ReplicaSpec(
        replica=replica.id,
        deployment=replica.deployment,
        endpoint=replica.endpoint,
        model=version.model,
        version=version.number,
        revision=replica.revision,
        version_name=version.name,
        files=[registry_pb2.ArtifactFile(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256) for f in version.files],
        artifact_dir="" if directory is None else str(directory),
        resources=wire.resources_to(spec.resources),
        health_check=wire.health_to(spec.health_check),
        draining=replica.draining,
        framework=version.framework,
    )


def _endpoint_to(endpoint: GatewayEndpoint) -> pb.GatewayEndpoint:
    routes = endpoint.routes
    return pb.GatewayEndpoint(
        endpoint=endpoint.endpoint,
        port=endpoint.port,
        weights=[deployment_pb2.RouteWeight(deployment=d, weight_bp=w) for d, w in routes.weights],
        shadows=wire.shadows_to(routes),
        sticky_header=routes.sticky_header,
        deployments=[
            pb.GatewayDeployment(
                deployment=d.deployment,
                stage=wire.STAGE_TO[d.stage],
                version=d.version,
                replicas=[
                    pb.GatewayReplica(replica=r.id, grpc_address=r.grpc_address, http_address=r.http_address)
                    for r in d.replicas
                ],
            )
            for d in endpoint.deployments
        ],
    )


def node_config_to(config: NodeConfig, local_path: LocalPath, shared_port: int) -> pb.NodeConfig:
    """Return a node's whole configuration."""
    return pb.NodeConfig(
        replicas=[_spec_to(s, local_path) for s in config.replicas],
        gateway=pb.GatewayConfig(
            shared_port=shared_port,
            endpoints=[_endpoint_to(e) for e in config.endpoints],
            generation=config.version,
        ),
    )


def outgoing_to(outgoing: Outgoing, now: datetime, local_path: LocalPath, shared_port: int) -> pb.ConnectResponse:
    """Return the next message to a member."""
    match outgoing:
        case Beat(sequence):
            return pb.ConnectResponse(heartbeat=pb.Heartbeat(sequence=sequence, time=wire.timestamp(now)))
        case Configuration(version, nonce, None, bindings):
            sidecar = pb.SidecarConfig(bindings=[_binding_to(b) for b in bindings])
            return pb.ConnectResponse(config=pb.MemberConfig(version=version, nonce=nonce, sidecar=sidecar))
        case Configuration(version, nonce, node, _):
            assert node is not None
            config = node_config_to(node, local_path, shared_port)
            return pb.ConnectResponse(config=pb.MemberConfig(version=version, nonce=nonce, node=config))
        case Command(command_id, generation, expires, kind, subject):
            command = pb.Command(
                id=command_id, generation=generation, expire_time=wire.timestamp(expires), type=kind, subject=subject
            )
            return pb.ConnectResponse(command=command)
        case Goodbye(delay_s):
            return pb.ConnectResponse(goodbye=pb.Goodbye(reconnect_after_s=delay_s))


def member_to(member: Member) -> pb.Member:
    """Return a member as people see it."""
    return pb.Member(
        instance=member.instance,
        kind=_KIND_TO[member.kind],
        link=wire.LINK_TO[member.link],
        incarnation=member.incarnation,
        program_version=member.program_version,
        seen_time=wire.timestamp(member.seen),
        config_version=member.config_version,
        config_error=member.config_error,
        replicas=member.replicas,
        host=member.host,
    )
