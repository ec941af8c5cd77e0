"""The relay's listeners and connections, started, drained and stopped.

Owns which connections there are. What happens on one is in `connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from pilotfish_sidecar.relay.connection import Connection, Mode
from pilotfish_sidecar.relay.stats import RelayStats
from pilotfish_sidecar.relay.tee import Tee, TeeLimits
from pilotfish_sidecar.relay.tee_wire import Direction

__all__ = ["Listener", "Relay", "RelaySettings"]

log = logging.getLogger(__name__)

_HIGH_WATER: Final = 256 << 10
_CONNECT_S: Final = 10.0
_BACKLOG: Final = 1024
_DRAIN_STEP: Final = 0.02


@dataclass(frozen=True, slots=True)
class Listener:
    """Where calls come in, and the model server they go to."""

    host: str
    port: int
    upstream_host: str
    upstream_port: int


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay is set up.

    Attributes:
        run_dir: of the sidecar; the tee's socket, the books and `relay.ready` are there.
        listeners: at least one.
        limits: bounds of the tee's buffer.
        wait_s: how long a starting relay waits for a decoder before it serves without one.
        drain_s: longest time that connections get to end when the relay stops.
        max_connections: further ones wait in the system's queue.
    """

    run_dir: Path
    listeners: Sequence[Listener]
    limits: TeeLimits = field(default_factory=TeeLimits)
    wait_s: float = 2.0
    drain_s: float = 10.0
    max_connections: int = 20_000


class _Side(asyncio.Protocol):
    """One socket of a connection."""

    def __init__(self, connection: Connection, direction: Direction) -> None:
        self._connection = connection
        self._direction = direction  # of what is read here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have all of it and are no subclass.
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER)
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
        self._told: asyncio.Task[None] | None = None
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
        for index, listener in enumerate(self.settings.listeners):
            server = await loop.create_server(
                lambda index=index: self._accept(index),  # type: ignore[misc]  # a default argument binds the index
                listener.host,
                listener.port,
                backlog=_BACKLOG,
                reuse_address=True,
            )
            self._servers.append(server)
            host, port = server.sockets[0].getsockname()[:2]
            self.addresses.append(f"{host}:{port}")
        self._told = asyncio.ensure_future(self._tell())
        _write_atomically(
            self.settings.run_dir / "relay.ready", json.dumps({"pid": os.getpid(), "addresses": self.addresses})
        )
        log.info("relaying %s", ", ".join(self.addresses))

    def _accept(self, index: int) -> asyncio.Protocol:
        self._next_number = (self._next_number + 1) & 0xFFFFFFFF
        connection = Connection(self, self._next_number, index)
        self._connections.add(connection)
        self.stats.connections += 1
        task = asyncio.ensure_future(self._connect(connection, self.settings.listeners[index]))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return _Side(connection, Direction.TO_SERVER)

    async def _connect(self, connection: Connection, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(
                loop.create_connection(
                    lambda: _Side(connection, Direction.TO_CLIENT), listener.upstream_host, listener.upstream_port
                ),
                _CONNECT_S,
            )
        except (OSError, TimeoutError) as error:
            self.stats.refused += 1
            log.warning("%s:%d takes no connection: %s", listener.upstream_host, listener.upstream_port, error)
            connection.server_refused()

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

    async def _tell(self) -> None:
        path = self.settings.run_dir / "relay.stats"
        while True:
            session = self.tee.session
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
        if self._told is not None:
            self._told.cancel()
        await self.tee.close()
        (self.settings.run_dir / "relay.ready").unlink(missing_ok=True)


def _write_atomically(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}")
    scratch.write_text(text)
    scratch.replace(path)
