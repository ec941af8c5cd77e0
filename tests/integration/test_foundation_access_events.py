"""AccessService and EventService through real calls; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
import pytest_asyncio
from sqlalchemy import text

from pilotfish import errors, wire_errors
from pilotfish.errors import PilotfishError
from pilotfish.v1 import access_service_pb2 as pb
from pilotfish.v1 import access_service_pb2_grpc, event_service_pb2, event_service_pb2_grpc, options_pb2

from ..conftest import MakeControlPlane, RunningControlPlane

pytestmark = pytest.mark.timeout(60)


@pytest_asyncio.fixture
async def plane(make_control_plane: MakeControlPlane, engine_name: str) -> RunningControlPlane:
    return await make_control_plane(areas=["access", "events"], engine=engine_name, sweep_s=0.5)


def access(plane: RunningControlPlane, channel: grpc.aio.Channel | None = None) -> Any:
    return access_service_pb2_grpc.AccessServiceStub(channel or plane.channel)


async def failure(call: Any) -> PilotfishError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return wire_errors.from_rpc_error(failed.value)


@pytest.mark.ledger("G3")
async def test_a_token_is_made_used_listed_and_revoked(plane: RunningControlPlane) -> None:
    made = await access(plane).CreateToken(pb.CreateTokenRequest(name="ci", role=options_pb2.ROLE_EDITOR))
    assert made.token.principal == "ci" and len(made.secret) >= 43
    async with plane.channel_with(made.secret) as channel:
        me = await access(plane, channel).WhoAmI(pb.WhoAmIRequest())
        assert (me.principal, me.role, bool(me.server_version)) == ("ci", options_pb2.ROLE_EDITOR, True)
        assert isinstance(
            await failure(access(plane, channel).ListTokens(pb.ListTokensRequest())), errors.PermissionDenied
        )
        listed = await access(plane).ListTokens(pb.ListTokensRequest())
        assert "ci" in [t.name for t in listed.tokens] and len(listed.tokens) == 3
        revoked = await access(plane).RevokeToken(pb.RevokeTokenRequest(name="ci"))
        assert revoked.token.HasField("revoke_time")
        assert isinstance(await failure(access(plane, channel).WhoAmI(pb.WhoAmIRequest())), errors.Unauthenticated)
    again = await failure(access(plane).CreateToken(pb.CreateTokenRequest(name="ci", role=options_pb2.ROLE_EDITOR)))
    assert isinstance(again, errors.AlreadyExists)
    assert isinstance(await failure(access(plane).RevokeToken(pb.RevokeTokenRequest(name="none"))), errors.NotFound)


async def test_a_repeated_request_gets_the_same_secret_which_is_stored_nowhere(plane: RunningControlPlane) -> None:
    request = pb.CreateTokenRequest(name="ci", role=options_pb2.ROLE_VIEWER, request_id="r1")
    first, second = [await access(plane).CreateToken(request) for _ in "12"]
    assert first == second and first.secret

    def rows(tx: Any) -> str:
        tables = ("tokens", "idempotency", "audit", "events", "principals")
        return "".join(str(tx.conn.execute(text(f"SELECT * FROM {table}")).all()) for table in tables)

    assert first.secret not in await plane.core.db.read(rows)


async def test_every_wrong_field_of_a_token_is_named(plane: RunningControlPlane) -> None:
    seen = await failure(access(plane).CreateToken(pb.CreateTokenRequest(name="A B", lifetime_s=-1)))
    assert isinstance(seen, errors.InvalidArgument)
    assert {v.field for v in seen.violations} == {"name", "role", "lifetime_s"}


async def test_the_trail_is_listed_newest_first_filtered_and_verified(plane: RunningControlPlane) -> None:
    for i in range(5):
        await access(plane).CreateToken(pb.CreateTokenRequest(name=f"t{i}", role=options_pb2.ROLE_VIEWER))
    await access(plane).RevokeToken(pb.RevokeTokenRequest(name="t1"))
    listed: list[Any] = []
    token = ""
    while True:
        page = await access(plane).ListAuditEntries(pb.ListAuditEntriesRequest(page_size=2, page_token=token))
        listed.extend(page.entries)
        if not (token := page.next_page_token):
            break
    assert [e.resource for e in listed] == ["tokens/t1", *(f"tokens/t{i}" for i in (4, 3, 2, 1, 0))]
    assert listed[0].actor == "admin" and listed[0].details["after"]["revoked"]
    only = await access(plane).ListAuditEntries(
        pb.ListAuditEntriesRequest(filter='method = "CreateToken" AND resource : "tokens/t1"')
    )
    assert [e.method for e in only.entries] == ["CreateToken"]
    await asyncio.sleep(1.0)
    checked = await access(plane).VerifyAudit(pb.VerifyAuditRequest())
    assert (checked.intact, checked.sealed, checked.unsealed, checked.first_broken) == (True, 6, 0, 0)
    await plane.core.db.write(lambda tx: tx.conn.execute(text("UPDATE audit SET resource = 'x' WHERE id = 3")))
    checked = await access(plane).VerifyAudit(pb.VerifyAuditRequest())
    assert (checked.intact, checked.first_broken) == (False, 3)


async def test_cutting_the_end_off_the_trail_is_found(plane: RunningControlPlane) -> None:
    for i in range(3):
        await access(plane).CreateToken(pb.CreateTokenRequest(name=f"t{i}", role=options_pb2.ROLE_VIEWER))
    await asyncio.sleep(1.0)
    await plane.core.db.write(lambda tx: tx.conn.execute(text("DELETE FROM audit WHERE id = 3")))
    checked = await access(plane).VerifyAudit(pb.VerifyAuditRequest())
    assert (checked.intact, checked.sealed, checked.unsealed) == (False, 2, 0)


def watch(plane: RunningControlPlane, **fields: Any) -> Any:
    return event_service_pb2_grpc.EventServiceStub(plane.channel).Watch(event_service_pb2.WatchRequest(**fields))


async def emit(plane: RunningControlPlane, *kinds: str, project: str = "default") -> None:
    for kind in kinds:
        await plane.core.db.write(lambda tx, k=kind: tx.emit(k, f"projects/{project}/models/m", {"n": 1}))  # type: ignore[misc]


async def received(call: Any, count: int) -> list[Any]:
    """Return the next `count` responses with an event."""
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            response = await call.read()
            if response.HasField("event"):
                found.append(response)
    return found


async def test_a_watch_gives_events_from_the_beginning_and_resumes_without_loss(plane: RunningControlPlane) -> None:
    await emit(plane, "model.created", "version.registered")
    await emit(plane, "model.created", project="sales")
    first = watch(plane, resume_token="0")
    (one,) = await received(first, 1)
    first.cancel()
    assert (one.event.kind, one.event.actor, dict(one.event.payload)) == ("model.created", "system", {"n": 1})
    second = watch(plane, resume_token=one.resume_token)
    await emit(plane, "alert.firing")
    assert [r.event.kind for r in await received(second, 2)] == ["version.registered", "alert.firing"]
    second.cancel()
    everywhere = watch(plane, project="-", resume_token="0", kinds=["model."])
    assert [r.event.subject.split("/")[1] for r in await received(everywhere, 2)] == ["default", "sales"]
    everywhere.cancel()


async def test_a_watch_without_a_token_begins_now_and_moves_its_token_when_idle(plane: RunningControlPlane) -> None:
    await emit(plane, "model.created")
    call = watch(plane, kinds=["alert."])
    begun = await call.read()
    assert not begun.HasField("event")
    await emit(plane, "model.created", "alert.firing")
    (alert,) = await received(call, 1)
    assert alert.event.kind == "alert.firing"
    await emit(plane, "model.created")
    async with asyncio.timeout(5):
        while int((await call.read()).resume_token) <= int(alert.resume_token):
            pass
    call.cancel()


async def test_a_foreign_resume_token_is_refused(plane: RunningControlPlane) -> None:
    for token in ("x", "-1", "٣", "9" * 30):
        assert isinstance(await failure(watch(plane, resume_token=token).read()), errors.InvalidArgument)
