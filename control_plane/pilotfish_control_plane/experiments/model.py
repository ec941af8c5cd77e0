"""The values of experiment tracking: runs and points of their metrics.

Owns their shape. The words are the wire's in lower case.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any  # JSON of any depth

from pilotfish_control_plane.names import RunName

__all__ = ["Comparison", "Point", "Run", "RunKind", "RunState"]


class RunKind(enum.StrEnum):
    """What a run records."""

    REGISTRATION = "registration"
    VALIDATION = "validation"
    TRAINING = "training"
    ROLLBACK = "rollback"
    CUSTOM = "custom"


class RunState(enum.StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """One recorded run; `metrics` holds the value at the highest step of each metric."""

    project: str
    id: str
    kind: RunKind
    state: RunState
    experiment: str
    subject: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    started_at: datetime
    ended_at: datetime | None
    author: str

    @property
    def name(self) -> str:
        """The full resource name."""
        return str(RunName(self.project, self.id))


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a metric's series: step >= 0, a finite value, when it was measured (None: when it came)."""

    metric: str
    step: int
    value: float
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One parameter or metric over several runs, as JSON values in their order; "": that run has none."""

    key: str
    metric: bool
    values_json: tuple[str, ...]
    differs: bool
