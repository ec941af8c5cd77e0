"""What a deployment is made of: resources, scaling, health checks, rollback, monitoring.

Owns the values with their defaults and their plain-JSON form. Whether a value makes sense is told by
`deployments.rules.configuration`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DataQualityMonitoring",
    "DeploymentConfig",
    "DriftDetection",
    "HealthCheck",
    "MonitoringConfig",
    "PerformanceMonitoring",
    "Resources",
    "RollbackSettings",
    "Scaling",
    "config_from_json",
    "config_to_json",
]

DEFAULT_SCALES = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica may use: CPU cores, memory in MiB."""

    cpu_cores: float = 1.0
    memory_mib: int = 1024


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas: as set, or between least and most by load when `target_in_flight` > 0."""

    replicas: int = 1
    min_replicas: int = 1
    max_replicas: int = 1
    target_in_flight: float = 0.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a replica is probed; times in seconds, thresholds in probes in a row."""

    interval_s: float = 2.0
    timeout_s: float = 1.0
    failure_threshold: int = 3
    success_threshold: int = 1
    startup_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RollbackSettings:
    """Whether automation may roll it back, and how many seconds its predecessor is kept warm."""

    automatic: bool = True
    keep_previous_s: int = 0


@dataclass(frozen=True, slots=True)
class DriftDetection:
    """How drift is found; `threshold` None: the method's own; `window_size` in rows, `window_time_s` in seconds."""

    enabled: bool = True
    method: str = "calibrated"
    threshold: float | None = None
    window_size: int = 1000
    window_time_s: float = 300.0
    min_sample: int = 100
    scales: tuple[int, ...] = DEFAULT_SCALES
    learn_rows: int = 5000


@dataclass(frozen=True, slots=True)
class PerformanceMonitoring:
    """Bounds on errors per call, latency and accuracy; 0: no bound (but for `max_error_ratio`)."""

    enabled: bool = True
    max_error_ratio: float = 0.05
    max_latency_p99_ms: float = 0.0
    min_accuracy: float = 0.0
    min_sample: int = 100


@dataclass(frozen=True, slots=True)
class DataQualityMonitoring:
    """Bound on the share of missing values; None: 0.2 above the reference."""

    enabled: bool = True
    max_missing_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class MonitoringConfig:
    """What is watched; `sample_bp` is the share of rows that are kept, in basis points."""

    drift_detection: DriftDetection = field(default_factory=DriftDetection)
    performance_monitoring: PerformanceMonitoring = field(default_factory=PerformanceMonitoring)
    data_quality: DataQualityMonitoring = field(default_factory=DataQualityMonitoring)
    sample_bp: int = 10_000


@dataclass(frozen=True, slots=True)
class DeploymentConfig:
    """The whole configuration of one revision."""

    resources: Resources = field(default_factory=Resources)
    scaling: Scaling = field(default_factory=Scaling)
    health_check: HealthCheck = field(default_factory=HealthCheck)
    rollback: RollbackSettings = field(default_factory=RollbackSettings)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)


# Any: JSON values of several types.
def config_to_json(config: DeploymentConfig) -> dict[str, Any]:
    """Return the configuration as plain JSON, field by field."""
    found = dataclasses.asdict(config)
    found["monitoring"]["drift_detection"]["scales"] = list(config.monitoring.drift_detection.scales)
    return found


def config_from_json(stored: Mapping[str, Any]) -> DeploymentConfig:
    """Return the configuration that `config_to_json` wrote; a field added since has its default."""
    monitoring = stored.get("monitoring", {})
    drift = dict(monitoring.get("drift_detection", {}))
    if "scales" in drift:
        drift["scales"] = tuple(drift["scales"])
    return DeploymentConfig(
        Resources(**stored.get("resources", {})),
        Scaling(**stored.get("scaling", {})),
        HealthCheck(**stored.get("health_check", {})),
        RollbackSettings(**stored.get("rollback", {})),
        MonitoringConfig(
            DriftDetection(**drift),
            PerformanceMonitoring(**monitoring.get("performance_monitoring", {})),
            DataQualityMonitoring(**monitoring.get("data_quality", {})),
            monitoring.get("sample_bp", 10_000),
        ),
    )
