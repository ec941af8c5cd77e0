"""Calls come out of HTTP/2 bytes as they were made, however those are cut; nothing raises, and every call counts."""

from __future__ import annotations

import gzip
import random
import zlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pilotfish_sidecar.decoder.calls import Budget
from pilotfish_sidecar.decoder.http2 import Http2Connection
from pilotfish_sidecar.decoder.methods import Methods
from pilotfish_sidecar.decoder.session import Session
from pilotfish_sidecar.relay.tee_wire import Cause, Kind, Piece
from pilotfish_sidecar.tap.records import NOT_DROPPED, DropReason, Flag, Protocol
from tests.tee_recording import INFER, Asked, Chunk, Exchange, cut, message, pieces, served

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
BODY = message(b"q" * 100)
# A failing exchange shrinks for minutes and says no more for it.
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
DATA, HEADERS, RST, CONTINUATION = 0, 1, 3, 9
REQUEST_BLOCK = b"\x83\x86\x04" + bytes([len(INFER)]) + INFER.encode() + b"\x00\x0ccontent-type\x10application/grpc"
TRAILERS = b"\x00\x0bgrpc-status\x010"


@dataclass
class Kept:
    """Takes records where a tap would."""

    records: list[dict[str, Any]] = field(default_factory=list)

    def record(self, method: str, request: bytes, response: bytes, code: int, *rest: Any, **named: Any) -> None:
        start_us, latency_us, ident, _ = rest
        self.records.append(
            {"method": method, "request": request, "response": response, "code": code, "id": ident}
            | {"start_us": start_us, "latency_us": latency_us, "drop": NOT_DROPPED, "protocol": Protocol.GRPC}
            | named
        )

    def calls(self) -> list[dict[str, Any]]:
        return [each for each in self.records if not each.get("flags", 0) & Flag.CONTINUES]


def feed(told: list[Piece], methods: Methods | None = None) -> tuple[Kept, Session]:
    kept = Kept()
    session = Session(kept, methods)  # type: ignore[arg-type]  # only `record` is used
    for each in told:
        session.take(each)
    return kept, session


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def hand_made(*chunks: Chunk, cause: Cause | None = Cause.BY_CLIENT) -> list[dict[str, Any]]:
    both = [(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), *chunks]
    kept, session = feed(pieces(both, cause=cause))
    if cause is not None:
        ended, left = served(both)
        assert len(kept.calls()) == ended + left
        assert session._budget.held == 0
    return kept.calls()


def asked_calls() -> st.SearchStrategy[list[Asked]]:
    one = st.builds(
        Asked,
        request=st.binary(max_size=300).map(message),
        response=st.binary(max_size=300).map(message),
        path=st.sampled_from([INFER, INFER, INFER, "/grpc.health.v1.Health/Check"]),
        end=st.sampled_from(["ok", "ok", "ok", "error", "cancel", "refuse"]),
        pad=st.none() | st.integers(0, 255),
        ident=st.text("abc", max_size=8),
        long_header=st.sampled_from([0, 0, 0, 20_000, 70_000]),
    )
    return st.lists(one, min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, phases=QUICK)
@given(asked_calls(), st.sampled_from([0, 64, 4096, 65536]), st.sampled_from([0, 64, 4096, 65536]), st.integers(0, 999))
def test_calls_come_out_as_they_were_made_however_the_bytes_are_cut(
    calls: list[Asked], client_table: int, server_table: int, seed: int
) -> None:
    rng = random.Random(seed)
    exchange = Exchange(client_table=client_table, server_table=server_table)
    exchange.run(calls, rng)
    chunks = cut(exchange.chunks, rng)
    kept, session = feed(pieces(chunks))
    codes = {"ok": 0, "error": 5, "cancel": 1, "refuse": 14}
    expected = []
    for each in calls:
        whole = each.path == INFER
        response = each.response if each.end == "ok" else b""
        bodies = (each.request[5:], response[5:]) if whole else (b"", b"")
        drop = NOT_DROPPED if whole else DropReason.OTHER_METHOD
        expected.append((each.path, *bodies, codes[each.end], each.ident, drop))
    found = [(r["method"], r["request"], r["response"], r["code"], r["id"], r["drop"]) for r in kept.records]
    assert sorted(found) == sorted(expected)
    assert served(chunks) == (len(calls), 0)
    assert session._budget.held == 0
    assert all(0 <= r["server_us"] <= r["latency_us"] for r in kept.records)


