"""The loop that ends leases.

Owns UNKNOWN -> LOST, and members whose control plane has died. It moves no traffic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import timedelta

from pilotfish_control_plane.deployments.model import LinkState
from pilotfish_control_plane.deployments.node_side import NodeSide
from pilotfish_control_plane.fleet.model import Member, MemberKind
from pilotfish_control_plane.fleet.presence import MEMBERS_TOPIC, SERVER_TTL_S, note_links
from pilotfish_control_plane.storage import fleet as rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["FleetReconciler"]

ORPHAN_LEASE_S = 15.0
FORGET_SERVER_S = 3600.0
FORGET_SIDECAR_S = 86_400.0
"""Each replica has a sidecar of its own, so most that are lost never come back."""


class FleetReconciler:
    """Notes whose lease is over."""

    name = "fleet"
    topics: Sequence[str] = (MEMBERS_TOPIC,)

    def __init__(self, deployments: Callable[[], NodeSide]) -> None:
        """Tell `deployments` about links."""
        self._deployments = deployments

    def reconcile(self, tx: Tx) -> float | None:
        """End leases; return when the next one ends."""
        alive = rows.living_servers(tx.conn, tx.now)
        lease_ends = tx.now + timedelta(seconds=ORPHAN_LEASE_S)
        orphans = rows.connected_elsewhere(tx.conn, alive)
        unknown = [dataclasses.replace(m, link=LinkState.UNKNOWN, lease_ends=lease_ends) for m in orphans]
        self._note(tx, orphans, unknown)
        overdue = rows.overdue(tx.conn, tx.now)
        self._note(tx, overdue, [dataclasses.replace(m, link=LinkState.LOST) for m in overdue])
        rows.forget_lost(tx.conn, MemberKind.SIDECAR, tx.now - timedelta(seconds=FORGET_SIDECAR_S))
        rows.forget_dead_servers(tx.conn, tx.now - timedelta(seconds=FORGET_SERVER_S))
        next_end = rows.next_lease_end(tx.conn)
        return SERVER_TTL_S if next_end is None else max(0.05, (next_end - tx.now).total_seconds())

    def _note(self, tx: Tx, before: Sequence[Member], after: Sequence[Member]) -> None:
        rows.save_members(tx.conn, after)
        note_links(tx, self._deployments(), {m.instance: m for m in before}, after)
