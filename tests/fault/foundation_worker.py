"""A process that performs the outbox until it is killed: `foundation_worker.py URL EXTERNAL_LOG HOLDER`.

Each transactional action emits one event `effect`; each external one appends its key to the log. Between the two
halves of every transaction it sleeps a little, so that kills land inside.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry

from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.core import external, transactional
from pilotfish_control_plane.reconcile.leadership import Leadership
from pilotfish_control_plane.reconcile.metrics import LoopMetrics
from pilotfish_control_plane.reconcile.outbox import Outbox
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.storage.database import Database, Tx


def effect(tx: Tx, action: Action) -> dict[str, Any]:
    """Have the effect, slowly."""
    tx.emit("effect", action.key)
    time.sleep(0.004)
    return {"epoch": action.epoch}


async def main(url: str, log: str, holder: str) -> None:
    """Run until killed."""

    async def append(action: Action) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{action.key}\n".encode())
        os.close(descriptor)
        await asyncio.sleep(0.01)

    database = Database.open(url, SystemClock(), migrate=False)
    leadership = Leadership(database, holder, ttl_s=10.0)
    handlers = {"inside": transactional(effect), "outside": external(append, lease_s=0.5)}
    metrics = LoopMetrics(CollectorRegistry())
    outbox = Outbox(database, handlers, leadership, metrics, random.Random(0), sweep_s=0.1)
    await asyncio.gather(leadership.run(), outbox.run())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
