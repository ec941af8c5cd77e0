"""The relay's end of the tee: pieces out to one decoder, bounded, and the books that served calls are counted in.

Owns the socket, the buffer and its two bounds. It never blocks and never fails: a decoder that is slow makes the tee
leave bodies out, one that is stuck makes connections go blind, one that is gone is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilotfish_sidecar.relay.tee_wire import MAX_PIECE_BYTES, PIECE, HelloReader, Kind, TeeError
from pilotfish_sidecar.tap.counters import DROPPED, SERVED, Counters
from pilotfish_sidecar.tap.records import DropReason, TapIdentity

__all__ = ["Tee", "TeeLimits", "TeeSession"]

log = logging.getLogger(__name__)

_SEND_BYTES: Final = 1 << 20
_FLUSH_S: Final = 0.01
_FLUSH_BYTES: Final = 64 << 10
_BLIND: Final = DROPPED + int(DropReason.BLIND)
_NO_DECODER: Final = DROPPED + int(DropReason.NO_DECODER)


@dataclass(frozen=True, slots=True)
class TeeLimits:
    """Bounds of the tee's buffer.

    Attributes:
        soft_bytes: above it bodies are left out, until half of it is reached.
        hard_bytes: above it connections go blind.
    """

    soft_bytes: int = 8 << 20
    hard_bytes: int = 24 << 20


class TeeSession:
    """One decoder's connection.

    Attributes:
        stripping: bodies are left out.
        full: nothing more is taken.
    """

    def __init__(
        self, connection: socket.socket, books: Counters, limits: TeeLimits, on_end: Callable[[], None]
    ) -> None:
        """Take over a connection whose HELLO was read."""
        self.books = books
        self.alive = True
        self.stripping = False
        self.full = False
        self._socket = connection
        self._limits = limits
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._sending = memoryview(b"")
        self.size = 0
        self._due = self._soon = False  # a write is planned; it is for this turn of the loop
        self._later: asyncio.TimerHandle | None = None
        self._watching = False
        self._loop.add_reader(connection.fileno(), self._on_readable)

    def put(self, kind: int, direction: int, listener: int, connection: int, payload: bytes, time_us: int = 0) -> None:
        """Queue a piece; longer ones are cut."""
        time_us = time_us or time.time_ns() // 1000
        if len(payload) > MAX_PIECE_BYTES:
            for start in range(0, len(payload), MAX_PIECE_BYTES):
                part = payload[start : start + MAX_PIECE_BYTES]
                self.put(kind, direction, listener, connection, part, time_us)
            return
        self._parts.append(PIECE.pack(kind, direction, listener, connection, len(payload), time_us))
        self._parts.append(payload)
        self.size += PIECE.size + len(payload)
        if self.size > self._limits.soft_bytes:
            self.stripping = True
            self.full = self.size > self._limits.hard_bytes
        if self._watching:
            return
        if not self._due:
            # What comes within a moment goes out in one write: a decoder that is woken for every chunk takes the
            # processor from the calls, and each write costs the relay as much as forwarding a chunk.
            self._due = True
            self._later = self._loop.call_later(_FLUSH_S, self._flush)
        elif self.size > _FLUSH_BYTES and not self._soon:
            self._soon = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._due = self._soon = False
        try:
            while self.alive:
                if not self._sending:
                    if not self._parts:
                        break
                    self._sending = memoryview(b"".join(self._parts))
                    self._parts = []
                sent = self._socket.send(self._sending[:_SEND_BYTES])
                self._sending = self._sending[sent:]
                self.size -= sent
        except BlockingIOError:
            if not self._watching:
                self._watching = True
                self._loop.add_writer(self._socket.fileno(), self._flush)
            self._relax()
            return
        except OSError as error:
            self.end(str(error))
            return
        if self._watching and self.alive:
            self._watching = False
            self._loop.remove_writer(self._socket.fileno())
        self._relax()

    def _relax(self) -> None:
        if self.stripping and self.size < self._limits.soft_bytes // 2:
            self.stripping = self.full = False

    def _on_readable(self) -> None:
        try:
            if self._socket.recv(4096):
                self.end("it sent something behind its hello")
            else:
                self.end("it closed the connection")
        except BlockingIOError:
            return
        except OSError as error:
            self.end(str(error))

    def end(self, why: str) -> None:
        """Let the decoder go."""
        if not self.alive:
            return
        self.alive = False
        log.warning("the decoder is gone: %s", why)
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._parts, self._sending, self.size = [], memoryview(b""), 0
        self._on_end()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until everything is with the decoder; return whether it is."""
        until = self._loop.time() + timeout_s
        while self.alive and self.size and self._loop.time() < until:
            await asyncio.sleep(0.005)
        return self.size == 0


class Tee:
    """Waits for decoders, one at a time, and counts served calls in whichever books are right.

    Args:
        path: of the Unix socket.
        books_path: of the relay's own books.
        limits: bounds of the buffer.
        on_change: called when a decoder came or went.
    """

    def __init__(self, path: Path, books_path: Path, limits: TeeLimits, on_change: Callable[[], None]) -> None:
        """Open the relay's own books.

        Raises:
            OSError: they cannot be made.
        """
        self.session: TeeSession | None = None
        self.came = asyncio.Event()
        self._path = path
        self._limits = limits
        self._on_change = on_change
        self.own = Counters.create(books_path, TapIdentity(), started_us=time.time_ns() // 1000)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the path cannot be used.
        """
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(self._path))
        listener.listen(4)
        listener.setblocking(False)
        self._listener = listener
        self._accepting = asyncio.ensure_future(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            try:
                path = await asyncio.wait_for(self._hello(connection), 2.0)
                books = Counters.open(Path(path))
            except (TeeError, OSError, ValueError, TimeoutError) as error:
                log.warning("a decoder is refused: %s", error or "no hello")
                connection.close()
                continue
            if self.session is not None:
                self.session.end("another one came")
            self.session = TeeSession(connection, books, self._limits, self._gone)
            log.info("a decoder came, its books are %s", path)
            self.came.set()
            self._on_change()

    async def _hello(self, connection: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        reader = HelloReader()
        while True:
            chunk = await loop.sock_recv(connection, 4096)
            if not chunk:
                raise TeeError("it left")
            path = reader.feed(chunk)
            if path is not None:
                return path

    def _gone(self) -> None:
        self.session = None
        self._on_change()

    def count_read(self, session: TeeSession, calls: int) -> None:
        """Count served calls that the session's decoder is told of."""
        if session.books.closed:
            session.end("its books are closed")
        if session.alive:
            session.books.slots[SERVED] += calls
        else:
            self.count_unread(calls)

    def count_unread(self, calls: int) -> None:
        """Count served calls that nobody reads."""
        session = self.session
        if session is not None and session.books.closed:
            session.end("its books are closed")
            session = None
        slots = self.own.slots if session is None else session.books.slots
        slots[SERVED] += calls
        slots[_NO_DECODER if session is None else _BLIND] += calls

    async def close(self) -> None:
        """Hand over what is held, and close the books."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listener is not None:
            self._listener.close()
        if self.session is not None:
            await self.session.drained(2.0)
            self.session.end("the relay stops")
        self.own.mark_closed()
        with contextlib.suppress(OSError):
            self._path.unlink()


def open_piece(session: TeeSession, listener: int, connection: int, protocol: int) -> None:
    """Tell of a connection that is read from its first byte on."""
    session.put(Kind.OPEN, 0, listener, connection, bytes([protocol]))
