"""The whole control plane: areas, TLS, two of them on one database; in-process on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from pilotfish import errors, wire_errors
from pilotfish.v1 import access_service_pb2, access_service_pb2_grpc
from pilotfish_control_plane.app import AREAS
from pilotfish_control_plane.core import Core, Installed, Services, transactional
from pilotfish_control_plane.log_output import JsonFormatter, TextFormatter

from ..conftest import DatabaseFactory, MakeControlPlane, RunningControlPlane

pytestmark = pytest.mark.timeout(60)
TLS = Path(__file__).with_name("foundation_tls")


async def who_am_i(channel: grpc.aio.Channel, token: str) -> str:
    """Return the caller's name as the server sees it."""
    stub: Any = access_service_pb2_grpc.AccessServiceStub(channel)
    answer = await stub.WhoAmI(
        access_service_pb2.WhoAmIRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=5
    )
    return str(answer.principal)


async def test_the_whole_control_plane_starts_with_every_area(control_plane: RunningControlPlane) -> None:
    assert await who_am_i(control_plane.channel, control_plane.token) == "admin"
    facts = json.loads((control_plane.home / "run" / "control_plane.json").read_text())
    assert facts["grpc_port"] == control_plane.app.grpc_port
    assert facts["http_port"] == control_plane.app.http_port


async def test_areas_that_exist_only_as_names_do_not_break_the_start(make_control_plane: MakeControlPlane) -> None:
    plane = await make_control_plane(areas=["nothing_of_this_name", "context", "access"])
    assert await who_am_i(plane.channel, plane.token) == "admin"
    assert len(AREAS) == len(set(AREAS))


async def test_two_areas_with_one_kind_of_action_are_refused(make_control_plane: MakeControlPlane) -> None:
    def area(core: Core) -> Installed:
        return Installed(executors={"do": transactional(lambda tx, action: None)})

    with pytest.raises(ValueError, match="two areas perform actions of the kind do"):
        await make_control_plane(areas=[area, area])


async def test_a_failed_start_leaves_the_home_free(make_control_plane: MakeControlPlane) -> None:
    def broken(core: Core) -> Installed:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await make_control_plane(areas=[broken])
    await make_control_plane(areas=["access"])


def test_services_are_found_by_class() -> None:
    services = Services()
    service = services.add(Path("x"))
    assert services.get(type(service)) is service
    with pytest.raises(LookupError, match="no area offers a dict"):
        services.get(dict)
    with pytest.raises(ValueError, match="already"):
        services.add(Path("y"))


async def test_a_loop_of_an_area_that_fails_is_started_again(make_control_plane: MakeControlPlane) -> None:
    runs: list[None] = []

    class Failing:
        async def run(self) -> None:
            runs.append(None)
            if len(runs) == 1:
                raise ZeroDivisionError
            await asyncio.sleep(3600)

    closed: list[None] = []
    plane = await make_control_plane(
        areas=[lambda core: Installed(background=[Failing()], close=lambda: closed.append(None))]
    )
    await asyncio.sleep(1.5)
    assert len(runs) == 2
    await plane.app.stop()
    assert closed == [None]


# Two on one database


async def test_a_second_control_plane_on_a_local_store_is_refused(
    make_control_plane: MakeControlPlane, engine_name: str, tmp_path: Path
) -> None:
    one = await make_control_plane(areas=["access"], engine=engine_name, home=tmp_path / "one")
    url = one.app.settings.database_url
    with pytest.raises(errors.FailedPrecondition, match="prediction_store is local") as refused:
        await make_control_plane(areas=["access"], home=tmp_path / "two", database=url)
    assert refused.value.reason == "LOCAL_STORE_IN_USE"
    await one.app.stop()
    await make_control_plane(areas=["access"], home=tmp_path / "two", database=url)


