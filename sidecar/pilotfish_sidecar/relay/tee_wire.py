"""What the relay tells the decoder, over a Unix socket on which the relay listens.

Owns the byte layout, version 1, little-endian. Both ends are ours and on one machine, so there are no checksums; the
decoder still checks every length.

    HELLO   decoder -> relay, once: magic "PFTEE" | version u8 | length u16 | path of the decoder's books, UTF-8
    piece   kind u8 | direction u8 | listener u16 | connection u32 | length u32 | time_us u64 | payload

A piece belongs to one connection, which has a number that the relay never uses again. What comes, in this order:

    OPEN      payload: protocol u8 (`Protocol`). Only connections that are read from their first byte on are opened.
    DATA      bytes as on the wire, of one direction.
    STRIPPED  HTTP/2: payload is the 9-byte head of a DATA frame whose body was left out; the direction stands at a
              frame's boundary before and after. HTTP/1.1: no payload; the rest of the message that the direction is in
              was left out, and the message ended here.
    CLOSE     payload: cause u8 (`Cause`). With GONE_BLIND the connection lives on unread, and the calls that are open
              on it are counted as blind by the relay; with the others they ended here.

The relay counts `served` and dropped(blind) in the decoder's books while a decoder is connected, else served and
dropped(no_decoder) in books of its own. A call is served when its answer is complete, when it is reset by either side,
or when its connection closes under it; and the decoder ships exactly one record that counts for each call on a
connection that was opened here: captured, or dropped with a reason.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = [
    "MAX_PIECE_BYTES",
    "PIECE",
    "Cause",
    "Direction",
    "HelloReader",
    "Kind",
    "Piece",
    "PieceReader",
    "Protocol",
    "TeeError",
    "encode_hello",
]

MAX_PIECE_BYTES: Final = 1 << 20
"""The relay cuts longer chunks."""
PIECE: Final = struct.Struct("<BBHIIQ")
_MAGIC: Final = b"PFTEE\x01"
_LENGTH: Final = struct.Struct("<H")
_KINDS: Final = frozenset(range(4))


class TeeError(ValueError):
    """The bytes are not of this protocol; the connection between relay and decoder cannot go on."""


class Kind(enum.IntEnum):
    """What a piece is."""

    OPEN = 0
    DATA = 1
    STRIPPED = 2
    CLOSE = 3


class Direction(enum.IntEnum):
    """Where bytes were going."""

    TO_SERVER = 0
    TO_CLIENT = 1


class Protocol(enum.IntEnum):
    """What is spoken on a connection, told by its first bytes."""

    HTTP2 = 0
    """With prior knowledge, or by ALPN."""
    HTTP1 = 1


class Cause(enum.IntEnum):
    """Why a connection's pieces end."""

    BY_CLIENT = 0
    BY_SERVER = 1
    GONE_BLIND = 2
    """The relay had to let pieces go, or could not follow the frames; the bytes flow on."""


class Piece(NamedTuple):
    """One piece.

    Attributes:
        kind: `Kind`, as a plain number.
        direction: `Direction`, as a plain number; 0 for OPEN and CLOSE.
        listener: which of the relay's listeners the connection came in by, from 0.
        connection: number of the connection.
        time_us: when the relay read it, microseconds since 1970.
        payload: see the module.
    """

    kind: int
    direction: int
    listener: int
    connection: int
    time_us: int
    payload: bytes


def encode_hello(books: str) -> bytes:
    """Return the decoder's HELLO.

    Raises:
        TeeError: the path is longer than 65,535 bytes.
    """
    raw = books.encode()
    if len(raw) > 0xFFFF:
        raise TeeError(f"the path of the books has {len(raw)} bytes")
    return _MAGIC + _LENGTH.pack(len(raw)) + raw


class HelloReader:
    """Reads the HELLO from a stream."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._buffer = b""

    def feed(self, chunk: bytes) -> str | None:
        """Return the path once it is whole.

        Raises:
            TeeError: it is no HELLO of this version.
        """
        self._buffer += chunk
        if not self._buffer.startswith(_MAGIC[: len(self._buffer)]):
            raise TeeError("not a decoder of this version")
        start = len(_MAGIC) + _LENGTH.size
        if len(self._buffer) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, len(_MAGIC))
        if len(self._buffer) < start + length:
            return None
        if len(self._buffer) > start + length:
            raise TeeError("bytes behind the HELLO")
        try:
            return self._buffer[start:].decode()
        except UnicodeDecodeError as error:
            raise TeeError("the path is not UTF-8") from error


class PieceReader:
    """Cuts the stream into pieces; holds at most one that is unfinished."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield the pieces that `chunk` completes; the iterator must be used up before the next call.

        Raises:
            TeeError: the stream is not of this protocol.
        """
        data = self._rest + chunk if self._rest else chunk
        position, end, size = 0, len(data), PIECE.size
        while end - position >= size:
            kind, direction, listener, connection, length, time_us = PIECE.unpack_from(data, position)
            if kind not in _KINDS or direction > 1 or length > MAX_PIECE_BYTES:
                raise TeeError(f"a piece of kind {kind}, direction {direction}, {length} bytes")
            start = position + size
            if end - start < length:
                break
            position = start + length
            yield Piece(kind, direction, listener, connection, time_us, data[start:position])
        self._rest = data[position:]
