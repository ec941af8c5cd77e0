"""RegistryService on the wire.

Owns the conversion and the field masks. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar  # Any: grpc's contexts carry no useful type

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from pilotfish.errors import InvalidArgument, NotFound, Violation
from pilotfish.v1 import registry_service_pb2 as pb
from pilotfish.v1 import registry_service_pb2_grpc as pb_grpc
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.grpc_server import registry_wire as wire
from pilotfish_control_plane.grpc_server.registration import Registration
from pilotfish_control_plane.names import ModelName, VersionRef, check_id, project_id
from pilotfish_control_plane.registry.model import NewVersion, Version
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["RegistryServicer", "install"]

PAGE_BYTES = 3 * 1024 * 1024
"""Largest page; clients take messages of 4 MiB. A page that would be larger ends earlier."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class RegistryServicer(pb_grpc.RegistryServiceServicer):
    """The calls of RegistryService."""

    def __init__(self, core: Core, service: RegistryService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service
        self._registration = Registration(core, service)

    async def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> pb.CreateModelResponse:
        """Create a model."""
        project = project_id(request.project)

        def create(tx: Tx) -> pb.CreateModelResponse:
            model = self._service.create_model(
                tx, project, request.model_id, description=request.description, tags=dict(request.tags)
            )
            return pb.CreateModelResponse(model=wire.model_to_wire(model))

        return await self._core.mutations.mutate(request, create)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        """Get a model."""
        name = ModelName.read(request.name)
        model = await self._core.mutations.read(lambda tx: self._service.get_model(tx, name.project, name.model))
        return pb.GetModelResponse(model=wire.model_to_wire(model))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """List models."""
        project, any_tags = project_id(request.project), list(request.any_tags)

        def page_of(size: int) -> Callable[[Tx], Page[Any]]:
            asked = PageRequest(
                size, request.page_token, request.filter, request.order_by, f"{project} {sorted(any_tags)}"
            )
            return lambda tx: self._service.list_models(tx, project, asked, any_tags)

        models, token = await self._page(request.page_size, page_of, wire.model_to_wire)
        return pb.ListModelsResponse(models=models, next_page_token=token)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.UpdateModelResponse:
        """Change a model's description or tags."""
        name = ModelName.read(request.model.name, "model.name")
        given = _masked(request.update_mask, ("description", "tags"))
        described = request.model.description if "description" in given else None
        tags = dict(request.model.tags) if "tags" in given else None

        def change(tx: Tx) -> pb.UpdateModelResponse:
            model = self._service.update_model(
                tx, name.project, name.model, description=described, tags=tags, etag=request.model.etag
            )
            return pb.UpdateModelResponse(model=wire.model_to_wire(model))

        return await self._core.mutations.mutate(request, change)

    async def RegisterVersion(self, request: pb.RegisterVersionRequest, context: Any) -> pb.RegisterVersionResponse:
        """Validate an upload and register it as the model's next version."""
        project = project_id(request.project)
        model = request.model
        if model.startswith("projects/"):
            name = ModelName.parse(model, "model")
            if request.project and name.project != project:
                text = f"is in project {name.project}, and `project` says {project}"
                raise InvalidArgument(f"model {text}", violations=[Violation("model", text)])
            project, model = name.project, name.model
        new = NewVersion(
            project=project,
            model=check_id(model, "model"),
            framework=request.framework,
            label=request.label,
            description=request.description,
            tags=dict(request.tags),
            metrics=dict(request.metrics),
            hyperparameters=wire.struct_from_wire(request.hyperparameters, "hyperparameters"),
            training_data_hash=request.training_data_hash.lower(),
            dependencies=dict(request.dependencies),
            signature=wire.signature_from_wire(request.signature),
            aliases=tuple(request.aliases),
        )
        return await self._registration.register(request, new)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.GetVersionResponse:
        """Get a version by number, label, alias, or the latest."""
        ref = VersionRef.parse(request.name, "name")
        version = await self._core.mutations.read(lambda tx: self._service.find(tx, ref))
        return pb.GetVersionResponse(version=wire.version_to_wire(version))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:
        """List versions."""
        project, model = _parent(request.parent)
        any_tags = list(request.any_tags)
        statuses = [wire.status_from_wire(s, f"statuses[{i}]") for i, s in enumerate(request.statuses)]
        scope = f"{project}/{model} {sorted(any_tags)} {sorted(statuses)}"

        def page_of(size: int) -> Callable[[Tx], Page[Version]]:
            asked = PageRequest(size, request.page_token, request.filter, request.order_by, scope)
            return lambda tx: self._service.list_versions(tx, project, model, asked, any_tags, statuses)

        versions, token = await self._page(request.page_size, page_of, wire.version_to_wire)
        return pb.ListVersionsResponse(versions=versions, next_page_token=token)

    async def _page(
        self, size: int, page_of: Callable[[int], Callable[[Tx], Page[T]]], to_wire: Callable[[T], M]
    ) -> tuple[list[M], str]:
        """Return the items of a page and the token of the next one; a page too large for a message ends earlier."""
        page = await self._core.mutations.read(page_of(size))
        items: list[M] = []
        total = 0
        for item in page.items:
            made = to_wire(item)
            total += made.ByteSize()
            if items and total > PAGE_BYTES:
                shorter = await self._core.mutations.read(page_of(len(items)))
                return [to_wire(item) for item in shorter.items], shorter.next_page_token
            items.append(made)
        return items, page.next_page_token

    async def UpdateVersion(self, request: pb.UpdateVersionRequest, context: Any) -> pb.UpdateVersionResponse:
        """Change a version's label, description, tags or metrics."""
        ref = VersionRef.parse(request.version.name, "version.name")
        given = _masked(request.update_mask, ("label", "description", "tags", "metrics"))
        sent = request.version

        def change(tx: Tx) -> pb.UpdateVersionResponse:
            version = self._service.update_version(
                tx,
                ref.project,
                ref.model,
                self._service.find(tx, ref).number,
                label=sent.label if "label" in given else None,
                description=sent.description if "description" in given else None,
                tags=dict(sent.tags) if "tags" in given else None,
                metrics=dict(sent.metrics) if "metrics" in given else None,
                etag=sent.etag,
            )
            return pb.UpdateVersionResponse(version=wire.version_to_wire(version))

        return await self._core.mutations.mutate(request, change)

    async def UpdateVersionStatus(
        self, request: pb.UpdateVersionStatusRequest, context: Any
    ) -> pb.UpdateVersionStatusResponse:
        """Move a version along an allowed transition."""
        ref = VersionRef.parse(request.name, "name")
        status = wire.status_from_wire(request.status)

        def move(tx: Tx) -> pb.UpdateVersionStatusResponse:
            version = self._service.set_status(
                tx,
                ref.project,
                ref.model,
                self._service.find(tx, ref).number,
                status,
                reason=request.reason,
                etag=request.etag,
            )
            return pb.UpdateVersionStatusResponse(version=wire.version_to_wire(version))

        return await self._core.mutations.mutate(request, move)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.SetAliasResponse:
        """Point an alias at a version."""
        name = ModelName.read(request.model, "model")

        def point(tx: Tx) -> pb.SetAliasResponse:
            model = self._service.set_alias(tx, name.project, name.model, request.alias, request.version)
            return pb.SetAliasResponse(model=wire.model_to_wire(model))

        return await self._core.mutations.mutate(request, point)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Any) -> pb.DeleteAliasResponse:
        """Remove an alias."""
        name = ModelName.read(request.model, "model")

        def remove(tx: Tx) -> pb.DeleteAliasResponse:
            model = self._service.delete_alias(tx, name.project, name.model, request.alias)
            return pb.DeleteAliasResponse(model=wire.model_to_wire(model))

        return await self._core.mutations.mutate(request, remove)

    async def ListChanges(self, request: pb.ListChangesRequest, context: Any) -> pb.ListChangesResponse:
        """List every change of a model or version, newest first."""
        text = request.name
        ref = VersionRef.parse(text, "name") if "@" in text or "/versions/" in text else None
        name = ModelName(ref.project, ref.model) if ref is not None else ModelName.read(text)
        asked = PageRequest(request.page_size, request.page_token, scope=text)

        def changes(tx: Tx) -> Page[Any]:
            number = self._service.find(tx, ref).number if ref is not None else 0
            return self._service.list_changes(tx, name.project, name.model, number, asked)

        page = await self._core.mutations.read(changes)
        return pb.ListChangesResponse(
            changes=[wire.change_to_wire(c) for c in page.items], next_page_token=page.next_page_token
        )

    async def GetProfile(self, request: pb.GetProfileRequest, context: Any) -> pb.GetProfileResponse:
        """Get the profile of a version's training data."""
        ref = VersionRef.parse(request.name, "name")

        def get(tx: Tx) -> pb.GetProfileResponse:
            version = self._service.find(tx, ref)
            found = self._service.profile(tx, version)
            if found is None:
                raise NotFound(
                    f"{version} has no profile of training data: its reference is learned from the first rows served",
                    reason="NO_PROFILE",
                )
            return pb.GetProfileResponse(profile_id=found[0], profile_json=found[1])

        return await self._core.mutations.read(get)


