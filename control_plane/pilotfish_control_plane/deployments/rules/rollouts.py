"""When a rollout moves on, pauses, succeeds or is aborted.

Owns the one function that decides it. It knows weights only as numbers of the plan; setting them is the service's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from pilotfish_control_plane.deployments.model import Stage
from pilotfish_control_plane.deployments.rollout_model import (
    OnInconclusive,
    PauseCause,
    Rollout,
    RolloutState,
    RolloutStrategy,
    Verdict,
)
from pilotfish_control_plane.deployments.rules.judgement import Judgement

__all__ = ["Move", "RolloutMove", "Subject", "decide", "judges"]


class Move(enum.Enum):
    """What a rollout does next."""

    WAIT = "wait"
    START = "start"
    NEXT_STEP = "next_step"
    PAUSE = "pause"
    SUCCEED = "succeed"
    ABORT = "abort"


class Subject(enum.Enum):
    """How the deployment stands that the rollout brings in."""

    COMING = "coming"
    SERVING = "serving"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class RolloutMove:
    """The move, why, and in how many seconds to look again; `decided`: the judgement is worth a decision record."""

    move: Move
    reason: str = ""
    look_again_s: float | None = None
    decided: bool = False
    pause_cause: PauseCause = PauseCause.NONE
    quarantine: bool = False


LOOK_EVERY_S = 1.0
"""Evidence wakes the rollout; this is the sweep for what was missed."""


def judges(rollout: Rollout) -> bool:
    """Return whether evidence decides over this rollout now."""
    if rollout.plan.strategy is RolloutStrategy.ALL_AT_ONCE and rollout.stage is not Stage.CANARY:
        return False
    return rollout.state in (RolloutState.PROGRESSING, RolloutState.PAUSED)


def decide(rollout: Rollout, subject: Subject, judgement: Judgement | None, now: datetime) -> RolloutMove:
    """Return the next move of a rollout that may still succeed.

    Args:
        rollout: PENDING, PROGRESSING or PAUSED.
        subject: how its deployment stands.
        judgement: what the evidence since the step's begin says; None where `judges` is False.
        now: the time.
    """
    if subject is Subject.GONE:
        return RolloutMove(Move.ABORT, "its deployment has ended")
    if rollout.state is RolloutState.PENDING:
        if subject is Subject.SERVING:
            return RolloutMove(Move.START)
        return RolloutMove(Move.WAIT, "waits for its deployment to be ready")
    if judgement is None:
        return RolloutMove(Move.SUCCEED) if rollout.state is RolloutState.PROGRESSING else RolloutMove(Move.WAIT)
    if judgement.verdict is Verdict.FAIL:
        # Seen at any time of the step, also while a person ponders: the bad version has live traffic.
        why = "; ".join(v.explanation for v in judgement.verdicts if v.verdict is Verdict.FAIL)
        return RolloutMove(Move.ABORT, f"step {rollout.step + 1} failed: {why}", decided=True, quarantine=True)
    if rollout.state is RolloutState.PAUSED:
        return RolloutMove(Move.WAIT, look_again_s=LOOK_EVERY_S)
    return _progressing(rollout, judgement, now)


def _progressing(rollout: Rollout, judgement: Judgement, now: datetime) -> RolloutMove:
    step = rollout.plan.steps[rollout.step]
    left_s = step.min_duration_s - _elapsed_s(rollout.step_began, now)
    if judgement.verdict is Verdict.PASS and left_s <= 0:
        return _passed(rollout)
    if left_s > 0:
        return RolloutMove(Move.WAIT, look_again_s=min(left_s, LOOK_EVERY_S))
    wait_left_s = rollout.plan.max_wait_s - _elapsed_s(rollout.wait_began, now)
    if wait_left_s > 0:
        return RolloutMove(Move.WAIT, look_again_s=min(wait_left_s, LOOK_EVERY_S))
    thin = "; ".join(v.explanation for v in judgement.verdicts if v.verdict is Verdict.INCONCLUSIVE)
    why = f"step {rollout.step + 1} has no verdict after {rollout.plan.max_wait_s:g} s: {thin}"
    if rollout.plan.on_inconclusive is OnInconclusive.ABORT:
        return RolloutMove(Move.ABORT, why, decided=True)
    return RolloutMove(Move.PAUSE, why, decided=True, pause_cause=PauseCause.INCONCLUSIVE)


def _passed(rollout: Rollout) -> RolloutMove:
    number = rollout.step + 1
    if rollout.plan.steps[rollout.step].pause:
        text = f"step {number} passed and asks for a person to go on"
        return RolloutMove(Move.PAUSE, text, decided=True, pause_cause=PauseCause.STEP)
    if number == len(rollout.plan.steps):
        return RolloutMove(Move.SUCCEED, f"step {number} passed, the last one", decided=True)
    return RolloutMove(Move.NEXT_STEP, f"step {number} passed", decided=True)


def _elapsed_s(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else (now - since).total_seconds()
