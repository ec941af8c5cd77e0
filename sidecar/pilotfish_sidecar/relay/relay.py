"""The relay's listeners and connections, started, drained and stopped.

Owns which connections there are. What happens on one is in `connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from pilotfish_sidecar.relay.connection import Connection, Mode
from pilotfish_sidecar.relay.stats import RelayStats
from pilotfish_sidecar.relay.tee import Tee, TeeLimits
from pilotfish_sidecar.relay.tee_wire import Direction
from pilotfish_sidecar.relay.tls import TlsContexts, TlsSettings, alpn_of

__all__ = ["Listener", "Relay", "RelaySettings"]

log = logging.getLogger(__name__)

_MAX_HIGH_WATER: Final = 256 << 10
_MIN_HIGH_WATER: Final = 8 << 10
_HANDSHAKE_S: Final = 10.0
_SHUTDOWN_S: Final = 5.0
_LAG_STEP_S: Final = 0.1
_CONNECT_S: Final = 10.0
_BACKLOG: Final = 1024
_DRAIN_STEP: Final = 0.02
_ASK_AGAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Where calls come in, and the model server they go to.

    Attributes:
        host: listened on.
        port: listened on; 0: any free one.
        upstream_host: the model server's.
        upstream_port: the model server's.
        tls: clients come by TLS, which ends here.
        upstream_tls: the model server is reached by TLS.
    """

    host: str
    port: int
    upstream_host: str
    upstream_port: int
    tls: bool = False
    upstream_tls: bool = False


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay is set up.

    Attributes:
        run_dir: of the sidecar; the tee's socket, the books and `relay.ready` are there.
        listeners: at least one.
        limits: bounds of the tee's buffer.
        wait_s: how long a starting relay waits for a decoder before it serves without one.
        drain_s: longest time that connections get to end when the relay stops.
        tls: certificates, where a listener ends TLS or a model server wants it.
        buffer_bytes: bound of what all connections together hold back for slow readers; approximately, because each may
            overshoot by one read.
    """

    run_dir: Path
    listeners: Sequence[Listener]
    limits: TeeLimits = field(default_factory=TeeLimits)
    wait_s: float = 2.0
    drain_s: float = 10.0
    tls: TlsSettings = field(default_factory=TlsSettings)
    buffer_bytes: int = 64 << 20


class _Side(asyncio.Protocol):
    """One socket of a connection."""

    def __init__(self, connection: Connection, direction: Direction) -> None:
        self._connection = connection
        self._direction = direction  # of what is read here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all of it and are no subclass.
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=self._connection.high_water)
        if self._direction is Direction.TO_SERVER:
            self._connection.client_came(transport)
        else:
            self._connection.server_came(transport)

    def data_received(self, data: bytes) -> None:
        self._connection.carry(self._direction, data)

    def eof_received(self) -> bool:
        return self._connection.half_closed(self._direction)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost(self._direction, exc)

    # The buffer towards this socket is full: what is read on the other one must wait.

    def pause_writing(self) -> None:
        self._connection.pause(_opposite(self._direction))

    def resume_writing(self) -> None:
        self._connection.resume(_opposite(self._direction))


def _opposite(direction: Direction) -> Direction:
    return Direction.TO_CLIENT if direction is Direction.TO_SERVER else Direction.TO_SERVER


class Relay:
    """All connections of one relay process."""

    def __init__(self, settings: RelaySettings) -> None:
        """Open the books; nothing listens yet.

        Raises:
            OSError: the run directory cannot be used.
        """
        self.settings = settings
        self.stats = RelayStats()
        run_dir = settings.run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        # Beside the decoder's books, where the agent looks for all of them.
        own = run_dir / "tap.counters.relay"
        self.tee = Tee(run_dir / "tee.sock", own, settings.limits, self._decoder_changed)
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._next_number = 0
        self._connecting: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._tls = TlsContexts(settings.tls)
        self.addresses: list[str] = []

    async def start(self) -> None:
        """Wait a moment for a decoder, then serve.

        Raises:
            OSError: an address cannot be listened on.
        """
        self.tee.start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.tee.came.wait(), self.settings.wait_s)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        for index, listener in enumerate(self.settings.listeners):
            await self._listen(index, listener)
        self._background += [asyncio.ensure_future(self._tell()), asyncio.ensure_future(self._watch_lag())]
        _write_atomically(
            self.settings.run_dir / "relay.ready", json.dumps({"pid": os.getpid(), "addresses": self.addresses})
        )
        log.info("relaying %s", ", ".join(self.addresses))

    async def _listen(self, index: int, listener: Listener) -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: self._accept(index),
            listener.host,
            listener.port,
            backlog=_BACKLOG,
            reuse_address=True,
            ssl=self._tls.listening(index) if listener.tls else None,
            **_timeouts(listener.tls),
        )
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        self.addresses.append(f"{host}:{port}")
        if listener.tls and listener.upstream_tls:
            self._background.append(asyncio.ensure_future(self._ask_alpn(index, listener)))

    async def _ask_alpn(self, index: int, listener: Listener) -> None:
        """Offer clients only what the model server speaks, as soon as that is known."""
        while (chosen := await alpn_of(listener.upstream_host, listener.upstream_port, self._tls)) is None:
            await asyncio.sleep(_ASK_AGAIN_S)
        self._tls.offer(index, chosen or "http/1.1")

    def _accept(self, index: int) -> asyncio.Protocol:
        self._next_number = (self._next_number + 1) & 0xFFFFFFFF
        return _Side(Connection(self, self._next_number, index), Direction.TO_SERVER)

    def add(self, connection: Connection) -> None:
        """Take a connection whose client is there."""
        self._connections.add(connection)
        self.stats.connections += 1

    def upstream_wants_alpn(self, connection: Connection) -> bool:
        """Return whether its model server must be told by TLS which protocol comes."""
        return self.settings.listeners[connection.listener].upstream_tls

    def connect(self, connection: Connection, alpn: str) -> None:
        """Connect a client to its model server."""
        task = asyncio.ensure_future(self._connect(connection, self.settings.listeners[connection.listener], alpn))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    @property
    def high_water(self) -> int:
        """Bytes that one side of one more connection may hold back."""
        share = self.settings.buffer_bytes // (2 * len(self._connections) + 2)
        return max(_MIN_HIGH_WATER, min(_MAX_HIGH_WATER, share))

    async def _connect(self, connection: Connection, listener: Listener, alpn: str) -> None:
        try:
            name = self.settings.tls.upstream_name or listener.upstream_host
            await asyncio.wait_for(
                asyncio.get_running_loop().create_connection(
                    lambda: _Side(connection, Direction.TO_CLIENT),
                    listener.upstream_host,
                    listener.upstream_port,
                    ssl=self._tls.connecting(alpn) if listener.upstream_tls else None,
                    server_hostname=name if listener.upstream_tls else None,
                    **_timeouts(listener.upstream_tls),
                ),
                _CONNECT_S,
            )
        except (OSError, TimeoutError) as error:
            self.stats.refused += 1
            log.warning("%s:%d takes no connection: %s", listener.upstream_host, listener.upstream_port, error)
            connection.server_refused()

    # Any: what asyncio tells of an error.
    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, (ssl.SSLError, ConnectionError, TimeoutError)):
            self.stats.tls_failed += 1
            log.info("a connection failed: %s", error)
            return
        loop.default_exception_handler(context)

    def forget(self, connection: Connection) -> None:
        """Let a connection go that has ended."""
        self._connections.discard(connection)

    def _decoder_changed(self) -> None:
        session = self.tee.session
        for connection in list(self._connections):
            if connection.mode is Mode.TEED and connection.session is not session:
                connection.go_blind()
            if session is not None and connection.mode is Mode.BLIND:
                # Its headers cannot be read from the middle; a fresh connection can.
                connection.drain()

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_STEP_S
            await asyncio.sleep(_LAG_STEP_S)
            self.stats.lag_us = max(self.stats.lag_us, int((loop.time() - due) * 1e6))

    async def _tell(self) -> None:
        path = self.settings.run_dir / "relay.stats"
        while True:
            session = self.tee.session
            self._tls.refresh()
            with contextlib.suppress(OSError):
                self.stats.write(
                    path, open_connections=len(self._connections), tee_bytes=session.size if session else 0
                )
            if session is not None and not session.full:
                for connection in list(self._connections):
                    if connection.mode is Mode.BLIND:
                        connection.drain()
            await asyncio.sleep(1.0)

    async def stop(self) -> None:
        """Take no new connections, let those that are there end, and close the books."""
        for server in self._servers:
            server.close()
        until = asyncio.get_running_loop().time() + self.settings.drain_s
        while self._connections and asyncio.get_running_loop().time() < until:
            for connection in list(self._connections):
                connection.drain()
            await asyncio.sleep(_DRAIN_STEP)
        for connection in list(self._connections):
            connection.server_refused()
        for _ in range(3):
            await asyncio.sleep(0)
        for task in self._background:
            task.cancel()
        await self.tee.close()
        (self.settings.run_dir / "relay.ready").unlink(missing_ok=True)


def _timeouts(tls: bool) -> dict[str, Any]:  # Any: keyword arguments
    return {"ssl_handshake_timeout": _HANDSHAKE_S, "ssl_shutdown_timeout": _SHUTDOWN_S} if tls else {}


def _write_atomically(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(text)
    scratch.replace(path)
