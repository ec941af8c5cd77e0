"""One call as the decoder puts it together, and how it becomes a record.

Owns which methods are inference, the bounds of what is kept of a call, and the one record that every call gives. It
never looks into a message.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from pilotfish_sidecar.decoder.methods import STREAMING, Methods
from pilotfish_sidecar.tap.headers import CallHeaders, read_headers
from pilotfish_sidecar.tap.records import NOT_DROPPED, DropReason, Flag, Protocol
from pilotfish_sidecar.tap.tap import Tap
from pilotfish_sidecar.tap.wire import MAX_BODY_BYTES

__all__ = ["Body", "Budget", "Call", "Sink", "inflate"]

PREFIX_BYTES: Final = 5
_MAX_METHOD: Final = 512
_PART_BYTES: Final = 1 << 20
_PART_US: Final = 1_000_000
# Plain numbers: an operation on a member of an enumeration takes a microsecond.
_GRPC: Final = Protocol.GRPC
_STREAMING_FLAG: Final = int(Flag.STREAMING)
_CONTINUES_FLAG: Final = int(Flag.CONTINUES)
_NO_HEADERS: Final = read_headers(())


def inflate(data: bytes, coding: str) -> bytes | None:
    """Return a compressed body as it was, None when it cannot be, or is longer than a record may be."""
    if coding not in ("gzip", "x-gzip", "deflate"):
        return None
    # 47: zlib or gzip, whichever its head says.
    machine = zlib.decompressobj(47)
    try:
        plain = machine.decompress(data, MAX_BODY_BYTES + 1)
    except zlib.error:
        return None
    return plain if machine.eof and len(plain) <= MAX_BODY_BYTES else None


class Budget:
    """Bytes that all open calls and unfinished frames hold, and their bound."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int = 24 << 20) -> None:
        """Begin with nothing held."""
        self.held = 0
        self.limit = limit


class Body:
    """A body that grows up to the limit."""

    __slots__ = ("_budget", "parts", "refused", "size")

    def __init__(self, budget: Budget) -> None:
        """Begin empty."""
        self._budget = budget
        self.parts: list[bytes] = []
        self.size = 0
        self.refused: DropReason | None = None

    def add(self, data: bytes) -> None:
        """Take bytes; what does not fit makes the body refused, and lets it go."""
        if self.refused is not None or not data:
            return
        if self.size + len(data) > MAX_BODY_BYTES + PREFIX_BYTES:
            self.let_go(DropReason.TOO_LARGE)
        elif self._budget.held + len(data) > self._budget.limit:
            self.let_go(DropReason.STRIPPED)
        else:
            self.parts.append(data)
            self.size += len(data)
            self._budget.held += len(data)

    def let_go(self, reason: DropReason | None) -> None:
        """Forget the bytes, for a reason that counts or because they are shipped."""
        self._budget.held -= self.size
        self.parts, self.size, self.refused = [], 0, reason

    def joined(self) -> bytes:
        """Return the bytes."""
        if len(self.parts) > 1:
            self.parts = [b"".join(self.parts)]
        return self.parts[0] if self.parts else b""


@dataclass(slots=True)
class Call:
    """A call between its first and its last byte.

    Attributes:
        start_us: when its head was read by the relay, microseconds since 1970.
        path: as the caller wrote it; empty where it cannot be read.
        headers: what is kept of the request's.
        protocol: gRPC or REST.
        status: HTTP status, 0 before the answer.
        code: gRPC status; -1: not told.
        asked_us: when the request was complete; 0: it is not.
        asked_in: compression of the request.
        answered_in: compression of the answer.
        drop: why no body is kept.
    """

    start_us: int
    request: Body
    response: Body
    path: str = ""
    headers: CallHeaders = _NO_HEADERS
    protocol: Protocol = Protocol.GRPC
    status: int = 0
    code: int = -1
    asked_us: int = 0
    asked_in: str = "identity"
    answered_in: str = "identity"
    drop: DropReason | None = None
    streaming: bool = False
    part_us: int = 0

    def name(self, path: str, headers: CallHeaders, protocol: Protocol, methods: Methods, *, post: bool = True) -> None:
        """Learn what the call is."""
        self.path, self.headers, self.protocol = path[:_MAX_METHOD], headers, protocol
        grpc = protocol is Protocol.GRPC
        self.streaming = grpc and path == STREAMING
        if not post or not (self.streaming or methods.is_unary(path, grpc=grpc)):
            self.drop = DropReason.OTHER_METHOD

    def strip(self, reason: DropReason) -> None:
        """Let the bodies go."""
        self.drop = self.drop or reason
        self.request.let_go(reason)
        self.response.let_go(reason)


