"""Rules, firings and retirement plans as frozen values. Owns the words; decisions are in `lifecycle.rules`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pilotfish_control_plane.names import FiringName, RetirementPlanName, RuleName

__all__ = [
    "ACTION_TYPES",
    "PHASES",
    "TRIGGER_TYPES",
    "Condition",
    "Firing",
    "FiringState",
    "Migration",
    "Phase",
    "Plan",
    "PlanState",
    "Rule",
    "RuleAction",
    "RuleTrigger",
    "Watch",
]

TRIGGER_TYPES = ("performance_degradation", "data_drift", "error_rate_increase", "schedule")
ACTION_TYPES = (
    "retrain_model",
    "rollback_deployment",
    "scale_deployment",
    "send_alert",
    "update_traffic_allocation",
)
DEFAULT_STAGES = ("canary", "production")


@dataclass(frozen=True, slots=True)
class RuleTrigger:
    """One thing that fires a rule; see the contract for each type's meaning."""

    type: str
    endpoint: str = ""
    stages: tuple[str, ...] = DEFAULT_STAGES
    metric: str = ""
    comparison: str = ""
    threshold: float = 0.0
    min_sample: int = 100
    cron: str = ""
    confirmations: int = 1


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold."""

    metric: str
    comparison: str
    bound: float
    min_sample: int = 1


@dataclass(frozen=True, slots=True)
class RuleAction:
    """One thing to do."""

    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)  # plain JSON
    stop_on_failure: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Any trigger, all conditions, actions in order."""

    project: str
    id: str
    description: str
    triggers: tuple[RuleTrigger, ...]
    conditions: tuple[Condition, ...]
    actions: tuple[RuleAction, ...]
    enabled: bool
    cooldown_s: float
    revision: int
    created: datetime
    updated: datetime
    author: str

    @property
    def name(self) -> str:
        """The resource name."""
        return str(RuleName(self.project, self.id))

    @property
    def etag(self) -> str:
        """Changes with every revision."""
        return f"u{self.revision}"


class FiringState(enum.StrEnum):
    """How a firing stands."""

    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"
    ACTING = "acting"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    LAPSED = "lapsed"
    SUPPRESSED = "suppressed"


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that a rule fired; unique per rule, revision, deployment and evidence."""

    id: str
    number: int
    project: str
    rule: str
    rule_revision: int
    deployment: str
    endpoint: str
    evidence: str
    state: FiringState
    evidence_details: Mapping[str, Any]  # plain JSON
    evidence_time: datetime
    created: datetime
    actions: tuple[RuleAction, ...]
    kind: str = ""
    state_reason: str = ""
    acted: datetime | None = None
    ended: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return str(FiringName(self.project, self.rule, self.id))

    def action_key(self, index: int) -> str:
        """Return the unique key of an action."""
        return f"{self.id}/{index}"


@dataclass(frozen=True, slots=True)
class Watch:
    """How a metric trigger stands for a deployment: verdicts in a row, and the episode's number."""

    rule: str
    trigger: int
    deployment: str
    number: int = 0
    open: bool = False
    hits: int = 0
    seen: str = ""


class PlanState(enum.StrEnum):
    """How a retirement plan stands."""

    SCHEDULED = "scheduled"
    DEPRECATION_WARNING = "deprecation_warning"
    TRAFFIC_REDUCTION = "traffic_reduction"
    FINAL_MIGRATION = "final_migration"
    RETIREMENT = "retirement"
    COMPLETED = "completed"
    HALTED = "halted"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self not in (PlanState.COMPLETED, PlanState.CANCELLED)


# (phase, days before the day, its steps in order)
PHASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("deprecation_warning", 90, ("send_deprecation_notices", "update_documentation")),
    ("traffic_reduction", 30, ("reduce_traffic_allocation", "monitor_performance")),
    ("final_migration", 7, ("complete_traffic_migration", "verify_new_model")),
    ("retirement", 0, ("stop_deployment", "archive_model", "cleanup_resources")),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """Where the traffic goes; `reduction_steps_bp` is what is left to the retiring one, falling."""

    replacement_version: int = 0
    replacement_model: str = ""
    reduction_steps_bp: tuple[int, ...] = (5000, 2000)
    notify: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase with its date and, once begun, how far its steps have come."""

    phase: str
    due: datetime
    started: datetime | None = None
    ended: datetime | None = None
    step: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan that takes a model (`version` 0) or one version out of service."""

    id: str
    number: int
    project: str
    model: str
    version: int
    retirement: datetime
    migration: Migration
    state: PlanState
    phases: tuple[Phase, ...]
    created: datetime
    author: str
    state_reason: str = ""
    blockers: tuple[str, ...] = ()
    serial: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return str(RetirementPlanName(self.project, self.id))

    @property
    def subject(self) -> str:
        """The resource name of what retires."""
        base = f"projects/{self.project}/models/{self.model}"
        return f"{base}/versions/{self.version}" if self.version else base

    @property
    def etag(self) -> str:
        """Changes with every write."""
        return f"t{self.serial}"

    def step_key(self, phase: str, index: int, attempt: int = 0) -> str:
        """Return the unique key of a step's action."""
        return f"{self.id}/{phase}/{index}" + (f"/{attempt}" if attempt else "")
