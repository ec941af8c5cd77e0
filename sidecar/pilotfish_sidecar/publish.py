"""The data stream: what is spooled goes to the control plane, from its watermark, as fast as it takes it.

Owns the Publish call, which records go into which message, and how many are under way. It never drops anything:
what is not acknowledged is sent again after the next start of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from pilotfish.errors import PilotfishError
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.wire_errors import from_rpc_error
from pilotfish_sidecar.backoff import Backoff
from pilotfish_sidecar.capture import MAX_BATCH_ROWS
from pilotfish_sidecar.cursors import Cursor
from pilotfish_sidecar.frames import Kind, Record
from pilotfish_sidecar.rows import RowBatch, join_batches, read_batch, to_message
from pilotfish_sidecar.spool import Spool, StreamKey

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

# What a verdict rests on goes first: it is small, and rollbacks wait for it.
_ORDER: Final = (Kind.WINDOWS, Kind.OUTCOMES, Kind.TRUTHS, Kind.PREDICTIONS)
_MAX_UNDER_WAY: Final = 64
_MAX_BYTES_UNDER_WAY: Final = 8 << 20
_LINGER_S: Final = 0.04
_ANSWER_S: Final = 30.0
_KIND_OF: Final = {kind.stream: kind for kind in _ORDER}


@dataclass(frozen=True, slots=True)
class _UnderWay:
    key: StreamKey
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
        self._under_way: deque[_UnderWay] = deque()
        self._cursors: dict[Kind, Cursor] = {}
        self._max_bytes = 1 << 20
        self._heard_s = 0.0
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
            try:
                await self._stream(metadata, backoff)
                log.info("the control plane ended the data stream")
                delay = backoff.next_s()
            except grpc.aio.AioRpcError as error:
                failed = from_rpc_error(error)
                delay = max(backoff.next_s(), failed.retry_after_s or 0.0)
                log.log(_level(failed), "data stream: %s; again in %.1f s", failed.message, delay)
            except TimeoutError:
                delay = backoff.next_s()
                log.warning("data stream: no answer for %.0f s; again in %.1f s", _ANSWER_S, delay)
            await asyncio.sleep(delay)

    async def _stream(self, metadata: Sequence[tuple[str, str]], backoff: Backoff) -> None:
        self._under_way.clear()
        self._cursors = {kind: Cursor(self._spool, kind) for kind in _ORDER}
        self._wake.set()
        call = self._stub.Publish(metadata=metadata)
        tasks = [asyncio.ensure_future(self._send(call)), asyncio.ensure_future(self._receive(call, backoff))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # The reader knows the status that the writer only sees as a closed stream.
            if tasks[1] not in done:
                await asyncio.wait(tasks[1:], timeout=1.0)
            await (tasks[1] if tasks[1].done() else next(iter(done)))
        finally:
            for task in tasks:
                task.cancel()
            call.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, call: Any, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        while True:
            reading = asyncio.ensure_future(call.read())
            try:
                while not reading.done():
                    await asyncio.wait([reading], timeout=_ANSWER_S / 3)
                    if not self._under_way:
                        self._heard_s = loop.time()
                    if not reading.done() and loop.time() - self._heard_s > _ANSWER_S:
                        raise TimeoutError
                answer = await reading
            finally:
                reading.cancel()
            if answer is grpc.aio.EOF:
                await self._end(call)
                return
            self._heard_s = loop.time()
            self._take(answer)
            backoff.reset()

    async def _end(self, call: Any) -> None:
        if await call.code() != grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )

    def _take(self, answer: fleet.PublishResponse) -> None:
        kind = _KIND_OF.get(answer.stream)
        if kind is None:
            log.warning("data stream: an answer for unknown stream %r", answer.stream)
            return
        key = StreamKey(answer.incarnation, kind)
        self._spool.acknowledge(key, answer.watermark)
        self._under_way = deque(each for each in self._under_way if each.key != key or each.end > answer.watermark)
        self._wake.set()

    async def _send(self, call: Any) -> None:
        while True:
            self._wake.clear()
            found = self._next_batch()
            if found is None or self._is_full():
                if found is None or self._waits_for_room():
                    await self._wake.wait()
                continue
            if found[0].kind is Kind.PREDICTIONS and self._rows(found) < MAX_BATCH_ROWS:
                # A few more rows in one message cost nothing; one message per batch of the tap would.
                await asyncio.sleep(_LINGER_S)
                found = self._next_batch() or found
            for message in self._messages(found):
                size = message.ByteSize()
                key = StreamKey(message.incarnation, found[0].kind)
                self._under_way.append(_UnderWay(key, message.end_offset, size))
                await call.write(message)
