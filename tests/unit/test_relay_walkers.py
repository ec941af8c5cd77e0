"""Following frames and messages: the same calls however the bytes are cut, and the tee's bytes give the same calls."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish_sidecar.relay.connection import _KEEPS_CONNECTIONS
from pilotfish_sidecar.relay.http1 import MessageWalker, Requests, Unclear, close_after, looks_like_request
from pilotfish_sidecar.relay.http2 import HEAD_BYTES, PREFACE, Calls, FrameWalker

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), (":authority", "a"), ("te", "trailers")]


def conversation(bodies: list[int], reset: int = -1) -> tuple[bytes, bytes]:
    """Return what a client and a server of the h2 library say: a call per body size; `reset` is cancelled."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    server = H2Connection(H2Configuration(client_side=False))
    client.initiate_connection()
    server.initiate_connection()
    to_server, to_client = b"", b""
    for index, size in enumerate(bodies):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, [*REQUEST, ("x-request-id", f"r{index}")])
        client.send_data(stream, bytes(min(size, 16000)), end_stream=True)
        if index == reset:
            client.reset_stream(stream, 8)
        sent = client.data_to_send()
        to_server += sent
        server.receive_data(sent)
        if index != reset:
            server.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
            server.send_data(stream, bytes(min(size, 16000)))
            server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        answered = server.data_to_send()
        to_client += answered
        client.receive_data(answered)
    return to_server, to_client


def walkers() -> tuple[Calls, FrameWalker, FrameWalker]:
    calls = Calls()
    return calls, FrameWalker(calls, to_client=False, skip=len(PREFACE)), FrameWalker(calls, to_client=True)


def cuts(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6), st.integers(1, 500), st.integers(1, 500))
def test_every_call_ends_once_however_the_bytes_are_cut(bodies, first, second):
    to_server, to_client = conversation(bodies, reset=0)
    calls, up, down = walkers()
    cancelled = sum(up.walk(part) for part in cuts(to_server, first))
    assert (cancelled, len(calls.open)) == (1, len(bodies) - 1)
    assert sum(down.walk(part) for part in cuts(to_client, second)) == len(bodies) - 1
    assert up.at_boundary and down.at_boundary and not up.in_headers and not down.in_headers
    assert calls.close() == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=5), st.integers(1, 700), st.lists(st.booleans(), min_size=1))
def test_leaving_bodies_out_keeps_every_other_frame_whole(bodies, size, modes):
    _, data = conversation(bodies)
    _, _, plain = walkers()
    _, _, stripping = walkers()
    kept = b""
    for index, part in enumerate(cuts(data, size)):
        strip = modes[index % len(modes)]
        if strip or stripping.omitting:
            ended = stripping.walk_and_strip(part)
            for is_head, piece in stripping.segments:
                if is_head:
                    assert len(piece) == HEAD_BYTES and piece[3] == 0
                    # A reader that knows the frame's length goes on behind the body.
                    kept += piece + b"\xee" * int.from_bytes(piece[:3], "big")
                else:
                    kept += piece
        else:
            ended = stripping.walk(part)
            kept += part
        assert ended == plain.walk(part)
    assert len(kept) == len(data)
    assert all(a == b for a, b in zip(kept, data, strict=True) if a != 0xEE)
    assert stripping.at_boundary and not stripping.omitting


def test_a_chunk_of_whole_frames_is_told_without_any_body():
    _, data = conversation([100, 0, 3000])
    calls, _, down = walkers()
    calls.open |= {1, 3, 5}
    assert down.walk_and_strip(data) == 3
    heads = [piece for is_head, piece in down.segments if is_head]
    assert [int.from_bytes(head[:3], "big") for head in heads] == [100, 3000]
    assert sum(len(piece) for _, piece in down.segments) == len(data) - 3100


