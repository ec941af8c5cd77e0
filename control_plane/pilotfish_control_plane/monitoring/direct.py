"""Predictions and truths that come straight to the control plane: batch scoring, clients without a sidecar.

Owns their durability and their windows. The same drift code runs over them as in a sidecar.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from datetime import UTC, datetime

from pilotfish.errors import InvalidArgument
from pilotfish.stats import Profile, WindowTracker, verdict
from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.monitoring.drift import ProfileOf
from pilotfish_control_plane.monitoring.model import Outcome, WindowReport
from pilotfish_control_plane.monitoring.quality import QualityWatch
from pilotfish_control_plane.monitoring.rules import drift_config, verdict_to_json
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.prediction_log import Batch, ColumnBatch, PredictionLog, Source, TruthBatch
from pilotfish_control_plane.storage import monitoring as rows
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["DirectLog"]

INSTANCE = "control-plane"


class DirectLog:
    """Stores rows and truths that callers log themselves, once per request id."""

    def __init__(
        self,
        db: Database,
        predictions: PredictionLog,
        service: MonitoringService,
        quality: QualityWatch,
        clock: Clock,
        profile_of: ProfileOf,
    ) -> None:
        """Store rows in `predictions`; judge windows against `profile_of`."""
        self._db = db
        self._predictions = predictions
        self._service = service
        self._quality = quality
        self._clock = clock
        self._profile_of = profile_of
        self._lock = asyncio.Lock()

    async def log_predictions(self, deployment: Deployment, batch: ColumnBatch, request_id: str) -> int:
        """Store rows durably and count them into the deployment's windows; return the rows stored by this request."""
        batch = dataclasses.replace(
            batch,
            deployment=deployment.id,
            endpoint=deployment.endpoint,
            model=deployment.model,
            version=deployment.version,
            input_hash=batch.input_hash,
        )
        stored = await self._append(f"predictions/{deployment.id}", batch, request_id)
        if stored:
            await self._db.write(lambda tx: self._count(tx, deployment, batch))
            self._quality.predictions_came([deployment.id])
        return len(batch)

    async def log_truths(self, batch: TruthBatch, request_id: str) -> None:
        """Store true values durably."""
        await self._append("truths", batch, request_id)
        self._quality.labels_came()

    async def _append(self, stream: str, batch: Batch, request_id: str) -> int:
        """Append under the request's own source, so that a repeated request stores nothing again."""
        if request_id:
            key = hashlib.sha256(f"{stream}/{request_id}".encode()).hexdigest()[:32]
            source, first = Source(f"{INSTANCE}/{key}", 0, stream.partition("/")[0]), 0
            return (await asyncio.to_thread(self._predictions.append, source, first, len(batch), batch)).stored_rows
        async with self._lock:
            source = Source(INSTANCE, 0, stream)
            first = self._predictions.watermark(source)
            found = await asyncio.to_thread(self._predictions.append, source, first, first + len(batch), batch)
            return found.stored_rows

    def _count(self, tx: Tx, deployment: Deployment, batch: ColumnBatch) -> None:
        """Add rows to the outcome counts and to the windows kept in the database."""
        errors = int((batch.codes != 0).sum())
        at = datetime.fromtimestamp(int(batch.times_us.max()) / 1e6, UTC)
        live = int((batch.roles == 0).sum())
        by_code = {"UNKNOWN": errors} if errors else {}
        self._service.take_outcome(tx, Outcome("direct", deployment.id, at, at, live, by_code, (), (), 0))
        settings = deployment.config.monitoring.drift_detection
        reference = self._profile_of(tx, deployment)
        if not settings.enabled or reference is None:
            return
        profile, config = Profile.from_json(reference[1]), drift_config(settings)
        tracker = self._tracker(tx, deployment, profile)
        keep = (batch.roles == 0) & (batch.codes == 0)
        inputs = {n: v[keep] for n, v in batch.inputs.items()}
        outputs = {n: v[keep] for n, v in batch.outputs.items()}
        if not keep.any():
            return
        for window in tracker.add(inputs, outputs, at):
            report = WindowReport(
                window=f"direct/{deployment.id}/{window.index}",
                replica="direct",
                deployment=deployment.id,
                index=window.index,
                rows=window.rows,
                started=window.started,
                ended=window.ended,
                profile_id=profile.id,
                counts={scale: counts.to_bytes() for scale, counts in window.sums.items()},
                verdict=verdict_to_json(verdict(profile, window.sums, config)),
            )
            self._service.take_window(tx, report)
        rows.set_direct_state(tx.conn, deployment.id, tracker.to_bytes(), tx.now)

    def _tracker(self, tx: Tx, deployment: Deployment, profile: Profile) -> WindowTracker:
        config = drift_config(deployment.config.monitoring.drift_detection)
        state = rows.direct_state(tx.conn, deployment.id)
        if state is not None:
            try:
                return WindowTracker.from_bytes(state, profile, config)
            except InvalidArgument:
                # The profile or the window's settings changed: the old partial window means nothing any more.
                pass
        return WindowTracker(profile, config)
