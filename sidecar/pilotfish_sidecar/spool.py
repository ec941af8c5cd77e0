"""The agent's disk: an append-only log of segments that survives kill -9 and never outgrows its bounds.

Owns the segment files, the incarnation, the offsets of each stream, what the control plane has acknowledged and
what was dropped. It never waits in an append, never reads a payload and never talks to anyone.

Everything goes through ONE log, so that its order is the order of events: rows, then the window that they closed.
Every segment begins with a checkpoint of the agent, so recovery reads one segment. A group of records counts
wholly or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pilotfish.errors import ResourceExhausted
from pilotfish_sidecar.clock import Clock
from pilotfish_sidecar.commit import GroupCommit
from pilotfish_sidecar.frames import STREAMS, Draft, FrameError, Kind, Record, encode_record
from pilotfish_sidecar.instance import lock_directory, read_incarnation, write_incarnation
from pilotfish_sidecar.segments import Segment, sync_directory

__all__ = ["Checkpoint", "Spool", "SpoolLimits", "StreamKey"]

log = logging.getLogger(__name__)

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Bounds of the spool.

    Attributes:
        max_bytes: of all segments together; beyond it the oldest are dropped, acknowledged or not.
        max_age_s: segments whose last record is older are dropped.
        segment_bytes: size at which the next segment begins; never more than an eighth of `max_bytes`.
    """

    max_bytes: int = 512 << 20
    max_age_s: float = 7 * 86400.0
    segment_bytes: int = 8 << 20

    @property
    def roll_bytes(self) -> int:
        """Return the size at which the next segment begins."""
        return max(4096, min(self.segment_bytes, self.max_bytes // 8))


@dataclass(frozen=True, slots=True, order=True)
class StreamKey:
    """A stream of one incarnation."""

    incarnation: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The agent's state where a segment begins: small facts as JSON, and bytes."""

    meta: dict[str, Any] = field(default_factory=dict)  # Any: JSON values
    payload: bytes = b""


class Spool:
    """The log of one sidecar instance; open it, replay it, begin it, then append.

    Args:
        directory: of the spool; made with mode 0700.
        instance: the sidecar's stable id; a spool belongs to one.
        limits: its bounds.
        clock: for ages and for the first incarnation.
    """

    def __init__(self, directory: Path, instance: str, limits: SpoolLimits, clock: Clock) -> None:
        """Lock the directory, recover what is there and take the next incarnation.

        Raises:
            FailedPrecondition: another process has it, or it belongs to another instance.
            OSError: it cannot be read or written.
        """
        self.directory = directory
        self.instance = instance
        self.limits = limits
        self.dropped: Counter[str] = Counter()
        self.watermarks: dict[StreamKey, int] = {}
        self.changed: Callable[[], None] = lambda: None
        self._clock = clock
        self._segments: list[Segment] = []
        self._heads: dict[Kind, int] = dict.fromkeys(STREAMS, 0)
        self._next_lsn = 1
        self._raw_done = 0
        self._fresh_bytes = 0
        self._checkpoint: Callable[[], Checkpoint] = Checkpoint
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock_directory(directory)
        try:
            previous = read_incarnation(directory, instance)
            self._recover()
            # A spool that was wiped must not reuse offsets that the control plane has: a first incarnation is a time.
            last = max([previous, *(segment.incarnation for segment in self._segments)])
            self.incarnation = max(last + 1, int(clock.time_s()))
            write_incarnation(directory, instance, self.incarnation)
        except BaseException:
            os.close(self._lock)
            raise
        self.commit = GroupCommit(self._next_lsn - 1)

    # Recovery

    def _recover(self) -> None:
        for path in sorted(self.directory.glob("*.seg")):
            try:
                self._segments.append(Segment.open(path))
            except (FrameError, OSError) as error:
                self._discard(path, f"cannot be read: {error}")
        while self._segments:
            last = self._segments[-1]
            for problem in last.recover():
                log.warning("spool: %s", problem)
            try:
                self._restore(last.head_record())
                break
            except FrameError as error:
                # Killed while it was being created: whatever it was to hold was never acknowledged.
                last.close()
                self._segments.pop()
                self._discard(last.path, str(error))
        self._chain()

    def _discard(self, path: Path, why: str) -> None:
        log.warning("spool: %s set aside: %s", path.name, why)
        self.dropped["damaged_segments"] += 1
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(".bad"))

    def _restore(self, head: Record) -> None:
        meta = head.meta
        self.dropped.update(meta.get("dropped", {}))
        self.watermarks = {StreamKey(inc, Kind(kind)): offset for inc, kind, offset in meta.get("watermarks", ())}
        self._raw_done = meta.get("raw_done", 0)
        self._next_lsn = head.lsn + 1
        for record in self.replay():
            self._next_lsn = record.lsn + 1
            self._take_mark(record)

    def _take_mark(self, record: Record) -> None:
        if record.kind is Kind.MARK and "dropped" in record.meta:
            self.dropped = Counter(record.meta["dropped"])
        if record.kind is Kind.MARK and "watermarks" in record.meta:
            for inc, kind, offset in record.meta["watermarks"]:
                self.watermarks[StreamKey(inc, Kind(kind))] = offset
        if "raw_done" in record.meta and not record.more:
            self._raw_done = record.meta["raw_done"]

    def _chain(self) -> None:
        """Learn the offsets of earlier segments from the checkpoint of the one that follows."""
        for segment, following in zip(self._segments, self._segments[1:], strict=False):
            try:
                own, head = segment.head_record().meta, following.head_record().meta
            except FrameError:
                segment.recover()
                continue
            firsts = {Kind(kind): offset for kind, offset in own.get("heads", ())}
            ends = head.get("heads" if following.incarnation == segment.incarnation else "previous_heads", ())
            segment.firsts = firsts
            segment.ends = {Kind(kind): offset for kind, offset in ends if offset > firsts.get(Kind(kind), 0)}
            segment.raw_end, segment.raw_calls = head.get("raw_before", (0, 0))

    def replay(self) -> Iterator[Record]:
        """Yield the whole groups of the last segment, its checkpoint first; nothing for an empty spool."""
        if self._segments:
            for _, record in self._segments[-1].records():
                yield record

    def begin(self, checkpoint: Callable[[], Checkpoint]) -> None:
        """Start writing: the first segment of this incarnation begins with what `checkpoint` returns.

        Raises:
            OSError: no space.
        """
        self._checkpoint = checkpoint
        self._roll()

    # Writing

    @property
    def next_lsn(self) -> int:
        """Return the position that the next record gets."""
        return self._next_lsn

    @property
    def raw_done(self) -> int:
        """Return the position below which raw records were converted."""
        return self._raw_done

    def append(self, group: Sequence[Draft], *, refuse_when_full: bool = False) -> list[int]:
        """Write records that count together or not at all, and return the first offset of each.

        They are durable once `sync` returns. When the spool is full, the oldest segments go.

        Args:
            group: at least one.
            refuse_when_full: rather refuse than drop what is not acknowledged.

        Raises:
            ResourceExhausted: full and to be refused, or the disk has no space at all.
            OSError: the disk is broken.
        """
        while True:
            data, firsts = self._encode(group)
            self._check_size(len(data))
            self._make_room(len(data), refuse=refuse_when_full)
            if self._segments[-1].size >= max(self.limits.roll_bytes, 2 * self._fresh_bytes):
                self._roll()
                continue
            if data[8:16] != _lsn_bytes(self._next_lsn):
                continue  # making room has begun a segment: the records move on by its checkpoint
            if self._write(data, refuse=refuse_when_full):
                break
        for draft, first in zip(group, firsts, strict=True):
            self._note(draft, first)
        return firsts

    def _check_size(self, size: int) -> None:
        # Dropping everything else would not make room for it.
        if size > self.limits.max_bytes - 2 * self._fresh_bytes:
            raise ResourceExhausted(
                f"records of {size} bytes do not fit a spool of {self.limits.max_bytes}: give it more room",
                reason="GROUP_TOO_LARGE",
            )

    def _encode(self, group: Sequence[Draft]) -> tuple[bytes, list[int]]:
        heads, firsts, parts = dict(self._heads), [], []
        for i, draft in enumerate(group):
            first = heads.get(draft.kind, 0)
            firsts.append(first)
            if draft.kind in STREAMS:
                heads[draft.kind] = first + draft.count
            parts.append(encode_record(draft, lsn=self._next_lsn + i, first=first, more=i + 1 < len(group)))
        return b"".join(parts), firsts

    def _note(self, draft: Draft, first: int) -> None:
        segment = self._segments[-1]
        if draft.kind in STREAMS:
            self._heads[draft.kind] = first + draft.count
            segment.firsts.setdefault(draft.kind, first)
            segment.ends[draft.kind] = first + draft.count
        elif draft.kind is Kind.RAW:
            segment.raw_end = self._next_lsn + 1
            segment.raw_calls += int(draft.meta.get("calls", 0))
        if "raw_done" in draft.meta:
            self._raw_done = draft.meta["raw_done"]
        self._next_lsn += 1
        self.commit.written(self._next_lsn - 1, segment)

    def _write(self, data: bytes, *, refuse: bool) -> bool:
        """Return whether it was written; False: something changed, try again."""
        segment = self._segments[-1]
        try:
            segment.write(data, now_s=self._clock.time_s())
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            if error.errno == errno.EFBIG and segment.size > self._fresh_bytes:
                self._roll()
            elif error.errno == errno.EFBIG or not self._drop_oldest("disk_full", only_acknowledged=refuse):
                raise _full(f"no space for {len(data)} bytes in {self.directory}") from error
            return False
        return True

    def _roll(self) -> None:
        number = self._segments[-1].number + 1 if self._segments else 1
        taken = self._checkpoint()
        previous = self._segments[-1] if self._segments else None
        same = previous is not None and previous.incarnation == self.incarnation
        meta = dict(taken.meta)
        meta["heads"] = _pairs(self._heads)
        if previous is not None:
            meta["previous_heads"] = _pairs(self._heads if same else previous.ends)
            meta["raw_before"] = (previous.raw_end, previous.raw_calls)
        meta["watermarks"] = self._watermark_rows()
        meta["dropped"] = dict(self.dropped)
        meta["raw_done"] = self._raw_done
        draft = Draft(Kind.CHECKPOINT, 0, taken.payload, meta)
        segment = self._create(number, encode_record(draft, lsn=self._next_lsn, first=0, more=False))
        self._segments.append(segment)
        self._fresh_bytes = segment.size
        self._next_lsn += 1
        self.commit.written(self._next_lsn - 1, segment)
        self._delete_done()

    def _create(self, number: int, head: bytes) -> Segment:
        while True:
            segment: Segment | None = None
            try:
                segment = Segment.create(self.directory, number, self.incarnation, now_s=self._clock.time_s())
                segment.write(head, now_s=self._clock.time_s())
                sync_directory(self.directory)
                return segment
            except OSError as error:
                if segment is not None:
                    segment.delete()
                if error.errno not in _DISK_FULL:
                    raise
                # A limit of the file's size: dropping other files would not help.
                if error.errno == errno.EFBIG or not self._drop_oldest("disk_full"):
                    raise _full(f"no space for a segment in {self.directory}") from error

    async def sync(self) -> None:
        """Return when everything appended before the call is durable.

        Raises:
            OSError: the disk failed.
        """
        await self.commit.wait_durable(self._next_lsn - 1)
        self.changed()

    # Bounds

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def _make_room(self, size: int, *, refuse: bool) -> None:
        while self.size_bytes + size > self.limits.max_bytes:
            self._delete_done()
            if self.size_bytes + size <= self.limits.max_bytes:
                return
            if refuse:
                raise _full(f"the spool holds {self.size_bytes} of {self.limits.max_bytes} bytes, none acknowledged")
            if len(self._segments) == 1 and self._segments[0].size > self.limits.roll_bytes // 2:
                self._roll()
            if not self._drop_oldest("spool_full", keep=1):
                return

    def expire(self) -> None:
        """Drop segments that are older than allowed, and those that are done."""
        self._delete_done()
        limit = self._clock.time_s() - self.limits.max_age_s
        while len(self._segments) > 1 and self._segments[0].written_s < limit:
            self._drop_oldest("spool_age", keep=1)

    def _drop_oldest(self, reason: str, *, keep: int = 1, only_acknowledged: bool = False) -> bool:
        if len(self._segments) <= keep or (only_acknowledged and not self._done(self._segments[0])):
            return False
        segment = self._segments.pop(0)
        for kind, end in segment.ends.items():
            known = max(segment.firsts.get(kind, 0), self.watermark(StreamKey(segment.incarnation, kind)))
            if end > known:
                self.dropped[_drop_reason(kind, reason)] += end - known
        if segment.raw_end > self._raw_done:
            self.dropped[_drop_reason(Kind.RAW, reason)] += segment.raw_calls
        self._remove(segment)
        self.changed()
        return True

    def _done(self, segment: Segment) -> bool:
        return segment.raw_end <= self._raw_done and all(
            end <= self.watermark(StreamKey(segment.incarnation, kind)) for kind, end in segment.ends.items()
        )

    def _delete_done(self) -> None:
        # Only from the front, so that what is left is always one run of the log.
        while len(self._segments) > 1 and self._done(self._segments[0]):
            self._remove(self._segments.pop(0))

    def _remove(self, segment: Segment) -> None:
        self.commit.forget(segment)
        segment.delete()
        held = {each.incarnation for each in self._segments} | {self.incarnation}
        for key in [key for key in self.watermarks if key.incarnation not in held]:
            del self.watermarks[key]

    # Reading

    def segments(self) -> Sequence[Segment]:
        """Return the segments, oldest first."""
        return self._segments

    def heads(self) -> dict[StreamKey, int]:
        """Return the next offset of every stream that is held, of this incarnation and earlier ones."""
        found = {StreamKey(self.incarnation, kind): head for kind, head in self._heads.items()}
        for segment in self._segments:
            if segment.incarnation != self.incarnation:
                for kind, end in segment.ends.items():
                    found[StreamKey(segment.incarnation, kind)] = end
        return found

    def watermark(self, key: StreamKey) -> int:
        """Return the first offset of a stream that is not known to be durable elsewhere."""
        return self.watermarks.get(key, 0)

    def acknowledge(self, key: StreamKey, offset: int, *, rewind: bool = False) -> None:
        """Take a watermark of the control plane.

        Args:
            key: the stream.
            offset: the first that is not durable there.
            rewind: the control plane lost what it had: what is still held is sent again.
        """
        head = self.heads().get(key)
        if head is None:
            return
        if offset > head and key.incarnation == self.incarnation:
            # Offsets below it would be taken for duplicates: go on behind it.
            log.warning("spool: the control plane has %s up to %d, here it ends at %d", key, offset, head)
            self._heads[key.kind] = offset
        known = min(offset, self.heads()[key])
        held = self._held_from(key)
        if rewind and known < held:
            log.warning("spool: the control plane lost %s %d..%d, which is not here any more", key, known, held)
            known = held
        if rewind or known > self.watermark(key):
            self.watermarks[key] = known
            self._delete_done()

    def give_up(self, key: StreamKey, first: int, end: int) -> None:
        """Count what the control plane refuses for good as dropped, and go on behind it."""
        self.dropped[_drop_reason(key.kind, "refused")] += end - max(first, self.watermark(key))
        self.acknowledge(key, end)

    def _held_from(self, key: StreamKey) -> int:
        """Return the first offset of a stream that is still on this disk; its head when there is none."""
        for segment in self._segments:
            if segment.incarnation == key.incarnation and key.kind in segment.ends:
                return segment.firsts.get(key.kind, 0)
        return self.heads().get(key, 0)

    def unacknowledged(self) -> tuple[int, int]:
        """Return (rows, bytes) that the control plane does not have yet; bytes to the segment."""
        rows = 0
        for segment in self._segments:
            for kind in (Kind.PREDICTIONS, Kind.TRUTHS):
                known = self.watermark(StreamKey(segment.incarnation, kind))
                rows += max(0, segment.ends.get(kind, 0) - max(known, segment.firsts.get(kind, 0)))
        return rows, sum(segment.size for segment in self._segments if not self._done(segment))

    def all_acknowledged(self) -> bool:
        """Return whether the control plane has everything that is here."""
        return all(
            end <= self.watermark(StreamKey(segment.incarnation, kind))
            for segment in self._segments
            for kind, end in segment.ends.items()
        )

    def mark(self) -> Draft:
        """Return a record of what was acknowledged and dropped, for a quick start after the next kill."""
        return Draft(Kind.MARK, 0, meta={"watermarks": self._watermark_rows(), "dropped": dict(self.dropped)})

    def _watermark_rows(self) -> list[tuple[int, int, int]]:
        return [(key.incarnation, int(key.kind), offset) for key, offset in self.watermarks.items()]

    def close(self) -> None:
        """Close the files and give the directory free."""
        self.commit.close()
        for segment in self._segments:
            segment.close()
        os.close(self._lock)


def _drop_reason(kind: Kind, reason: str) -> str:
    return reason if kind is Kind.PREDICTIONS else f"{reason}_{kind.stream or 'undecoded'}"


def _pairs(heads: dict[Kind, int]) -> list[tuple[int, int]]:
    return [(int(kind), head) for kind, head in heads.items()]


def _lsn_bytes(lsn: int) -> bytes:
    return lsn.to_bytes(8, "little")


def _full(text: str) -> ResourceExhausted:
    message = f"{text}; wait for the control plane or free space"
    return ResourceExhausted(message, reason="SPOOL_FULL", retry_after_s=5.0)
