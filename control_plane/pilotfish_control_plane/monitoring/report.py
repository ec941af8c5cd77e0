"""The monitoring report of an endpoint over a span: what served, how well, what drifted, what to do.

Owns the composition. Counts of rows come from the prediction log, everything else from one read transaction; the
recommendations are pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.monitoring.model import Alert, Metrics, StoredVerdict
from pilotfish_control_plane.monitoring.rules import drifted_features
from pilotfish_control_plane.prediction_log import DailyCount, PredictionLog

__all__ = ["Facts", "LogFacts", "read_log", "report_json"]

LOW_COVERAGE = 0.2


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database knows of an endpoint over a span."""

    endpoint: str
    start: datetime
    end: datetime
    created: datetime
    model_information: Mapping[str, Any]  # plain JSON
    deployments: Sequence[Deployment]
    metrics: Sequence[Metrics]
    verdicts: Sequence[StoredVerdict]
    alerts: Sequence[Alert]


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What the prediction log knows; latencies in microseconds by quantile."""

    daily: Sequence[DailyCount]
    predictions: int
    errors: int
    latency_us: Mapping[float, int]
    latency_mean_us: float | None
    conflicts: int


def read_log(predictions: PredictionLog, deployments: Sequence[str], start: datetime, end: datetime) -> LogFacts:
    """Return the counts of rows of deployments over [start, end); reads files, call it outside any transaction."""
    span = int(start.timestamp() * 1e6), int(end.timestamp() * 1e6)
    if not deployments:
        return LogFacts((), 0, 0, {}, None, 0)
    daily = predictions.daily_counts(deployments, *span)
    latency = predictions.latency_quantiles(deployments, *span)
    return LogFacts(
        daily,
        sum(d.predictions for d in daily),
        sum(d.errors for d in daily),
        latency.values_us,
        None,
        sum(d.conflicts for d in daily),
    )


def report_json(facts: Facts, log: LogFacts) -> dict[str, Any]:
    """Return the report as plain JSON."""
    versions = {d.id: d.version for d in facts.deployments}
    labelled = sum(m.quality.labelled for m in facts.metrics if m.quality)
    answered = sum(m.quality.answered for m in facts.metrics if m.quality)
    latency = {f"p{round(q * 100)}_ms": us / 1000.0 for q, us in log.latency_us.items()}
    calls = sum(m.calls for m in facts.metrics)
    means = [(m.latency_mean_ms, m.calls) for m in facts.metrics if m.latency_mean_ms is not None]
    report = {
        "endpoint": facts.endpoint,
        "start": facts.start.isoformat(),
        "end": facts.end.isoformat(),
        "created": facts.created.isoformat(),
        "model_information": dict(facts.model_information),
        "totals": {
            "predictions": log.predictions,
            "errors": log.errors,
            "error_ratio": log.errors / log.predictions if log.predictions else None,
            "calls": calls,
            "latency": latency,
            "latency_mean_ms": sum(v * n for v, n in means) / sum(n for _, n in means) if means else None,
            "labelled": labelled,
            "label_coverage": labelled / answered if answered else None,
        },
        "predictions_per_day": [
            {
                "day": d.day.isoformat(),
                "deployment": d.deployment,
                "version": versions.get(d.deployment, 0),
                "predictions": d.predictions,
                "errors": d.errors,
            }
            for d in log.daily
        ],
        "performance_analysis": [_performance(m) for m in facts.metrics],
        "drift_analysis": _drift(facts.verdicts),
        "data_quality": _data_quality(facts, log),
        "alerts": [_alert(a) for a in facts.alerts],
    }
    report["recommendations"] = recommend(report)
    return report


def _performance(m: Metrics) -> dict[str, Any]:
    return {
        "deployment": m.deployment,
        "version": m.version,
        "calls": m.calls,
        "errors": m.errors,
        "error_ratio": m.errors / m.calls if m.calls else None,
        "latency_mean_ms": m.latency_mean_ms,
        "latency": {f"p{round(q * 100)}_ms": v for q, v in m.latency_ms.items()},
        "labelled": m.quality.labelled if m.quality else 0,
        "quality": dict(m.quality.metrics) if m.quality else {},
    }


def _drift(verdicts: Sequence[StoredVerdict]) -> dict[str, Any]:
    judged = [v for v in verdicts if v.verdict.get("features")]
    drifted = [v for v in judged if v.verdict["drifted"]]
    often = Counter(name for v in drifted for name in drifted_features(v.verdict))
    worst = max(judged, key=lambda v: float(v.verdict["score"]), default=None)
    return {
        "windows": len(judged),
        "windows_drifted": len(drifted),
        "episodes": sorted({v.episode for v in drifted if v.episode}),
        "most_drifted_features": [{"feature": n, "windows": c} for n, c in often.most_common(10)],
        "worst": None
        if worst is None
        else {k: worst.verdict[k] for k in ("method", "score", "threshold", "n")} | {"window": worst.window},
        "newest": None
        if not judged
        else {k: judged[-1].verdict[k] for k in ("method", "score", "threshold", "n", "drifted")},
    }


def _data_quality(facts: Facts, log: LogFacts) -> dict[str, Any]:
    undecodable: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    served = captured = 0
    for m in facts.metrics:
        if m.capture is not None:
            undecodable.update(m.capture.undecodable)
            dropped.update(m.capture.dropped)
            served, captured = served + m.capture.served, captured + m.capture.captured
    missing = [
        f["feature"]
        for v in facts.verdicts
        for f in v.verdict.get("features", ())
        if f["drifted"] and f["reason"] == "missing"
    ]
    return {
        "served": served,
        "captured": captured,
        "dropped": dict(dropped),
        "undecodable": dict(undecodable),
        "conflicting_ids": log.conflicts,
        "features_with_more_missing_values": sorted(set(missing)),
    }


def _alert(a: Alert) -> dict[str, Any]:
    return {
        "id": a.id,
        "kind": a.kind.value,
        "state": a.state.value,
        "severity": a.severity.value,
        "summary": a.summary,
        "started": a.started.isoformat(),
        "ended": a.ended.isoformat() if a.ended else None,
        "acknowledged_by": a.acknowledged_by,
    }


# Any: the report's own JSON.
def recommend(report: Mapping[str, Any]) -> list[str]:
    """Return what to do, in sentences; a quiet report says so."""
    found: list[str] = []
    totals, drift, quality = report["totals"], report["drift_analysis"], report["data_quality"]
    if not totals["predictions"]:
        return ["No prediction was logged in this span: check that callers reach the endpoint and a sidecar runs."]
    if drift["newest"] and drift["newest"]["drifted"]:
        names = ", ".join(f["feature"] for f in drift["most_drifted_features"][:3])
        found.append(
            f"The newest window drifted (most often {names}): retrain on recent labelled rows, or find the cause."
        )
    elif drift["windows_drifted"]:
        found.append(
            f"{drift['windows_drifted']} of {drift['windows']} windows drifted, the newest did not: check what changed."
        )
    if totals["error_ratio"] and totals["error_ratio"] > 0.01:
        found.append(f"{totals['error_ratio']:.1%} of the predictions failed: look at the model server's log.")
    coverage = totals["label_coverage"]
    if coverage is None:
        found.append("No truth is known: send true values with log_truth so that quality can be told.")
    elif coverage < LOW_COVERAGE:
        found.append(f"Only {coverage:.0%} of the predictions have a truth: quality rests on few rows.")
    if quality["dropped"]:
        found.append(f"Predictions were not captured: {quality['dropped']}.")
    if quality["conflicting_ids"]:
        found.append(
            f"{quality['conflicting_ids']} predictions share their id with other inputs and join no truth: "
            "make ids unique."
        )
    return found or ["Nothing needs attention."]
