"""What the decoder costs: `relay.decode_us`, processor microseconds a call of its thread that decodes.

A connection of real grpc.aio calls is recorded through a proxy, and its pieces go through the real decoder into a real
tap whose agent runs in another process. The peer is cutting the same pieces out of the tee's stream and doing nothing
with them: what is left is the decoding.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pilotfish_sidecar.decoder.session import Session
from pilotfish_sidecar.relay.tee_wire import PieceReader
from pilotfish_sidecar.tap import Tap, TapSettings
from pilotfish_sidecar.tap.counters import SERVED, Counters
from tests.benchmarks.bench_tap import METHOD, _agent, _body
from tests.tee_recording import encode, pieces, recording, served

CALLS = 2000
AT_ONCE = 16
ROUNDS = 15
READ_BYTES = 1 << 18


async def _record() -> list[tuple[int, bytes]]:
    async def infer(request: bytes, context: Any) -> bytes:
        return bytes(120)

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(infer)
    service, name = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    body = _body()
    async with recording(port) as (address, connections):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address}") as channel:
            call = channel.unary_unary(METHOD)
            for _ in range(CALLS // AT_ONCE):
                await asyncio.gather(*(call(body) for _ in range(AT_ONCE)))
        await server.stop(0)
    (connection,) = [each for each in connections if len(each) > AT_ONCE]
    return [chunk for _, chunk in connection]


def _chunks(stream: bytes) -> list[bytes]:
    return [stream[at : at + READ_BYTES] for at in range(0, len(stream), READ_BYTES)]


def run() -> Iterator[dict[str, Any]]:
    """Yield the figure."""
    recorded = asyncio.run(_record())
    count = sum(served(recorded))
    cost: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as name, _agent(Path(name)) as socket:
        tap = Tap(TapSettings(socket, Path(name) / "books"))
        assert tap.counters_path is not None
        relay = Counters.open(tap.counters_path)
        session = Session(tap)
        for number in range(1, ROUNDS + 2):
            chunks = _chunks(b"".join(encode(each) for each in pieces(recorded, number)))
            relay.slots[SERVED] += count
            spent = [0.0, 0.0]
            for take, index in ((session.take, 0), (lambda _: None, 1)):
                reader, begin = PieceReader(), time.thread_time()
                for chunk in chunks:
                    for piece in reader.feed(chunk):
                        take(piece)
                spent[index] = (time.thread_time() - begin) / count * 1e6
            if number > 1:  # the first round warms up
                cost.append(spent[0])
                plain.append(spent[1])
            while tap.books().in_flight:
                time.sleep(0.01)
        books = tap.close()
    if books.captured != books.served:
        raise AssertionError(f"the decoder lost calls: {books}")
    value, peer = statistics.median(cost), statistics.median(plain)
    yield {
        "figure": "relay.decode_us", "value": round(value, 3), "unit": "us", "peer": "cutting the pieces only",
        "peer_value": round(peer, 3), "ratio": round(peer / value, 3), "n": count * ROUNDS,
    }  # fmt: skip
