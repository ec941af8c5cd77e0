"""The data stream of sidecars: rows into the prediction log, reports into the database, watermarks back.

Owns exactly-once at the edge: every acknowledged offset is durable, and an offset seen again is acknowledged and
not counted again. Rows and truths have their watermarks in the prediction log itself; windows and outcomes have
theirs in the transaction that stores them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.errors import FailedPrecondition, InvalidArgument, PilotfishError, Violation
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.grpc_server.prediction_columns import batch_from_wire, truths_from_wire
from pilotfish_control_plane.monitoring.model import Outcome, WindowReport
from pilotfish_control_plane.monitoring.quality import QualityWatch
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.prediction_log import Append, Batch, ColumnBatch, PredictionLog, Source
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Ingest"]

log = logging.getLogger(__name__)

ROW_STREAMS = frozenset({"predictions", "truths"})
REPORT_STREAMS = frozenset({"windows", "outcomes"})
# What waits on one stream is taken together: one fdatasync and one transaction serve all of it.
MAX_GROUP = 64


@dataclass(frozen=True, slots=True)
class _Key:
    instance: str
    incarnation: int
    stream: str


class Ingest:
    """Takes what sidecars publish; one for the control plane."""

    def __init__(
        self,
        db: Database,
        predictions: PredictionLog,
        monitoring: MonitoringService,
        quality: QualityWatch,
        clock: Clock,
    ) -> None:
        """Store rows in `predictions`, reports through `monitoring`."""
        self._db = db
        self._predictions = predictions
        self._monitoring = monitoring
        self._quality = quality
        self._clock = clock

    async def watermarks(self, instance: str) -> list[tuple[str, int, int]]:
        """Return (stream, incarnation, first offset that is not durable) of every stream of an instance."""
        known = await asyncio.to_thread(self._predictions.watermarks)
        found = [(s.stream, s.incarnation, w) for s, w in known.items() if s.instance == instance]
        return found + await self._db.read(lambda tx: self._monitoring.watermarks(tx, instance))

    async def publish(
        self, requests: AsyncIterator[fleet.PublishRequest], instance: str | None = None
    ) -> AsyncIterator[fleet.PublishResponse]:
        """Store what comes and yield a watermark for every group of it.

        Args:
            requests: the caller's stream.
            instance: the only instance that the caller may speak for; None: any.

        Raises:
            InvalidArgument: an unknown stream, a payload that is not the stream's, offsets that disagree with it.
            FailedPrecondition: offsets are missing (OFFSET_GAP): resume from the watermark.
            ResourceExhausted: the disk is full: keep it and come back.
        """
        queue: asyncio.Queue[fleet.PublishRequest | None] = asyncio.Queue(MAX_GROUP)
        reader = asyncio.create_task(_read(requests, queue))
        try:
            while True:
                first = await queue.get()
                if first is None:
                    await reader
                    return
                group = [first]
                ended = False
                while not queue.empty() and len(group) < MAX_GROUP:
                    item = queue.get_nowait()
                    if item is None:
                        ended = True
                        break
                    group.append(item)
                for answer in await self._take(group, instance):
                    yield answer
                if ended:
                    await reader
                    return
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _take(self, group: list[fleet.PublishRequest], instance: str | None) -> list[fleet.PublishResponse]:
        for request in group:
            _check(request, instance)
        marks: dict[_Key, int] = {}
        rows = [r for r in group if r.stream in ROW_STREAMS]
        if rows:
            marks |= await asyncio.to_thread(self._take_rows, rows)
        reports = [r for r in group if r.stream in REPORT_STREAMS]
        if reports:
            marks |= await self._db.write(lambda tx: self._take_reports(tx, reports))
        return [
            fleet.PublishResponse(incarnation=key.incarnation, stream=key.stream, watermark=mark)
            for key, mark in marks.items()
        ]

    def _take_rows(self, requests: Iterable[fleet.PublishRequest]) -> dict[_Key, int]:
        now_us = int(self._clock.now().timestamp() * 1e6)
        items = []
        for r in requests:
            is_rows = r.stream == "predictions"
            batch: Batch = batch_from_wire(r.predictions) if is_rows else truths_from_wire(r.truths, now_us=now_us)
            # The sidecar owns its spool: rows that it had to drop are a gap that it declares by where it goes on.
            items.append(
                Append(Source(r.instance, r.incarnation, r.stream), r.first_offset, r.end_offset, batch, allow_gap=True)
            )
        marks: dict[_Key, int] = {}
        for item, answer in zip(items, self._predictions.append_many(items), strict=True):
            if isinstance(answer, PilotfishError):
                raise answer
            marks[_Key(item.source.instance, item.source.incarnation, item.source.stream)] = answer.watermark
        deployments = {i.batch.deployment for i in items if isinstance(i.batch, ColumnBatch)}
        if deployments:
            self._quality.predictions_came(deployments)
        if any(not isinstance(i.batch, ColumnBatch) for i in items):
            self._quality.labels_came()
        return marks

    def _take_reports(self, tx: Tx, requests: Iterable[fleet.PublishRequest]) -> dict[_Key, int]:
        marks: dict[_Key, int] = {}
        for r in requests:
            key = _Key(r.instance, r.incarnation, r.stream)
            mark = marks.get(key)
            if mark is None:
                mark = self._monitoring.watermark(tx, r.instance, r.incarnation, r.stream)
            if r.end_offset > mark:
                if r.stream == "windows":
                    self._monitoring.take_window(tx, window_from_wire(r.window))
                else:
                    self._monitoring.take_outcome(tx, outcome_from_wire(r.outcomes))
                mark = r.end_offset
                self._monitoring.set_watermark(tx, r.instance, r.incarnation, r.stream, mark)
            marks[key] = mark
        return marks


async def _read(
    requests: AsyncIterator[fleet.PublishRequest], queue: asyncio.Queue[fleet.PublishRequest | None]
) -> None:
    try:
        async for request in requests:
            await queue.put(request)
    finally:
        await queue.put(None)


def _check(request: fleet.PublishRequest, instance: str | None) -> None:
    problems: list[Violation] = []
    payload = request.WhichOneof("payload")
    wanted = {"predictions": "predictions", "truths": "truths", "windows": "window", "outcomes": "outcomes"}
    if request.stream not in wanted:
        problems.append(Violation("stream", f"{request.stream!r} is not one of {', '.join(wanted)}"))
    elif payload != wanted[request.stream]:
        problems.append(
            Violation(
                "payload", f"is {payload or 'unset'}, the stream {request.stream} carries {wanted[request.stream]}"
            )
        )
    if not request.instance:
        problems.append(Violation("instance", "is empty"))
    if request.first_offset < 0 or request.end_offset <= request.first_offset:
        problems.append(Violation("end_offset", f"[{request.first_offset}, {request.end_offset}) is no range"))
    rows = {"predictions": len(request.predictions.prediction_ids), "truths": len(request.truths.prediction_ids)}
    count = rows.get(payload or "", 1)
    if not problems and count != request.end_offset - request.first_offset:
        problems.append(
            Violation("end_offset", f"{count} records for {request.end_offset - request.first_offset} offsets")
        )
    if problems:
        raise InvalidArgument("the message cannot be taken", violations=problems)
    if instance is not None and request.instance != instance:
        raise FailedPrecondition(f"this stream speaks for {instance}, not for {request.instance}")


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def window_from_wire(message: fleet.WindowReport) -> WindowReport:
    """Return a window report as a value."""
    return WindowReport(
        window=message.window,
        replica=message.replica,
        deployment=message.deployment,
        index=message.index,
        rows=message.rows,
        started=_time(message.start_time),
        ended=_time(message.end_time),
        profile_id=message.profile_id,
        counts={c.scale: bytes(c.counts) for c in message.counts},
        verdict=_verdict(message.verdict),
        learned_profile=message.learned_profile_json,
    )


def _verdict(message: pb.DriftVerdict) -> dict[str, object]:
    features: list[dict[str, object]] = [
        {
            "feature": f.feature,
            "group": "output" if f.group == pb.COLUMN_GROUP_OUTPUT else "input",
            "score": f.score,
            "p_value": f.p_value if f.HasField("p_value") else None,
            "threshold": f.threshold,
            "n": f.n,
            "drifted": f.drifted,
            "reason": f.reason,
        }
        for f in message.features
    ]
    return {
        "method": message.method,
        "score": message.score,
        "threshold": message.threshold,
        "n": message.n,
        "drifted": message.drifted,
        "data_score": message.data_score,
        "data_drifted": any(f["drifted"] and f["group"] == "input" for f in features),
        "prediction_score": message.prediction_score,
        "prediction_drifted": any(f["drifted"] and f["group"] == "output" for f in features),
        "scale": message.scale,
        "reason": message.reason,
        "features": features,
    }


def outcome_from_wire(message: fleet.OutcomeReport) -> Outcome:
    """Return counts of calls as a value.

    Raises:
        InvalidArgument: the histogram does not fit its bounds.
    """
    if message.latency_counts and len(message.latency_counts) != len(message.latency_bounds_us) + 1:
        raise InvalidArgument(
            "the latency histogram does not fit its bounds",
            violations=[Violation("outcomes.latency_counts", "needs one count more than there are bounds")],
        )
    return Outcome(
        replica=message.replica,
        deployment=message.deployment,
        started=_time(message.start_time),
        ended=_time(message.end_time),
        calls=message.calls,
        errors=dict(message.errors),
        bounds_us=tuple(message.latency_bounds_us),
        counts=tuple(message.latency_counts),
        sum_us=message.latency_sum_us,
    )
