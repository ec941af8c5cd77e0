"""Recorded connections as a relay tells them, and a relay that only replays: what the decoder's tests feed it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from pilotfish_sidecar.relay.http2 import PREFACE, Calls, FrameWalker
from pilotfish_sidecar.relay.tee_wire import PIECE, Cause, Direction, HelloReader, Kind, Piece, Protocol
from pilotfish_sidecar.tap.counters import SERVED, Counters

Chunk = tuple[int, bytes]
"""Direction and bytes."""

_MAX_FRAME = 1 << 20
INFER = "/inference.GRPCInferenceService/ModelInfer"


def message(body: bytes, *, compressed: bool = False) -> bytes:
    """Return a gRPC message behind its prefix."""
    return bytes([compressed]) + len(body).to_bytes(4, "big") + body


@dataclass(frozen=True)
class Asked:
    """One call to put on a connection, and how it ends: ok, error (trailers only), cancel, refuse."""

    request: bytes
    response: bytes
    path: str = INFER
    grpc: bool = True
    end: str = "ok"
    pad: int | None = None
    ident: str = ""
    long_header: int = 0
    coding: str = "identity"


class Exchange:
    """A client's and a server's end by the h2 library, and everything that went between them."""

    def __init__(self, *, client_table: int = 4096, server_table: int = 4096) -> None:
        """Greet, with the header tables that each side offers."""
        self.chunks: list[Chunk] = []
        self.ends = []
        for is_client, table in ((True, client_table), (False, server_table)):
            end = H2Connection(H2Configuration(client_side=is_client, header_encoding=None))
            values = {
                SettingCodes.HEADER_TABLE_SIZE: table,
                SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30,
                SettingCodes.MAX_FRAME_SIZE: _MAX_FRAME,
                SettingCodes.MAX_CONCURRENT_STREAMS: 1000,
                SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 20,
            }
            if is_client:
                values[SettingCodes.ENABLE_PUSH] = 0
            end.local_settings = Settings(client=is_client, initial_values=values)
            # The library has read its own settings already.
            end.max_inbound_frame_size = _MAX_FRAME
            end.decoder.max_allowed_table_size = table
            end.decoder.header_table_size = min(table, 4096)
            end.decoder.max_header_list_size = 1 << 20
            end.initiate_connection()
            end.increment_flow_control_window(1 << 29)
            self.ends.append(end)
        self.client, self.server = self.ends
        self.move()

    def move(self) -> None:
        """Carry what either side has to say to the other until both are silent."""
        moved = True
        while moved:
            moved = False
            for direction, end in enumerate(self.ends):
                if data := end.data_to_send():
                    self.chunks.append((direction, data))
                    self.ends[1 - direction].receive_data(data)
                    moved = True

    def send(self, end: H2Connection, stream: int, data: bytes, asked: Asked, *, end_stream: bool = False) -> None:
        """Send bytes in frames that the other side takes."""
        step = _MAX_FRAME // 2
        for at in range(0, max(len(data), 1), step):
            part = data[at : at + step]
            end.send_data(stream, part, end_stream=end_stream and at + step >= len(data), pad_length=asked.pad)

    def call(self, asked: Asked) -> Iterator[None]:
        """Make a call, step by step."""
        stream = self.client.get_next_available_stream_id()
        kind = b"application/grpc" if asked.grpc else b"application/json"
        headers = [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", asked.path.encode()), (b":authority", b"h"),
            (b"content-type", kind), (b"grpc-encoding", asked.coding.encode()),
        ]  # fmt: skip
        if asked.ident:
            headers.append((b"x-request-id", asked.ident.encode()))
        if asked.long_header:
            headers.append((b"x-long", b"l" * asked.long_header))
        self.client.send_headers(stream, headers)
        self.move()
        yield
        half = len(asked.request) // 2
        self.send(self.client, stream, asked.request[:half], asked)
        self.move()
        yield
        self.send(self.client, stream, asked.request[half:], asked, end_stream=True)
        self.move()
        yield
        if asked.end in ("cancel", "refuse"):
            end, code = (self.client, 8) if asked.end == "cancel" else (self.server, 7)
            end.reset_stream(stream, code)
            self.move()
            return
        if asked.end == "error":
            self.server.send_headers(
                stream, [(b":status", b"200"), (b"content-type", kind), (b"grpc-status", b"5")], end_stream=True
            )
            self.move()
            return
        self.server.send_headers(
            stream, [(b":status", b"200"), (b"content-type", kind), (b"grpc-encoding", asked.coding.encode())]
        )
        self.move()
        yield
        self.send(self.server, stream, asked.response, asked, end_stream=not asked.grpc)
        self.move()
        if asked.grpc:
            yield
            self.server.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
            self.move()

    def run(self, calls: Sequence[Asked], rng: random.Random) -> None:
        """Make calls at once, their steps in any order."""
        steps: list[Iterator[None]] = [self.call(each) for each in calls]
        while steps:
            step = rng.choice(steps)
            if next(step, 0) == 0:
                steps.remove(step)


def cut(chunks: Iterable[Chunk], rng: random.Random, most: int = 60) -> list[Chunk]:
    """Return the same bytes in other pieces: neighbours of one direction joined, then cut anywhere."""
    joined: list[Chunk] = []
    for direction, data in chunks:
        if joined and joined[-1][0] == direction:
            joined[-1] = (direction, joined[-1][1] + data)
        else:
            joined.append((direction, data))
    found: list[Chunk] = []
    for direction, data in joined:
        at = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most)))})
        found += [(direction, data[a:b]) for a, b in itertools.pairwise(at)]
    return found


def served(chunks: Iterable[Chunk]) -> tuple[int, int]:
    """Return how many calls the relay's walkers count as ended, and how many are open after the last byte."""
    calls = Calls()
    walkers = (FrameWalker(calls, to_client=False, skip=len(PREFACE)), FrameWalker(calls, to_client=True))
    return sum(walkers[direction].walk(data) for direction, data in chunks), len(calls.open)


