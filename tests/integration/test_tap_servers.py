"""The tap in real servers: grpc.aio, synchronous gRPC and ASGI. What clients see stays as it was."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
import uvicorn

from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish.oip import grpc_predict_v2_pb2_grpc as oip
from pilotfish_sidecar.tap import DropReason, Protocol, Role, ShippingLimits, Tap, TapIdentity, TapSettings
from pilotfish_sidecar.tap.aio_interceptor import TapInterceptor
from pilotfish_sidecar.tap.asgi import TapMiddleware
from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tap.sync_interceptor import SyncTapInterceptor

ME = TapIdentity("d", "r", "7")
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Tapped:
    """A tap with its agent."""

    def __init__(self, path):
        self.records = []
        self.receiver = TapReceiver(path / "tap.sock", self._store)
        self._path = path

    async def _store(self, records):
        self.records += records

    async def start(self):
        await self.receiver.start()
        limits = ShippingLimits(flush_interval_s=0.002, idle_interval_s=0.002)
        self.tap = Tap(TapSettings(self._path / "tap.sock", self._path / "c", ME, limits=limits))

    async def settled(self):
        deadline = time.monotonic() + 5
        while self.tap.books().in_flight or len(self.records) < self.tap.books().captured:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        return self.records

    async def stop(self):
        await asyncio.to_thread(self.tap.close)
        await self.receiver.close()


@pytest.fixture
async def tapped(tmp_path):
    made = Tapped(tmp_path)
    await made.start()
    yield made
    await made.stop()


def respond(request, context):
    """Behave as the model's name says; the same for both kinds of server, except for waiting."""
    what = request.model_name
    if what == "raise":
        raise ZeroDivisionError
    if what == "set_code":
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("not here")
    if what == "metadata":
        context.set_trailing_metadata((("app", "1"), ("pilotfish-version", "fake")))
    if what == "wrong_type":
        return "not a message"
    return pb.ModelInferResponse(model_name=what, id="from-server" if what == "own_id" else request.id)


class AioService(oip.GRPCInferenceServiceServicer):
    async def ModelInfer(self, request, context):
        if request.model_name == "abort":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if request.model_name == "slow":
            await asyncio.sleep(5)
        return respond(request, context)

    async def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)


class SyncService(oip.GRPCInferenceServiceServicer):
    def ModelInfer(self, request, context):
        if request.model_name == "abort":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if request.model_name == "slow":
            time.sleep(0.5)
        return respond(request, context)

    def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)