@settings(max_examples=100, deadline=None, phases=QUICK)
@given(st.integers(0, 10_000), st.data())
def test_bytes_that_are_broken_anywhere_never_raise_and_every_call_still_counts_once(seed: int, data: Any) -> None:
    rng = random.Random(seed)
    exchange = Exchange()
    exchange.run([Asked(BODY, BODY, ident=str(i)) for i in range(4)], rng)
    chunks = list(exchange.chunks)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(chunks) - 1))
        direction, body = chunks[index]
        at = data.draw(st.integers(0, len(body) - 1))
        chunks[index] = (direction, body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :])
    chunks = cut(chunks, rng)
    kept, session = feed(pieces(chunks))
    assert len(kept.calls()) == sum(served(chunks))
    assert session._budget.held == 0
    # Gone blind, the relay counts the open ones itself.
    assert len(feed(pieces(chunks, cause=Cause.GONE_BLIND))[0].calls()) == served(chunks)[0]


@settings(max_examples=100, deadline=None, phases=QUICK)
@given(st.lists(st.tuples(st.integers(0, 1), st.binary(min_size=1, max_size=200)), max_size=12))
def test_random_bytes_never_raise_and_count_as_the_relay_counts(chunks: list[Chunk]) -> None:
    kept, _ = feed(pieces(chunks))
    assert len(kept.calls()) == sum(served(chunks))


@given(
    st.lists(
        st.builds(
            Piece,
            st.integers(0, 3),
            st.integers(0, 1),
            st.just(0),
            st.integers(0, 2),
            st.just(1),
            st.binary(max_size=40),
        )
    )
)
def test_any_order_of_pieces_is_taken(told: list[Piece]) -> None:
    feed(told)


def test_a_call_over_http2_that_is_not_grpc_is_rest() -> None:
    exchange = Exchange()
    exchange.run([Asked(b'{"a":1}', b"[2]", path="/v2/models/m/infer?x=1", grpc=False)], random.Random(1))
    (one,) = feed(pieces(exchange.chunks))[0].records
    assert (one["protocol"], one["code"], one["drop"]) == (Protocol.REST, 200, NOT_DROPPED)
    assert (one["request"], one["response"]) == (b'{"a":1}', b"[2]")


def test_paths_of_ones_own_are_kept_when_they_are_named() -> None:
    exchange = Exchange()
    paths = ["/score/eu", "/score/eu/x", "/v1/models/m:predict", "/v1/models/m/labels/a:predict", "/v1/models/m"]
    exchange.run([Asked(b"{}", b"{}", path=path, grpc=False) for path in paths], random.Random(1))
    found = {r["method"]: r["drop"] for r in feed(pieces(exchange.chunks), Methods(["/score/*"]))[0].records}
    assert [path for path in paths if found[path] == NOT_DROPPED] == [paths[0], paths[2], paths[3]]
    found = {r["method"]: r["drop"] for r in feed(pieces(exchange.chunks))[0].records}
    assert found["/score/eu"] == DropReason.OTHER_METHOD
    with pytest.raises(ValueError, match="slash"):
        Methods(["score"])


def test_a_tensorflow_call_is_inference() -> None:
    exchange = Exchange()
    exchange.run([Asked(BODY, BODY, path="/tensorflow.serving.PredictionService/Predict")], random.Random(1))
    (one,) = feed(pieces(exchange.chunks))[0].records
    assert one["drop"] == NOT_DROPPED and one["request"] == BODY[5:]


