"""How members stand, written in batches.

Owns the rows of members and the links of replicas: thousands of sidecars that come back at once become a few
transactions. Whoever wrote last holds a member, so a control plane that lost one to another never takes it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from pilotfish_control_plane.deployments.model import LinkState
from pilotfish_control_plane.deployments.node_side import NodeSide
from pilotfish_control_plane.fleet.model import Member, MemberKind
from pilotfish_control_plane.names import DEFAULT_PROJECT
from pilotfish_control_plane.storage import fleet as rows
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["MEMBERS_TOPIC", "Presence", "note_links"]

log = logging.getLogger(__name__)

MEMBERS_TOPIC = "fleet.members"
SERVER_TTL_S = 10.0
GATHER_S = 0.005
LATER_S = 0.5
MAX_BATCH = 500


class Presence:
    """Writes members' standing for one control plane."""

    def __init__(self, db: Database, server: str, deployments: Callable[[], NodeSide]) -> None:
        """Write as control plane `server`; links of replicas go through `deployments`."""
        self.server = server
        self._db = db
        self._deployments = deployments
        self._waiting: dict[str, Member] = {}
        self._changed = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None

    def put(self, member: Member, *, urgent: bool = True) -> None:
        """Have a member written soon, or within half a second; only its newest standing counts."""
        self._waiting[member.instance] = member
        if urgent:
            self._changed.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(LATER_S, self._write_later)

    def _write_later(self) -> None:
        self._later = None
        self._changed.set()

    async def begin(self) -> tuple[int, int]:
        """Announce this control plane; return its epoch, higher than any before, and the newest configuration."""

        def announce(tx: Tx) -> tuple[int, int]:
            rows.keep_server(tx.conn, self.server, tx.now + timedelta(seconds=SERVER_TTL_S))
            return rows.next_value(tx.conn, "epoch"), rows.value(tx.conn, "config")

        return await self._db.write(announce)

    async def run(self) -> None:
        """Write what waits, and renew this control plane's word that it lives; runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_announced())
            tasks.create_task(self._keep_writing())

    async def end(self) -> None:
        """Write what waits, and take the announcement back."""
        try:
            await self._flush()
            await self._db.write(lambda tx: rows.forget_server(tx.conn, self.server))
        except Exception as error:
            log.warning("could not sign off, the lease ends by itself: %s", error)

    async def _keep_announced(self) -> None:
        def renew(tx: Tx) -> None:
            rows.keep_server(tx.conn, self.server, tx.now + timedelta(seconds=SERVER_TTL_S))

        while True:
            await asyncio.sleep(SERVER_TTL_S / 3)
            try:
                await self._db.write(renew)
            except Exception as error:
                log.warning("could not renew the word that this control plane lives, trying again: %s", error)

    async def _keep_writing(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            try:
                await self._flush()
            except Exception as error:
                log.warning("could not write %d members, trying again: %s", len(self._waiting), error)
                await asyncio.sleep(0.5)
                self._changed.set()

    async def _flush(self) -> None:
        while self._waiting:
            batch = list(self._waiting.values())[:MAX_BATCH]
            await self._db.write(lambda tx, batch=batch: self._write(tx, batch))  # type: ignore[misc]
            for member in batch:
                if self._waiting.get(member.instance) is member:
                    del self._waiting[member.instance]

    def _write(self, tx: Tx, batch: Sequence[Member]) -> None:
        stored = rows.members_by_instance(tx.conn, [m.instance for m in batch])
        kept = [m for m in batch if _is_news(m, stored.get(m.instance))]
        rows.save_members(tx.conn, kept)
        note_links(tx, self._deployments(), stored, kept)


def _is_news(member: Member, stored: Member | None) -> bool:
    """Return whether a member's standing may be written: an ending only if this very stream held it."""
    if stored is None or member.link is LinkState.CONNECTED:
        return True
    return (stored.server, stored.connection) == (member.server, member.connection)


def note_links(tx: Tx, deployments: NodeSide, before: dict[str, Member], after: Sequence[Member]) -> None:
    """Tell replicas how their sidecars' streams stand, and whoever waits that members changed."""
    links: dict[LinkState, list[str]] = {}
    for member in after:
        old = before.get(member.instance)
        if old is not None and old.link is member.link and old.replicas == member.replicas:
            continue
        if member.kind is MemberKind.SIDECAR:
            links.setdefault(member.link, []).extend(member.replicas)
        else:
            tx.wake(MEMBERS_TOPIC)
        if member.link in (LinkState.CONNECTED, LinkState.LOST) and (old is None or old.link is not member.link):
            name = f"projects/{DEFAULT_PROJECT}/members/{member.instance}"
            payload = {"kind": member.kind.value, "incarnation": member.incarnation, "host": member.host}
            tx.emit(f"member.{member.link.value}", name, payload)
    for link, replicas in links.items():
        deployments.link_changed(tx, replicas, link)