async def serve(kind, interceptors):
    """Return (port, stop) of a server of that kind."""
    if kind == "sync":
        server = grpc.server(ThreadPoolExecutor(4), interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
        oip.add_GRPCInferenceServiceServicer_to_server(SyncService(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()

        async def stop():
            await asyncio.to_thread(server.stop(1).wait)

        return port, stop
    server = grpc.aio.server(interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
    service = AioService() if kind == "aio" else SyncService()
    oip.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return port, lambda: server.stop(1)


KINDS = ("aio", "sync", "aio_with_sync_handlers")


def interceptor_of(kind, tap):
    return SyncTapInterceptor(tap) if kind == "sync" else TapInterceptor(tap)


@pytest.fixture(params=KINDS)
async def pair(request, tapped):
    """Return (stub of a tapped server, stub of the same server untapped, tapped)."""
    kind = request.param
    port, stop = await serve(kind, [interceptor_of(kind, tapped.tap)])
    plain_port, stop_plain = await serve(kind, [])
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{plain_port}") as plain,
    ):
        yield oip.GRPCInferenceServiceStub(channel), oip.GRPCInferenceServiceStub(plain), tapped
    await stop()
    await stop_plain()


async def outcome(stub, name, ident="a", **more):
    """Return what a client sees: code, details, body, trailing metadata without ours."""
    call = stub.ModelInfer(pb.ModelInferRequest(model_name=name, id=ident), **more)
    try:
        body = (await call).SerializeToString()
    except grpc.aio.AioRpcError:
        body = b""
    metadata = await call.trailing_metadata()
    others = tuple((key, value) for key, value in metadata if not key.startswith("pilotfish-"))
    return (await call.code(), await call.details(), body, others), dict(metadata)


@pytest.mark.parametrize("name", ["fine", "own_id", "abort", "raise", "set_code", "metadata", "wrong_type"])
async def test_a_client_sees_the_same_with_and_without_the_tap_and_the_record_says_it(pair, name):
    stub, plain, tapped = pair
    seen, metadata = await outcome(stub, name)
    expected, _ = await outcome(plain, name)
    if name in ("raise", "wrong_type"):
        assert seen[0] == expected[0]  # the text names an exception
    else:
        assert seen == expected
    (record,) = await tapped.settled()
    assert (record.method, record.code, record.response) == (INFER, seen[0].value[0], seen[2])
    assert record.request == pb.ModelInferRequest(model_name=name, id="a").SerializeToString()
    assert (record.prediction_id, record.protocol, record.identity) == ("a", Protocol.GRPC, ME)
    assert metadata["pilotfish-prediction-id"] == "a"
    if seen[0] is grpc.StatusCode.OK:
        assert (metadata["pilotfish-deployment"], metadata["pilotfish-version"]) == ("d", "7")


async def test_the_id_is_the_request_s_else_the_header_s_else_the_server_s_else_a_new_one(pair):
    stub, _, tapped = pair
    header = (("x-request-id", "h"),)
    given = [
        (await outcome(stub, "own_id", "a", metadata=header))[1],
        (await outcome(stub, "own_id", "", metadata=header))[1],
        (await outcome(stub, "own_id", ""))[1],
        (await outcome(stub, "fine", ""))[1],
        (await outcome(stub, "fine", ""))[1],
    ]
    ids = [one["pilotfish-prediction-id"] for one in given]
    assert ids[:3] == ["a", "h", "from-server"]
    assert len(set(ids[3:])) == 2 and all(len(one) == 32 for one in ids[3:])
    records = await tapped.settled()
    assert [record.prediction_id for record in records] == ids
    assert records[0].headers == header and records[2].headers == ()


async def test_a_shadow_call_is_recorded_as_one(pair):
    stub, _, tapped = pair
    await outcome(stub, "fine", metadata=(("pilotfish-role", "shadow"),))
    assert [record.role for record in await tapped.settled()] == [Role.SHADOW]


async def test_calls_that_are_no_inference_pass_untouched(pair):
    stub, _, tapped = pair
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert tapped.tap.books().served == 0


async def test_bytes_that_are_no_message_are_refused_as_without_the_tap(pair):
    stub, plain, tapped = pair
    codes = [await _raw_code(stub), await _raw_code(plain)]
    assert codes[0] == codes[1]
    assert [record.code for record in await tapped.settled()] == [codes[0].value[0]]


async def _raw_code(stub):
    multi = stub.ModelInfer
    multi._request_serializer = lambda raw: raw
    call = multi(b"\xff\xff\xff")
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_cancelled_call_is_recorded_as_cancelled(tapped):
    port, stop = await serve("aio", [TapInterceptor(tapped.tap)])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = oip.GRPCInferenceServiceStub(channel).ModelInfer(pb.ModelInferRequest(model_name="slow"))
        await asyncio.sleep(0.2)
        call.cancel()
        await asyncio.sleep(0.2)
    (record,) = await tapped.settled()
    assert record.code == grpc.StatusCode.CANCELLED.value[0] and record.latency_us >= 100_000
    await stop()


@pytest.mark.parametrize("kind", ["aio", "sync"])
async def test_a_streaming_handler_is_counted_and_works(tapped, kind):
    async def stream(requests, context):
        async for request in requests:
            yield request

    def sync_stream(requests, context):
        yield from requests

    method = "/inference.GRPCInferenceService/ModelStreamInfer"
    handler = grpc.stream_stream_rpc_method_handler(stream if kind == "aio" else sync_stream)
    generic = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelStreamInfer": handler})
    interceptors = [interceptor_of(kind, tapped.tap)]
    server = (
        grpc.aio.server(interceptors=interceptors)
        if kind == "aio"
        else grpc.server(ThreadPoolExecutor(2), interceptors=interceptors)
    )
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    started = server.start()
    if kind == "aio":
        await started
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(method)(iter([b"1", b"2"]))
        assert [part async for part in call] == [b"1", b"2"]
    books = tapped.tap.books()
    assert (books.served, books.dropped[DropReason.STREAMING]) == (1, 1)
    stopping = server.stop(1)
    await (stopping if kind == "aio" else asyncio.to_thread(stopping.wait))


async def test_the_agent_s_absence_is_not_felt_by_calls(tmp_path):
    tap = Tap(TapSettings(tmp_path / "nobody.sock", tmp_path / "c", ME, max_records=10))
    port, stop = await serve("aio", [TapInterceptor(tap)])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = oip.GRPCInferenceServiceStub(channel)
        for _ in range(50):
            assert (await outcome(stub, "fine"))[0][0] is grpc.StatusCode.OK
    assert (tap.books().served, tap.books().dropped[DropReason.QUEUE_FULL]) == (50, 40)
    tap.close(0)
    await stop()


# ---- ASGI


async def app(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    what = dict(scope["headers"]).get(b"x-what", b"echo").decode()
    if what == "raise":
        raise ZeroDivisionError
    kind = b"text/event-stream" if what == "events" else b"application/json"
    headers = [(b"content-type", kind), (b"pilotfish-version", b"fake")]
    await send({"type": "http.response.start", "status": 400 if what == "bad" else 200, "headers": headers})
    if what == "raise_late":
        raise ZeroDivisionError
    if what == "own_id":
        body = b'{"id": "from-server"}'
    if what == "chunks":
        for chunk in (b"one", b"two"):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        body = b"three"
    if what == "large":
        body = b"x" * (5 << 20)
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def rest(tapped):
    class Quiet(uvicorn.Server):
        def capture_signals(self):
            import contextlib

            return contextlib.nullcontext()

    config = uvicorn.Config(TapMiddleware(app, tapped.tap), port=0, lifespan="off", log_config=None)
    server = Quiet(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client, tapped
    server.should_exit = True
    await task


PATH = "/v2/models/m/infer"


async def test_an_asgi_call_is_recorded_as_it_was_and_answered_as_it_was(rest):
    client, tapped = rest
    answer = await client.post(PATH, content=b'{"id": "a", "x": 1}')
    assert (answer.status_code, answer.content) == (200, b'{"id": "a", "x": 1}')
    assert (answer.headers["pilotfish-prediction-id"], answer.headers.get_list("pilotfish-version")) == ("a", ["7"])
    (record,) = await tapped.settled()
    assert (record.method, record.protocol, record.code, record.prediction_id) == (PATH, Protocol.REST, 200, "a")
    assert record.request == record.response == b'{"id": "a", "x": 1}' and record.ok


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    [
        (b'{"id": "a"}', {"x-request-id": "h"}, "a"),
        (b"{}", {"x-request-id": "h", "x-what": "own_id"}, "h"),
        (b"{}", {"x-what": "own_id"}, "from-server"),
        (b'{"nested": {"id": "no"}}', {"x-request-id": "h"}, "h"),
        (b'{"id": 5}', {"x-request-id": "h"}, "h"),
    ],
)
async def test_the_id_of_an_asgi_call(rest, content, headers, expected):
    client, tapped = rest
    answer = await client.post(PATH, content=content, headers=headers)
    assert answer.headers["pilotfish-prediction-id"] == expected
    assert [record.prediction_id for record in await tapped.settled()] == [expected]


async def test_an_asgi_call_without_any_id_gets_one(rest):
    client, tapped = rest
    answer = await client.post(PATH, content=b"{}")
    (record,) = await tapped.settled()
    assert answer.headers["pilotfish-prediction-id"] == record.prediction_id
    assert len(record.prediction_id) == 32


@pytest.mark.parametrize(("what", "status"), [("bad", 400), ("raise", 500), ("raise_late", 500)])
async def test_a_failed_asgi_call_is_recorded_with_the_status_that_the_client_saw(rest, what, status):
    client, tapped = rest
    answer = await client.post(PATH, content=b"{}", headers={"x-what": what})
    assert answer.status_code == status
    assert [record.code for record in await tapped.settled()] == [status]


async def test_a_response_in_chunks_is_joined_for_the_record(rest):
    client, tapped = rest
    answer = await client.post(PATH, content=b"{}", headers={"x-what": "chunks"})
    assert answer.content == b"onetwothree"
    assert [record.response for record in await tapped.settled()] == [b"onetwothree"]


async def test_large_bodies_and_event_streams_are_counted_not_captured(rest):
    client, tapped = rest
    assert len((await client.post(PATH, content=b"{}", headers={"x-what": "large"})).content) == 5 << 20
    assert (await client.post(PATH, content=b"y" * (5 << 20), headers={"x-what": "bad"})).status_code == 400
    await client.post(PATH, content=b"{}", headers={"x-what": "events"})
    books = tapped.tap.books()
    assert (books.served, books.captured) == (3, 0)
    assert (books.dropped[DropReason.TOO_LARGE], books.dropped[DropReason.STREAMING]) == (2, 1)


async def test_other_paths_pass_untouched(rest):
    client, tapped = rest
    answer = await client.post("/v2/models/m/ready", content=json.dumps({}))
    assert answer.status_code == 200 and answer.headers["pilotfish-version"] == "fake"
    assert tapped.tap.books().served == 0
