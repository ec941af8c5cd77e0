"""The tap's side of the agent: captured calls in, durable and once, and the books of every tap.

Owns what happens between a batch on the tap's socket and its acknowledgement, the conversion of calls that waited
for a configuration, and the reading and closing of the taps' counter files. It never parses a body itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pilotfish.errors import ResourceExhausted
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish_sidecar.accounts import Totals
from pilotfish_sidecar.capture import Captured, find_binding, read_calls
from pilotfish_sidecar.cursors import Cursor
from pilotfish_sidecar.frames import Kind
from pilotfish_sidecar.intake import Intake
from pilotfish_sidecar.tap.counters import Books, close_books, find_books, read_books
from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tap.records import (
    NOT_DROPPED,
    DropReason,
    Flag,
    Protocol,
    Role,
    TapIdentity,
    TapRecord,
)
from pilotfish_sidecar.tap.wire import Batch, FrameReader, WireError, encode_batch, encode_entry

__all__ = ["TapBooks", "TapIntake"]

log = logging.getLogger(__name__)

_RAW_RECORDS: Final = 500
_RAW_BYTES: Final = 4 << 20


class TapIntake:
    """Stores what the taps send."""

    def __init__(self, intake: Intake) -> None:
        """Keep the state."""
        self._intake = intake

    def watermarks(self) -> dict[bytes, int]:
        """Return the next sequence number of every tap that this sidecar knows."""
        return {bytes.fromhex(tap): seq for tap, seq in self._intake.accounts.tap_marks.items()}

    async def on_batch(self, records: list[TapRecord]) -> None:
        """Make captured calls durable; the caller acknowledges them afterwards.

        Raises:
            ResourceExhausted, OSError: the disk is full or broken; the tap keeps them and sends them again.
        """
        tap = records[0].incarnation.hex()
        # After a failed sync the tap repeats what was appended already.
        known = self._intake.accounts.tap_marks.get(tap, 0)
        fresh = [record for record in records if record.seq >= known]
        for part in _parts(fresh):
            self._store(part, tap)
        await self._intake.spool.sync()

    def _store(self, records: list[TapRecord], tap: str) -> None:
        calls = [record for record in records if not record.flags & Flag.CONTINUES]
        dropped = Counter(record.drop.name.lower() for record in calls if record.drop is not None)
        mark = {"tap": (tap, records[-1].seq + 1, len(calls) - dropped.total(), dropped)}
        try:
            if self._intake.bindings:
                self._intake.store_captured(self._read(records), mark)
            else:
                self._intake.store_raw(_encode_raw(records), len(records), mark)
        except ResourceExhausted as error:
            if error.reason != "GROUP_TOO_LARGE":
                raise
            if len(records) > 1:
                half = len(records) // 2
                self._store(records[:half], tap)
                self._store(records[half:], tap)
            else:
                self._intake.store_captured(self._unreadable("row_too_large"), mark)

    def _unreadable(self, reason: str) -> Captured:
        captured = Captured()
        captured.miss(self._intake.fallback.who.replica, reason)
        return captured

    def _read(self, records: list[TapRecord]) -> Captured:
        """Return the rows of calls; one that breaks the reading is counted and left out.

        Raising here would make the tap send the same calls again, for ever.
        """
        try:
            return read_calls(records, self._intake.bindings)
        except Exception:
            if len(records) == 1:
                log.exception("a call cannot be read")
                return self._unreadable("internal_error")
            captured = Captured()
            for record in records:
                captured.merge(self._read([record]))
            return captured

    def waiting(self) -> bool:
        """Return whether calls wait for a configuration that has come."""
        spool = self._intake.spool
        return bool(self._intake.bindings) and any(each.raw_end > spool.raw_done for each in spool.segments())

    async def convert_waiting(self) -> int:
        """Decode calls that came before the first configuration, and return how many."""
        done = 0
        spool = self._intake.spool
        await spool.sync()
        cursor = Cursor(spool, Kind.RAW)
        while (record := cursor.take()) is not None:
            calls = _decode_raw(record.payload)
            captured = self._read(calls)
            self._intake.store_captured(captured, {"raw_done": record.lsn + 1})
            done += len(calls)
            await spool.sync()
        return done


def _parts(records: Sequence[TapRecord]) -> Iterator[list[TapRecord]]:
    part: list[TapRecord] = []
    size = 0
    for record in records:
        part.append(record)
        size += len(record.request) + len(record.response)
        if len(part) >= _RAW_RECORDS or size >= _RAW_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _encode_raw(records: Sequence[TapRecord]) -> bytes:
    identities: dict[TapIdentity, int] = {}
    encoded = []
    for record in records:
        place = identities.setdefault(record.identity, len(identities))
        entry = (
            int(record.protocol),
            int(record.role),
            record.identity,
            record.code,
            record.start_us,
            record.latency_us,
            record.method,
            record.prediction_id,
            record.headers,
            record.request,
            record.response,
            int(record.flags),
            NOT_DROPPED if record.drop is None else int(record.drop),
            record.server_us,
        )
        encoded.append(encode_entry(entry, place))
    return encode_batch(records[0].incarnation, records[0].seq, list(identities), encoded)


def _decode_raw(payload: bytes) -> list[TapRecord]:
    try:
        messages = FrameReader().feed(payload)
    except WireError as error:  # written by another release
        log.error("captured calls of another format are lost: %s", error)
        return []
    return [record for message in messages if isinstance(message, Batch) for record in message.records]


class TapBooks:
    """Reads the taps' counters, and closes those of processes that died.

    Args:
        path: where taps keep their counters.
        intake: where closed books are kept.
        replica: whose calls they are when a tap does not say.
    """

    def __init__(self, path: Path, intake: Intake, replica: str) -> None:
        """Open nothing yet."""
        self._path = path
        self._intake = intake
        self._replica = replica
        # Held open: a new tap may take the name of one that ended, and its last counts would be gone.
        self._held: dict[str, int] = {}

    def read(self) -> list[Books]:
        """Return the books of every tap that is not settled yet, those of ended ones too."""
        for books in find_books(self._path):
            tap = books.incarnation.hex()
            if tap not in self._held and tap not in self._intake.accounts.closed_taps:
                self._hold(tap, books.path)
        found = []
        for tap, handle in list(self._held.items()):
            try:
                found.append(read_books(Path(f"/proc/self/fd/{handle}")))
            except (OSError, ValueError) as error:
                log.warning("the books of tap %s cannot be read: %s", tap, error)
                self._release(tap)
        return found

    def _hold(self, tap: str, path: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if read_books(Path(f"/proc/self/fd/{handle}")).incarnation.hex() != tap:
                os.close(handle)
                return
            self._held[tap] = handle

    def _release(self, tap: str) -> None:
        os.close(self._held.pop(tap))

    def settle(self, receiver: TapReceiver) -> None:
        """Close the books of taps that ended and whose calls are all here; their totals are kept from then on."""
        busy = {session.incarnation for session in receiver.sessions() if session.connections}
        for books in self.read():
            tap = books.incarnation.hex()
            if books.owner_alive or books.incarnation in busy:
                continue
            if not books.closed:
                books = self._close(books)
            totals = {
                "tap": tap,
                "replica": self._owner(books),
                "served": books.served,
                "captured": books.captured,
                "dropped": {reason.name.lower(): count for reason, count in books.dropped.items() if count},
            }
            self._intake.store_mark({"books": totals})
            self._release(tap)
            receiver.forget(books.incarnation)
            self._remove(books)

    def _close(self, books: Books) -> Books:
        stored = self._intake.accounts.tap_stored.get(books.incarnation.hex(), Totals())
        told = {DropReason[reason.upper()]: count for reason, count in stored.dropped.items()}
        for each in find_books(self._path):
            if each.incarnation == books.incarnation:
                with contextlib.suppress(OSError, ValueError):
                    return close_books(each.path, stored.captured, told)
        return books

    def _remove(self, books: Books) -> None:
        # The plain name belongs to the next tap, which looks at it; the others were left for us.
        for each in find_books(self._path):
            if each.incarnation == books.incarnation and each.path != self._path:
                with contextlib.suppress(OSError):
                    each.path.unlink()

    def _owner(self, books: Books) -> str:
        replica = books.identity.replica
        if replica in self._intake.bindings or not self._intake.bindings:
            return replica or self._replica
        record = TapRecord(b"", 0, Protocol.GRPC, Role.LIVE, books.identity, 0, 0, 0, "", "", (), b"", b"")
        binding = find_binding(record, self._intake.bindings)
        return binding.who.replica if binding is not None else self._replica

    def counts(self) -> dict[str, monitoring.CaptureCounts]:
        """Return what every replica's taps saw since the first start of this sidecar.

        Whoever logs through the log API is served and captured in one.
        """
        accounts = self._intake.accounts
        totals: dict[str, Totals] = {}
        for name in {*self._intake.bindings, self._replica}:
            closed = accounts.closed.get(name, Totals())
            logged = accounts.logged[name]
            totals[name] = Totals(closed.served + logged, closed.captured + logged, Counter(closed.dropped))
        for books in self.read():
            total = totals.setdefault(self._owner(books), Totals())
            total.served += books.served
            total.captured += books.captured
            total.dropped.update({reason.name.lower(): count for reason, count in books.dropped.items() if count})
        found = {}
        for name, total in totals.items():
            dropped = sum(total.dropped.values())
            found[name] = monitoring.CaptureCounts(
                served=total.served,
                captured=total.captured,
                dropped=total.dropped,
                in_flight=max(0, total.served - total.captured - dropped),
                undecodable=accounts.undecodable.get(name, Counter()),
            )
        return found

    def alive(self) -> set[str]:
        """Return the replicas whose tapped process runs."""
        return {self._owner(books) for books in self.read() if books.owner_alive}

    def close(self) -> None:
        """Close the files."""
        for tap in list(self._held):
            self._release(tap)
