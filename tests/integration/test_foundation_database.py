"""The database: group commit, retries, events in commit order, faults; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from pilotfish.errors import InvalidArgument, ResourceExhausted, Unavailable
from pilotfish_control_plane.access.model import Principal
from pilotfish_control_plane.clock import FakeClock, SystemClock
from pilotfish_control_plane.storage import events, leases
from pilotfish_control_plane.storage.database import Database, Tx

from ..conftest import DatabaseFactory

pytestmark = pytest.mark.timeout(60)


def count_events(database: Database) -> int:
    """Return the number of rows, asked without the module under test."""
    return database.read_sync(lambda tx: tx.conn.execute(select(func.count()).select_from(events.events)).scalar_one())


def emit(kind: str) -> Callable[[Tx], None]:
    """Return a closure that emits one event."""
    return lambda tx: tx.emit(kind, "projects/p/models/m", {"kind": kind})


async def test_group_commit_isolates_a_failing_closure(database: Database) -> None:
    def good(tx: Tx) -> None:
        tx.emit("good", "projects/p/models/m")

    def bad(tx: Tx) -> None:
        tx.emit("bad", "projects/p/models/m")
        tx.conn.execute(leases.leases.insert().values(name="x", holder="h", epoch=1, expires=tx.now))
        raise InvalidArgument("no")

    results = await asyncio.gather(
        *(database.write(bad if i % 3 == 0 else good) for i in range(60)), return_exceptions=True
    )
    assert [isinstance(r, InvalidArgument) for r in results] == [i % 3 == 0 for i in range(60)]
    kinds = database.read_sync(lambda tx: [e.kind for e in events.tail(tx.conn, 0)])
    assert kinds == ["good"] * 40
    assert database.read_sync(lambda tx: leases.current(tx.conn, "x")) is None


async def test_closures_that_wait_together_share_a_commit_on_sqlite(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock())
    commits: list[None] = []
    hold = threading.Event()
    first = database.write(lambda tx: hold.wait(5))
    waiting = [asyncio.ensure_future(w) for w in [first, *(database.write(emit("x")) for _ in range(50))]]
    await asyncio.sleep(0.05)
    from sqlalchemy import event

    event.listen(database.engine, "commit", lambda _conn: commits.append(None))
    hold.set()
    await asyncio.gather(*waiting)
    assert count_events(database) == 50
    # 64 to a batch, cut after 20 ms of work: a handful at most, where one by one it would be 51.
    assert 1 <= len(commits) <= 10
    database.close()


async def test_a_result_is_handed_over_only_after_its_commit(database_url: str) -> None:
    database = Database.open(database_url, SystemClock(), migrate=False)
    other = Database.open(database_url, SystemClock(), migrate=False)
    for expected in range(1, 20):
        await database.write(emit("x"))
        assert count_events(other) == expected
    other.close()
    database.close()


async def test_concurrent_check_then_insert_never_inserts_twice(database: Database) -> None:
    def create_once(tx: Tx) -> bool:
        if leases.current(tx.conn, "unique") is not None:
            return False
        tx.conn.execute(leases.leases.insert().values(name="unique", holder="h", epoch=1, expires=tx.now))
        return True

    results = await asyncio.gather(*(database.write(create_once) for _ in range(20)))
    assert sorted(results) == [False] * 19 + [True]


async def test_concurrent_increments_are_all_counted(database: Database) -> None:
    database.write_sync(lambda tx: leases.acquire(tx.conn, "n", "h", tx.now, 1.0))

    def increment(tx: Tx) -> None:
        held = leases.current(tx.conn, "n")
        assert held is not None
        tx.conn.execute(leases.leases.update().values(epoch=held.epoch + 1))

    await asyncio.gather(*(database.write(increment) for _ in range(60)))
    held = database.read_sync(lambda tx: leases.current(tx.conn, "n"))
    assert held is not None and held.epoch == 61


async def test_a_watcher_never_skips_an_event_while_writers_race(database: Database) -> None:
    seen: list[int] = []
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set() or seen[-1:] != [await database.read(lambda tx: events.head(tx.conn))]:
            batch = await database.read(lambda tx: events.tail(tx.conn, seen[-1] if seen else 0, limit=7))
            seen.extend(e.seq for e in batch)

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(*(database.write(emit(f"k{i}")) for i in range(150)))
    done.set()
    await watching
    assert len(seen) == 150 == len(set(seen))
    assert seen == sorted(seen)


def test_events_carry_time_project_actor_and_payload(database: Database, clock: FakeClock) -> None:
    database.write_sync(
        lambda tx: tx.emit("models.created", "projects/risk/models/fraud", {"a": [1, None, "é"]}),
        actor=Principal("ann"),
    )
    (event,) = database.read_sync(lambda tx: events.tail(tx.conn, 0))
    assert event == events.Event(
        1, clock.now(), "risk", "models.created", "projects/risk/models/fraud", "ann", {"a": [1, None, "é"]}
    )


def test_tail_filters_by_kind_and_subject_without_wildcards(database: Database) -> None:
    for kind, subject in [
        ("models.created", "projects/p/models/a_b"),
        ("modelsX.created", "projects/p/models/aXb"),
        ("models", "projects/p/models/a_b/versions/1"),
        ("alerts.firing", "projects/P/models/a_b"),
    ]:
        database.write_sync(lambda tx, k=kind, s=subject: tx.emit(k, s))  # type: ignore[misc]

    def seqs(**wanted: Any) -> list[int]:
        return [e.seq for e in database.read_sync(lambda tx: events.tail(tx.conn, 0, **wanted))]

    assert seqs(kinds=["models"]) == [1, 3]
    assert seqs(subject_prefix="projects/p/models/a_b") == [1, 3]
    assert seqs(subject_prefix="projects/P/") == [4]
    assert seqs(kinds=["models.created", "alerts"]) == [1, 4]
    assert [e.seq for e in database.read_sync(lambda tx: events.tail(tx.conn, 1, limit=2))] == [2, 3]


async def test_wakes_and_callbacks_come_after_the_commit_and_not_after_a_failure(database: Database) -> None:
    called: list[int] = []
    with database.wakes.subscribe("models") as wakes:

        def write(tx: Tx) -> None:
            tx.emit("models.created", "projects/p/models/m")
            tx.after_commit(lambda: called.append(count_events(database)))

        def fail(tx: Tx) -> None:
            write(tx)
            raise InvalidArgument("no")

        with pytest.raises(InvalidArgument):
            await database.write(fail)
        assert not await wakes.wait(0.1)
        assert called == []
        await database.write(write)
        assert await wakes.wait(2.0)
        assert called == [1]


def test_a_savepoint_undoes_its_block_alone(database: Database) -> None:
    def write(tx: Tx) -> None:
        tx.emit("before", "s")
        with pytest.raises(ValueError), tx.savepoint():
            tx.emit("inside", "s")
            tx.audit("X", "s")
            tx.conn.execute(leases.leases.insert().values(name="x", holder="h", epoch=1, expires=tx.now))
            raise ValueError
        assert leases.current(tx.conn, "x") is None
        tx.emit("after", "s")

    database.write_sync(write)
    assert database.read_sync(lambda tx: [e.kind for e in events.tail(tx.conn, 0)]) == ["before", "after"]


def test_a_read_refuses_to_write(database: Database) -> None:
    with pytest.raises(RuntimeError, match=r"tx.emit\(\) inside Database.read"):
        database.read_sync(lambda tx: tx.emit("a", "b"))
    with pytest.raises(Exception, match=r"readonly|read-only"):
        database.read_sync(lambda tx: tx.conn.execute(text("DELETE FROM leases")))


def test_times_keep_their_instant_and_come_back_in_utc(database: Database) -> None:
    there = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    database.write_sync(
        lambda tx: tx.conn.execute(leases.leases.insert().values(name="t", holder="h", epoch=1, expires=there))
    )
    held = database.read_sync(lambda tx: leases.current(tx.conn, "t"))
    assert held is not None
    assert held.expires == there and held.expires.tzinfo is UTC
    naive = datetime(2031, 1, 1)
    with pytest.raises(Exception, match="no time zone"):
        database.write_sync(lambda tx: tx.conn.execute(leases.leases.update().values(expires=naive)))


async def test_a_write_cancelled_in_the_queue_never_runs(database: Database) -> None:
    hold = threading.Event()
    blocking = [asyncio.ensure_future(database.write(lambda tx: hold.wait(5))) for _ in range(4)]
    await asyncio.sleep(0.05)
    queued = asyncio.ensure_future(database.write(emit("never")))
    await asyncio.sleep(0.05)
    queued.cancel()
    await asyncio.sleep(0.05)
    hold.set()
    await asyncio.gather(*blocking)
    await database.write(emit("last"))
    assert database.read_sync(lambda tx: [e.kind for e in events.tail(tx.conn, 0)]) == ["last"]


async def test_a_closed_database_says_that_it_is_stopping(database_url: str) -> None:
    database = Database.open(database_url, SystemClock(), migrate=False)
    await database.write(emit("x"))
    database.close()
    database.close()
    with pytest.raises(Unavailable, match="stopping"):
        await database.write(emit("y"))


def test_a_full_disk_is_resource_exhausted_and_spares_the_others(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock())
    pages = database.write_sync(lambda tx: tx.conn.execute(text("PRAGMA page_count")).scalar_one())
    with database.engine.connect() as conn, conn.begin():
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 8}")

    def large(tx: Tx) -> None:
        tx.emit("large", "s", {"text": "x" * 1_000_000})

    with pytest.raises(ResourceExhausted) as refused:
        database.write_sync(large)
    assert refused.value.reason == "STORE_FULL"
    assert refused.value.retry_after_s == 10.0
    database.write_sync(emit("small"))
    assert count_events(database) == 1
    database.close()


async def test_a_full_disk_in_a_batch_repeats_the_closures_that_had_succeeded(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock())
    pages = database.write_sync(lambda tx: tx.conn.execute(text("PRAGMA page_count")).scalar_one())
    with database.engine.connect() as conn, conn.begin():
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages + 8}")
    hold = threading.Event()

    def large(tx: Tx) -> None:
        tx.emit("large", "s", {"text": "x" * 1_000_000})

    first = asyncio.ensure_future(database.write(lambda tx: hold.wait(5)))
    await asyncio.sleep(0.02)
    fns = [emit("a"), emit("b"), large, emit("c")]
    rest = [asyncio.ensure_future(database.write(fn)) for fn in fns]
    await asyncio.sleep(0.05)
    hold.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [isinstance(r, ResourceExhausted) for r in results] == [False, False, False, True, False]
    assert sorted(e.kind for e in database.read_sync(lambda tx: events.tail(tx.conn, 0))) == ["a", "b", "c"]
    database.close()


def test_a_database_locked_by_another_program_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotfish_control_plane.storage.engines.BUSY_TIMEOUT_S", 0.1)
    database = Database.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock())
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable) as refused:
        database.write_sync(emit("x"))
    assert refused.value.retry_after_s == 1.0
    other.execute("ROLLBACK")
    database.write_sync(emit("y"))
    assert count_events(database) == 1
    other.close()
    database.close()


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable):
        Database.open("postgresql://nobody@127.0.0.1:1/none", SystemClock())
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://u@h/d"])
def test_other_kinds_of_database_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="sqlite:///FILE or postgresql://"):
        Database.open(url, SystemClock())


def test_sqlite_is_set_up_for_durability(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'a.db'}", SystemClock())

    def pragmas(tx: Tx) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [tx.conn.execute(text(f"PRAGMA {name}")).scalar_one() for name in names]

    assert database.write_sync(pragmas) == ["wal", 2, 1, 5000]
    assert database.read_sync(pragmas)[0] == "wal"
    database.close()


async def test_a_commit_wakes_another_control_plane_on_the_same_postgresql(
    databases: DatabaseFactory, tmp_path: Path
) -> None:
    url = databases.url("postgresql", tmp_path)
    one, two = (Database.open(url, SystemClock(), migrate=False) for _ in range(2))
    with two.wakes.subscribe("models") as wakes:
        await wakes.wait(1.0)  # the listener's own first wake
        await one.write(emit("models.created"))
        assert await wakes.wait(5.0)
    one.close()
    two.close()
