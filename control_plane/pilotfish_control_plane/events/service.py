"""Following the event log.

Owns `tail` for one look and `follow` for an endless one. It writes nothing: `Tx.emit` does.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from pilotfish_control_plane.storage import events
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.events import Event
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Selection", "Tail", "follow", "tail"]

BATCH = 500


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are wanted; empty: all.

    Args:
        kinds: `a` also takes `a.b`; a dot at the end changes nothing.
        subject_prefix: the start of the subject's resource name.
        project: its id; None: all.
    """

    kinds: tuple[str, ...] = ()
    subject_prefix: str = ""
    project: str | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """Events in commit order, and the seq up to which everything was looked at."""

    events: Sequence[Event]
    position: int


def tail(tx: Tx, after_seq: int, selection: Selection = Selection(), limit: int = BATCH) -> Tail:
    """Return what was committed after `after_seq`, at most `limit` events."""
    found = events.tail(
        tx.conn,
        after_seq,
        kinds=[kind.rstrip(".") for kind in selection.kinds],
        subject_prefix=selection.subject_prefix,
        project=selection.project,
        limit=limit,
    )
    # Both queries see one snapshot: what is not wanted need not be looked at again.
    position = found[-1].seq if len(found) == limit else max(after_seq, events.head(tx.conn))
    return Tail(found, position)


def _look(after_seq: int | None, selection: Selection, tx: Tx) -> Tail:
    return Tail((), events.head(tx.conn)) if after_seq is None else tail(tx, after_seq, selection)


async def follow(
    db: Database, after_seq: int | None, selection: Selection = Selection(), *, sweep_s: float = 5.0
) -> AsyncIterator[Tail]:
    """Yield what is committed after `after_seq`, for ever; close it when done.

    Args:
        db: where the log is.
        after_seq: the last seq already seen; None: only what happens from now on.
        selection: which events are wanted.
        sweep_s: longest time between two looks, in case a wake was lost. A sweep that finds nothing yields a tail
            without events, so that the caller can send a sign of life.
    """
    with db.wakes.subscribe("events") as wakes:
        position, swept = after_seq, after_seq is None
        while True:
            found = await db.read(functools.partial(_look, position, selection))
            position = found.position
            if found.events or swept:
                yield found
            swept = len(found.events) < BATCH and not await wakes.wait(sweep_s)
