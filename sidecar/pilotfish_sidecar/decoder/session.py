"""One relay's pieces, to calls, to records.

Owns the connections of one relay session. It never opens a socket.
"""

from __future__ import annotations

import logging

from pilotfish_sidecar.decoder.calls import Budget, Sink
from pilotfish_sidecar.decoder.http1 import Http1Connection
from pilotfish_sidecar.decoder.http2 import Http2Connection
from pilotfish_sidecar.decoder.methods import Methods
from pilotfish_sidecar.relay.tee_wire import Cause, Kind, Piece, Protocol
from pilotfish_sidecar.tap.tap import Tap

__all__ = ["Session"]

log = logging.getLogger(__name__)


class Session:
    """Everything that one relay told since the decoder connected to it.

    Args:
        tap: ships the records; its served calls are counted by the relay.
        methods: tells which calls are inference; None: those of the known protocols.
    """

    def __init__(self, tap: Tap, methods: Methods | None = None) -> None:
        """Begin without connections."""
        self._sink = Sink(tap, methods or Methods())
        self._budget = Budget()
        self._connections: dict[int, Http2Connection | Http1Connection] = {}

    def take(self, piece: Piece) -> None:
        """Take a piece; whatever is in it."""
        kind, direction, _, number, time_us, payload = piece
        if kind == Kind.OPEN:
            made = Http1Connection if payload[:1] == bytes([Protocol.HTTP1]) else Http2Connection
            self._connections[number] = made(self._sink, self._budget)
            return
        connection = self._connections.get(number)
        if connection is None:
            return
        if kind == Kind.DATA:
            connection.data(direction, payload, time_us)
        elif kind == Kind.CLOSE:
            del self._connections[number]
            connection.close(payload[0] if payload else Cause.BY_SERVER, time_us)
        elif isinstance(connection, Http2Connection):
            connection.stripped(direction, payload, time_us)
        else:
            connection.stripped(direction, time_us)
