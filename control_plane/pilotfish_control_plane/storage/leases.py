"""Leases: which control plane leads, with an epoch as fence.

Owns the tables `leases` and `write_gate`. An epoch is given once and never again, so whoever holds an older one
can tell, inside its own transaction, that it leads no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, Column, Connection, Integer, String, Table, insert, select, update

from pilotfish.errors import Aborted
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.types import UtcDateTime

__all__ = ["Lease", "acquire", "current", "fence", "leases", "release"]

leases = Table(
    "leases",
    metadata,
    Column("name", String(127), primary_key=True),
    Column("holder", String(127), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", UtcDateTime, nullable=False),
)

# Locked, never filled: see storage.writers. A table, because only LOCK TABLE waits without taking a snapshot.
write_gate = Table("write_gate", metadata, Column("id", Integer, primary_key=True))


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it stands in the table."""

    name: str
    holder: str
    epoch: int
    expires: datetime


def current(conn: Connection, name: str) -> Lease | None:
    """Return the lease, expired or not; None when nobody ever held it."""
    row = conn.execute(select(leases).where(leases.c.name == name)).first()
    return None if row is None else Lease(row.name, row.holder, row.epoch, row.expires)


def acquire(conn: Connection, name: str, holder: str, now: datetime, ttl_s: float) -> Lease | None:
    """Take or renew the lease for `ttl_s` seconds; None while another holder's lasts.

    A renewal by the same holder before the end keeps the epoch; every other success raises it by one. A holder
    is `instance/incarnation`: a new incarnation takes over from its own instance at once, without waiting for
    the end, since there is never more than one of them (the home directory is locked).
    """
    held = current(conn, name)
    expires = now + timedelta(seconds=ttl_s)
    if held is None:
        conn.execute(insert(leases).values(name=name, holder=holder, epoch=1, expires=expires))
        return Lease(name, holder, 1, expires)
    same_instance = held.holder.rpartition("/")[0] == holder.rpartition("/")[0] != ""
    if held.holder != holder and held.expires > now and not same_instance:
        return None
    epoch = held.epoch if held.holder == holder and held.expires > now else held.epoch + 1
    conn.execute(update(leases).where(leases.c.name == name).values(holder=holder, epoch=epoch, expires=expires))
    return Lease(name, holder, epoch, expires)


def release(conn: Connection, lease: Lease, now: datetime) -> None:
    """End the lease now, if it is still this one."""
    mine = (leases.c.name == lease.name) & (leases.c.epoch == lease.epoch) & (leases.c.holder == lease.holder)
    conn.execute(update(leases).where(mine).values(expires=now))


def fence(conn: Connection, lease: Lease) -> None:
    """Refuse to go on in this transaction unless `lease` is still the newest of its name.

    Raises:
        Aborted: another holder has taken over since.
    """
    held = current(conn, lease.name)
    if held is None or held.epoch != lease.epoch or held.holder != lease.holder:
        raise Aborted(
            f"lease {lease.name} epoch {lease.epoch} was lost to epoch {held.epoch if held else '?'}",
            reason="LEASE_LOST",
            metadata={"lease": lease.name},
        )
