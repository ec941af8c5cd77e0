"""The records of a log file: length, checksum, a small JSON head and a body.

Owns the bytes on disk. Every frame begins at a multiple of 64 bytes, as does its body, so that Arrow reads
it in place. It never interprets the body.

    magic 4 | kind 1 | version 1 | 0 2 | head length 4 | body length 8 | group start 8 | crc 4 | header crc 4

`group start` is the offset at which the frame's group (one write, one fdatasync) began: all before it was
durable when the frame was written. This tells a torn last write, which nobody was promised, from damage to
a record that had been acknowledged.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Frame", "Scan", "encode_frame", "scan"]

ALIGNMENT = 64
MAGIC = b"PFL1"
FORMAT_VERSION = 1
MOST_BODY_BYTES = 1 << 30

_HEADER = struct.Struct("<4sBBHIQQI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size

Head = Mapping[str, Any]  # JSON: strings, integers and lists of them, written and read by one module each


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was read back whole.

    Attributes:
        offset: first byte in the file.
        end: first byte after it, padding included.
        body_offset: first byte of the body.
        group_start: everything before this offset was durable when the frame was written.
    """

    offset: int
    end: int
    kind: int
    head: Head
    body_offset: int
    body_bytes: int
    group_start: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file holds.

    Attributes:
        frames: the whole frames, in order.
        good_end: end of the last frame that is part of the log; what follows was never acknowledged.
        damaged: ranges `(offset, end)` of bytes that had been acknowledged and cannot be read.
    """

    frames: Sequence[Frame]
    good_end: int
    damaged: Sequence[tuple[int, int]]


def _padding(length: int) -> int:
    return -length % ALIGNMENT


def encode_frame(
    kind: int, head: Head, body: Sequence[bytes | memoryview], *, group_start: int
) -> tuple[list[bytes | memoryview], int, int]:
    """Return the buffers to write, their total length and the body's offset in it, all in bytes."""
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    front = HEADER_BYTES + len(text)
    gap = bytes(_padding(front))
    crc = zlib.crc32(gap, zlib.crc32(text))
    size = 0
    for part in body:
        crc = zlib.crc32(part, crc)
        size += len(part)
    header = _HEADER.pack(MAGIC, kind, FORMAT_VERSION, 0, len(text), size, group_start, crc)
    start = front + len(gap)
    buffers: list[bytes | memoryview] = [header + _CRC.pack(zlib.crc32(header)) + text + gap, *body]
    buffers.append(bytes(_padding(start + size)))
    return buffers, start + size + _padding(start + size), start


def read_frame(view: memoryview, offset: int) -> Frame | None:
    """Return the frame at `offset`, or None where there is no whole, undamaged one."""
    if offset + HEADER_BYTES > len(view):
        return None
    header = bytes(view[offset : offset + _HEADER.size])
    magic, kind, version, _, text_bytes, size, group_start, crc = _HEADER.unpack(header)
    (header_crc,) = _CRC.unpack(view[offset + _HEADER.size : offset + HEADER_BYTES])
    if magic != MAGIC or version != FORMAT_VERSION or zlib.crc32(header) != header_crc:
        return None
    front = HEADER_BYTES + text_bytes
    body_offset = offset + front + _padding(front)
    end = body_offset + size
    end += _padding(end)
    if end > len(view) or zlib.crc32(view[offset + HEADER_BYTES : body_offset + size]) != crc:
        return None
    head = json.loads(bytes(view[offset + HEADER_BYTES : offset + front]))
    return Frame(offset, end, kind, head, body_offset, size, group_start)


def _next_frame(view: memoryview, offset: int) -> Frame | None:
    """Return the first whole frame at or after `offset`, which need not be aligned."""
    offset += _padding(offset)
    while offset + HEADER_BYTES <= len(view):
        if view[offset : offset + 4] == MAGIC:
            frame = read_frame(view, offset)
            if frame is not None:
                return frame
        offset += ALIGNMENT
    return None


def scan(view: memoryview) -> Scan:
    """Return every frame of a file, where its log ends, and what in between is damaged."""
    frames: list[Frame] = []
    damaged: list[tuple[int, int]] = []
    end = 0
    while end < len(view):
        frame = read_frame(view, end)
        if frame is None:
            frame = _next_frame(view, end + 1)
            # Without a later group that vouches for these bytes they belong to the write that was
            # torn: frames of it that did reach the disk were not acknowledged either.
            if frame is None or not _vouched(view, frame, end):
                break
            damaged.append((end, frame.offset))
        frames.append(frame)
        end = frame.end
    return Scan(frames, end, damaged)


def _vouched(view: memoryview, frame: Frame | None, offset: int) -> bool:
    while frame is not None:
        if frame.group_start > offset:
            return True
        frame = read_frame(view, frame.end) or _next_frame(view, frame.end + 1)
    return False


def frames_of(view: memoryview) -> Iterator[Frame]:
    """Yield the whole frames of a file that is known to be sound."""
    yield from scan(view).frames
