"""The outbox: actions that were decided, and what became of them.

Owns the tables `actions` and `action_attempts` and every change of an action's state:
PENDING -> LEASED(epoch) -> SUCCEEDED | FAILED, LEASED -> PENDING on a lost lease or a retry. It performs nothing:
`reconcile.outbox` does.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    and_,
    func,
    insert,
    or_,
    select,
    update,
)

from pilotfish.errors import Aborted
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import BigId, Json, JsonObject, UtcDateTime

__all__ = [
    "TOPIC",
    "Action",
    "ActionState",
    "Attempt",
    "action_attempts",
    "actions",
    "attempts_of",
    "cancel",
    "due",
    "enqueue",
    "fail",
    "find",
    "get",
    "lease",
    "next_due",
    "of_firing",
    "renew",
    "retry",
    "succeed",
]

TOPIC = "actions"
DEFAULT_MAX_ATTEMPTS = 8

actions = Table(
    "actions",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("key", String(255), nullable=False, unique=True),
    Column("kind", String(63), nullable=False),
    Column("payload", Json, nullable=False),
    Column("state", String(9), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_expires", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("not_before", UtcDateTime, nullable=False),
    Column("result", Json),
    Column("error", Text),
    Column("firing", String(255)),
    Column("created", UtcDateTime, nullable=False),
    Column("started", UtcDateTime),
    Column("finished", UtcDateTime),
    Index("ix_actions_due", "state", "not_before"),
    Index("ix_actions_firing", "firing"),
    sqlite_autoincrement=True,
)

action_attempts = Table(
    "action_attempts",
    metadata,
    Column("action", ForeignKey("actions.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("finished", UtcDateTime),
    Column("outcome", String(9)),
    Column("error", Text),
)


class ActionState(enum.StrEnum):
    """Where an action stands."""

    PENDING = "PENDING"
    LEASED = "LEASED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Action:
    """One action; `epoch` fences the attempt that holds its lease, `id` and `key` stay the same over all attempts."""

    id: int
    key: str
    kind: str
    payload: JsonObject
    state: ActionState
    epoch: int
    attempts: int
    max_attempts: int
    not_before: datetime
    lease_expires: datetime | None
    result: JsonObject | None
    error: str | None
    firing: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of an action; `outcome` is SUCCEEDED, FAILED, LOST or None while it runs."""

    attempt: int
    epoch: int
    started: datetime
    finished: datetime | None
    outcome: str | None
    error: str | None


def _action(row: Row[Any]) -> Action:
    fields = {name: getattr(row, name) for name in Action.__slots__}
    return Action(**{**fields, "state": ActionState(row.state)})


def enqueue(
    tx: Tx,
    *,
    key: str,
    kind: str,
    payload: JsonObject,
    firing: str | None = None,
    not_before: datetime | None = None,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
) -> Action:
    """Add an action and return it; with a key that is there already, return that one unchanged.

    Args:
        tx: the transaction of the decision.
        key: unique for ever; names the effect: `firing/7/0`.
        kind: which executor performs it.
        payload: plain JSON for the executor.
        firing: the rule firing it belongs to.
        not_before: earliest time of the first attempt; None: at once.
        max_attempts: attempts before it is FAILED, >= 1.
    """
    existing = find(tx.conn, key)
    if existing is not None:
        return existing
    tx.conn.execute(
        insert(actions).values(
            key=key,
            kind=kind,
            payload=dict(payload),
            state=ActionState.PENDING.value,
            epoch=0,
            attempts=0,
            max_attempts=max_attempts,
            not_before=not_before or tx.now,
            firing=firing,
            created=tx.now,
        )
    )
    tx.wake(TOPIC)
    added = find(tx.conn, key)
    assert added is not None
    return added


def find(conn: Connection, key: str) -> Action | None:
    """Return the action with `key`, or None."""
    row = conn.execute(select(actions).where(actions.c.key == key)).first()
    return None if row is None else _action(row)


def get(conn: Connection, action_id: int) -> Action | None:
    """Return the action with this id, or None."""
    row = conn.execute(select(actions).where(actions.c.id == action_id)).first()
    return None if row is None else _action(row)


def of_firing(conn: Connection, firing: str) -> list[Action]:
    """Return the actions of a firing in the order in which they were added."""
    return [_action(r) for r in conn.execute(select(actions).where(actions.c.firing == firing).order_by(actions.c.id))]


def attempts_of(conn: Connection, action_id: int) -> list[Attempt]:
    """Return every attempt of an action, oldest first."""
    rows = conn.execute(
        select(action_attempts).where(action_attempts.c.action == action_id).order_by(action_attempts.c.attempt)
    )
    return [Attempt(r.attempt, r.epoch, r.started, r.finished, r.outcome, r.error) for r in rows]


