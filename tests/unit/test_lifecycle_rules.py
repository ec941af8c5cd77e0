"""The pure rules of automation: hand-worked cases, and a seeded simulation of evidence streams."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta

import pytest

from pilotfish_control_plane.lifecycle.model import (
    Condition,
    FiringState,
    Migration,
    Rule,
    RuleAction,
    RuleTrigger,
    Watch,
)
from pilotfish_control_plane.lifecycle.rules import (
    advance_watch,
    check_migration,
    check_rule,
    condition_failure,
    crossed,
    ended_state,
    next_slot,
    phases_of,
    postponed,
    reduction_due,
)
from pilotfish_control_plane.monitoring.model import MetricValue

NOW = datetime(2030, 5, 17, 12, 30, tzinfo=UTC)
SUSPECTED, CONFIRMED, LAPSED = FiringState.SUSPECTED, FiringState.CONFIRMED, FiringState.LAPSED
ERRORS = RuleTrigger("error_rate_increase", threshold=0.1, min_sample=50)
ACCURACY = RuleTrigger("performance_degradation", metric="accuracy", comparison=">=", threshold=0.8, min_sample=10)


def rule(*triggers: RuleTrigger, actions: tuple[RuleAction, ...] = (RuleAction("send_alert"),)) -> Rule:
    return Rule("default", "r", "", triggers, (), actions, True, 300.0, 1, NOW, NOW, "me")


def measured(metric: str, value: float | None, n: int) -> dict[str, MetricValue]:
    return {metric: MetricValue(value, n, "here")}


@pytest.mark.parametrize(
    ("trigger", "metric", "value", "n", "expected"),
    [
        (ERRORS, "error_ratio", 0.2, 50, True),
        (ERRORS, "error_ratio", 0.1, 50, False),
        (ERRORS, "error_ratio", 0.2, 49, None),
        (ERRORS, "error_ratio", None, 50, None),
        (ERRORS, "accuracy", 0.2, 50, None),
        (ACCURACY, "accuracy", 0.8, 10, False),
        (ACCURACY, "accuracy", 0.79, 10, True),
        (ACCURACY, "accuracy", float("nan"), 10, None),
    ],
)
def test_a_metric_crosses_its_bound_with_enough_observations(
    trigger: RuleTrigger, metric: str, value: float | None, n: int, expected: bool | None
) -> None:
    found = crossed(trigger, measured(metric, value, n))
    assert (None if found is None else found[0]) is expected


def test_bad_evidence_is_confirmed_after_enough_verdicts_in_a_row() -> None:
    trigger, watch = dataclasses.replace(ERRORS, confirmations=3), Watch("r", 0, "d")
    said = []
    for mark, bad in enumerate([True, True, False, True, True, True, True, False, True]):
        watch, state = advance_watch(watch, trigger, bad, str(mark))
        said.append(state)
    assert said == [SUSPECTED, None, LAPSED, SUSPECTED, None, CONFIRMED, None, None, SUSPECTED]
    assert watch.number == 3


def test_the_same_evidence_again_says_nothing() -> None:
    trigger, watch = dataclasses.replace(ERRORS, confirmations=2), Watch("r", 0, "d")
    watch, state = advance_watch(watch, trigger, True, "a")
    assert state is SUSPECTED
    assert advance_watch(watch, trigger, True, "a") == (watch, None)
    assert advance_watch(watch, trigger, False, "a") == (watch, None)
    assert advance_watch(watch, trigger, True, "b")[1] is CONFIRMED


@pytest.mark.parametrize("seed", range(25))
def test_random_streams_fire_an_episode_at_most_once(seed: int) -> None:
    """Oracle: the stream cut into runs of bad verdicts with itertools' eyes, without the state machine."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    trigger = dataclasses.replace(ERRORS, confirmations=rng.randint(1, 4))
    watch, stream, events = Watch("r", 0, "d"), [], []
    for _ in range(400):
        bad = rng.random() < 0.6
        stream.append(bad)
        mark = f"m{len(stream)}"
        for _ in range(rng.randint(1, 3)):
            watch, state = advance_watch(watch, trigger, bad, mark)
            if state is not None:
                events.append((watch.number, state))
    runs = [len(r) for r in "".join("x" if b else " " for b in stream).split()]
    numbers = [n for n, s in events if s is CONFIRMED]
    assert len(numbers) == len(set(numbers)), "an episode is confirmed at most once"
    assert numbers == [i for i, length in enumerate(runs, 1) if length >= trigger.confirmations]
    over = runs if not stream[-1] else runs[:-1]
    assert [n for n, s in events if s is LAPSED] == [
        i for i, length in enumerate(over, 1) if length < trigger.confirmations
    ]
    for number in range(1, len(runs) + 1):
        states = [s for n, s in events if n == number]
        allowed = ([CONFIRMED],) if trigger.confirmations == 1 else (
            [SUSPECTED], [SUSPECTED, CONFIRMED], [SUSPECTED, LAPSED],
        )  # fmt: skip
        assert states in allowed


