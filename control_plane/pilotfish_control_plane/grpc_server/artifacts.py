"""ArtifactService on the wire, and the collection of what crashes leave behind.

Owns the conversion, the order "durable, recorded, acknowledged" of uploads, and one writer per upload.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any  # grpc's contexts carry no useful type
from weakref import WeakValueDictionary

from pilotfish.errors import FailedPrecondition, Internal, InvalidArgument, NotFound, Violation
from pilotfish.v1 import artifact_service_pb2 as pb
from pilotfish.v1 import artifact_service_pb2_grpc as pb_grpc
from pilotfish_control_plane.artifacts.confinement import Limits
from pilotfish_control_plane.artifacts.model import CHUNK_BYTES, Upload
from pilotfish_control_plane.artifacts.service import ArtifactService, Policy
from pilotfish_control_plane.artifacts.uploads import Progress, UploadWriter
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.grpc_server.registry_wire import file_from_wire, file_to_wire, time_to_wire
from pilotfish_control_plane.names import VersionRef
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.settings import Settings
from pilotfish_control_plane.storage.database import Database

__all__ = ["ArtifactServicer", "Collector", "install", "upload_to_wire"]

log = logging.getLogger(__name__)

SAVE_BYTES = 32 * 1024 * 1024
"""Bytes of one stream after which they are forced to the disk and recorded, so that a crash repeats little."""

EXPIRE_S = 300.0
"""Seconds between two looks for expired uploads."""

COLLECT_EVERY = 12
"""Looks after which the whole store is compared with the rows; crashes are cleaned up at the start anyway."""


def upload_to_wire(upload: Upload) -> pb.Upload:
    """Return an upload on the wire."""
    return pb.Upload(
        id=upload.id,
        files=[pb.UploadFile(file=file_to_wire(f.file), committed_bytes=f.committed_bytes) for f in upload.files],
        complete=upload.complete,
        expire_time=time_to_wire(upload.expires_at),
    )


class ArtifactServicer(pb_grpc.ArtifactServiceServicer):
    """The calls of ArtifactService."""

    def __init__(self, core: Core, service: ArtifactService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> pb.CreateUploadResponse:
        """Open an upload; repeated with one request_id: tell how far it is."""
        files = [file_from_wire(f) for f in request.files]
        answer = await self._core.mutations.mutate(
            request, lambda tx: pb.CreateUploadResponse(upload=upload_to_wire(self._service.create_upload(tx, files)))
        )
        if request.request_id:
            # The stored answer is as old as the first call; whoever repeats it wants to know where to go on.
            try:
                found = await self._core.mutations.read(lambda tx: self._service.upload(tx, answer.upload.id))
            except NotFound:
                return answer
            answer = pb.CreateUploadResponse(upload=upload_to_wire(found))
        return answer

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        """Tell what is durable."""
        found = await self._core.mutations.read(lambda tx: self._service.upload(tx, request.id))
        return pb.GetUploadResponse(upload=upload_to_wire(found))

    async def WriteChunks(
        self, request_iterator: AsyncIterator[pb.WriteChunksRequest], context: Any
    ) -> pb.WriteChunksResponse:
        """Write chunks; answer when all of them are durable."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise InvalidArgument("the stream has no message", violations=[Violation("upload", "is missing")])
        lock = self._writing.setdefault(first.upload, asyncio.Lock())
        async with lock:
            found = await self._core.mutations.read(lambda tx: self._service.upload(tx, first.upload))
            writer = await asyncio.to_thread(self._service.writer, found)
            try:
                upload = await self._write_all(first, request_iterator, writer)
            except BaseException:
                # Whatever ended the stream: what arrived is kept, so that the next one goes on behind it.
                await asyncio.shield(self._save_quietly(first.upload, writer))
                raise
            finally:
                writer.close()
        return pb.WriteChunksResponse(upload=upload_to_wire(upload))

    async def _write_all(
        self, first: pb.WriteChunksRequest, rest: AsyncIterator[pb.WriteChunksRequest], writer: UploadWriter
    ) -> Upload:
        message: pb.WriteChunksRequest | None = first
        while message is not None:
            if message.upload not in ("", first.upload):
                text = "differs from the first message's: one stream writes to one upload"
                raise InvalidArgument(f"upload {text}", violations=[Violation("upload", text)])
            await asyncio.to_thread(writer.write, message.path, message.offset, message.data)
            if writer.unsaved_bytes >= SAVE_BYTES:
                await self._save(first.upload, writer)
            message = await anext(rest, None)
        return await self._save(first.upload, writer)

    async def _save(self, upload_id: str, writer: UploadWriter) -> Upload:
        progress, wrong = await asyncio.to_thread(writer.save)
        upload = await self._core.mutations.write(lambda tx: self._service.record_progress(tx, upload_id, progress))
        if wrong:
            raise FailedPrecondition(
                f"{len(wrong)} files are not what was announced: send them again from byte 0",
                reason="HASH_MISMATCH",
                violations=wrong,
                metadata={"expected_offset": "0", "path": wrong[0].field},
            )
        return upload

    async def _save_quietly(self, upload_id: str, writer: UploadWriter) -> None:
        def record(progress: list[Progress]) -> Any:
            return self._core.mutations.write(lambda tx: self._service.record_progress(tx, upload_id, progress))

        try:
            progress, _ = await asyncio.to_thread(writer.save)
            await record(progress)
        except Exception as error:
            log.info("upload %s: the last chunks of a broken stream are not kept: %s", upload_id, error)

    async def AbortUpload(self, request: pb.AbortUploadRequest, context: Any) -> pb.AbortUploadResponse:
        """Give up an upload and remove what was written."""

        def abort(tx: Any) -> pb.AbortUploadResponse:
            self._service.abort_upload(tx, request.id)
            return pb.AbortUploadResponse()

        answer = await self._core.mutations.mutate(request, abort)
        await asyncio.to_thread(self._service.discard_upload, request.id)
        return answer

    async def ReadFile(self, request: pb.ReadFileRequest, context: Any) -> AsyncIterator[pb.ReadFileResponse]:
        """Read a file of a version; its hash is checked over the whole file, wherever reading begins."""
        registry = self._core.services.get(RegistryService)
        ref = VersionRef.parse(request.version)
        version = await self._core.mutations.read(lambda tx: registry.find(tx, ref))
        file = next((f for f in version.files if f.path == request.path), None)
        if file is None:
            names = ", ".join(f.path for f in version.files[:20]) or "none"
            raise NotFound(f"{version} has no file {request.path[:200]!r}; its files are: {names}")
        if not 0 <= request.offset <= file.size_bytes:
            text = f"is {request.offset}; {file.path} has {file.size_bytes} bytes"
            raise InvalidArgument(f"offset {text}", violations=[Violation("offset", text)])
        stream = await asyncio.to_thread(self._service.open_file, version.artifact_path, file.path)
        digest, at = hashlib.sha256(), 0
        with stream:
            while data := await asyncio.to_thread(stream.read, CHUNK_BYTES):
                await asyncio.to_thread(digest.update, data)
                fresh = data[max(request.offset - at, 0) :]
                at += len(data)
                if fresh:
                    yield pb.ReadFileResponse(offset=at - len(fresh), data=fresh)
        if digest.hexdigest() != file.sha256:
            raise Internal(
                f"{file.path} of {version} is not what was registered: its SHA-256 is {digest.hexdigest()}, "
                f"{file.sha256} was registered; restore the artifact store",
                reason="ARTIFACT_CORRUPT",
            )