class Sink:
    """Turns calls into records.

    Args:
        tap: ships them.
        methods: tells which are inference.
    """

    def __init__(self, tap: Tap, methods: Methods) -> None:
        """Keep both."""
        self._tap = tap
        self.methods = methods

    def finish(self, call: Call, end_us: int) -> None:
        """Ship the one record that counts for a call."""
        drop = call.drop or call.request.refused or call.response.refused
        request = response = b""
        flags = 0
        if drop is None:
            bodies = self._streamed(call) if call.streaming else self._unary(call)
            if isinstance(bodies, DropReason):
                drop = bodies
            else:
                request, response = bodies
                flags = _STREAMING_FLAG if call.streaming else 0
        self._tap.record(
            call.path,
            request,
            response,
            call.code if call.protocol is _GRPC else call.status,
            call.start_us,
            max(0, end_us - call.start_us),
            call.headers.request_id,
            call.headers.kept,
            protocol=call.protocol,
            role=call.headers.role,
            flags=flags,
            drop=NOT_DROPPED if drop is None else drop,
            server_us=max(0, end_us - call.asked_us) if call.asked_us else -1,
            served=0,
        )
        call.request.let_go(None)
        call.response.let_go(None)

    def part(self, call: Call, now_us: int) -> None:
        """Ship what a streaming call has answered so far, when it is much or old."""
        if call.request.refused or call.response.refused:
            return
        if call.request.size + call.response.size < _PART_BYTES and now_us - call.part_us < _PART_US:
            return
        call.part_us = now_us
        asked, answered = _messages(call.request.joined()), _messages(call.response.joined())
        count = min(len(asked), len(answered))
        if not count:
            return
        parts = []
        for body, ends, coding in (
            (call.request, asked, call.asked_in),
            (call.response, answered, call.answered_in),
        ):
            data, end = body.joined(), ends[count - 1]
            parts.append(_plain(data[:end], coding))
            body.let_go(None)
            body.add(data[end:])
        if None in parts:
            call.strip(DropReason.UNREADABLE)
            return
        latency = max(0, now_us - call.start_us)
        self._tap.record(
            call.path,
            parts[0] or b"",
            parts[1] or b"",
            0,
            call.start_us,
            latency,
            call.headers.request_id,
            call.headers.kept,
            role=call.headers.role,
            flags=_STREAMING_FLAG | _CONTINUES_FLAG,
            served=0,
        )

    def _unary(self, call: Call) -> tuple[bytes, bytes] | DropReason:
        asked, answered = call.request.joined(), call.response.joined()
        if call.protocol is _GRPC:
            request, response = _one_message(asked, call.asked_in), _one_message(answered, call.answered_in)
        else:
            request, response = _rest(asked, call.asked_in), _rest(answered, call.answered_in)
        if request is None or response is None:
            return DropReason.UNREADABLE
        return request, response

    def _streamed(self, call: Call) -> tuple[bytes, bytes] | DropReason:
        request = _plain(call.request.joined(), call.asked_in)
        response = _plain(call.response.joined(), call.answered_in)
        if request is None or response is None:
            return DropReason.UNREADABLE
        return request, response


def _messages(data: bytes) -> list[int]:
    """Return where each whole message of a gRPC body ends."""
    ends, position = [], 0
    while len(data) - position >= PREFIX_BYTES:
        position += PREFIX_BYTES + int.from_bytes(data[position + 1 : position + 5], "big")
        if position > len(data):
            break
        ends.append(position)
    return ends


def _one_message(data: bytes, coding: str) -> bytes | None:
    """Return the message of a unary gRPC body; empty when it has none, None when it cannot be read."""
    if not data:
        return b""
    if len(data) < PREFIX_BYTES or int.from_bytes(data[1:5], "big") != len(data) - PREFIX_BYTES:
        return None
    return inflate(data[PREFIX_BYTES:], coding) if data[0] else data[PREFIX_BYTES:]


def _rest(data: bytes, coding: str) -> bytes | None:
    """Return a body as it was; None when it cannot be read."""
    return data if coding == "identity" else inflate(data, coding)


def _plain(data: bytes, coding: str) -> bytes | None:
    """Return the whole messages of a body, none of them compressed; None when one cannot be read."""
    parts: list[bytes] = []
    begin = 0
    for end in _messages(data):
        message = data[begin + PREFIX_BYTES : end]
        if data[begin]:
            plain = inflate(message, coding)
            if plain is None:
                return None
            message = plain
        parts.append(b"\0" + len(message).to_bytes(4, "big") + message)
        begin = end
    return b"".join(parts)
