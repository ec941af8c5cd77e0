"""The interceptor stack, seen from a client: a real server on 127.0.0.1."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any, cast

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilotfish import errors, wire_errors
from pilotfish.errors import PilotfishError, Violation
from pilotfish.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    registry_service_pb2,
    registry_service_pb2_grpc,
)
from pilotfish_control_plane.access.model import Role
from pilotfish_control_plane.storage import access, audit

from ..conftest import MakeControlPlane, RunningControlPlane
from .foundation_area import Area, error_to_raise

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def no_errors_left() -> Iterator[None]:
    yield
    error_to_raise.clear()


@pytest.fixture
def area() -> Area:
    return Area()


@pytest_asyncio.fixture
async def plane(make_control_plane: MakeControlPlane, area: Area) -> RunningControlPlane:
    return await make_control_plane(areas=[area])


def registry(plane: RunningControlPlane) -> Any:
    return registry_service_pb2_grpc.RegistryServiceStub(plane.channel)


def create(model_id: str = "fraud", **fields: Any) -> Any:
    return registry_service_pb2.CreateModelRequest(model_id=model_id, **fields)


def get(name: str = "fraud") -> Any:
    return registry_service_pb2.GetModelRequest(name=name)


async def failure(call: Any) -> PilotfishError:
    """Return the error of a call that must fail, as a client sees it."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return wire_errors.from_rpc_error(failed.value)


async def token_with(plane: RunningControlPlane, role: Role, project: str = "*", lifetime_s: float = 0) -> str:
    """Return a new token of a new principal."""
    token = f"token-{role.name}-{project}"

    def add(tx: Any) -> None:
        access.bind(tx, f"{role.name}-{project}".lower(), project, role)
        expires = tx.now + timedelta(seconds=lifetime_s) if lifetime_s else None
        access.add_token(tx, token, f"{role.name}-{project}".lower(), access.digest(token), expires)

    await plane.core.db.write(add)
    return token


# Errors on the wire


@pytest.mark.parametrize("cls", list(wire_errors.STATUS_OF))
async def test_every_error_arrives_as_the_same_class_with_its_violations(
    plane: RunningControlPlane, cls: type[PilotfishError]
) -> None:
    raised = cls(
        "fraud@7 cannot go: é ✓",
        reason="SOME_REASON",
        violations=[Violation("a.b", "is wrong", "WRONG"), Violation("c", "is ü too", "")],
        metadata={"model": "fraud"},
        retry_after_s=1.25,
    )
    error_to_raise["fraud"] = lambda: raised
    seen = await failure(registry(plane).CreateModel(create(), metadata=(("x-request-id", "id-7"),)))
    assert type(seen) is cls
    assert seen.message == raised.message
    assert (seen.reason, tuple(seen.violations)) == ("SOME_REASON", tuple(raised.violations))
    assert seen.metadata == {"model": "fraud"}
    assert seen.retry_after_s == 1.25
    assert seen.request_id == "id-7"


async def test_a_thousand_violations_still_reach_the_client(plane: RunningControlPlane) -> None:
    error_to_raise["fraud"] = lambda: errors.FailedPrecondition(
        "ü" * 5000, violations=[Violation(f"field{i}", "x" * 100, "R") for i in range(1000)]
    )
    seen = await failure(registry(plane).CreateModel(create()))
    assert isinstance(seen, errors.FailedPrecondition)
    assert 10 < len(seen.violations) < 1000
    assert int(seen.metadata["violations_omitted"]) + len(seen.violations) == 1000


