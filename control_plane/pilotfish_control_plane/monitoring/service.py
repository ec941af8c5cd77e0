"""Monitoring as the rest of the control plane sees it: evidence, live metrics, alerts, and what sidecars report.

Owns the composition of its parts in one transaction. Rows of predictions are in the prediction log, which is read
outside any transaction (`monitoring.quality`, `monitoring.report`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from pilotfish.errors import NotFound
from pilotfish_control_plane.deployments.model import Deployment, Stage
from pilotfish_control_plane.monitoring.alerts import Alerts
from pilotfish_control_plane.monitoring.drift import DriftJudge, OnLearned, ProfileOf
from pilotfish_control_plane.monitoring.model import (
    AlertKind,
    Capture,
    EvidenceEvent,
    Metrics,
    MetricValue,
    Outcome,
    Quality,
    Severity,
    StoredVerdict,
    WindowReport,
)
from pilotfish_control_plane.monitoring.rules import histogram_quantile
from pilotfish_control_plane.storage import monitoring as rows
from pilotfish_control_plane.storage import watermarks
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["DEFAULT_SPAN", "MonitoringService"]

DEFAULT_SPAN = timedelta(hours=1)
ALERT_SPAN = timedelta(minutes=1)
QUANTILES = (0.5, 0.95, 0.99)

Evidence = Mapping[str, MetricValue]


class MonitoringService:
    """What is known about deployments."""

    def __init__(
        self, deployment_of: Callable[[Tx, str], Deployment], profile_of: ProfileOf, on_learned: OnLearned
    ) -> None:
        """Look deployments and their references up through the functions given."""
        self._deployment_of = deployment_of
        self.alerts = Alerts()
        self._judge = DriftJudge(self.alerts, profile_of, on_learned)

    # What is reported ------------------------------------------------------------------------------------

    def take_window(self, tx: Tx, report: WindowReport) -> StoredVerdict | None:
        """Take a closed window; None: it came before, or its deployment is unknown."""
        try:
            deployment = self._deployment_of(tx, report.deployment)
        except NotFound:
            return None
        return self._judge.take(tx, deployment, report)

    def take_outcome(self, tx: Tx, outcome: Outcome) -> None:
        """Add the counts of a span, and begin or end the alert on errors."""
        rows.add_outcome(tx.conn, outcome)
        if outcome.calls:
            self._watch_errors(tx, outcome.deployment)
            tx.wake("rollouts")
            tx.wake("lifecycle")

    def take_quality(self, tx: Tx, quality: Quality) -> None:
        """Keep the newest quality of a deployment, and begin or end the alert on accuracy."""
        rows.set_quality(tx.conn, quality)
        self._watch_accuracy(tx, quality)
        tx.wake("rollouts")
        tx.wake("lifecycle")

    def take_capture(self, tx: Tx, replica: str, deployment: str, capture: Capture) -> None:
        """Keep what a replica's tap has counted."""
        rows.set_capture(tx.conn, replica, deployment, capture, tx.now)

    def watermark(self, tx: Tx, instance: str, incarnation: int, stream: str) -> int:
        """Return the first offset of a stream of reports that is not stored."""
        return watermarks.watermark(tx.conn, instance, incarnation, stream)

    def set_watermark(self, tx: Tx, instance: str, incarnation: int, stream: str, offset: int) -> None:
        """Keep it, in the transaction of the reports themselves."""
        watermarks.set_watermark(tx.conn, instance, incarnation, stream, offset)

    def watermarks(self, tx: Tx, instance: str) -> list[tuple[str, int, int]]:
        """Return (stream, incarnation, watermark) of every stream of reports of an instance."""
        return watermarks.watermarks_of(tx.conn, instance)

    # What is known ---------------------------------------------------------------------------------------

    def evidence(self, tx: Tx, deployment_id: str, since: datetime | None = None) -> Evidence:
        """Return every metric of a deployment with its sample, over its life or since a time.

        Counts of calls are kept in buckets of ten seconds: `since` is rounded down to one. Quality with labels is
        over the deployment's whole life, because labels come late.
        """
        found: dict[str, MetricValue] = {}
        outcome = rows.outcomes_between(tx.conn, deployment_id, since)
        source = f"outcomes/{deployment_id}/{outcome.started:%Y%m%dT%H%M%S}-{outcome.ended:%Y%m%dT%H%M%S}"
        errors = sum(outcome.errors.values())
        found["prediction_count"] = MetricValue(float(outcome.calls), outcome.calls, source)
        if outcome.calls:
            found["error_ratio"] = MetricValue(errors / outcome.calls, outcome.calls, source)
        timed = sum(outcome.counts)
        if timed:
            found["latency_mean_ms"] = MetricValue(outcome.sum_us / timed / 1000.0, timed, source)
            for q in QUANTILES:
                value = histogram_quantile(outcome.bounds_us, outcome.counts, q)
                if value is not None:
                    found[f"latency_p{round(q * 100)}_ms"] = MetricValue(value / 1000.0, timed, source)
        found |= self._drift_evidence(tx, deployment_id, since)
        return found | self._quality_evidence(tx, deployment_id)

    def _drift_evidence(self, tx: Tx, deployment_id: str, since: datetime | None) -> dict[str, MetricValue]:
        newest = rows.newest_verdict(tx.conn, deployment_id, since)
        if newest is None or not newest.verdict.get("features"):
            return {}
        verdict, source = newest.verdict, f"windows/{newest.window}"
        return {
            "drift_score": MetricValue(float(verdict["data_score"]), int(verdict["n"]), source),
            "prediction_drift_score": MetricValue(float(verdict["prediction_score"]), int(verdict["n"]), source),
            "drifted": MetricValue(float(bool(verdict["drifted"])), int(verdict["n"]), source),
        }

    def _quality_evidence(self, tx: Tx, deployment_id: str) -> dict[str, MetricValue]:
        quality = rows.quality(tx.conn, deployment_id)
        if quality is None:
            return {}
        source = f"labels/{deployment_id}/{quality.computed:%Y%m%dT%H%M%S}"
        found = {name: MetricValue(value, quality.labelled, source) for name, value in quality.metrics.items()}
        found["label_count"] = MetricValue(float(quality.labelled), quality.labelled, source)
        if quality.answered:
            ratio = quality.labelled / quality.answered
            found["label_coverage"] = MetricValue(ratio, quality.answered, source)
        return found

    def metrics(self, tx: Tx, deployment: Deployment, start: datetime, end: datetime) -> Metrics:
        """Return the live numbers of a deployment over [start, end)."""
        outcome = rows.outcomes_between(tx.conn, deployment.id, start, end)
        timed = sum(outcome.counts)
        latency = {q: histogram_quantile(outcome.bounds_us, outcome.counts, q) for q in QUANTILES}
        return Metrics(
            deployment=deployment.id,
            endpoint=deployment.endpoint,
            version=deployment.version,
            start=start,
            end=end,
            calls=outcome.calls,
            errors=sum(outcome.errors.values()),
            latency_mean_ms=outcome.sum_us / timed / 1000.0 if timed else None,
            latency_ms={q: v / 1000.0 for q, v in latency.items() if v is not None},
            quality=rows.quality(tx.conn, deployment.id),
            drift=rows.newest_verdict(tx.conn, deployment.id),
            capture=rows.capture(tx.conn, deployment.id),
        )

    def quality(self, tx: Tx, deployment_id: str) -> Quality | None:
        """Return how well a deployment's labelled predictions agree with their truths."""
        return rows.quality(tx.conn, deployment_id)

    def evidence_after(self, tx: Tx, serial: int) -> list[tuple[int, EvidenceEvent]]:
        """Return evidence that came after a serial number, in order."""
        return rows.evidence_after(tx.conn, serial)

    def episode(self, tx: Tx, deployment_id: str, evidence_id: str) -> tuple[int, bool] | None:
        """Return the drifted windows of an episode and whether it is open; None: a newer one has begun."""
        kind, _, number = evidence_id.removeprefix(f"{deployment_id}/").partition("/")
        found = rows.episode(tx.conn, deployment_id, kind)
        if found is None or str(found["number"]) != number:
            return None
        return int(found.get("drifted_windows", 0)), bool(found["open"])

    # Bounds ----------------------------------------------------------------------------------------------

    def _watch_errors(self, tx: Tx, deployment_id: str) -> None:
        """Begin or end the alert on errors over the last minute."""
        try:
            deployment = self._deployment_of(tx, deployment_id)
        except NotFound:
            return
        bounds = deployment.config.monitoring.performance_monitoring
        if not bounds.enabled:
            return
        recent = rows.outcomes_between(tx.conn, deployment_id, tx.now - ALERT_SPAN)
        if recent.calls < bounds.min_sample:
            return
        ratio = sum(recent.errors.values()) / recent.calls
        limit = bounds.max_error_ratio
        words = f"{ratio:.1%} of {recent.calls} calls failed in the last minute, the limit is {limit:.1%}"
        details = {
            "error_ratio": ratio,
            "n": recent.calls,
            "limit": bounds.max_error_ratio,
            "errors": dict(recent.errors),
        }
        self._bound(tx, deployment, AlertKind.ERROR_RATE, ratio > bounds.max_error_ratio, words, details)

    def _watch_accuracy(self, tx: Tx, quality: Quality) -> None:
        """Begin or end the alert on accuracy."""
        try:
            deployment = self._deployment_of(tx, quality.deployment)
        except NotFound:
            return
        bounds = deployment.config.monitoring.performance_monitoring
        accuracy = quality.metrics.get("accuracy")
        if not bounds.enabled or not bounds.min_accuracy or accuracy is None or quality.labelled < bounds.min_sample:
            return
        words = f"accuracy {accuracy:.3f} on {quality.labelled} labels, the limit is {bounds.min_accuracy:.3f}"
        details = {"accuracy": accuracy, "n": quality.labelled, "limit": bounds.min_accuracy}
        self._bound(tx, deployment, AlertKind.PERFORMANCE, accuracy < bounds.min_accuracy, words, details)

    def _bound(
        self, tx: Tx, deployment: Deployment, kind: AlertKind, crossed: bool, words: str, details: Mapping[str, object]
    ) -> None:
        stored = rows.episode(tx.conn, deployment.id, kind.value) or {"number": 0, "open": False}
        number, is_open = int(stored["number"]), bool(stored["open"])
        if crossed == is_open:
            return
        number += crossed
        episode = f"{deployment.id}/{kind.value}/{number}"
        rows.set_episode(tx.conn, deployment.id, kind.value, number, crossed, {"number": number, "open": crossed})
        if not crossed:
            self.alerts.resolve(tx, deployment.id, kind, episode)
            return
        severity = Severity.CRITICAL if deployment.stage is Stage.PRODUCTION else Severity.WARNING
        self.alerts.raise_alert(
            tx, kind, severity, project=deployment.project, endpoint=deployment.endpoint, deployment=deployment.id,
            summary=f"{deployment.endpoint}: {words} ({deployment.model}@{deployment.version})", details=details,
            episode=episode,
        )  # fmt: skip