def test_conditions_must_all_hold_and_no_data_never_does() -> None:
    low, hour = Condition("accuracy", "<", 0.8, 10), Condition("hour_of_day", ">=", 12)
    assert condition_failure((), {}, NOW) == ""
    assert condition_failure((low, hour), measured("accuracy", 0.5, 10), NOW) == ""
    assert "nothing was measured" in condition_failure((low,), {}, NOW)
    assert "nothing was measured" in condition_failure((low,), measured("accuracy", None, 100), NOW)
    assert "nothing was measured" in condition_failure((low,), measured("accuracy", float("nan"), 100), NOW)
    assert "10 are needed" in condition_failure((low,), measured("accuracy", 0.5, 9), NOW)
    assert "does not hold: it is 0.8" in condition_failure((low,), measured("accuracy", 0.8, 10), NOW)
    assert "does not hold" in condition_failure((hour,), {}, NOW - timedelta(hours=1))


@pytest.mark.parametrize(
    ("outcomes", "total", "expected"),
    [
        ([True, True], 2, "done"),
        ([True], 2, "partial"),
        ([True, False], 2, "partial"),
        ([False, False], 2, "failed"),
        ([False], 3, "failed"),
        ([], 1, "failed"),
    ],
)
def test_a_firing_ends_by_its_actions(outcomes: list[bool], total: int, expected: str) -> None:
    assert ended_state(outcomes, total).value == expected


def test_a_schedule_is_in_utc_and_strictly_later() -> None:
    assert next_slot("30 12 * * *", NOW) == NOW + timedelta(days=1)
    assert next_slot("31 12 * * *", NOW) == NOW + timedelta(minutes=1)
    assert next_slot("0 0 29 2 *", NOW) == datetime(2032, 2, 29, tzinfo=UTC)


def test_every_problem_of_a_rule_is_found() -> None:
    assert {v.field for v in check_rule(rule(actions=()))} == {"rule.triggers", "rule.actions"}
    schedule = RuleTrigger("schedule", cron="0 3 * * *")
    assert check_rule(rule(ACCURACY, ERRORS, schedule, RuleTrigger("data_drift"))) == []
    aimless = rule(schedule, actions=(RuleAction("rollback_deployment"),))
    assert {v.field for v in check_rule(aimless)} == {"rule.actions[0].parameters.deployment"}
    for cooldown in (-1.0, float("nan"), float("inf")):
        assert check_rule(dataclasses.replace(rule(ERRORS), cooldown_s=cooldown))[0].field == "rule.cooldown_s"
    for cron in ("", "@daily", "* * * * * *", "61 * * * *", "0 0 30 2 *"):
        assert [v.field for v in check_rule(rule(RuleTrigger("schedule", cron=cron)))] == ["rule.triggers[0].cron"]


def test_phases_lie_ninety_thirty_seven_and_no_days_before_the_day() -> None:
    phases = phases_of(NOW)
    assert [(NOW - p.due).days for p in phases] == [90, 30, 7, 0]
    begun = (dataclasses.replace(phases[0], started=NOW), *phases[1:])
    later = postponed(begun, NOW + timedelta(days=10))
    assert later[0] == begun[0]
    assert [p.due - q.due for p, q in zip(later[1:], phases[1:], strict=True)] == [timedelta(days=10)] * 3


def test_the_reduction_is_spread_evenly_between_its_phase_and_the_next() -> None:
    _, phase, after, _ = phases_of(NOW)
    plan = Migration(reduction_steps_bp=(7500, 5000, 2000))
    shares = [reduction_due(plan, phase, after, phase.due + timedelta(days=d)) for d in (0, 7, 8, 15, 16, 22, 23, 400)]
    assert shares == [7500, 7500, 5000, 5000, 2000, 2000, 2000, 2000]
    assert reduction_due(Migration(reduction_steps_bp=()), phase, after, NOW) is None
    assert reduction_due(plan, phase, dataclasses.replace(after, due=phase.due), phase.due) == 2000
    assert check_migration(plan) == []
    for bad in ((5000, 5000), (2000, 5000), (10_001,), (-1,)):
        assert check_migration(Migration(reduction_steps_bp=bad))
