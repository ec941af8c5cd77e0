"""Deploy, promote, roll back, through real calls, with a fake node on the real wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pilotfish.v1 import common_pb2
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls

from .serving_world import FakeNode, World, refusal, world

DEV, STAGING = pb.STAGE_DEVELOPMENT, pb.STAGE_STAGING
CANARY, PRODUCTION = pb.STAGE_CANARY, pb.STAGE_PRODUCTION
READY, STOPPED = pb.DEPLOYMENT_STATE_READY, pb.DEPLOYMENT_STATE_STOPPED


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


@pytest_asyncio.fixture
async def node(w: World) -> AsyncIterator[FakeNode]:
    async with w.node() as found:
        yield found


@pytest.mark.ledger("C1", "A2", "A4")
async def test_a_first_production_deployment_starts_and_gets_all_traffic(w: World, node: FakeNode) -> None:
    version = await w.version()
    answer = await w.deploy(version, PRODUCTION)
    assert [c.check for c in answer.checks] == [
        "version_exists",
        "status_allows",
        "artifact_intact",
        "resources_fit",
        "stage_order",
        "not_quarantined",
        "no_other_rollout",
    ]
    assert all(c.passed for c in answer.checks)
    assert answer.deployment.state == pb.DEPLOYMENT_STATE_PENDING
    ready = await w.until_state(answer.deployment.name, READY)
    assert (ready.traffic_bp, ready.ready_replicas, ready.config.resources.memory_mib) == (10_000, 1, 1024)
    assert ready.config.monitoring.drift_detection.method == "calibrated"
    rollout = await w.until_rollout(answer.rollout, pb.ROLLOUT_STATE_SUCCEEDED)
    assert rollout.plan.strategy == pb.ROLLOUT_STRATEGY_ALL_AT_ONCE
    assert await w.status_of(version) == "production"
    await w.eventually(lambda: node.weights("fraud") == {ready.id: 10_000})
    routed = node.endpoint("fraud").deployments[0]
    assert [r.grpc_address for r in routed.replicas] == [ready.replicas[0].grpc_address]


@pytest.mark.ledger("C2", "C3", "C5")
async def test_deploy_promote_and_roll_back_from_end_to_end(w: World, node: FakeNode) -> None:
    old, new = await w.version(), await w.version()
    production = await w.serving(old, PRODUCTION)
    staging = await w.serving(new, STAGING)
    w.fake_evidence(staging.id, error_ratio=(0.5, 100))
    refused = await w.stub.Promote(calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION))
    assert not refused.promoted
    assert refused.decision.verdict == common_pb2.VERDICT_FAIL
    assert refused.decision.verdicts[0].n == 100
    assert await w.status_of(new) == "staging"

    w.fake_evidence(staging.id, error_ratio=(0.01, 100))
    promoted = await w.stub.Promote(calls.PromoteRequest(deployment="fraud/staging", target_stage=PRODUCTION))
    assert promoted.promoted
    now = await w.until_state(promoted.deployment.name, READY)
    assert now.traffic_bp == 10_000 and now.previous == production.id
    assert await w.status_of(new) == "production"
    assert await w.status_of(old) == "staging"
    assert (await w.until_state(production.name, STOPPED)).ready_replicas == 0
    assert (await w.get("fraud/production")).id == now.id

    back = await w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production", reason="it is wrong"))
    assert back.restored.version == old.number and back.stopped.id == now.id
    restored = await w.until_state(back.restored.name, READY)
    assert restored.id not in (production.id, now.id)
    assert await w.weights() == {restored.id: 10_000}
    await w.until_state(now.name, STOPPED)
    assert (await w.status_of(old), await w.status_of(new)) == ("production", "staging")
    assert [q.version for q in (await w.endpoint()).quarantines] == [new.number]


@pytest.mark.ledger("C3")
async def test_a_rollback_without_a_previous_version_is_refused(w: World, node: FakeNode) -> None:
    await w.serving(await w.version(), PRODUCTION)
    error = await refusal(w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production", reason="bad")))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NO_PREVIOUS_VERSION")
    error = await refusal(w.stub.Rollback(calls.RollbackRequest(deployment="fraud/production")))
    assert error.code == "INVALID_ARGUMENT"
