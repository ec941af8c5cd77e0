"""When a rollout moves: single cases by hand, and histories with random faults."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pilotfish_control_plane.deployments.model import Stage
from pilotfish_control_plane.deployments.rollout_model import (
    Comparison,
    Criterion,
    CriterionVerdict,
    OnInconclusive,
    PauseCause,
    Rollout,
    RolloutKind,
    RolloutPlan,
    RolloutState,
    RolloutStep,
    RolloutStrategy,
    Verdict,
)
from pilotfish_control_plane.deployments.rules import transitions
from pilotfish_control_plane.deployments.rules.judgement import Judgement
from pilotfish_control_plane.deployments.rules.rollouts import Move, RolloutMove, Subject, decide, judges

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CANARY = RolloutPlan(RolloutStrategy.CANARY, (RolloutStep(1000, 10), RolloutStep(5000, 10, True), RolloutStep(9000)))
State = RolloutState


def a_rollout(**changes: Any) -> Rollout:
    made = Rollout(
        "default", "fraud", "r1", 1, "d1", Stage.CANARY, State.PROGRESSING, CANARY, RolloutKind.DEPLOY, "ann", NOW,
        step_began=NOW, wait_began=NOW,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def judged(verdict: Verdict) -> Judgement:
    criterion = Criterion("error_ratio", Comparison.LESS_THAN, 0.05)
    one = CriterionVerdict(criterion, verdict, 0.0, 0.05, 10, None, f"error_ratio: {verdict.value}")
    return Judgement(verdict, (one,), ("w1",))


def move(rollout: Rollout, verdict: Verdict | None, after_s: float, subject: Subject = Subject.SERVING) -> RolloutMove:
    judgement = None if verdict is None else judged(verdict)
    return decide(rollout, subject, judgement, NOW + timedelta(seconds=after_s))


PASS, FAIL, THIN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("verdict", "after_s", "expected"),
    [
        (PASS, 0, Move.WAIT),
        (PASS, 9.9, Move.WAIT),
        (PASS, 10, Move.NEXT_STEP),
        (FAIL, 0, Move.ABORT),
        (FAIL, 3600, Move.ABORT),
        (THIN, 3599, Move.WAIT),
        (THIN, 3600, Move.PAUSE),
    ],
)
def test_a_step_waits_for_its_time_to_pass_and_for_no_time_to_fail(
    verdict: Verdict, after_s: float, expected: Move
) -> None:
    assert move(a_rollout(), verdict, after_s).move is expected


def test_thin_evidence_aborts_where_the_plan_says_so() -> None:
    plan = dataclasses.replace(CANARY, on_inconclusive=OnInconclusive.ABORT, max_wait_s=60)
    found = move(a_rollout(plan=plan), THIN, 60)
    assert (found.move, found.decided, found.quarantine) == (Move.ABORT, True, False)


def test_only_a_failure_by_evidence_quarantines() -> None:
    assert move(a_rollout(), FAIL, 1).quarantine
    assert not move(a_rollout(), None, 1, Subject.GONE).quarantine


def test_a_longer_least_duration_than_the_longest_wait_still_lets_the_step_pass() -> None:
    plan = RolloutPlan(RolloutStrategy.CANARY, (RolloutStep(1000, 100),), max_wait_s=10)
    assert move(a_rollout(plan=plan), THIN, 50).move is Move.WAIT
    assert move(a_rollout(plan=plan), PASS, 100).move is Move.SUCCEED
    assert move(a_rollout(plan=plan), THIN, 100).move is Move.PAUSE


def test_a_step_that_asks_for_a_person_pauses_after_it_passed() -> None:
    found = move(a_rollout(step=1), PASS, 10)
    assert (found.move, found.pause_cause) == (Move.PAUSE, PauseCause.STEP)


def test_the_last_step_ends_it() -> None:
    assert move(a_rollout(step=2), PASS, 0).move is Move.SUCCEED


def test_bad_evidence_ends_a_paused_rollout_too_and_good_evidence_does_not_resume_it() -> None:
    paused = a_rollout(state=State.PAUSED, pause_cause=PauseCause.PERSON)
    assert move(paused, FAIL, 1).move is Move.ABORT
    assert move(paused, PASS, 10_000).move is Move.WAIT
    assert move(paused, THIN, 10_000).move is Move.WAIT


def test_a_rollout_starts_only_when_its_deployment_serves() -> None:
    pending = a_rollout(state=State.PENDING)
    assert move(pending, None, 10_000, Subject.COMING).move is Move.WAIT
    assert move(pending, None, 0, Subject.SERVING).move is Move.START
    assert move(pending, None, 0, Subject.GONE).move is Move.ABORT


def test_all_at_once_to_production_is_not_judged_and_a_canary_always_is() -> None:
    whole = RolloutPlan.default(Stage.PRODUCTION)
    assert not judges(a_rollout(plan=whole, stage=Stage.PRODUCTION))
    assert move(a_rollout(plan=whole, stage=Stage.PRODUCTION), None, 0).move is Move.SUCCEED
    assert judges(a_rollout(plan=whole, stage=Stage.CANARY))
    assert judges(a_rollout(stage=Stage.PRODUCTION))
    assert not judges(a_rollout(state=State.PENDING))


class History:
    """One rollout under random evidence, people and faults; `apply` does what the service does with a move."""

    def __init__(self, generator: random.Random) -> None:
        self.random = generator
        steps = tuple(
            RolloutStep(w, generator.choice([0.0, 5.0, 60.0]), generator.random() < 0.2)
            for w in sorted(generator.sample(range(1, 10_001), generator.randint(1, 5)))
        )
        self.plan = RolloutPlan(
            RolloutStrategy.CANARY,
            steps,
            max_wait_s=generator.choice([1.0, 30.0, 300.0]),
            on_inconclusive=generator.choice(list(OnInconclusive)),
        )
        self.rollout = a_rollout(state=State.PENDING, plan=self.plan, step_began=None, wait_began=None)
        self.subject = Subject.COMING
        self.now = NOW
        self.passed: set[int] = set()
        self.failed = False

    def enter(self, state: State, **changes: Any) -> None:
        transitions.check_rollout("r1", self.rollout.state, state)
        self.rollout = dataclasses.replace(self.rollout, state=state, **changes)

    def look(self) -> None:
        """Do what the reconciler does once, and check what must hold for each move."""
        for _ in range(20):
            if not self.rollout.state.can_move:
                return
            verdict = self.random.choices([PASS, THIN, FAIL], [5, 4, 1])[0] if judges(self.rollout) else None
            found = decide(self.rollout, self.subject, None if verdict is None else judged(verdict), self.now)
            self.check(found, verdict)
            if found.move is Move.WAIT:
                return
            self.apply(found)

    def check(self, found: RolloutMove, verdict: Verdict | None) -> None:
        step = self.plan.steps[self.rollout.step]
        stood_s = 0.0 if self.rollout.step_began is None else (self.now - self.rollout.step_began).total_seconds()
        if self.subject is Subject.GONE or verdict is FAIL:
            assert found.move is Move.ABORT
        if found.move in (Move.NEXT_STEP, Move.SUCCEED) or found.pause_cause is PauseCause.STEP:
            assert verdict is PASS
            assert stood_s >= step.min_duration_s
            self.passed.add(self.rollout.step)
        if found.move is Move.WAIT and self.rollout.state is State.PROGRESSING and self.rollout.wait_began:
            waited_s = (self.now - self.rollout.wait_began).total_seconds()
            assert waited_s < max(self.plan.max_wait_s, step.min_duration_s)
            assert found.look_again_s is not None
            assert found.look_again_s > 0
        if found.move is Move.START:
            assert self.subject is Subject.SERVING

    def apply(self, found: RolloutMove) -> None:
        match found.move:
            case Move.START:
                self.enter(State.PROGRESSING, step_began=self.now, wait_began=self.now)
            case Move.NEXT_STEP:
                self.next_step()
            case Move.PAUSE:
                self.enter(State.PAUSED, pause_cause=found.pause_cause)
            case Move.SUCCEED:
                assert self.passed == set(range(len(self.plan.steps)))
                self.enter(State.SUCCEEDED)
            case Move.ABORT:
                self.enter(State.ABORTING)
                self.enter(State.ABORTED)

    def next_step(self) -> None:
        self.rollout = dataclasses.replace(
            self.rollout, step=self.rollout.step + 1, step_began=self.now, wait_began=self.now
        )

    def person(self) -> None:
        """Pause or resume, as a person may."""
        if self.rollout.state is State.PROGRESSING:
            self.enter(State.PAUSED, pause_cause=PauseCause.PERSON)
        elif self.rollout.state is State.PAUSED:
            after_step = self.rollout.pause_cause is PauseCause.STEP
            self.enter(State.PROGRESSING, pause_cause=PauseCause.NONE, wait_began=self.now)
            if after_step and self.rollout.step + 1 == len(self.plan.steps):
                self.enter(State.SUCCEEDED)
            elif after_step:
                self.next_step()


def test_random_histories_keep_every_promise() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    generator = random.Random(seed)
    ended = dict.fromkeys(State, 0)
    for _ in range(600):
        history = History(generator)
        for _ in range(80):
            history.now += timedelta(seconds=generator.choice([0.0, 1.0, 10.0, 100.0]))
            event = generator.random()
            if event < 0.15:
                history.person()
            elif event < 0.17:
                history.subject = Subject.GONE
            elif history.subject is Subject.COMING:
                history.subject = generator.choice([Subject.COMING, Subject.SERVING])
            history.look()
        ended[history.rollout.state] += 1
    # Every way to end is really reached, or the histories would prove little.
    assert ended[State.SUCCEEDED] > 20
    assert ended[State.ABORTED] > 20
