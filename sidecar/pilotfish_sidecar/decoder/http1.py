"""From the messages of one HTTP/1.1 connection to calls.

Owns the pairing of requests and responses. It follows the messages with the relay's own walker, so that both count the
same calls.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pilotfish_sidecar.decoder.calls import Body, Budget, Call, Sink
from pilotfish_sidecar.relay.http1 import MessageWalker, Requests, Unclear
from pilotfish_sidecar.relay.tee_wire import Cause, Direction
from pilotfish_sidecar.tap.headers import read_headers
from pilotfish_sidecar.tap.records import DropReason, Protocol

__all__ = ["Http1Connection"]

_CLIENT_LEFT: Final = 499
_BAD_GATEWAY: Final = 502


class _Reader(MessageWalker):
    """Reads the messages of one direction."""

    def __init__(self, owner: Http1Connection, requests: Requests, *, to_client: bool) -> None:
        super().__init__(requests, to_client=to_client)
        self._owner = owner
        self._is_response = to_client

    def note_head(self, head: bytes) -> None:
        if self._is_response:
            self._owner.answer_begins(head)
        else:
            self._owner.request_begins(head)

    def note_body(self, data: bytes) -> None:
        self._owner.body(data, is_response=self._is_response)

    def note_end(self) -> None:
        self._owner.message_ended(is_response=self._is_response)


class Http1Connection:
    """The calls of one connection.

    Args:
        sink: gets every call once.
        budget: of the bodies of all connections.
    """

    def __init__(self, sink: Sink, budget: Budget) -> None:
        """Begin at the first request."""
        self._sink = sink
        self._budget = budget
        requests = Requests()
        self._readers = (_Reader(self, requests, to_client=False), _Reader(self, requests, to_client=True))
        self._waiting: deque[Call] = deque()
        self._asking: Call | None = None
        self._answering: Call | None = None
        self._time_us = 0
        self._unclear = False

    def data(self, direction: int, chunk: bytes, time_us: int) -> None:
        """Take bytes of one direction."""
        self._time_us = time_us
        if self._unclear:
            return
        try:
            self._readers[direction].walk(chunk)
        except Unclear:
            # The relay counts what waits and tells of the end; nothing after this is a call.
            self._unclear = True

    def stripped(self, direction: int, time_us: int) -> None:
        """The rest of a message was left out, and it ended."""
        self._time_us = time_us
        call = self._answering if direction == Direction.TO_CLIENT else self._asking
        if call is not None:
            call.strip(DropReason.STRIPPED)
        self._readers[direction].leave_out_rest()

    def request_begins(self, head: bytes) -> None:
        """Open a call."""
        call = Call(self._time_us, Body(self._budget), Body(self._budget), protocol=Protocol.REST)
        first, *lines = head.lstrip(b"\r\n").split(b"\r\n")
        words = first.split(b" ")
        pairs = [(name.strip().lower().decode("latin-1"), value.strip()) for name, value in map(_header, lines) if name]
        path = words[1].decode("latin-1") if len(words) > 1 else ""
        call.name(path, read_headers(pairs), Protocol.REST, self._sink.methods, post=words[0] == b"POST")
        call.asked_in = _coding(pairs)
        self._waiting.append(call)
        self._asking = call

    def answer_begins(self, head: bytes) -> None:
        """Find the call that is answered."""
        call = self._waiting.popleft() if self._waiting else None
        self._answering = call
        if call is None:
            return
        first, *lines = head.split(b"\r\n")
        call.status = int(first[9:12])
        pairs = [(name.strip().lower().decode("latin-1"), value.strip()) for name, value in map(_header, lines) if name]
        call.answered_in = _coding(pairs)
        if any(name == "content-type" and value.startswith(b"text/event-stream") for name, value in pairs):
            call.strip(DropReason.STREAMING)

    def body(self, data: bytes, *, is_response: bool) -> None:
        """Keep bytes of a body that is worth it."""
        call = self._answering if is_response else self._asking
        if call is not None and call.drop is None:
            (call.response if is_response else call.request).add(data)

    def message_ended(self, *, is_response: bool) -> None:
        """Finish what ended."""
        if not is_response:
            if self._asking is not None:
                self._asking.asked_us = self._time_us
            self._asking = None
        elif self._answering is not None:
            call, self._answering = self._answering, None
            self._sink.finish(call, self._time_us)

    def close(self, cause: int, time_us: int) -> None:
        """Finish the open calls: they ended with the connection."""
        calls = [*((self._answering,) if self._answering is not None else ()), *self._waiting]
        until_close = self._readers[Direction.TO_CLIENT].lasts_until_close
        for call in calls:
            if cause == Cause.GONE_BLIND:
                call.strip(DropReason.BLIND)
                continue
            if not (call is self._answering and until_close and cause == Cause.BY_SERVER):
                call.status = _CLIENT_LEFT if cause == Cause.BY_CLIENT else _BAD_GATEWAY
            self._sink.finish(call, time_us)
        self._waiting.clear()
        self._answering = None


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value


def _coding(pairs: list[tuple[str, bytes]]) -> str:
    return next((value.decode("latin-1").lower() for name, value in pairs if name == "content-encoding"), "identity")
