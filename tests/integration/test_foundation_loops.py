"""Reconcilers and the outbox: leadership, backoff, effects once, fences; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pilotfish.errors import Aborted, InvalidArgument, Unavailable
from pilotfish_control_plane.clock import FakeClock, SystemClock
from pilotfish_control_plane.core import ActionHandler, Reconciler, external, transactional
from pilotfish_control_plane.reconcile.leadership import Leadership
from pilotfish_control_plane.reconcile.loop import ReconcileLoop
from pilotfish_control_plane.reconcile.metrics import LoopMetrics
from pilotfish_control_plane.reconcile.outbox import Outbox
from pilotfish_control_plane.storage import actions, events, leases
from pilotfish_control_plane.storage.actions import Action, ActionState
from pilotfish_control_plane.storage.database import Database, Tx

pytestmark = pytest.mark.timeout(60)


class Counting:
    """A reconciler that counts its runs and does what it is told."""

    def __init__(
        self, name: str, topics: Sequence[str] = (), do: Callable[[Tx], float | None] = lambda tx: None
    ) -> None:
        self.name = name
        self.topics = topics
        self.runs = 0
        self._do = do

    def reconcile(self, tx: Tx) -> float | None:
        self.runs += 1
        return self._do(tx)


@asynccontextmanager
async def running(*parts: Any) -> AsyncIterator[None]:
    """Run the parts' `run` until the block ends."""
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
    finally:
        for task in reversed(tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Wait until `condition` holds, at most `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def loop_of(
    database: Database, *reconcilers: Reconciler, holder: str = "a/1", sweep_s: float = 60.0, ttl_s: float = 10.0
) -> tuple[Leadership, ReconcileLoop]:
    leadership = Leadership(database, holder, ttl_s=ttl_s)
    return leadership, ReconcileLoop(
        database, reconcilers, leadership, LoopMetrics(CollectorRegistry()), sweep_s=sweep_s
    )


def outbox_of(
    database: Database, handlers: Mapping[str, ActionHandler], holder: str = "a/1", sweep_s: float = 60.0
) -> tuple[Leadership, Outbox]:
    leadership = Leadership(database, holder, ttl_s=10.0)
    metrics = LoopMetrics(CollectorRegistry())
    return leadership, Outbox(database, handlers, leadership, metrics, random.Random(1), sweep_s=sweep_s)


# Reconcilers


async def test_a_reconciler_runs_at_the_start_at_its_wakes_and_when_it_asked_to(database: Database) -> None:
    woken, due, other = Counting("woken", ["models"]), Counting("due", do=lambda tx: 0.2), Counting("other", ["alerts"])
    async with running(*loop_of(database, woken, due, other)):
        await until(lambda: woken.runs == due.runs == other.runs == 1)
        await database.write(lambda tx: tx.emit("models.created", "s"))
        await until(lambda: woken.runs == 2, 1.0)
        await until(lambda: due.runs >= 3, 2.0)
        assert other.runs == 1


async def test_a_sweep_comes_without_any_wake(database: Database) -> None:
    swept = Counting("swept")
    async with running(*loop_of(database, swept, sweep_s=0.1)):
        await until(lambda: swept.runs >= 4, 3.0)


async def test_a_failing_reconciler_backs_off_undoes_its_work_and_stops_no_other(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tx: Tx) -> float | None:
        tx.emit("half.done", "s")
        raise ZeroDivisionError("broken rule")

    failing, good = Counting("failing", ["models"], fail), Counting("good", ["models"])
    with caplog.at_level(logging.ERROR):
        async with running(*loop_of(database, failing, good)):
            await until(lambda: failing.runs >= 1)
            for expected in range(2, 12):
                await until(lambda n=expected - 1: good.runs >= n)  # type: ignore[misc]
                await database.write(lambda tx: tx.wake("models"))
                await until(lambda n=expected: good.runs >= n)  # type: ignore[misc]
            assert failing.runs < 5
    assert "reconciler failing failed" in caplog.text and "broken rule" in caplog.text
    assert database.read_sync(lambda tx: events.head(tx.conn)) == 0


async def test_of_two_control_planes_only_the_leader_reconciles_and_the_other_takes_over(database_url: str) -> None:
    one_db, two_db = (Database.open(database_url, SystemClock(), migrate=False) for _ in range(2))
    one, two = Counting("r", ["models"]), Counting("r", ["models"])
    async with running(*loop_of(two_db, two, holder="b/1", ttl_s=1.0)):
        await until(lambda: two.runs == 1)
        async with running(*loop_of(one_db, one, holder="a/1", ttl_s=1.0)):
            for _ in range(5):
                await one_db.write(lambda tx: tx.wake("models"))
                two_db.wakes.notify(["models"])
                await asyncio.sleep(0.05)
            assert two.runs >= 3 and one.runs == 0
            # A silent death: the lease is not given up.
            two_db_write, two_db.write = two_db.write, _never  # type: ignore[method-assign]
            await until(lambda: one.runs >= 1, 4.0)
            stalled = two.runs
            two_db.write = two_db_write  # type: ignore[method-assign]
            two_db.wakes.notify(["models"])
            await asyncio.sleep(0.3)
            assert two.runs == stalled
    one_db.close()
    two_db.close()


async def _never(*_args: Any, **_kwargs: Any) -> Any:
    raise Unavailable("frozen")


async def test_a_leader_that_was_overtaken_writes_nothing(database: Database) -> None:
    """The lease is stolen between the loop's look and its transaction."""

    def emit(tx: Tx) -> float | None:
        tx.emit("stale.write", "s")
        return None

    reconciler = Counting("r", ["models"], emit)
    leadership, loop = loop_of(database, reconciler)
    lease = leases.Lease("leader", "a/1", 1, database.clock.now())
    database.write_sync(lambda tx: leases.acquire(tx.conn, "leader", "b/1", tx.now, 100))
    database.write_sync(lambda tx: leases.acquire(tx.conn, "leader", "b/2", tx.now, 100))
    leadership._set(lease)
    task = asyncio.create_task(loop.run())
    await until(lambda: leadership.lease is None)
    task.cancel()
    assert reconciler.runs == 0
    assert database.read_sync(lambda tx: events.head(tx.conn)) == 0


def test_two_reconcilers_with_one_name_are_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="several reconcilers are called r"):
        loop_of(database, Counting("r"), Counting("r"))


# Outbox


def enqueue(database: Database, key: str, kind: str = "do", **options: Any) -> Action:
    return database.write_sync(lambda tx: actions.enqueue(tx, key=key, kind=kind, payload={"key": key}, **options))


def found(database: Database, key: str) -> Action:
    action = database.read_sync(lambda tx: actions.find(tx.conn, key))
    assert action is not None
    return action


def attempts(database: Database, key: str) -> list[tuple[int, str | None]]:
    action = found(database, key)
    return [(a.attempt, a.outcome) for a in database.read_sync(lambda tx: actions.attempts_of(tx.conn, action.id))]


def effects(database: Database) -> list[str]:
    return [e.subject for e in database.read_sync(lambda tx: events.tail(tx.conn, 0, kinds=["effect"]))]


def effect(tx: Tx, action: Action) -> dict[str, Any]:
    tx.emit("effect", action.key)
    return {"did": action.payload["key"]}


async def test_an_action_is_performed_once_and_its_key_never_again(database: Database) -> None:
    first = enqueue(database, "k1", firing="f1")
    async with running(*outbox_of(database, {"do": transactional(effect)})):
        await until(lambda: found(database, "k1").state is ActionState.SUCCEEDED)
        assert enqueue(database, "k1").id == first.id
        enqueue(database, "k2", firing="f1")
        await until(lambda: found(database, "k2").state is ActionState.SUCCEEDED, 1.0)
        await asyncio.sleep(0.1)
    assert effects(database) == ["k1", "k2"]
    done = found(database, "k1")
    assert (done.result, done.attempts, done.error, done.epoch) == ({"did": "k1"}, 1, None, 1)
    assert attempts(database, "k1") == [(1, "SUCCEEDED")]
    assert [a.key for a in database.read_sync(lambda tx: actions.of_firing(tx.conn, "f1"))] == ["k1", "k2"]


async def test_a_failed_attempt_leaves_no_effect_and_is_retried_with_backoff(
    database: Database, clock: FakeClock
) -> None:
    fails = iter([ZeroDivisionError("x"), Unavailable("down", retry_after_s=30.0)])

    def sometimes(tx: Tx, action: Action) -> dict[str, Any]:
        result = effect(tx, action)
        if (error := next(fails, None)) is not None:
            raise error
        return result

    enqueue(database, "k")
    async with running(*outbox_of(database, {"do": transactional(sometimes)}, sweep_s=0.05)):
        await until(lambda: found(database, "k").attempts == 1)
        waiting = found(database, "k")
        assert waiting.state is ActionState.PENDING and waiting.error == "ZeroDivisionError: x"
        assert 0.5 <= (waiting.not_before - clock.now()).total_seconds() <= 1.0
        clock.advance(1.0)
        await until(lambda: found(database, "k").attempts == 2)
        assert (found(database, "k").not_before - clock.now()).total_seconds() == 30.0
        assert effects(database) == []
        clock.advance(30.0)
        await until(lambda: found(database, "k").state is ActionState.SUCCEEDED)
    assert effects(database) == ["k"]
    assert attempts(database, "k") == [(1, "FAILED"), (2, "FAILED"), (3, "SUCCEEDED")]


async def test_an_error_that_would_repeat_fails_for_good_and_stops_no_other(database: Database) -> None:
    def refuse(tx: Tx, action: Action) -> dict[str, Any]:
        if action.key == "bad":
            raise InvalidArgument("no such endpoint")
        return effect(tx, action)

    enqueue(database, "bad")
    enqueue(database, "good")
    async with running(*outbox_of(database, {"do": transactional(refuse)})):
        await until(lambda: found(database, "good").state is ActionState.SUCCEEDED)
    assert (found(database, "bad").state, found(database, "bad").error) == (ActionState.FAILED, "no such endpoint")
    finished = database.read_sync(lambda tx: events.tail(tx.conn, 0, kinds=["actions.finished"]))
    assert [(e.subject, e.payload["state"]) for e in finished] == [
        ("actions/bad", "FAILED"),
        ("actions/good", "SUCCEEDED"),
    ]


@pytest.mark.parametrize("inside", [True, False])
async def test_an_action_fails_for_good_after_its_last_attempt(
    database: Database, clock: FakeClock, inside: bool
) -> None:
    def fail(*_args: Any) -> Any:
        raise Unavailable("down")

    async def fail_outside(_action: Action) -> None:
        raise Unavailable("down")

    enqueue(database, "k", max_attempts=3)
    handler = transactional(fail) if inside else external(fail_outside)
    async with running(*outbox_of(database, {"do": handler}, sweep_s=0.02)):
        async with asyncio.timeout(5):
            while found(database, "k").state is not ActionState.FAILED:
                clock.advance(1.0)
                await asyncio.sleep(0.02)
    assert attempts(database, "k") == [(1, "FAILED"), (2, "FAILED"), (3, "FAILED")]


async def test_an_external_action_is_performed_beside_others_and_records_its_result(database: Database) -> None:
    together = asyncio.Barrier(5)

    async def post(action: Action) -> dict[str, Any]:
        async with asyncio.timeout(5):
            await together.wait()
        return {"status": 200, "epoch": action.epoch}

    for i in range(5):
        enqueue(database, f"k{i}")
    async with running(*outbox_of(database, {"do": external(post)})):
        await until(lambda: all(found(database, f"k{i}").state is ActionState.SUCCEEDED for i in range(5)))
    assert found(database, "k0").result == {"status": 200, "epoch": 1}


async def test_a_dead_process_s_external_action_is_performed_again_with_the_same_key(
    database: Database, clock: FakeClock
) -> None:
    seen: list[tuple[int, str, int]] = []

    async def post(action: Action) -> None:
        seen.append((action.id, action.key, action.epoch))

    added = enqueue(database, "k")
    leased = database.write_sync(lambda tx: actions.lease(tx, added, 30.0))  # and its process dies
    async with running(*outbox_of(database, {"do": external(post)}, sweep_s=0.05)):
        await asyncio.sleep(0.2)
        assert seen == []
        clock.advance(30.0)
        await until(lambda: found(database, "k").state is ActionState.SUCCEEDED)
    assert seen == [(added.id, "k", 2)]
    assert attempts(database, "k") == [(1, "LOST"), (2, "SUCCEEDED")]
    for late in (
        lambda tx: actions.succeed(tx, leased, {"late": True}),
        lambda tx: actions.fail(tx, leased, "late"),
        lambda tx: actions.renew(tx, leased, 30.0),
        lambda tx: actions.retry(tx, leased, "late", 0.0),
    ):
        with pytest.raises(Aborted, match="lost its lease"):
            database.write_sync(late)
    assert found(database, "k").result is None


def test_the_end_of_an_overtaken_attempt_changes_nothing_while_the_newer_one_runs(
    database: Database, clock: FakeClock
) -> None:
    added = enqueue(database, "k")
    old = database.write_sync(lambda tx: actions.lease(tx, added, 30.0))
    clock.advance(30)
    (lost,) = database.read_sync(lambda tx: actions.due(tx.conn, ["do"], tx.now, 10))
    new = database.write_sync(lambda tx: actions.lease(tx, lost, 30.0))
    with pytest.raises(Aborted, match="epoch 1 lost its lease"):
        database.write_sync(lambda tx: actions.succeed(tx, old, None))
    assert found(database, "k").state is ActionState.LEASED
    database.write_sync(lambda tx: actions.succeed(tx, new, {"n": 2}))
    assert found(database, "k").result == {"n": 2}


async def test_a_long_external_action_keeps_its_lease(database_url: str) -> None:
    database = Database.open(database_url, SystemClock(), migrate=False)
    epochs: list[int] = []

    async def slow(action: Action) -> None:
        epochs.append(action.epoch)
        await asyncio.sleep(1.0)

    enqueue(database, "k")
    async with running(*outbox_of(database, {"do": external(slow, lease_s=0.3)}, sweep_s=0.05)):
        await until(lambda: found(database, "k").state is ActionState.SUCCEEDED)
    assert epochs == [1]
    database.close()


async def test_a_stop_gives_running_external_actions_back(database: Database) -> None:
    async def endless(_action: Action) -> None:
        await asyncio.sleep(3600)

    enqueue(database, "k")
    async with running(*outbox_of(database, {"do": external(endless)})):
        await until(lambda: found(database, "k").state is ActionState.LEASED)
    given_back = found(database, "k")
    assert (given_back.state, given_back.not_before) == (ActionState.PENDING, database.clock.now())


async def test_an_action_waits_for_its_time_and_for_a_handler(database: Database, clock: FakeClock) -> None:
    enqueue(database, "later", not_before=clock.now().replace(hour=1))
    enqueue(database, "strange", kind="unknown")
    async with running(*outbox_of(database, {"do": transactional(effect)}, sweep_s=0.05)):
        await asyncio.sleep(0.2)
        assert effects(database) == []
        clock.advance(3600)
        await until(lambda: effects(database) == ["later"])
    assert found(database, "strange").state is ActionState.PENDING
    strange = found(database, "strange")
    assert database.write_sync(lambda tx: actions.cancel(tx, strange, "not wanted"))
    assert not database.write_sync(lambda tx: actions.cancel(tx, strange, "again"))
    assert found(database, "strange").state is ActionState.FAILED


async def test_two_outboxes_that_both_believe_to_lead_make_one_effect_each(database_url: str) -> None:
    one, two = (Database.open(database_url, SystemClock(), migrate=False) for _ in range(2))
    for i in range(20):
        enqueue(one, f"k{i}")
    parts = [outbox_of(one, {"do": transactional(effect)}), outbox_of(two, {"do": transactional(effect)}, "b/1")]
    # Both hold the same lease, as a frozen leader and its successor would if the leader's fence did not exist.
    lease = one.write_sync(lambda tx: leases.acquire(tx.conn, "leader", "a/1", tx.now, 100))
    for leadership, _ in parts:
        leadership._set(lease)
    async with running(parts[0][1], parts[1][1]):
        await until(lambda: all(found(one, f"k{i}").state is ActionState.SUCCEEDED for i in range(20)), 20)
    assert sorted(effects(one)) == sorted(f"k{i}" for i in range(20))
    one.close()
    two.close()
