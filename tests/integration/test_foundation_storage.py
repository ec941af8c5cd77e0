"""Migrations, the audit chain, leases and the event log; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect, text

from pilotfish.errors import Aborted
from pilotfish_control_plane import storage
from pilotfish_control_plane.access.model import Principal, Role
from pilotfish_control_plane.clock import FakeClock, SystemClock
from pilotfish_control_plane.events.service import Selection, follow
from pilotfish_control_plane.storage import access, audit, leases, lifecycle
from pilotfish_control_plane.storage.all_tables import TABLE_MODULES, metadata
from pilotfish_control_plane.storage.database import Database, Tx
from pilotfish_control_plane.storage.engines import open_engines
from pilotfish_control_plane.storage.migrate import upgrade_to_head
from pilotfish_control_plane.storage.puts import put

from ..conftest import DatabaseFactory

pytestmark = pytest.mark.timeout(60)
KEY = b"k" * 32


# Rows that may be there already


def test_a_row_that_is_put_is_made_once_and_changed_afterwards(database: Database) -> None:
    table, both = lifecycle.automation_switches, threading.Barrier(4)
    now = database.clock.now()

    def values(reason: str) -> dict[str, Any]:
        return {"paused": True, "reason": reason, "updated": now}

    def race(actor: str) -> None:
        both.wait(10)
        database.write_sync(lambda tx: put(tx.conn, table, {"project": "a"}, values("race"), once={"actor": actor}))

    threads = [threading.Thread(target=race, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    first = database.read_sync(lambda tx: tx.conn.execute(table.select()).one())
    assert first.reason == "race" and first.actor in "0123"
    for reason in ("second", "third"):
        key = {"project": "a"}
        database.write_sync(lambda tx, r=reason, k=key: put(tx.conn, table, k, values(r), once={"actor": "late"}))  # type: ignore[misc]
    database.write_sync(lambda tx: put(tx.conn, table, {"project": "b"}, values("other"), once={"actor": "me"}))
    found = database.read_sync(lambda tx: tx.conn.execute(table.select().order_by(table.c.project)).all())
    assert [(r.project, r.reason, r.actor) for r in found] == [("a", "third", first.actor), ("b", "other", "me")]


# Migrations


def test_the_migrated_schema_is_the_metadata(databases: DatabaseFactory, engine_name: str, tmp_path: Path) -> None:
    engines = open_engines(databases.empty_url(engine_name, tmp_path), readers=1, writers=1)
    upgrade_to_head(engines.writer)
    with engines.writer.connect() as conn, conn.begin():
        context = MigrationContext.configure(conn, opts={"compare_type": True, "target_metadata": metadata})
        assert compare_metadata(context, metadata) == []
        conn.execute(text("ALTER TABLE leases ADD COLUMN surplus INTEGER"))
        assert compare_metadata(context, metadata) != []
    engines.dispose()


def test_every_module_with_tables_is_listed() -> None:
    before = set(metadata.tables)
    for module in pkgutil.iter_modules(storage.__path__):
        importlib.import_module(f"{storage.__name__}.{module.name}")
    assert set(metadata.tables) == before, f"a module is missing in all_tables.TABLE_MODULES {TABLE_MODULES}"


def test_several_control_planes_may_migrate_at_once(
    databases: DatabaseFactory, engine_name: str, tmp_path: Path
) -> None:
    url = databases.empty_url(engine_name, tmp_path)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            Database.open(url, SystemClock()).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    database = Database.open(url, SystemClock(), migrate=False)
    assert "audit" in inspect(database.engine).get_table_names()
    database.close()


# Audit


def audited(database: Database, count: int) -> None:
    """Write audit rows `change 0` … and seal them."""
    for i in range(count):
        database.write_sync(
            lambda tx, i=i: tx.audit("Set", f"thing/{i}", {"v": i}, {"v": i + 1, "t": "é", "f": 0.1}),  # type: ignore[misc]
            actor=Principal("ann"),
        )
    database.write_sync(lambda tx: audit.seal(tx.conn, KEY))


def verify(database: Database, key: bytes = KEY) -> audit.Verification:
    return database.read_sync(lambda tx: audit.verify(tx.conn, key))


def test_an_untouched_chain_verifies_and_reports_its_unsealed_tail(database: Database) -> None:
    assert verify(database) == audit.Verification(0, 0, ())
    audited(database, 5)
    database.write_sync(lambda tx: tx.audit("Set", "thing/5"))
    assert verify(database) == audit.Verification(5, 1, ())
    assert database.write_sync(lambda tx: audit.seal(tx.conn, KEY)) == 1
    assert verify(database) == audit.Verification(6, 0, ())
    assert len(verify(database, b"another key").problems) == 6


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET principal = 'bob' WHERE chain = 3",
        "UPDATE audit SET resource = 'thing/9' WHERE chain = 3",
        "UPDATE audit SET request_id = 'x' WHERE chain = 3",
        "UPDATE audit SET after = '{\"v\": 99}' WHERE chain = 3",
        "UPDATE audit SET before = NULL WHERE chain = 3",
        "UPDATE audit SET time = '2031-01-01 00:00:00+00' WHERE chain = 3",
        "UPDATE audit SET seal = (SELECT seal FROM audit WHERE chain = 2) WHERE chain = 3",
        "UPDATE audit SET seal = NULL WHERE chain = 3",
        "DELETE FROM audit WHERE chain = 3",
        "UPDATE audit SET chain = chain + 10 WHERE chain = 3",
        "UPDATE audit SET chain = -chain WHERE chain IN (2, 3); ",
        "UPDATE audit SET chain = NULL, seal = NULL WHERE chain = 3",
    ],
)
def test_tampering_with_the_trail_is_found(database: Database, tampering: str) -> None:
    audited(database, 5)
    if database.is_sqlite:
        tampering = tampering.replace("+00'", ".000000'")
    database.write_sync(lambda tx: tx.conn.execute(text(tampering)))
    problems = verify(database).problems
    assert problems, tampering


def test_swapping_two_rows_is_found(database: Database) -> None:
    audited(database, 5)

    def swap(tx: Tx) -> None:
        for old, new in ((2, 100), (3, 2), (100, 3)):
            tx.conn.execute(text(f"UPDATE audit SET chain = {new} WHERE chain = {old}"))

    database.write_sync(swap)
    assert len(verify(database).problems) >= 2


async def test_two_sealers_at_once_make_one_chain(database: Database) -> None:
    for i in range(20):
        database.write_sync(lambda tx, i=i: tx.audit("Set", f"thing/{i}"))  # type: ignore[misc]
    await asyncio.gather(*(database.write(lambda tx: audit.seal(tx.conn, KEY, 3)) for _ in range(10)))
    assert verify(database) == audit.Verification(20, 0, ())


# Leases


def acquire(database: Database, holder: str, ttl_s: float = 10.0) -> leases.Lease | None:
    return database.write_sync(lambda tx: leases.acquire(tx.conn, "leader", holder, tx.now, ttl_s))


def fence(database: Database, lease: leases.Lease) -> None:
    database.write_sync(lambda tx: leases.fence(tx.conn, lease))


def test_a_lease_is_held_by_one_and_its_epoch_fences_the_others(database: Database, clock: FakeClock) -> None:
    one = acquire(database, "a/1")
    assert one is not None and one.epoch == 1
    assert acquire(database, "b/1") is None
    clock.advance(9)
    renewed = acquire(database, "a/1")
    assert renewed is not None and renewed.epoch == 1
    clock.advance(9.9)
    assert acquire(database, "b/1") is None
    fence(database, one)
    clock.advance(0.2)
    fence(database, one)  # nobody took over: its holder may go on
    two = acquire(database, "b/1")
    assert two is not None and two.epoch == 2
    with pytest.raises(Aborted, match="lost to epoch 2"):
        fence(database, one)
    fence(database, two)
    assert acquire(database, "a/1") is None


def test_an_expired_lease_taken_again_by_its_holder_gets_a_new_epoch(database: Database, clock: FakeClock) -> None:
    acquire(database, "a/1")
    clock.advance(11)
    again = acquire(database, "a/1")
    assert again is not None and again.epoch == 2


def test_a_restarted_instance_takes_over_at_once_and_fences_its_predecessor(database: Database) -> None:
    before = acquire(database, "a/1")
    after = acquire(database, "a/2")
    assert before is not None and after is not None and after.epoch == 2
    with pytest.raises(Aborted):
        fence(database, before)


def test_a_released_lease_is_free_and_a_stale_release_changes_nothing(database: Database, clock: FakeClock) -> None:
    one = acquire(database, "a/1")
    assert one is not None
    database.write_sync(lambda tx: leases.release(tx.conn, one, tx.now))
    two = acquire(database, "b/1")
    assert two is not None and two.epoch == 2
    database.write_sync(lambda tx: leases.release(tx.conn, one, tx.now))
    assert acquire(database, "c/1") is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a/1", "b/1", "c/1"]), st.integers(0, 12)), max_size=25))
def test_no_epoch_is_ever_given_to_two_holders(databases_root: Any, steps: list[tuple[str, int]]) -> None:
    clock = FakeClock()
    database = Database.open(databases_root(), clock)
    holders: dict[int, str] = {}
    last = 0
    for holder, seconds in steps:
        clock.advance(seconds)
        lease = acquire(database, holder)
        if lease is not None:
            assert holders.setdefault(lease.epoch, holder) == holder
            assert lease.epoch >= last
            last = lease.epoch
    database.close()


@pytest.fixture(scope="session")
def databases_root(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("leases")
    count = iter(range(10_000))
    return lambda: f"sqlite:///{root / f'{next(count)}.db'}"


# Tokens


def test_a_token_stands_for_its_principal_until_it_is_revoked_or_expires(database: Database, clock: FakeClock) -> None:
    def add(tx: Tx) -> None:
        access.bind(tx, "ann", "*", Role.VIEWER)
        access.bind(tx, "ann", "risk", Role.DEPLOYER)
        access.bind(tx, "ann", "risk", Role.DEPLOYER)
        access.add_token(tx, "laptop", "ann", access.digest("secret-1"))
        access.add_token(tx, "ci", "ann", access.digest("secret-2"), tx.now.replace(year=2031))

    database.write_sync(add)

    def holder(token: str) -> Principal | None:
        held = database.read_sync(lambda tx: access.holder(tx.conn, access.digest(token), tx.now))
        return held.principal if held else None

    ann = Principal("ann", {"*": frozenset({Role.VIEWER}), "risk": frozenset({Role.DEPLOYER})})
    assert holder("secret-1") == ann == holder("secret-2")
    assert holder("secret-3") is None
    assert database.write_sync(lambda tx: access.revoke_token(tx, "laptop"))
    assert not database.write_sync(lambda tx: access.revoke_token(tx, "laptop"))
    assert holder("secret-1") is None
    clock.advance(366 * 86400)
    assert holder("secret-2") is None
    database.write_sync(lambda tx: access.unbind(tx, "ann", "*", Role.VIEWER))
    raw = database.read_sync(lambda tx: tx.conn.execute(text("SELECT * FROM tokens")).all())
    assert "secret" not in str(raw) and len(raw) == 2


# Following events


async def test_follow_gives_every_event_once_in_order_and_signs_of_life(database: Database) -> None:
    seen: list[str] = []
    idle = 0

    async def watch() -> None:
        nonlocal idle
        async for found in follow(database, 0, Selection(("k.",)), sweep_s=0.2):
            seen.extend(e.kind for e in found.events)
            idle += not found.events
            if len(seen) >= 30 and idle:
                return

    watching = asyncio.create_task(watch())
    for i in range(30):
        await database.write(lambda tx, i=i: tx.emit(f"k.{i}", "s"))  # type: ignore[misc]
        await database.write(lambda tx: tx.emit("other", "s"))
    await asyncio.wait_for(watching, 10)
    assert seen == [f"k.{i}" for i in range(30)]


async def test_follow_without_a_position_begins_now(database: Database) -> None:
    await database.write(lambda tx: tx.emit("old", "s"))
    stream = follow(database, None, sweep_s=5)
    assert (await anext(stream)).events == ()
    await database.write(lambda tx: tx.emit("new", "s"))
    assert [e.kind for e in (await asyncio.wait_for(anext(stream), 2)).events] == ["new"]
    await stream.aclose()  # type: ignore[attr-defined]
