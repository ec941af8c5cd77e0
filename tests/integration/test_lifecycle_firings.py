"""Automation through real calls: what fires, under which conditions, and what is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.v1 import common_pb2, deployment_service_pb2_grpc
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.storage import actions as outbox

from .lifecycle_world import (
    ALERT,
    CONFIG,
    DONE,
    SEED,
    SUPPRESSED,
    Served,
    profiled,
    seconds_between,
)
from .serving_world import World


@pytest_asyncio.fixture
async def served(make_control_plane: Any, engine_name: str) -> AsyncIterator[Served]:
    # No sweep comes to the rescue: whatever happens in time was woken.
    plane = await make_control_plane(engine=engine_name, gateway_port=0, sweep_s=30.0)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    version = await profiled(world)
    async with world.node() as node, AsyncClient(plane.address, plane.token) as client:
        production = await world.serving(version, dep.STAGE_PRODUCTION, config=CONFIG)
        yield Served(world, client, production, node)


# What fires -------------------------------------------------------------------------------------------------------


@pytest.mark.ledger("F2", "F4")
async def test_drift_fires_within_a_second_and_once_per_episode(served: Served) -> None:
    await served.rule("drift", triggers=[{"type": "data_drift", "endpoint": "fraud"}])
    await served.rule("elsewhere", triggers=[{"type": "data_drift", "endpoint": "other"}])
    await served.window(0.0)
    await served.drift()
    found = await served.firing("drift")
    (alert,) = await served.client.monitoring.alerts(filter='kind = "data_drift"')
    assert found.state == DONE and found.evidence == alert.episode
    assert found.deployment == served.production.id and found.endpoint == "fraud"
    assert seconds_between(alert.start_time, found.act_time) < 1.0
    await served.drift()
    await served.drift()
    assert len(await served.firings("drift")) == 1, "the same episode fires once"
    await served.calm()
    await served.drift()
    assert len(await served.firings("drift", 2)) == 2, "a new episode fires again"
    assert await served.client.lifecycle.firings("elsewhere") == []


@pytest.mark.ledger("F2")
async def test_drift_confirmed_by_two_windows_is_suspected_first_and_lapses_when_it_goes(served: Served) -> None:
    await served.rule("twice", triggers=[{"type": "data_drift", "confirmations": 2}])

    async def suspected() -> bool:
        found = await served.client.lifecycle.firings("twice")
        return bool(found) and found[0].state == pb.FIRING_STATE_SUSPECTED

    await served.drift()
    await served.world.eventually(suspected)
    await served.calm()
    assert (await served.firing("twice")).state == pb.FIRING_STATE_LAPSED
    await served.drift()
    await served.world.eventually(suspected)
    await served.drift()
    assert (await served.firings("twice", 2))[0].state == DONE


@pytest.mark.ledger("F2", "F3")
async def test_errors_fire_when_there_are_too_many_of_enough_calls(served: Served) -> None:
    trigger = {"type": "error_rate_increase", "threshold": 0.1, "min_sample": 50}
    await served.rule("errors", triggers=[trigger])
    await served.outcome(served.production.id, 20, 20)
    await served.outcome(served.production.id, 400, 0)
    assert await served.client.lifecycle.firings("errors") == []
    await served.outcome(served.production.id, 100, 100)
    found = await served.firing("errors")
    assert found.state == DONE and found.evidence_details["value"] == pytest.approx(120 / 520)
    assert found.evidence_details["n"] == 520
    await served.outcome(served.production.id, 100, 100)
    assert len(await served.firings("errors")) == 1


@pytest.mark.ledger("F2")
async def test_a_fallen_accuracy_fires(served: Served) -> None:
    trigger = {
        "type": "performance_degradation", "metric": "accuracy", "comparison": ">=", "threshold": 0.8, "min_sample": 50,
    }  # fmt: skip
    await served.rule("accuracy", triggers=[trigger])
    rng = np.random.default_rng(SEED)
    labels = rng.integers(0, 2, 100)
    ids = await served.client.monitoring.log_predictions(
        "fraud/production", {"x": rng.normal(size=100), "y": rng.normal(size=100)}, labels
    )
    truths = labels.copy()
    truths[:40] = 1 - truths[:40]
    await served.client.monitoring.log_truth(ids, truths)
    found = await served.firing("accuracy")
    assert found.state == DONE and found.evidence_details["value"] == pytest.approx(0.6)
    assert found.evidence_details["metric"] == "accuracy"


@pytest.mark.ledger("F2")
async def test_a_schedule_fires_once_a_slot_and_not_for_the_past(make_control_plane: Any, engine_name: str) -> None:
    clock = FakeClock()
    plane = await make_control_plane(engine=engine_name, gateway_port=0, clock=clock, sweep_s=0.1)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    async with AsyncClient(plane.address, plane.token) as client:
        served = Served(world, client, dep.Deployment(), world.node())
        await served.rule("nightly", triggers=[{"type": "schedule", "cron": "30 2 * * *"}])
        clock.advance(2 * 3600)
        await world.eventually(lambda: True)
        assert await client.lifecycle.firings("nightly") == []
        clock.advance(1800)
        first = await served.firing("nightly")
        assert first.state == DONE and first.evidence == "slot/2030-01-01T02:30:00+00:00"
        clock.advance(5 * 86_400)
        await served.firings("nightly", 2)
        clock.advance(1)
        assert len(await served.firings("nightly", 2)) == 2, "slots that were missed together fire once"


# Conditions ---------------------------------------------------------------------------------------------------------


@pytest.mark.ledger("F3")
async def test_conditions_decide_and_say_why(served: Served) -> None:
    drifted = {"metric": "drift_score", "comparison": ">", "bound": 0.0}
    await served.rule("holds", conditions=[drifted])
    await served.rule("fails", conditions=[drifted, {"metric": "prediction_count", "comparison": ">", "bound": 1e6}])
    await served.rule("nothing", conditions=[{"metric": "accuracy", "comparison": "<", "bound": 1.0}])
    await served.rule("few", conditions=[drifted | {"min_sample": 10_000}])
    await served.rule("hour", conditions=[{"metric": "hour_of_day", "comparison": "<", "bound": 24}])
    await served.outcome(served.production.id, 10, 0)
    await served.drift()
    assert (await served.firing("holds")).state == DONE
    assert (await served.firing("hour")).state == DONE
    reasons = {}
    for rule in ("fails", "nothing", "few"):
        found = await served.firing(rule)
        assert found.state == SUPPRESSED and [a.state for a in found.actions] == [pb.ACTION_STATE_PENDING]
        reasons[rule] = found.state_reason
    assert "prediction_count > 1e+06 does not hold" in reasons["fails"]
    assert "accuracy" in reasons["nothing"] and "nothing was measured" in reasons["nothing"]
    assert "10000 are needed" in reasons["few"]
    assert len(await served.client.monitoring.alerts(filter='kind = "rule"')) == 2


@pytest.mark.ledger("F3")
async def test_a_cooldown_suppresses_the_next_episode(served: Served) -> None:
    await served.rule("drift", cooldown_s=3600)
    await served.drift()
    await served.firing("drift")
    await served.calm()
    await served.drift()
    newest, first = await served.firings("drift", 2)
    assert first.state == DONE and newest.state == SUPPRESSED
    assert "cooldown" in newest.state_reason and first.name.rpartition("/")[2] in newest.state_reason


@pytest.mark.ledger("F3")
async def test_a_cooldown_of_production_does_not_protect_the_canary_beside_it(served: Served) -> None:
    trigger = {"type": "error_rate_increase", "threshold": 0.1, "min_sample": 50}
    await served.rule("errors", triggers=[trigger], cooldown_s=3600)
    await served.outcome(served.production.id, 100, 50)
    (first,) = await served.firings("errors")
    # A plan that no errors abort: what happens to this canary is the rule's to say.
    plan = dep.RolloutPlan(steps=[dep.RolloutStep(weight_bp=1000)], max_wait_s=3600)
    plan.criteria.add(metric="error_ratio", comparison=common_pb2.COMPARISON_LESS_THAN_OR_EQUAL, bound=1.0)
    canary = await served.world.serving(await profiled(served.world), dep.STAGE_CANARY, config=CONFIG, plan=plan)
    await served.outcome(canary.id, 100, 50)
    second, _ = await served.firings("errors", 2)
    assert (first.state, second.state) == (DONE, DONE), second.state_reason
    assert canary.id in second.deployment


# Actions ----------------------------------------------------------------------------------------------------------


async def pipeline(served: Served) -> None:
    data = served.world.plane.home / "data"
    data.mkdir(exist_ok=True)
    rng = np.random.default_rng(SEED)
    lines = [f"{i},{rng.normal():.3f},{rng.integers(0, 2)}" for i in range(200)]
    (data / "rows.csv").write_text("id,x,odd\n" + "\n".join(lines) + "\n")
    await served.client.pipelines.create(
        "fraud",
        {
            "model": "fraud",
            "data_sources": [{"name": "rows", "type": "file", "path": str(data / "rows.csv"), "format": "csv"}],
            "feature_config": {"label": "odd", "id_column": "id", "features": ["x"]},
            "training_config": {
                "model_config": {"framework": "sklearn", "type": "random_forest", "task": "classification"},
                "split_config": {"method": "random", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 1},
            },
            "evaluation_config": {"metrics": ["accuracy"]},
        },
    )


@pytest.mark.ledger("F4")
async def test_each_of_the_five_actions_takes_effect_once(served: Served) -> None:
    await pipeline(served)
    newer = await profiled(served.world)
    plan = dep.RolloutPlan(steps=[dep.RolloutStep(weight_bp=1000)], max_wait_s=3600)
    canary = await served.world.serving(newer, dep.STAGE_CANARY, config=CONFIG, plan=plan)
    await served.world.until_rollout(canary.rollout, dep.ROLLOUT_STATE_PROGRESSING)
    command = "ROLLOUT_COMMAND_PROMOTE_FULL"
    await served.client.deployments.control_rollout(canary.rollout, command, reason="for the test")
    await served.world.until_rollout(canary.rollout, dep.ROLLOUT_STATE_SUCCEEDED)
    await served.client.endpoints.set_traffic("fraud", {"production": 8000, "canary": 2000}, sticky_header="user")
    await served.rule(
        "all",
        triggers=[{"type": "data_drift", "stages": ["production"]}],
        actions=[
            {"type": "retrain_model", "parameters": {"pipeline": "fraud"}},
            {"type": "scale_deployment", "parameters": {"replicas": "+1"}},
            {"type": "send_alert", "parameters": {"severity": "critical", "message": "drifted"}},
            {
                "type": "update_traffic_allocation",
                "parameters": {
                    "endpoint": "projects/default/endpoints/fraud",
                    "weights": {"production": 7000, "canary": 3000},
                },
            },
            {"type": "rollback_deployment", "parameters": {"deployment": "fraud/canary", "reason": "worse"}},
        ],
    )
    await served.drift()
    found = await served.firing("all")
    assert found.state == DONE, found.state_reason
    assert [a.state for a in found.actions] == [pb.ACTION_STATE_SUCCEEDED] * 5
    results = [dict(a.result) for a in found.actions]
    (job,) = await served.client.pipelines.jobs("fraud")
    assert job.name == results[0]["job"] and job.trigger == "data_drift"
    await served.client.pipelines.cancel(job.name)
    assert (await served.world.get("fraud/production")).config.scaling.replicas == 2
    (alert,) = await served.client.monitoring.alerts(filter='kind = "rule"')
    assert (alert.summary, alert.name) == ("drifted", results[2]["alert"])
    assert results[3]["weights"] == {served.production.id: 7000.0, canary.id: 3000.0}
    endpoint = await served.world.endpoint()
    assert endpoint.routes.sticky_header == "user", "what the action does not name stays"
    assert results[4]["stopped"] == canary.name
    assert [q.version for q in endpoint.quarantines] == [newer.number]
    assert {w.deployment: w.weight_bp for w in endpoint.routes.weights} == {served.production.id: 10_000}
    starts = [a.start_time.ToNanoseconds() for a in found.actions]
    assert starts == sorted(starts), "one after the other"


@pytest.mark.ledger("F4")
async def test_a_failing_action_stops_the_later_ones_only_where_told(served: Served) -> None:
    bad = {"type": "scale_deployment", "parameters": {"deployment": "fraud/canary", "replicas": 2}}
    await served.rule("goes-on", actions=[bad, ALERT])
    await served.rule("stops", actions=[ALERT, bad | {"stop_on_failure": True}, ALERT])
    await served.rule("fails", actions=[bad])
    await served.rule("fine")
    await served.drift()
    on, stopped, failed, fine = [await served.firing(r) for r in ("goes-on", "stops", "fails", "fine")]
    states = pb.ACTION_STATE_SUCCEEDED, pb.ACTION_STATE_FAILED, pb.ACTION_STATE_PENDING
    assert [a.state for a in on.actions] == [states[1], states[0]]
    assert on.state == pb.FIRING_STATE_PARTIAL and "canary" in on.actions[0].error
    assert [a.state for a in stopped.actions] == [states[0], states[1], states[2]]
    assert stopped.state == pb.FIRING_STATE_PARTIAL
    assert failed.state == pb.FIRING_STATE_FAILED and "canary" in failed.state_reason
    assert fine.state == DONE, "one failing rule stops no other"


@pytest.mark.ledger("F4")
async def test_a_restart_between_firing_and_action_repeats_nothing(
    make_control_plane: Any, engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = await make_control_plane(engine=engine_name, gateway_port=0, lease_s=1.0)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    version = await profiled(world)
    async with world.node() as node, AsyncClient(plane.address, plane.token) as client:
        production = await world.serving(version, dep.STAGE_PRODUCTION, config=CONFIG)
        served = Served(world, client, production, node)
        scale = {"type": "scale_deployment", "parameters": {"replicas": "+1"}}
        await served.rule("scale", actions=[scale, ALERT])
        # The outbox finds nothing to do until the second life.
        real, monkeypatch_due = outbox.due, lambda *_: []
        monkeypatch.setattr(outbox, "due", monkeypatch_due)
        await served.drift()

        async def acting() -> bool:
            found = await client.lifecycle.firings("scale")
            return bool(found) and found[0].state == pb.FIRING_STATE_ACTING

        await world.eventually(acting)
    await plane.channel.close()
    await plane.app.stop()
    monkeypatch.setattr(outbox, "due", real)
    options: Mapping[str, Any] = {"database": plane.app.settings.database_url, "gateway_port": 0, "lease_s": 1.0}
    plane = await make_control_plane(home=plane.home, **options)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    async with AsyncClient(plane.address, plane.token) as client:
        served = Served(world, client, production, node)
        found = await served.firing("scale")
        assert found.state == DONE and [a.attempts for a in found.actions] == [1, 1]
        assert (await world.get("fraud/production")).config.scaling.replicas == 2
        assert len(await client.monitoring.alerts(filter='kind = "rule"')) == 1
        plane.core.wakes.notify(["lifecycle", "actions"])
        assert len(await served.firings("scale")) == 1
