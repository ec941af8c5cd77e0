"""Whether a configuration, a plan or a list of criteria makes sense; every problem at once.

Owns the bounds that the contract gives each field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_control_plane.deployments.configuration import DeploymentConfig, MonitoringConfig
from pilotfish_control_plane.deployments.model import FULL_WEIGHT_BP, Stage
from pilotfish_control_plane.deployments.rollout_model import Criterion, RolloutPlan

__all__ = ["DRIFT_METHODS", "METRICS", "check", "config_problems", "criteria_problems", "plan_problems"]

DRIFT_METHODS = ("calibrated", "ks_test", "psi", "js_distance", "wasserstein", "hellinger", "chi_square")
METRICS = (
    "error_ratio",
    "latency_mean_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "drift_score",
    "prediction_drift_score",
    "prediction_count",
    "label_count",
    "label_coverage",
    "accuracy",
    "precision",
    "recall",
    "f1_score",
    "roc_auc",
    "mae",
    "rmse",
    "r2",
)
MAX_REPLICAS = 64
MAX_STEPS = 100
MAX_CRITERIA = 50
MAX_SECONDS = 366 * 86_400.0

Check = tuple[str, bool, str]


def check(what: str, problems: Sequence[Violation]) -> None:
    """Raise InvalidArgument with all problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InvalidArgument(f"{what} is not valid: {count}", violations=problems)


def _failed(prefix: str, checks: Iterable[Check]) -> list[Violation]:
    return [Violation(f"{prefix}.{name}", text, "OUT_OF_RANGE") for name, good, text in checks if not good]


def _seconds(value: float, least: float, most: float = MAX_SECONDS) -> bool:
    return math.isfinite(value) and least <= value <= most


def config_problems(config: DeploymentConfig, stage: Stage, prefix: str = "config") -> list[Violation]:
    """Return what is wrong with a deployment's configuration in a stage."""
    scaling, health = config.scaling, config.health_check
    least = 1 if stage.is_live else 0
    found = [
        ("resources.cpu_cores", _seconds(config.resources.cpu_cores, 1e-3, 4096), "must be > 0 and at most 4096"),
        ("resources.memory_mib", 1 <= config.resources.memory_mib <= 1 << 24, "must be >= 1 and at most 16777216"),
        (
            "scaling.replicas",
            0 <= scaling.replicas <= MAX_REPLICAS,
            f"must be in 0..{MAX_REPLICAS}",
        ),
        (
            "scaling.replicas",
            scaling.replicas >= least or scaling.replicas < 0,
            f"must be at least 1 in stage {stage.value}: nothing would answer its traffic",
        ),
        (
            "scaling.min_replicas",
            least <= scaling.min_replicas <= scaling.max_replicas <= MAX_REPLICAS,
            f"must satisfy {least} <= min_replicas <= max_replicas <= {MAX_REPLICAS}",
        ),
        (
            "scaling.replicas",
            scaling.min_replicas <= scaling.replicas <= scaling.max_replicas or scaling.target_in_flight <= 0,
            "must lie between min_replicas and max_replicas when scaled by load",
        ),
        ("scaling.target_in_flight", _seconds(scaling.target_in_flight, 0, 1e6), "must be in 0..1000000"),
        ("health_check.interval_s", _seconds(health.interval_s, 0.1, 3600), "must be in 0.1..3600"),
        ("health_check.timeout_s", _seconds(health.timeout_s, 0.01, 3600), "must be in 0.01..3600"),
        ("health_check.failure_threshold", 1 <= health.failure_threshold <= 1000, "must be in 1..1000"),
        ("health_check.success_threshold", 1 <= health.success_threshold <= 1000, "must be in 1..1000"),
        ("health_check.startup_timeout_s", _seconds(health.startup_timeout_s, 0.1, 86_400), "must be in 0.1..86400"),
        ("rollback.keep_previous_s", 0 <= config.rollback.keep_previous_s <= 30 * 86_400, "must be in 0..2592000"),
    ]
    return _failed(prefix, found) + monitoring_problems(config.monitoring, f"{prefix}.monitoring")