@pytest.mark.parametrize(
    ("coding", "packed", "drop"),
    [
        ("gzip", gzip.compress(b"x" * 1000), NOT_DROPPED),
        ("deflate", zlib.compress(b"x" * 1000), NOT_DROPPED),
        ("zstd", b"?" * 10, DropReason.UNREADABLE),
        ("gzip", b"no gzip", DropReason.UNREADABLE),
        ("gzip", gzip.compress(b"x" * 1000)[:-1], DropReason.UNREADABLE),
        ("gzip", gzip.compress(bytes(64 << 20)), DropReason.UNREADABLE),
    ],
)
def test_compressed_messages_are_unpacked_within_a_bound(coding: str, packed: bytes, drop: int) -> None:
    exchange = Exchange()
    body = message(packed, compressed=True)
    exchange.run([Asked(body, body, coding=coding)], random.Random(1))
    (one,) = feed(pieces(exchange.chunks))[0].records
    assert one["drop"] == drop
    assert one["request"] == one["response"] == (b"x" * 1000 if drop == NOT_DROPPED else b"")


def test_a_body_beyond_the_limit_is_told_by_name_and_is_not_held() -> None:
    exchange = Exchange()
    exchange.run([Asked(message(bytes(5 << 20)), BODY), Asked(BODY, BODY)], random.Random(1))
    kept, session = feed(pieces(exchange.chunks, cause=None))
    assert sorted(each["drop"] for each in kept.records) == [DropReason.TOO_LARGE, NOT_DROPPED]
    assert session._budget.held == 0


def test_a_long_data_frame_is_taken_as_it_comes_and_holds_no_more_than_a_body_may() -> None:
    kept, budget = Kept(), Budget()
    session = Session(kept)  # type: ignore[arg-type]
    connection = Http2Connection(session._sink, budget)
    connection.data(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(HEADERS, END_HEADERS, 1, REQUEST_BLOCK), 1)
    connection.data(0, (0xFFFFFF).to_bytes(3, "big") + b"\0\1" + (1).to_bytes(4, "big"), 2)
    most = 0
    for _ in range(255):
        connection.data(0, bytes(65536), 3)
        most = max(most, budget.held)
    assert most <= (4 << 20) + 5 and budget.held == 0
    connection.data(0, bytes(65535), 4)
    connection.data(1, frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS), 5)
    (one,) = kept.records
    assert (one["drop"], one["code"], one["server_us"]) == (DropReason.TOO_LARGE, 0, 1)


@pytest.mark.parametrize("kind", [HEADERS, CONTINUATION, 4, 7])
def test_a_frame_that_is_too_long_to_be_read_makes_its_connection_unreadable_and_nothing_is_held(kind: int) -> None:
    head = (1 << 20).to_bytes(3, "big") + bytes([kind, END_HEADERS]) + (3).to_bytes(4, "big")
    first = frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST_BLOCK)
    chunks = [(0, first + head), *((0, bytes(65536)) for _ in range(16))]
    later = (0, frame(HEADERS, END_HEADERS | END_STREAM, 5, REQUEST_BLOCK))
    answers = (1, frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS))
    found = hand_made(*chunks, later, answers)
    assert {each["drop"] for each in found} == {DropReason.UNREADABLE}
    assert len(found) == (3 if kind == HEADERS else 2)


def test_floods_of_continuations_end_in_an_unreadable_call_not_in_memory_or_time() -> None:
    empty = frame(CONTINUATION, 0, 1) * 100_000
    found = hand_made(
        (0, frame(HEADERS, 0, 1, REQUEST_BLOCK) + empty + frame(CONTINUATION, END_HEADERS, 1)),
        (1, frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)),
    )
    assert [each["drop"] for each in found] == [DropReason.UNREADABLE]


def test_frames_without_end_that_are_cut_into_single_bytes_are_read() -> None:
    sent = frame(HEADERS, END_HEADERS, 1, REQUEST_BLOCK) + frame(
        DATA, END_STREAM | PADDED, 1, b"\x03" + BODY + b"\0" * 3
    )
    answer = frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, 0, 1, BODY)
    answer += frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)
    found = hand_made(*((0, bytes([each])) for each in sent), *((1, bytes([each])) for each in answer))
    assert [(each["request"], each["response"], each["code"]) for each in found] == [(BODY[5:], BODY[5:], 0)]


