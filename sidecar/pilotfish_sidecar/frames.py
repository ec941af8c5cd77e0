"""The bytes of one record in the spool: layout, checksum, encoding and strict reading.

Owns the frame format of segment files. It never opens a file and knows nothing of what a payload means.

    segment  magic "PFSPOOL1" | incarnation i64, then records
    record   length u32 (of everything behind the checksum) | crc32 u32 | lsn u64 | kind u8 | flags u8 | 0 u16
             | first i64 | end i64 | meta u32 | extra u32 | meta (JSON object) | extra | payload

Records whose flag MORE is set belong together with the next one: a group counts only when its last record
is there. Little-endian throughout.
"""

from __future__ import annotations

import enum
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "FRAME_OVERHEAD",
    "MAX_RECORD_BYTES",
    "SEGMENT_HEAD",
    "STREAMS",
    "Draft",
    "FrameError",
    "Kind",
    "Record",
    "encode_record",
    "encode_segment_head",
    "needed_bytes",
    "parse_segment_head",
    "peek_record",
    "read_record",
]

_PREFIX = struct.Struct("<II")
_BODY = struct.Struct("<QBBHqqII")
_SEGMENT = struct.Struct("<8sq")
_MAGIC: Final = b"PFSPOOL1"
SEGMENT_HEAD: Final = _SEGMENT.size
FRAME_OVERHEAD: Final = _PREFIX.size + _BODY.size
MAX_RECORD_BYTES: Final = 64 << 20
_MORE: Final = 1


class FrameError(ValueError):
    """The bytes are no whole record: torn, damaged, or not of this format."""


class Kind(enum.IntEnum):
    """What a record holds; the first four are the streams that go to the control plane."""

    PREDICTIONS = 1
    TRUTHS = 2
    WINDOWS = 3
    OUTCOMES = 4
    RAW = 5
    """Captured calls that wait for a signature."""
    UNSAMPLED = 6
    """Rows that the drift windows count, but that are not kept as predictions."""
    CHECKPOINT = 7
    """State of the agent where a segment begins."""
    MARK = 8
    """A change of the agent's books without rows."""

    @property
    def stream(self) -> str:
        """Return the stream's name on the wire; empty for a record that stays here."""
        return STREAMS.get(self, "")


STREAMS: Final[Mapping[Kind, str]] = {
    Kind.PREDICTIONS: "predictions",
    Kind.TRUTHS: "truths",
    Kind.WINDOWS: "windows",
    Kind.OUTCOMES: "outcomes",
}
_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Draft:
    """A record to append.

    Attributes:
        kind: what it holds.
        count: offsets that it takes in its stream: rows, or 1 for a report; 0 for records that stay here.
        payload: the serialised message.
        meta: small facts as JSON values, read at recovery.
        extra: bytes that only the agent reads, such as window state.
    """

    kind: Kind
    count: int
    payload: bytes = b""
    meta: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON values
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is in the spool.

    Attributes:
        lsn: position in the sequence of all records ever appended to this spool, across incarnations.
        kind: what it holds.
        more: it belongs together with the next record.
        first: its first offset in its stream.
        end: the offset behind its last.
        meta: as appended.
        extra: as appended.
        payload: as appended.
        incarnation: of the segment it was read from.
        size_bytes: of the frame.
    """

    lsn: int
    kind: Kind
    more: bool
    first: int
    end: int
    meta: Mapping[str, Any]  # Any: JSON values
    extra: bytes
    payload: bytes
    incarnation: int
    size_bytes: int


def encode_segment_head(incarnation: int) -> bytes:
    """Return the first bytes of a segment file."""
    return _SEGMENT.pack(_MAGIC, incarnation)


def parse_segment_head(data: bytes) -> int:
    """Return the incarnation of a segment.

    Raises:
        FrameError: this is no segment.
    """
    if len(data) < SEGMENT_HEAD or data[: len(_MAGIC)] != _MAGIC:
        raise FrameError("not a spool segment")
    return int(_SEGMENT.unpack_from(data)[1])


def encode_record(draft: Draft, *, lsn: int, first: int, more: bool) -> bytes:
    """Return the frame of a draft.

    Raises:
        FrameError: it is larger than a record may be.
    """
    meta = json.dumps(draft.meta, separators=(",", ":")).encode() if draft.meta else b""
    size = _BODY.size + len(meta) + len(draft.extra) + len(draft.payload)
    if size > MAX_RECORD_BYTES:
        raise FrameError(f"a record of {size} bytes, the limit is {MAX_RECORD_BYTES}")
    head = _BODY.pack(lsn, draft.kind, _MORE if more else 0, 0, first, first + draft.count, len(meta), len(draft.extra))
    body = b"".join((head, meta, draft.extra, draft.payload))
    return _PREFIX.pack(len(body), zlib.crc32(body)) + body


def read_record(data: bytes | bytearray | memoryview, position: int, incarnation: int) -> Record | None:
    """Return the record at `position`, or None when the bytes end before it does.

    Raises:
        FrameError: the bytes are damaged or of another format.
    """
    if len(data) - position < _PREFIX.size:
        return None
    length, checksum = _PREFIX.unpack_from(data, position)
    if not _BODY.size <= length <= MAX_RECORD_BYTES:
        raise FrameError(f"a record of {length} bytes is not possible")
    start, end = position + _PREFIX.size, position + _PREFIX.size + length
    if len(data) < end:
        return None
    body = bytes(data[start:end])
    if zlib.crc32(body) != checksum:
        raise FrameError("the checksum does not fit the record")
    lsn, kind, flags, reserved, first, stop, meta_size, extra_size = _BODY.unpack_from(body)
    behind_meta = _BODY.size + meta_size
    if kind not in _KINDS or flags & ~_MORE or reserved or stop < first or behind_meta + extra_size > length:
        raise FrameError("the record's head is not possible")
    meta = json.loads(body[_BODY.size : behind_meta]) if meta_size else {}
    return Record(
        lsn=lsn,
        kind=_KINDS[kind],
        more=bool(flags & _MORE),
        first=first,
        end=stop,
        meta=meta,
        extra=body[behind_meta : behind_meta + extra_size],
        payload=body[behind_meta + extra_size :],
        incarnation=incarnation,
        size_bytes=end - position,
    )


def needed_bytes(data: bytes | bytearray | memoryview, position: int) -> int:
    """Return how many bytes the record at `position` takes, or the prefix's size when that is not known yet."""
    if len(data) - position < _PREFIX.size:
        return _PREFIX.size
    return _PREFIX.size + int(_PREFIX.unpack_from(data, position)[0])


def peek_record(data: bytes | bytearray | memoryview, position: int) -> tuple[int, int, int, int]:
    """Return (bytes of the frame, lsn, kind, end offset) without checking the checksum.

    Raises:
        FrameError: the bytes are too few, or no record.
    """
    if len(data) - position < FRAME_OVERHEAD:
        raise FrameError("the segment ends inside a record")
    length, _ = _PREFIX.unpack_from(data, position)
    if not _BODY.size <= length <= MAX_RECORD_BYTES:
        raise FrameError(f"a record of {length} bytes is not possible")
    lsn, kind, _, _, _, end, _, _ = _BODY.unpack_from(data, position + _PREFIX.size)
    return _PREFIX.size + length, lsn, kind, end
