"""The threads that write: one with group commit for SQLite, several with retries for PostgreSQL.

Owns the queue of closures, batches, savepoints and retries. A closure's result is handed over only after the
commit that made it durable. Closures may run more than once; only the last run counts.
"""

from __future__ import annotations

import abc
import logging
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Connection, text

from pilotfish.errors import ResourceExhausted, Unavailable
from pilotfish_control_plane.access.model import Principal
from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.storage.engines import Engines
from pilotfish_control_plane.storage.faults import is_retryable, translate
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Job", "PostgresWriters", "SqliteWriter", "Writers"]

log = logging.getLogger(__name__)

MAX_QUEUED = 10_000
MAX_BATCH = 64
MAX_BATCH_S = 0.02
MAX_ATTEMPTS = 12
ALONE_AFTER = 4
_SAVEPOINT = "pilotfish_closure"


@dataclass(slots=True, eq=False)
class Job:
    """A closure to run in a write transaction, and where its result goes."""

    # Any: the closure's result goes to its caller untouched; Database.write gives it back its type.
    fn: Callable[[Tx], Any]
    actor: Principal
    request_id: str
    future: Future[Any] = field(default_factory=Future)


@dataclass(slots=True)
class _Outcome:
    job: Job
    tx: Tx | None = None
    result: Any = None
    error: BaseException | None = None


class _BatchLost(Exception):
    """The database rolled the whole transaction back while a closure ran."""


class Writers(abc.ABC):
    """What both kinds share: the bounded queue, the threads, and the end."""

    def __init__(self, engines: Engines, clock: Clock, wake: Callable[[tuple[str, ...]], None], threads: int) -> None:
        """Start `threads` threads; `wake` is called after each commit with the topics it wakes."""
        self._engines = engines
        self._clock = clock
        self._wake = wake
        self._queue: queue.Queue[Job | None] = queue.Queue(MAX_QUEUED)
        self._closed = False
        self._gate = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"pilotfish-writer-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ResourceExhausted: too many writes wait already.
            Unavailable: the database is closed.
        """
        with self._gate:
            if self._closed:
                raise Unavailable("the control plane is stopping: repeat the call in a moment", retry_after_s=2.0)
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise ResourceExhausted(
                    f"{MAX_QUEUED} writes wait already: repeat the call later", reason="WRITE_QUEUE", retry_after_s=1.0
                ) from None

    @property
    def queued(self) -> int:
        """How many writes wait."""
        return self._queue.qsize()

    def close(self) -> None:
        """Finish what is queued and end the threads; nothing can be submitted any more."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._work(job)

    @abc.abstractmethod
    def _work(self, job: Job) -> None:
        """Run a job in its own thread's transaction and deliver its outcome."""

    def _begin_tx(self, conn: Connection, job: Job) -> Tx:
        return Tx(conn, self._clock.now(), job.actor, job.request_id)

    def _deliver(self, outcome: _Outcome) -> None:
        """Hand over a committed result or an error, then run what waits for the commit."""
        if outcome.error is not None:
            outcome.job.future.set_exception(outcome.error)
            return
        tx = outcome.tx
        if tx is not None:
            for callback in tx.callbacks:
                try:
                    callback()
                except Exception:
                    log.exception("a callback after a commit failed; the commit stands")
            if tx.topics:
                self._wake(tx.topics)
        outcome.job.future.set_result(outcome.result)


