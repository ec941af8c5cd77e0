"""One relayed connection: bytes to the other side first, then a look at them.

Owns the two sockets, back-pressure both ways, and what is known of the connection: its protocol, its calls, whether it
is teed, blind or opaque, and its draining. It never changes the bytes of a call; while draining it inserts one GOAWAY
between two frames, or `Connection: close` into the head of a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from pilotfish_sidecar.relay.http1 import MessageWalker, Requests, Unclear, close_after, looks_like_request
from pilotfish_sidecar.relay.http2 import GOAWAY, PREFACE, Calls, FrameWalker
from pilotfish_sidecar.relay.tee import TeeSession, open_piece
from pilotfish_sidecar.relay.tee_wire import Cause, Direction, Kind, Protocol

if TYPE_CHECKING:
    from pilotfish_sidecar.relay.relay import Relay

__all__ = ["Connection", "Mode"]

_CLOSE_AFTER_GOAWAY_S: Final = 0.3
_KEEPS_CONNECTIONS: Final = (
    b"grpc-python-grpclib/",
    b"python-httpx/",
    # The same as HPACK's Huffman code, which Python's hpack always uses; without the last, unfinished byte.
    bytes.fromhex("9acac8b57e9339ea5a6b2b25068d"),
    bytes.fromhex("afd2673d4b4e94d7e5"),
)
_RESET: Final = struct.pack("ii", 1, 0)
_SAMPLE: Final = 63
_MAX_UNSOLICITED: Final = 64 << 10
_MAX_HELD: Final = 64 << 10


class Mode(enum.Enum):
    """What happens to the bytes beside being forwarded."""

    SNIFFING = 0
    TEED = 1
    BLIND = 2
    """Followed for counting and draining, told to nobody."""
    OPAQUE = 3
    """Of a protocol that is not followed."""


class Connection:
    """Both sides of one connection.

    Args:
        relay: whose it is.
        number: never used again.
        listener: which listener it came in by.
    """

    def __init__(self, relay: Relay, number: int, listener: int) -> None:
        """Wait for both sides."""
        self.number = number
        self.listener = listener
        self.mode = Mode.SNIFFING
        self.protocol: Protocol | None = None
        self.session: TeeSession | None = None
        self.high_water = relay.high_water
        self.draining = False
        self.told_to_leave = False
        self._relay = relay
        self._begun = b""
        self._answered = b""
        self._early = b""
        self._early_end = False
        self._unsaid = False
        self._half_closed: set[Direction] = set()
        self._calls = Calls()
        self._requests = Requests()
        self._walkers: tuple[Any, Any] = (None, None)
        self._client: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._held = b""
        self._keeps_connection = False
        self._turn = 0
        self._closed = False

    # The two sides

    def client_came(self, transport: asyncio.Transport) -> None:
        """Take the client's side; it is read once the server's side is there.

        Without TLS on this side and with it on the other, the client's first bytes say what the server is asked for.
        """
        self._client = transport
        _no_delay(transport)
        self._relay.add(self)
        tls = transport.get_extra_info("ssl_object")
        self._unsaid = tls is None and self._relay.upstream_wants_alpn(self)
        if not self._unsaid:
            transport.pause_reading()
            self._relay.connect(self, (tls.selected_alpn_protocol() or "") if tls is not None else "")

    def _say(self, begun: bytes) -> None:
        """Connect to the server, once the protocol is told from the client's first bytes."""
        if len(begun) < len(PREFACE) and PREFACE.startswith(begun):
            return
        self._unsaid = False
        if self._client is not None:
            self._client.pause_reading()
        self._relay.connect(self, "h2" if begun.startswith(PREFACE) else "http/1.1")

    def server_came(self, transport: asyncio.Transport) -> None:
        """Take the server's side."""
        self._server = transport
        _no_delay(transport)
        if self._client is None or self._client.is_closing():
            transport.abort()
            return
        early, self._early = self._early, b""
        if early:
            self.carry(Direction.TO_SERVER, early)
        if self._early_end:
            self.half_closed(Direction.TO_SERVER)
        self._client.resume_reading()

    def server_refused(self) -> None:
        """End the client's side: the model server does not take connections."""
        if self._client is not None:
            self._client.abort()

    def pause(self, direction: Direction) -> None:
        """Stop reading what goes in this direction: the other side's buffer is full."""
        source = self._client if direction is Direction.TO_SERVER else self._server
        if source is not None and not source.is_closing():
            source.pause_reading()

    def resume(self, direction: Direction) -> None:
        """Read on."""
        source = self._client if direction is Direction.TO_SERVER else self._server
        if source is not None and not source.is_closing():
            source.resume_reading()

    def half_closed(self, direction: Direction) -> bool:
        """Pass on that one side sends no more; return whether it stays open for the answer."""
        if direction is Direction.TO_CLIENT:
            self._let_go_of_held()
        target = self._server if direction is Direction.TO_SERVER else self._client
        if target is None:
            self._early_end = True
            # A client that leaves before it said anything has nobody to be connected with.
            return not self._unsaid
        self._half_closed.add(direction)
        if len(self._half_closed) == 2:
            # Both said their last: nothing will ever come that would close the sockets.
            for side in (self._client, self._server):
                if side is not None:
                    side.close()
            return False
        if target.is_closing():
            return False
        if not target.can_write_eof():
            target.close()
            return False
        with contextlib.suppress(OSError, RuntimeError):
            target.write_eof()
        return True

    def lost(self, direction: Direction, error: Exception | None) -> None:
        """End the other side in the same way."""
        if direction is Direction.TO_CLIENT:
            self._let_go_of_held()
        target = self._server if direction is Direction.TO_SERVER else self._client
        if target is not None and not target.is_closing():
            if error is not None:
                # A clean end would make an answer look complete that lasts until the connection's end.
                _reset(target)
            else:
                target.close()
        if not self._closed:
            self._closed = True
            self._finish(Cause.BY_CLIENT if direction is Direction.TO_SERVER else Cause.BY_SERVER)
            self._relay.forget(self)

    def _finish(self, cause: Cause) -> None:
        ended = self._calls.close()
        walker = self._walkers[Direction.TO_CLIENT]
        if self.protocol is Protocol.HTTP1 and self.mode is not Mode.OPAQUE:
            # An answer without a length ends with the connection; a request without an answer ended with it too.
            ended = walker.end() + len(self._requests.waiting)
        session = self.session
        if self.mode is Mode.TEED and session is not None and session.alive:
            session.put(Kind.CLOSE, 0, self.listener, self.number, bytes([cause]))
        self._count(ended)

    # Bytes

    def carry(self, direction: Direction, chunk: bytes) -> None:
        """Forward a chunk, then look at it."""
        if direction is Direction.TO_SERVER:
            target = self._server
        elif self.draining and self.protocol is Protocol.HTTP1 and self.mode is not Mode.OPAQUE:
            self._carry_draining_http1(chunk)
            return
        else:
            target = self._client
        if target is None:
            # uvloop begins to read after connection_made, whatever was paused in it.
            self._early += chunk
            if self._unsaid:
                self._say(self._early)
            return
        stats = self._relay.stats
        stats.carried[direction] += len(chunk)
        if self.draining and direction is Direction.TO_CLIENT and (gap := self._gap(chunk)) is not None:
            self._say_goaway(chunk[:gap], chunk[gap:])
            self._look(direction, chunk)
            return
        self._turn += 1
        if self._turn & _SAMPLE:
            target.write(chunk)
        else:
            begin = time.perf_counter_ns()
            target.write(chunk)
            stats.note_added_us((time.perf_counter_ns() - begin) / 1000)
        if self.mode is Mode.OPAQUE:
            return
        if self.mode is Mode.SNIFFING:
            self._sniff(direction, chunk)
        else:
            self._look(direction, chunk)

    def _sniff(self, direction: Direction, chunk: bytes) -> None:
        """Tell the protocol by the client's first bytes."""
        if direction is Direction.TO_CLIENT:
            # A server of HTTP/2 may send its settings before the client has said a word.
            self._answered += chunk
            if len(self._answered) > _MAX_UNSOLICITED:
                self._become_opaque()
            return
        self._begun += chunk
        begun = self._begun
        if begun.startswith(PREFACE):
            self.protocol = Protocol.HTTP2
            self._walkers = (
                FrameWalker(self._calls, to_client=False, skip=len(PREFACE)),
                FrameWalker(self._calls, to_client=True),
            )
        elif PREFACE.startswith(begun):
            return
        else:
            known = looks_like_request(begun)
            if known is None:
                return
            if not known:
                self._become_opaque()
                return
            self.protocol = Protocol.HTTP1
            self._walkers = (
                MessageWalker(self._requests, to_client=False),
                MessageWalker(self._requests, to_client=True),
            )
        self.session = self._relay.tee.session
        answered, self._begun, self._answered = self._answered, b"", b""
        if self.session is None or self.session.full:
            self.mode = Mode.BLIND
            self._relay.stats.blind += 1
        else:
            self.mode = Mode.TEED
            open_piece(self.session, self.listener, self.number, self.protocol)
        self._look(direction, begun)
        if answered:
            self._look(Direction.TO_CLIENT, answered)

    def _become_opaque(self) -> None:
        self.mode = Mode.OPAQUE
        self._begun = self._answered = b""
        self._relay.stats.opaque += 1

    def go_blind(self) -> None:
        """Tell the decoder that it hears no more of this connection."""
        if self.mode is not Mode.TEED:
            return
        self.mode = Mode.BLIND
        self._relay.stats.blind += 1
        session = self.session
        if session is not None and session.alive:
            session.put(Kind.CLOSE, 0, self.listener, self.number, bytes([Cause.GONE_BLIND]))
        self.session = None

    def _look(self, direction: Direction, chunk: bytes) -> None:
        session = self.session
        if self.mode is Mode.TEED and (session is None or not session.alive or session.full):
            self.go_blind()
        if self.protocol is Protocol.HTTP2:
            self._look_http2(direction, chunk)
        else:
            self._look_http1(direction, chunk)

    def _look_http2(self, direction: Direction, chunk: bytes) -> None:
        walker: FrameWalker = self._walkers[direction]
        session = self.session
        if self.mode is Mode.TEED and session is not None:
            if session.stripping or walker.omitting:
                ended = walker.walk_and_strip(chunk)
                now_us = time.time_ns() // 1000
                for stripped, data in walker.segments:
                    kind = Kind.STRIPPED if stripped else Kind.DATA
                    session.put(kind, direction, self.listener, self.number, data, now_us)
            else:
                ended = walker.walk(chunk)
                session.put(Kind.DATA, direction, self.listener, self.number, chunk)
        else:
            ended = walker.walk(chunk)
        if not self._keeps_connection and direction is Direction.TO_SERVER and self._calls.last <= 1:
            self._keeps_connection = any(agent in chunk for agent in _KEEPS_CONNECTIONS)
        if ended:
            self._count(ended)
        if self.draining:
            self.drain()

    def _look_http1(self, direction: Direction, chunk: bytes) -> None:
        walker: MessageWalker = self._walkers[direction]
        session = self.session if self.mode is Mode.TEED else None
        try:
            ended = walker.walk(chunk, strip=session is not None and session.stripping)
        except Unclear as unclear:
            self.go_blind()
            # Nothing can be counted any more: all calls are, as they were seen, also the one that is being answered.
            answering: MessageWalker = self._walkers[Direction.TO_CLIENT]
            waiting = len(self._requests.waiting) + answering.end() + unclear.ended
            self._requests.waiting.clear()
            self._count(waiting)
            self._become_opaque()
            return
        if session is not None:
            now_us = time.time_ns() // 1000
            for stripped, data in walker.segments:
                kind = Kind.STRIPPED if stripped else Kind.DATA
                session.put(kind, direction, self.listener, self.number, data, now_us)
        if ended:
            self._count(ended)

    def _count(self, calls: int) -> None:
        if not calls:
            return
        tee, session = self._relay.tee, self.session
        if self.mode is Mode.TEED and session is not None:
            tee.count_read(session, calls)
        else:
            tee.count_unread(calls)

    # Draining

    def drain(self) -> None:
        """Make the client open a fresh connection, as soon as that harms no call."""
        self.draining = True
        if self._gap(b"") is not None:
            self._say_goaway(b"", b"")

    def _gap(self, chunk: bytes) -> int | None:
        """Return where in the next chunk to the client a GOAWAY may stand; None: nowhere, or it must not be said."""
        if self.told_to_leave or self.protocol is not Protocol.HTTP2 or self.mode in (Mode.SNIFFING, Mode.OPAQUE):
            return None
        if self._client is None or self._client.is_closing():
            return None
        if self._keeps_connection or self._calls.last == 0 or self._calls.server_leaves:
            return None
        walker: FrameWalker = self._walkers[Direction.TO_CLIENT]
        return walker.gap(chunk)

    def _say_goaway(self, before: bytes, behind: bytes) -> None:
        assert self._client is not None  # the gap was looked for
        self.told_to_leave = True
        self._client.write(before + GOAWAY + behind)
        asyncio.get_running_loop().call_later(_CLOSE_AFTER_GOAWAY_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._client is None or self._client.is_closing():
            return
        if self._calls.open:
            asyncio.get_running_loop().call_later(_CLOSE_AFTER_GOAWAY_S, self._close_if_idle)
        else:
            self._client.close()

    def _carry_draining_http1(self, chunk: bytes) -> None:
        """Forward a response's bytes; the head of the next one says that the connection closes after it."""
        client = self._client
        if client is None:
            return
        self._relay.stats.carried[Direction.TO_CLIENT] += len(chunk)
        walker: MessageWalker = self._walkers[Direction.TO_CLIENT]
        if not self.told_to_leave and (walker.at_boundary or self._held):
            self._held += chunk
            end = self._held.find(b"\r\n\r\n")
            if end < 0 and len(self._held) < _MAX_HELD:
                return
            head, rest, self._held = self._held[: end + 4], self._held[end + 4 :], b""
            final = end >= 0 and head[9:12].isdigit() and int(head[9:12]) >= 200
            client.write((close_after(head) if final else head) + rest)
            self.told_to_leave = final
            chunk = head + rest
        else:
            client.write(chunk)
        self._look(Direction.TO_CLIENT, chunk)
        if self.told_to_leave and walker.at_boundary and not client.is_closing():
            client.close()

    def _let_go_of_held(self) -> None:
        """Forward the part of a head that was held back: its rest will not come."""
        held, self._held = self._held, b""
        if held and self._client is not None and not self._client.is_closing():
            self._client.write(held)
            self._look(Direction.TO_CLIENT, held)


def _reset(transport: asyncio.Transport) -> None:
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _no_delay(transport: asyncio.Transport) -> None:
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
