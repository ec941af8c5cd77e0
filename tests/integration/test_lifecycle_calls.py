"""Automation through real calls: rules, the kill switch, and who may."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import AlreadyExists, InvalidArgument, NotFound
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import deployment_service_pb2_grpc, lifecycle_service_pb2_grpc
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish.v1 import lifecycle_service_pb2 as svc

from .lifecycle_world import (
    ALERT,
    CONFIG,
    DONE,
    DRIFT,
    SUPPRESSED,
    Served,
    profiled,
    stub_of,
)
from .serving_world import World, refusal


@pytest_asyncio.fixture
async def served(make_control_plane: Any, engine_name: str) -> AsyncIterator[Served]:
    # No sweep comes to the rescue: whatever happens in time was woken.
    plane = await make_control_plane(engine=engine_name, gateway_port=0, sweep_s=30.0)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    version = await profiled(world)
    async with world.node() as node, AsyncClient(plane.address, plane.token) as client:
        production = await world.serving(version, dep.STAGE_PRODUCTION, config=CONFIG)
        yield Served(world, client, production, node)


# Rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.ledger("F1")
async def test_a_rule_is_created_read_changed_switched_and_deleted(served: Served) -> None:
    lifecycle = served.client.lifecycle
    made = await served.rule("drift", description="look at drift")
    assert (made.name, made.revision, made.enabled) == ("projects/default/rules/drift", 1, True)
    assert list(made.triggers[0].stages) == ["canary", "production"] and made.triggers[0].min_sample == 100
    assert made.author == "admin"
    with pytest.raises(AlreadyExists):
        await served.rule("drift")
    await served.rule("another")
    assert [r.name.rpartition("/")[2] for r in await lifecycle.rules()] == ["another", "drift"]
    off = await lifecycle.update_rule("drift", enabled=False)
    assert (off.revision, off.enabled, off.description) == (2, False, "look at drift")
    assert await lifecycle.rule("drift") == off
    await served.drift()
    await served.firing("another")
    assert await lifecycle.firings("drift") == [], "a rule that is off does nothing"
    on = await lifecycle.update_rule("drift", enabled=True, cooldown_s=7)
    assert (on.revision, on.enabled, on.cooldown_s) == (3, True, 7)
    await lifecycle.delete_rule("another")
    with pytest.raises(NotFound):
        await lifecycle.rule("another")
    assert len(await lifecycle.firings("another")) == 1, "its firings stay"
    again = await served.rule("another")
    assert again.revision == 2, "a revision is never used twice"
    with pytest.raises(NotFound):
        await lifecycle.delete_rule("none")


@pytest.mark.ledger("F1", "G1")
async def test_a_lost_race_aborts_and_a_repeated_call_changes_nothing(served: Served) -> None:
    made = await served.rule("drift")
    stub = stub_of(served.world)

    def change(text: str, **more: Any) -> Any:
        request = svc.UpdateRuleRequest(rule=pb.Rule(name="drift", description=text, etag=made.etag), **more)
        request.update_mask.paths.append("description")
        return stub.UpdateRule(request)

    request_id = uuid.uuid4().hex
    first = (await change("one", request_id=request_id)).rule
    assert (await change("one", request_id=request_id)).rule == first
    error = await refusal(change("two"))
    assert error.code == "ABORTED"
    assert (await served.client.lifecycle.rule("drift")).revision == 2


@pytest.mark.ledger("F1")
async def test_everything_wrong_with_a_rule_is_told_at_once_with_its_path(served: Served) -> None:
    nan = float("nan")
    wrong = {
        "triggers": [
            {"type": "moon_phase"},
            {"type": "performance_degradation"},
            {"type": "performance_degradation", "metric": "acuracy", "comparison": ">=", "threshold": nan},
            {"type": "error_rate_increase", "threshold": 7},
            {"type": "schedule", "cron": "99 * * * *"},
            {"type": "schedule", "cron": "* * * * * *"},
            {"type": "data_drift", "stages": ["moon"], "confirmations": -1, "min_sample": -2},
        ],
        "conditions": [{}, {"metric": "weather", "comparison": ">=", "bound": 1}],
        "actions": [
            {"type": "explode"},
            {"type": "retrain_model", "parameters": {"pipeline": "nowhere"}},
            {"type": "retrain_model"},
            {"type": "scale_deployment", "parameters": {"replicas": "many"}},
            {"type": "send_alert", "parameters": {"severity": "loud"}},
            {"type": "update_traffic_allocation", "parameters": {"weights": {"canary": 1}}},
            {"type": "update_traffic_allocation", "parameters": {"endpoint": "none", "weights": {"canary": 10000}}},
        ],
        "cooldown_s": -1,
    }
    with pytest.raises(InvalidArgument) as caught:
        await served.client.lifecycle.create_rule("bad", wrong)
    fields = {v.field for v in caught.value.violations}
    expected = {
        "rule.triggers[0].type", "rule.triggers[1].metric", "rule.triggers[1].comparison", "rule.triggers[2].metric",
        "rule.triggers[2].threshold", "rule.triggers[3].threshold", "rule.triggers[4].cron", "rule.triggers[5].cron",
        "rule.triggers[6].stages", "rule.triggers[6].confirmations", "rule.triggers[6].min_sample",
        "rule.conditions[0].metric", "rule.conditions[0].comparison", "rule.conditions[1].metric",
        "rule.actions[0].type", "rule.actions[1].parameters", "rule.actions[2].parameters.pipeline",
        "rule.actions[3].parameters", "rule.actions[4].parameters", "rule.actions[5].parameters",
        "rule.actions[6].parameters", "rule.cooldown_s",
    }  # fmt: skip
    assert fields == expected
    assert "nowhere" in str([v.description for v in caught.value.violations])
    with pytest.raises(NotFound):
        await served.client.lifecycle.rule("bad")
    for empty in ({}, {"triggers": [DRIFT]}, {"actions": [ALERT]}):
        with pytest.raises(InvalidArgument):
            await served.client.lifecycle.create_rule("bad", empty)
    checked = await served.client.lifecycle.create_rule(
        "good", {"triggers": [DRIFT], "actions": [ALERT]}, validate_only=True
    )
    assert checked.revision == 1
    assert await served.client.lifecycle.rules() == []


@pytest.mark.ledger("F1")
async def test_what_a_paused_automation_wanted_to_do_is_recorded(served: Served) -> None:
    lifecycle = served.client.lifecycle
    await served.rule("drift")
    error = await refusal(stub_of(served.world).SetAutomation(svc.SetAutomationRequest(paused=True)))
    assert error.code == "INVALID_ARGUMENT"
    await lifecycle.pause("an incident")
    assert (await lifecycle.automation()).paused and (await lifecycle.automation()).reason == "an incident"
    await served.drift()
    first = await served.firing("drift")
    assert first.state == SUPPRESSED and "an incident" in first.state_reason
    assert first.evidence and first.evidence_details["n"] >= 100
    assert not first.HasField("act_time")
    await served.calm()
    await lifecycle.resume()
    await lifecycle.pause("repairs", endpoint="fraud")
    assert list((await lifecycle.automation()).paused_endpoints) == ["fraud"]
    await served.drift()
    second = (await served.firings("drift", 2))[0]
    assert second.state == SUPPRESSED and "fraud" in second.state_reason
    await served.calm()
    await lifecycle.resume(endpoint="fraud")
    await served.drift()
    third = (await served.firings("drift", 3))[0]
    assert third.state == DONE
    assert len(await served.client.monitoring.alerts(filter='kind = "rule"')) == 1


async def test_a_call_without_a_token_is_refused(served: Served) -> None:
    channel = served.world.plane.channel_with("")
    stub: Any = lifecycle_service_pb2_grpc.LifecycleServiceStub(channel)
    for call in (stub.ListRules(svc.ListRulesRequest()), stub.SetAutomation(svc.SetAutomationRequest(paused=True))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await channel.close()