async def test_a_bug_shows_its_request_id_and_keeps_its_text_in_the_log(
    plane: RunningControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    error_to_raise["fraud"] = lambda: ZeroDivisionError("secret detail")
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as failed:
        await registry(plane).CreateModel(create())
    seen = wire_errors.from_rpc_error(failed.value)
    assert isinstance(seen, errors.Internal)
    assert seen.request_id and seen.request_id in seen.message
    assert "secret" not in str(failed.value.details()) + str(failed.value.trailing_metadata())
    logged = "".join(record.getMessage() + str(record.exc_text) for record in caplog.records)
    assert "secret detail" in logged + caplog.text
    assert seen.request_id in caplog.text


async def test_an_unknown_method_is_unimplemented(plane: RunningControlPlane) -> None:
    call: Any = plane.channel.unary_unary("/pilotfish.v1.RegistryService/NoSuch", lambda _: b"", lambda raw: raw)
    assert isinstance(await failure(call(None)), errors.Unimplemented)


# Request ids


async def test_a_request_id_is_taken_over_or_made_and_always_returned(plane: RunningControlPlane) -> None:
    call = registry(plane).GetModel(get(), metadata=(("x-request-id", "my-id"),))
    answer = await call
    assert answer.model.description == "admin my-id /pilotfish.v1.RegistryService/GetModel"
    assert ("x-request-id", "my-id") in tuple(await call.trailing_metadata())
    made = {dict(await c.trailing_metadata())["x-request-id"] for c in [registry(plane).GetModel(get()) for _ in "123"]}
    assert len(made) == 3
    strange = registry(plane).GetModel(get(), metadata=(("x-request-id", "two words"),))
    await strange
    assert dict(await strange.trailing_metadata())["x-request-id"] != "two words"


# Authentication and roles


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic abc", "Bearer "])
async def test_a_call_without_a_valid_token_is_unauthenticated(plane: RunningControlPlane, header: str) -> None:
    metadata = (("authorization", header),) if header else ()
    async with grpc.aio.insecure_channel(plane.address) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        seen = await failure(stub.GetModel(get(), metadata=metadata))
    assert isinstance(seen, errors.Unauthenticated)
    assert seen.reason == ("TOKEN_INVALID" if header == "Bearer wrong" else "TOKEN_MISSING")


@pytest.mark.parametrize(
    ("role", "may_read", "may_create", "may_connect"),
    [
        (Role.VIEWER, True, False, False),
        (Role.EDITOR, True, True, False),
        (Role.DEPLOYER, True, True, False),
        (Role.ADMIN, True, True, True),
        (Role.SIDECAR, False, False, True),
    ],
)
async def test_each_role_may_call_what_it_covers_and_nothing_else(
    plane: RunningControlPlane, role: Role, may_read: bool, may_create: bool, may_connect: bool
) -> None:
    async with plane.channel_with(await token_with(plane, role)) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        fleet = fleet_service_pb2_grpc.FleetServiceStub(channel)

        async def connect() -> None:
            call = fleet.Connect(iter([fleet_service_pb2.ConnectRequest()]))
            async for _ in call:
                pass

        calls: list[tuple[Any, bool]] = [
            (stub.GetModel(get()), may_read),
            (stub.CreateModel(create()), may_create),
            (connect(), may_connect),
        ]
        for call, allowed in calls:
            if allowed:
                await call
            else:
                seen = await failure(call)
                assert isinstance(seen, errors.PermissionDenied)
                assert seen.reason == "ROLE_TOO_LOW"
                assert seen.metadata["principal"] == f"{role.name.lower()}-*"


async def test_a_role_in_one_project_holds_in_that_project_only(plane: RunningControlPlane) -> None:
    async with plane.channel_with(await token_with(plane, Role.EDITOR, "risk")) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await stub.CreateModel(create(project="risk"))
        await stub.GetModel(get("projects/risk/models/fraud"))
        for refused in [
            stub.CreateModel(create()),
            stub.CreateModel(create(project="sales")),
            stub.CreateModel(create(project="projects/sales")),
            stub.GetModel(get("projects/sales/models/fraud")),
            stub.GetModel(get("fraud")),
        ]:
            assert isinstance(await failure(refused), errors.PermissionDenied)


async def test_a_role_in_one_project_is_checked_for_every_message_of_a_stream(plane: RunningControlPlane) -> None:
    async with plane.channel_with(await token_with(plane, Role.EDITOR, "risk")) as channel:
        stub = artifact_service_pb2_grpc.ArtifactServiceStub(channel)
        mine = artifact_service_pb2.WriteChunksRequest(upload="projects/risk/x")
        foreign = artifact_service_pb2.WriteChunksRequest(upload="projects/sales/x")
        assert (await stub.WriteChunks(iter([mine, mine]))).upload.id == "2"
        assert isinstance(await failure(stub.WriteChunks(iter([mine, foreign]))), errors.PermissionDenied)


async def test_a_method_that_declares_no_role_is_refused_to_the_administrator_too(plane: RunningControlPlane) -> None:
    call = plane.channel.unary_unary(
        "/pilotfish_test.Roleless/Do", empty_pb2.Empty.SerializeToString, empty_pb2.Empty.FromString
    )
    seen = await failure(call(empty_pb2.Empty()))
    assert isinstance(seen, errors.PermissionDenied)
    assert seen.reason == "NO_ROLE_DECLARED"


async def test_a_revoked_token_ends_at_once_and_takes_its_open_streams_along(plane: RunningControlPlane) -> None:
    token = await token_with(plane, Role.VIEWER)
    async with plane.channel_with(token) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await stub.GetModel(get())
        watch = event_service_pb2_grpc.EventServiceStub(channel).Watch(
            event_service_pb2.WatchRequest(subject_prefix="endless")
        )
        for _ in range(3):
            await watch.read()
        await plane.core.db.write(lambda tx: access.revoke_token(tx, token))
        assert isinstance(await failure(stub.GetModel(get())), errors.Unauthenticated)
        assert isinstance(await failure(watch.read()), errors.Unauthenticated)


async def test_a_revoked_token_is_not_served_from_a_cache(plane: RunningControlPlane) -> None:
    token = await token_with(plane, Role.VIEWER)
    async with plane.channel_with(token) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await stub.GetModel(get())
        await plane.core.db.write(lambda tx: access.revoke_token(tx, token))
        assert isinstance(await failure(stub.GetModel(get())), errors.Unauthenticated)


async def test_a_token_ends_when_it_expires(plane: RunningControlPlane) -> None:
    async with plane.channel_with(await token_with(plane, Role.VIEWER, lifetime_s=0.4)) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await stub.GetModel(get())
        await asyncio.sleep(0.5)
        assert isinstance(await failure(stub.GetModel(get())), errors.Unauthenticated)


# Deadlines and cancellation


async def test_a_unary_call_without_a_deadline_gets_the_default(
    make_control_plane: MakeControlPlane, area: Area
) -> None:
    plane = await make_control_plane(areas=[area], default_deadline_s=0.3)
    started = time.monotonic()
    seen = await failure(registry(plane).GetModel(get("slow")))
    assert isinstance(seen, errors.DeadlineExceeded)
    assert "0.3 s" in seen.message
    assert 0.25 < time.monotonic() - started < 5
    assert area.cancelled == 1


async def test_a_caller_that_goes_away_cancels_its_handler(plane: RunningControlPlane, area: Area) -> None:
    call = registry(plane).GetModel(get("slow"))
    await area.started.wait()
    call.cancel()
    for _ in range(100):
        if area.cancelled:
            break
        await asyncio.sleep(0.02)
    assert area.cancelled == 1


# The four kinds


async def test_all_four_kinds_of_calls_pass(plane: RunningControlPlane) -> None:
    assert (await registry(plane).GetModel(get())).model.name == "fraud"
    watch = event_service_pb2_grpc.EventServiceStub(plane.channel).Watch(event_service_pb2.WatchRequest())
    assert [w.resume_token async for w in watch] == ["0 admin", "1 admin", "2 admin"]
    artifacts = artifact_service_pb2_grpc.ArtifactServiceStub(plane.channel)
    chunk = artifact_service_pb2.WriteChunksRequest(data=b"x" * 1000)
    assert (await artifacts.WriteChunks(iter([chunk] * 5))).upload.id == "5"
    connect = fleet_service_pb2_grpc.FleetServiceStub(plane.channel).Connect(
        iter([fleet_service_pb2.ConnectRequest()] * 4)
    )
    assert len([r async for r in connect]) == 4


async def test_an_error_in_the_middle_of_a_stream_keeps_its_class(plane: RunningControlPlane) -> None:
    error_to_raise["fail"] = lambda: errors.NotFound("gone", reason="GONE")
    watch = event_service_pb2_grpc.EventServiceStub(plane.channel).Watch(
        event_service_pb2.WatchRequest(subject_prefix="fail")
    )
    received = []

    async def read_all() -> None:
        async for response in watch:
            received.append(response)

    seen = await failure(read_all())
    assert isinstance(seen, errors.NotFound) and seen.reason == "GONE"
    assert len(received) == 3
    chunks = iter([artifact_service_pb2.WriteChunksRequest()] * 200)
    seen = await failure(artifact_service_pb2_grpc.ArtifactServiceStub(plane.channel).WriteChunks(chunks))
    assert isinstance(seen, errors.NotFound)


async def test_a_message_above_8_mib_is_refused(plane: RunningControlPlane) -> None:
    chunk = artifact_service_pb2.WriteChunksRequest(data=b"x" * (8 * 1024 * 1024 + 1))
    stub = artifact_service_pb2_grpc.ArtifactServiceStub(plane.channel)
    assert isinstance(await failure(stub.WriteChunks(iter([chunk]))), errors.ResourceExhausted)


# Idempotency


async def test_a_repeated_request_id_gets_the_stored_answer(plane: RunningControlPlane, area: Area) -> None:
    first = await registry(plane).CreateModel(create(request_id="r1", description="d"))
    again = await registry(plane).CreateModel(create(request_id="r1", description="d"))
    assert first == again
    assert area.created == 1
    other = await failure(registry(plane).CreateModel(create(request_id="r1", description="other")))
    assert isinstance(other, errors.InvalidArgument)
    assert other.reason == "REQUEST_ID_REUSED"
    await registry(plane).CreateModel(create(request_id="r2", description="d"))
    await registry(plane).CreateModel(create(description="d"))
    await registry(plane).CreateModel(create(description="d"))
    assert area.created == 4


async def test_a_request_id_belongs_to_its_caller(plane: RunningControlPlane, area: Area) -> None:
    await registry(plane).CreateModel(create(request_id="r1"))
    async with plane.channel_with(await token_with(plane, Role.EDITOR)) as channel:
        await registry_service_pb2_grpc.RegistryServiceStub(channel).CreateModel(create("x", request_id="r1"))
    assert area.created == 2


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
@pytest.mark.ledger("G4")
async def test_a_repeated_request_id_gets_the_same_answer_after_a_restart(
    make_control_plane: MakeControlPlane, engine: str
) -> None:
    before, after = Area(), Area()
    one = await make_control_plane(areas=[before], engine=engine)
    first = await registry(one).CreateModel(create(request_id="r1"))
    token = one.token
    await one.app.stop()
    two = await make_control_plane(areas=[after], database=one.app.settings.database)
    assert two.token == token
    assert await registry(two).CreateModel(create(request_id="r1")) == first
    assert (before.created, after.created) == (1, 0)


async def test_twenty_calls_with_one_request_id_at_once_do_the_change_once(
    make_control_plane: MakeControlPlane, engine_name: str, area: Area
) -> None:
    plane = await make_control_plane(areas=[area], engine=engine_name)
    answers = await asyncio.gather(*(registry(plane).CreateModel(create(request_id="r1")) for _ in range(20)))
    assert len({a.SerializeToString() for a in answers}) == 1
    rows = await plane.core.db.read(lambda tx: audit.listing(tx.conn, resource="fraud"))
    assert len(rows) == 1


async def test_failures_are_not_stored(plane: RunningControlPlane, area: Area) -> None:
    error_to_raise["fraud"] = lambda: errors.Unavailable("try again")
    await failure(registry(plane).CreateModel(create(request_id="r1")))
    error_to_raise.clear()
    await registry(plane).CreateModel(create(request_id="r1"))
    assert area.created == 1


# Audit, health, reflection, metrics, drain


async def test_a_change_is_audited_and_sealed_within_a_second(plane: RunningControlPlane) -> None:
    await registry(plane).CreateModel(create(description="d"), metadata=(("x-request-id", "id-1"),))
    (row,) = await plane.core.db.read(lambda tx: audit.listing(tx.conn, resource="fraud"))
    assert (row.principal, row.request_id, row.after) == ("admin", "id-1", {"description": "d"})
    await asyncio.sleep(1.0)
    key = plane.app.paths.audit_key.read_text().strip().encode()
    found = await plane.core.db.read(lambda tx: audit.verify(tx.conn, key))
    assert found.problems == () and found.unsealed == 0 and found.sealed >= 1


@pytest.mark.ledger("G4")
async def test_health_and_reflection_need_no_token(plane: RunningControlPlane) -> None:
    async with grpc.aio.insecure_channel(plane.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "pilotfish.v1.RegistryService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (listed,) = [r async for r in stub.ServerReflectionInfo(asked)]
        names = {s.name for s in listed.list_services_response.service}
    assert {"pilotfish.v1.RegistryService", "grpc.health.v1.Health"} <= names


async def test_metrics_count_calls_by_method_and_code(plane: RunningControlPlane) -> None:
    await registry(plane).GetModel(get())
    error_to_raise["fraud"] = lambda: errors.NotFound("no")
    await failure(registry(plane).CreateModel(create()))
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{plane.http_address}/metrics")).text
        assert (await client.get(f"{plane.http_address}/healthz")).status_code == 200
        assert (await client.get(f"{plane.http_address}/readyz")).status_code == 200
        rebound = await client.get(f"{plane.http_address}/metrics", headers={"host": "evil.example"})
        assert rebound.status_code == 400
    labels = 'grpc_method="GetModel",grpc_service="pilotfish.v1.RegistryService"'
    assert f"grpc_server_started_total{{{labels}}} 1.0" in text
    assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0' in text
    assert 'grpc_code="NOT_FOUND",grpc_method="CreateModel"' in text
    assert f"grpc_server_handling_seconds_count{{{labels}}} 1.0" in text


async def test_a_drain_finishes_running_calls_and_ends_endless_streams(plane: RunningControlPlane, area: Area) -> None:
    slow = registry(plane).GetModel(get("slow"))
    await area.started.wait()
    watch = event_service_pb2_grpc.EventServiceStub(plane.channel).Watch(
        event_service_pb2.WatchRequest(subject_prefix="endless")
    )
    for _ in range(3):
        await watch.read()
    async with grpc.aio.insecure_channel(plane.address) as other:
        stub: Any = health_pb2_grpc.HealthStub(other)
        health = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(plane.app.stop())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        ended = await failure(watch.read())
        assert isinstance(ended, errors.Unavailable)
        assert ended.reason == "DRAINING"
        health.cancel()
    assert not slow.done()
    area.go_on.set()
    assert (await slow).model.name == "slow"
    started = time.monotonic()
    await stopping
    assert time.monotonic() - started < 1.5


async def chunks(count: int) -> AsyncIterator[Any]:
    for _ in range(count):
        yield artifact_service_pb2.WriteChunksRequest(data=b"x")
        await asyncio.sleep(0.05)


async def test_a_drain_lets_an_upload_finish(plane: RunningControlPlane) -> None:
    upload = artifact_service_pb2_grpc.ArtifactServiceStub(plane.channel).WriteChunks(chunks(20))
    await asyncio.sleep(0.2)
    stopping = asyncio.create_task(plane.app.stop())
    assert (await upload).upload.id == "20"
    await stopping
