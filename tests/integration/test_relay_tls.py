"""TLS at the relay: ended and made anew, both sides' protocols agree, and what is wrong is refused with what to do."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from pilotfish_sidecar.relay.flags import parse_listener
from tests.relay_world import RelayWorld, until

from .test_relay import INFER, UNLIMITED, answer, question

MINE = Path(__file__).parent.parent / "data" / "tls"
OTHER = Path(__file__).parent / "foundation_tls"
CERTIFICATE = ("--listen-certificate", str(MINE / "server.pem"), "--listen-key", str(MINE / "server.key"))
pytestmark = pytest.mark.ledger("G2", "G3")


@pytest.fixture
async def world() -> AsyncIterator[RelayWorld]:
    made = RelayWorld()
    yield made
    await made.stop()


def read(directory: Path, *names: str) -> list[bytes]:
    return [(directory / name).read_bytes() for name in names]


async def serve_grpc(credentials: grpc.ServerCredentials | None) -> tuple[grpc.aio.Server, int]:
    async def infer(request: bytes, context: Any) -> bytes:
        return answer(request)

    server = grpc.aio.server(options=UNLIMITED)
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return server, port


def server_credentials(directory: Path = MINE, *, mutual: bool = False) -> grpc.ServerCredentials:
    key, chain, authority = read(directory, "server.key", "server.pem", "ca.pem")
    return grpc.ssl_server_credentials([(key, chain)], authority if mutual else None, require_client_auth=mutual)


def secure(address: str, *, mutual: bool = False) -> grpc.aio.Channel:
    authority, key, chain = read(MINE, "ca.pem", "client.key", "client.pem")
    mine = (key, chain) if mutual else (None, None)
    options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority, *mine), options=options)


async def ask(channel: grpc.aio.Channel, count: int = 20, size: int = 4) -> None:
    async with channel:
        call = channel.unary_unary(INFER)
        for index in range(count):
            asked = question(index, size)
            assert await call(asked, timeout=20) == answer(asked)


@pytest.mark.parametrize("mutual", [False, True])
async def test_grpc_over_tls_on_both_sides_is_read_and_comes_back_unaltered(world: RelayWorld, mutual: bool) -> None:
    server, port = await serve_grpc(server_credentials(mutual=mutual))
    options = (*CERTIFICATE, "--upstream-ca", str(MINE / "ca.pem"))
    if mutual:
        options += ("--listen-client-ca", str(MINE / "ca.pem"))
        options += ("--upstream-certificate", str(MINE / "client.pem"), "--upstream-key", str(MINE / "client.key"))
    address = await world.start(f"tls://127.0.0.1:0=tls://127.0.0.1:{port}", options=options)
    await ask(secure(address, mutual=mutual))
    # Longer than any buffer on the way: back-pressure through both encryptions.
    await ask(secure(address, mutual=mutual), 3, 400_000)
    await world.settle()
    assert (world.served(), world.captured()) == (23, 23)
    if mutual:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(secure(address), 1)
    await server.stop(0)


async def test_tls_may_end_at_the_relay_and_begin_there(world: RelayWorld) -> None:
    plain, plain_port = await serve_grpc(None)
    encrypted, encrypted_port = await serve_grpc(server_credentials())
    await world.start(
        f"tls://127.0.0.1:0=127.0.0.1:{plain_port}",
        f"127.0.0.1:0=tls://127.0.0.1:{encrypted_port}",
        options=(*CERTIFICATE, "--upstream-ca", str(MINE / "ca.pem"), "--listen-alpn", "h2"),
    )
    ends, begins = world.addresses
    await ask(secure(ends))
    # The caller spoke HTTP/2 with prior knowledge; gRPC's server wants to hear that by ALPN as well.
    await ask(grpc.aio.insecure_channel(begins))
    await world.settle()
    assert (world.served(), world.captured()) == (40, 40)
    await plain.stop(0)
    await encrypted.stop(0)


async def https(address: str, requests: int) -> list[bytes]:
    """Return the bodies of requests over one connection that offers HTTP/2 as well, as browsers do."""
    context = ssl.create_default_context(cafile=MINE / "ca.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    bodies = []
    for index in range(requests):
        body = json.dumps({"inputs": [], "id": str(index)}).encode()
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answered = await reader.readuntil(b"\r\n\r\n")
        length = int(answered.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
    writer.close()
    return bodies


async def test_a_rest_server_with_tls_is_never_offered_http2(world: RelayWorld) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(MINE / "server.pem", MINE / "server.key")
    context.set_alpn_protocols(["http/1.1"])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    address = await world.start(
        f"tls://127.0.0.1:0=tls://127.0.0.1:{port}", options=(*CERTIFICATE, "--upstream-ca", str(MINE / "ca.pem"))
    )

    async def chosen() -> str | None:
        both = ssl.create_default_context(cafile=MINE / "ca.pem")
        both.set_alpn_protocols(["h2", "http/1.1"])
        host, _, here = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(here), ssl=both)
        found: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
        return found

    async with asyncio.timeout(20):
        while await chosen() != "http/1.1":
            await asyncio.sleep(0.05)
    assert [json.loads(body)["id"] for body in await https(address, 5)] == list("01234")
    await world.settle()
    assert world.captured() == 5
    server.close()


async def test_tls_passes_through_uncaptured_and_counted(world: RelayWorld) -> None:
    server, port = await serve_grpc(server_credentials())
    address = await world.start(f"127.0.0.1:0=127.0.0.1:{port}")
    await ask(secure(address))
    stats = world.directory / "relay.stats"

    def counted() -> bool:
        found = json.loads(stats.read_text())
        return found["opaque"] == 1 and found["bytes_to_server"] > 0 < found["bytes_to_client"]

    await until(counted, "the count")
    assert world.served() == 0
    await server.stop(0)


async def test_new_certificates_are_used_without_a_restart_and_bad_ones_are_not(
    world: RelayWorld, tmp_path: Path
) -> None:
    def put(directory: Path, *, key: Path | None = None) -> None:
        for name, source in (("server.pem", directory), ("server.key", key or directory)):
            shutil.copyfile(source / name, tmp_path / f"new.{name}")
            (tmp_path / f"new.{name}").replace(tmp_path / name)

    async def works() -> bool:
        try:
            await ask(secure(address), 1)
        except grpc.aio.AioRpcError:
            return False
        return True

    put(OTHER)
    server, port = await serve_grpc(None)
    address = await world.start(
        f"tls://127.0.0.1:0=127.0.0.1:{port}",
        options=("--listen-certificate", str(tmp_path / "server.pem"), "--listen-key", str(tmp_path / "server.key")),
    )
    assert not await works(), "the certificate of another authority"
    put(MINE)
    async with asyncio.timeout(30):
        while not await works():
            await asyncio.sleep(0.2)
    put(OTHER, key=MINE)
    await asyncio.sleep(2.5)
    assert await works(), "a pair that does not fit leaves the old one in force"
    await server.stop(0)


async def test_an_upstream_with_the_certificate_of_another_authority_is_refused(world: RelayWorld) -> None:
    server, port = await serve_grpc(server_credentials(OTHER))
    address = await world.start(f"127.0.0.1:0=tls://127.0.0.1:{port}", options=("--upstream-ca", str(MINE / "ca.pem")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.unary_unary(INFER)(question(1), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop(0)


def test_bad_settings_refuse_to_start_with_every_problem(tmp_path: Path) -> None:
    def refused(*flags: str) -> str:
        command = [sys.executable, "-m", "pilotfish_sidecar.relay", "--run-dir", str(tmp_path), *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2
        return ended.stderr

    told = refused("--listen", "tls://127.0.0.1:0=127.0.0.1:1", "--listen", "nowhere", "--upstream-name", "x")
    assert "--listen-certificate and --listen-key" in told and "'nowhere' is not" in told and "--upstream-ca" in told
    missing = str(tmp_path / "none.pem")
    told = refused(
        "--listen", "tls://127.0.0.1:0=127.0.0.1:1", "--listen-certificate", missing, "--listen-key", missing
    )
    assert f"there is no file {missing}" in told
    pair = ("--listen-certificate", str(MINE / "server.pem"), "--listen-key", str(OTHER / "server.key"))
    assert "KEY_VALUES_MISMATCH" in refused("--listen", "tls://127.0.0.1:0=127.0.0.1:1", *pair)
    told = refused("--listen", "127.0.0.1:0=127.0.0.1:1", "--listen-alpn", "h3", "--tee-soft-mib", "30")
    assert "--listen-alpn h3" in told and "--tee-soft-mib must not be above" in told


@pytest.mark.parametrize(
    "text", ["127.0.0.1:0=tls://h", "https://h:1=h:2", "h:1=h:0", "h:70000=h:1", "h:1", "=", "a/b:1=h:2"]
)
def test_what_is_no_listener_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port"):
        parse_listener(text)