def pieces(chunks: Iterable[Chunk], number: int = 1, *, cause: Cause | None = Cause.BY_CLIENT) -> list[Piece]:
    """Return a connection of HTTP/2 as the relay tells it; without a cause it is still open."""
    time_us = 1_700_000_000_000_000
    made = [Piece(Kind.OPEN, 0, 0, number, time_us, bytes([Protocol.HTTP2]))]
    for direction, data in chunks:
        time_us += 10
        made.append(Piece(Kind.DATA, direction, 0, number, time_us, data))
    if cause is not None:
        made.append(Piece(Kind.CLOSE, 0, 0, number, time_us + 10, bytes([cause])))
    return made


def encode(each: Piece) -> bytes:
    """Return a piece as on the wire."""
    kind, direction, listener, number, time_us, payload = each
    return PIECE.pack(kind, direction, listener, number, len(payload), time_us) + payload


@dataclass
class ReplayingRelay:
    """The relay's end of the tee: counts served calls in the decoder's books, and tells what it is given."""

    path: Path
    books: Counters | None = None
    writer: asyncio.StreamWriter | None = None
    _greeted: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._greet, str(self.path))

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello, books = HelloReader(), None
        with contextlib.suppress(ConnectionError):
            while books is None:
                books = hello.feed(await reader.read(4096) or b"?")
            self.books, self.writer = Counters.open(Path(books)), writer
            self._greeted.set()
            await reader.read()

    async def greeted(self, timeout_s: float = 30.0) -> None:
        """Wait for the decoder."""
        await asyncio.wait_for(self._greeted.wait(), timeout_s)

    async def replay(self, told: Sequence[Piece], count: int) -> None:
        """Count calls as served, and tell pieces."""
        assert self.books is not None and self.writer is not None
        self.books.slots[SERVED] += count
        for each in told:
            self.writer.write(encode(each))
        await self.writer.drain()

    async def hang_up(self) -> None:
        """End the session, as a relay that dies."""
        assert self.writer is not None
        self._greeted.clear()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def close(self) -> None:
        """Stop listening."""
        if self.writer is not None:
            self.writer.close()
        if self._server is not None:
            self._server.close()


@contextlib.asynccontextmanager
async def recording(port: int) -> AsyncIterator[tuple[int, list[list[tuple[float, Chunk]]]]]:
    """Forward connections to a port; yield the port to call and what goes over each connection."""
    connections: list[list[tuple[float, Chunk]]] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        record: list[tuple[float, Chunk]] = []
        connections.append(record)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    record.append((time.time(), (int(direction), data)))
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, up_writer, Direction.TO_SERVER), pump(up_reader, writer, Direction.TO_CLIENT))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], connections
    server.close()