@pytest.mark.parametrize(("status", "code"), [(b"503", 14), (b"404", 12), (b"401", 16), (b"418", 2)])
def test_a_grpc_call_that_a_proxy_answered_has_the_code_of_the_http_status(status: bytes, code: int) -> None:
    block = b"\x08\x03" + status
    found = hand_made(
        (0, frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST_BLOCK)),
        (1, frame(HEADERS, END_HEADERS | END_STREAM, 1, block)),
    )
    assert [each["code"] for each in found] == [code]


def test_informational_headers_do_not_answer_a_call() -> None:
    found = hand_made(
        (0, frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST_BLOCK)),
        (1, frame(HEADERS, END_HEADERS, 1, b"\x08\x03100") + frame(HEADERS, END_HEADERS, 1, b"\x88")),
        (1, frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)),
    )
    assert [(each["code"], each["drop"]) for each in found] == [(0, NOT_DROPPED)]


def test_a_stripped_body_is_told_by_name_and_the_call_keeps_method_code_and_latency() -> None:
    exchange = Exchange()
    exchange.run([Asked(BODY, BODY, ident="a")], random.Random(1))
    told = pieces(exchange.chunks)
    for index, each in enumerate(told):
        if each.kind == Kind.DATA and each.direction == 0 and each.payload[3:4] == b"\0":
            head = each.payload[:9]
            assert len(each.payload) == 9 + int.from_bytes(head[:3], "big")
            told[index] = each._replace(kind=Kind.STRIPPED, payload=head)
    (one,) = feed(told)[0].records
    assert (one["drop"], one["method"], one["code"], one["id"]) == (DropReason.STRIPPED, INFER, 0, "a")
    assert one["request"] == one["response"] == b"" and one["latency_us"] > one["server_us"] > 0


@pytest.mark.parametrize(("cause", "code"), [(Cause.BY_CLIENT, 1), (Cause.BY_SERVER, 14), (Cause.GONE_BLIND, None)])
def test_calls_that_are_open_when_their_connection_ends_are_told_by_its_cause(cause: Cause, code: int | None) -> None:
    both = [(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST_BLOCK))]
    found = feed(pieces(both, cause=cause))[0].records
    assert [each["code"] for each in found] == ([] if code is None else [code])


def test_a_stream_comes_in_parts_whose_messages_are_those_that_were_sent() -> None:
    kept = Kept()
    session = Session(kept)  # type: ignore[arg-type]
    block = REQUEST_BLOCK.replace(bytes([len(INFER)]) + INFER.encode(), bytes([len(STREAM)]) + STREAM.encode())
    session.take(Piece(Kind.OPEN, 0, 0, 1, 0, b"\0"))

    def tell(direction: int, data: bytes, time_us: int) -> None:
        session.take(Piece(Kind.DATA, direction, 0, 1, time_us, data))

    tell(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(HEADERS, END_HEADERS, 1, block), 0)
    tell(1, frame(HEADERS, END_HEADERS, 1, b"\x88"), 0)
    sent = []
    for index in range(40):
        asked, answered = message(b"q%d" % index + bytes(40_000)), message(b"a%d" % index)
        sent.append((asked, answered))
        tell(0, frame(DATA, 0, 1, asked), index * 100_000)
        tell(1, frame(DATA, 0, 1, answered), index * 100_000 + 1)
    tell(0, frame(DATA, END_STREAM, 1), 4_000_000)
    tell(1, frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS), 4_000_001)
    flags = [each["flags"] for each in kept.records]
    assert len(flags) > 3 and flags[:-1] == [Flag.STREAMING | Flag.CONTINUES] * (len(flags) - 1)
    assert flags[-1] == Flag.STREAMING
    assert b"".join(each["request"] for each in kept.records) == b"".join(asked for asked, _ in sent)
    assert b"".join(each["response"] for each in kept.records) == b"".join(answered for _, answered in sent)
    for each in kept.records:
        assert each["request"].count(b"\0" * 40_000) == each["response"].count(b"a")
