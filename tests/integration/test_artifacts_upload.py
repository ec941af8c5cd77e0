"""Uploads and downloads through real calls: resumable, hashed, refused with every reason, durable."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio

from pilotfish.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PilotfishError,
    ResourceExhausted,
)
from pilotfish.v1 import artifact_service_pb2 as pb
from pilotfish.v1 import registry_pb2
from pilotfish.v1 import registry_service_pb2 as registry_service
from pilotfish.wire_errors import from_rpc_error
from pilotfish_control_plane.artifacts.model import ArtifactFile
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.artifacts.uploads import UploadWriter
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.grpc_server.artifacts import Collector
from tests.registry_models import Client, bare_files, listing, whole_files

AREAS = ["registry", "artifacts", "experiments"]
MIB = 1024 * 1024


@pytest_asyncio.fixture
async def plane(make_control_plane: Any, engine_name: str) -> AsyncIterator[Any]:
    yield await make_control_plane(areas=AREAS, engine=engine_name)


@pytest.fixture
def client(plane: Any) -> Client:
    return Client(plane.channel)


async def error_of(call: Awaitable[Any]) -> PilotfishError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def chunk(upload: str, path: str, offset: int, data: bytes) -> pb.WriteChunksRequest:
    return pb.WriteChunksRequest(upload=upload, path=path, offset=offset, data=data)


async def stream(
    messages: Sequence[pb.WriteChunksRequest], then: BaseException | None = None
) -> AsyncIterator[pb.WriteChunksRequest]:
    for message in messages:
        yield message
    if then is not None:
        raise then


async def committed(client: Client, upload: str) -> dict[str, int]:
    found = (await client.artifacts.GetUpload(pb.GetUploadRequest(id=upload))).upload
    return {f.file.path: f.committed_bytes for f in found.files}


@pytest.mark.ledger("B1")
async def test_a_broken_upload_goes_on_where_it_stopped(plane: Any, client: Client) -> None:
    data = random.Random(7).randbytes(3 * MIB + 17)
    files = {"model.onnx": data}
    opened = await client.open_upload(files, request_id="mine")
    whole = [chunk(opened.id, "model.onnx", at, data[at : at + MIB]) for at in range(0, len(data), MIB)]
    call = client.artifacts.WriteChunks()
    for message in whole[:2]:
        await call.write(message)
    for _ in range(100):  # until both have arrived; then the client vanishes
        await asyncio.sleep(0.02)
        path = plane.home / "artifacts" / "uploads" / opened.id / "0"
        if path.exists() and path.stat().st_size == 2 * MIB:
            break
    call.cancel()
    for _ in range(100):
        if await committed(client, opened.id) == {"model.onnx": 2 * MIB}:
            break
        await asyncio.sleep(0.02)
    # The same request id finds the interrupted upload and tells where to go on.
    again = await client.open_upload(files, request_id="mine")
    assert again.id == opened.id and again.files[0].committed_bytes == 2 * MIB and not again.complete
    done = await client.artifacts.WriteChunks(stream(whole[2:]))
    assert done.upload.complete and done.upload.files[0].committed_bytes == len(data)
    assert (plane.home / "artifacts" / "uploads" / opened.id / "0").read_bytes() == data


async def test_a_gap_is_refused_with_the_offset_expected_and_an_overlap_is_not(client: Client) -> None:
    data = bytes(range(256)) * 20
    opened = await client.open_upload({"model.onnx": data})
    await client.artifacts.WriteChunks(stream([chunk(opened.id, "model.onnx", 0, data[:1000])]))
    gap = await error_of(client.artifacts.WriteChunks(stream([chunk(opened.id, "model.onnx", 1500, data[1500:])])))
    assert isinstance(gap, FailedPrecondition) and gap.reason == "UPLOAD_GAP"
    assert gap.metadata["expected_offset"] == "1000"
    late = [chunk(opened.id, "model.onnx", 400, data[400:900]), chunk(opened.id, "model.onnx", 900, data[900:])]
    assert (await client.artifacts.WriteChunks(stream(late))).upload.complete


async def test_what_came_before_a_bad_chunk_is_kept(client: Client) -> None:
    data = b"x" * 3000
    opened = await client.open_upload({"model.onnx": data})
    bad = [chunk(opened.id, "model.onnx", 0, data[:1200]), chunk(opened.id, "other", 0, b"y")]
    error = await error_of(client.artifacts.WriteChunks(stream(bad)))
    assert isinstance(error, InvalidArgument)
    assert await committed(client, opened.id) == {"model.onnx": 1200}


@pytest.mark.ledger("B1")
async def test_content_that_is_not_what_was_announced_is_refused_and_begins_again(client: Client) -> None:
    files = {"model.onnx": b"right" * 100, "signature.json": b"{}"}
    opened = await client.open_upload(files)
    wrong = {**files, "model.onnx": b"wrong" * 100}
    error = await error_of(client.send(opened.id, wrong))
    assert isinstance(error, FailedPrecondition) and error.reason == "HASH_MISMATCH"
    assert [v.field for v in error.violations] == ["model.onnx"]
    assert await committed(client, opened.id) == {"model.onnx": 0, "signature.json": 2}
    assert (await client.send(opened.id, {"model.onnx": files["model.onnx"]})).upload.complete


async def test_chunks_that_do_not_fit_are_refused(client: Client) -> None:
    opened = await client.open_upload({"model.onnx": b"x" * 10})
    for bad in (
        chunk(opened.id, "model.onnx", 0, b"x" * 11),
        chunk(opened.id, "model.onnx", -1, b"x"),
        chunk(opened.id, "../model.onnx", 0, b"x"),
        chunk(opened.id, "", 0, b"x"),
        chunk(opened.id, "model.onnx", 0, b"x" * (MIB + 1)),
    ):
        assert isinstance(await error_of(client.artifacts.WriteChunks(stream([bad]))), InvalidArgument)
    assert isinstance(await error_of(client.artifacts.WriteChunks(stream([]))), InvalidArgument)
    for unknown in ("0" * 32, "../../etc", ""):
        error = await error_of(client.artifacts.WriteChunks(stream([chunk(unknown, "model.onnx", 0, b"x")])))
        assert isinstance(error, NotFound)
        assert isinstance(await error_of(client.artifacts.GetUpload(pb.GetUploadRequest(id=unknown))), NotFound)
        assert isinstance(await error_of(client.artifacts.AbortUpload(pb.AbortUploadRequest(id=unknown))), NotFound)


BAD_PATHS = (
    "", "/etc/passwd", "../model.onnx", "a/../../b", "a/./b", "a//b", "a/", "m.onnx\x00.json", "a\\b", "C:/x", "a:b",
    "con", "NUL.onnx", "a/aux.txt", "com1", "trailing.", " lead", "trail ", "new\nline", "u\u202ef", "e\u0301.onnx",
    "\u2024\u2024/x", "\uff0fetc", "x" * 256, "/".join("a" * 17), "tab\t", "wild*", "a?b", "\u2028",
)  # fmt: skip


async def test_every_bad_path_size_and_hash_is_named(client: Client) -> None:
    good = listing(bare_files())[0]
    files = [registry_pb2.ArtifactFile(path=p, size_bytes=1, sha256=good.sha256) for p in BAD_PATHS]
    files.append(registry_pb2.ArtifactFile(path="size", size_bytes=-1, sha256=good.sha256))
    files.append(registry_pb2.ArtifactFile(path="hash", size_bytes=1, sha256="zz"))
    files.append(registry_pb2.ArtifactFile(path="empty", size_bytes=0, sha256=good.sha256))
    for file in files:
        error = await error_of(client.artifacts.CreateUpload(pb.CreateUploadRequest(files=[good, file])))
        assert isinstance(error, InvalidArgument), file
        assert all(v.field.startswith("files[1]") for v in error.violations), (file, error.violations)
    together = await error_of(client.artifacts.CreateUpload(pb.CreateUploadRequest(files=files)))
    assert int(together.metadata["violations"]) >= len(files)


@pytest.mark.parametrize(
    "paths",
    [["a", "a"], ["Model.onnx", "model.onnx"], ["a", "a/b"], ["d/x", "D"], ["\u00e9", "\u00c9"], ["ﬁle", "file"]],
    ids=str,
)
async def test_paths_that_cannot_lie_side_by_side_everywhere_are_refused(
    make_control_plane: Any, paths: list[str]
) -> None:
    client = Client((await make_control_plane(areas=AREAS)).channel)
    sha = hashlib.sha256(b"x").hexdigest()
    files = [registry_pb2.ArtifactFile(path=p, size_bytes=1, sha256=sha) for p in paths]
    error = await error_of(client.artifacts.CreateUpload(pb.CreateUploadRequest(files=files)))
    assert isinstance(error, InvalidArgument)
    assert [v.reason for v in error.violations] == ["PATH_CONFLICT"]


async def test_ten_thousand_files_are_accepted_and_one_more_is_not(make_control_plane: Any) -> None:
    client = Client((await make_control_plane(areas=AREAS)).channel)
    sha = hashlib.sha256(b"").hexdigest()
    files = [registry_pb2.ArtifactFile(path=f"d{i % 7}/{i}", sha256=sha) for i in range(10_000)]
    answer = await client.artifacts.CreateUpload(pb.CreateUploadRequest(files=files))
    assert len(answer.upload.files) == 10_000 and answer.upload.complete, "empty files need no bytes"
    files.append(registry_pb2.ArtifactFile(path="one-more", sha256=sha))
    for wrong in (files, []):
        error = await error_of(client.artifacts.CreateUpload(pb.CreateUploadRequest(files=wrong)))
        assert isinstance(error, InvalidArgument) and error.violations[0].reason == "FILE_COUNT"


async def test_an_aborted_upload_is_gone_and_a_registered_one_stays(plane: Any, client: Client) -> None:
    upload = await client.upload(bare_files())
    directory = plane.home / "artifacts" / "uploads" / upload
    assert directory.is_dir()
    await client.artifacts.AbortUpload(pb.AbortUploadRequest(id=upload))
    assert not directory.exists()
    assert isinstance(await error_of(client.artifacts.GetUpload(pb.GetUploadRequest(id=upload))), NotFound)
    upload = await client.upload(bare_files())
    await client.registry.RegisterVersion(registry_service.RegisterVersionRequest(model="churn", upload=upload))
    error = await error_of(client.artifacts.AbortUpload(pb.AbortUploadRequest(id=upload)))
    assert isinstance(error, FailedPrecondition) and error.reason == "UPLOAD_REGISTERED"
    more = await error_of(client.artifacts.WriteChunks(stream([chunk(upload, "model.onnx", 0, b"x")])))
    assert isinstance(more, FailedPrecondition)
    assert not (plane.home / "artifacts" / "uploads" / upload).exists(), "its bytes are in the store now"


async def test_an_upload_expires_unless_it_grows(make_control_plane: Any, engine_name: str) -> None:
    clock = FakeClock()
    plane = await make_control_plane(areas=AREAS, engine=engine_name, clock=clock, upload_expiry_s=3600.0)
    client, service = Client(plane.channel), plane.core.services.get(ArtifactService)
    data = b"x" * 100
    first, second = [(await client.open_upload({"model.onnx": data})).id for _ in range(2)]
    clock.advance(3000)
    await client.artifacts.WriteChunks(stream([chunk(second, "model.onnx", 0, data[:50])]))
    clock.advance(1000)
    assert isinstance(await error_of(client.artifacts.GetUpload(pb.GetUploadRequest(id=first))), NotFound)
    assert await committed(client, second) == {"model.onnx": 50}
    found = (await client.artifacts.GetUpload(pb.GetUploadRequest(id=second))).upload
    assert found.expire_time.ToDatetime() == (clock.now() + timedelta(seconds=2600)).replace(tzinfo=None)
    clock.advance(2700)
    await Collector(plane.core.db, service).collect()
    assert not list((plane.home / "artifacts" / "uploads").iterdir())


async def test_what_does_not_fit_is_refused_before_it_is_sent(make_control_plane: Any) -> None:
    plane = await make_control_plane(areas=AREAS, max_artifact_bytes=1000)
    client, service = Client(plane.channel), plane.core.services.get(ArtifactService)
    large = await error_of(client.open_upload({"model.onnx": b"x" * 1001}))
    assert isinstance(large, ResourceExhausted) and large.reason == "ARTIFACT_TOO_LARGE"
    service._uploads.free_bytes = lambda: service.policy.reserve_bytes + 1500
    await client.open_upload({"model.onnx": b"x" * 1000})
    full = await error_of(client.open_upload({"model.onnx": b"x" * 600}))
    assert isinstance(full, ResourceExhausted) and full.reason == "STORE_FULL" and full.retry_after_s
    service.policy.open_uploads = 1
    many = await error_of(client.open_upload({"model.onnx": b"x"}))
    assert isinstance(many, ResourceExhausted) and many.reason == "TOO_MANY_UPLOADS"


async def test_a_full_disk_refuses_the_chunk_and_keeps_what_was_durable(
    make_control_plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full stands for the disk: every write to it fails with ENOSPC."""
    plane = await make_control_plane(areas=AREAS)
    client = Client(plane.channel)
    data = b"x" * 2000
    opened = await client.open_upload({"model.onnx": data, "signature.json": b"{}"})
    await client.artifacts.WriteChunks(stream([chunk(opened.id, "model.onnx", 0, data[:700])]))
    with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as patched:
        patched.setattr(UploadWriter, "_stream", lambda writer, position, at: full)
        error = await error_of(client.artifacts.WriteChunks(stream([chunk(opened.id, "model.onnx", 700, data[700:])])))
    assert isinstance(error, ResourceExhausted) and error.retry_after_s
    assert await committed(client, opened.id) == {"model.onnx": 700, "signature.json": 0}
    done = await client.artifacts.WriteChunks(
        stream([chunk(opened.id, "model.onnx", 700, data[700:]), chunk(opened.id, "signature.json", 0, b"{}")])
    )
    assert done.upload.complete


