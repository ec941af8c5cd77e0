"""Following the frames of one HTTP/2 connection, without reading what is in them.

Owns where frames begin and end, which calls are open and how many have ended, and the cutting of a chunk into what the
tee keeps and what it leaves out. A frame takes effect when it is whole: the decoder cannot read it sooner. It never
changes a byte and never fails: bytes that are no frames only give counts that mean nothing, on that connection.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GOAWAY", "HEAD_BYTES", "PREFACE", "Calls", "FrameWalker"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
GOAWAY: Final = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00"
"""NO_ERROR, last stream 2^31 - 1: calls that are on their way are still answered."""

_DATA: Final = 0x0
_HEADERS: Final = 0x1
_RST_STREAM: Final = 0x3
_PUSH_PROMISE: Final = 0x5
_GOAWAY: Final = 0x7
_CONTINUATION: Final = 0x9
_BLOCKS: Final = (_HEADERS, _CONTINUATION, _PUSH_PROMISE)
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_MAX_OPEN: Final = 100_000

Segment = tuple[bool, bytes]
"""Whether it is the head of a DATA frame whose body is left out, and the bytes."""


class Calls:
    """The calls of one connection: opened by the client, ended by either side.

    Attributes:
        open: their streams.
        last: the highest stream that the client opened.
        server_leaves: the server sent a GOAWAY; a second one with a higher last stream would be an error.
    """

    __slots__ = ("last", "open", "server_leaves")

    def __init__(self) -> None:
        """Begin without calls."""
        self.open: set[int] = set()
        self.last = 0
        self.server_leaves = False

    def close(self) -> int:
        """Return how many calls the end of the connection ends."""
        ended = len(self.open)
        self.open.clear()
        return ended


class FrameWalker:
    """Follows the frames of one direction.

    Args:
        calls: shared by both directions.
        to_client: whether it is the server's direction.
        skip: bytes in front of the first frame (the client's preface).

    Attributes:
        in_headers: a header block is unfinished: nothing may be inserted.
        segments: of the last chunk walked with `strip`.
    """

    __slots__ = ("_calls", "_due", "_ends", "_head", "_left", "_omitted", "_to_client", "in_headers", "segments")

    def __init__(self, calls: Calls, *, to_client: bool, skip: int = 0) -> None:
        """Stand at the first frame."""
        self._calls = calls
        self._to_client = to_client
        self._left = skip
        self._head = b""
        self._due = b""  # the head of a frame that is not whole yet
        self._omitted = b""  # the head of a DATA frame whose body is being left out
        self._ends = False  # the unfinished header block ends its stream
        self.in_headers = False
        self.segments: list[Segment] = []

    @property
    def omitting(self) -> bool:
        """Whether the next bytes belong to a body that is left out."""
        return bool(self._omitted)

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return self._left == 0 and not self._head

    def gap(self, chunk: bytes) -> int | None:
        """Return the first place in the next chunk where a frame of one's own may stand; None: there is none.

        It is between two frames and outside of a header block. A chunk in which the server says goodbye has none.
        """
        if self._head:
            position = HEAD_BYTES - len(self._head)
            head = (self._head + chunk)[:HEAD_BYTES]
            if len(head) < HEAD_BYTES or head[3] == _GOAWAY:
                return None
            position += int.from_bytes(head[:3], "big")
            in_headers = _in_headers(head[3], head[4], self.in_headers)
        elif self._due and self._due[3] == _GOAWAY:
            return None
        else:
            position = self._left
            in_headers = _in_headers(self._due[3], self._due[4], self.in_headers) if self._due else self.in_headers
        found = None
        end = len(chunk)
        while position <= end:
            if found is None and not in_headers:
                found = position
            if end - position < HEAD_BYTES:
                return found
            kind = chunk[position + 3]
            if kind == _GOAWAY:
                return None
            in_headers = _in_headers(kind, chunk[position + 4], in_headers)
            position += HEAD_BYTES + int.from_bytes(chunk[position : position + 3], "big")
        return found

    def walk(self, chunk: bytes) -> int:
        """Return how many calls ended in the chunk."""
        position = self._left
        end = len(chunk)
        if position > end:
            self._left = position - end
            return 0
        ended = 0
        if self._due:
            ended = self._note(self._due[3], self._due[4], self._due, 0)
            self._due = b""
        if self._head:
            chunk = self._head + chunk
            end = len(chunk)
            self._head = b""
        while end - position >= HEAD_BYTES:
            kind = chunk[position + 3]
            after = position + HEAD_BYTES + (chunk[position] << 16 | chunk[position + 1] << 8 | chunk[position + 2])
            if kind <= _CONTINUATION and kind != 4 and kind != 6 and kind != 8:
                if after > end:
                    self._due = chunk[position : position + HEAD_BYTES]
                else:
                    ended += self._note(kind, chunk[position + 4], chunk, position)
            position = after
        if position >= end:
            self._left = position - end
        else:
            self._left = 0
            self._head = chunk[position:]
        return ended

    def _note(self, kind: int, flags: int, chunk: bytes, position: int) -> int:
        """Return 1 when the frame ends a call."""
        calls = self._calls
        stream = int.from_bytes(chunk[position + 5 : position + 9], "big") & 0x7FFFFFFF
        if kind == _GOAWAY:
            calls.server_leaves = calls.server_leaves or self._to_client
            return 0
        ends = kind == _RST_STREAM or bool(self._to_client and kind == _DATA and flags & _END_STREAM)
        if kind in _BLOCKS:
            if kind != _CONTINUATION:
                self._ends = bool(self._to_client and kind == _HEADERS and flags & _END_STREAM)
            self.in_headers = not flags & _END_HEADERS
            ends = self._ends and not self.in_headers
            if kind == _HEADERS and not self._to_client and stream > calls.last and stream & 1:
                calls.last = stream
                if len(calls.open) < _MAX_OPEN:
                    calls.open.add(stream)
        if ends and stream in calls.open:
            calls.open.discard(stream)
            return 1
        return 0

    def walk_and_strip(self, chunk: bytes) -> int:
        """Walk, and leave in `segments` what the tee is told: heads of DATA frames without their bodies.

        A frame whose head was told already, whole or in part, keeps its body; a head is told when its frame is whole.
        """
        self.segments = []
        if self._omitted:
            kept_from = min(self._left, len(chunk))
            if self._left <= len(chunk):
                self.segments.append((True, self._omitted))
                self._omitted = b""
        else:
            kept_from = 0
        position = self._left
        if self._head:
            # Its first bytes went out as they came, so this frame is told whole.
            position = HEAD_BYTES - len(self._head)
            head = (self._head + chunk)[:HEAD_BYTES]
            if len(head) == HEAD_BYTES:
                position += int.from_bytes(head[:3], "big")
        end = len(chunk)
        while end - position >= HEAD_BYTES:
            body = position + HEAD_BYTES
            after = body + (chunk[position] << 16 | chunk[position + 1] << 8 | chunk[position + 2])
            if chunk[position + 3] == _DATA and after > body:
                self._keep(chunk[kept_from:position])
                kept_from = min(after, end)
                if after > end:
                    self._omitted = chunk[position:body]
                else:
                    self.segments.append((True, chunk[position:body]))
            position = after
        self._keep(chunk[kept_from:])
        return self.walk(chunk)

    def _keep(self, data: bytes) -> None:
        if data:
            self.segments.append((False, data))


def _in_headers(kind: int, flags: int, before: bool) -> bool:
    """Return whether a header block is unfinished behind a frame."""
    return not flags & _END_HEADERS if kind in _BLOCKS else before
