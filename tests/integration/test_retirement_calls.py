"""Retirement through real calls: dates, phases, blockers, postponement, cancellation, and ninety days in a minute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import deployment_service_pb2_grpc, lifecycle_service_pb2_grpc
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish.v1 import lifecycle_service_pb2 as svc
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.registry.model import Version

from .serving_world import FakeNode, World, refusal

PHASES = ["deprecation_warning", "traffic_reduction", "final_migration", "retirement"]
DAY_S = 86_400


@dataclass
class Scene:
    """A control plane with a node, and a caller."""

    world: World
    client: AsyncClient
    clock: FakeClock
    node: FakeNode

    async def until(self, name: str, *states: int) -> pb.RetirementPlan:
        """Wait until a plan stands so; return it."""

        async def look() -> pb.RetirementPlan | None:
            # What waits for a deployment to drain looks again after a while.
            await self.advance(1 / DAY_S)
            await asyncio.sleep(0.2)
            found = await self.client.lifecycle.retirement_plan(name)
            return found if found.state in states else None

        try:
            found: pb.RetirementPlan = await self.world.eventually(look, 40.0)
        except AssertionError:
            raise AssertionError(str(await self.client.lifecycle.retirement_plan(name))) from None
        return found

    async def until_ended(self, name: str, phase: int) -> pb.RetirementPlan:
        """Wait until a phase has ended; return the plan."""

        async def look() -> pb.RetirementPlan | None:
            found = await self.client.lifecycle.retirement_plan(name)
            return found if found.phases[phase].HasField("end_time") else None

        try:
            found: pb.RetirementPlan = await self.world.eventually(look, 40.0)
        except AssertionError:
            raise AssertionError(str(await self.client.lifecycle.retirement_plan(name))) from None
        return found

    async def advance(self, days: float) -> None:
        """Let time pass; the reconcilers look again at once."""
        self.clock.advance(days * DAY_S)
        # A node that says nothing loses its lease.
        await self.node.report()
        self.world.core.wakes.notify(["retirement", "actions"])

    async def canary_beside(self) -> tuple[Version, Version, dep.Deployment, dep.Deployment]:
        """Return versions and deployments of a production with a finished canary beside it."""
        old, new = await self.world.version(), await self.world.version()
        production = await self.world.serving(old, dep.STAGE_PRODUCTION)
        plan = dep.RolloutPlan(steps=[dep.RolloutStep(weight_bp=1000)], max_wait_s=10**6)
        canary = await self.world.serving(new, dep.STAGE_CANARY, plan=plan)
        await self.world.until_rollout(canary.rollout, dep.ROLLOUT_STATE_PROGRESSING)
        self.world.fake_evidence(canary.id, error_ratio=(0.0, 1000))
        command = "ROLLOUT_COMMAND_PROMOTE_FULL"
        await self.client.deployments.control_rollout(canary.rollout, command, reason="for the test")
        await self.world.until_rollout(canary.rollout, dep.ROLLOUT_STATE_SUCCEEDED)
        await self.client.endpoints.set_traffic("fraud", {"production": 9000, "canary": 1000})
        return old, new, production, canary


@pytest_asyncio.fixture
async def scene(make_control_plane: Any, engine_name: str) -> AsyncIterator[Scene]:
    clock = FakeClock()
    plane = await make_control_plane(engine=engine_name, gateway_port=0, clock=clock, sweep_s=0.2)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    async with world.node() as node, AsyncClient(plane.address, plane.token) as client:
        yield Scene(world, client, clock, node)


@pytest.mark.ledger("F5")
async def test_a_plan_for_a_later_day_waits_with_four_dates(scene: Scene) -> None:
    version = await scene.world.version()
    lifecycle, day = scene.client.lifecycle, scene.clock.now() + timedelta(days=200)
    plan = await lifecycle.plan_retirement(version.name, day, notify=["ops@example.org"], notes="use the new one")
    assert plan.state == pb.RETIREMENT_STATE_SCHEDULED and plan.subject == version.name
    assert [p.phase for p in plan.phases] == PHASES
    dates = [p.due_time.ToDatetime(tzinfo=UTC) for p in plan.phases]
    assert dates == [day - timedelta(days=d) for d in (90, 30, 7, 0)]
    assert all(s.state == pb.ACTION_STATE_PENDING for p in plan.phases for s in p.steps)
    assert list(plan.migration_plan.reduction_steps_bp) == [5000, 2000]
    with pytest.raises(AlreadyExists, match="open plan"):
        await lifecycle.plan_retirement(f"fraud@{version.number}", day)
    assert [p.name for p in await lifecycle.retirement_plans()] == [plan.name]
    with pytest.raises(InvalidArgument):
        await lifecycle.cancel_retirement(plan.name, "")
    over = await lifecycle.cancel_retirement(plan.name, "we keep it")
    assert over.state == pb.RETIREMENT_STATE_CANCELLED and "we keep it" in over.state_reason
    with pytest.raises(FailedPrecondition):
        await lifecycle.cancel_retirement(plan.name, "again")
    assert (await lifecycle.plan_retirement(version.name, day)).name != plan.name


@pytest.mark.ledger("F5")
async def test_what_cannot_be_planned_is_refused(scene: Scene) -> None:
    version = await scene.world.version()
    lifecycle, day = scene.client.lifecycle, scene.clock.now() + timedelta(days=200)
    for subject, more, error in (
        ("nothing@1", {}, NotFound),
        ("fraud@9", {}, NotFound),
        ("", {}, InvalidArgument),
        (version.name, {"replacement_version": 9}, NotFound),
        (version.name, {"replacement_version": version.number}, InvalidArgument),
        ("fraud", {"replacement_version": version.number}, InvalidArgument),
        (version.name, {"reduction_steps_bp": [2000, 5000]}, InvalidArgument),
        (version.name, {"reduction_steps_bp": [20_000]}, InvalidArgument),
    ):
        with pytest.raises(error):
            await lifecycle.plan_retirement(subject, day, **more)
    plan = await lifecycle.plan_retirement(version.name, day)
    stub: Any = lifecycle_service_pb2_grpc.LifecycleServiceStub(scene.world.plane.channel)
    request = svc.UpdateRetirementPlanRequest(plan=pb.RetirementPlan(name=plan.name))
    assert (await refusal(stub.UpdateRetirementPlan(request))).code == "INVALID_ARGUMENT"
    request.update_mask.paths.append("retirement_time")
    assert (await refusal(stub.UpdateRetirementPlan(request))).code == "INVALID_ARGUMENT", "no day is not 1970"
    request.plan.retirement_time.FromDatetime(day + timedelta(days=1))
    request.plan.etag = plan.etag
    await stub.UpdateRetirementPlan(request)
    assert (await refusal(stub.UpdateRetirementPlan(request))).code == "ABORTED"


@pytest.mark.ledger("F5")
async def test_a_plan_for_today_runs_through_and_archives_the_version(scene: Scene) -> None:
    version = await scene.world.version()
    await scene.world.serving(version, dep.STAGE_STAGING)
    plan = await scene.client.lifecycle.plan_retirement(version.name, scene.clock.now())
    over = await scene.until(plan.name, pb.RETIREMENT_STATE_COMPLETED)
    steps = [s for p in over.phases for s in p.steps]
    assert len(steps) == 9 and all(s.state == pb.ACTION_STATE_SUCCEEDED and s.attempts == 1 for s in steps)
    assert await scene.world.status_of(version) == "archived"
    await scene.world.eventually(lambda: _ended(scene))
    notices = await scene.client.monitoring.alerts(filter='kind = "rule"')
    assert len(notices) == 1 and "retires on" in notices[0].summary


async def _ended(scene: Scene) -> bool:
    return not await scene.client.deployments.list("fraud")


@pytest.mark.ledger("F5")
async def test_a_version_in_use_halts_its_plan_until_another_took_over(scene: Scene) -> None:
    old, new = await scene.world.version(), await scene.world.version()
    production = await scene.world.serving(old, dep.STAGE_PRODUCTION)
    plan = await scene.client.lifecycle.plan_retirement(old.name, scene.clock.now())
    halted = await scene.until(plan.name, pb.RETIREMENT_STATE_HALTED)
    assert len(halted.blockers) == 1 and "endpoint fraud" in halted.blockers[0].replace("of fraud", "endpoint fraud")
    assert "100 %" in halted.blockers[0]
    assert await scene.world.weights() == {production.id: 10_000}
    assert (await scene.world.get("fraud/production")).state == dep.DEPLOYMENT_STATE_READY
    assert await scene.world.status_of(old) == "production"
    staging = await scene.world.serving(new, dep.STAGE_STAGING)
    scene.world.fake_evidence(staging.id, error_ratio=(0.0, 1000))
    criteria = [{"metric": "prediction_count", "comparison": ">=", "bound": 0}]
    promoted = await scene.client.deployments.promote("fraud/staging", target_stage="production", criteria=criteria)
    assert promoted.promoted, promoted
    await scene.world.until_state(promoted.deployment.name, dep.DEPLOYMENT_STATE_READY)
    await scene.world.eventually(lambda: _status(scene, old, "staging"))
    await scene.client.lifecycle.postpone_retirement(plan.name, scene.clock.now())
    over = await scene.until(plan.name, pb.RETIREMENT_STATE_COMPLETED)
    assert not over.blockers
    assert (await scene.world.status_of(old), await scene.world.status_of(new)) == ("archived", "production")


async def _status(scene: Scene, version: Version, status: str) -> bool:
    return await scene.world.status_of(version) == status


@pytest.mark.ledger("F5")
async def test_postponing_moves_later_dates_only(scene: Scene) -> None:
    version = await scene.world.version()
    lifecycle, day = scene.client.lifecycle, scene.clock.now() + timedelta(days=60)
    plan = await lifecycle.plan_retirement(version.name, day)
    warned = await scene.until_ended(plan.name, 0)
    assert warned.state == pb.RETIREMENT_STATE_DEPRECATION_WARNING
    assert await scene.world.status_of(version) == "deprecated"
    later = await lifecycle.postpone_retirement(plan.name, day + timedelta(days=365))
    assert later.phases[0] == warned.phases[0]
    dates = [p.due_time.ToDatetime(tzinfo=UTC) for p in later.phases[1:]]
    assert dates == [day + timedelta(days=365 - d) for d in (30, 7, 0)]
    await scene.advance(100)
    assert (await lifecycle.retirement_plan(plan.name)).state == pb.RETIREMENT_STATE_DEPRECATION_WARNING


@pytest.mark.ledger("F5")
async def test_ninety_days_phase_by_phase_with_a_replacement_live(scene: Scene) -> None:
    old, new, production, canary = await scene.canary_beside()
    lifecycle, start = scene.client.lifecycle, scene.clock.now()
    day = start + timedelta(days=91)
    plan = await lifecycle.plan_retirement(
        old.name, day, replacement_version=new.number, reduction_steps_bp=[5000, 2000]
    )
    await scene.advance(0.5)
    assert (await lifecycle.retirement_plan(plan.name)).state == pb.RETIREMENT_STATE_SCHEDULED
    await scene.advance(0.5)
    await scene.until_ended(plan.name, 0)
    tags = (await scene.client.models.version(old.name)).tags
    assert tags["replaced_by"] == f"fraud@{new.number}" and tags["retires"] == f"{day:%Y-%m-%d}"
    before = {production.id: 9000, canary.id: 1000}
    await scene.advance(59)
    assert await scene.world.weights() == before
    await scene.advance(1)
    await scene.world.eventually(lambda: _weights(scene, {production.id: 5000, canary.id: 5000}))
    await scene.advance(11)
    assert await scene.world.weights() == {production.id: 5000, canary.id: 5000}, "the second step is not due yet"
    assert not (await lifecycle.retirement_plan(plan.name)).phases[1].HasField("end_time")
    await scene.advance(1)
    await scene.world.eventually(lambda: _weights(scene, {production.id: 2000, canary.id: 8000}))
    reduced = await scene.until_ended(plan.name, 1)
    assert reduced.state == pb.RETIREMENT_STATE_TRAFFIC_REDUCTION
    await scene.advance(11)
    await scene.until_ended(plan.name, 2)
    assert await scene.world.weights() == {canary.id: 10_000}
    with pytest.raises(FailedPrecondition):
        await scene.advance(7)
        await scene.until(plan.name, pb.RETIREMENT_STATE_RETIREMENT, pb.RETIREMENT_STATE_COMPLETED)
        await lifecycle.cancel_retirement(plan.name, "too late")
    over = await scene.until(plan.name, pb.RETIREMENT_STATE_COMPLETED)
    assert [(p.start_time.ToDatetime(tzinfo=UTC) - start).days for p in over.phases] == [1, 61, 84, 91]
    assert await scene.world.status_of(old) == "archived"
    assert await scene.world.weights() == {canary.id: 10_000}
    assert {s.attempts for p in over.phases for s in p.steps} == {1}


async def _weights(scene: Scene, expected: dict[str, int]) -> bool:
    return await scene.world.weights() == expected


@pytest.mark.ledger("F5")
async def test_the_first_step_is_not_the_last_where_less_traffic_is_left_already(scene: Scene) -> None:
    old, new, production, canary = await scene.canary_beside()
    await scene.client.endpoints.set_traffic("fraud", {"production": 4000, "canary": 6000})
    day = scene.clock.now() + timedelta(days=30)
    plan = await scene.client.lifecycle.plan_retirement(old.name, day, replacement_version=new.number)
    await scene.until(plan.name, pb.RETIREMENT_STATE_TRAFFIC_REDUCTION)
    await scene.advance(11)
    assert await scene.world.weights() == {production.id: 4000, canary.id: 6000}
    await scene.advance(1)
    await scene.world.eventually(lambda: _weights(scene, {production.id: 2000, canary.id: 8000}))
