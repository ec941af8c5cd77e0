"""What happens to rows after they are durable: roll into parts, merge small parts, purge old days.

Owns the thread that does it and the order of its steps: parts durable, then the manifest, then the old file
removed. A crash between any two neither loses nor doubles a row. It never touches the append path's files
before they are sealed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pilotfish_control_plane.clock import Clock

from .durable import disk_error, sync_directory
from .frames import scan
from .journal import Journal
from .manifest import Change, Manifest, Part
from .options import LogOptions
from .parts import PARTS, TRUTH, merge_parts, write_segment_parts
from .repeats import Repeats
from .segments import PREDICTIONS, Damage, Segment, load_segment, map_file
from .snapshots import Snapshots

__all__ = ["Maintenance", "Merged", "Purged"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: parts before and after, and their bytes."""

    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge deleted, or would delete.

    Attributes:
        rows: rows of predictions as appended, by deployment.
        days: the days that went, days since 1970 UTC.
    """

    parts: int
    size_bytes: int
    rows: dict[str, int]
    truth_rows: int
    days: tuple[int, ...]
    dry_run: bool


class Maintenance:
    """Rolls, merges and purges; one at a time."""

    def __init__(
        self,
        root: Path,
        journal: Journal,
        manifest: Manifest,
        snapshots: Snapshots,
        repeats: Repeats,
        clock: Clock,
        options: LogOptions,
    ) -> None:
        """Work on the given parts of one prediction log."""
        self._root, self._journal, self._manifest = root, journal, manifest
        self._snapshots, self._repeats = snapshots, repeats
        self._clock, self._options = clock, options
        self._one = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._dirty = True  # parts were added since the last look for small ones
        self.damages: list[Damage] = []

    def start(self) -> None:
        """Begin the thread."""
        self._thread = threading.Thread(target=self._loop, name="prediction-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is doing now."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake_if_due(self) -> None:
        """Let the thread look again when a log file waits."""
        if self._thread is not None and self._journal.has_sealed and not self._wake.is_set():
            self._wake.set()

    def _loop(self) -> None:
        while not self._stopping:
            try:
                wait_s = self.run()
            except Exception as error:
                # The rows stay safe in their log file; a full disk or a fault must not end the thread.
                _logger.error("%s: rolling or merging failed, again in a while: %s", self._root, error)
                self._pause(self._options.retry_roll_s)
                continue
            self._wake.wait(wait_s)
            self._wake.clear()

    def _pause(self, seconds: float) -> None:
        deadline = self._clock.monotonic() + seconds
        while not self._stopping and (left := deadline - self._clock.monotonic()) > 0:
            self._wake.wait(min(left, 1.0))
            if not self._stopping:
                self._wake.clear()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self._root, self._options.retry_roll_s) from error

    def run(self) -> float:
        """Do what is due and return the seconds until something may be due again."""
        self._journal.seal(self._options.segment_age_s)
        with self._one, self._disk():
            rolled = self._journal.sealed()
            for segment in rolled:
                self._roll(segment)
                if self._stopping:
                    return 0.0
            if rolled:
                self._count_repeats({r.deployment for s in rolled for r in s.records if r.kind == PREDICTIONS})
            if self._dirty:
                self._dirty = False
                self._compact(everything=False)
        return max(0.1, min(5.0, self._options.segment_age_s))

    def _count_repeats(self, deployments: set[str]) -> None:
        """Bring the index of repeated ids up to date here, so that no query has to."""
        with self._snapshots.take() as snapshot:
            self._repeats.find(snapshot, deployments)

    def roll_all(self) -> int:
        """Roll every log file, the active one too, and return how many."""
        self._journal.seal()
        with self._one, self._disk():
            segments = self._journal.sealed()
            for segment in segments:
                self._roll(segment)
        return len(segments)

    def _roll(self, segment: Segment) -> None:
        data = self._sound(segment)
        parts: list[Part] = []
        try:
            parts.extend(write_segment_parts(self._root, segment.number, segment.records, data))
            marks = {record.source: 0 for record in segment.records}
            for record in segment.records:
                marks[record.source] = max(marks[record.source], record.mark)
            change = Change(segment.number, parts, (), marks, self._journal.gaps_of(segment))
            state = self._manifest.commit(change)
        except BaseException:
            self._remove(part.path for part in parts)
            raise
        self._snapshots.replace(state, rolled=segment.number)
        self._dirty = True
        segment.path.unlink()
        sync_directory(segment.path.parent)

    def _sound(self, segment: Segment) -> pa.Buffer:
        """Return the bytes of a log file, salvaged first if the disk has changed them since they were written."""
        data = map_file(segment.path)
        found = scan(memoryview(data))
        if found.damaged or found.good_end != segment.end:
            repaired, damage = load_segment(segment.path, self._root / "quarantine", newest=False)
            if damage is not None:
                self.damages.append(damage)
            self._journal.repair(segment, repaired)
            data = map_file(segment.path) if repaired.records else pa.py_buffer(b"")
        return data

    def _remove(self, paths: Iterable[str]) -> None:
        """Delete parts that were written and not committed."""
        for path in paths:
            (self._root / path).unlink(missing_ok=True)

    def compact(self, *, everything: bool) -> Merged:
        """Merge small parts of one deployment and day."""
        with self._one, self._disk():
            return self._compact(everything=everything)

    def _compact(self, *, everything: bool) -> Merged:
        merged = Merged(0, 0, 0, 0)
        for group in self._small_groups(everything=everything):
            part = merge_parts(self._root, group)
            try:
                state = self._manifest.commit(Change(add=[part], remove=[p.path for p in group]))
            except BaseException:
                self._remove([part.path])
                raise
            self._snapshots.replace(state, [p.path for p in group])
            merged = Merged(
                merged.parts_before + len(group),
                merged.parts_after + 1,
                merged.bytes_before + sum(p.size_bytes for p in group),
                merged.bytes_after + part.size_bytes,
            )
            if self._stopping:
                break
        return merged

    def _small_groups(self, *, everything: bool) -> list[list[Part]]:
        """Return groups of parts to merge: same kind, deployment, day and columns, oldest first.

        Unless everything is asked for they are of about one size, so that a row is rewritten a few times only.
        """
        by_key: dict[tuple[object, ...], list[Part]] = {}
        for part in self._manifest.state.parts.values():
            if part.size_bytes < self._options.small_part_bytes:
                size_class = 0 if everything else part.size_bytes.bit_length() // 3
                by_key.setdefault((part.kind, part.deployment, part.day, part.columns, size_class), []).append(part)
        groups: list[list[Part]] = []
        for parts in by_key.values():
            parts.sort(key=lambda p: (p.first_segment, p.path))
            group: list[Part] = []
            size = 0
            for part in parts:
                if group and size + part.size_bytes > self._options.merged_part_bytes:
                    groups.append(group)
                    group, size = [], 0
                group.append(part)
                size += part.size_bytes
            groups.append(group)
        at_least = 2 if everything else self._options.merge_at_parts
        return [group for group in groups if len(group) >= at_least]

    def purge(self, before_day: int, deployments: Sequence[str] | None, *, dry_run: bool) -> Purged:
        """Delete the days before `before_day`."""
        if not dry_run:
            self.roll_all()
        with self._one, self._disk():
            gone = [
                part
                for part in self._manifest.state.parts.values()
                if part.day < before_day and (deployments is None or part.deployment in deployments)
            ]
            if gone and not dry_run:
                state = self._manifest.commit(Change(remove=[part.path for part in gone]))
                self._snapshots.replace(state, [part.path for part in gone])
                self._repeats.forget({part.deployment for part in gone if part.kind == PARTS})
        rows: dict[str, int] = {}
        for part in gone:
            if part.kind == PARTS:
                rows[part.deployment] = rows.get(part.deployment, 0) + part.rows
        truths = sum(part.rows for part in gone if part.kind == TRUTH)
        size = sum(part.size_bytes for part in gone)
        return Purged(len(gone), size, rows, truths, tuple(sorted({p.day for p in gone})), dry_run)
