"""Canaries, judgement, control of rollouts and rollbacks, through real calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pilotfish.v1 import common_pb2
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish_control_plane.deployments.commands import DeployCommand
from pilotfish_control_plane.deployments.model import Stage
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.storage import experiments

from .serving_world import FakeNode, Value, World, refusal, world

STAGING, CANARY, PRODUCTION = pb.STAGE_STAGING, pb.STAGE_CANARY, pb.STAGE_PRODUCTION
READY, STOPPED, DRAINING = pb.DEPLOYMENT_STATE_READY, pb.DEPLOYMENT_STATE_STOPPED, pb.DEPLOYMENT_STATE_DRAINING
Control = calls.RolloutCommand


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


@pytest_asyncio.fixture
async def node(w: World) -> AsyncIterator[FakeNode]:
    async with w.node() as found:
        yield found


def steps(*weights: int, **options: Any) -> pb.RolloutPlan:
    return pb.RolloutPlan(steps=[pb.RolloutStep(weight_bp=w) for w in weights], **options)


async def canary_of(w: World, plan: pb.RolloutPlan | None = None, **fields: Any) -> tuple[pb.Deployment, pb.Deployment]:
    """Bring up production and, beside it, a canary of another version; return both."""
    production = await w.serving(await w.version(), PRODUCTION)
    canary = await w.serving(await w.version(), CANARY, plan=plan, **fields)
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_PROGRESSING)
    return production, canary


async def control(w: World, name: str, command: Control, reason: str = "") -> pb.Rollout:
    request = calls.ControlRolloutRequest(name=name, command=command, reason=reason)
    answer: calls.ControlRolloutResponse = await w.stub.ControlRollout(request)
    return answer.rollout


@pytest.mark.ledger("C2", "C5")
async def test_a_canary_goes_through_its_steps_while_the_evidence_is_good(w: World, node: FakeNode) -> None:
    production, canary = await canary_of(w, steps(1000, 5000))
    assert await w.weights() == {production.id: 9000, canary.id: 1000}
    w.fake_evidence(canary.id, error_ratio=(0.0, 30))
    rollout = await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_SUCCEEDED)
    assert [d.verdict for d in rollout.decisions] == [common_pb2.VERDICT_PASS] * 2
    assert rollout.decisions[0].evidence == [f"windows/error_ratio/{canary.id}"]
    assert rollout.decisions[0].actor.startswith("rollouts/")
    assert await w.weights() == {production.id: 5000, canary.id: 5000}
    seen = [weights for what, weights in node.order if what == "routed"]
    assert {production.id: 9000, canary.id: 1000} in seen


@pytest.mark.ledger("C2", "C3")
async def test_a_canary_that_fails_loses_its_traffic_and_is_quarantined(w: World, node: FakeNode) -> None:
    production, canary = await canary_of(w, steps(2000, 5000, max_wait_s=3600))
    w.fake_evidence(canary.id, error_ratio=(0.2, 30))
    rollout = await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_ABORTED)
    assert "error_ratio: 0.2 <= 0.05 does not hold with 30 observations" in rollout.state_reason
    assert rollout.decisions[0].verdict == common_pb2.VERDICT_FAIL
    await w.until_state(canary.name, STOPPED)
    assert await w.weights() == {production.id: 10_000}
    endpoint = await w.endpoint()
    assert [q.version for q in endpoint.quarantines] == [canary.version]
    assert [d.id for d in endpoint.deployments] == [production.id]
    runs = await w.core.db.read(lambda tx: tx.conn.execute(experiments.runs.select()).all())
    assert [(r.kind, r.subject) for r in runs if r.kind == "rollback"] == [("rollback", canary.name)]


@pytest.mark.ledger("C2")
async def test_the_calls_of_one_step_do_not_carry_a_rollout_through_the_next(w: World, node: FakeNode) -> None:
    _, canary = await canary_of(w, steps(1000, 5000))
    w.evidence_ended = w.core.clock.now()
    w.fake_evidence(canary.id, error_ratio=(0.0, 100))
    await w.eventually(lambda: _step(w, canary.rollout, 1))
    await asyncio.sleep(0.5)
    rollout = await w.rollout(canary.rollout)
    assert (rollout.state, rollout.step) == (pb.ROLLOUT_STATE_PROGRESSING, 1)
    w.evidence_ended = None
    w.core.wakes.notify(["rollouts"])
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_SUCCEEDED)


async def _step(w: World, name: str, number: int) -> bool:
    return (await w.rollout(name)).step == number


async def test_too_few_observations_move_nothing(w: World, node: FakeNode) -> None:
    _, canary = await canary_of(w)
    w.fake_evidence(canary.id, error_ratio=(1.0, 29))
    await asyncio.sleep(0.5)
    rollout = await w.rollout(canary.rollout)
    assert (rollout.state, len(rollout.decisions)) == (pb.ROLLOUT_STATE_PROGRESSING, 0)


@pytest.mark.ledger("C2")
@pytest.mark.parametrize(
    ("on_inconclusive", "state"),
    [(pb.ON_INCONCLUSIVE_UNSPECIFIED, pb.ROLLOUT_STATE_PAUSED), (pb.ON_INCONCLUSIVE_ABORT, pb.ROLLOUT_STATE_ABORTED)],
)
async def test_a_canary_without_traffic_pauses_or_aborts_and_is_never_promoted(
    w: World, node: FakeNode, on_inconclusive: pb.OnInconclusive, state: pb.RolloutState
) -> None:
    plan = steps(1000, max_wait_s=0.3, on_inconclusive=on_inconclusive, auto_promote=True)
    production, canary = await canary_of(w, plan)
    rollout = await w.until_rollout(canary.rollout, state)
    assert rollout.decisions[0].verdict == common_pb2.VERDICT_INCONCLUSIVE
    assert (await w.get("fraud/production")).id == production.id
    assert not (await w.endpoint()).quarantines


@pytest.mark.ledger("C2")
async def test_after_its_last_step_a_canary_is_promoted_by_itself_where_the_plan_says_so(
    w: World, node: FakeNode
) -> None:
    production, canary = await canary_of(w, steps(1000, auto_promote=True))
    w.fake_evidence(canary.id, error_ratio=(0.0, 100))
    await w.until_state(production.name, STOPPED)
    await w.until_state(canary.name, STOPPED)
    now = await w.get("fraud/production")
    assert (now.version, now.traffic_bp, now.state) == (canary.version, 10_000, READY)
    rollouts = (await w.stub.ListRollouts(calls.ListRolloutsRequest(parent="fraud"))).rollouts
    assert [r.stage for r in rollouts] == [PRODUCTION, CANARY, PRODUCTION]
    assert {r.state for r in rollouts} == {pb.ROLLOUT_STATE_SUCCEEDED}


@pytest.mark.ledger("C2")
async def test_bounds_against_the_baseline_use_the_production_deployment(w: World, node: FakeNode) -> None:
    criterion = common_pb2.Criterion(
        metric="latency_p99_ms",
        comparison=common_pb2.COMPARISON_LESS_THAN_OR_EQUAL,
        bound=10,
        against_baseline=True,
    )
    production, canary = await canary_of(w, steps(1000, criteria=[criterion]))
    w.fake_evidence(canary.id, latency_p99_ms=(59.0, 100))
    await asyncio.sleep(0.2)
    assert (await w.rollout(canary.rollout)).state == pb.ROLLOUT_STATE_PROGRESSING
    w.fake_evidence(production.id, latency_p99_ms=(50.0, 100))
    rollout = await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_SUCCEEDED)
    verdict = rollout.decisions[0].verdicts[0]
    assert (verdict.bound, verdict.baseline_value, verdict.value) == (60.0, 50.0, 59.0)
    assert w.asked_since[production.id] == w.asked_since[canary.id]


@pytest.mark.ledger("C7")
async def test_a_person_pauses_resumes_and_finishes_a_rollout(w: World, node: FakeNode) -> None:
    production, canary = await canary_of(w, steps(1000, 3000, 7000))
    paused = await control(w, canary.rollout, Control.ROLLOUT_COMMAND_PAUSE)
    assert paused.state == pb.ROLLOUT_STATE_PAUSED
    w.fake_evidence(canary.id, error_ratio=(0.0, 100))
    await asyncio.sleep(0.3)
    assert (await w.rollout("fraud")).state == pb.ROLLOUT_STATE_PAUSED
    w.evidence.clear()
    resumed = await control(w, canary.rollout, Control.ROLLOUT_COMMAND_RESUME)
    assert (resumed.state, resumed.step) == (pb.ROLLOUT_STATE_PROGRESSING, 0)
    error = await refusal(control(w, canary.rollout, Control.ROLLOUT_COMMAND_PROMOTE_FULL))
    assert error.code == "INVALID_ARGUMENT"
    full = await control(w, canary.rollout, Control.ROLLOUT_COMMAND_PROMOTE_FULL, "seen enough")
    assert (full.state, full.step) == (pb.ROLLOUT_STATE_SUCCEEDED, 2)
    assert "seen enough" in full.state_reason
    assert await w.weights() == {production.id: 3000, canary.id: 7000}
    error = await refusal(control(w, canary.rollout, Control.ROLLOUT_COMMAND_ABORT, "too late"))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")


async def test_a_step_that_asks_for_a_person_waits_for_one(w: World, node: FakeNode) -> None:
    plan = pb.RolloutPlan(steps=[pb.RolloutStep(weight_bp=1000, pause=True), pb.RolloutStep(weight_bp=5000)])
    production, canary = await canary_of(w, plan)
    w.fake_evidence(canary.id, error_ratio=(0.0, 100))
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_PAUSED)
    assert await w.weights() == {production.id: 9000, canary.id: 1000}
    await control(w, canary.rollout, Control.ROLLOUT_COMMAND_RESUME)
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_SUCCEEDED)
    assert await w.weights() == {production.id: 5000, canary.id: 5000}


@pytest.mark.ledger("C3")
async def test_an_abort_takes_the_weight_first_and_ends_when_the_gateway_has_it(w: World, node: FakeNode) -> None:
    production, canary = await canary_of(w)
    node.acknowledges = False
    aborting = await control(w, canary.rollout, Control.ROLLOUT_COMMAND_ABORT, "enough")
    assert aborting.state == pb.ROLLOUT_STATE_ABORTING
    assert await w.weights() == {production.id: 10_000}
    await w.eventually(lambda: node.weights("fraud") == {production.id: 10_000})
    await asyncio.sleep(0.3)
    assert (await w.rollout(canary.rollout)).state == pb.ROLLOUT_STATE_ABORTING
    assert not [n for what, n in node.order if what == "drained"]
    await node.acknowledge()
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_ABORTED)
    await w.until_state(canary.name, STOPPED)
    assert not (await w.endpoint()).quarantines
    error = await refusal(control(w, canary.rollout, Control.ROLLOUT_COMMAND_RESUME))
    assert error.code == "FAILED_PRECONDITION"


async def test_a_rollout_that_has_not_begun_can_only_be_aborted(w: World) -> None:
    answer = await w.deploy(await w.version(), PRODUCTION)
    commands = (Control.ROLLOUT_COMMAND_PAUSE, Control.ROLLOUT_COMMAND_RESUME, Control.ROLLOUT_COMMAND_PROMOTE_FULL)
    for command in commands:
        error = await refusal(control(w, answer.rollout, command, "now"))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS"), command
    await control(w, answer.rollout, Control.ROLLOUT_COMMAND_ABORT, "never mind")
    assert (await w.get(answer.deployment.name)).state == pb.DEPLOYMENT_STATE_FAILED
    assert not (await w.endpoint()).deployments


@pytest.mark.ledger("C3")
async def test_a_bad_canary_without_a_previous_one_just_loses_its_weight(w: World, node: FakeNode) -> None:
    production, canary = await canary_of(w)
    back = await w.stub.Rollback(calls.RollbackRequest(deployment="fraud/canary", reason="slow"))
    assert not back.HasField("restored")
    assert (back.stopped.id, back.stopped.state, back.stopped.traffic_bp) == (canary.id, DRAINING, 0)
    assert await w.weights() == {production.id: 10_000}
    assert (await w.rollout(canary.rollout)).state == pb.ROLLOUT_STATE_ABORTED


@pytest.mark.ledger("C3")
async def test_a_bad_canary_is_followed_by_the_one_before_it(w: World, node: FakeNode) -> None:
    _, first = await canary_of(w, steps(1000))
    w.fake_evidence(first.id, error_ratio=(0.0, 100))
    await w.until_rollout(first.rollout, pb.ROLLOUT_STATE_SUCCEEDED)
    second = await w.serving(await w.version(), CANARY, plan=steps(3000))
    await w.until_state(first.name, STOPPED)
    assert (await w.get("fraud/canary")).id == second.id
    back = await w.stub.Rollback(calls.RollbackRequest(deployment=second.name, reason="slow"))
    assert (back.restored.version, back.restored.stage) == (first.version, CANARY)
    restored = await w.until_state(back.restored.name, READY)
    rollout = await w.until_rollout(restored.rollout, pb.ROLLOUT_STATE_PROGRESSING)
    assert [s.weight_bp for s in rollout.plan.steps] == [1000]
    assert (await w.weights())[restored.id] == 1000


@pytest.mark.ledger("C3")
async def test_a_second_rollback_goes_past_what_was_rolled_back_before(w: World, node: FakeNode) -> None:
    versions = [await w.version() for _ in range(3)]
    current = await w.serving(versions[0], PRODUCTION)
    for version in versions[1:]:
        staging = await w.serving(version, STAGING)
        w.fake_evidence(staging.id, error_ratio=(0.0, 100))
        promoted = await w.stub.Promote(calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION))
        current = await w.until_state(promoted.deployment.name, READY)
    for expected in (2, 1):
        back = await w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production", reason="bad"))
        assert back.restored.version == expected
        current = await w.until_state(back.restored.name, READY)
    assert await w.weights() == {current.id: 10_000}
    error = await refusal(w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production", reason="bad")))
    assert error.reason == "NO_PREVIOUS_VERSION"


@pytest.mark.ledger("C3")
async def test_production_serves_the_bad_version_until_the_restored_one_is_ready(w: World, node: FakeNode) -> None:
    old, new = await w.version(), await w.version()
    first = await w.serving(old, PRODUCTION)
    staging = await w.serving(new, STAGING)
    w.fake_evidence(staging.id, error_ratio=(0.0, 100))
    promoted = await w.stub.Promote(calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION))
    bad = await w.until_state(promoted.deployment.name, READY)
    await w.until_state(first.name, STOPPED)
    node.starts = False
    back = await w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production", reason="wrong"))
    await w.until_state(back.restored.name, pb.DEPLOYMENT_STATE_STARTING)
    assert await w.weights() == {bad.id: 10_000}
    error = await refusal(w.stub.Rollback(calls.RollbackRequest(deployment=bad.name, reason="again")))
    assert error.reason == "ROLLBACK_UNDER_WAY"
    name = await w.eventually(lambda: next((n for n in node.replicas if n.startswith(back.restored.id)), None))
    await node.say(name, pb.REPLICA_STATE_READY)
    await w.until_state(back.restored.name, READY)
    await w.until_state(bad.name, STOPPED)
    assert await w.weights() == {back.restored.id: 10_000}
    # At no instant did nobody answer.
    routed = [weights for what, weights in node.order if what == "routed"]
    assert all(routed[routed.index({first.id: 10_000}) :])


@pytest.mark.ledger("C3")
async def test_a_predecessor_that_is_still_warm_takes_production_back_at_once(w: World, node: FakeNode) -> None:
    old, new = await w.version(), await w.version()
    config = pb.DeploymentConfig(rollback=pb.RollbackSettings(keep_previous_s=600))
    first = await w.serving(old, PRODUCTION)
    staging = await w.serving(new, STAGING, config=config)
    w.fake_evidence(staging.id, error_ratio=(0.0, 100))
    promoted = await w.stub.Promote(calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION))
    bad = await w.until_state(promoted.deployment.name, READY)
    assert (await w.get(first.name)).state == READY
    node.starts = False
    back = await w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production", reason="wrong"))
    assert await w.weights() == {first.id: 10_000}
    assert (await w.status_of(old), await w.status_of(new)) == ("production", "staging")
    await w.until_state(bad.name, STOPPED)
    name = await w.eventually(lambda: next((n for n in node.replicas if n.startswith(back.restored.id)), None))
    await node.say(name, pb.REPLICA_STATE_READY)
    await w.until_state(first.name, STOPPED)
    assert await w.weights() == {back.restored.id: 10_000}
    assert await w.status_of(old) == "production"


@pytest.mark.ledger("C3")
async def test_a_rolled_back_version_is_kept_from_automation_until_a_person_says_so(w: World, node: FakeNode) -> None:
    _, canary = await canary_of(w)
    await w.stub.Rollback(calls.RollbackRequest(deployment="fraud/canary", reason="slow"))
    await w.until_state(canary.name, STOPPED)
    service = w.core.services.get(DeploymentService)
    command = DeployCommand(f"fraud@{canary.version}", Stage.CANARY, automation=True)
    with pytest.raises(Exception, match="is quarantined here") as refused:
        await w.core.db.write(lambda tx: service.deploy(tx, command))
    assert [v.field for v in refused.value.violations] == ["not_quarantined"]  # type: ignore[attr-defined]
    request = calls.ClearQuarantineRequest(endpoint="fraud", version=canary.version)
    assert (await refusal(w.stub.ClearQuarantine(request))).code == "INVALID_ARGUMENT"
    request.reason = "it was the network"
    assert not (await w.stub.ClearQuarantine(request)).endpoint.quarantines
    assert (await refusal(w.stub.ClearQuarantine(request))).code == "NOT_FOUND"
    assert (await w.core.db.write(lambda tx: service.deploy(tx, command))).rollout is not None


@pytest.mark.ledger("C2")
async def test_production_can_be_replaced_by_steps_and_falls_back_when_they_fail(w: World, node: FakeNode) -> None:
    old, new = await w.version(), await w.version()
    production = await w.serving(old, PRODUCTION)
    staging = await w.serving(new, STAGING)
    w.fake_evidence(staging.id, error_ratio=(0.0, 100))
    plan = steps(2000, 10_000, strategy=pb.ROLLOUT_STRATEGY_CANARY)
    request = calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION, plan=plan)
    coming = (await w.stub.Promote(request)).deployment
    await w.until_rollout(coming.rollout, pb.ROLLOUT_STATE_PROGRESSING)
    assert await w.weights() == {production.id: 8000, coming.id: 2000}
    assert (await w.get("fraud/production")).id == production.id
    assert await w.status_of(new) == "staging"
    w.fake_evidence(coming.id, error_ratio=(0.9, 100))
    await w.until_rollout(coming.rollout, pb.ROLLOUT_STATE_ABORTED)
    assert await w.weights() == {production.id: 10_000}
    assert await w.status_of(old) == "production"


@pytest.mark.ledger("C2")
async def test_production_by_steps_takes_over_when_they_pass(w: World, node: FakeNode) -> None:
    old, new = await w.version(), await w.version()
    production = await w.serving(old, PRODUCTION)
    staging = await w.serving(new, STAGING)
    w.fake_evidence(staging.id, error_ratio=(0.0, 100))
    plan = steps(2000, strategy=pb.ROLLOUT_STRATEGY_CANARY)
    request = calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION, plan=plan)
    coming = (await w.stub.Promote(request)).deployment
    w.fake_evidence(coming.id, error_ratio=(0.0, 100))
    await w.until_state(production.name, STOPPED)
    assert await w.weights() == {coming.id: 10_000}
    assert (await w.status_of(old), await w.status_of(new)) == ("staging", "production")


@pytest.mark.ledger("C2")
async def test_promotion_says_what_forbids_it(w: World, node: FakeNode) -> None:
    production, _ = await canary_of(w, steps(1000))

    async def refused(**fields: Any) -> str:
        return str((await refusal(w.stub.Promote(calls.PromoteRequest(**fields)))).reason)

    assert await refused(deployment="fraud/production") == "STAGE_ORDER"
    assert await refused(deployment="fraud/canary", target_stage=STAGING) == "STAGE_ORDER"
    staging = await w.serving(await w.version(), STAGING)
    w.fake_evidence(staging.id, error_ratio=(0.0, 100))
    error = await refusal(w.stub.Promote(calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION)))
    assert [v.field for v in error.violations] == ["no_other_rollout"]
    assert (await refusal(w.stub.Promote(calls.PromoteRequest(deployment="fraud/development")))).code == "NOT_FOUND"
    assert (await refusal(w.stub.Promote(calls.PromoteRequest(deployment="nonsense")))).code == "INVALID_ARGUMENT"
    assert production.id in await w.weights()


@pytest.mark.ledger("C2")
async def test_a_canary_may_be_promoted_under_other_criteria_while_its_rollout_runs(w: World, node: FakeNode) -> None:
    production, canary = await canary_of(w, steps(1000, 5000))
    w.evidence[canary.id] = {}
    criterion = common_pb2.Criterion(
        metric="prediction_count", comparison=common_pb2.COMPARISON_GREATER_THAN, bound=5, min_sample=1
    )
    request = calls.PromoteRequest(deployment="fraud/canary", criteria=[criterion])
    not_yet = await w.stub.Promote(request)
    assert (not_yet.promoted, not_yet.decision.verdict) == (False, common_pb2.VERDICT_INCONCLUSIVE)
    assert (await w.rollout(canary.rollout)).state == pb.ROLLOUT_STATE_PROGRESSING
    w.evidence[canary.id] = {"prediction_count": Value(6.0, 6)}
    promoted = await w.stub.Promote(request)
    assert promoted.promoted
    assert (await w.rollout(canary.rollout)).state == pb.ROLLOUT_STATE_SUCCEEDED
    await w.until_state(promoted.deployment.name, READY)
    await w.until_state(canary.name, STOPPED)
    await w.until_state(production.name, STOPPED)


@pytest.mark.ledger("C2")
async def test_validating_a_promotion_judges_and_changes_nothing(w: World, node: FakeNode) -> None:
    staging = await w.serving(await w.version(), STAGING)
    w.fake_evidence(staging.id, error_ratio=(0.0, 100))
    request = calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION, validate_only=True)
    answer = await w.stub.Promote(request)
    assert answer.promoted and answer.decision.verdict == common_pb2.VERDICT_PASS
    assert (answer.deployment.id, answer.deployment.name, answer.rollout, answer.decision.name) == ("", "", "", "")
    assert [d.stage for d in (await w.endpoint()).deployments] == [STAGING]


async def test_a_deployment_that_never_gets_ready_fails_and_leaves_production_alone(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    node.starts = False
    config = pb.DeploymentConfig(health_check=pb.HealthCheck(startup_timeout_s=0.5))
    canary = (await w.deploy(await w.version(), CANARY, config=config)).deployment
    name = await w.eventually(lambda: next((n for n in node.replicas if n.startswith(canary.id)), None))
    await node.say(name, pb.REPLICA_STATE_UNHEALTHY, reason="model.onnx: bad magic", warmed=False)
    failed = await w.until_state(canary.name, pb.DEPLOYMENT_STATE_FAILED)
    assert "not ready within 0.5 s" in failed.state_reason and "bad magic" in failed.state_reason
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_ABORTED)
    assert await w.weights() == {production.id: 10_000}
    assert not (await w.endpoint()).quarantines
    await w.eventually(lambda: name not in node.replicas)
    again = await w.deploy(await w.version(), CANARY)
    assert again.rollout
