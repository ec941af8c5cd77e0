"""Window counts as bytes: little-endian, versioned, checked by CRC; about 2.7 kB for 1000 rows of 50 features.

Layout: "PFWC", format (1 byte), profile id (16 ASCII bytes), then variable-length whole numbers (7 bits a byte, low
first): rows, blocks, features, each feature's number of bins, all bins, and missing, unseen, block_sum, block_squares
per feature; then 1 byte per feature (1: it has moments), 4 float64 (sum, sum_sq, min, max) for those, CRC-32 of it all.

It owns this format. It trusts nothing it reads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument
from pilotfish.stats.counts import MAX, MIN, WindowCounts
from pilotfish.stats.profile import MAX_BINS, MAX_FEATURES

MAGIC = b"PFWC"
FORMAT = 1
MAX_BYTES = 64 * 1024 * 1024
_LARGEST = 2**62


def pack_varints(values: Iterable[int]) -> bytes:
    """Return whole numbers >= 0, 7 bits a byte, low bits first; the high bit says that more follow."""
    out = bytearray()
    for value in values:
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


class Reader:
    """Reads packed bytes in order and refuses to go past their end."""

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte."""
        self.data = data
        self.at = 0

    def varint(self) -> int:
        """Return the next whole number, below 2**62."""
        value = shift = 0
        while True:
            if self.at >= len(self.data):
                raise damaged("they end in the middle")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise damaged("a number is too long")
        if value > _LARGEST:
            raise damaged("a number is too large")
        return value

    def varints(self, count: int) -> list[int]:
        """Return the next `count` whole numbers."""
        if count > len(self.data) - self.at:
            raise damaged("they end in the middle")
        return [self.varint() for _ in range(count)]

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if size > len(self.data) - self.at:
            raise damaged("they end in the middle")
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def finish(self) -> None:
        """Refuse bytes that are left over."""
        if self.at != len(self.data):
            raise damaged(f"{len(self.data) - self.at} bytes are left over")


def damaged(what: str) -> InvalidArgument:
    """Return the error for bytes that cannot be read."""
    return InvalidArgument(f"these bytes are no window counts: {what}", reason="BAD_COUNTS")


def seal(body: bytes) -> bytes:
    """Return the body followed by its CRC-32."""
    return body + struct.pack("<I", zlib.crc32(body))


def unseal(data: bytes, magic: bytes, format_version: int) -> Reader:
    """Return a reader of the body behind magic and format, once size, checksum, magic and format are right."""
    if len(data) > MAX_BYTES:
        raise damaged(f"there are {len(data)}, more than {MAX_BYTES}")
    if len(data) < len(magic) + 5 or not data.startswith(magic):
        raise damaged(f"they do not begin with {magic.decode()}")
    if data[len(magic)] != format_version:
        raise damaged(f"format {data[len(magic)]} is unknown, this release reads {format_version}")
    body, (crc,) = data[:-4], struct.unpack("<I", data[-4:])
    if zlib.crc32(body) != crc:
        raise damaged("the checksum is wrong")
    reader = Reader(body)
    reader.take(len(magic) + 1)
    return reader


def pack_counts(counts: WindowCounts) -> bytes:
    """Return the counts packed; see the module."""
    sizes = np.diff(counts.offsets).tolist()
    filled = counts.moments[:, MIN] <= counts.moments[:, MAX]
    numbers = [counts.rows, counts.blocks, len(sizes), *sizes, *counts.bins.tolist(), *counts.whole.ravel().tolist()]
    return seal(
        b"".join(
            (
                MAGIC,
                bytes([FORMAT]),
                counts.profile_id.encode("ascii").ljust(16)[:16],
                pack_varints(numbers),
                filled.astype(np.uint8).tobytes(),
                counts.moments[filled].astype("<f8").tobytes(),
            )
        )
    )


def unpack_counts(data: bytes) -> WindowCounts:
    """Return the counts of packed bytes.

    Raises:
        InvalidArgument: they are cut short, damaged, of another format, or contradict themselves.
    """
    reader = unseal(data, MAGIC, FORMAT)
    profile_id = reader.take(16)
    if not all(c in b"0123456789abcdef" for c in profile_id):
        raise damaged("the profile id is not hexadecimal")
    rows, blocks, features = reader.varints(3)
    if features > MAX_FEATURES:
        raise damaged(f"{features} features are more than {MAX_FEATURES}")
    sizes = reader.varints(features)
    if any(not 1 <= size <= MAX_BINS + 1 for size in sizes):
        raise damaged(f"a feature has 1..{MAX_BINS + 1} bins")
    bins = np.array(reader.varints(sum(sizes)), dtype=np.int64)
    whole = np.array(reader.varints(4 * features), dtype=np.int64).reshape(features, 4)
    flags = np.frombuffer(reader.take(features), dtype=np.uint8)
    if (flags > 1).any():
        raise damaged("a flag is neither 0 nor 1")
    filled = flags.astype(np.bool_)
    moments = np.tile(np.array([0.0, 0.0, np.inf, -np.inf]), (features, 1))
    moments[filled] = np.frombuffer(reader.take(32 * int(filled.sum())), dtype="<f8").reshape(-1, 4)
    reader.finish()
    _check(rows, blocks, sizes, bins, whole, moments[filled])
    offsets = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)
    return WindowCounts.of_arrays(profile_id.decode(), rows, blocks, bins, offsets, whole, moments)


def _check(
    rows: int,
    blocks: int,
    sizes: list[int],
    bins: npt.NDArray[np.int64],
    whole: npt.NDArray[np.int64],
    moments: npt.NDArray[np.float64],
) -> None:
    """Refuse counts that contradict themselves."""
    if rows > 2**50 or 10 * blocks > rows:
        raise damaged("rows and blocks do not fit each other")
    if bins.size and (int(bins.max()) > rows or int(whole[:, :2].max()) > rows):
        raise damaged("a count exceeds the rows")
    if sizes:
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
        if int((np.add.reduceat(bins, starts) + whole[:, 0] + whole[:, 1]).max()) > rows:
            raise damaged("a feature's counts exceed the rows")
    if not np.isfinite(moments).all() or (moments[:, 1] < 0).any() or (moments[:, 2] > moments[:, 3]).any():
        raise damaged("moments are not those of numbers")
