"""Rollouts, criteria and decisions as frozen values, with their plain-JSON form.

Owns the words of judgement. How evidence is judged is in `deployments.rules.judgement`, when a rollout moves on in
`deployments.rules.rollouts`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pilotfish_control_plane.deployments.model import FULL_WEIGHT_BP, Stage
from pilotfish_control_plane.names import DecisionName, RolloutName

__all__ = [
    "DEFAULT_CRITERIA",
    "DEFAULT_MIN_SAMPLE",
    "Comparison",
    "Criterion",
    "CriterionVerdict",
    "Decision",
    "Evidence",
    "Measured",
    "OnInconclusive",
    "PauseCause",
    "Rollout",
    "RolloutKind",
    "RolloutPlan",
    "RolloutState",
    "RolloutStep",
    "RolloutStrategy",
    "Verdict",
    "plan_from_json",
    "plan_to_json",
    "verdict_from_json",
    "verdict_to_json",
]

DEFAULT_MIN_SAMPLE = 30


class Comparison(enum.StrEnum):
    """How a value is compared with a bound."""

    LESS_THAN = "<"
    LESS_THAN_OR_EQUAL = "<="
    GREATER_THAN = ">"
    GREATER_THAN_OR_EQUAL = ">="


class Verdict(enum.StrEnum):
    """A three-valued verdict; no data is never a pass."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class RolloutStrategy(enum.StrEnum):
    """How a rollout brings its deployment in."""

    CANARY = "canary"
    ALL_AT_ONCE = "all_at_once"


class OnInconclusive(enum.StrEnum):
    """What happens when the evidence stays too thin."""

    PAUSE = "pause"
    ABORT = "abort"


class RolloutState(enum.StrEnum):
    """How a rollout stands."""

    PENDING = "pending"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    ABORTING = "aborting"
    ABORTED = "aborted"

    @property
    def is_open(self) -> bool:
        """Whether it is unfinished."""
        return self not in (RolloutState.SUCCEEDED, RolloutState.ABORTED)

    @property
    def can_move(self) -> bool:
        """Whether it may still succeed."""
        return self in (RolloutState.PENDING, RolloutState.PROGRESSING, RolloutState.PAUSED)


class RolloutKind(enum.StrEnum):
    """What began it."""

    DEPLOY = "deploy"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class PauseCause(enum.StrEnum):
    """Why a paused rollout waits for a person."""

    NONE = ""
    PERSON = "person"
    STEP = "step"
    INCONCLUSIVE = "inconclusive"


class Measured(Protocol):
    """One metric of a deployment: its value, the observations behind it, and where they are recorded."""

    @property
    def value(self) -> float | None:
        """The value; None: there is none."""
        ...

    @property
    def n(self) -> int:
        """The number of observations."""
        ...

    @property
    def source(self) -> str:
        """Id of the windows or counts it rests on."""
        ...


Evidence = Mapping[str, Measured]
"""Metric name -> what was measured."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a metric must satisfy; with `against_baseline` the production deployment's value is added to `bound`."""

    metric: str
    comparison: Comparison
    bound: float
    min_sample: int = DEFAULT_MIN_SAMPLE
    against_baseline: bool = False


DEFAULT_CRITERIA = (Criterion("error_ratio", Comparison.LESS_THAN_OR_EQUAL, 0.05),)


@dataclass(frozen=True, slots=True)
class CriterionVerdict:
    """What came of judging one criterion; `bound` includes the baseline."""

    criterion: Criterion
    verdict: Verdict
    value: float | None
    bound: float
    n: int
    baseline_value: float | None
    explanation: str


