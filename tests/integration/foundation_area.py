"""A small area for tests of the foundation: real stubs of the contract, made-up behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2

from pilotfish.errors import PilotfishError
from pilotfish.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    registry_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.grpc_server.context import current
from pilotfish_control_plane.storage.database import Tx

__all__ = ["Area", "error_to_raise"]

error_to_raise: dict[str, Callable[[], Exception]] = {}
"""What CreateModel raises, by model id."""


class Area:
    """Installs one servicer per kind of call; counts what it did."""

    def __init__(self) -> None:
        self.created = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

    def __call__(self, core: Core) -> Installed:
        self.core = core
        # The stubs type every method as abstract; at run time a missing one is UNIMPLEMENTED.
        kinds: list[Any] = [Registry, Events, Artifacts, Fleet]
        registry, events, artifacts, fleet = (kind(self) for kind in kinds)
        # The stub's type knows only the style that yields its answers.
        fleet.Connect = fleet.converse
        return Installed(
            servicers=[
                (registry_service_pb2_grpc.add_RegistryServiceServicer_to_server, registry),
                (event_service_pb2_grpc.add_EventServiceServicer_to_server, events),
                (artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server, artifacts),
                (fleet_service_pb2_grpc.add_FleetServiceServicer_to_server, fleet),
                (add_roleless, None),
            ]
        )


class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    """Unary calls."""

    def __init__(self, area: Area) -> None:
        self.area = area

    async def CreateModel(self, request: Any, context: Any) -> Any:
        if request.model_id in error_to_raise:
            raise error_to_raise[request.model_id]()

        def create(tx: Tx) -> registry_service_pb2.CreateModelResponse:
            self.area.created += 1
            tx.emit("models.created", f"projects/{request.project or 'default'}/models/{request.model_id}")
            tx.audit("CreateModel", request.model_id, None, {"description": request.description})
            model = registry_pb2.Model(name=request.model_id, description=str(self.area.created))
            return registry_service_pb2.CreateModelResponse(model=model)

        return await self.area.core.mutations.mutate(request, create)

    async def GetModel(self, request: Any, context: Any) -> Any:
        call = current()
        if request.name == "slow":
            self.area.started.set()
            try:
                await self.area.go_on.wait()
            except asyncio.CancelledError:
                self.area.cancelled += 1
                raise
        text = f"{call.principal.name} {call.request_id} {call.method}"
        return registry_service_pb2.GetModelResponse(model=registry_pb2.Model(name=request.name, description=text))


class Events(event_service_pb2_grpc.EventServiceServicer):
    """A stream out."""

    def __init__(self, area: Area) -> None:
        self.area = area

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for i in range(3):
            yield event_service_pb2.WatchResponse(resume_token=f"{i} {current().principal.name}")
        if request.subject_prefix == "fail":
            raise error_to_raise["fail"]()
        if request.subject_prefix == "endless":
            self.area.started.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.area.cancelled += 1
                raise


class Artifacts(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """A stream in."""

    def __init__(self, area: Area) -> None:
        self.area = area

    async def WriteChunks(self, request_iterator: Any, context: Any) -> Any:
        count = 0
        async for _ in request_iterator:
            count += 1
            if count == 99:
                raise error_to_raise["fail"]()
        return artifact_service_pb2.WriteChunksResponse(upload=artifact_service_pb2.Upload(id=str(count)))


class Fleet(fleet_service_pb2_grpc.FleetServiceServicer):
    """Streams both ways, answered by `context.write` and read by `context.read`."""

    def __init__(self, area: Area) -> None:
        self.area = area

    async def converse(self, request_iterator: Any, context: Any) -> None:
        while (await context.read()) is not grpc.aio.EOF:
            await context.write(fleet_service_pb2.ConnectResponse())


_file = descriptor_pb2.FileDescriptorProto(
    name="pilotfish_test/roleless.proto",
    package="pilotfish_test",
    dependency=["google/protobuf/empty.proto"],
    syntax="proto3",
    service=[
        descriptor_pb2.ServiceDescriptorProto(
            name="Roleless",
            method=[
                descriptor_pb2.MethodDescriptorProto(
                    name="Do", input_type=".google.protobuf.Empty", output_type=".google.protobuf.Empty"
                )
            ],
        )
    ],
)
descriptor_pool.Default().AddSerializedFile(_file.SerializeToString())


def add_roleless(_servicer: Any, server: Any) -> None:
    """Add a service whose one method declares no role."""

    async def do(_request: Any, _context: Any) -> Any:
        return empty_pb2.Empty()

    handler = grpc.unary_unary_rpc_method_handler(do, empty_pb2.Empty.FromString, empty_pb2.Empty.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pilotfish_test.Roleless", {"Do": handler}),))


def raising(error: PilotfishError | Exception) -> Callable[[], Exception]:
    """Return a function that gives `error`."""
    return lambda: error
