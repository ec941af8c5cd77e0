"""Following the frames of one HTTP/2 connection, without reading what is in them.

Owns where frames begin and end, which calls are open and how many have ended, and the cutting of a chunk into what the
tee keeps and what it leaves out. It never changes a byte and never fails: bytes that are no frames only give counts
that mean nothing, on that connection.
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
_CONTINUATION: Final = 0x9
_BLOCKS: Final = (_HEADERS, _CONTINUATION, _PUSH_PROMISE)
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_MAX_OPEN: Final = 100_000

Segment = tuple[bool, bytes]
"""Whether it is the head of a DATA frame whose body is left out, and the bytes."""


class Calls:
    """The calls of one connection: opened by the client, ended by either side."""

    __slots__ = ("last", "open")

    def __init__(self) -> None:
        """Begin without calls."""
        self.open: set[int] = set()
        self.last = 0

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

    __slots__ = ("_calls", "_head", "_left", "_omitting", "_to_client", "in_headers", "segments")

    def __init__(self, calls: Calls, *, to_client: bool, skip: int = 0) -> None:
        """Stand at the first frame."""
        self._calls = calls
        self._to_client = to_client
        self._left = skip
        self._head = b""
        self._omitting = False
        self.in_headers = False
        self.segments: list[Segment] = []

    @property
    def omitting(self) -> bool:
        """Whether the next bytes belong to a body that the tee was told is left out."""
        return self._omitting

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return self._left == 0 and not self._head

    def walk(self, chunk: bytes) -> int:
        """Return how many calls ended in the chunk."""
        position = self._left
        end = len(chunk)
        if position > end:
            self._left = position - end
            return 0
        if self._head:
            chunk = self._head + chunk
            end = len(chunk)
            self._head = b""
        ended = 0
        while end - position >= HEAD_BYTES:
            kind = chunk[position + 3]
            if kind <= _CONTINUATION and kind != 4 and kind != 6 and kind != 8:
                ended += self._note(kind, chunk[position + 4], chunk, position)
            position += HEAD_BYTES + (chunk[position] << 16 | chunk[position + 1] << 8 | chunk[position + 2])
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
        if kind in _BLOCKS:
            self.in_headers = not flags & _END_HEADERS
            if kind == _HEADERS and not self._to_client and stream > calls.last and stream & 1:
                calls.last = stream
                if len(calls.open) < _MAX_OPEN:
                    calls.open.add(stream)
        ends = kind == _RST_STREAM or (self._to_client and flags & _END_STREAM and kind <= _HEADERS)
        if ends and stream in calls.open:
            calls.open.discard(stream)
            return 1
        return 0

    def walk_and_strip(self, chunk: bytes) -> int:
        """Walk, and leave in `segments` what the tee is told: heads of DATA frames without their bodies.

        A frame whose head was told already, whole or in part, keeps its body.
        """
        self.segments = []
        if self._omitting:
            self._omitting = self._left > len(chunk)
            kept_from = min(self._left, len(chunk))
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
                self.segments.append((True, chunk[position:body]))
                kept_from = min(after, end)
                self._omitting = after > end
            position = after
        self._keep(chunk[kept_from:])
        return self.walk(chunk)

    def _keep(self, data: bytes) -> None:
        if data:
            self.segments.append((False, data))