def message(status: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([status, *headers, b"", b""]) + body


POST = message(b"POST /p HTTP/1.1", b"Content-Length: 5", body=b"hello")
HEAD = message(b"HEAD /p HTTP/1.1")
OK = message(b"HTTP/1.1 200 OK", b"content-length: 3", body=b"abc")
CHUNKED = message(
    b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
)
CONTINUE = message(b"HTTP/1.1 100 Continue")
NO_CONTENT = message(b"HTTP/1.1 204 No Content")


@given(st.integers(1, 200))
def test_answers_are_counted_however_the_bytes_are_cut(size):
    requests = Requests()
    up, down = MessageWalker(requests, to_client=False), MessageWalker(requests, to_client=True)
    for part in cuts(POST + POST + HEAD + POST, size):
        assert up.walk(part) == 0
    head_answer = message(b"HTTP/1.1 200 OK", b"content-length: 999")
    assert sum(down.walk(part) for part in cuts(CONTINUE + OK + CHUNKED + head_answer + NO_CONTENT, size)) == 4
    assert up.at_boundary and down.at_boundary and not requests.waiting and down.end() == 0


@given(st.integers(1, 120))
def test_left_out_bodies_are_told_once_a_message(size):
    requests = Requests()
    up, down = MessageWalker(requests, to_client=False), MessageWalker(requests, to_client=True)
    up.walk(POST * 3)
    ends, kept = 0, b""
    for part in cuts(OK + CHUNKED + NO_CONTENT, size):
        down.walk(part, strip=True)
        ends += sum(stripped for stripped, _ in down.segments)
        kept += b"".join(data for stripped, data in down.segments if not stripped)
    assert ends == 2
    assert kept.count(b"HTTP/1.1") == 3 and (b"abc" not in kept or size > 40)


@pytest.mark.parametrize(
    "head",
    [
        message(b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Content-Length: 4"),
        message(b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        message(b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked"),
        *(
            message(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", body=size + b"\r\n" + b"a" * 80)
            for size in (b"+5", b"5_0", b" 5", b"0x5", b"-0", b"", b"g", b"1" * 16, b"5 5")
        ),
        message(b"HTTP/1.1 101 Switching Protocols"),
        b"nonsense\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_what_cannot_be_followed_for_sure_is_said(head):
    requests = Requests()
    MessageWalker(requests, to_client=False).walk(POST)
    with pytest.raises(Unclear):
        MessageWalker(requests, to_client=True).walk(head)


def test_an_answer_without_a_length_ends_with_the_connection():
    requests = Requests()
    MessageWalker(requests, to_client=False).walk(POST)
    down = MessageWalker(requests, to_client=True)
    assert down.walk(message(b"HTTP/1.1 200 OK", body=b"and so on")) == 0
    assert down.lasts_until_close and down.end() == 1


def test_a_head_that_says_goodbye_says_it_once():
    head = message(b"HTTP/1.1 200 OK", b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Content-Length: 3")
    assert close_after(head) == message(b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Connection: close")


def test_requests_are_told_by_their_method():
    assert looks_like_request(b"POST /x") and looks_like_request(b"GET /")
    assert looks_like_request(b"PO") is None and looks_like_request(b"") is None
    assert looks_like_request(b"\x16\x03\x01") is False


@pytest.mark.parametrize("agent", ["grpc-python-grpclib/0.4.8", "python-httpx/0.28.1"])
@pytest.mark.parametrize("huffman", [True, False])
def test_clients_that_fail_at_a_goaway_are_known_in_their_header_blocks(agent, huffman):
    block = Encoder().encode([(":method", "POST"), ("user-agent", agent)], huffman=huffman)
    assert any(name in block for name in _KEEPS_CONNECTIONS)
    other = Encoder().encode([(":method", "POST"), ("user-agent", "grpc-python/1.76.0")], huffman=huffman)
    assert not any(name in other for name in _KEEPS_CONNECTIONS)


def test_a_frame_takes_effect_when_it_is_whole():
    calls, up, down = walkers()
    head = b"\x00\x00\x02\x01\x05\x00\x00\x00\x01"
    assert up.walk(PREFACE + head + b"x") == 0 and not calls.open
    assert up.walk(b"x") == 0 and calls.open == {1}
    last = b"\x00\x00\x05\x00\x01\x00\x00\x00\x01"
    assert down.walk_and_strip(last + b"four") == 0 and down.segments == [] and down.omitting
    assert down.walk_and_strip(b"5") == 1 and down.segments == [(True, last)] and not calls.open


def test_a_call_ends_behind_its_last_header_block():
    calls, _, down = walkers()
    calls.open.add(1)
    assert down.walk(b"\x00\x00\x00\x01\x01\x00\x00\x00\x01") == 0 and down.in_headers
    assert down.walk(b"\x00\x00\x00\x09\x04\x00\x00\x00\x01") == 1 and not down.in_headers


def test_a_call_whose_answer_is_unclear_still_waits():
    requests = Requests()
    MessageWalker(requests, to_client=False).walk(POST * 2)
    with pytest.raises(Unclear) as caught:
        MessageWalker(requests, to_client=True).walk(OK + message(b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"))
    assert (caught.value.ended, len(requests.waiting)) == (1, 1)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def blocks(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Yield frames of a server, and whether something may be inserted behind each."""
    for stream in range(1, 200, 2):
        parts = rng.randrange(3)
        yield frame(1, 0 if parts else 4, stream, b"h" * rng.randrange(20)), not parts
        for part in range(parts):
            yield frame(9, 4 if part == parts - 1 else 0, stream, b"c" * rng.randrange(300)), part == parts - 1
        yield frame(0, 0, stream, b"d" * rng.randrange(600)), True
        yield frame(rng.choice((4, 6, 8)), 0, 0, b"\0" * 8), True


@pytest.mark.parametrize("seed", range(8))
def test_a_gap_is_always_between_two_frames_outside_of_a_header_block(seed):
    rng = random.Random(seed)
    stream, allowed = b"", {0}
    for data, may in blocks(rng):
        stream += data
        allowed |= {len(stream)} if may else set()
    walker, position, found = FrameWalker(Calls(), to_client=True), 0, 0
    while position < len(stream):
        chunk = stream[position : position + rng.randrange(1, 400)]
        gap = walker.gap(chunk)
        inside = [place - position for place in sorted(allowed) if position <= place <= position + len(chunk)]
        assert gap == (inside[0] if inside else None), position
        found += gap is not None
        walker.walk(chunk)
        position += len(chunk)
    assert found > 50


def test_there_is_no_gap_where_the_server_says_goodbye_itself():
    walker = FrameWalker(Calls(), to_client=True)
    goodbye = frame(7, 0, 0, b"\0" * 8)
    assert walker.gap(goodbye) is None and walker.gap(frame(0, 0, 1, b"x") + goodbye) is None
    for cut in (5, 9, 12):
        walker = FrameWalker(Calls(), to_client=True)
        walker.walk(goodbye[:cut])
        assert walker.gap(goodbye[cut:]) is None