def monitoring_problems(config: MonitoringConfig, prefix: str) -> list[Violation]:
    """Return what is wrong with a monitoring configuration."""
    drift, performance, quality = config.drift_detection, config.performance_monitoring, config.data_quality
    threshold = 0.0 if drift.threshold is None else drift.threshold
    missing = 0.0 if quality.max_missing_ratio is None else quality.max_missing_ratio
    found = [
        ("sample_bp", 0 <= config.sample_bp <= FULL_WEIGHT_BP, "must be in 0..10000"),
        (
            "drift_detection.method",
            drift.method in DRIFT_METHODS,
            f"{drift.method!r} is no method; use one of {', '.join(DRIFT_METHODS)}",
        ),
        ("drift_detection.threshold", math.isfinite(threshold) and threshold >= 0, "must be finite and >= 0"),
        ("drift_detection.window_size", 100 <= drift.window_size <= 1_000_000, "must be in 100..1000000"),
        ("drift_detection.window_time_s", _seconds(drift.window_time_s, 0.1), "must be at least 0.1"),
        ("drift_detection.min_sample", drift.min_sample >= 2, "must be >= 2"),
        (
            "drift_detection.scales",
            bool(drift.scales)
            and all(1 <= s <= 64 for s in drift.scales)
            and list(drift.scales) == sorted(set(drift.scales)),
            "must be ascending, each in 1..64",
        ),
        ("drift_detection.learn_rows", 100 <= drift.learn_rows <= 10_000_000, "must be in 100..10000000"),
        ("performance_monitoring.max_error_ratio", 0 <= performance.max_error_ratio <= 1, "must be in 0..1"),
        (
            "performance_monitoring.max_latency_p99_ms",
            _seconds(performance.max_latency_p99_ms, 0),
            "must be finite and >= 0",
        ),
        ("performance_monitoring.min_accuracy", 0 <= performance.min_accuracy <= 1, "must be in 0..1"),
        ("performance_monitoring.min_sample", performance.min_sample >= 1, "must be >= 1"),
        ("data_quality.max_missing_ratio", 0 <= missing <= 1, "must be in 0..1"),
    ]
    return _failed(prefix, found)


def criteria_problems(criteria: Sequence[Criterion], prefix: str = "criteria") -> list[Violation]:
    """Return what is wrong with criteria; a metric that is not built in is a custom one."""
    found = []
    if len(criteria) > MAX_CRITERIA:
        found.append(Violation(prefix, f"{len(criteria)} are too many, at most {MAX_CRITERIA}", "OUT_OF_RANGE"))
    for i, criterion in enumerate(criteria):
        checks = [
            ("metric", bool(criterion.metric), "must name a metric"),
            ("bound", math.isfinite(criterion.bound), "must be a finite number"),
            ("min_sample", criterion.min_sample >= 1, "must be >= 1"),
        ]
        found += _failed(f"{prefix}[{i}]", checks)
    return found


def plan_problems(plan: RolloutPlan, stage: Stage, prefix: str = "plan") -> list[Violation]:
    """Return what is wrong with a rollout's plan for a stage."""
    found = criteria_problems(plan.criteria, f"{prefix}.criteria")
    if not 1 <= len(plan.steps) <= MAX_STEPS:
        found.append(Violation(f"{prefix}.steps", f"there must be 1 to {MAX_STEPS}", "OUT_OF_RANGE"))
    for i, step in enumerate(plan.steps):
        checks = [
            ("weight_bp", 1 <= step.weight_bp <= FULL_WEIGHT_BP, f"must be in 1..{FULL_WEIGHT_BP}"),
            ("min_duration_s", _seconds(step.min_duration_s, 0), "must be finite and >= 0"),
        ]
        found += _failed(f"{prefix}.steps[{i}]", checks)
    weights = [s.weight_bp for s in plan.steps]
    if weights != sorted(weights):
        found.append(Violation(f"{prefix}.steps", f"the weights {weights} must not fall", "OUT_OF_RANGE"))
    if not (math.isfinite(plan.max_wait_s) and 0 < plan.max_wait_s <= MAX_SECONDS):
        found.append(Violation(f"{prefix}.max_wait_s", "must be > 0", "OUT_OF_RANGE"))
    if plan.auto_promote and stage is not Stage.CANARY:
        found.append(
            Violation(f"{prefix}.auto_promote", f"is for stage canary, not {stage.value}", "NOT_FOR_THIS_STAGE")
        )
    return found
