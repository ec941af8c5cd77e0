"""Performs the actions of the outbox, on the leader only.

Owns attempts, leases and backoff. A transactional action's effect and its success are one commit, so the effect
comes exactly once. An external one is leased first, performed at least once with the same key every time, and
its end counts only if its epoch is still the newest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping

from pilotfish import errors
from pilotfish.errors import Aborted, PilotfishError
from pilotfish_control_plane.core import ActionHandler
from pilotfish_control_plane.reconcile.leadership import Leadership
from pilotfish_control_plane.reconcile.metrics import LoopMetrics
from pilotfish_control_plane.storage import actions, faults, leases
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.leases import Lease
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import JsonObject

__all__ = ["Outbox"]

log = logging.getLogger(__name__)

MAX_RUNNING = 16
MAX_BACKOFF_S = 300.0

# A repetition would meet the same answer.
_FOR_GOOD = (
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.PermissionDenied,
    errors.Unimplemented,
)


class Outbox:
    """Performs due actions with the handlers of all areas; kinds without a handler wait."""

    def __init__(
        self,
        db: Database,
        handlers: Mapping[str, ActionHandler],
        leadership: Leadership,
        metrics: LoopMetrics,
        rng: random.Random,
        *,
        sweep_s: float,
    ) -> None:
        """Perform with `handlers` (kind -> handler); `rng` spreads the backoff."""
        self._db = db
        self._leadership = leadership
        self._metrics = metrics
        self._rng = rng
        self._sweep_s = sweep_s
        self._inside = {k: h.in_transaction for k, h in handlers.items() if h.in_transaction is not None}
        self._outside = {k: h for k, h in handlers.items() if h.outside is not None}
        self._running: dict[int, asyncio.Task[None]] = {}
        # What this process holds a lease of and has not recorded the end of.
        self._held: dict[int, Action] = {}

    async def run(self) -> None:
        """Run until cancelled; external handlers that run then are cancelled and their actions due again."""
        try:
            with self._db.wakes.subscribe(actions.TOPIC) as wakes:
                while True:
                    lease = await self._leadership.held()
                    wait_s = await self._sweep(lease)
                    await wakes.wait(wait_s)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            for action in [*self._held.values()]:
                await asyncio.shield(self._finish(action, None, errors.Cancelled("the control plane stopped")))

    async def _sweep(self, lease: Lease) -> float:
        """Perform what is due; return the seconds until more may be."""
        try:
            while await self._db.write(lambda tx: self._perform_inside(tx, lease)):
                pass
            for action in await self._take_outside(lease):
                task = asyncio.create_task(self._perform_outside(action), name=f"action-{action.key}")
                self._running[action.id] = task
                task.add_done_callback(lambda _task, key=action.id: self._ended(key))  # type: ignore[misc]
            return await self._db.read(self._seconds_to_next)
        except Aborted as error:
            if error.reason == "LEASE_LOST":
                self._leadership.lost(lease)
                return 0.0
            log.exception("the outbox stumbled, going on")
        except Exception:
            log.exception("the outbox stumbled, going on")
        return self._sweep_s

    async def _take_outside(self, lease: Lease) -> list[Action]:
        """Return external actions that are leased now; they are in `_held` even when this is cancelled."""
        taking = asyncio.ensure_future(self._db.write(lambda tx: self._lease_outside(tx, lease)))
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._held.update((action.id, action) for action in await taking)
            raise
        self._held.update((action.id, action) for action in taken)
        return taken

    def _ended(self, action_id: int) -> None:
        del self._running[action_id]
        self._db.wakes.notify((actions.TOPIC,))

    def _seconds_to_next(self, tx: Tx) -> float:
        kinds = [*self._inside, *(self._outside if len(self._running) < MAX_RUNNING else ())]
        next_due = actions.next_due(tx.conn, kinds)
        if next_due is None:
            return self._sweep_s
        return min(self._sweep_s, max(0.01, (next_due - tx.now).total_seconds()))

    def _perform_inside(self, tx: Tx, lease: Lease) -> bool:
        """Perform one transactional action in `tx`; return False when none is due."""
        leases.fence(tx.conn, lease)
        due = actions.due(tx.conn, list(self._inside), tx.now, 1)
        if not due:
            return False
        action = actions.lease(tx, due[0], ttl_s=60.0)
        try:
            with tx.savepoint():
                result = self._inside[action.kind](tx, action)
        except Exception as error:
            # A fault of the store is not the action's: the whole transaction runs again.
            if faults.is_retryable(error) or faults.translate(error) is not None:
                raise
            self._record_failure(tx, action, error)
        else:
            actions.succeed(tx, action, result)
            tx.after_commit(lambda: self._metrics.attempts.labels(action.kind, "ok").inc())
        return True

    def _lease_outside(self, tx: Tx, lease: Lease) -> list[Action]:
        leases.fence(tx.conn, lease)
        free = MAX_RUNNING - len(self._running)
        if free <= 0 or not self._outside:
            return []
        leased: list[Action] = []
        for action in actions.due(tx.conn, list(self._outside), tx.now, free):
            if action.attempts >= action.max_attempts:
                held = actions.lease(tx, action, ttl_s=1.0)
                actions.fail(tx, held, f"gave up: no attempt of {action.max_attempts} was seen to end")
            elif action.id not in self._running:
                leased.append(actions.lease(tx, action, self._outside[action.kind].lease_s))
        return leased

    async def _perform_outside(self, action: Action) -> None:
        handler = self._outside[action.kind]
        assert handler.outside is not None
        keeper = asyncio.create_task(self._keep_lease(action, handler.lease_s, asyncio.current_task()))
        try:
            result = await handler.outside(action)
        except Exception as error:
            await self._finish(action, None, error)
        else:
            await self._finish(action, result, None)
        finally:
            keeper.cancel()

    async def _keep_lease(self, action: Action, lease_s: float, task: asyncio.Task[None] | None) -> None:
        """Renew the lease while the handler runs; stop the handler when the lease was lost all the same."""
        while True:
            await asyncio.sleep(lease_s / 3)
            try:
                await self._db.write(lambda tx: actions.renew(tx, action, lease_s))
            except Aborted:
                log.warning("action %s epoch %d lost its lease, stopping its handler", action.key, action.epoch)
                self._held.pop(action.id, None)
                if task is not None:
                    task.cancel()
                return
            except PilotfishError as error:
                log.warning("could not renew the lease of action %s, trying again: %s", action.key, error)

    async def _finish(self, action: Action, result: JsonObject | None, error: Exception | None) -> None:
        def record(tx: Tx) -> None:
            if error is not None:
                self._record_failure(tx, action, error)
            else:
                actions.succeed(tx, action, result)
                tx.after_commit(lambda: self._metrics.attempts.labels(action.kind, "ok").inc())

        try:
            await self._db.write(record)
            self._held.pop(action.id, None)
        except Aborted:
            self._held.pop(action.id, None)
            log.warning("action %s epoch %d lost its lease: its end is not recorded", action.key, action.epoch)
        except PilotfishError as fault:
            log.error("the end of action %s could not be recorded, it will run again: %s", action.key, fault)

    def _record_failure(self, tx: Tx, action: Action, error: Exception) -> None:
        text = str(error) if isinstance(error, PilotfishError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, PilotfishError):
            log.error("action %s attempt %d failed", action.key, action.attempts, exc_info=error)
        if isinstance(error, _FOR_GOOD) or action.attempts >= action.max_attempts:
            actions.fail(tx, action, text)
        elif isinstance(error, errors.Cancelled):
            actions.retry(tx, action, text, 0.0)
        else:
            actions.retry(tx, action, text, self._delay_s(action, error))
        tx.after_commit(lambda: self._metrics.attempts.labels(action.kind, "error").inc())

    def _delay_s(self, action: Action, error: Exception) -> float:
        delay_s = min(MAX_BACKOFF_S, 2.0 ** (action.attempts - 1)) * self._rng.uniform(0.5, 1.0)
        asked = error.retry_after_s if isinstance(error, PilotfishError) else None
        return max(delay_s, asked or 0.0)