def due(conn: Connection, kinds: Collection[str], now: datetime, limit: int) -> list[Action]:
    """Return actions of `kinds` that may be leased now, oldest first: pending and due, or with a lost lease."""
    ready = and_(actions.c.state == ActionState.PENDING.value, actions.c.not_before <= now)
    lost = and_(actions.c.state == ActionState.LEASED.value, actions.c.lease_expires <= now)
    query = select(actions).where(actions.c.kind.in_(kinds), or_(ready, lost)).order_by(actions.c.id).limit(limit)
    return [_action(r) for r in conn.execute(query)]


def next_due(conn: Connection, kinds: Collection[str]) -> datetime | None:
    """Return when the next action of `kinds` is due or its lease ends; None when there is none."""
    pending = select(func.min(actions.c.not_before)).where(
        actions.c.kind.in_(kinds), actions.c.state == ActionState.PENDING.value
    )
    leased = select(func.min(actions.c.lease_expires)).where(
        actions.c.kind.in_(kinds), actions.c.state == ActionState.LEASED.value
    )
    times = [t for q in (pending, leased) if (t := conn.execute(q).scalar_one()) is not None]
    return min(times, default=None)


def lease(tx: Tx, action: Action, ttl_s: float) -> Action:
    """Begin an attempt: raise the epoch, lease for `ttl_s` seconds, record the attempt; return the leased action."""
    if action.state is ActionState.LEASED:
        _end_attempt(tx, action, "LOST", "the executor's lease ran out")
    epoch, attempt = action.epoch + 1, action.attempts + 1
    tx.conn.execute(
        update(actions)
        .where(actions.c.id == action.id)
        .values(
            state=ActionState.LEASED.value,
            epoch=epoch,
            attempts=attempt,
            lease_expires=tx.now + timedelta(seconds=ttl_s),
            started=action.started or tx.now,
        )
    )
    tx.conn.execute(insert(action_attempts).values(action=action.id, attempt=attempt, epoch=epoch, started=tx.now))
    leased = get(tx.conn, action.id)
    assert leased is not None
    return leased


def renew(tx: Tx, action: Action, ttl_s: float) -> None:
    """Extend the lease of a long attempt.

    Raises:
        Aborted: the lease was lost.
    """
    _change(tx, action, lease_expires=tx.now + timedelta(seconds=ttl_s))


def succeed(tx: Tx, action: Action, result: JsonObject | None) -> None:
    """Record the attempt's success; the action is finished.

    Raises:
        Aborted: the lease was lost: another attempt decides what becomes of the action.
    """
    _change(
        tx,
        action,
        state=ActionState.SUCCEEDED.value,
        result=dict(result) if result is not None else None,
        error=None,
        finished=tx.now,
        lease_expires=None,
    )
    _end_attempt(tx, action, "SUCCEEDED", None)
    _finished(tx, action, ActionState.SUCCEEDED, None)


def retry(tx: Tx, action: Action, error: str, delay_s: float) -> None:
    """Record the attempt's failure; the action is due again after `delay_s` seconds.

    Raises:
        Aborted: the lease was lost.
    """
    _change(
        tx,
        action,
        state=ActionState.PENDING.value,
        error=error,
        not_before=tx.now + timedelta(seconds=delay_s),
        lease_expires=None,
    )
    _end_attempt(tx, action, "FAILED", error)


def fail(tx: Tx, action: Action, error: str) -> None:
    """Record the attempt's failure and that the action has failed for good.

    Raises:
        Aborted: the lease was lost.
    """
    _change(tx, action, state=ActionState.FAILED.value, error=error, finished=tx.now, lease_expires=None)
    _end_attempt(tx, action, "FAILED", error)
    _finished(tx, action, ActionState.FAILED, error)


def cancel(tx: Tx, action: Action, reason: str) -> bool:
    """Fail an action that no attempt holds; return False when one does or the action is finished."""
    pending = and_(actions.c.id == action.id, actions.c.state == ActionState.PENDING.value)
    changed = tx.conn.execute(
        update(actions).where(pending).values(state=ActionState.FAILED.value, error=reason, finished=tx.now)
    ).rowcount
    if changed:
        _finished(tx, action, ActionState.FAILED, reason)
    return bool(changed)


# Any: column values of several types.
def _change(tx: Tx, action: Action, **values: Any) -> None:
    mine = and_(actions.c.id == action.id, actions.c.epoch == action.epoch, actions.c.state == ActionState.LEASED.value)
    if not tx.conn.execute(update(actions).where(mine).values(**values)).rowcount:
        raise Aborted(
            f"action {action.key} epoch {action.epoch} lost its lease: a newer attempt decides",
            reason="LEASE_LOST",
            metadata={"action": action.key},
        )


def _end_attempt(tx: Tx, action: Action, outcome: str, error: str | None) -> None:
    this = and_(action_attempts.c.action == action.id, action_attempts.c.attempt == action.attempts)
    tx.conn.execute(update(action_attempts).where(this).values(finished=tx.now, outcome=outcome, error=error))


def _finished(tx: Tx, action: Action, state: ActionState, error: str | None) -> None:
    payload = {"kind": action.kind, "state": state.value, "firing": action.firing, "error": error}
    tx.emit("actions.finished", f"actions/{action.key}", payload)
