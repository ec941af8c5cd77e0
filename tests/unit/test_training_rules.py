"""When a pipeline starts by itself, and how a job ends, against hand-worked cases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pilotfish_control_plane.training.model import Job, JobState, Trigger
from pilotfish_control_plane.training.rules import cooled_down, next_slot, outcome_state, schedule_problem

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday


def job(state: JobState, created: datetime = NOON) -> Job:
    return Job("job-1", 1, "default", "p", 1, "m", state, "admin", created, "data_drift", "e-1")


@pytest.mark.parametrize(
    ("cron", "wanted"),
    [
        ("*/5 * * * *", datetime(2026, 11, 23, 12, 5, tzinfo=UTC)),
        ("0 12 * * *", datetime(2026, 11, 24, 12, 0, tzinfo=UTC)),
        ("30 3 * * 0", datetime(2026, 11, 29, 3, 30, tzinfo=UTC)),
        ("0 0 1 1 *", datetime(2027, 1, 1, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_the_next_slot_lies_strictly_after_now(cron: str, wanted: datetime) -> None:
    assert next_slot(cron, NOON) == wanted


def test_slots_are_in_utc_wherever_now_comes_from() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=9)))
    assert next_slot("0 13 * * *", elsewhere) == datetime(2026, 11, 23, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize("cron", ["", "* * * *", "60 * * * *", "a b c d e", "* * * * * *", "0 0 30 2 *"])
def test_a_bad_schedule_is_told_with_its_text(cron: str) -> None:
    assert repr(cron) in schedule_problem(cron)


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/15 8-18 * * 1-5", "0 0 29 2 *"])
def test_a_good_schedule_has_no_problem(cron: str) -> None:
    assert schedule_problem(cron) == ""


@pytest.mark.parametrize(
    ("newest", "after_s", "wanted"),
    [
        (None, 0.0, True),
        (JobState.QUEUED, 1e6, False),
        (JobState.RUNNING, 1e6, False),
        (JobState.SUCCEEDED, 59.9, False),
        (JobState.SUCCEEDED, 60.0, True),
        (JobState.FAILED, 59.9, False),
        (JobState.REJECTED, 61.0, True),
    ],
)
def test_a_trigger_waits_for_its_last_job_and_its_cooldown(
    newest: JobState | None, after_s: float, wanted: bool
) -> None:
    trigger = Trigger("data_drift", "fraud", 60.0)
    now = NOON + timedelta(seconds=after_s)
    assert cooled_down(trigger, None if newest is None else job(newest), now) is wanted


@pytest.mark.parametrize(
    ("outcome", "timed_out", "cancelled", "wanted"),
    [
        ("SUCCEEDED", False, False, JobState.SUCCEEDED),
        ("SUCCEEDED", True, False, JobState.SUCCEEDED),
        ("REJECTED", False, False, JobState.REJECTED),
        ("FAILED", False, False, JobState.FAILED),
        ("CANCELLED", False, True, JobState.CANCELLED),
        ("CANCELLED", True, False, JobState.TIMED_OUT),
        ("CANCELLED", True, True, JobState.CANCELLED),
        ("", False, False, JobState.FAILED),
        ("NONSENSE", False, False, JobState.FAILED),
    ],
)
def test_a_job_ends_as_its_trainer_says(outcome: str, timed_out: bool, cancelled: bool, wanted: JobState) -> None:
    assert outcome_state({"outcome": outcome}, timed_out=timed_out, cancelled=cancelled) is wanted


def test_only_waiting_and_running_jobs_have_not_ended() -> None:
    assert {s for s in JobState if not s.has_ended} == {JobState.QUEUED, JobState.RUNNING}