async def test_two_control_planes_share_a_postgresql_tokens_included(
    make_control_plane: MakeControlPlane, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"areas": ["access"], "prediction_store": "shared"}
    one = await make_control_plane(**options, engine="postgresql", home=tmp_path / "one")
    url = one.app.settings.database_url
    two = await make_control_plane(**options, home=tmp_path / "two", database=url)
    assert one.token != two.token
    for plane, token in [(one, two.token), (two, one.token)]:
        async with grpc.aio.insecure_channel(plane.address) as channel:
            assert await who_am_i(channel, token) == "admin"


async def test_removing_the_token_file_replaces_the_token(make_control_plane: MakeControlPlane) -> None:
    plane = await make_control_plane(areas=["access"])
    old = plane.token
    await plane.app.stop()
    plane.app.paths.token.unlink()
    again = await make_control_plane(areas=["access"])
    assert again.token != old
    async with grpc.aio.insecure_channel(again.address) as channel:
        assert await who_am_i(channel, again.token) == "admin"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await who_am_i(channel, old)
    assert isinstance(wire_errors.from_rpc_error(failed.value), errors.Unauthenticated)


# TLS


def tls_options(*, mutual: bool) -> dict[str, str]:
    options = {"tls_cert": str(TLS / "server.pem"), "tls_key": str(TLS / "server.key")}
    return options | ({"tls_client_ca": str(TLS / "ca.pem")} if mutual else {})


@pytest.mark.ledger("G3")
async def test_tls_serves_grpc_and_http_and_nothing_in_the_clear(make_control_plane: MakeControlPlane) -> None:
    plane = await make_control_plane(areas=["access"], **tls_options(mutual=False))
    ca = (TLS / "ca.pem").read_bytes()
    async with grpc.aio.secure_channel(plane.address, grpc.ssl_channel_credentials(ca)) as channel:
        assert await who_am_i(channel, plane.token) == "admin"
    async with grpc.aio.insecure_channel(plane.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await who_am_i(channel, plane.token)
    context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    async with httpx.AsyncClient(verify=context) as client:
        assert (await client.get(f"https://127.0.0.1:{plane.app.http_port}/healthz")).status_code == 200


@pytest.mark.ledger("G3")
async def test_mutual_tls_refuses_a_caller_without_a_certificate(make_control_plane: MakeControlPlane) -> None:
    plane = await make_control_plane(areas=["access"], **tls_options(mutual=True))
    ca = (TLS / "ca.pem").read_bytes()
    async with grpc.aio.secure_channel(plane.address, grpc.ssl_channel_credentials(ca)) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await who_am_i(channel, plane.token)
    mine = grpc.ssl_channel_credentials(ca, (TLS / "client.key").read_bytes(), (TLS / "client.pem").read_bytes())
    async with grpc.aio.secure_channel(plane.address, mine) as channel:
        assert await who_am_i(channel, plane.token) == "admin"


async def test_a_public_bind_asks_for_a_token_before_it_shows_metrics(make_control_plane: MakeControlPlane) -> None:
    # 0.0.0.0 is bound for the length of this test only, and called on loopback.
    plane = await make_control_plane(areas=["access"], host="0.0.0.0", **tls_options(mutual=False))
    context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    url = f"https://127.0.0.1:{plane.app.http_port}/metrics"
    async with httpx.AsyncClient(verify=context) as client:
        assert (await client.get(url)).status_code == 401
        for token, status in [(plane.node_token, 403), (plane.token, 200)]:
            answer = await client.get(url, headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status


# The log


def test_log_lines_carry_the_facts_of_a_call() -> None:
    import logging

    record = logging.LogRecord("calls", logging.INFO, "f", 1, "%s done", ("/a/B",), None)
    record.facts = {"method": "/a/B", "request_id": "r1"}
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["request_id"], line["level"]) == ("/a/B done", "r1", "info")
    assert TextFormatter().format(record).endswith("calls: /a/B done method=/a/B request_id=r1")


def test_databases_of_tests_are_fresh(databases: DatabaseFactory, engine_name: str, tmp_path: Path) -> None:
    urls = {databases.empty_url(engine_name, tmp_path) for _ in range(2)}
    assert len(urls) == 2
    for url in urls:
        databases.drop(url)
