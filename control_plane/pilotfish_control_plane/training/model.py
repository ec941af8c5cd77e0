"""Pipelines and jobs as frozen values.

Owns the words. A pipeline's definition is kept as the plain JSON that the trainer checks and reads, so that there is
one grammar for it; see `trainer.spec`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pilotfish_control_plane.names import JobName, PipelineName

__all__ = ["Delivery", "Job", "JobState", "Pipeline", "Progress", "Trigger", "TriggerCommand"]


class JobState(enum.StrEnum):
    """How a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"

    @property
    def has_ended(self) -> bool:
        """Whether it is over, unless it is retried."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What starts a pipeline by itself: data_drift, performance_degradation or schedule."""

    type: str
    endpoint: str = ""
    cooldown_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A definition of how a model is made; `definition` is plain JSON as the trainer reads it."""

    project: str
    id: str
    model: str
    description: str
    definition: Mapping[str, Any]
    triggers: tuple[Trigger, ...]
    schedule: str
    timeout_s: float
    revision: int
    author: str
    created: datetime
    updated: datetime
    due: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return str(PipelineName(self.project, self.id))

    @property
    def etag(self) -> str:
        """Changes with every revision."""
        return f"p{self.revision}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is done with the version that a job makes; `plan` is the rollout plan as JSON, None: the stage's default."""

    endpoint: str
    stage: str
    plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One execution of a pipeline; `result` is the trainer's whole result."""

    id: str
    number: int
    project: str
    pipeline: str
    revision: int
    model: str
    state: JobState
    author: str
    created: datetime
    trigger: str
    trigger_reason: str
    state_reason: str = ""
    stage: str = ""
    progress: float = 0.0
    attempt: int = 1
    version_id: str = ""
    version: int = 0
    champion_version: int = 0
    result: Mapping[str, Any] = field(default_factory=dict)
    delivery: Delivery | None = None
    cancel_requested: bool = False
    runner: str = ""
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return str(JobName(self.project, self.pipeline, self.id))


@dataclass(frozen=True, slots=True)
class Progress:
    """A line of a job's progress; `sequence` counts from 1 over all attempts."""

    sequence: int
    stage: str
    fraction: float
    message: str
    metrics: Mapping[str, Any]
    time: datetime


@dataclass(frozen=True, slots=True)
class TriggerCommand:
    """Start a pipeline; `trigger` is manual, schedule, data_drift or performance_degradation."""

    pipeline: str
    reason: str = ""
    trigger: str = "manual"
    project: str = "default"
    delivery: Delivery | None = None
