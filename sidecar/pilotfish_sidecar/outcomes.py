"""Counts of calls: how many, which errors, how long, per span of about a second.

Owns the open span of each replica and the latency histogram. It never sees a row and reads no clock.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish_sidecar.rows import Who

__all__ = ["LATENCY_BOUNDS_US", "Call", "OutcomeSpan", "grpc_code", "pack_calls", "unpack_calls"]

_CALL = struct.Struct("<HHiq")
_CODE_NAMES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# HTTP status -> gRPC status, as google.rpc.Code documents the mapping.
_OF_HTTP: Final = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 10, 413: 8, 416: 11, 422: 3, 429: 8, 499: 1, 500: 13}
_OF_HTTP_REST: Final = {501: 12, 502: 14, 503: 14, 504: 4}


def _bounds() -> tuple[int, ...]:
    # Steps of a tenth of a decade: a percentile read off the histogram is within 13 % of the true one.
    return tuple(sorted({round(50 * 10 ** (i / 10)) for i in range(62)}))


LATENCY_BOUNDS_US: Final = _bounds()
"""Upper bounds of the buckets, microseconds, 50 us to about 63 s; the last bucket is open."""


def grpc_code(status: int, *, http: bool) -> int:
    """Return the gRPC status for a status as the tap saw it; 0 is OK, an unknown one is UNKNOWN."""
    if not http:
        return status if 0 <= status < len(_CODE_NAMES) else 2
    if 200 <= status < 300:
        return 0
    return _OF_HTTP.get(status) or _OF_HTTP_REST.get(status, 2)


class Call(NamedTuple):
    """One live call: the replica's position in a list, gRPC status, latency (-1: not known) and arrival."""

    replica: int
    code: int
    latency_us: int
    start_us: int


def pack_calls(calls: Iterable[Call]) -> bytes:
    """Return calls as bytes for the spool, 16 each."""
    return b"".join(_CALL.pack(c.replica, c.code, min(c.latency_us, 0x7FFFFFFF), c.start_us) for c in calls)


def unpack_calls(data: bytes) -> list[Call]:
    """Return the calls of `pack_calls`."""
    return [Call(*fields) for fields in _CALL.iter_unpack(data)]


@dataclass(slots=True)
class OutcomeSpan:
    """The calls of one replica since the last report."""

    calls: int = 0
    errors: Counter[int] | None = None
    buckets: list[int] | None = None
    latency_sum_us: int = 0
    start_us: int = 0
    end_us: int = 0

    def add(self, calls: Sequence[Call]) -> None:
        """Count calls."""
        for call in calls:
            if self.calls == 0:
                self.errors, self.buckets = Counter(), [0] * (len(LATENCY_BOUNDS_US) + 1)
                self.start_us = self.end_us = call.start_us
            assert self.errors is not None and self.buckets is not None  # set with the first call
            self.calls += 1
            if call.code:
                self.errors[call.code] += 1
            if call.latency_us >= 0:
                self.buckets[bisect_left(LATENCY_BOUNDS_US, call.latency_us)] += 1
                self.latency_sum_us += call.latency_us
            self.start_us = min(self.start_us, call.start_us)
            self.end_us = max(self.end_us, call.start_us + max(call.latency_us, 0))

    def report(self, who: Who) -> fleet.OutcomeReport:
        """Return the span as it is reported; there is at least one call."""
        report = fleet.OutcomeReport(
            replica=who.replica,
            deployment=who.deployment,
            calls=self.calls,
            latency_bounds_us=LATENCY_BOUNDS_US,
            latency_counts=self.buckets or (),
            latency_sum_us=self.latency_sum_us,
            errors={_CODE_NAMES[code]: count for code, count in (self.errors or {}).items()},
        )
        report.start_time.FromMicroseconds(self.start_us)
        report.end_time.FromMicroseconds(max(self.end_us, self.start_us + 1))
        return report

    def to_bytes(self) -> bytes:
        """Return the span for a checkpoint."""
        fields = [self.calls, self.errors, self.buckets, self.latency_sum_us, self.start_us, self.end_us]
        return json.dumps(fields).encode()

    def restore(self, data: bytes) -> None:
        """Take a saved span."""
        self.calls, errors, self.buckets, self.latency_sum_us, self.start_us, self.end_us = json.loads(data)
        self.errors = Counter({int(code): count for code, count in (errors or {}).items()})
