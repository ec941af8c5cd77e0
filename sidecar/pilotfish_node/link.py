"""The node's stream to the control plane: hello, heartbeats, configuration in, state out.

It converts protobuf to the node's own values and back. A lost stream changes nothing that runs.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import platform
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
import psutil

from pilotfish.v1 import deployment_pb2, fleet_service_pb2, fleet_service_pb2_grpc
from pilotfish_node.gateway import GatewayState
from pilotfish_node.model import (
    DeploymentRoute,
    EndpointRoute,
    FileSpec,
    GatewaySpec,
    HealthCheck,
    NodeSpec,
    ReplicaAddress,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    Shadow,
)

__all__ = ["Link", "NodeView", "spec_from_wire"]

log = logging.getLogger(__name__)

State: TypeAlias = "grpc.aio.StreamStreamCall[fleet_service_pb2.ConnectRequest, fleet_service_pb2.ConnectResponse]"

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # The control plane comes back on the same port: do not let the channel sleep for minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class NodeView:
    """All that the node reports."""

    replicas: Sequence[ReplicaStatus]
    gateway: GatewayState


class Link:
    """Connects for ever; calls `on_spec` with every configuration and reports `view()` whenever `notify` is called."""

    def __init__(
        self,
        *,
        node: str,
        incarnation: int,
        address: Callable[[], str],
        token_file: Path,
        view: Callable[[], NodeView],
        on_spec: Callable[[fleet_service_pb2.NodeConfig, int], None],
        held_version: Callable[[], int],
    ) -> None:
        self._node = node
        self._incarnation = incarnation
        self._address = address
        self._token_file = token_file
        self._view = view
        self._on_spec = on_spec
        self._held_version = held_version
        self._dirty = asyncio.Event()
        self._random = random.Random()
        self._channel: grpc.aio.Channel | None = None
        self.connected = False

    def notify(self) -> None:
        """Say that the node's state has changed."""
        self._dirty.set()

    async def run(self) -> None:
        """Keep the stream up until cancelled; 0.1–2 s between the first attempts, at most 30 s later."""
        delay_s = 0.1
        while True:
            try:
                await self._session()
                delay_s = 0.1
            except grpc.aio.AioRpcError as error:
                level = logging.INFO if error.code() is grpc.StatusCode.UNAVAILABLE else logging.WARNING
                log.log(level, "control plane: %s %s", error.code().name, error.details())
                if self.connected:
                    delay_s = 0.1
            except (OSError, TimeoutError) as error:
                log.info("control plane: %s", error)
            self.connected = False
            await asyncio.sleep(self._random.uniform(delay_s / 2, delay_s))
            delay_s = min(30.0 if delay_s >= 2.0 else 2.0, delay_s * 2)

    async def fetch(self, version: str, path: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a version's file from the control plane, in order."""
        async with self._open() as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            call = stub.FetchArtifact(
                fleet_service_pb2.FetchArtifactRequest(version=version, path=path), metadata=self._metadata()
            )
            try:
                async for part in call:
                    yield part.data
            finally:
                call.cancel()

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._address(), options=CHANNEL_OPTIONS)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token_file.read_text().strip()}"),)

    async def _session(self) -> None:
        async with self._open() as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            call = stub.Connect(metadata=self._metadata())
            try:
                await call.write(fleet_service_pb2.ConnectRequest(hello=self._hello()))
                first = await asyncio.wait_for(call.read(), timeout=10.0)
                if not isinstance(first, fleet_service_pb2.ConnectResponse) or not first.HasField("welcome"):
                    raise OSError("the control plane did not answer the hello with a welcome")
                self.connected = True
                log.info("connected", extra={"epoch": first.welcome.epoch})
                await self._talk(call, first.welcome)
            finally:
                # A call that is dropped without cancel() is never collected (grpc.aio >= 1.83).
                call.cancel()

    async def _talk(self, call: State, welcome: fleet_service_pb2.Welcome) -> None:
        interval_s = welcome.heartbeat_interval_s or 2.0
        self._dirty.set()
        sender = asyncio.create_task(self._send(call, interval_s))
        try:
            while True:
                # Every heartbeat is answered; silence for three of them is a frozen peer.
                message = await asyncio.wait_for(call.read(), timeout=max(3 * interval_s, 3.0))
                if not isinstance(message, fleet_service_pb2.ConnectResponse):
                    return
                kind = message.WhichOneof("message")
                if kind == "config":
                    await self._take(call, message.config)
                elif kind == "goodbye":
                    return
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _take(self, call: State, config: fleet_service_pb2.MemberConfig) -> None:
        error = ""
        try:
            self._on_spec(config.node, config.version)
        except ValueError as refused:
            error = str(refused)
        ack = fleet_service_pb2.ConfigAck(version=config.version, nonce=config.nonce, error=error)
        await call.write(fleet_service_pb2.ConnectRequest(config_ack=ack))

    async def _send(self, call: State, interval_s: float) -> None:
        sequence = 0
        loop = asyncio.get_running_loop()
        next_beat = loop.time()
        while True:
            try:
                await asyncio.wait_for(self._dirty.wait(), timeout=max(0.0, next_beat - loop.time()))
            except TimeoutError:
                sequence += 1
                beat = fleet_service_pb2.Heartbeat(sequence=sequence)
                beat.time.GetCurrentTime()
                await call.write(fleet_service_pb2.ConnectRequest(heartbeat=beat))
                next_beat = loop.time() + interval_s
                # The newest usage figures go with the beat.
                self._dirty.set()
                continue
            self._dirty.clear()
            await call.write(fleet_service_pb2.ConnectRequest(node_state=_state_to_wire(self._view())))
            # Changes that come together go together.
            await asyncio.sleep(0.01)

    def _hello(self) -> fleet_service_pb2.Hello:
        return fleet_service_pb2.Hello(
            kind=fleet_service_pb2.MEMBER_KIND_NODE,
            instance=self._node,
            incarnation=self._incarnation,
            program_version=_version(),
            replicas=[s.replica for s in self._view().replicas],
            config_version=self._held_version(),
            host=platform.node(),
        )


