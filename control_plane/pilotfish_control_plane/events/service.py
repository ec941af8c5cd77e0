"""Following the event log.

Owns `tail` for one look and `follow` for an endless one. It writes nothing: `Tx.emit` does.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence

from pilotfish_control_plane.storage import events
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.events import Event
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["follow", "head", "tail"]

BATCH = 500


def tail(
    tx: Tx, after_seq: int, kinds: Sequence[str] = (), subject_prefix: str = "", limit: int = BATCH
) -> list[Event]:
    """Return events after `after_seq` in commit order; see `storage.events.tail`."""
    return events.tail(tx.conn, after_seq, kinds=kinds, subject_prefix=subject_prefix, limit=limit)


def head(tx: Tx) -> int:
    """Return the newest seq, 0 when there is none."""
    return events.head(tx.conn)


def _tail(after_seq: int, kinds: Sequence[str], subject_prefix: str, tx: Tx) -> list[Event]:
    return tail(tx, after_seq, kinds, subject_prefix)


async def follow(
    db: Database,
    after_seq: int | None,
    *,
    kinds: Sequence[str] = (),
    subject_prefix: str = "",
    sweep_s: float = 5.0,
) -> AsyncIterator[list[Event]]:
    """Yield batches of events after `after_seq` as they are committed, for ever; close it when done.

    Args:
        db: where the log is.
        after_seq: the last seq already seen; None: only what happens from now on.
        kinds: as in `tail`.
        subject_prefix: as in `tail`.
        sweep_s: longest time between two looks, in case a wake was lost. A sweep that finds nothing yields an
            empty batch, so that the caller can send a sign of life.
    """
    with db.wakes.subscribe("events") as wakes:
        seen = await db.read(head) if after_seq is None else after_seq
        while True:
            batch = await db.read(functools.partial(_tail, seen, kinds, subject_prefix))
            if batch:
                seen = batch[-1].seq
                yield batch
            if len(batch) == BATCH:
                continue
            if not await wakes.wait(sweep_s) and not batch:
                yield []
