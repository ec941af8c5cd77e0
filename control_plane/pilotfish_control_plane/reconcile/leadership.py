"""Which control plane leads.

Owns the renewal of one lease and the answer "do I lead now?". Whoever acts as the leader passes the lease into
its transaction and lets `storage.leases.fence` check it there: the answer given here may be old by then.
"""

from __future__ import annotations

import asyncio
import logging

from pilotfish_control_plane.storage import leases
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.leases import Lease

__all__ = ["Leadership"]

log = logging.getLogger(__name__)


class Leadership:
    """Holds the lease `name` for this process whenever nobody else does."""

    def __init__(self, db: Database, holder: str, *, ttl_s: float, name: str = "leader") -> None:
        """Compete as `holder` (`instance/incarnation`); another takes over `ttl_s` seconds after a silent death."""
        self._db = db
        self._holder = holder
        self._ttl_s = ttl_s
        self._name = name
        self._lease: Lease | None = None
        self._changed = asyncio.Event()

    @property
    def lease(self) -> Lease | None:
        """The lease, while it is held."""
        return self._lease

    async def held(self) -> Lease:
        """Wait until this process leads; return the lease."""
        while self._lease is None:
            await self._changed.wait()
        return self._lease

    def lost(self, lease: Lease) -> None:
        """Note that `lease` was found lost; it is competed for again at the next renewal."""
        if self._lease == lease:
            self._set(None)

    async def run(self) -> None:
        """Take and renew the lease, three times within its length; runs until cancelled, then gives it up."""
        try:
            while True:
                await self._renew()
                await asyncio.sleep(self._ttl_s / 3)
        finally:
            if (lease := self._lease) is not None:
                self._set(None)
                await asyncio.shield(self._give_up(lease))

    async def _renew(self) -> None:
        try:
            self._set(
                await self._db.write(lambda tx: leases.acquire(tx.conn, self._name, self._holder, tx.now, self._ttl_s))
            )
        except Exception as error:
            # The lease itself may last a while yet, and its fence is checked in every transaction.
            log.warning("could not renew the lease %s, trying again: %s", self._name, error)
            if self._lease is not None and self._lease.expires <= self._db.clock.now():
                self._set(None)

    async def _give_up(self, lease: Lease) -> None:
        try:
            await self._db.write(lambda tx: leases.release(tx.conn, lease, tx.now))
        except Exception as error:
            log.warning("could not give up the lease %s, it ends by itself: %s", self._name, error)

    def _set(self, lease: Lease | None) -> None:
        if (lease and lease.epoch) != (self._lease and self._lease.epoch):
            log.info("lease %s: %s", self._name, f"leading with epoch {lease.epoch}" if lease else "not leading")
        self._lease = lease
        if lease is not None:
            self._changed.set()
        else:
            self._changed.clear()
