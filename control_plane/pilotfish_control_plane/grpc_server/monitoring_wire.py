"""Monitoring's values on the wire. Owns the conversion; decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish_control_plane.monitoring.model import (
    Alert,
    AlertKind,
    AlertState,
    Capture,
    Metrics,
    Severity,
    StoredVerdict,
)
from pilotfish_control_plane.names import AlertName

__all__ = ["alert_to_wire", "capture_from_wire", "metrics_to_wire", "report_to_wire", "stamp", "verdict_to_wire"]

ALERT_KINDS = {k: f"ALERT_KIND_{k.name}" for k in AlertKind}
ALERT_STATES = {s: f"ALERT_STATE_{s.name}" for s in AlertState}
SEVERITIES = {s: f"SEVERITY_{s.name}" for s in Severity}


def stamp(at: datetime | None) -> Timestamp | None:
    """Return a time in the wire's form; None stays unset."""
    if at is None:
        return None
    found = Timestamp()
    found.FromDatetime(at)
    return found


def alert_to_wire(alert: Alert) -> pb.Alert:
    """Return an alert in the wire's form."""
    found = pb.Alert(
        name=str(AlertName(alert.project, alert.id)),
        kind=ALERT_KINDS[alert.kind],
        state=ALERT_STATES[alert.state],
        severity=SEVERITIES[alert.severity],
        endpoint=alert.endpoint,
        deployment=alert.deployment,
        summary=alert.summary,
        episode=alert.episode,
        start_time=stamp(alert.started),
        end_time=stamp(alert.ended),
        acknowledged_by=alert.acknowledged_by,
        acknowledge_time=stamp(alert.acknowledged),
        silenced_until=stamp(alert.silenced_until),
    )
    found.details.update(dict(alert.details))
    return found


def verdict_to_wire(stored: StoredVerdict) -> pb.DriftVerdict:
    """Return a deployment's verdict in the wire's form."""
    v = stored.verdict
    found = pb.DriftVerdict(
        window=stored.window,
        deployment=stored.deployment,
        method=v["method"],
        score=v["score"],
        threshold=v["threshold"],
        n=v["n"],
        drifted=v["drifted"],
        data_score=v["data_score"],
        prediction_score=v["prediction_score"],
        start_time=stamp(stored.started),
        end_time=stamp(stored.ended),
        scale=v["scale"],
        reason=v["reason"],
        episode=stored.episode,
        profile_id=stored.profile_id,
    )
    for f in v.get("features", ()):
        feature = found.features.add(
            feature=f["feature"],
            group=pb.COLUMN_GROUP_OUTPUT if f["group"] == "output" else pb.COLUMN_GROUP_INPUT,
            score=f["score"],
            threshold=f["threshold"],
            n=f["n"],
            drifted=f["drifted"],
            reason=f["reason"],
        )
        if f.get("p_value") is not None:
            feature.p_value = f["p_value"]
    return found


def capture_to_wire(capture: Capture) -> pb.CaptureCounts:
    """Return counts of capture in the wire's form."""
    return pb.CaptureCounts(
        served=capture.served,
        captured=capture.captured,
        dropped=dict(capture.dropped),
        in_flight=capture.in_flight,
        undecodable=dict(capture.undecodable),
    )


def capture_from_wire(message: pb.CaptureCounts) -> Capture:
    """Return counts of capture as a value."""
    return Capture(
        message.served, message.captured, message.in_flight, dict(message.dropped), dict(message.undecodable)
    )


def metrics_to_wire(m: Metrics) -> pb.DeploymentMetrics:
    """Return live numbers in the wire's form; what is not known stays unset."""
    found = pb.DeploymentMetrics(
        deployment=m.deployment, endpoint=m.endpoint, version=m.version, prediction_count=m.calls, error_count=m.errors
    )
    found.range.start.FromDatetime(m.start)
    found.range.end.FromDatetime(m.end)
    if m.calls:
        found.error_ratio = m.errors / m.calls
    if m.latency_mean_ms is not None:
        found.latency_mean_ms = m.latency_mean_ms
    for q, name in ((0.5, "latency_p50_ms"), (0.95, "latency_p95_ms"), (0.99, "latency_p99_ms")):
        if q in m.latency_ms:
            setattr(found, name, m.latency_ms[q])
    if m.quality is not None:
        found.labelled_count = m.quality.labelled
        found.quality.update(m.quality.metrics)
        if m.quality.answered:
            found.label_coverage = m.quality.labelled / m.quality.answered
    if m.drift is not None:
        found.drift.CopyFrom(verdict_to_wire(m.drift))
    if m.capture is not None:
        found.capture.CopyFrom(capture_to_wire(m.capture))
    return found


# Any: the report's JSON.
def report_to_wire(report: Mapping[str, Any], metrics: list[Metrics], alerts: list[Alert]) -> pb.MonitoringReport:
    """Return a report in the wire's form."""
    found = pb.MonitoringReport(
        endpoint=report["endpoint"],
        create_time=stamp(datetime.fromisoformat(report["created"])),
        deployments=[metrics_to_wire(m) for m in metrics],
        recommendations=report["recommendations"],
        alerts=[alert_to_wire(a) for a in alerts],
    )
    found.range.start.FromDatetime(datetime.fromisoformat(report["start"]))
    found.range.end.FromDatetime(datetime.fromisoformat(report["end"]))
    found.model_information.update(report["model_information"])
    totals = report["totals"]
    found.totals.prediction_count, found.totals.error_count = totals["predictions"], totals["errors"]
    found.totals.endpoint, found.totals.labelled_count = report["endpoint"], totals["labelled"]
    for key in ("error_ratio", "latency_mean_ms", "label_coverage"):
        if totals[key] is not None:
            setattr(found.totals, key, totals[key])
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        if key in totals["latency"]:
            setattr(found.totals, f"latency_{key}", totals["latency"][key])
    for day in report["predictions_per_day"]:
        found.daily.add(day=day["day"], version=day["version"], predictions=day["predictions"], errors=day["errors"])
    found.performance_analysis.update({"deployments": report["performance_analysis"]})
    found.drift_analysis.update(report["drift_analysis"])
    found.data_quality.update(report["data_quality"])
    return found
