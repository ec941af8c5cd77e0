"""The tap: what a model server calls once per served call, and nothing more than that.

Owns the bounded queue between the request path and the shipping thread, and the counting of what comes
in. `record` never waits, never raises and never grows memory beyond its bounds; what does not fit is
counted by reason. It never parses a body.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pilotfish_sidecar.tap.counters import DROPPED, SERVED, Books, Counters
from pilotfish_sidecar.tap.records import NOT_DROPPED, DropReason, Entry, Flag, Headers, Protocol, Role, TapIdentity
from pilotfish_sidecar.tap.shipping import Shipper, ShippingLimits
from pilotfish_sidecar.tap.wire import MAX_BODY_BYTES

__all__ = ["Tap", "TapSettings"]

log = logging.getLogger(__name__)

_TOO_LARGE = DROPPED + int(DropReason.TOO_LARGE)
_QUEUE_FULL = DROPPED + int(DropReason.QUEUE_FULL)
_STREAMING = DROPPED + int(DropReason.STREAMING)
_BAD_RECORD = DROPPED + int(DropReason.BAD_RECORD)
_CONTINUES = int(Flag.CONTINUES)
_SHUTDOWN = DROPPED + int(DropReason.SHUTDOWN)


@dataclass(frozen=True, slots=True)
class TapSettings:
    """How one tap is set up.

    Attributes:
        socket_path: Unix socket of the agent; it may appear later.
        counters_path: file of the books (see `counters`); None keeps them in memory only.
        identity: deployment, replica and version of this process; a record may override it.
        max_records: calls held while the agent is away or slow.
        max_bytes: bytes of their bodies held.
        max_body_bytes: a call with a larger request or response is counted, not captured; at most 4 MiB.
        limits: pacing of the shipping thread.
    """

    socket_path: Path
    counters_path: Path | None = None
    identity: TapIdentity = field(default_factory=TapIdentity)
    max_records: int = 65536
    max_bytes: int = 128 << 20
    max_body_bytes: int = MAX_BODY_BYTES
    limits: ShippingLimits = field(default_factory=ShippingLimits)


class Tap:
    """Takes served calls from any thread and ships them in the background.

    Args:
        settings: where to and how much.
        monotonic: seconds; paces reconnects.
        wall_us: microseconds since the Unix epoch; dates the incarnation.
        rng: jitter of the reconnects.
    """

    def __init__(
        self,
        settings: TapSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        rng: random.Random | None = None,
    ) -> None:
        """Open the books and start the thread."""
        self.settings = settings
        self.identity = settings.identity
        self._monotonic = monotonic
        self._wall_us = wall_us
        self._rng = rng or random.Random()
        self._max_body_bytes = min(settings.max_body_bytes, MAX_BODY_BYTES)
        self._max_records = settings.max_records
        self._max_bytes = settings.max_bytes
        self._open()
        _live.add(self)

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._counters = _open_counters(self.settings, self._wall_us())
        self._slots = self._counters.slots
        self._accepted_records = 0
        self._accepted_bytes = 0
        self._closed = False
        self._shipper = Shipper(
            self._queue,
            self._counters,
            self.settings.socket_path,
            self.settings.identity,
            monotonic=self._monotonic,
            rng=self._rng,
            limits=self.settings.limits,
        )
        self._shipper.start()

    @property
    def incarnation(self) -> bytes:
        """Return the 16 bytes that name this tap's run."""
        return self._counters.incarnation

    def record(
        self,
        method: str,
        request: bytes,
        response: bytes,
        code: int,
        start_us: int,
        latency_us: int,
        prediction_id: str = "",
        headers: Headers = (),
        *,
        protocol: int = Protocol.GRPC,
        role: int = Role.LIVE,
        identity: TapIdentity | None = None,
        flags: int = Flag.NONE,
        drop: int = NOT_DROPPED,
        server_us: int = -1,
        served: int = 1,
    ) -> None:
        """Queue one served call; about half a microsecond, never an error.

        Args:
            method: gRPC path or HTTP path.
            request: body as on the wire.
            response: body as on the wire; empty for an error without one.
            code: gRPC status, or HTTP status with protocol REST.
            start_us: arrival, microseconds since the Unix epoch.
            latency_us: microseconds until the answer.
            prediction_id: the id returned to the caller.
            headers: the request headers worth keeping, names in lower case; at most 32.
            protocol: `Protocol.GRPC` or `Protocol.REST`.
            role: `Role.LIVE`, `Role.SHADOW` or `Role.REPLAY`.
            identity: who served it, where that is not the tap's own identity.
            flags: see `Flag`; a record that `CONTINUES` is no call yet.
            drop: why the bodies are left out; the call counts as dropped for that reason.
            server_us: microseconds that the model server had the request; -1: not known.
            served: calls that are counted as served by this; 0 where somebody else counts them.
        """
        slots = self._slots
        with self._lock:
            if served:  # adding nothing would write an old value over what another process counts here
                slots[SERVED] += served
            try:
                sent, received = len(response), len(request)
                if sent > self._max_body_bytes or received > self._max_body_bytes:
                    self._let_go(_TOO_LARGE, flags, drop)
                    return
                shipper = self._shipper
                held_bytes = self._accepted_bytes - shipper.released_bytes + sent + received
                if held_bytes > self._max_bytes or (
                    self._accepted_records - shipper.released_records >= self._max_records
                ):
                    self._let_go(_QUEUE_FULL, flags, drop)
                    return
                if self._closed:
                    self._let_go(_SHUTDOWN, flags, drop)
                    return
                entry = (
                    protocol,
                    role,
                    identity or self.identity,
                    code,
                    start_us,
                    latency_us,
                    method,
                    prediction_id,
                    headers,
                    request,
                    response,
                    flags,
                    drop,
                    server_us,
                )
                self._accepted_records += 1
                self._accepted_bytes += sent + received
                self._queue.append(entry)
            except Exception:
                slots[_BAD_RECORD] += 1

    def _let_go(self, slot: int, flags: int, drop: int) -> None:
        if not int(flags) & _CONTINUES:
            self._slots[slot if drop == NOT_DROPPED else DROPPED + drop] += 1

    def count_streaming(self) -> None:
        """Count one served streaming call; its messages are not captured."""
        with self._lock:
            self._slots[SERVED] += 1
            self._slots[_STREAMING] += 1

    def count_too_large(self) -> None:
        """Count one served call whose body was too large to be kept for `record`."""
        with self._lock:
            self._slots[SERVED] += 1
            self._slots[_TOO_LARGE] += 1

    def books(self) -> Books:
        """Return served, captured and dropped as they are now."""
        return self._counters.read()

    def held(self) -> tuple[int, int]:
        """Return how many records and bytes of bodies are in memory."""
        shipper = self._shipper
        return (
            self._accepted_records - shipper.released_records,
            self._accepted_bytes - shipper.released_bytes,
        )

    @property
    def counters_path(self) -> Path | None:
        """Return the file of the books; None when they are in memory only."""
        return self._counters.path

    def close(self, timeout_s: float = 2.0, *, lost: DropReason | None = None) -> Books:
        """Ship what is held for up to `timeout_s`, drop the rest by name, and return the closed books.

        Blocks: call it in a thread from an event loop. Calls served afterwards are counted as
        dropped(shutdown). Doing it twice changes nothing.

        Args:
            timeout_s: longest wait for the agent.
            lost: why served calls have no record, where somebody else counts them; None: there are none.
        """
        with self._lock:
            first, self._closed = not self._closed, True
        if first and self._shipper.close(timeout_s):
            if lost is not None:
                self._slots[DROPPED + lost] += max(0, self.books().in_flight)
            self._counters.mark_closed()
        return self.books()

    def _after_fork(self) -> None:
        # Threads do not survive a fork, and the parent goes on counting in the shared map: the child
        # needs books, a queue and a sequence of its own.
        self._open()


def _open_counters(settings: TapSettings, started_us: int) -> Counters:
    if settings.counters_path is not None:
        try:
            return Counters.create(settings.counters_path, settings.identity, started_us=started_us)
        except OSError as error:
            log.error(
                "cannot create the counters file %s: %s; counting in memory only: a killed process loses its counts",
                settings.counters_path,
                error,
            )
    return Counters.anonymous(settings.identity, started_us=started_us)


_live: weakref.WeakSet[Tap] = weakref.WeakSet()


def _reopen_all() -> None:
    for tap in list(_live):
        if not tap._closed:
            tap._after_fork()


os.register_at_fork(after_in_child=_reopen_all)
