"""Wakes between control planes that share one PostgreSQL, by NOTIFY and LISTEN.

Owns one listening thread and its connection. A lost notification costs a sweep interval, never correctness.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from typing import Any, Protocol, cast

from sqlalchemy import Engine, text

from pilotfish_control_plane.wakes import Wakes

__all__ = ["Notifications"]

log = logging.getLogger(__name__)

_CHANNEL = "pilotfish_wakes"
_MAX_PAYLOAD_BYTES = 7000  # PostgreSQL refuses 8000 and more


class _Notify(Protocol):
    payload: str


class _Listening(Protocol):
    """The part of psycopg.Connection that is used here; psycopg is an extra and may be missing."""

    def execute(self, query: str) -> object: ...

    def notifies(self, *, timeout: float) -> Iterator[_Notify]: ...


class Notifications:
    """Tells other control planes what this one woke, and wakes this one for theirs."""

    def __init__(self, engine: Engine, wakes: Wakes) -> None:
        """Start listening, with one connection of `engine`, and sending, with another now and then."""
        self._engine = engine
        self._wakes = wakes
        self._origin = secrets.token_hex(4)
        self._pending: dict[str, None] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._listen, name="pilotfish-listen", daemon=True),
            threading.Thread(target=self._send, name="pilotfish-notify", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def notify(self, topics: tuple[str, ...]) -> None:
        """Wake this control plane at once and the others in a moment."""
        self._wakes.notify(topics)
        # Not in the writing transaction: NOTIFY there makes all commits of the cluster queue for one lock.
        with self._changed:
            self._pending.update(dict.fromkeys(topics))
            self._changed.notify()

    def close(self) -> None:
        """End both threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if self._closing:
                    return
                topics, self._pending = tuple(self._pending), {}
            try:
                with self._engine.connect() as conn, conn.begin():
                    for payload in self._payloads(topics):
                        conn.execute(text("SELECT pg_notify(:c, :p)"), {"c": _CHANNEL, "p": payload})
            except Exception as error:
                log.warning("could not notify other control planes, they will sweep: %s", error)
                self._pause(1.0)

    def _payloads(self, topics: tuple[str, ...]) -> Iterator[str]:
        part = self._origin
        for topic in topics:
            if len(part) + len(topic) > _MAX_PAYLOAD_BYTES:
                yield part
                part = self._origin
            part += "," + topic
        yield part

    def _listen(self) -> None:
        while not self._closing:
            try:
                with self._engine.connect() as conn:
                    raw = conn.execution_options(isolation_level="AUTOCOMMIT").connection.dbapi_connection
                    self._receive(cast("_Listening", raw))
                    # A connection that listens must not go back into the pool.
                    conn.invalidate()
            except Exception as error:
                log.warning("lost the notifications of other control planes, sweeping until they are back: %s", error)
                self._pause(1.0)

    # Any: psycopg's own types are not there without the extra.
    def _receive(self, connection: Any) -> None:
        connection.execute(f"LISTEN {_CHANNEL}")
        self._wakes.notify(("*",))
        while not self._closing:
            for notification in connection.notifies(timeout=0.5):
                origin, *topics = notification.payload.split(",")
                if origin != self._origin:
                    self._wakes.notify(topics)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=seconds)
