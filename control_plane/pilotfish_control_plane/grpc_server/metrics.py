"""Counts and times of calls, for Prometheus.

Owns the three metrics; labels are names from the contract and status codes, never what a caller sends.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["CallMetrics"]

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


class CallMetrics:
    """Started and handled calls, and how long they took, by service and method."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics; once per registry."""
        labels = ("grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started", "Calls begun", labels, registry=registry)
        self._handled = Counter("grpc_server_handled", "Calls ended", (*labels, "grpc_code"), registry=registry)
        self._seconds = Histogram(
            "grpc_server_handling_seconds", "Seconds from begin to end", labels, registry=registry, buckets=_BUCKETS_S
        )

    def started(self, method: str) -> None:
        """Count a call's begin; `method` is `/package.Service/Method`."""
        self._started.labels(*_split(method)).inc()

    def handled(self, method: str, code: str, seconds: float) -> None:
        """Count a call's end with its status code's name."""
        self._handled.labels(*_split(method), code).inc()
        self._seconds.labels(*_split(method)).observe(seconds)


def _split(method: str) -> tuple[str, str]:
    service, _, name = method.lstrip("/").partition("/")
    return service, name
