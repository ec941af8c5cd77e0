"""The data stream: what is spooled goes to the control plane, from its watermark, as fast as it takes it.

Owns the Publish call, which records go into which message, and how many are under way. It never drops anything:
what is not acknowledged is sent again after the next start of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from pilotfish.errors import InvalidArgument, PilotfishError
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.wire_errors import from_rpc_error
from pilotfish_sidecar.backoff import Backoff
from pilotfish_sidecar.capture import MAX_BATCH_ROWS
from pilotfish_sidecar.cursors import Cursor
from pilotfish_sidecar.ending import end_tasks
from pilotfish_sidecar.frames import Kind, Record
from pilotfish_sidecar.rows import RowBatch, join_batches, read_batch, to_message
from pilotfish_sidecar.spool import Spool, StreamKey

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

# What a verdict rests on goes first: it is small, and rollbacks wait for it.
_ORDER: Final = (Kind.WINDOWS, Kind.OUTCOMES, Kind.TRUTHS, Kind.PREDICTIONS)
_MAX_UNDER_WAY: Final = 64
_MAX_BYTES_UNDER_WAY: Final = 8 << 20
_LINGER_S: Final = 0.06
_ANSWER_S: Final = 30.0
_ENVELOPE_BYTES: Final = 512
_CAREFUL_MESSAGES: Final = 200
_KIND_OF: Final = {kind.stream: kind for kind in _ORDER}


@dataclass(frozen=True, slots=True)
class _UnderWay:
    key: StreamKey
    first: int
    end: int
    size: int


class Publisher:
    """Sends the spool's streams over one Publish call after the other, while the state stream is up.

    Args:
        stub: of the FleetService.
        spool: where it reads and takes note of acknowledgements.
        rng: of the jitter.
    """

    def __init__(self, stub: Any, spool: Spool, rng: random.Random) -> None:  # Any: grpcio ships no types
        """Open nothing yet."""
        self._stub = stub
        self._spool = spool
        self._rng = rng
        self._wake = asyncio.Event()
        self._under_way: list[_UnderWay] = []
        self._cursors: dict[Kind, Cursor] = {}
        self._max_bytes = 1 << 20
        self._careful = 0
        spool.commit.listeners.append(self._wake.set)

    async def run(self, metadata: Sequence[tuple[str, str]], max_bytes: int) -> None:
        """Publish for ever; ends by being cancelled.

        Args:
            metadata: of the call, with the token.
            max_bytes: most bytes of one message.
        """
        self._max_bytes = max(4096, max_bytes or 1 << 20)
        backoff = Backoff(self._rng)
        while True:
            wait_s = 0.0
            try:
                await self._stream(metadata, backoff)
                log.info("the control plane ended the data stream")
            except grpc.aio.AioRpcError as error:
                failed = from_rpc_error(error)
                wait_s = failed.retry_after_s or 0.0
                log.warning("data stream: %s", failed.message)
                self._doubt(failed)
            except TimeoutError:
                log.warning("data stream: no answer for %.0f s", _ANSWER_S)
            except Exception:
                log.exception("data stream: it is opened again")
            await asyncio.sleep(max(backoff.next_s(), wait_s))

    def _doubt(self, failed: PilotfishError) -> None:
        """Find the message that the control plane will never take, and go on without it.

        After a first refusal messages go one by one; the one that is refused alone is given up and counted.
        """
        if not isinstance(failed, InvalidArgument):
            return
        if self._careful > 0 and len(self._under_way) == 1:
            refused = self._under_way[0]
            log.error("data stream: %s up to %d is given up: %s", refused.key, refused.end, failed)
            self._spool.give_up(refused.key, refused.first, refused.end)
        self._careful = _CAREFUL_MESSAGES

    async def _stream(self, metadata: Sequence[tuple[str, str]], backoff: Backoff) -> None:
        self._under_way.clear()
        self._cursors = {kind: Cursor(self._spool, kind) for kind in _ORDER}
        call = self._stub.Publish(metadata=metadata)
        sender = asyncio.ensure_future(self._send(call))
        receiver = asyncio.ensure_future(self._receive(call, backoff))
        try:
            await asyncio.wait([sender, receiver], return_when=asyncio.FIRST_COMPLETED)
            # The reader knows the status that the writer only sees as a closed stream.
            await asyncio.wait([receiver], timeout=1.0)
            await (receiver if receiver.done() else sender)
        finally:
            # A call that is dropped without this is never collected, and its handler runs on.
            call.cancel()
            await end_tasks([sender, receiver])

    async def _receive(self, call: Any, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        while True:
            reading = asyncio.ensure_future(call.read())
            try:
                while not reading.done():
                    await asyncio.wait([reading], timeout=_ANSWER_S / 6)
                    if not self._under_way:
                        heard_s = loop.time()
                    elif not reading.done() and loop.time() - heard_s > _ANSWER_S:
                        raise TimeoutError
                answer = reading.result()
            finally:
                await end_tasks([reading])
            if answer is grpc.aio.EOF:
                return
            heard_s = loop.time()
            self._take(answer)
            backoff.reset()

    def _take(self, answer: fleet.PublishResponse) -> None:
        kind = _KIND_OF.get(answer.stream)
        if kind is None:
            log.warning("data stream: an answer for the unknown stream %r", answer.stream)
            return
        key = StreamKey(answer.incarnation, kind)
        self._spool.acknowledge(key, answer.watermark)
        self._careful = max(0, self._careful - 1)
        self._under_way = [each for each in self._under_way if each.key != key or each.end > answer.watermark]
        self._wake.set()

    async def _send(self, call: Any) -> None:
        loop = asyncio.get_running_loop()
        next_rows_s = 0.0
        while True:
            self._wake.clear()
            kind = next((kind for kind in _ORDER if self._cursors[kind].peek() is not None), None)
            if kind is None or self._is_full():
                await self._wake.wait()
                continue
            if kind is Kind.PREDICTIONS and loop.time() < next_rows_s:
                # A few more rows in one message cost nothing; one message per batch of the tap would.
                await asyncio.sleep(next_rows_s - loop.time())
                continue
            rows = 0
            for message in self._messages(kind):
                rows += message.end_offset - message.first_offset
                key = StreamKey(message.incarnation, kind)
                while self._is_full():
                    self._wake.clear()
                    await self._wake.wait()
                size = message.ByteSize()
                self._under_way.append(_UnderWay(key, message.first_offset, message.end_offset, size))
                await call.write(message)
            if kind is Kind.PREDICTIONS and rows < MAX_BATCH_ROWS // 2:
                next_rows_s = loop.time() + _LINGER_S

    def _is_full(self) -> bool:
        under_way = self._under_way
        if self._careful:
            return bool(under_way)
        return len(under_way) >= _MAX_UNDER_WAY or sum(each.size for each in under_way) >= _MAX_BYTES_UNDER_WAY

    def idle(self) -> bool:
        """Return whether everything that is durable here was acknowledged."""
        return not self._under_way and all(Cursor(self._spool, kind).peek() is None for kind in _ORDER)

    # Messages

    def _messages(self, kind: Kind) -> Iterator[fleet.PublishRequest]:
        """Yield what the next records of a stream become: usually one message."""
        record = self._cursors[kind].take()
        assert record is not None  # the caller peeked
        if kind is Kind.PREDICTIONS:
            yield from self._prediction_messages(record)
        elif kind is Kind.TRUTHS:
            yield from self._truth_messages(record)
        elif kind is Kind.WINDOWS:
            message = self._envelope(record.incarnation, kind, record.first, record.end)
            message.window.MergeFromString(record.payload)
            yield message
        else:
            message = self._envelope(record.incarnation, kind, record.first, record.end)
            message.outcomes.MergeFromString(record.payload)
            yield message

    def _prediction_messages(self, record: Record) -> Iterator[fleet.PublishRequest]:
        batches, end = [read_batch(record.payload)], record.end
        rows, size = len(batches[0]), len(record.payload)
        cursor = self._cursors[Kind.PREDICTIONS]
        while not self._careful and (following := cursor.peek()) is not None:
            rows += following.end - following.first
            size += len(following.payload)
            fits = rows <= MAX_BATCH_ROWS and size <= self._max_bytes * 3 // 4
            if not fits or following.first != end or following.incarnation != record.incarnation:
                break
            batch = read_batch(following.payload)
            if batch.key != batches[0].key:
                break
            cursor.take()
            batches.append(batch)
            end = following.end
        joined, first = join_batches(batches), record.first
        known = self._spool.watermark(StreamKey(record.incarnation, Kind.PREDICTIONS))
        if first < known < end:
            joined, first = joined.pick(slice(known - first, None)), known
        for offset, message in self._fitting(joined, first):
            request = self._envelope(record.incarnation, Kind.PREDICTIONS, offset, offset + len(message.prediction_ids))
            request.predictions.CopyFrom(message)
            yield request

    def _fitting(self, batch: RowBatch, first: int) -> Iterator[tuple[int, monitoring.PredictionBatch]]:
        message = to_message(batch)
        if message.ByteSize() <= self._max_bytes - _ENVELOPE_BYTES or len(batch) == 1:
            yield first, message
            return
        half = len(batch) // 2
        yield from self._fitting(batch.pick(slice(0, half)), first)
        yield from self._fitting(batch.pick(slice(half, None)), first + half)

    def _truth_messages(self, record: Record) -> Iterator[fleet.PublishRequest]:
        truths = monitoring.GroundTruthBatch.FromString(record.payload)
        known = self._spool.watermark(StreamKey(record.incarnation, Kind.TRUTHS))
        start = max(0, known - record.first)
        size = max(1, (record.end - record.first) * (self._max_bytes // 2) // max(len(record.payload), 1))
        for at in range(start, record.end - record.first, size):
            part = slice(at, at + size)
            first = record.first + at
            ids = truths.prediction_ids[part]
            request = self._envelope(record.incarnation, Kind.TRUTHS, first, first + len(ids))
            request.truths.deployment = truths.deployment
            request.truths.prediction_ids.extend(ids)
            request.truths.values.extend(truths.values[part])
            request.truths.labels.extend(truths.labels[part])
            request.truths.times_us.extend(truths.times_us[part])
            yield request

    def _envelope(self, incarnation: int, kind: Kind, first: int, end: int) -> fleet.PublishRequest:
        return fleet.PublishRequest(
            instance=self._spool.instance,
            incarnation=incarnation,
            stream=kind.stream,
            first_offset=first,
            end_offset=end,
        )
