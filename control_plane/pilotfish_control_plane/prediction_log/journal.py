"""The append half: exactly once by offset, durable before the answer, one fdatasync per group.

Owns the log files, the watermarks and the lock that orders writers. It never reads rows back and never writes
Parquet: `PredictionLog` rolls a sealed file into parts and then calls `release`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotfish.errors import FailedPrecondition, InvalidArgument, PilotfishError, ResourceExhausted, Unavailable
from pilotfish_control_plane.clock import Clock

from .batches import Append, Appended, ColumnBatch, Gap, Source
from .durable import disk_error, free_bytes, sync_directory, sync_file, write_all
from .frames import encode_frame
from .manifest import State
from .options import LogOptions
from .segments import END, Damage, Encoded, Record, Segment, frame_buffers, load_segment, segment_path

__all__ = ["Journal"]

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Written:
    """What a group adds once it is durable."""

    buffers: list[bytes | memoryview]
    records: list[Record]
    marks: dict[Source, int]
    gaps: list[Gap]
    size: int = 0
    rows: int = 0


class Journal:
    """The log files of one prediction log; safe for many threads, one of which writes at a time."""

    def __init__(self, root: Path, state: State, clock: Clock, options: LogOptions) -> None:
        """Read every log file back and remove those that are in parts already."""
        self._root, self._directory = root, root / "log"
        self._clock, self._options = clock, options
        self._write = threading.Lock()
        self._view = threading.Lock()  # guards what readers see; never held while the disk is touched
        self._handle = -1
        self._broken = ""
        self._marks = dict(state.marks)
        self._gaps = {_key(gap): gap for gap in state.gaps}
        self._sealed: list[Segment] = []
        self._active: Segment | None = None
        self._next = state.rolled + 1
        self.damages: list[Damage] = []
        self._replay(state)

    def _replay(self, state: State) -> None:
        quarantine = self._root / "quarantine"
        for stray in self._directory.glob("*.tmp"):
            stray.unlink()
        paths = sorted(self._directory.glob("*.seg"))
        for path in paths:
            if int(path.stem) <= state.rolled:
                path.unlink()
                continue
            segment, damage = load_segment(path, quarantine, newest=path == paths[-1])
            if damage is not None:
                self.damages.append(damage)
            for record in segment.records:
                self._admit(record)
            self._next = segment.number + 1
            if segment.records:
                segment.opened_s = self._clock.monotonic()
                self._sealed.append(segment)
            else:
                path.unlink()

    def _admit(self, record: Record) -> None:
        mark = self._marks.get(record.source, 0)
        if record.first > mark:
            reason = "skipped" if record.gap is not None else "damaged"
            gap = Gap(record.source, mark, record.first, reason, self._now_us())
            self._gaps.setdefault(_key(gap), gap)
        self._marks[record.source] = max(mark, record.mark)

    def append_many(self, items: Sequence[Append]) -> list[Appended | PilotfishError]:
        """Store a group with one fdatasync; see `PredictionLog.append_many`."""
        prepared = [_prepare(item) for item in items]
        with self._write:
            if self._broken:
                wait_s = self._options.retry_after_s
                raise Unavailable(self._broken, reason="PREDICTION_LOG_BROKEN", retry_after_s=wait_s)
            start = self._active.end if self._active is not None else 0
            group = _Written([], [], {}, [])
            answers = [self._place(item, ready, group, start) for item, ready in zip(items, prepared, strict=True)]
            if group.records:
                self._commit(group)
        return answers

    def _place(
        self, item: Append, ready: Encoded | PilotfishError, group: _Written, group_start: int
    ) -> Appended | PilotfishError:
        """Add the new rows of an item to the group and return its answer, valid once the group is durable."""
        if isinstance(ready, PilotfishError):
            return ready
        mark = group.marks.get(item.source, self._marks.get(item.source, 0))
        first, last, gap = item.first_offset, item.last_offset, None
        if last <= mark:
            return Appended(mark, 0, duplicate=True)
        if first > mark:
            if not item.allow_gap:
                return _gap_error(item, mark)
            gap = mark
            group.gaps.append(Gap(item.source, mark, first, "skipped", self._now_us()))
        elif first < mark:
            # Truths may have other offsets than one per row; storing one again changes nothing.
            if last - first == ready.table.num_rows:
                ready = ready.tail(last - mark)
            first = mark
        rows = ready.table.num_rows
        buffers, size, record = frame_buffers(ready, item.source, first, last, gap, group_start=group_start)
        base = self._active.rows if self._active is not None else 0
        record = record.placed(group_start + group.size + record.body_offset, base + group.rows)
        group.buffers += buffers
        group.records.append(record)
        group.marks[item.source] = last
        group.size += size
        group.rows += rows
        return Appended(last, rows, duplicate=False)

    def _commit(self, group: _Written) -> None:
        self._check_space(group.size)
        segment = self._open_segment()
        try:
            write_all(self._handle, group.buffers)
            sync_file(self._handle)
        except OSError as error:
            self._undo(segment)
            raise disk_error(error, self._root, self._options.retry_after_s) from error
        with self._view:
            if not segment.records:
                segment.opened_s = self._clock.monotonic()
            segment.records += group.records
            segment.end += group.size
            segment.rows += group.rows
            self._marks |= group.marks
            self._gaps |= {_key(gap): gap for gap in group.gaps}
        if segment.end >= self._options.segment_bytes or len(segment.records) >= self._options.segment_records:
            self._seal()

    def _check_space(self, size: int) -> None:
        # The reserve lets a full log still be rolled into parts, which needs space before it frees any.
        needed = self._options.min_free_bytes + size
        if free_bytes(self._root) < needed:
            raise ResourceExhausted(
                f"the disk of the prediction log {self._root} has less than {needed} bytes left: "
                "free space or lower its retention; nothing was stored",
                reason="PREDICTION_LOG_FULL",
                metadata={"path": str(self._root)},
                retry_after_s=self._options.retry_after_s,
            )

    def _open_segment(self) -> Segment:
        if self._active is not None:
            return self._active
        path = segment_path(self._directory, self._next)
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            sync_directory(self._directory)
        except OSError as error:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
                path.unlink(missing_ok=True)
            raise disk_error(error, self._root, self._options.retry_after_s) from error
        segment = Segment(self._next, path)
        with self._view:
            self._active = segment
        self._next += 1
        return segment

    def _undo(self, segment: Segment) -> None:
        """Cut off what a failed write left, so that the next record follows the last durable one."""
        try:
            os.ftruncate(self._handle, segment.end)
            os.lseek(self._handle, segment.end, os.SEEK_SET)
            sync_file(self._handle)
        except OSError as error:
            self._broken = (
                f"the prediction log {self._root} could not be brought back after a failed write: {error}; "
                "check the disk and restart the control plane"
            )
            _logger.error("%s", self._broken)

    def _seal(self) -> None:
        """Close the active file; the next append begins another. The caller holds the writers' lock."""
        segment = self._active
        if segment is None:
            return
        os.close(self._handle)
        self._handle = -1
        with self._view:
            self._active = None
            if segment.records:
                self._sealed.append(segment)
        if not segment.records:
            segment.path.unlink()

    def seal(self, older_than_s: float = 0.0) -> None:
        """Close the active file if its first record is at least `older_than_s` seconds old."""
        with self._write:
            active = self._active
            if active is not None and active.records and self._clock.monotonic() - active.opened_s >= older_than_s:
                self._seal()

    def sealed(self) -> list[Segment]:
        """Return the files that wait to become parts, oldest first."""
        with self._view:
            return list(self._sealed)

    @property
    def has_sealed(self) -> bool:
        """Tell whether a file waits to become parts."""
        return bool(self._sealed)

    def tail(self) -> list[tuple[Segment, int, int]]:
        """Return every file that is not in parts yet with its durable records and bytes; the caller holds `view`."""
        files = [*self._sealed, self._active] if self._active is not None else self._sealed
        return [(s, len(s.records), s.end) for s in files if s.records]

    @property
    def view(self) -> threading.Lock:
        """Return the lock under which readers take their snapshot and a roll changes hands."""
        return self._view

    def drop(self, number: int) -> None:
        """Forget a file whose rows are in parts now; the caller holds `view` and removes the file after."""
        self._sealed = [s for s in self._sealed if s.number != number]

    def repair(self, segment: Segment, repaired: Segment) -> None:
        """Show what was salvaged of a sealed file in its place, and record what was lost as gaps."""
        kept = {(record.source, record.mark) for record in repaired.records}
        lost = [record for record in segment.records if (record.source, record.mark) not in kept]
        with self._view:
            segment.records, segment.end, segment.rows = repaired.records, repaired.end, repaired.rows
            for record in lost:
                gap = Gap(record.source, record.first, record.mark, "damaged", self._now_us())
                self._gaps.setdefault(_key(gap), gap)

    def gaps_of(self, segment: Segment) -> list[Gap]:
        """Return the gaps of the sources that wrote to a file."""
        sources = {record.source for record in segment.records}
        with self._view:
            return [gap for gap in self._gaps.values() if gap.source in sources]

    def gaps(self) -> list[Gap]:
        """Return every gap."""
        with self._view:
            return list(self._gaps.values())

    def watermark(self, source: Source) -> int:
        """Return the first offset of a source that is not durable; 0 for an unknown source."""
        with self._view:
            return self._marks.get(source, 0)

    def watermarks(self) -> dict[Source, int]:
        """Return the watermark of every known source."""
        with self._view:
            return dict(self._marks)

    def close(self) -> None:
        """Close the active file."""
        with self._write:
            self._vouch()
            self._seal()
            self._broken = f"the prediction log {self._root} is closed"

    def _vouch(self) -> None:
        """End the active file with a frame that says all before it was durable; see `frames`."""
        segment = self._active
        if segment is None or self._broken:
            return
        buffers, size, _ = encode_frame(END, {}, (), group_start=segment.end)
        try:
            write_all(self._handle, buffers)
            sync_file(self._handle)
        except OSError:
            self._undo(segment)
            return
        with self._view:
            segment.end += size

    def _now_us(self) -> int:
        return int(self._clock.now().timestamp() * 1e6)


def _key(gap: Gap) -> tuple[Source, int, int]:
    return gap.source, gap.first_offset, gap.last_offset


def _prepare(item: Append) -> Encoded | PilotfishError:
    """Convert a batch outside of the lock; what is wrong with it is its own answer, not its group's."""
    rows, span = len(item.batch), item.last_offset - item.first_offset
    if item.first_offset < 0 or span < 0 or (isinstance(item.batch, ColumnBatch) and span != rows):
        return InvalidArgument(
            f"{item.source} sent {rows} rows as offsets [{item.first_offset}, {item.last_offset}): "
            "a prediction's row i has the offset first_offset + i",
            reason="BAD_OFFSETS",
        )
    try:
        return Encoded.of(item.batch)
    except PilotfishError as error:
        return error


def _gap_error(item: Append, mark: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"{item.source} sent offset {item.first_offset}, the next one expected is {mark}: "
        f"send from there, or allow the gap if those rows are lost",
        reason="OFFSET_GAP",
        metadata={"expected_offset": str(mark), "first_offset": str(item.first_offset)},
    )
