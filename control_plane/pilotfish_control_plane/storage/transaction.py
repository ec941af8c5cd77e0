"""`Tx`: one transaction as a service sees it.

Owns what a transaction carries beside its connection: the time, who acts, and the events, audit rows, wakes
and callbacks that belong to its commit. It never begins or ends a transaction: `storage.database` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pilotfish_control_plane.access.model import Principal
from pilotfish_control_plane.storage import audit, events
from pilotfish_control_plane.storage.types import JsonObject

__all__ = ["Tx"]


class Tx:
    """One transaction: everything done through it commits together, or not at all.

    Attributes:
        conn: the SQLAlchemy Core connection, for storage modules only.
        now: the time of the transaction, aware UTC; the same for everything in it.
        actor: who acts.
        request_id: the id of the call that caused it; "" in loops.
        read_only: True inside `Database.read`.
    """

    __slots__ = ("_audits", "_callbacks", "_events", "_topics", "actor", "conn", "now", "read_only", "request_id")

    def __init__(
        self, conn: Connection, now: datetime, actor: Principal, request_id: str, *, read_only: bool = False
    ) -> None:
        """Wrap a connection whose transaction has begun."""
        self.conn = conn
        self.now = now
        self.actor = actor
        self.request_id = request_id
        self.read_only = read_only
        self._events: list[dict[str, Any]] = []
        self._audits: list[dict[str, Any]] = []
        self._topics: dict[str, None] = {}
        self._callbacks: list[Callable[[], None]] = []

    def emit(self, kind: str, subject: str, payload: JsonObject | None = None) -> None:
        """Record an event, and wake `kind` and `events` after the commit.

        Args:
            kind: dotted, area first: `deployments.ready`.
            subject: the full resource name of what changed.
            payload: plain JSON.
        """
        self._writable("emit")
        self._events.append(
            {
                "time": self.now,
                "project": events.project_of(subject),
                "kind": kind,
                "subject": subject,
                "actor": self.actor.name,
                "payload": dict(payload or {}),
            }
        )
        self.wake(kind)

    def audit(
        self, method: str, resource: str, before: JsonObject | None = None, after: JsonObject | None = None
    ) -> None:
        """Record who changed what: the resource's fields before (None: created) and after (None: deleted)."""
        self._writable("audit")
        self._audits.append(
            {
                "time": self.now,
                "principal": self.actor.name,
                "request_id": self.request_id,
                "method": method,
                "resource": resource,
                "before": None if before is None else dict(before),
                "after": None if after is None else dict(after),
            }
        )

    def wake(self, topic: str) -> None:
        """Wake whoever waits for `topic`, after the commit."""
        self._writable("wake")
        self._topics[topic] = None

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once after the commit, in the writer's thread: be quick; an exception is only logged."""
        self._writable("after_commit")
        self._callbacks.append(callback)

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo only the block's rows, events, audit rows and wakes when it raises; the exception goes on."""
        marks = len(self._events), len(self._audits), len(self._callbacks), dict(self._topics)
        try:
            with self.conn.begin_nested():
                yield
        except BaseException:
            del self._events[marks[0] :], self._audits[marks[1] :], self._callbacks[marks[2] :]
            self._topics = marks[3]
            raise

    def flush(self, before_events: Callable[[Connection], None]) -> None:
        """Write the audit rows and events; the database calls it last, just before the commit.

        Args:
            before_events: takes the lock that makes the order of event numbers the order of commits.
        """
        if self._audits:
            audit.append(self.conn, self._audits)
            self._topics[audit.TOPIC] = None
        if self._events:
            before_events(self.conn)
            events.append(self.conn, self._events)
            self._topics["events"] = None

    @property
    def topics(self) -> tuple[str, ...]:
        """What to wake after the commit."""
        return tuple(self._topics)

    @property
    def callbacks(self) -> tuple[Callable[[], None], ...]:
        """What to call after the commit."""
        return tuple(self._callbacks)

    def _writable(self, what: str) -> None:
        if self.read_only:
            raise RuntimeError(f"tx.{what}() inside Database.read: use Database.write")
