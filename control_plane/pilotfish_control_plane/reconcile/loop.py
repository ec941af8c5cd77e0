"""The loop that runs the reconcilers, on the leader only.

Owns when each runs: woken after commits, when it asked to, and swept every few seconds. One that fails backs off
by itself and stops no other. Each run is one transaction, fenced by the leader's lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pilotfish.errors import Aborted
from pilotfish_control_plane.core import Reconciler
from pilotfish_control_plane.reconcile.leadership import Leadership
from pilotfish_control_plane.reconcile.metrics import LoopMetrics
from pilotfish_control_plane.storage import leases
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.leases import Lease
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["ReconcileLoop"]

log = logging.getLogger(__name__)

MAX_BACKOFF_S = 60.0
DEBOUNCE_S = 0.005


class ReconcileLoop:
    """Runs each reconciler in a task of its own."""

    def __init__(
        self,
        db: Database,
        reconcilers: Sequence[Reconciler],
        leadership: Leadership,
        metrics: LoopMetrics,
        *,
        sweep_s: float,
    ) -> None:
        """Run `reconcilers`; each at least every `sweep_s` seconds.

        Raises:
            ValueError: two have the same name.
        """
        names = [r.name for r in reconcilers]
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"several reconcilers are called {', '.join(doubled)}")
        self._db = db
        self._reconcilers = reconcilers
        self._leadership = leadership
        self._metrics = metrics
        self._sweep_s = sweep_s

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reconciler in self._reconcilers:
                tasks.create_task(self._keep(reconciler), name=f"reconcile-{reconciler.name}")

    async def _keep(self, reconciler: Reconciler) -> None:
        failures = 0
        # A reconciler may say how long wakes are gathered before it runs; the default only stops one that
        # wakes itself from taking the writer for itself.
        debounce_s = float(getattr(reconciler, "debounce_s", DEBOUNCE_S))
        with self._db.wakes.subscribe(*reconciler.topics) as wakes:
            while True:
                lease = await self._leadership.held()
                due_s, failures = await self._run_once(reconciler, lease, failures)
                if failures:
                    # Wakes do not cut a backoff short: what fails now is often what woke it.
                    await asyncio.sleep(due_s)
                else:
                    await wakes.wait(due_s)
                    await asyncio.sleep(debounce_s)

    async def _run_once(self, reconciler: Reconciler, lease: Lease, failures: int) -> tuple[float, int]:
        """Run it; return the seconds to wait and how many failures there were in a row."""

        def step(tx: Tx) -> float | None:
            leases.fence(tx.conn, lease)
            return reconciler.reconcile(tx)

        try:
            with self._metrics.seconds.labels(reconciler.name).time():
                due_s = await self._db.write(step)
        except Aborted as error:
            if error.reason == "LEASE_LOST" and error.metadata.get("lease") == lease.name:
                self._leadership.lost(lease)
                return 0.0, 0
            return self._failed(reconciler, error, failures)
        except Exception as error:
            return self._failed(reconciler, error, failures)
        self._metrics.runs.labels(reconciler.name, "ok").inc()
        swept_s = float(getattr(reconciler, "sweep_s", self._sweep_s))
        return (swept_s if due_s is None else min(swept_s, max(0.0, due_s))), 0

    def _failed(self, reconciler: Reconciler, error: Exception, failures: int) -> tuple[float, int]:
        delay_s = min(MAX_BACKOFF_S, 0.2 * 2.0 ** min(failures, 12))
        self._metrics.runs.labels(reconciler.name, "error").inc()
        log.error("reconciler %s failed, again in %.1f s", reconciler.name, delay_s, exc_info=error)
        return delay_s, failures + 1
