"""Reading the spool stream by stream, behind what is durable.

Owns where each reader stands. It never changes the spool and never yields a record that could still vanish.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from pilotfish_sidecar.frames import (
    SEGMENT_HEAD,
    FrameError,
    Kind,
    Record,
    needed_bytes,
    peek_record,
    read_record,
)
from pilotfish_sidecar.segments import Segment
from pilotfish_sidecar.spool import Spool, StreamKey

__all__ = ["Cursor"]

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 16


class Cursor:
    """Yields the records of one kind in order, each once, from the watermark on."""

    def __init__(self, spool: Spool, kind: Kind) -> None:
        """Begin at the oldest record that is not acknowledged."""
        self._spool = spool
        self._kind = kind
        self.rewind()

    def rewind(self) -> None:
        """Go back to the oldest record that is not acknowledged."""
        self._segment: Segment | None = None
        self._number = -1
        self._position = SEGMENT_HEAD
        self._buffer = b""
        self._base = 0
        self._peeked: Record | None = None

    def peek(self) -> Record | None:
        """Return the next record without passing it; None when there is none yet."""
        if self._peeked is None:
            self._peeked = self._next()
        return self._peeked

    def take(self) -> Record | None:
        """Return the next record and pass it; None when there is none yet."""
        record = self.peek()
        self._peeked = None
        return record

    def _next(self) -> Record | None:
        while self._enter():
            segment = self._segment
            assert segment is not None  # _enter says so
            try:
                record = self._scan(segment)
            except FrameError as error:
                log.error("spool: %s is damaged at byte %d, its rest is lost: %s", segment.path, self._position, error)
                self._spool.dropped["damaged_segments"] += 1
                self._position, record = segment.size, None
            if record is not None:
                return record
            if segment is self._spool.segments()[-1] or self._position < segment.size:
                return None
            self._segment = None
        return None

    def _enter(self) -> bool:
        """Stand in a segment that is still there and may hold something; return whether there is one."""
        if self._segment is not None and self._segment.fd >= 0:
            return True
        for segment in self._spool.segments():
            if segment.number > self._number:
                self._segment, self._number = segment, segment.number
                self._position, self._buffer, self._base = SEGMENT_HEAD, b"", SEGMENT_HEAD
                if self._wanted(segment):
                    return True
                self._position = segment.size
                if segment is not self._spool.segments()[-1]:
                    continue
                return True
        return False

    def _wanted(self, segment: Segment) -> bool:
        if segment is self._spool.segments()[-1]:
            return True
        if self._kind is Kind.RAW:
            return segment.raw_end > self._spool.raw_done
        end = segment.ends.get(self._kind)
        return end is not None and end > self._spool.watermark(StreamKey(segment.incarnation, self._kind))

    def _scan(self, segment: Segment) -> Record | None:
        durable = self._spool.commit.durable_lsn
        while self._position < segment.size:
            self._fill(segment)
            offset = self._position - self._base
            size, lsn, kind, end = peek_record(self._buffer, offset)
            if lsn > durable:
                return None
            if kind != self._kind or self._passed(segment, lsn, end):
                self._position += size
                continue
            record = read_record(self._buffer, offset, segment.incarnation)
            if record is None:
                raise FrameError("the segment ends inside a record")
            self._position += size
            return record
        return None

    def _passed(self, segment: Segment, lsn: int, end: int) -> bool:
        if self._kind is Kind.RAW:
            return lsn < self._spool.raw_done
        return end <= self._spool.watermark(StreamKey(segment.incarnation, self._kind))

    def _fill(self, segment: Segment) -> None:
        """Have the whole record at the position in the buffer."""
        offset = self._position - self._base
        if offset >= 0 and offset + needed_bytes(self._buffer, offset) <= len(self._buffer):
            return
        for _ in range(2):
            need = needed_bytes(self._buffer, offset) if 0 <= offset < len(self._buffer) else _CHUNK_BYTES
            need = min(max(need, _CHUNK_BYTES), segment.size - self._position)
            self._buffer, self._base, offset = os.pread(segment.fd, need, self._position), self._position, 0
            if needed_bytes(self._buffer, 0) <= len(self._buffer):
                return
        raise FrameError("the segment ends inside a record")
