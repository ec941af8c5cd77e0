"""How connections through the relay end: as they would without it, each call counted once."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pilotfish_sidecar.relay.http2 import GOAWAY, PREFACE
from tests.relay_world import RelayWorld, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def world() -> AsyncIterator[RelayWorld]:
    made = RelayWorld()
    yield made
    await made.stop()


async def serve(script: Script) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    return server, f"127.0.0.1:0=127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


async def test_connections_that_both_sides_closed_are_let_go(world: RelayWorld) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server, listen = await serve(script)
    address = await world.start(listen)
    for _ in range(20):
        reader, writer = await connect(address)
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        writer.close()
    stats = world.directory / "relay.stats"

    def let_go() -> bool:
        values = json.loads(stats.read_text())
        return values["connections"] == 20 and values["open"] == 0

    await until(lambda: stats.exists() and let_go(), "the end of every connection")
    server.close()


async def test_a_reset_is_passed_on_as_a_reset(world: RelayWorld) -> None:
    told = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await told.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server, listen = await serve(script)
    reader, writer = await connect(await world.start(listen))
    writer.write(GET)
    await reader.readuntil(b"half")
    told.set()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    server.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 204 No Content\r\n\r\n"])
async def test_calls_count_when_an_answer_cannot_be_followed(world: RelayWorld, first: bytes) -> None:
    told = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if not first else b"")
        await told.wait()
        writer.write(first + b"no chunk\r\n\r\n")
        writer.close()

    server, listen = await serve(script)
    reader, writer = await connect(await world.start(listen))
    writer.write(GET)
    if not first:
        await reader.readuntil(b"\r\n\r\n")
    told.set()
    assert (await reader.read()).endswith(b"no chunk\r\n\r\n")
    writer.close()
    await until(lambda: world.served() == 1, "the call's count")
    await world.settle()
    assert world.dropped() == {"blind": 1}
    server.close()


async def test_a_connection_that_its_server_ends_gets_no_second_goaway(world: RelayWorld) -> None:
    finish = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(frame(4, 0, 0) + frame(1, 4, 1, b"\x88") + frame(7, 0, 0, struct.pack(">II", 1, 0)))
        await finish.wait()
        writer.write(frame(0, 1, 1))
        writer.close()

    server, listen = await serve(script)
    reader, writer = await connect(await world.start(listen))
    writer.write(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, b"\x82"))
    await reader.readexactly(9 + 10 + 17)
    # From then on a GOAWAY would be on its way, and the end comes behind it.
    await drain(world)
    await asyncio.sleep(0.2)
    finish.set()
    assert await reader.read() == frame(0, 1, 1)
    writer.close()
    server.close()


async def drain(world: RelayWorld) -> None:
    """Ask the relay to stop, and wait until it takes no connection any more: from then on it drains."""
    assert world.relay is not None
    world.relay.terminate()
    with pytest.raises(OSError):
        while True:
            _, other = await connect(world.addresses[0])
            other.close()
            await asyncio.sleep(0.01)


async def test_a_goodbye_finds_its_place_in_a_stream_that_never_pauses_between_two_frames(world: RelayWorld) -> None:
    stop = asyncio.Event()
    sent: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(4096):
            return
        # A header block in two frames whose gap is no place; from then on every write ends within a frame.
        rest = frame(4, 0, 0) + frame(1, 0, 1, b"\x88") + frame(9, 4, 1, b"\x88")
        index = 0
        while not stop.is_set():
            index += 1
            whole = rest + frame(0, 0, 1, b"%06d" % index)
            sent.append(frame(0, 0, 1, b"%06d" % index))
            cut = len(whole) - (index % 14 + 1)
            writer.write(whole[:cut])
            await writer.drain()
            rest = whole[cut:]
            await asyncio.sleep(0.001)
        sent.append(frame(0, 1, 1))
        writer.write(rest + frame(0, 1, 1))

    server, listen = await serve(script)
    reader, writer = await connect(await world.start(listen))
    writer.write(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, b"\x82"))
    seen: list[bytes] = []

    async def read() -> None:
        while True:
            head = await reader.readexactly(9)
            seen.append(head + await reader.readexactly(int.from_bytes(head[:3], "big")))

    reading = asyncio.ensure_future(read())
    await until(lambda: len(seen) > 20, "some frames")
    draining = asyncio.ensure_future(drain(world))
    await until(lambda: GOAWAY in seen or reading.done(), "the goodbye")
    stop.set()
    with pytest.raises(asyncio.IncompleteReadError) as ended:
        await reading
    assert ended.value.partial == b"", "the end comes behind a whole frame"
    assert [each for each in seen if each[3] == 0] == sent and seen.count(GOAWAY) == 1
    await draining
    writer.close()
    server.close()


async def test_a_head_that_is_held_back_while_draining_arrives_when_the_server_leaves_in_its_middle(
    world: RelayWorld,
) -> None:
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await asyncio.sleep(0.2)
        writer.close()

    server, listen = await serve(script)
    reader, writer = await connect(await world.start(listen))
    writer.write(GET)
    await writer.drain()
    await asyncio.sleep(0.1)
    await drain(world)
    go_on.set()
    assert await reader.read() == b"HTTP/1.1 200 OK\r\nContent-Le"
    writer.close()
    server.close()
