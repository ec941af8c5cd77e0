"""The frames between a tap and its agent: an encoder, and a strict bounded decoder.

Owns the byte layout, version 2, little-endian. Never trusts a length: every read is checked against the
frame, every frame against `MAX_FRAME_BYTES`, and any surprise is a `WireError`, no other exception.

    frame   length u32 (of the payload) | crc32 u32 | version u8 | type u8 | reserved u16 = 0 | payload
            the checksum covers version, type, reserved and payload
    HELLO   incarnation 16 | first unacknowledged seq u64 | pid u32 | started_us u64
            | deployment, replica, version, counters path (each u16 length + UTF-8)
    BATCH   incarnation 16 | first_seq u64 | records u32 | identities u8 | identity x n | record x n
    ACK     incarnation 16 | next_seq u64: everything below it is durable
    record  protocol u8 | role u8 | identity u8 | headers u8 | code i32 | start_us i64 | latency_us u32
            | request u32 | response u32 | method u16 | prediction_id u16
            | flags u8 | drop u8 (255: captured) | server_us i32 (-1: not known)
            | method | prediction_id | (key u16, value u16, key, value) x headers | request | response
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pilotfish_sidecar.tap.records import (
    NOT_DROPPED,
    DropReason,
    Entry,
    Flag,
    Headers,
    Protocol,
    Role,
    TapIdentity,
    TapRecord,
)

__all__ = [
    "MAX_BATCH_RECORDS",
    "MAX_BODY_BYTES",
    "MAX_FRAME_BYTES",
    "Ack",
    "Batch",
    "FrameReader",
    "Hello",
    "Message",
    "WireError",
    "check_identity",
    "decode_payload",
    "encode_ack",
    "encode_batch",
    "encode_entry",
    "encode_hello",
]

WIRE_VERSION: Final = 2
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
MAX_BATCH_RECORDS: Final = 4096
MAX_TEXT_BYTES: Final = 4096
MAX_HEADERS: Final = 32
MAX_IDENTITIES: Final = 255
HELLO, BATCH, ACK = 1, 2, 3

_FRAME = struct.Struct("<IIBBH")
_TAIL = struct.Struct("<BBH")
_HELLO = struct.Struct("<16sQIQ")
_BATCH = struct.Struct("<16sQIB")
_ACK = struct.Struct("<16sQ")
# The same heads without the incarnation, as the decoder reads them.
_SEQ = struct.Struct("<Q")
_HELLO_REST = struct.Struct("<IQ")
_BATCH_REST = struct.Struct("<IB")
_RECORD = struct.Struct("<BBBBiqIIIHHBBi")
_PAIR = struct.Struct("<HH")
_U16 = struct.Struct("<H")
_PROTOCOLS = {int(p): p for p in Protocol}
_ROLES = {int(r): r for r in Role}
_DROPS: Final[dict[int, DropReason | None]] = {NOT_DROPPED: None, **{int(r): r for r in DropReason}}
_ALL_FLAGS: Final = int(Flag.STREAMING | Flag.CONTINUES)


class WireError(ValueError):
    """The bytes are not a frame of this protocol; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of every connection: which tap this is and what it still holds."""

    incarnation: bytes
    first_seq: int
    pid: int
    started_us: int
    identity: TapIdentity
    counters_path: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Records with consecutive sequence numbers from `first_seq`."""

    incarnation: bytes
    first_seq: int
    records: tuple[TapRecord, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """The agent holds every record below `next_seq` durably."""

    incarnation: bytes
    next_seq: int


Message: TypeAlias = Hello | Batch | Ack


def _frame(kind: int, parts: Sequence[bytes]) -> bytes:
    payload = b"".join(parts)
    tail = _TAIL.pack(WIRE_VERSION, kind, 0)
    return _FRAME.pack(len(payload), zlib.crc32(payload, zlib.crc32(tail)), WIRE_VERSION, kind, 0) + payload


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    if len(raw) > MAX_TEXT_BYTES:
        raise WireError(f"text of {len(raw)} bytes, the limit is {MAX_TEXT_BYTES}")
    return raw


def _prefixed(value: str) -> bytes:
    raw = _text(value)
    return _U16.pack(len(raw)) + raw


def check_identity(who: TapIdentity) -> None:
    """Refuse an identity that does not fit a frame.

    Raises:
        WireError: one of its texts is too long.
        AttributeError: one of them is no text.
    """
    if len(who.deployment) + len(who.replica) + len(who.version) > MAX_TEXT_BYTES // 4:
        raise WireError("the identity is too long")
    _text(who.deployment)
    _text(who.replica)
    _text(who.version)


def encode_hello(hello: Hello) -> bytes:
    """Return the HELLO frame."""
    who = hello.identity
    texts = (who.deployment, who.replica, who.version, hello.counters_path)
    head = _HELLO.pack(hello.incarnation, hello.first_seq, hello.pid, hello.started_us)
    return _frame(HELLO, [head, *(_prefixed(text) for text in texts)])


def encode_ack(ack: Ack) -> bytes:
    """Return the ACK frame."""
    return _frame(ACK, [_ACK.pack(ack.incarnation, ack.next_seq)])


def encode_entry(entry: Entry, identity_index: int) -> list[bytes]:
    """Return the parts of one record.

    Raises:
        WireError: a name or a body is beyond its limit.
        struct.error, AttributeError, TypeError: a field has the wrong type or range.
    """
    protocol, role, _, code, start_us, latency_us, method, prediction_id, headers, request, response, *rest = entry
    flags, drop, server_us = rest
    if len(request) > MAX_BODY_BYTES or len(response) > MAX_BODY_BYTES or len(headers) > MAX_HEADERS:
        raise WireError("a body or the number of headers is beyond its limit")
    name, ident = _text(method), _text(prediction_id)
    late = min(max(latency_us, 0), 0xFFFFFFFF)
    sizes = (len(request), len(response), len(name), len(ident))
    served = min(max(server_us, -1), 0x7FFFFFFF)
    head = (protocol, role, identity_index, len(headers), code, start_us, late, *sizes, flags, drop, served)
    parts = [_RECORD.pack(*head), name, ident]
    for key, value in headers:
        raw_key, raw_value = _text(key), _text(value)
        parts += (_PAIR.pack(len(raw_key), len(raw_value)), raw_key, raw_value)
    parts += (request, response)
    return parts


def encode_batch(
    incarnation: bytes, first_seq: int, identities: Sequence[TapIdentity], records: Sequence[Sequence[bytes]]
) -> bytes:
    """Return the BATCH frame of records that `encode_entry` made."""
    parts = [_BATCH.pack(incarnation, first_seq, len(records), len(identities))]
    for who in identities:
        parts += (_prefixed(who.deployment), _prefixed(who.replica), _prefixed(who.version))
    for record in records:
        parts += record
    return _frame(BATCH, parts)


class _Cursor:
    """A checked read position in one payload."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        try:
            values = layout.unpack_from(self.data, self.position)
        except struct.error as error:
            raise WireError("the payload ends inside a field") from error
        self.position += layout.size
        return values

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise WireError(f"a field of {size} bytes reaches beyond its payload")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def text(self, size: int) -> str:
        if size > MAX_TEXT_BYTES:
            raise WireError(f"text of {size} bytes, the limit is {MAX_TEXT_BYTES}")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError("text is not UTF-8") from error

    def prefixed(self) -> str:
        return self.text(self.unpack(_U16)[0])

    def finish(self) -> None:
        if self.position != len(self.data):
            raise WireError(f"{len(self.data) - self.position} bytes too many behind the last field")


def _identity(cursor: _Cursor) -> TapIdentity:
    return TapIdentity(cursor.prefixed(), cursor.prefixed(), cursor.prefixed())


def _headers(cursor: _Cursor, count: int) -> Headers:
    if count > MAX_HEADERS:
        raise WireError(f"{count} headers, the limit is {MAX_HEADERS}")
    pairs = []
    for _ in range(count):
        key_size, value_size = cursor.unpack(_PAIR)
        pairs.append((cursor.text(key_size), cursor.text(value_size)))
    return tuple(pairs)


def _record(cursor: _Cursor, incarnation: bytes, seq: int, identities: Sequence[TapIdentity]) -> TapRecord:
    protocol, role, who, headers, code, start_us, latency_us, *sizes, flags, drop, server_us = cursor.unpack(_RECORD)
    request, response, method, ident = sizes
    if protocol not in _PROTOCOLS or role not in _ROLES or who >= len(identities):
        raise WireError(f"unknown protocol {protocol}, role {role} or identity {who}")
    if drop not in _DROPS or flags > _ALL_FLAGS:
        raise WireError(f"unknown reason {drop} or flags {flags}")
    if request > MAX_BODY_BYTES or response > MAX_BODY_BYTES:
        raise WireError(f"a body of {max(request, response)} bytes, the limit is {MAX_BODY_BYTES}")
    return TapRecord(
        incarnation=incarnation,
        seq=seq,
        protocol=_PROTOCOLS[protocol],
        role=_ROLES[role],
        identity=identities[who],
        code=code,
        start_us=start_us,
        latency_us=latency_us,
        method=cursor.text(method),
        prediction_id=cursor.text(ident),
        headers=_headers(cursor, headers),
        request=cursor.take(request),
        response=cursor.take(response),
        flags=Flag(flags),
        drop=_DROPS[drop],
        server_us=server_us,
    )


def _incarnation_and_seq(cursor: _Cursor) -> tuple[bytes, int]:
    incarnation = cursor.take(16)
    return incarnation, cursor.unpack(_SEQ)[0]


def decode_payload(kind: int, payload: bytes) -> Message:
    """Return the message of one frame whose checksum was already checked.

    Raises:
        WireError: the payload is not exactly one message of that type.
    """
    cursor = _Cursor(payload)
    incarnation, seq = _incarnation_and_seq(cursor)
    message: Message
    if kind == BATCH:
        count, known = cursor.unpack(_BATCH_REST)
        if count > MAX_BATCH_RECORDS or seq + count >= 1 << 63:
            raise WireError(f"{count} records from {seq} on, the limit is {MAX_BATCH_RECORDS} a batch")
        identities = [_identity(cursor) for _ in range(known)]
        message = Batch(
            incarnation, seq, tuple(_record(cursor, incarnation, seq + i, identities) for i in range(count))
        )
    elif kind == HELLO:
        pid, started_us = cursor.unpack(_HELLO_REST)
        message = Hello(incarnation, seq, pid, started_us, _identity(cursor), cursor.prefixed())
    elif kind == ACK:
        message = Ack(incarnation, seq)
    else:
        raise WireError(f"unknown frame type {kind}")
    cursor.finish()
    return message


class FrameReader:
    """Cuts a byte stream into messages; holds at most one unfinished frame.

    Args:
        max_frame_bytes: longest payload accepted; a longer one is refused when its header is read, before
            its bytes are stored.
    """

    __slots__ = ("_buffer", "_max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start with an empty buffer."""
        self._buffer = bytearray()
        self._max_frame_bytes = max_frame_bytes

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that `chunk` completes.

        Raises:
            WireError: the stream is not of this protocol; the reader must not be used any more.
        """
        self._buffer += chunk
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _FRAME.size:
            length, checksum, version, kind, reserved = _FRAME.unpack_from(self._buffer, start)
            if version != WIRE_VERSION or reserved or length > self._max_frame_bytes:
                raise WireError(f"frame of version {version}, {length} bytes: not of this protocol")
            end = start + _FRAME.size + length
            if len(self._buffer) < end:
                break
            payload = bytes(memoryview(self._buffer)[start + _FRAME.size : end])
            if zlib.crc32(payload, zlib.crc32(_TAIL.pack(version, kind, reserved))) != checksum:
                raise WireError("checksum does not fit the frame")
            messages.append(decode_payload(kind, payload))
            start = end
        if start:
            del self._buffer[:start]
        return messages