@dataclass(frozen=True, slots=True)
class Decision:
    """An immutable judgement with its evidence.

    Args:
        number: counts all decisions.
        subject: what was judged, by resource name.
        actor: who asked: a principal, or `rollouts/{r}`.
        rollout: id of the rollout it belongs to; empty: none.
        evidence: ids of the windows and counts that it rests on.
    """

    project: str
    id: str
    verdict: Verdict
    verdicts: tuple[CriterionVerdict, ...]
    subject: str
    actor: str
    created: datetime
    rollout: str = ""
    evidence: tuple[str, ...] = ()
    number: int = 0

    @property
    def name(self) -> str:
        """The resource name."""
        return str(DecisionName(self.project, self.id))


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One step: share in basis points, least seconds at it, whether a person must go on."""

    weight_bp: int
    min_duration_s: float = 0.0
    pause: bool = False


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How a deployment comes into canary or production; `max_wait_s` is per step."""

    strategy: RolloutStrategy
    steps: tuple[RolloutStep, ...] = (RolloutStep(1000),)
    criteria: tuple[Criterion, ...] = DEFAULT_CRITERIA
    max_wait_s: float = 3600.0
    on_inconclusive: OnInconclusive = OnInconclusive.PAUSE
    auto_promote: bool = False

    @staticmethod
    def default(stage: Stage) -> RolloutPlan:
        """Return the plan of a stage that was given none."""
        if stage is Stage.CANARY:
            return RolloutPlan(RolloutStrategy.CANARY)
        return RolloutPlan(RolloutStrategy.ALL_AT_ONCE, steps=(RolloutStep(FULL_WEIGHT_BP),))


@dataclass(frozen=True, slots=True)
class Rollout:
    """The plan that brings one deployment in, and how far it is.

    Args:
        number: counts all rollouts in the order of their creation.
        step: index of the current step.
        step_began: when its weight was set: evidence counts from here.
        wait_began: from when `max_wait_s` counts: the step's begin, or the last resumption.
        source: id of the deployment that is promoted or rolled back; empty: none.
        cancelled: it is aborted because somebody said so, not by its evidence.
        serial: counts the writes.
    """

    project: str
    endpoint: str
    id: str
    number: int
    deployment: str
    stage: Stage
    state: RolloutState
    plan: RolloutPlan
    kind: RolloutKind
    author: str
    created: datetime
    state_reason: str = ""
    step: int = 0
    step_began: datetime | None = None
    wait_began: datetime | None = None
    pause_cause: PauseCause = PauseCause.NONE
    source: str = ""
    ended: datetime | None = None
    cancelled: bool = False
    serial: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return str(RolloutName(self.project, self.endpoint, self.id))

    @property
    def etag(self) -> str:
        """Changes with every write."""
        return f"o{self.serial}"


# Any: JSON values of several types, in the five functions below.
def _criterion_from_json(stored: Mapping[str, Any]) -> Criterion:
    return Criterion(**{**stored, "comparison": Comparison(stored["comparison"])})


def plan_to_json(plan: RolloutPlan) -> dict[str, Any]:
    """Return the plan as plain JSON."""
    found = dataclasses.asdict(plan)
    return {**found, "steps": list(found["steps"]), "criteria": list(found["criteria"])}


def plan_from_json(stored: Mapping[str, Any]) -> RolloutPlan:
    """Return the plan that `plan_to_json` wrote."""
    return RolloutPlan(
        RolloutStrategy(stored["strategy"]),
        tuple(RolloutStep(**s) for s in stored["steps"]),
        tuple(_criterion_from_json(c) for c in stored["criteria"]),
        stored["max_wait_s"],
        OnInconclusive(stored["on_inconclusive"]),
        stored["auto_promote"],
    )


def verdict_to_json(verdict: CriterionVerdict) -> dict[str, Any]:
    """Return the verdict as plain JSON."""
    return dataclasses.asdict(verdict)


def verdict_from_json(stored: Mapping[str, Any]) -> CriterionVerdict:
    """Return the verdict that `verdict_to_json` wrote."""
    return CriterionVerdict(
        **{
            **stored,
            "criterion": _criterion_from_json(stored["criterion"]),
            "verdict": Verdict(stored["verdict"]),
        }
    )
