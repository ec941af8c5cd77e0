"""When a pipeline starts by itself, and what a job's end means. Pure: time and evidence are passed in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cronsim import CronSim, CronSimError

from pilotfish_control_plane.training.model import Job, JobState, Trigger

__all__ = [
    "MAX_ATTEMPTS",
    "TRIGGER_TYPES",
    "cooled_down",
    "masked_connection",
    "next_slot",
    "outcome_state",
    "schedule_problem",
]

TRIGGER_TYPES = ("data_drift", "performance_degradation", "schedule")
# A job whose process vanished is begun once more; a job that failed by itself is not.
MAX_ATTEMPTS = 2


def schedule_problem(cron: str) -> str:
    """Return what is wrong with a cron expression; empty: nothing."""
    if len(cron.split()) != 5:
        return f"{cron!r} is no cron expression of five fields: it has {len(cron.split())}"
    try:
        CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        return f"{cron!r} is no cron expression of five fields: {error}"
    return ""


def next_slot(cron: str, after: datetime) -> datetime:
    """Return the first time of a schedule after a time, UTC."""
    return next(CronSim(cron, after.astimezone(UTC)))


def cooled_down(trigger: Trigger, newest: Job | None, now: datetime) -> bool:
    """Tell whether a trigger may start a job again: none it started runs, and the last one is long enough ago."""
    if newest is None:
        return True
    return newest.state.has_ended and now - newest.created >= timedelta(seconds=trigger.cooldown_s)


def masked_connection(connection: str) -> str:
    """Return a database's URL as people may see it: `***` for its password."""
    head, at, tail = connection.rpartition("@")
    if at and ":" in head.partition("://")[2]:
        return head.rpartition(":")[0] + ":***@" + tail
    return connection


def outcome_state(result: Mapping[str, Any], *, timed_out: bool, cancelled: bool) -> JobState:
    """Return how a job ends by its trainer's result."""
    outcome = str(result.get("outcome", ""))
    if outcome == "CANCELLED":
        return JobState.TIMED_OUT if timed_out and not cancelled else JobState.CANCELLED
    return {"SUCCEEDED": JobState.SUCCEEDED, "REJECTED": JobState.REJECTED}.get(outcome, JobState.FAILED)