def _parent(text: str) -> tuple[str, str]:
    """Return project and model ("": all) of a parent."""
    if not text:
        return project_id(""), ""
    if text.startswith("projects/") and text.endswith("/models/-"):
        return project_id(text.removesuffix("/models/-"), "parent"), ""
    if text.startswith("projects/") and text.count("/") == 1:
        return project_id(text, "parent"), ""
    name = ModelName.read(text, "parent")
    return name.project, name.model


def _masked(mask: FieldMask, known: Sequence[str]) -> set[str]:
    """Return the fields that a mask names.

    Raises:
        InvalidArgument: it names none, or one that cannot be changed.
    """
    paths = list(mask.paths)
    wrong = [p for p in paths if p not in known]
    if wrong or not paths:
        said = f"names {', '.join(wrong)[:200]}" if wrong else "is empty"
        text = f"{said}; what can be changed: {', '.join(known)}"
        raise InvalidArgument(f"update_mask {text}", violations=[Violation("update_mask", text)])
    return set(paths)


def _users(core: Core) -> Callable[[Tx, Version], Sequence[str]]:
    """Return who asks the deployments, if they are part of this build, which of them use a version."""

    def users(tx: Tx, version: Version) -> Sequence[str]:
        try:
            service = core.services.get(DeploymentService)
        except LookupError:
            return ()
        found = service.deployments_of_version(tx, version.project, version.model, version.number)
        return [d.name for d in found if not d.state.has_ended]

    return users


def install(core: Core) -> Installed:
    """Add RegistryService."""
    service = core.services.add(RegistryService(_users(core)))
    return Installed(servicers=[(pb_grpc.add_RegistryServiceServicer_to_server, RegistryServicer(core, service))])
