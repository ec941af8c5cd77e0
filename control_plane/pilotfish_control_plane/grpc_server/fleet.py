"""FleetService on the wire: the streams of nodes and sidecars.

Owns the course of a stream: hello, welcome, then both directions until one side ends. What is sent is decided in
`fleet.service`; what a node reports is taken in by `deployments.node_side`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pilotfish.errors import InvalidArgument, NotFound, PermissionDenied, Violation
from pilotfish.v1 import fleet_service_pb2 as pb
from pilotfish.v1 import fleet_service_pb2_grpc
from pilotfish_control_plane.access.model import Role
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.fleet.model import MemberKind, SidecarReplica
from pilotfish_control_plane.fleet.reconciler import FleetReconciler
from pilotfish_control_plane.fleet.service import FleetRegistry
from pilotfish_control_plane.fleet.sessions import Session
from pilotfish_control_plane.grpc_server import attach_wire, deployments_wire, fleet_wire
from pilotfish_control_plane.grpc_server.context import current
from pilotfish_control_plane.grpc_server.publish import Ingest
from pilotfish_control_plane.monitoring.model import Capture
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.names import VersionName
from pilotfish_control_plane.registry.model import Version
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["FleetServicer", "install"]

log = logging.getLogger(__name__)

MAX_PUBLISH_BYTES = 1024 * 1024
CHUNK_BYTES = 1024 * 1024
HELLO_TIMEOUT_S = 10.0
RECONNECT_AFTER_S = 1.0


class FleetServicer(fleet_service_pb2_grpc.FleetServiceServicer):
    """Serves the calls of FleetService."""

    def __init__(self, core: Core, fleet: FleetRegistry) -> None:
        """Serve `fleet`."""
        self._core = core
        self._fleet = fleet

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Follow one member: its states in, its configuration out."""
        messages = aiter(request_iterator)
        hello = fleet_wire.hello_from(await _first(messages))
        epoch = await self._fleet.epoch()
        welcome = await self._welcome(hello.instance, hello.kind, epoch)
        session = self._fleet.open(hello)
        tasks = [asyncio.create_task(self._listen(session, messages), name=f"fleet-listen-{hello.instance}")]
        if hello.kind is MemberKind.NODE:
            tasks.append(asyncio.create_task(self._fleet.apply_node_reports(session)))
        try:
            yield pb.ConnectResponse(welcome=welcome)
            local_path, port = self._artifacts.local_path, self._core.settings.gateway_port
            while (outgoing := await session.next()) is not None:
                yield fleet_wire.outgoing_to(outgoing, self._core.clock.now(), local_path, port)
        except asyncio.CancelledError as ending:
            # A member that hung up hears nothing any more; one that is sent away by a drain does.
            if "DRAINING" in ending.args:
                yield pb.ConnectResponse(goodbye=pb.Goodbye(reconnect_after_s=RECONNECT_AFTER_S))
            raise
        finally:
            self._fleet.close(session)
            for task in tasks:
                task.cancel()

    async def _welcome(self, instance: str, kind: MemberKind, epoch: int) -> pb.Welcome:
        terms = self._fleet.terms(kind)
        watermarks = []
        if kind is MemberKind.SIDECAR:
            watermarks = await self._core.services.get(Ingest).watermarks(instance)
        return pb.Welcome(
            epoch=epoch,
            heartbeat_interval_s=terms.heartbeat_interval_s,
            lease_s=terms.lease_s,
            watermarks=[pb.StreamOffset(stream=s, incarnation=i, offset=o) for s, i, o in watermarks],
            max_publish_bytes=MAX_PUBLISH_BYTES,
            time=deployments_wire.timestamp(self._core.clock.now()),
        )

    @property
    def _artifacts(self) -> ArtifactService:
        return self._core.services.get(ArtifactService)

    async def _listen(self, session: Session, messages: AsyncIterator[pb.ConnectRequest]) -> None:
        """Take in what the member says until it ends its side, and end the other one then."""
        try:
            await self._take_in(session, messages)
        except Exception as error:
            session.end(error)
        else:
            session.finish()

    async def _take_in(self, session: Session, messages: AsyncIterator[pb.ConnectRequest]) -> None:
        async for message in messages:
            self._fleet.heard(session)
            match message.WhichOneof("message"):
                case "heartbeat":
                    session.beat(message.heartbeat.sequence)
                case "config_ack":
                    ack = message.config_ack
                    self._fleet.acknowledged(session, ack.version, ack.nonce, ack.error[:1000])
                case "node_state" if session.hello.kind is MemberKind.NODE:
                    session.node_report = fleet_wire.node_report_from(message.node_state)
                    session.reported.set()
                case "sidecar_state" if session.hello.kind is MemberKind.SIDECAR:
                    session.sidecar_report = fleet_wire.sidecar_from(message.sidecar_state)
                case "command_result":
                    result = message.command_result
                    log.info("%s ended command %s: %s", session.instance, result.id, result.error or "done")
                case kind:
                    text = f"a {session.hello.kind.value} may not send {kind or 'an empty message'} here"
                    raise InvalidArgument(text, violations=[Violation("message", text, "UNEXPECTED")])

    async def Publish(
        self, request_iterator: AsyncIterator[pb.PublishRequest], context: Any
    ) -> AsyncIterator[pb.PublishResponse]:
        """Take data in and answer with durable watermarks."""
        async for response in self._core.services.get(Ingest).publish(request_iterator):
            yield response

    async def FetchArtifact(
        self, request: pb.FetchArtifactRequest, context: Any
    ) -> AsyncIterator[pb.FetchArtifactResponse]:
        """Read a file of a version that runs here."""
        name = VersionName.parse(request.version, "version")
        version = await self._core.mutations.read(lambda tx: self._bound_version(tx, name))
        if request.path not in {f.path for f in version.files}:
            raise NotFound(f"{version} has no file {request.path!r}", reason="FILE_NOT_FOUND")
        if request.offset < 0:
            raise InvalidArgument("offset is negative", violations=[Violation("offset", "must be >= 0")])
        artifacts = self._artifacts
        offset = request.offset
        file = await asyncio.to_thread(artifacts.open_file, version.artifact_path, request.path)
        with contextlib.closing(file):
            await asyncio.to_thread(file.seek, offset)
            while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield pb.FetchArtifactResponse(offset=offset, data=data)
                offset += len(data)

    def _bound_version(self, tx: Tx, name: VersionName) -> Version:
        deployments = self._core.services.get(DeploymentService)
        found = deployments.deployments_of_version(tx, name.project, name.model, name.number)
        if not any(deployments.replicas(tx, d.id) for d in found):
            raise PermissionDenied(
                f"{name} runs nowhere: members read only what they were told to serve", reason="NOT_BOUND"
            )
        return self._core.services.get(RegistryService).get_version(tx, name.project, name.model, name.number)

    async def Attach(self, request: pb.AttachRequest, context: Any) -> pb.AttachResponse:
        """Bind what a sidecar stands beside."""
        command = attach_wire.command_from(request)
        may = current().principal.may(Role.DEPLOYER, command.project)
        command = dataclasses.replace(command, may_deploy=may)
        deployments = self._core.services.get(DeploymentService)

        def attach(tx: Tx) -> pb.AttachResponse:
            return attach_wire.answer_to(deployments.attach(tx, command))

        return await self._core.mutations.mutate(request, attach)

    async def ListMembers(self, request: pb.ListMembersRequest, context: Any) -> pb.ListMembersResponse:
        """Return the members as they stand."""
        kind = fleet_wire.KINDS.get(request.kind)
        members = await self._core.mutations.read(lambda tx: self._fleet.members(tx, kind))
        return pb.ListMembersResponse(members=[fleet_wire.member_to(m) for m in members])


