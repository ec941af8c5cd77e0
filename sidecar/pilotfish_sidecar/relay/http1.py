"""Following the messages of one HTTP/1.1 connection, without reading what is in their bodies.

Owns where heads and bodies begin and end and how many calls were answered. It never changes a byte. What it cannot
follow for sure (two lengths that disagree, an unknown transfer coding, an upgrade) it says, and is not asked again.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

__all__ = ["MessageWalker", "Requests", "Unclear", "close_after", "looks_like_request"]

MAX_HEAD_BYTES: Final = 64 << 10
_METHODS: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT ")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*(?=\r\n)", re.IGNORECASE)
_CODING: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_CONNECTION: Final = re.compile(rb"\r\n(?:connection|keep-alive):[^\r\n]*", re.IGNORECASE)
_CHUNK_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")

Segment = tuple[bool, bytes]
"""Whether the message ended here without its body, and bytes that are kept."""


class Unclear(Exception):
    """The messages cannot be told apart any more.

    Attributes:
        ended: calls that were answered in the same chunk before.
    """

    ended = 0


class Requests:
    """The methods of requests that wait for their answers."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        """Begin without any."""
        self.waiting: deque[bytes] = deque()


def looks_like_request(data: bytes) -> bool | None:
    """Return whether a connection begins with a request of HTTP/1; None: too few bytes to tell."""
    if any(data.startswith(method) for method in _METHODS):
        return True
    return None if any(method.startswith(data) for method in _METHODS) else False


def close_after(head: bytes) -> bytes:
    """Return the head of a response that tells the client to close the connection after it."""
    return _CONNECTION.sub(b"", head[:-4]) + b"\r\nConnection: close\r\n\r\n"


class MessageWalker:
    """Follows the messages of one direction.

    Args:
        requests: shared by both directions.
        to_client: whether they are responses.
    """

    __slots__ = ("_head", "_in_chunk", "_left", "_omitting", "_requests", "_state", "_to_client", "segments")

    def __init__(self, requests: Requests, *, to_client: bool) -> None:
        """Stand at the first message."""
        self._requests = requests
        self._to_client = to_client
        self._state = self._read_head
        self._head = b""
        self._left = 0
        self._omitting = False
        self.segments: list[Segment] = []

    @property
    def at_boundary(self) -> bool:
        """Whether the next byte begins a message."""
        return self._state == self._read_head and not self._head

    def walk(self, chunk: bytes, *, strip: bool = False) -> int:
        """Return how many calls were answered in the chunk, and leave in `segments` what the tee is told.

        Args:
            chunk: as read.
            strip: whether bodies of messages whose heads end in this chunk are left out.

        Raises:
            Unclear: the messages cannot be followed any more.
        """
        self.segments = []
        ended = position = 0
        while position < len(chunk):
            start = position
            was_head = self._state == self._read_head
            try:
                position, message_ended = self._state(chunk, position)
            except Unclear as error:
                error.ended = ended
                raise
            omitted = self._omitting and not was_head
            if not omitted:
                self._keep(chunk[start:position])
            if was_head and strip and self._state != self._read_head:
                self._omitting = True
            if message_ended:
                if self._omitting:
                    self.segments.append((True, b""))
                    self._omitting = False
                ended += self._to_client
                self.note_end()
        return ended

    def leave_out_rest(self) -> None:
        """Stand at the next message: the rest of this one was left out by whoever teed it."""
        self._left, self._head, self._state = 0, b"", self._read_head
        self.note_end()

    @property
    def lasts_until_close(self) -> bool:
        """Whether the message that is read ends with the connection."""
        return self._state == self._read_until_close

    def _keep(self, data: bytes) -> None:
        if self.segments and not self.segments[-1][0]:
            self.segments[-1] = (False, self.segments[-1][1] + data)
        elif data:
            self.segments.append((False, data))

    def end(self) -> int:
        """Return 1 when an answer has begun that the end of the connection ends, as it should or not."""
        return int(self._to_client and self._state != self._read_head)

    # What a reader of the messages overrides; the relay reads none.

    def note_head(self, head: bytes) -> None:
        """Take the head of a message that counts: a request, or a response that is not 1xx."""

    def note_body(self, data: bytes) -> None:
        """Take bytes of its body, without the framing of chunks."""

    def note_end(self) -> None:
        """Take that the message ended."""

    # Each returns where it stopped, and whether a message that counts ended there.

    def _read_head(self, chunk: bytes, position: int) -> tuple[int, bool]:
        held = len(self._head)
        data = self._head + chunk[position:]
        end = data.find(b"\r\n\r\n", max(0, held - 3))
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise Unclear("a head is too long")
            self._head = data
            return len(chunk), False
        head, self._head = data[: end + 4], b""
        return position + end + 4 - held, self._begin(head)

    def _begin(self, head: bytes) -> bool:
        """Take a whole head; return whether the message ended with it."""
        if self._to_client:
            status = _STATUS.match(head)
            if status is None:
                raise Unclear("no response")
            code = int(status[1])
            if code == 101:
                raise Unclear("an upgrade")
            if code < 200:
                return False
            method = self._requests.waiting[0] if self._requests.waiting else b""
            if method == b"CONNECT" and code < 300:
                raise Unclear("a tunnel")
            bodiless = method == b"HEAD" or code in (204, 304)
        else:
            self._requests.waiting.append(head.lstrip(b"\r\n").split(b" ", 1)[0])
            if len(self._requests.waiting) > 10_000:
                raise Unclear("too many requests wait")
            bodiless = False
        ended = self._body_of(head, bodiless=bodiless)
        if self._to_client and self._requests.waiting:
            # Only now: a call whose answer is unclear still waits.
            self._requests.waiting.popleft()
        self.note_head(head)
        return ended

    def _body_of(self, head: bytes, *, bodiless: bool) -> bool:
        codings, lengths = _CODING.findall(head), {int(each) for each in _LENGTH.findall(head)}
        if (codings and (lengths or [each.lower() for each in codings] != [b"chunked"])) or len(lengths) > 1:
            raise Unclear("the length of a body")
        if bodiless:
            return True
        if codings:
            self._state = self._read_chunk_size
        elif lengths and (length := lengths.pop()):
            self._left, self._state = length, self._read_body
        elif lengths or not self._to_client:
            return True
        else:
            self._state = self._read_until_close
        return False

    def _read_body(self, chunk: bytes, position: int) -> tuple[int, bool]:
        taken = min(self._left, len(chunk) - position)
        self._left -= taken
        self.note_body(chunk[position : position + taken])
        if self._left:
            return position + taken, False
        self._state = self._read_head
        return position + taken, True

    def _read_until_close(self, chunk: bytes, position: int) -> tuple[int, bool]:
        self.note_body(chunk[position:])
        return len(chunk), False

    def _read_chunk_size(self, chunk: bytes, position: int) -> tuple[int, bool]:
        line, position = self._line(chunk, position)
        if line is None:
            return position, False
        matched = _CHUNK_SIZE.fullmatch(line)
        if matched is None:
            raise Unclear("a chunk's size")
        if size := int(matched[1], 16):
            self._left, self._state = size + 2, self._read_chunk
        else:
            self._state = self._read_trailer
        return position, False

    def _read_chunk(self, chunk: bytes, position: int) -> tuple[int, bool]:
        taken = min(self._left, len(chunk) - position)
        # The last two bytes are the end of the chunk's line.
        self.note_body(chunk[position : position + max(0, min(taken, self._left - 2))])
        self._left -= taken
        if not self._left:
            self._state = self._read_chunk_size
        return position + taken, False

    def _read_trailer(self, chunk: bytes, position: int) -> tuple[int, bool]:
        line, position = self._line(chunk, position)
        if line == b"":
            self._state = self._read_head
            return position, True
        return position, False

    def _line(self, chunk: bytes, position: int) -> tuple[bytes | None, int]:
        held = len(self._head)
        data = self._head + chunk[position:]
        end = data.find(b"\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise Unclear("a line is too long")
            self._head = data
            return None, len(chunk)
        self._head = b""
        return data[:end], position + end + 2 - held
