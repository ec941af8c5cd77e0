"""One segment file of the spool: appended to, recovered after a kill, read from any position.

Owns the file and the offsets that it covers. It never decides when a segment begins or is deleted.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pilotfish_sidecar.frames import (
    SEGMENT_HEAD,
    STREAMS,
    FrameError,
    Kind,
    Record,
    encode_segment_head,
    needed_bytes,
    parse_segment_head,
    read_record,
)

__all__ = ["Segment", "sync_directory"]

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 18


@dataclass(slots=True, eq=False)
class Segment:
    """A segment file and what it covers.

    Attributes:
        path: the file.
        number: rises with every segment of the spool.
        incarnation: that wrote it.
        fd: open for reading and writing; -1 when closed.
        size: bytes that hold whole records.
        written_s: wall clock of the last append, seconds since 1970.
        firsts: offset of each stream where the segment begins.
        ends: offset of each stream where it ends.
        raw_end: position behind its last raw record, 0: it has none.
        raw_calls: calls in its raw records.
    """

    path: Path
    number: int
    incarnation: int
    fd: int
    size: int
    written_s: float
    firsts: dict[Kind, int] = field(default_factory=dict)
    ends: dict[Kind, int] = field(default_factory=dict)
    raw_end: int = 0
    raw_calls: int = 0

    @classmethod
    def create(cls, directory: Path, number: int, incarnation: int, *, now_s: float) -> Segment:
        """Return a new segment with its head written.

        Raises:
            OSError: no space or no permission.
        """
        path = directory / f"{number:010d}.seg"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        segment = cls(path, number, incarnation, fd, 0, now_s)
        try:
            segment.write(encode_segment_head(incarnation), now_s=now_s)
        except BaseException:
            segment.delete()
            raise
        return segment

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Return an existing segment; its offsets are not known yet.

        Raises:
            FrameError: it is no segment.
            OSError: it cannot be read.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            incarnation = parse_segment_head(os.pread(fd, SEGMENT_HEAD, 0))
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, int(path.stem), incarnation, fd, status.st_size, status.st_mtime)

    def write(self, data: bytes, *, now_s: float) -> None:
        """Append bytes, wholly or not at all.

        Raises:
            OSError: the disk is full or broken; the file is as it was.
        """
        view, position = memoryview(data), self.size
        try:
            while view:
                written = os.pwrite(self.fd, view, position)
                position += written
                view = view[written:]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, self.size)
            raise
        self.size = position
        self.written_s = now_s

    def note(self, record: Record) -> None:
        """Take a record into the offsets that the segment covers."""
        if record.kind in STREAMS:
            self.firsts.setdefault(record.kind, record.first)
            self.ends[record.kind] = record.end
        elif record.kind is Kind.RAW:
            self.raw_end = record.lsn + 1
            self.raw_calls += int(record.meta.get("calls", 0))

    def records(self, position: int = SEGMENT_HEAD, *, end: int | None = None) -> Iterator[tuple[int, Record]]:
        """Yield every record with the position behind it.

        Args:
            position: where a record begins.
            end: stop there; None: at the end of the segment.

        Raises:
            FrameError: at the first record that is torn or damaged.
        """
        limit = self.size if end is None else end
        buffer, base = b"", position
        while position < limit:
            need = needed_bytes(buffer, position - base)
            if position - base + need > len(buffer):
                buffer, base = self._read(position, limit, need), position
                if needed_bytes(buffer, 0) > len(buffer):
                    buffer = self._read(position, limit, needed_bytes(buffer, 0))
            record = read_record(buffer, position - base, self.incarnation)
            if record is None:
                raise FrameError("the segment ends inside a record")
            position += record.size_bytes
            yield position, record

    def _read(self, position: int, limit: int, need: int) -> bytes:
        # A damaged length must not make us allocate gigabytes: nothing reaches beyond the limit.
        if need > limit - position:
            raise FrameError("the segment ends inside a record")
        return os.pread(self.fd, min(max(need, _CHUNK_BYTES), limit - position), position)

    def head_record(self) -> Record:
        """Return the checkpoint that the segment begins with.

        Raises:
            FrameError: there is none: the segment was not finished being created.
        """
        for _, record in self.records():
            if record.kind is Kind.CHECKPOINT and not record.more:
                return record
            break
        raise FrameError("the segment has no checkpoint")

    def recover(self) -> list[str]:
        """Cut a torn tail, learn the offsets from the records, and return what was cut, for the log."""
        good, group_good, problems = SEGMENT_HEAD, SEGMENT_HEAD, []
        group: list[Record] = []
        try:
            for good, record in self.records():
                group.append(record)
                if not record.more:
                    for each in group:
                        self.note(each)
                    group, group_good = [], good
        except FrameError as error:
            problems.append(f"{self.path.name}: {error} at byte {good}")
        if group_good < self.size:
            problems.append(f"{self.path.name}: cut {self.size - group_good} bytes behind the last whole group")
            os.ftruncate(self.fd, group_good)
            self.size = group_good
        return problems

    def sync(self) -> None:
        """Make what is written durable.

        Raises:
            OSError: the disk failed.
        """
        os.fdatasync(self.fd)

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def delete(self) -> None:
        """Close and remove the file."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def sync_directory(directory: Path) -> None:
    """Make created and removed names durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