def _version() -> str:
    try:
        return importlib.metadata.version("pilotfish")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _state_to_wire(view: NodeView) -> fleet_service_pb2.NodeState:
    gateway = fleet_service_pb2.GatewayStatus(
        running=view.gateway.running,
        shared_port=view.gateway.shared_port,
        generation=view.gateway.generation,
        reason=view.gateway.reason,
        endpoint_ports=dict(view.gateway.endpoint_ports),
    )
    return fleet_service_pb2.NodeState(
        replicas=[_status_to_wire(s) for s in view.replicas],
        gateway=gateway,
        cpu_cores=float(psutil.cpu_count() or 1),
        memory_mib=int(psutil.virtual_memory().total // (1024 * 1024)),
    )


STATES = {
    ReplicaState.STARTING: deployment_pb2.REPLICA_STATE_STARTING,
    ReplicaState.READY: deployment_pb2.REPLICA_STATE_READY,
    ReplicaState.UNHEALTHY: deployment_pb2.REPLICA_STATE_UNHEALTHY,
    ReplicaState.STOPPED: deployment_pb2.REPLICA_STATE_STOPPED,
}


def _status_to_wire(status: ReplicaStatus) -> fleet_service_pb2.ReplicaStatus:
    return fleet_service_pb2.ReplicaStatus(
        replica=status.replica,
        deployment=status.deployment,
        state=STATES[status.state],
        reason=status.reason,
        revision=status.revision,
        grpc_address=status.address.grpc if status.address else "",
        http_address=status.address.http if status.address else "",
        server_pid=status.server_pid,
        sidecar_pid=status.sidecar_pid,
        restarts=status.restarts,
        rss_bytes=status.rss_bytes,
        cpu_seconds=status.cpu_seconds,
        warmed=status.warmed,
    )


def spec_from_wire(config: fleet_service_pb2.NodeConfig, version: int) -> NodeSpec:
    """Return the configuration as the node's own values.

    Raises:
        ValueError: weights that do not sum to 10000, or a replica named twice.
    """
    replicas = tuple(_replica_from_wire(r) for r in config.replicas)
    if len({r.replica for r in replicas}) != len(replicas):
        raise ValueError("a replica is named twice")
    endpoints = tuple(_endpoint_from_wire(e) for e in config.gateway.endpoints)
    for endpoint in endpoints:
        total = sum(weight for _, weight in endpoint.weights)
        if endpoint.weights and total != 10_000:
            raise ValueError(f"endpoint {endpoint.endpoint}: weights sum to {total}, not 10000")
    gateway = GatewaySpec(config.gateway.generation, config.gateway.shared_port, endpoints)
    own = {r.replica for r in replicas}
    routed = (r for e in config.gateway.endpoints for d in e.deployments for r in d.replicas)
    attached = {r.replica: ReplicaAddress(r.grpc_address, r.http_address) for r in routed if r.replica not in own}
    return NodeSpec(version, replicas, gateway, tuple(sorted(attached.items())))


def _replica_from_wire(spec: fleet_service_pb2.ReplicaSpec) -> ReplicaSpec:
    default = HealthCheck()
    check = spec.health_check
    return ReplicaSpec(
        replica=spec.replica,
        deployment=spec.deployment,
        endpoint=spec.endpoint,
        model=spec.model,
        version=spec.version,
        revision=spec.revision,
        version_name=spec.version_name,
        files=tuple(FileSpec(f.path, f.size_bytes, f.sha256) for f in spec.files),
        artifact_dir=spec.artifact_dir,
        cpu_cores=spec.resources.cpu_cores or 1.0,
        memory_mib=spec.resources.memory_mib or 1024,
        health_check=HealthCheck(
            check.interval_s or default.interval_s,
            check.timeout_s or default.timeout_s,
            check.failure_threshold or default.failure_threshold,
            check.success_threshold or default.success_threshold,
            check.startup_timeout_s or default.startup_timeout_s,
        ),
        draining=spec.draining,
    )


STAGES = {
    deployment_pb2.STAGE_DEVELOPMENT: "development",
    deployment_pb2.STAGE_STAGING: "staging",
    deployment_pb2.STAGE_CANARY: "canary",
    deployment_pb2.STAGE_PRODUCTION: "production",
}


def _endpoint_from_wire(endpoint: fleet_service_pb2.GatewayEndpoint) -> EndpointRoute:
    return EndpointRoute(
        endpoint=endpoint.endpoint,
        port=endpoint.port,
        weights=tuple((w.deployment, w.weight_bp) for w in endpoint.weights),
        shadows=tuple(Shadow(s.deployment, s.fraction_bp) for s in endpoint.shadows),
        sticky_header=endpoint.sticky_header,
        deployments=tuple(
            DeploymentRoute(
                d.deployment, STAGES.get(d.stage, "development"), d.version, tuple(r.replica for r in d.replicas)
            )
            for d in endpoint.deployments
        ),
    )
