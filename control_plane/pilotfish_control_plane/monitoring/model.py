"""Windows, verdicts, alerts and evidence as frozen values.

Owns the words of monitoring. What follows from them is decided in `monitoring.rules`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = [
    "Alert",
    "AlertKind",
    "AlertState",
    "Capture",
    "EvidenceEvent",
    "EvidenceKind",
    "MetricValue",
    "Metrics",
    "Outcome",
    "Quality",
    "Severity",
    "StoredVerdict",
    "WindowReport",
]


class AlertKind(enum.StrEnum):
    """What an alert is about."""

    DATA_DRIFT = "data_drift"
    PREDICTION_DRIFT = "prediction_drift"
    PERFORMANCE = "performance"
    ERROR_RATE = "error_rate"
    DATA_QUALITY = "data_quality"
    ANOMALY = "anomaly"
    RULE = "rule"


class AlertState(enum.StrEnum):
    """How an alert stands."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Severity(enum.StrEnum):
    """How bad an alert is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class EvidenceKind(enum.StrEnum):
    """What automation may act on."""

    DATA_DRIFT = "data_drift"
    PREDICTION_DRIFT = "prediction_drift"
    PERFORMANCE_DEGRADATION = "performance_degradation"
    ERROR_RATE_INCREASE = "error_rate_increase"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts of calls of one replica over a span; latencies in microseconds, one bucket more than bounds."""

    replica: str
    deployment: str
    started: datetime
    ended: datetime
    calls: int
    errors: Mapping[str, int]
    bounds_us: tuple[int, ...]
    counts: tuple[int, ...]
    sum_us: int


@dataclass(frozen=True, slots=True)
class WindowReport:
    """A closed window of one replica; `counts` by scale as pilotfish.stats packs them."""

    window: str
    replica: str
    deployment: str
    index: int
    rows: int
    started: datetime
    ended: datetime
    profile_id: str
    counts: Mapping[int, bytes]
    verdict: Mapping[str, Any]  # the sidecar's own verdict as JSON, see `monitoring.rules.verdict_to_json`
    learned_profile: str = ""


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A deployment's verdict over a window, as it is kept."""

    id: int
    window: str
    project: str
    endpoint: str
    deployment: str
    verdict: Mapping[str, Any]  # as `verdict_to_json` writes it
    started: datetime
    ended: datetime
    episode: str = ""
    profile_id: str = ""


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric with its sample: value None where there is none, n observations, where it comes from."""

    value: float | None
    n: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well labelled predictions agree with their truths, over the deployment's whole life."""

    deployment: str
    computed: datetime
    labelled: int
    answered: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capture:
    """What a replica's tap served, captured and dropped."""

    served: int = 0
    captured: int = 0
    in_flight: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    undecodable: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Live numbers of a deployment over a span; latencies in milliseconds."""

    deployment: str
    endpoint: str
    version: int
    start: datetime
    end: datetime
    calls: int
    errors: int
    latency_mean_ms: float | None
    latency_ms: Mapping[float, float]
    quality: Quality | None
    drift: StoredVerdict | None
    capture: Capture | None


@dataclass(frozen=True, slots=True)
class EvidenceEvent:
    """One confirmed piece of evidence; `id` is the episode's, so that one drift is acted on once."""

    id: str
    kind: EvidenceKind
    project: str
    endpoint: str
    deployment: str
    stage: str
    value: float
    threshold: float
    n: int
    details: Mapping[str, Any]  # plain JSON
    evidence_time: datetime
    created: datetime


@dataclass(frozen=True, slots=True)
class Alert:
    """One per deployment, kind and episode."""

    id: str
    project: str
    kind: AlertKind
    state: AlertState
    severity: Severity
    endpoint: str
    deployment: str
    summary: str
    details: Mapping[str, Any]  # plain JSON
    episode: str
    started: datetime
    ended: datetime | None = None
    acknowledged_by: str = ""
    acknowledged: datetime | None = None
    note: str = ""
    silenced_until: datetime | None = None