@pytest.mark.ledger("B2")
async def test_files_are_read_back_from_any_offset_and_a_changed_one_is_noticed(plane: Any, client: Client) -> None:
    files = whole_files()
    version = await client.register("churn", files)

    async def read(path: str, offset: int = 0, name: str = version.name) -> bytes:
        got, at = b"", offset
        async for message in client.artifacts.ReadFile(pb.ReadFileRequest(version=name, path=path, offset=offset)):
            assert message.offset == at and len(message.data) <= MIB
            got, at = got + message.data, at + len(message.data)
        return got

    for path, data in files.items():
        assert await read(path) == data
        assert await read(path, len(data) // 2, "churn@1") == data[len(data) // 2 :]
        assert await read(path, len(data)) == b""
    for path in ("nothing", "../model.onnx", "", "/etc/passwd"):
        assert isinstance(await error_of(read(path)), NotFound)
    assert isinstance(await error_of(read("model.onnx", -1)), InvalidArgument)
    assert isinstance(await error_of(read("model.onnx", len(files["model.onnx"]) + 1)), InvalidArgument)
    assert isinstance(await error_of(read("model.onnx", 0, "churn@9")), NotFound)
    stored = plane.home / "artifacts" / version.artifact_path / "example.json"
    os.chmod(stored, 0o600)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    for offset in (0, 5):
        error = await error_of(read("example.json", offset))
        assert isinstance(error, Internal) and error.reason == "ARTIFACT_CORRUPT"
    service = plane.core.services.get(ArtifactService)
    kept = [(f.path, f.size_bytes, f.sha256) for f in version.files]
    differences = service.verify(version.artifact_path, [ArtifactFile(*f) for f in kept])
    assert len(differences) == 1 and differences[0].startswith("example.json has the SHA-256")


async def test_two_streams_to_one_upload_take_turns(client: Client) -> None:
    files = {f"d/{i}.json": bytes([65 + i]) * 5000 for i in range(8)}
    opened = await client.open_upload(files)
    await asyncio.gather(*(client.send(opened.id, files, chunk=700) for _ in range(4)))
    assert set((await committed(client, opened.id)).values()) == {5000}


async def test_the_collector_removes_what_no_row_claims_and_nothing_else(plane: Any, client: Client) -> None:
    version = await client.register("churn", whole_files())
    kept = await client.upload(bare_files(3))
    artifacts = plane.home / "artifacts"
    orphan = artifacts / "models" / "churn" / "2" / ("0" * 32)
    orphan.mkdir(parents=True)
    (orphan / "model.onnx").write_bytes(b"x")
    lost = artifacts / "uploads" / ("1" * 32)
    lost.mkdir()
    service = plane.core.services.get(ArtifactService)
    with service.placing("0" * 32):
        assert await Collector(plane.core.db, service).collect() == [f"uploads/{'1' * 32}"], "it is being placed"
    assert await Collector(plane.core.db, service).collect() == [f"models/churn/2/{'0' * 32}"]
    assert not orphan.parent.exists() and not lost.exists()
    assert (artifacts / version.artifact_path / "model.onnx").is_file()
    assert (artifacts / "uploads" / kept).is_dir()