class Collector:
    """Removes expired uploads every few minutes, and what interrupted registrations left at the start and hourly."""

    def __init__(self, db: Database, service: ArtifactService, every_s: float = EXPIRE_S) -> None:
        """Collect for `service`."""
        self._db = db
        self._service = service
        self._every_s = every_s

    async def run(self) -> None:
        """Collect until cancelled."""
        looks = 0
        while True:
            try:
                await (self.expire() if looks % COLLECT_EVERY else self.collect())
                looks += 1
            except Exception:
                log.exception("collecting abandoned artifacts failed; it is tried again")
            await asyncio.sleep(self._every_s)

    async def expire(self) -> None:
        """Remove the uploads whose time is over."""
        for upload_id in await self._db.write(self._service.expire_uploads):
            await asyncio.to_thread(self._service.discard_upload, upload_id)

    async def collect(self) -> list[str]:
        """Remove expired uploads and everything that no row claims; return the latter."""
        await self.expire()
        found = await asyncio.to_thread(self._service.unclaimed)
        directories = await asyncio.to_thread(self._service.upload_directories)
        claimed = await self._db.read(self._service.claimed)
        return await asyncio.to_thread(self._service.collect, found, directories, claimed)


def _root(settings: Settings, default: Path) -> Path:
    store = settings.artifact_store
    if "://" in store and not store.startswith("file://"):
        raise InvalidArgument(
            f"artifact_store {store!r}: only local directories are supported",
            violations=[Violation("artifact_store", "is no local directory", "UNSUPPORTED_STORE")],
        )
    return Path(store.removeprefix("file://")) if store else default


def install(core: Core) -> Installed:
    """Add ArtifactService and the collector."""
    settings = core.settings
    limits = Limits(
        wall_s=settings.validation_timeout_s,
        cpu_s=max(1, round(settings.validation_timeout_s)),
        memory_bytes=settings.validation_memory_mib * 1024**2,
    )
    policy = Policy(
        artifact_bytes=settings.max_artifact_bytes,
        expiry=timedelta(seconds=settings.upload_expiry_s),
        limits=limits,
    )
    service = core.services.add(ArtifactService(_root(settings, core.paths.artifacts), policy=policy))
    service.forget_interrupted()
    return Installed(
        servicers=[(pb_grpc.add_ArtifactServiceServicer_to_server, ArtifactServicer(core, service))],
        background=[Collector(core.db, service)],
    )
