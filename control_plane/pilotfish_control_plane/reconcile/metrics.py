"""Counts of what the loops do, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["LoopMetrics"]


class LoopMetrics:
    """Runs and failures of reconcilers, attempts of actions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics; once per registry."""
        self.runs = Counter("pilotfish_reconcile_runs", "Runs by outcome", ("reconciler", "outcome"), registry=registry)
        self.seconds = Histogram(
            "pilotfish_reconcile_seconds", "Seconds of a run, commit included", ("reconciler",), registry=registry
        )
        self.attempts = Counter(
            "pilotfish_action_attempts", "Attempts of actions by outcome", ("kind", "outcome"), registry=registry
        )
