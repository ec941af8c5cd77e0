"""The metrics by name: which task they belong to and which direction is better.

Owns the names that pipelines, thresholds and results use. Computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotfish_control_plane.trainer.spec import Task

__all__ = ["METRICS", "MetricInfo", "default_metric", "metric_names"]


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What is known of a metric without data."""

    name: str
    task: Task
    greater_is_better: bool


METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("accuracy", Task.CLASSIFICATION, True),
        MetricInfo("balanced_accuracy", Task.CLASSIFICATION, True),
        MetricInfo("precision", Task.CLASSIFICATION, True),
        MetricInfo("recall", Task.CLASSIFICATION, True),
        MetricInfo("f1_score", Task.CLASSIFICATION, True),
        MetricInfo("roc_auc", Task.CLASSIFICATION, True),
        MetricInfo("log_loss", Task.CLASSIFICATION, False),
        MetricInfo("mae", Task.REGRESSION, False),
        MetricInfo("mse", Task.REGRESSION, False),
        MetricInfo("rmse", Task.REGRESSION, False),
        MetricInfo("mape", Task.REGRESSION, False),
        MetricInfo("r2", Task.REGRESSION, True),
    )
}


def metric_names(task: Task) -> tuple[str, ...]:
    """Return the names of all metrics of `task`, in the order they are shown."""
    return tuple(info.name for info in METRICS.values() if info.task is task)


def default_metric(task: Task) -> str:
    """Return the metric that decides where none is named."""
    return "accuracy" if task is Task.CLASSIFICATION else "rmse"
