"""The record of one served call, as a tap takes it and as the agent receives it.

Owns the value types that both ends of the tap's socket share. It never touches a socket, a clock or the
inference protocol: bodies are opaque bytes here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["NOT_DROPPED", "DropReason", "Entry", "Flag", "Headers", "Protocol", "Role", "TapIdentity", "TapRecord"]

Headers: TypeAlias = tuple[tuple[str, str], ...]


class Protocol(enum.IntEnum):
    """How the call came in; decides what `TapRecord.code` means."""

    GRPC = 0
    """`code` is a gRPC status code, 0 is OK."""
    REST = 1
    """`code` is an HTTP status code, 200 is OK."""


class Role(enum.IntEnum):
    """Why the call was made; only live rows count as predictions."""

    LIVE = 0
    SHADOW = 1
    REPLAY = 2


class DropReason(enum.IntEnum):
    """Why a served call was not captured; the value is the counter's slot."""

    QUEUE_FULL = 0
    """The bound of records or bytes was reached while the agent was away or slow."""
    TOO_LARGE = 1
    """The request's or the response's body exceeded the limit."""
    STREAMING = 2
    """A streaming call: counted, its messages are not captured."""
    BAD_RECORD = 3
    """The record could not be encoded (wrong types, or names beyond their limits)."""
    SHUTDOWN = 4
    """Still unacknowledged when the tap was closed, or served after that."""
    CRASH = 5
    """In the memory of a process that died; booked by the agent afterwards."""
    STRIPPED = 6
    """The decoder was behind: the relay kept the headers and let the bodies go."""
    BLIND = 7
    """On a connection whose headers cannot be read any more; method and model are unknown."""
    NO_DECODER = 8
    """Relayed while no decoder was there."""
    UNREADABLE = 9
    """The relay saw a call that the decoder could not make out: compression of an unknown kind, a broken frame."""
    OTHER_METHOD = 10
    """No inference: health, metadata, reflection; seen by the relay, told by method, and no prediction."""


class Flag(enum.IntFlag):
    """What is special about a record."""

    NONE = 0
    STREAMING = 1
    """The bodies are messages of a streaming call, each behind gRPC's five-byte prefix (compressed flag, u32 big-endian
    length); the n-th answer belongs to the n-th question."""
    CONTINUES = 2
    """More records of the same call follow: it brings rows, and is no call by itself in any count."""


NOT_DROPPED: Final = 255
"""`Entry`'s drop reason of a call that is captured."""


@dataclass(frozen=True, slots=True)
class TapIdentity:
    """Who served a call: the deployment, the replica and the version, each empty where unknown."""

    deployment: str = ""
    replica: str = ""
    version: str = ""


Entry: TypeAlias = tuple[int, int, "TapIdentity", int, int, int, str, str, Headers, bytes, bytes, int, int, int]
"""What the hot path queues: protocol, role, identity, code, start_us, latency_us, method, prediction_id,
headers, request, response, flags, drop reason, server_us. A plain tuple: building a dataclass would cost more than
the queueing."""


@dataclass(frozen=True, slots=True)
class TapRecord:
    """One served call as the agent receives it.

    Attributes:
        incarnation: 16 random bytes of the tap's process; with `seq` the key under which a record is unique.
        seq: position in the incarnation's sequence, from 0, without holes.
        protocol: how the call came in.
        role: live, shadow or replay.
        identity: deployment, replica and version that served it.
        code: gRPC or HTTP status, by protocol.
        start_us: arrival, microseconds since the Unix epoch, UTC.
        latency_us: microseconds from arrival to the answer.
        method: gRPC path, or the HTTP path (`/v2/models/m/infer`).
        prediction_id: the id that was returned to the caller; empty when the tap could not know one.
        headers: the request headers that the tap was told to keep, names in lower case.
        request: body of the request, as on the wire.
        response: body of the response, as on the wire; empty for a gRPC error.
        flags: what is special about it.
        drop: why the bodies were let go; None: they are here. Such a record tells method, code and latency of a call
            that counts as dropped for that reason.
        server_us: microseconds that the model server had the whole request before its answer was complete; -1: not
            known.
    """

    incarnation: bytes
    seq: int
    protocol: Protocol
    role: Role
    identity: TapIdentity
    code: int
    start_us: int
    latency_us: int
    method: str
    prediction_id: str
    headers: Headers
    request: bytes
    response: bytes
    flags: Flag = Flag.NONE
    drop: DropReason | None = None
    server_us: int = -1

    @property
    def ok(self) -> bool:
        """Return whether the call was answered without an error."""
        return self.code == 0 if self.protocol is Protocol.GRPC else 200 <= self.code < 300
