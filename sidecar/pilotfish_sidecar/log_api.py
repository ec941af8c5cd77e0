"""The log API: any program on this machine logs predictions and truths, durable before the answer.

Owns the SidecarService on its Unix socket. It never waits for the control plane.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from pilotfish.errors import InvalidArgument, NotFound, PilotfishError, Unavailable, Violation
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.v1 import sidecar_service_pb2 as pb
from pilotfish.v1 import sidecar_service_pb2_grpc as pb_grpc
from pilotfish.wire_errors import DETAILS_KEY, STATUS_OF, status_message, to_status_details
from pilotfish_sidecar.accounts import Request
from pilotfish_sidecar.capture import Captured, split_batch
from pilotfish_sidecar.clock import Clock
from pilotfish_sidecar.config import Binding
from pilotfish_sidecar.intake import Intake
from pilotfish_sidecar.outcomes import Call
from pilotfish_sidecar.rows import LATEST_US, LIVE, MAX_ID_BYTES, RowBatch, from_message

__all__ = ["LogServer", "SidecarServicer"]

log = logging.getLogger(__name__)

_MAX_ROWS: Final = 100_000
_MAX_MESSAGE_BYTES: Final = 16 << 20
_MAX_SOCKET_PATH: Final = 107
_Answer = TypeVar("_Answer")


async def _answer(context: Any, work: Awaitable[_Answer]) -> _Answer:  # Any: grpcio's contexts have no types
    """Return what the work returns, or end the call with its error as a rich status."""
    try:
        return await work
    except PilotfishError as error:
        failed = error
    except OSError as error:
        log.exception("the disk failed")
        text = f"the sidecar's disk failed: {error.strerror}"
        failed = Unavailable(text, reason="DISK_FAILED", retry_after_s=5.0)
    number = STATUS_OF[type(failed)][1]
    code = next(status for status in grpc.StatusCode if status.value[0] == number)
    context.set_trailing_metadata(((DETAILS_KEY, to_status_details(failed)),))
    await context.abort(code, status_message(failed))
    raise AssertionError("abort raises")


class SidecarServicer(pb_grpc.SidecarServiceServicer):
    """What the log API answers.

    Args:
        intake: where it is stored.
        clock: stamps rows that carry no time.
        refuse_when_full: True: a full spool refuses; False: the oldest unacknowledged rows go.
        status: fills in what the servicer does not know: the link and the capture counts.
    """

    def __init__(
        self,
        intake: Intake,
        clock: Clock,
        *,
        refuse_when_full: bool = True,
        status: Callable[[pb.SidecarServiceGetStatusResponse], None] = lambda _: None,
    ) -> None:
        """Keep them."""
        self._intake = intake
        self._clock = clock
        self._refuse = refuse_when_full
        self._status = status

    async def LogPredictions(
        self, request: pb.SidecarServiceLogPredictionsRequest, context: Any
    ) -> pb.SidecarServiceLogPredictionsResponse:
        """Store predictions."""
        return await _answer(context, self._log_predictions(request))

    async def LogGroundTruth(
        self, request: pb.SidecarServiceLogGroundTruthRequest, context: Any
    ) -> pb.SidecarServiceLogGroundTruthResponse:
        """Store true values."""
        return await _answer(context, self._log_truths(request))

    async def GetStatus(
        self, request: pb.SidecarServiceGetStatusRequest, context: Any
    ) -> pb.SidecarServiceGetStatusResponse:
        """Tell how the sidecar stands."""
        spool = self._intake.spool
        rows, size = spool.unacknowledged()
        answer = pb.SidecarServiceGetStatusResponse(
            instance=spool.instance,
            incarnation=spool.incarnation,
            config_version=self._intake.config.version,
            spool_bytes=size,
            spool_rows=rows,
            verdicts=[report.verdict for report in self._intake.verdicts.values()],
        )
        self._status(answer)
        return answer

    async def _log_predictions(
        self, request: pb.SidecarServiceLogPredictionsRequest
    ) -> pb.SidecarServiceLogPredictionsResponse:
        body = Request.digest(request.batch.SerializeToString(deterministic=True)) if request.request_id else ""
        known = self._known(request.request_id, body)
        if known is None:
            batch = self._read(request.batch)
            live = batch.roles == LIVE
            columns = (batch.codes[live].tolist(), batch.latencies_us[live].tolist(), batch.times_us[live].tolist())
            captured = Captured(
                batches=list(split_batch(batch)),
                calls=[Call(0, code, latency, start) for code, latency, start in zip(*columns, strict=True)],
                replicas=[batch.who.replica],
            )
            meta = {"logged": (batch.who.replica, len(batch)), **self._remember(request.request_id, body, len(batch))}
            self._intake.store_captured(captured, meta, refuse=self._refuse)
            known = len(batch)
        await self._intake.spool.sync()
        return pb.SidecarServiceLogPredictionsResponse(stored=known)

    async def _log_truths(
        self, request: pb.SidecarServiceLogGroundTruthRequest
    ) -> pb.SidecarServiceLogGroundTruthResponse:
        body = Request.digest(request.batch.SerializeToString(deterministic=True)) if request.request_id else ""
        known = self._known(request.request_id, body)
        if known is None:
            batch = self._checked_truths(request.batch)
            known = len(batch.prediction_ids)
            self._intake.store_truths(batch, self._remember(request.request_id, body, known), refuse=self._refuse)
        await self._intake.spool.sync()
        return pb.SidecarServiceLogGroundTruthResponse(stored=known)

    def _known(self, request_id: str, body: str) -> int | None:
        if not request_id:
            return None
        request = self._intake.accounts.recall(request_id, self._clock.time_s())
        if request is None:
            return None
        if request.body != body:
            text = "was used for another request within the last 10 minutes: give each request its own"
            raise InvalidArgument(
                f"request_id {request_id[:80]!r} {text}",
                reason="REQUEST_ID_REUSED",
                violations=[Violation("request_id", text, "REQUEST_ID_REUSED")],
            )
        return request.stored

    def _remember(self, request_id: str, body: str, stored: int) -> dict[str, Any]:
        if not request_id:
            return {}
        return {"request": (Request.digest(request_id.encode()), body, stored, self._clock.time_s())}

    def _read(self, message: monitoring.PredictionBatch) -> RowBatch:
        who = self._binding(message.replica).who
        found = [
            Violation(f"batch.{name}", f"is {given!r}, replica {who.replica} serves {own!r}", "NOT_BOUND")
            for name, given, own in (
                ("deployment", message.deployment, who.deployment),
                ("endpoint", message.endpoint, who.endpoint),
                ("model", message.model, who.model),
                ("version", message.version, who.version),
            )
            if given and given != own
        ]
        rows = len(message.prediction_ids)
        if not 1 <= rows <= _MAX_ROWS:
            found.append(Violation("batch.prediction_ids", f"has {rows} rows, give 1 to {_MAX_ROWS}", "OUT_OF_RANGE"))
        if not message.columns:
            found.append(Violation("batch.columns", "is empty: a prediction needs inputs or outputs", "MISSING"))
        if found:
            raise InvalidArgument("the batch is refused", reason="BAD_BATCH", violations=found)
        if not message.times_us:
            message.times_us.extend([int(self._clock.time_s() * 1e6)] * rows)
        return replace(from_message(message), who=who)

    def _binding(self, replica: str) -> Binding:
        bindings = self._intake.bindings or {self._intake.fallback.who.replica: self._intake.fallback}
        if not replica and len(bindings) == 1:
            return next(iter(bindings.values()))
        if replica in bindings:
            return bindings[replica]
        listed = ", ".join(sorted(bindings)[:10])
        raise NotFound(f"replica {replica!r} is not bound here; bound are: {listed}", reason="REPLICA_NOT_FOUND")

    def _checked_truths(self, batch: monitoring.GroundTruthBatch) -> monitoring.GroundTruthBatch:
        rows = len(batch.prediction_ids)
        found: list[Violation] = []
        if not 1 <= rows <= _MAX_ROWS:
            found.append(Violation("batch.prediction_ids", f"has {rows} rows, give 1 to {_MAX_ROWS}", "OUT_OF_RANGE"))
        if not all(batch.prediction_ids):
            found.append(Violation("batch.prediction_ids", "an id is empty: it finds no prediction", "MISSING"))
        if bool(batch.values) == bool(batch.labels):
            found.append(Violation("batch.values", "give either values or labels", "MISSING"))
        if any(len(ident.encode()) > MAX_ID_BYTES for ident in batch.prediction_ids):
            found.append(Violation("batch.prediction_ids", f"have at most {MAX_ID_BYTES} bytes", "OUT_OF_RANGE"))
        if any(math.isnan(value) for value in batch.values):
            found.append(Violation("batch.values", "NaN is no truth: leave the row out", "OUT_OF_RANGE"))
        if any(not 0 <= time_us <= LATEST_US for time_us in batch.times_us):
            found.append(Violation("batch.times_us", "must be microseconds since 1970, before 9999", "OUT_OF_RANGE"))
        for name in ("values", "labels", "times_us"):
            size = len(getattr(batch, name))
            if size not in (0, rows):
                found.append(Violation(f"batch.{name}", f"has {size} entries for {rows} ids", "LENGTHS_DIFFER"))
        if found:
            raise InvalidArgument("the truths are refused", reason="BAD_TRUTHS", violations=found)
        if not batch.times_us:
            batch.times_us.extend([int(self._clock.time_s() * 1e6)] * rows)
        return batch


class LogServer:
    """The gRPC server of the log API on a Unix socket that only its owner may open."""

    def __init__(self, path: Path, servicer: SidecarServicer) -> None:
        """Prepare; nothing is opened before `start`."""
        self._path = path
        self._servicer = servicer
        self._server: Any = None

    async def start(self) -> None:
        """Listen.

        Raises:
            InvalidArgument: the path is too long for a Unix socket.
            OSError: it cannot be made.
        """
        if len(os.fsencode(self._path)) > _MAX_SOCKET_PATH:
            raise InvalidArgument(
                f"the socket path {self._path} is too long, Unix sockets allow {_MAX_SOCKET_PATH} bytes: "
                "choose a shorter PILOTFISH_HOME"
            )
        limits = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
        self._server = grpc.aio.server(options=limits)
        pb_grpc.add_SidecarServiceServicer_to_server(self._servicer, self._server)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        # Made with mode 0600 from its first moment: the mode is what guards it.
        before = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
            os.chmod(self._path, 0o600)
        finally:
            os.umask(before)
        await self._server.start()

    async def stop(self) -> None:
        """Let calls in flight finish, at most a second."""
        if self._server is not None:
            await self._server.stop(1.0)
            with contextlib.suppress(OSError):
                self._path.unlink()
