"""The thread that carries queued records to the agent; the request path never waits for it.

Owns the connection, the frames that are not acknowledged yet and the sequence numbers. At least once:
a frame is kept, encoded, until the agent acknowledged it, and sent again on every new connection; the
agent drops what it already has by (incarnation, seq). It never raises into the process and never holds
a lock that the recording side takes.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilotfish_sidecar.tap.counters import CAPTURED, DROPPED, TOLD, Counters
from pilotfish_sidecar.tap.records import NOT_DROPPED, DropReason, Entry, Flag, TapIdentity
from pilotfish_sidecar.tap.wire import (
    MAX_IDENTITIES,
    Ack,
    FrameReader,
    Hello,
    WireError,
    check_identity,
    encode_batch,
    encode_entry,
    encode_hello,
)

__all__ = ["Shipper", "ShippingLimits"]

log = logging.getLogger(__name__)

_BATCH_RECORDS: Final = 256
_BATCH_BYTES: Final = 1 << 20
_RECORD_BYTES: Final = 256
"""What a record without headers takes beside its bodies, roughly; a batch is cut by it."""

_FRAMES_PER_ROUND: Final = 4
_IDLE_ROUNDS: Final = 100
_CONTINUES: Final = int(Flag.CONTINUES)


@dataclass(frozen=True, slots=True)
class ShippingLimits:
    """How the shipper paces itself.

    Attributes:
        flush_interval_s: longest wait of a record before it is sent.
        idle_interval_s: the same after a second without traffic.
        window_bytes: unacknowledged bytes on the socket; one frame is always allowed.
        backoff_min_s: first wait before another attempt to connect.
        backoff_max_s: longest one; full jitter in between.
    """

    flush_interval_s: float = 0.010
    idle_interval_s: float = 0.050
    window_bytes: int = 8 << 20
    backoff_min_s: float = 0.05
    backoff_max_s: float = 1.0


@dataclass(slots=True)
class _Frame:
    first_seq: int
    records: int
    slots: Counter[int]
    body_bytes: int
    data: bytes


class Shipper:
    """Moves entries from the tap's queue to the agent.

    Args:
        queue: the recording side appends, the shipper pops from the left.
        counters: the books; the shipper writes `captured`, `told` and dropped(bad_record, shutdown).
        socket_path: the agent's Unix socket; it need not exist yet.
        identity: sent in HELLO.
        monotonic: seconds, for the backoff.
        rng: jitter of the backoff.
        limits: pacing.

    Attributes:
        released_records: entries that left memory (acknowledged or dropped), only ever growing.
        released_bytes: bytes of their bodies.
    """

    def __init__(
        self,
        queue: deque[Entry],
        counters: Counters,
        socket_path: Path,
        identity: TapIdentity,
        *,
        monotonic: Callable[[], float],
        rng: random.Random,
        limits: ShippingLimits,
    ) -> None:
        """Prepare; nothing is opened before `start`."""
        self._queue = queue
        self._counters = counters
        self._socket_path = socket_path
        self._identity = identity
        self._monotonic = monotonic
        self._rng = rng
        self._limits = limits
        self._unsent: deque[_Frame] = deque()
        self._sent: deque[_Frame] = deque()
        self._window = 0
        self._next_seq = 0
        self._acked_seq = 0
        self._outgoing = memoryview(b"")
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._greeted = False
        self._retry_at = 0.0
        self._failures = 0
        self._idle_rounds = 0
        self._stop = threading.Event()
        self._deadline = 0.0
        self._thread: threading.Thread | None = None
        self.released_records = 0
        self.released_bytes = 0

    def start(self) -> None:
        """Start the thread (a daemon: it never keeps a process alive)."""
        self._thread = threading.Thread(target=self._run, name="pilotfish-tap", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Ship what is queued for up to `timeout_s`, then book the rest as dropped(shutdown).

        Returns:
            Whether the books are final; False when the thread hangs and may still count.
        """
        self._deadline = self._monotonic() + timeout_s
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s + 1.0)
            if self._thread.is_alive():
                log.error("the tap's thread did not end in time; its books stay open for the agent")
                return False
        self._disconnect()
        left = sum((frame.slots for frame in (*self._unsent, *self._sent)), Counter(map(_slot, self._queue)))
        for slot, count in left.items():
            # What only told of a drop stays a drop for that reason.
            self._count(DROPPED + (slot - TOLD if slot >= TOLD else DropReason.SHUTDOWN) if slot >= 0 else slot, count)
        self._release(len(self._queue) + sum(frame.records for frame in (*self._unsent, *self._sent)), 0)
        self._queue.clear()
        return True

    def _run(self) -> None:
        while True:
            try:
                wait_s = self._step()
            except (OSError, WireError) as error:
                log.info("the connection to the agent at %s ended: %s", self._socket_path, error)
                self._disconnect()
                wait_s = self._limits.flush_interval_s
            except Exception:
                log.exception("the tap's thread failed; it reconnects")
                self._disconnect()
                wait_s = self._limits.backoff_max_s
            if not self._stop.is_set():
                self._stop.wait(wait_s)
            elif not self._pending() or self._monotonic() >= self._deadline:
                return
            else:
                self._wait_for_socket(0.002)

    def _pending(self) -> bool:
        return bool(self._queue or self._unsent or self._sent)

    def _step(self) -> float:
        """Do all that can be done without waiting; return the seconds until the next round."""
        if self._socket is None:
            now = self._monotonic()
            if now < self._retry_at:
                return min(self._retry_at - now, self._limits.idle_interval_s)
            self._connect()
        self._receive()
        if self._greeted:
            self._encode()
        self._send()
        if self._outgoing or self._unsent or len(self._queue) >= _BATCH_RECORDS:
            self._wait_for_socket(self._limits.flush_interval_s)
            return 0.0
        self._idle_rounds = 0 if self._pending() else self._idle_rounds + 1
        idle = self._idle_rounds > _IDLE_ROUNDS
        return self._limits.idle_interval_s if idle else self._limits.flush_interval_s

    def _wait_for_socket(self, timeout_s: float) -> None:
        connection = self._socket
        if connection is None:
            time.sleep(timeout_s)
            return
        # poll, not select: a server with more than 1024 open files is no reason to fail.
        watcher = select.poll()
        watcher.register(connection, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        watcher.poll(timeout_s * 1000.0)

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(str(self._socket_path))
        except OSError as error:
            connection.close()
            raise OSError(f"cannot connect: {error}") from error
        self._socket = connection
        self._reader = FrameReader(max_frame_bytes=1024)
        self._greeted = False
        where = str(self._counters.path or "")
        pid, started_us = self._counters.pid, self._counters.started_us
        hello = Hello(self._counters.incarnation, self._acked_seq, pid, started_us, self._identity, where)
        self._outgoing = memoryview(encode_hello(hello))

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._window = 0
        self._outgoing = memoryview(b"")
        if self._greeted:
            self._failures = 0
        self._greeted = False
        longest = min(self._limits.backoff_min_s * 2.0 ** min(self._failures, 16), self._limits.backoff_max_s)
        self._failures += 1
        self._retry_at = self._monotonic() + self._rng.uniform(longest / 2, longest)

    def _encode(self) -> None:
        """Turn queued entries into frames while the window has room; a few at a time, for the GIL's sake."""
        waiting = self._window + sum(len(frame.data) for frame in self._unsent)
        for _ in range(_FRAMES_PER_ROUND):
            if not self._queue or waiting >= self._limits.window_bytes:
                return
            frame = self._next_frame()
            if frame is not None:
                self._unsent.append(frame)
                waiting += len(frame.data)

    def _next_frame(self) -> _Frame | None:
        known: dict[TapIdentity, int] = {}
        records: list[list[bytes]] = []
        slots: Counter[int] = Counter()
        last: TapIdentity | None = None
        body_bytes = encoded_bytes = place = 0
        while self._queue and len(records) < _BATCH_RECORDS and encoded_bytes < _BATCH_BYTES:
            if len(known) == MAX_IDENTITIES:
                break
            entry = self._queue.popleft()
            size = len(entry[9]) + len(entry[10])
            try:
                who = entry[2]
                if who is not last:
                    if who not in known:
                        check_identity(who)
                    last, place = who, known.setdefault(who, len(known))
                parts = encode_entry(entry, place)
            except (WireError, struct.error, AttributeError, TypeError, ValueError) as error:
                log.warning("a record of %r cannot be encoded: %s", entry[6], error)
                self._drop_bad(Counter((_slot(entry),)), 1, size)
                continue
            records.append(parts)
            slot = _slot(entry)
            slots[slot] = slots.get(slot, 0) + 1
            encoded_bytes += sum(map(len, parts)) if entry[8] else size + _RECORD_BYTES
            body_bytes += size
        if not records:
            return None
        try:
            data = encode_batch(self._counters.incarnation, self._next_seq, list(known), records)
        except Exception:
            self._drop_bad(slots, len(records), body_bytes)
            raise
        frame = _Frame(self._next_seq, len(records), slots, body_bytes, data)
        self._next_seq += len(records)
        return frame

    def _drop_bad(self, slots: Counter[int], records: int, body_bytes: int) -> None:
        self._count(DROPPED + DropReason.BAD_RECORD, sum(count for slot, count in slots.items() if slot >= 0))
        self._release(records, body_bytes)

    def _count(self, slot: int, count: int) -> None:
        if slot >= 0:
            self._counters.slots[slot] += count

    def _release(self, records: int, body_bytes: int) -> None:
        self.released_bytes += body_bytes
        self.released_records += records

    def _send(self) -> None:
        connection = self._socket
        if connection is None:
            return
        while True:
            if not self._outgoing:
                if not (self._greeted and self._unsent and self._window_open()):
                    return
                frame = self._unsent.popleft()
                self._sent.append(frame)
                self._window += len(frame.data)
                self._outgoing = memoryview(frame.data)
            try:
                count = connection.send(self._outgoing)
            except BlockingIOError:
                return
            self._outgoing = self._outgoing[count:]

    def _window_open(self) -> bool:
        return not self._sent or self._window + len(self._unsent[0].data) <= self._limits.window_bytes

    def _receive(self) -> None:
        connection = self._socket
        if connection is None:
            return
        while True:
            try:
                chunk = connection.recv(65536)
            except BlockingIOError:
                return
            if not chunk:
                raise OSError("the agent closed it")
            for message in self._reader.feed(chunk):
                if not isinstance(message, Ack) or message.incarnation != self._counters.incarnation:
                    raise WireError("the agent sent something else than an acknowledgement of ours")
                self._acknowledge(message.next_seq)

    def _acknowledge(self, next_seq: int) -> None:
        if next_seq > self._next_seq:
            raise WireError(f"the agent acknowledged {next_seq}, only {self._next_seq} records exist")
        # The first acknowledgement of a connection says what the agent already has: frames it stored
        # before it was killed are among the unsent ones by now.
        for frames in (self._sent, self._unsent):
            while frames and frames[0].first_seq + frames[0].records <= next_seq:
                frame = frames.popleft()
                if frames is self._sent:
                    self._window -= len(frame.data)
                self._acked_seq = frame.first_seq + frame.records
                for slot, count in frame.slots.items():
                    self._count(slot, count)
                self._release(frame.records, frame.body_bytes)
        self._greeted = True


def _slot(entry: Entry) -> int:
    """Return the slot that counts an entry once the agent has it; -1: none, more of its call follows."""
    # An operation on a member of an enumeration takes a microsecond, this is done for every record.
    if int(entry[11]) & _CONTINUES:
        return -1
    return CAPTURED if entry[12] == NOT_DROPPED else TOLD + entry[12]
