"""Quality of labelled predictions, kept up to date as labels and predictions meet in the prediction log.

Owns the join of late labels with what was predicted. It reads the log outside any transaction and writes one row a
deployment; computing it again changes nothing, so a crash needs no care.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.monitoring.model import Quality
from pilotfish_control_plane.monitoring.rules import quality_of
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.prediction_log import PredictionLog
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["QualityWatch", "Subject"]

log = logging.getLogger(__name__)

PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Subject:
    """A deployment to be judged: the output that holds its prediction and its classes."""

    deployment: str
    label: str | None
    classes: tuple[str, ...]


class QualityWatch:
    """Recomputes the quality of deployments whose rows or labels changed."""

    def __init__(
        self,
        db: Database,
        predictions: PredictionLog,
        service: MonitoringService,
        clock: Clock,
        live: Callable[[Tx], list[Subject]],
    ) -> None:
        """Judge what `live` lists."""
        self._db = db
        self._predictions = predictions
        self._service = service
        self._clock = clock
        self._live = live
        self._lock = threading.Lock()
        self._dirty: set[str] = set()
        self._labels = False
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def predictions_came(self, deployments: Iterable[str]) -> None:
        """Note that rows of deployments were stored; callable from any thread."""
        with self._lock:
            self._dirty.update(deployments)

    def labels_came(self) -> None:
        """Note that labels were stored; callable from any thread."""
        with self._lock:
            self._labels = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Recompute for ever, at most every quarter of a second."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(2.0):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            if self._take():
                await self._recompute()
            await asyncio.sleep(PAUSE_S)

    def _take(self) -> bool:
        """Tell whether anything may have changed; a label may belong to any deployment."""
        with self._lock:
            changed = self._labels or bool(self._dirty)
            self._labels = False
            self._dirty.clear()
        return changed

    async def _recompute(self) -> None:
        for subject in await self._db.read(self._live):
            try:
                found = await asyncio.to_thread(self._measure, subject, self._clock.now())
            except Exception:
                # One deployment's odd columns must not keep the others from being judged.
                log.exception("quality of %s cannot be computed", subject.deployment)
                continue
            if found is None:
                continue
            known = await self._db.read(lambda tx, d=subject.deployment: self._service.quality(tx, d))  # type: ignore[misc]
            if known is None or (known.labelled, known.answered, known.metrics) != (
                found.labelled, found.answered, dict(found.metrics),
            ):  # fmt: skip
                await self._db.write(lambda tx, q=found: self._service.take_quality(tx, q))  # type: ignore[misc]

    def _measure(self, subject: Subject, now: datetime) -> Quality | None:
        labelled = self._predictions.labelled(subject.deployment)
        if not labelled.ids:
            return None
        rate = self._predictions.error_rate([subject.deployment])
        metrics = quality_of(labelled.outputs, labelled.truths, label=subject.label, classes=subject.classes)
        return Quality(subject.deployment, now, len(labelled.ids), rate.predictions - rate.errors, metrics)