class SqliteWriter(Writers):
    """One thread; closures that wait together share one transaction, each in a savepoint, and one fsync."""

    def __init__(self, engines: Engines, clock: Clock, wake: Callable[[tuple[str, ...]], None]) -> None:
        """Start the one thread."""
        super().__init__(engines, clock, wake, threads=1)

    def _work(self, job: Job) -> None:
        self._run_batch(self._batch(job))

    def _batch(self, first: Job) -> Iterator[Job]:
        """Yield `first` and then whatever waits, within the limits of a batch."""
        started = time.monotonic()
        yield first
        for _ in range(MAX_BATCH - 1):
            if time.monotonic() - started > MAX_BATCH_S:
                return
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job is None:
                self._queue.put(None)
                return
            yield job

    def _run_batch(self, jobs: Iterator[Job]) -> None:
        outcomes: list[_Outcome] = []
        try:
            with self._engines.writer.connect() as conn, conn.begin():
                for job in jobs:
                    if job.future.set_running_or_notify_cancel():
                        self._run_one(conn, job, outcomes)
        except _BatchLost:
            self._repeat_alone(outcomes)
            return
        except BaseException as error:  # BEGIN or COMMIT failed: nothing of the batch is durable
            # BEGIN fails before the first job was taken: those that wait would only wait for the same failure.
            for job in jobs if not outcomes else ():
                if job.future.set_running_or_notify_cancel():
                    outcomes.append(_Outcome(job))
            for outcome in outcomes:
                outcome.error = outcome.error or translate(error) or error
        for outcome in outcomes:
            self._deliver(outcome)

    def _run_one(self, conn: Connection, job: Job, outcomes: list[_Outcome]) -> None:
        outcome = _Outcome(job)
        outcomes.append(outcome)
        # Straight to the driver: SQLAlchemy's own nested transaction costs 50 µs a closure.
        raw = cast("sqlite3.Connection", conn.connection.dbapi_connection)
        raw.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            tx = self._begin_tx(conn, job)
            outcome.result = job.fn(tx)
            tx.flush(self._engines.lock_event_order)
            raw.execute(f"RELEASE {_SAVEPOINT}")
            outcome.tx = tx
        except BaseException as error:
            outcome.error = translate(error) or error
            # A full disk or an I/O error makes SQLite roll the whole transaction back by itself;
            # what the others wrote is gone then, though their closures succeeded.
            if conn.invalidated or not raw.in_transaction:
                raise _BatchLost from error
            try:
                raw.execute(f"ROLLBACK TO {_SAVEPOINT}")
                raw.execute(f"RELEASE {_SAVEPOINT}")
            except sqlite3.Error:
                raise _BatchLost from error

    def _repeat_alone(self, outcomes: list[_Outcome]) -> None:
        """Give every job that succeeded in a lost batch a transaction of its own; deliver the errors."""
        for outcome in outcomes:
            if outcome.error is not None:
                self._deliver(outcome)
                continue
            again: list[_Outcome] = []
            try:
                with self._engines.writer.connect() as conn, conn.begin():
                    self._run_one(conn, outcome.job, again)
            except BaseException as error:
                again = again or [_Outcome(outcome.job)]
                again[0].error = again[0].error or translate(error) or error
            self._deliver(again[0])


class PostgresWriters(Writers):
    """Several threads, one SERIALIZABLE transaction per closure, run again when it met another one.

    A closure that lost several times takes the write gate for itself, so that every write ends.
    """

    def _work(self, job: Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        outcome = _Outcome(job)
        for attempt in range(MAX_ATTEMPTS):
            try:
                with self._engines.writer.connect() as conn, conn.begin():
                    _take_gate(conn, alone=attempt >= ALONE_AFTER)
                    tx = self._begin_tx(conn, job)
                    result = job.fn(tx)
                    tx.flush(self._engines.lock_event_order)
                outcome = _Outcome(job, tx, result)
                break
            except BaseException as error:
                outcome.error = translate(error) or error
                if not is_retryable(error) or attempt >= MAX_ATTEMPTS - 1:
                    break
                log.debug("attempt %d met another transaction: %s", attempt + 1, error)
                time.sleep(random.uniform(0.001, 0.004) * 2 ** min(attempt, 6))
        self._deliver(outcome)


def _take_gate(conn: Connection, *, alone: bool) -> None:
    # LOCK TABLE takes no snapshot, so the transaction sees everything that committed while it waited;
    # an advisory lock taken by SELECT would keep the snapshot from before the wait, and fail again.
    conn.execute(text(f"LOCK TABLE write_gate IN {'EXCLUSIVE' if alone else 'ROW SHARE'} MODE"))
