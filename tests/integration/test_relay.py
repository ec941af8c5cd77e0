"""The relay and its decoder with real servers and clients: nothing is altered, every call is accounted for."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import random
import socket
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import grpc.aio
import pytest

from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish_sidecar.tap.records import Protocol
from tests.relay_world import RelayWorld, until

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
READY = "/inference.GRPCInferenceService/ServerReady"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def question(index: int, size: int = 4) -> bytes:
    request = oip.ModelInferRequest(model_name="m", id=f"p{index}")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, size])
    tensor.contents.fp32_contents.extend([float(index % 1000)] * size)
    return request.SerializeToString()


def answer(request: bytes) -> bytes:
    asked = oip.ModelInferRequest.FromString(request)
    answered = oip.ModelInferResponse(model_name=asked.model_name, model_version="7", id=asked.id)
    answered.outputs.add(name="y", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    return answered.SerializeToString()


async def _infer(request: bytes, context: Any) -> bytes:
    if request == b"fail":
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
    if request == b"slow":
        await asyncio.sleep(30)
    return hashlib.sha256(request).digest() if request.startswith(b"big") else answer(request)


async def _stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield answer(request)


async def _ready(request: bytes, context: Any) -> bytes:
    return b""


@pytest.fixture
async def grpc_port() -> AsyncIterator[int]:
    server = grpc.aio.server(options=UNLIMITED)
    unary, both = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    methods = {"ModelInfer": unary(_infer), "ModelStreamInfer": both(_stream), "ServerReady": unary(_ready)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


class _Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        reply = json.dumps({"outputs": [], "echo": hashlib.sha256(body).hexdigest()}).encode()
        self.send_response(200)
        if self.path.endswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (reply[:5], reply[5:]):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.headers.get("accept-encoding") == "gzip":
            reply = gzip.compress(reply)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def rest_port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Rest)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
async def world() -> AsyncIterator[RelayWorld]:
    made = RelayWorld()
    yield made
    await made.stop()


def channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)])


def local(port: int) -> str:
    return f"127.0.0.1:0=127.0.0.1:{port}"


async def test_unary_calls_come_back_unaltered_and_each_is_one_record(world: RelayWorld, grpc_port: int) -> None:
    address = await world.start(local(grpc_port))
    async with channel(address) as opened:
        call = opened.unary_unary(INFER)
        questions = [question(i) for i in range(300)]
        answers = await asyncio.gather(*(call(q, metadata=(("x-request-id", "r"),)) for q in questions))
        await opened.unary_unary(READY)(b"")
        assert answers == [answer(q) for q in questions]
    await world.settle()
    assert (world.served(), world.captured(), world.dropped()) == (301, 300, {"other_method": 1})
    inferences = [record for record in world.records if record.drop is None]
    assert sorted(r.request for r in inferences) == sorted(questions)
    assert all(answer(r.request) == r.response and r.method == INFER and r.code == 0 for r in inferences)
    assert all(r.headers == (("x-request-id", "r"),) and 0 <= r.server_us <= r.latency_us for r in inferences)
    assert [r.method for r in world.records if r.drop is not None] == [READY]


async def test_errors_cancelled_calls_and_bodies_beyond_the_limit_are_accounted_for(
    world: RelayWorld, grpc_port: int
) -> None:
    address = await world.start(local(grpc_port))
    async with channel(address) as opened:
        call = opened.unary_unary(INFER)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"fail")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and caught.value.details() == "no"
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await call(b"slow", timeout=0.3)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        big = b"big" + random.Random(7).randbytes(6 << 20)
        assert await call(big) == hashlib.sha256(big).digest()
        zipped = await call(question(5), compression=grpc.Compression.Gzip)
        assert zipped == answer(question(5))
    await world.settle()
    assert (world.served(), world.captured(), world.dropped()) == (4, 3, {"too_large": 1})
    codes = sorted(record.code for record in world.records)
    # A call beyond its deadline ends as the client or the server was first: CANCELLED or DEADLINE_EXCEEDED.
    assert codes in ([0, 0, 1, 3], [0, 0, 3, 4])
    assert question(5) in [record.request for record in world.records], "what was compressed is plain in the record"


async def test_a_streaming_call_gives_its_messages_and_counts_once(world: RelayWorld, grpc_port: int) -> None:
    address = await world.start(local(grpc_port))
    async with channel(address) as opened:
        stream = opened.stream_stream(STREAM)()
        for i in range(30):
            await stream.write(question(i))
            assert await stream.read() == answer(question(i))
            if i == 10:
                await asyncio.sleep(1.2)  # long enough for a part of its own
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    await world.settle()
    assert (world.served(), world.captured(), world.dropped()) == (1, 1, {})
    assert len(world.records) >= 2
    sent = b"".join(b"\0" + len(question(i)).to_bytes(4, "big") + question(i) for i in range(30))
    assert b"".join(record.request for record in world.records) == sent


async def test_rest_calls_are_followed_over_keep_alive_chunked_and_compressed(
    world: RelayWorld, rest_port: int
) -> None:
    address = await world.start(local(rest_port))
    host, _, port = address.rpartition(":")

    def run() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        for i in range(20):
            body = json.dumps({"id": f"r{i}", "inputs": []}).encode()
            headers = {"accept-encoding": "gzip"} if i % 3 == 0 else {}
            connection.request("POST", "/v2/models/m/infer" + ("/chunked" if i % 3 == 1 else ""), body, headers)
            reply = connection.getresponse()
            raw = reply.read()
            raw = gzip.decompress(raw) if reply.getheader("content-encoding") == "gzip" else raw
            assert json.loads(raw)["echo"] == hashlib.sha256(body).hexdigest()
            connection.request("GET", "/v2/health/ready")
            assert connection.getresponse().read() == b""
        connection.close()

    await asyncio.to_thread(run)
    await world.settle()
    assert world.served() == 40
    assert (world.captured(), world.dropped()) == (13, {"other_method": 27})
    kept = [record for record in world.records if record.drop is None]
    assert all(r.protocol is Protocol.REST and r.code == 200 and json.loads(r.response)["echo"] for r in kept)


async def test_without_a_decoder_every_call_is_answered_and_counted(world: RelayWorld, grpc_port: int) -> None:
    await world.start_relay(local(grpc_port), options=("--wait-s", "0.05"))
    async with channel(world.addresses[0]) as opened:
        call = opened.unary_unary(INFER)
        for i in range(50):
            assert await call(question(i)) == answer(question(i))
    await until(lambda: world.served() == 50, "the counting")
    assert world.dropped() == {"no_decoder": 50}


async def test_a_killed_decoder_costs_no_call_and_the_next_one_gets_fresh_connections(
    world: RelayWorld, grpc_port: int
) -> None:
    address = await world.start(local(grpc_port))
    done = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal done
        async with channel(address) as opened:
            call = opened.unary_unary(INFER)
            while not stop.is_set():
                asked = question(done)
                assert await call(asked) == answer(asked)
                done += 1

    tasks = [asyncio.ensure_future(load()) for _ in range(4)]
    await until(lambda: world.captured() > 50, "the first decoder's work")
    assert world.decoder is not None
    await world.kill(world.decoder)
    await asyncio.sleep(0.3)
    world.start_decoder()
    before = len(world.records)
    await until(lambda: len(world.records) > before + 50, "the second decoder's work")
    stop.set()
    await asyncio.gather(*tasks)
    await until(lambda: world.served() == done, "the counting")
    world.close_dead_books()
    await world.settle()
    assert world.captured() + sum(world.dropped().values()) == done
    assert set(world.dropped()) <= {"crash", "blind", "no_decoder"}
    assert world.captured() == sum(record.drop is None for record in world.records)


async def test_a_killed_relay_leaves_accounts_that_close(world: RelayWorld, grpc_port: int) -> None:
    address = await world.start(local(grpc_port))
    answered = 0

    async def load() -> None:
        nonlocal answered
        async with channel(address) as opened:
            call = opened.unary_unary(INFER)
            for i in range(100_000):
                try:
                    await call(question(i))
                except grpc.aio.AioRpcError:
                    return
                answered += 1

    tasks = [asyncio.ensure_future(load()) for _ in range(4)]
    await until(lambda: answered > 200, "some traffic")
    assert world.relay is not None
    await world.kill(world.relay)
    await asyncio.gather(*tasks)
    await world.settle()
    assert answered - 4 <= world.served() <= answered + 4
    assert world.captured() + sum(world.dropped().values()) == world.served()
    await world.start_relay(local(grpc_port))
    async with channel(world.addresses[0]) as opened:
        assert await opened.unary_unary(INFER)(question(1)) == answer(question(1))


async def test_stopping_lets_calls_finish_and_refuses_none(world: RelayWorld, grpc_port: int) -> None:
    address = await world.start(local(grpc_port))
    async with channel(address) as opened:
        call = opened.stream_stream(STREAM)()
        await call.write(question(1))
        assert await call.read() == answer(question(1))
        assert world.relay is not None
        world.relay.terminate()
        await asyncio.sleep(0.3)
        await call.write(question(2))
        assert await call.read() == answer(question(2)), "a call in flight goes on while the relay drains"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert await asyncio.to_thread(world.relay.wait, 10) == 0
    await world.settle()
    assert (world.served(), world.captured()) == (1, 1)


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + b"\xff" * 400,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 400,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff",
        b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nabcde",
        b"GET / HTTP/1.1\r\n" + b"a" * 70_000,
    ],
)
async def test_hostile_bytes_pass_untouched_and_hurt_nobody(world: RelayWorld, noise: bytes, grpc_port: int) -> None:
    got = bytearray()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(got) < len(noise):
            got.extend(await reader.read(65536))
        writer.write(b"seen")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    await world.start(local(server.sockets[0].getsockname()[1]), local(grpc_port))
    host, _, port = world.addresses[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(noise)
    assert await reader.read(100) == b"seen" and bytes(got) == noise
    writer.close()
    server.close()
    async with channel(world.addresses[1]) as opened:
        assert await opened.unary_unary(INFER)(question(3)) == answer(question(3))
    await until(lambda: world.captured() == 1, "the next call's capture")
    await world.settle()


async def test_a_model_server_that_is_away_gives_a_reset_and_no_hang(world: RelayWorld) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = await world.start(local(port))
    async with channel(address) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary(INFER)(question(1), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert world.served() == 0
