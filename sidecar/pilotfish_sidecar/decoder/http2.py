"""From the frames of one HTTP/2 connection to calls.

Owns the header compression of both directions, and which frames belong to which call. It never raises for what was on
the wire: a connection that it cannot follow gives calls that are unreadable, one for each that can still be told apart.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from hpack import Decoder, HPACKError

from pilotfish_sidecar.decoder.calls import Body, Budget, Call, Sink
from pilotfish_sidecar.relay.http2 import HEAD_BYTES, PREFACE
from pilotfish_sidecar.relay.tee_wire import Cause, Direction
from pilotfish_sidecar.tap.headers import CallHeaders, read_headers
from pilotfish_sidecar.tap.records import DropReason, Protocol

__all__ = ["Http2Connection"]

log = logging.getLogger(__name__)

_DATA, _HEADERS, _RST, _SETTINGS, _PUSH, _CONTINUATION = 0, 1, 3, 4, 5, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_TOLD: Final = frozenset((_HEADERS, _RST, _SETTINGS, _PUSH, _CONTINUATION))
_BLOCKS: Final = (_HEADERS, _CONTINUATION, _PUSH)
_HEAD: Final = struct.Struct(">HBBBI")
# Reading a member of an enumeration costs as much as looking at a frame.
_TO_SERVER: Final = int(Direction.TO_SERVER)
_GRPC: Final = Protocol.GRPC
_BLOCK_FLAGS: Final = _END_HEADERS | _PADDED | _PRIORITY
_TABLE_SIZE: Final = 1
_MAX_BLOCK: Final = 256 << 10
_MAX_TABLE: Final = 1 << 20
_MAX_OPEN: Final = 100_000
_MEMO: Final = 256
_MAX_MEMO_BLOCK: Final = 4 << 10
_MAX_FRAGMENTS: Final = 256
_CANCELLED, _UNKNOWN, _INTERNAL, _UNAVAILABLE = 1, 2, 13, 14
# RST_STREAM's code -> gRPC status, as gRPC over HTTP/2 documents it.
_OF_RESET: Final = {0: _INTERNAL, 7: _UNAVAILABLE, 8: _CANCELLED, 11: 8, 12: 7}
# HTTP status of an answer without a grpc-status -> gRPC status, as gRPC's http-grpc-status-mapping has it.
_OF_HTTP: Final = {
    400: _INTERNAL,
    401: 16,
    403: 7,
    404: 12,
    429: _UNAVAILABLE,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}
_CLIENT_LEFT: Final = 499

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Request:
    """What matters of a request's headers."""

    path: str
    headers: CallHeaders
    protocol: Protocol
    encoding: str
    post: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    """What matters of the headers or trailers of an answer; None: not said."""

    status: int | None
    code: int | None
    grpc_encoding: str | None
    encoding: str | None


_Read = TypeVar("_Read")


class _Unreadable(Exception):
    """The connection cannot be followed any more."""


class _Blocks(Generic[_Read]):
    """The header compression of one direction, with a memory of blocks that change nothing."""

    __slots__ = ("_decoder", "_memo", "_read")

    def __init__(self, read: Callable[[Pairs], _Read]) -> None:
        self._decoder = Decoder(max_header_list_size=_MAX_BLOCK)
        self._read = read
        self._memo: dict[bytes, _Read] = {}

    def allow(self, size: int) -> None:
        """Let the table grow to what the other side offers; that it shrinks is said in a block."""
        if size > self._decoder.max_allowed_table_size:
            self._decoder.max_allowed_table_size = min(size, _MAX_TABLE)

    def decode(self, block: bytes) -> _Read:
        known = self._memo.get(block)
        if known is not None:
            return known
        entries, size = self._decoder.header_table.dynamic_entries, self._decoder.header_table.maxsize
        count, newest = len(entries), entries[0] if entries else None
        try:
            found = self._read([(name, value) for name, value in self._decoder.decode(block, raw=True)])
        except (HPACKError, IndexError, ValueError, UnicodeError) as error:
            raise _Unreadable(f"a header block: {error}") from error
        table = self._decoder.header_table
        # Every new entry is a new object in front of the others.
        same = newest is (entries[0] if entries else None) and (count, size) == (len(entries), table.maxsize)
        if same and len(block) <= _MAX_MEMO_BLOCK:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[block] = found
        elif not same:
            # Positions in the table moved: the same bytes mean something else from now on.
            self._memo.clear()
        return found


