"""Models and versions."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pilotfish.aio.calls import Calls
from pilotfish.artifacts import local_files, read_chunks
from pilotfish.errors import NotFound
from pilotfish.messages import build
from pilotfish.v1 import artifact_service_pb2 as art
from pilotfish.v1 import artifact_service_pb2_grpc as art_grpc
from pilotfish.v1 import common_pb2
from pilotfish.v1 import registry_pb2 as pb
from pilotfish.v1 import registry_service_pb2 as svc
from pilotfish.v1 import registry_service_pb2_grpc as svc_grpc

__all__ = ["Models"]

VALIDATION_TIMEOUT_S = 300.0


class Models:
    """Models and their versions."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.models`."""
        self._calls = calls
        self._project = project

    def _model(self, name: str) -> str:
        return name if "/" in name else f"projects/{self._project}/models/{name}"

    async def create(self, model: str, *, description: str = "", tags: Mapping[str, str] | None = None) -> pb.Model:
        """Create a model; registering a version creates it too.

        Raises:
            AlreadyExists: the name is taken.
        """
        request = svc.CreateModelRequest(
            project=self._project, model_id=model, description=description, tags=dict(tags or {})
        )
        answer: svc.CreateModelResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "CreateModel", request)
        return answer.model

    async def get(self, model: str) -> pb.Model:
        """Return a model with its aliases."""
        request = svc.GetModelRequest(name=self._model(model))
        answer: svc.GetModelResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "GetModel", request)
        return answer.model

    async def register(
        self,
        path: str | Path,
        *,
        model: str,
        label: str = "",
        description: str = "",
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        training_data_hash: str = "",
        dependencies: Mapping[str, str] | None = None,
        signature: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        validate_only: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> pb.Version:
        """Upload an artifact, have it validated, and register it as the model's next version.

        Args:
            path: an ONNX file, or a directory that holds `model.onnx` and what belongs to it.
            model: the model's id; created when it does not exist.
            label: free label such as "2.1.0", unique within the model.
            description: what is new in it.
            tags: free labels.
            metrics: name → finite number.
            hyperparameters: any JSON object.
            training_data_hash: SHA-256 of the training data, hex.
            dependencies: package → version.
            signature: inputs, outputs, feature_names, classes; None: read from the artifact.
            aliases: to point at it in the same transaction.
            validate_only: check and answer, register nothing.
            progress: called with (bytes sent, bytes in all).

        Raises:
            FailedPrecondition: validation failed; `violations` has every problem.
        """
        files = local_files(Path(path))
        upload = await self._upload(files, progress)
        request = svc.RegisterVersionRequest(
            project=self._project,
            model=model,
            upload=upload,
            label=label,
            description=description,
            tags=dict(tags or {}),
            metrics=dict(metrics or {}),
            training_data_hash=training_data_hash,
            dependencies=dict(dependencies or {}),
            aliases=aliases,
            validate_only=validate_only,
        )
        if hyperparameters:
            request.hyperparameters.update(dict(hyperparameters))
        if signature is not None:
            request.signature.CopyFrom(build(common_pb2.Signature, signature, "signature"))
        answer: svc.RegisterVersionResponse = await self._calls.unary(
            svc_grpc.RegistryServiceStub, "RegisterVersion", request, timeout_s=VALIDATION_TIMEOUT_S
        )
        return answer.version

    async def _upload(
        self, files: Mapping[str, tuple[Path, pb.ArtifactFile]], progress: Callable[[int, int], None] | None
    ) -> str:
        request = art.CreateUploadRequest(files=[file for _, file in files.values()])
        made: art.CreateUploadResponse = await self._calls.unary(art_grpc.ArtifactServiceStub, "CreateUpload", request)
        upload = made.upload
        total = sum(f.file.size_bytes for f in upload.files)
        sent = sum(f.committed_bytes for f in upload.files)

        async def chunks() -> AsyncIterator[art.WriteChunksRequest]:
            nonlocal sent
            for file in upload.files:
                source = files[file.file.path][0]
                for offset, data in read_chunks(source, file.committed_bytes):
                    yield art.WriteChunksRequest(upload=upload.id, path=file.file.path, offset=offset, data=data)
                    sent += len(data)
                    if progress is not None:
                        progress(sent, total)

        if not upload.complete:
            await self._calls.upload(art_grpc.ArtifactServiceStub, "WriteChunks", chunks())
        return upload.id

    async def version(self, ref: str) -> pb.Version:
        """Return a version: "m@3", "m@2.1.0" (a label), "m@champion" (an alias), "m" (its latest)."""
        request = svc.GetVersionRequest(name=ref if "/" in ref or "@" in ref else f"{ref}@latest")
        answer: svc.GetVersionResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "GetVersion", request)
        return answer.version

    async def versions(
        self,
        model: str = "",
        *,
        filter: str = "",
        any_tags: Sequence[str] = (),
        statuses: Sequence[str] = (),
        order_by: str = "",
    ) -> list[pb.Version]:
        """Return every version that the filter, any of the tags and any of the statuses match; model "": of all."""
        found: list[pb.Version] = []
        token = ""
        while True:
            values = {
                "parent": self._model(model) if model else f"projects/{self._project}/models/-",
                "filter": filter,
                "any_tags": list(any_tags),
                "statuses": list(statuses),
                "order_by": order_by,
                "page_size": 1000,
                "page_token": token,
            }
            request = build(svc.ListVersionsRequest, values)
            answer: svc.ListVersionsResponse = await self._calls.unary(
                svc_grpc.RegistryServiceStub, "ListVersions", request
            )
            found += answer.versions
            token = answer.next_page_token
            if not token:
                return found

    async def update(
        self, model: str, *, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> pb.Model:
        """Change a model's description or tags."""
        request = svc.UpdateModelRequest()
        request.model.name = self._model(model)
        if description is not None:
            request.model.description = description
            request.update_mask.paths.append("description")
        if tags is not None:
            request.model.tags.update(dict(tags))
            request.update_mask.paths.append("tags")
        answer: svc.UpdateModelResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "UpdateModel", request)
        return answer.model

    async def update_version(
        self,
        ref: str,
        *,
        label: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> pb.Version:
        """Change a version's label, description, tags or metrics."""
        request = svc.UpdateVersionRequest()
        request.version.name = (await self.version(ref)).name
        values = {"label": label, "description": description, "tags": tags, "metrics": metrics}
        for name, value in values.items():
            if value is None:
                continue
            request.update_mask.paths.append(name)
            if isinstance(value, Mapping):
                getattr(request.version, name).update(dict(value))
            else:
                setattr(request.version, name, value)
        answer: svc.UpdateVersionResponse = await self._calls.unary(
            svc_grpc.RegistryServiceStub, "UpdateVersion", request
        )
        return answer.version

    async def set_status(self, ref: str, status: str, *, reason: str = "") -> pb.Version:
        """Move a version along an allowed transition, such as to "deprecated".

        Raises:
            FailedPrecondition: forbidden; the message says which statuses are allowed.
        """
        name = (await self.version(ref)).name
        request = build(svc.UpdateVersionStatusRequest, {"name": name, "status": status, "reason": reason})
        answer: svc.UpdateVersionStatusResponse = await self._calls.unary(
            svc_grpc.RegistryServiceStub, "UpdateVersionStatus", request
        )
        return answer.version

    async def set_alias(self, model: str, alias: str, version: int | str) -> pb.Model:
        """Point an alias at a version, moving it if it exists."""
        request = svc.SetAliasRequest(model=self._model(model), alias=alias, version=str(version))
        answer: svc.SetAliasResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "SetAlias", request)
        return answer.model

    async def delete_alias(self, model: str, alias: str) -> pb.Model:
        """Remove an alias."""
        request = svc.DeleteAliasRequest(model=self._model(model), alias=alias)
        answer: svc.DeleteAliasResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "DeleteAlias", request)
        return answer.model

    async def changes(self, name: str) -> list[common_pb2.Change]:
        """Return the history of a model or version, newest first."""
        full = (await self.version(name)).name if "@" in name else self._model(name)
        request = svc.ListChangesRequest(name=full, page_size=1000)
        answer: svc.ListChangesResponse = await self._calls.unary(svc_grpc.RegistryServiceStub, "ListChanges", request)
        return list(answer.changes)

    async def profile(self, ref: str) -> str | None:
        """Return the profile of a version's training data as JSON; None: it has none."""
        request = svc.GetProfileRequest(name=(await self.version(ref)).name)
        try:
            answer: svc.GetProfileResponse = await self._calls.unary(
                svc_grpc.RegistryServiceStub, "GetProfile", request
            )
        except NotFound:
            return None
        return answer.profile_json

    async def download(self, ref: str, directory: str | Path | None = None) -> Path:
        """Write the files of a version into a directory (a new temporary one by default) and return it."""
        version = await self.version(ref)
        target = Path(directory) if directory is not None else Path(tempfile.mkdtemp(prefix="pilotfish-"))
        for file in version.files:
            path = target / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            request = art.ReadFileRequest(version=version.name, path=file.path)
            with open(path, "wb") as out:
                async for part in self._calls.stream(art_grpc.ArtifactServiceStub, "ReadFile", request):
                    out.write(part.data)
        return target

    async def list(self, *, filter: str = "", any_tags: Sequence[str] = ()) -> list[pb.Model]:
        """Return every model that the filter and any of the tags match."""
        found: list[pb.Model] = []
        token = ""
        while True:
            request = svc.ListModelsRequest(
                project=self._project, filter=filter, any_tags=any_tags, page_size=1000, page_token=token
            )
            answer: svc.ListModelsResponse = await self._calls.unary(
                svc_grpc.RegistryServiceStub, "ListModels", request
            )
            found += answer.models
            token = answer.next_page_token
            if not token:
                return found