async def _first(messages: AsyncIterator[pb.ConnectRequest]) -> pb.Hello:
    """Return the hello that a stream begins with.

    Raises:
        InvalidArgument: it begins with something else, or with nothing for 10 s.
    """
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first = await anext(messages)
    except (TimeoutError, StopAsyncIteration):
        first = pb.ConnectRequest()
    if first.WhichOneof("message") != "hello":
        raise InvalidArgument(
            "the first message must be a hello",
            reason="NO_HELLO",
            violations=[Violation("hello", "is not set", "REQUIRED")],
        )
    return first.hello


def install(core: Core) -> Installed:
    """Add the area to a control plane."""

    def deployments() -> DeploymentService:
        return core.services.get(DeploymentService)

    def store_sidecar(tx: Tx, reports: Mapping[str, SidecarReplica]) -> None:
        deployments().apply_sidecar_health(tx, {r.replica: r.healthy for r in reports.values()})
        monitoring = core.services.get(MonitoringService)
        for replica in replica_rows.replicas_by_id(tx.conn, reports).values():
            r = reports[replica.id]
            capture = Capture(r.served, r.captured, r.in_flight, dict(r.dropped), dict(r.undecodable))
            monitoring.take_capture(tx, replica.id, replica.deployment, capture)

    server = f"{core.paths.home.name}-{secrets.token_hex(6)}"[-127:]
    fleet = core.services.add(FleetRegistry(core.db, core.clock, deployments, store_sidecar, server))
    return Installed(
        servicers=[(fleet_service_pb2_grpc.add_FleetServiceServicer_to_server, FleetServicer(core, fleet))],
        reconcilers=[FleetReconciler(deployments)],
        background=[fleet],
    )