class _Half:
    """One direction.

    Attributes:
        rest: an unfinished frame, in the pieces that it came in; joined once it is whole, not before.
        held: bytes of them.
        need: bytes from which looking at it again is worth it.
        left: bytes that belong to the DATA frame whose head was read, or to a frame that is passed over.
        frame: flags and stream of that DATA frame; None: the bytes are passed over.
        passed: kind, flags and stream of the frame that is passed over; its head counts once it is whole.
    """

    __slots__ = (
        "block",
        "block_flags",
        "block_stream",
        "blocks",
        "fragments",
        "frame",
        "held",
        "left",
        "need",
        "passed",
        "rest",
    )

    def __init__(self, read: Callable[[Pairs], Any]) -> None:
        self.rest: list[bytes] = []
        self.held = 0
        self.need = HEAD_BYTES
        self.left = 0
        self.frame: tuple[int, int] | None = None
        self.passed = (0, 0, 0)
        # Any: a request or an answer, by direction.
        self.blocks: _Blocks[Any] = _Blocks(read)
        self.block = bytearray()
        self.fragments = 0
        self.block_stream = -1
        self.block_flags = 0


class Http2Connection:
    """The calls of one connection.

    Args:
        sink: gets every call once.
        budget: of the bodies of all connections.
    """

    def __init__(self, sink: Sink, budget: Budget) -> None:
        """Begin at the client's preface."""
        self._sink = sink
        self._budget = budget
        self._calls: dict[int, Call] = {}
        self._last = 0
        self._preface = len(PREFACE)
        self._halves = (_Half(_read_request), _Half(_read_answer))
        self._broken = False

    def data(self, direction: int, chunk: bytes, time_us: int) -> None:
        """Take bytes of one direction."""
        half = self._halves[direction]
        to_server = direction == _TO_SERVER
        if self._preface and to_server:
            skipped = min(self._preface, len(chunk))
            self._preface -= skipped
            chunk = chunk[skipped:]
        if half.rest:
            half.rest.append(chunk)
            half.held += len(chunk)
            self._budget.held += len(chunk)
            if half.held < half.need:
                return
            chunk = b"".join(half.rest)
            self._forget(half)
        position = self._more(direction, half, chunk, time_us) if half.left else 0
        end = len(chunk)
        head_of = _HEAD.unpack_from
        while end - position >= HEAD_BYTES:
            high, low, kind, flags, stream = head_of(chunk, position)
            length = high << 8 | low
            stream &= 0x7FFFFFFF
            body = position + HEAD_BYTES
            position = body + length
            if position > end:
                if not self._begin(direction, kind, flags, stream, length, time_us):
                    half.need = HEAD_BYTES + length
                    position = body - HEAD_BYTES
                    break
                position = body + self._more(direction, half, chunk[body:], time_us)
            elif kind == _DATA:
                # Most frames are one of these two or tell nothing of a call.
                self._take_data(direction, flags, stream, chunk[body:position], time_us)
            elif kind == _HEADERS and flags & _BLOCK_FLAGS == _END_HEADERS and length <= _MAX_BLOCK:
                if to_server and stream > self._last and stream & 1:
                    self._open(stream, time_us)
                self._take_headers(direction, half, chunk[body:position], flags, stream, time_us)
            elif kind in _TOLD:
                self._frame(direction, kind, flags, stream, chunk[body:position], time_us)
        if position < end:
            half.rest.append(chunk[position:])
            half.held = end - position
            self._budget.held += half.held

    def _forget(self, half: _Half) -> None:
        self._budget.held -= half.held
        half.rest, half.held, half.need = [], 0, HEAD_BYTES

    def _begin(self, direction: int, kind: int, flags: int, stream: int, length: int, time_us: int) -> bool:
        """Take the head of a frame whose end has not come; return whether its bytes are taken as they come."""
        half = self._halves[direction]
        if kind == _DATA and not flags & _PADDED:
            half.frame, half.left = (flags, stream), length
            return True
        if length <= _MAX_BLOCK and self._budget.held + length <= self._budget.limit:
            return False
        # It would have to be read as a whole, and is too long for that: only its head counts from here on.
        self._break(_Unreadable(f"a frame of {length} bytes"))
        half.frame, half.left, half.passed = None, length, (kind, flags & ~_PADDED, stream)
        return True

    def _more(self, direction: int, half: _Half, chunk: bytes, time_us: int) -> int:
        """Take bytes of a long frame; return how many."""
        taken = min(half.left, len(chunk))
        half.left -= taken
        if half.frame is not None:
            flags, stream = half.frame
            flags = flags & ~_PADDED if not half.left else 0
            self._frame(direction, _DATA, flags, stream, chunk[:taken], time_us)
        elif not half.left:
            self._frame(direction, *half.passed, b"", time_us)
        return taken

    def stripped(self, direction: int, head: bytes, time_us: int) -> None:
        """Take the head of a DATA frame whose body was left out."""
        if len(head) != HEAD_BYTES:
            return
        stream = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        call = self._calls.get(stream)
        if call is not None:
            call.strip(DropReason.STRIPPED)
        self._frame(direction, _DATA, head[4] & ~_PADDED, stream, b"", time_us)

    def close(self, cause: int, time_us: int) -> None:
        """Finish the open calls: they ended with the connection."""
        for half in self._halves:
            self._forget(half)
        for call in self._calls.values():
            if cause == Cause.GONE_BLIND:
                call.strip(DropReason.BLIND)
                continue
            if call.protocol is _GRPC:
                call.code = _CANCELLED if cause == Cause.BY_CLIENT else _UNAVAILABLE
            elif call.status == 0 or cause == Cause.BY_CLIENT:
                call.status = _CLIENT_LEFT if cause == Cause.BY_CLIENT else 502
            self._sink.finish(call, time_us)
        self._calls.clear()

    def _frame(self, direction: int, kind: int, flags: int, stream: int, payload: bytes, time_us: int) -> None:
        if kind in _BLOCKS:
            self._take_block(direction, kind, flags, stream, payload, time_us)
        elif kind == _DATA:
            self._take_data(direction, flags, stream, payload, time_us)
        elif kind == _RST:
            code = int.from_bytes(payload[:4], "big")
            self._end(stream, time_us, _OF_RESET.get(code, _INTERNAL))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(direction, payload)

    def _break(self, error: Exception) -> None:
        if not self._broken:
            log.warning("a connection cannot be read any more: %s", error)
        self._broken = True
        for call in self._calls.values():
            call.strip(DropReason.UNREADABLE)

    def _take_settings(self, direction: int, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            if int.from_bytes(payload[at : at + 2], "big") == _TABLE_SIZE:
                # What one side offers is what the other side's encoder may use.
                self._halves[1 - direction].blocks.allow(int.from_bytes(payload[at + 2 : at + 6], "big"))

    def _take_data(self, direction: int, flags: int, stream: int, payload: bytes, time_us: int) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        to_server = direction == _TO_SERVER
        if payload and call.drop is None:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            (call.request if to_server else call.response).add(payload)
            if call.streaming and not to_server:
                self._sink.part(call, time_us)
        if flags & _END_STREAM:
            if to_server:
                call.asked_us = time_us
            else:
                self._end(stream, time_us)

    def _take_block(self, direction: int, kind: int, flags: int, stream: int, payload: bytes, time_us: int) -> None:
        half = self._halves[direction]
        if kind == _HEADERS and direction == _TO_SERVER and stream > self._last and stream & 1:
            self._open(stream, time_us)
        if kind == _CONTINUATION:
            half.block += payload
            half.fragments += 1
        else:
            half.block, half.block_flags, half.fragments = bytearray(_fragment(kind, flags, payload)), flags, 0
            half.block_stream = stream if kind == _HEADERS else -1
        if len(half.block) > _MAX_BLOCK or half.fragments > _MAX_FRAGMENTS:
            half.block = bytearray()
            self._break(_Unreadable("a header block is too long"))
        if flags & _END_HEADERS:
            block, half.block = bytes(half.block), bytearray()
            self._take_headers(direction, half, block, half.block_flags, half.block_stream, time_us)

    def _take_headers(self, direction: int, half: _Half, block: bytes, flags: int, stream: int, time_us: int) -> None:
        """Take a whole header block; stream -1: it belongs to no call, but it is compressed like the others."""
        read = None
        if not self._broken:
            try:
                read = half.blocks.decode(block)
            except _Unreadable as error:
                self._break(error)
        call = self._calls.get(stream)
        if call is None:
            return
        if direction == _TO_SERVER:
            if not call.path and read is not None:
                call.name(read.path, read.headers, read.protocol, self._sink.methods, post=read.post)
                call.asked_in = read.encoding
            if flags & _END_STREAM:
                call.asked_us = time_us
        else:
            if read is not None:
                _take_answer(call, read)
            if flags & _END_STREAM:
                self._end(stream, time_us)

    def _open(self, stream: int, time_us: int) -> None:
        self._last = stream
        if len(self._calls) >= _MAX_OPEN:
            return
        call = Call(time_us, Body(self._budget), Body(self._budget), part_us=time_us)
        if self._broken:
            call.strip(DropReason.UNREADABLE)
        self._calls[stream] = call

    def _end(self, stream: int, time_us: int, code: int | None = None) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        if call.protocol is _GRPC:
            if call.code < 0:
                call.code = _OF_HTTP.get(call.status, _UNKNOWN) if code is None else code
        elif code is not None and not call.status:
            call.status = _CLIENT_LEFT if code == _CANCELLED else 502
        self._sink.finish(call, time_us)


def _fragment(kind: int, flags: int, payload: bytes) -> bytes:
    """Return the header block's bytes of a HEADERS or PUSH_PROMISE frame."""
    start, end = 0, len(payload)
    if flags & _PADDED and payload:
        start, end = 1, end - payload[0]
    if kind == _PUSH:
        start += 4
    elif flags & _PRIORITY:
        start += 5
    return payload[start:end]


def _read_request(pairs: Pairs) -> _Request:
    path = content_type = b""
    coding = b"identity"
    post = True
    for name, value in pairs:
        if name == b":path":
            path = value
        elif name == b":method":
            post = value == b"POST"
        elif name == b"content-type":
            content_type = value
        elif name in (b"grpc-encoding", b"content-encoding"):
            coding = value
    protocol = Protocol.GRPC if content_type.startswith(b"application/grpc") else Protocol.REST
    headers = read_headers((name.decode("latin-1"), value) for name, value in pairs if name[:1] != b":")
    return _Request(path.decode("latin-1"), headers, protocol, coding.decode("latin-1"), post)


def _read_answer(pairs: Pairs) -> _Answer:
    status = code = grpc_encoding = encoding = None
    for name, value in pairs:
        if name == b"grpc-status":
            code = int(value) if value.isdigit() and len(value) < 4 else _UNKNOWN
        elif name == b":status" and value.isdigit() and value[:1] != b"1":
            status = int(value[:3])
        elif name == b"grpc-encoding":
            grpc_encoding = value.decode("latin-1")
        elif name == b"content-encoding":
            encoding = value.decode("latin-1")
    return _Answer(status, code, grpc_encoding, encoding)


def _take_answer(call: Call, answer: _Answer) -> None:
    if answer.code is not None:
        call.code = answer.code
    if answer.status is not None:
        call.status = answer.status
    encoding = answer.grpc_encoding if call.protocol is _GRPC else answer.encoding
    if encoding is not None:
        call.answered_in = encoding
