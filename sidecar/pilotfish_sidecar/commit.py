"""Group commit: many appends, one fdatasync.

Owns which record is durable. It never writes a record and never runs two syncs at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pilotfish_sidecar.segments import Segment

__all__ = ["GroupCommit"]


class GroupCommit:
    """Syncs segments in a thread and lets everyone who waits share one sync.

    Args:
        durable_lsn: records up to this one are durable already.
    """

    def __init__(self, durable_lsn: int) -> None:
        """Begin with nothing to sync."""
        self.durable_lsn = durable_lsn
        self.failures = 0
        self._written_lsn = durable_lsn
        self._dirty: list[Segment] = []
        self._running: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "spool-sync")
        self.listeners: list[Callable[[], None]] = []

    def written(self, lsn: int, segment: Segment) -> None:
        """Take note that records up to `lsn` are written, the last one to `segment`."""
        self._written_lsn = lsn
        if segment not in self._dirty:
            self._dirty.append(segment)

    def forget(self, segment: Segment) -> None:
        """Stop syncing a segment that is being deleted."""
        if segment in self._dirty:
            self._dirty.remove(segment)

    async def wait_durable(self, lsn: int) -> None:
        """Return when records up to `lsn` are durable.

        Raises:
            OSError: the sync failed; a later call tries again.
        """
        while self.durable_lsn < lsn:
            if self._running is None:
                self._running = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._running)

    async def _sync(self) -> None:
        upto, dirty = self._written_lsn, list(self._dirty)
        # Duplicates: a segment may be deleted and closed while the thread is at it.
        handles = [os.dup(segment.fd) for segment in dirty]
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _sync_all, handles)
        except OSError:
            self.failures += 1
            raise
        else:
            self.durable_lsn = upto
            written_meanwhile = self._written_lsn > upto
            # Only the newest of those that were synced can have got more since.
            done = dirty[:-1] if written_meanwhile else dirty
            self._dirty = [segment for segment in self._dirty if segment not in done]
            for listener in self.listeners:
                listener()
        finally:
            self._running = None

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True)


def _sync_all(handles: list[int]) -> None:
    try:
        for handle in handles:
            os.fdatasync(handle)
    finally:
        for handle in handles:
            os.close(handle)
