"""The database of the control plane: runs closures in transactions, off the event loop.

Owns the engines, the writer threads and the reader threads. SQLite or PostgreSQL is decided by the URL alone;
nothing above this package can tell them apart. It knows no table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from sqlalchemy import Engine

from pilotfish_control_plane.access.model import SYSTEM, Principal
from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.storage.engines import Engines, open_engines
from pilotfish_control_plane.storage.faults import translate
from pilotfish_control_plane.storage.migrate import upgrade_to_head
from pilotfish_control_plane.storage.notifications import Notifications
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.writers import Job, PostgresWriters, SqliteWriter, Writers
from pilotfish_control_plane.wakes import Wakes

__all__ = ["Database", "Tx"]

T = TypeVar("T")


class Database:
    """Transactions on one database; safe to use from any thread and any event loop.

    `fn(tx)` runs in a thread, in one transaction. It must touch nothing but `tx` and its own arguments: it may
    run again after a conflict, and only its last run counts.
    """

    def __init__(self, engines: Engines, clock: Clock, wakes: Wakes, *, readers: int, writers: int) -> None:
        """Use `Database.open`."""
        self.clock = clock
        self.wakes = wakes
        self._engines = engines
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="pilotfish-reader")
        self._notifications = None if engines.is_sqlite else Notifications(engines.writer, wakes)
        wake = wakes.notify if self._notifications is None else self._notifications.notify
        self._writers: Writers = (
            SqliteWriter(engines, clock, wake)
            if engines.is_sqlite
            else PostgresWriters(engines, clock, wake, threads=writers)
        )

    @classmethod
    def open(
        cls,
        url: str,
        clock: Clock,
        *,
        wakes: Wakes | None = None,
        migrate: bool = True,
        readers: int = 4,
        writers: int = 4,
    ) -> Self:
        """Return the open database, its schema brought up to date unless `migrate` is False.

        Args:
            url: `sqlite:///path` or `postgresql://user@host/name`.
            clock: gives `tx.now`.
            wakes: the hub that commits wake; None: one of its own, as `wakes`.
            migrate: bring the schema to the newest revision first.
            readers: threads that read.
            writers: threads that write (PostgreSQL; SQLite has one).

        Raises:
            InvalidArgument: the URL names no usable database.
            Unavailable: the database does not answer.
        """
        engines = open_engines(url, readers=readers, writers=writers)
        try:
            if migrate:
                upgrade_to_head(engines.writer)
            return cls(engines, clock, wakes or Wakes(), readers=readers, writers=writers)
        except BaseException as error:
            engines.dispose()
            if (fault := translate(error)) is not None:
                raise fault from error
            raise

    async def write(self, fn: Callable[[Tx], T], *, actor: Principal = SYSTEM, request_id: str = "") -> T:
        """Run `fn` in a write transaction; return its result once it is durable.

        Cancelling the wait drops the write while it is queued, and not any more once it runs.

        Raises:
            Unavailable: the store is down; nothing was changed.
            ResourceExhausted: its disk is full, or too many writes wait; nothing was changed.
        """
        job = Job(fn, actor, request_id)
        self._writers.submit(job)
        result: T = await asyncio.wrap_future(job.future)
        return result

    def write_sync(self, fn: Callable[[Tx], T], *, actor: Principal = SYSTEM, request_id: str = "") -> T:
        """Do as `write`, blocking the calling thread; never from within a transaction."""
        job = Job(fn, actor, request_id)
        self._writers.submit(job)
        result: T = job.future.result()
        return result

    async def read(self, fn: Callable[[Tx], T], *, actor: Principal = SYSTEM, request_id: str = "") -> T:
        """Run `fn` on one consistent snapshot, read-only; return its result.

        Raises:
            Unavailable: the store is down.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self.read_sync, fn, actor, request_id)

    def read_sync(self, fn: Callable[[Tx], T], actor: Principal = SYSTEM, request_id: str = "") -> T:
        """Do as `read`, in the calling thread."""
        try:
            with self._engines.reader.connect() as conn, conn.begin():
                return fn(Tx(conn, self.clock.now(), actor, request_id, read_only=True))
        except Exception as error:
            if (fault := translate(error, reading=True)) is not None:
                raise fault from error
            raise

    @property
    def engine(self) -> Engine:
        """The writing engine, for migrations and schema checks only."""
        return self._engines.writer

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self._engines.is_sqlite

    @property
    def queued_writes(self) -> int:
        """How many writes wait; for metrics."""
        return self._writers.queued

    def close(self) -> None:
        """Finish what is queued, end every thread, close every connection. Harmless when called again."""
        self._writers.close()
        if self._notifications is not None:
            self._notifications.close()
        self._readers.shutdown(wait=True)
        self._engines.dispose()
