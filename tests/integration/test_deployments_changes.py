"""Deployments that serve, through real calls: stopped, scaled, updated, their traffic and their replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask

from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish_control_plane.registry.service import RegistryService

from .deployments_world import CANARY, PRODUCTION, READY, STAGING, STOPPED, fields
from .serving_world import FakeNode, World, refusal, world


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


@pytest_asyncio.fixture
async def node(w: World) -> AsyncIterator[FakeNode]:
    async with w.node() as found:
        yield found


# Stop, scale, update


@pytest.mark.ledger("C4")
async def test_live_traffic_is_stopped_only_by_force(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    error = await refusal(w.stub.StopDeployment(calls.StopDeploymentRequest(deployment=production.name)))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CARRIES_TRAFFIC")
    request = calls.StopDeploymentRequest(deployment="fraud/production", reason="over", force=True)
    stopped = (await w.stub.StopDeployment(request)).deployment
    assert (stopped.state, stopped.state_reason) == (pb.DEPLOYMENT_STATE_DRAINING, "over")
    ended = await w.until_state(production.name, STOPPED)
    assert ended.end_time.seconds and not ended.replicas
    assert await w.weights() == {}
    assert await w.status_of(await _version_of(w, ended)) == "staging"
    drained = [what for what, _ in node.order].index("drained")
    assert ("routed", {}) in node.order[:drained], "the replica was told to drain before the routes were in force"
    error = await refusal(w.stub.StopDeployment(calls.StopDeploymentRequest(deployment="fraud/production")))
    assert error.code == "NOT_FOUND"


async def _says(w: World, name: str, text: str) -> bool:
    return text in (await w.get(name)).state_reason


async def _version_of(w: World, deployment: pb.Deployment) -> Any:
    registry = w.core.services.get(RegistryService)
    return await w.core.db.read(lambda tx: registry.get_version(tx, "default", deployment.model, deployment.version))


@pytest.mark.ledger("C4")
async def test_scaling_up_and_down_changes_revision_and_replicas(w: World, node: FakeNode) -> None:
    staging = await w.serving(await w.version(), STAGING)
    request = calls.ScaleDeploymentRequest(deployment="fraud/staging", replicas=3, etag=staging.etag)
    scaled = (await w.stub.ScaleDeployment(request)).deployment
    assert (scaled.revision, scaled.config.scaling.replicas) == (2, 3)
    await w.eventually(lambda: _ready_with(w, staging.name, 3))
    assert len(node.replicas) == 3
    assert {r.revision for r in (await w.get(staging.name)).replicas} == {2}
    error = await refusal(w.stub.ScaleDeployment(request))
    assert error.code == "ABORTED"
    await w.stub.ScaleDeployment(calls.ScaleDeploymentRequest(deployment="fraud/staging", replicas=1))
    await w.eventually(lambda: _ready_with(w, staging.name, 1))
    await w.eventually(lambda: len(node.replicas) == 1)
    listed = await w.stub.ListReplicas(calls.ListReplicasRequest(parent=staging.name, show_ended=True))
    states = sorted(r.state for r in listed.replicas)
    assert states == [pb.REPLICA_STATE_READY, pb.REPLICA_STATE_STOPPED, pb.REPLICA_STATE_STOPPED]


async def _ready_with(w: World, name: str, replicas: int) -> bool:
    found = await w.get(name)
    return found.state == READY and found.ready_replicas == replicas == len(found.replicas)


@pytest.mark.ledger("C4")
async def test_other_resources_replace_every_replica_without_a_gap(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    before = set(node.replicas)
    resources = pb.Resources(memory_mib=2048)
    await w.stub.ScaleDeployment(calls.ScaleDeploymentRequest(deployment="fraud/production", resources=resources))
    await w.eventually(lambda: node.replicas and not before & set(node.replicas))
    assert node.config.replicas[0].resources.memory_mib == 2048
    assert node.config.replicas[0].resources.cpu_cores == 1
    started = [n for what, n in node.order if what == "started"]
    assert node.order.index(("started", started[1])) < node.order.index(("drained", started[0]))
    found = await w.get(production.name)
    assert (found.state, found.revision) == (READY, 2)


@pytest.mark.ledger("C4")
async def test_a_change_of_resources_that_does_not_start_leaves_the_old_ones_serving_and_is_seen(
    w: World, node: FakeNode
) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    (old,) = node.replicas
    node.starts = False
    resources = pb.Resources(memory_mib=1)
    await w.stub.ScaleDeployment(calls.ScaleDeploymentRequest(deployment="fraud/production", resources=resources))
    new = await w.eventually(lambda: next((n for n in node.replicas if n != old), None))
    await node.say(new, pb.REPLICA_STATE_UNHEALTHY, reason="killed: out of memory", warmed=False)
    await w.eventually(lambda: _says(w, production.name, "out of memory"))
    found = await w.get(production.name)
    assert (found.state, found.ready_replicas, found.traffic_bp) == (READY, 1, 10_000)
    assert sorted(node.replicas) == sorted([old, new])


@pytest.mark.ledger("C4")
async def test_a_size_that_makes_no_sense_is_refused(w: World, node: FakeNode) -> None:
    await w.serving(await w.version(), PRODUCTION)

    async def refused(**request: Any) -> Any:
        return await refusal(w.stub.ScaleDeployment(calls.ScaleDeploymentRequest(**request)))

    assert (await refused(deployment="fraud/production")).code == "INVALID_ARGUMENT"
    assert (await refused(deployment="fraud/production", replicas=65)).code == "INVALID_ARGUMENT"
    assert (await refused(deployment="fraud/production", replicas=0)).code == "INVALID_ARGUMENT"
    assert (await refused(deployment="fraud/staging", replicas=1)).code == "NOT_FOUND"
    await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment="fraud/production", force=True))
    name = (await w.stub.ListDeployments(calls.ListDeploymentsRequest(show_ended=True))).deployments[0].name
    assert (await refused(deployment=name, replicas=2)).code == "FAILED_PRECONDITION"


@pytest.mark.ledger("C4")
async def test_load_asks_for_replicas_and_lets_them_go(w: World, node: FakeNode) -> None:
    config = pb.DeploymentConfig(scaling=pb.Scaling(replicas=1, max_replicas=3, target_in_flight=2))
    staging = await w.serving(await w.version(), STAGING, config=config)
    # 1500 calls in 30 s of 100 ms each: 5 in flight, so 3 replicas at 2 each.
    w.fake_evidence(staging.id, prediction_count=(1500.0, 1500), latency_mean_ms=(100.0, 1500))
    await w.eventually(lambda: _ready_with(w, staging.name, 3))
    found = await w.get(staging.name)
    assert (found.revision, found.config.scaling.replicas) == (1, 1)
    w.evidence.clear()
    await w.eventually(lambda: _ready_with(w, staging.name, 1), 15)


@pytest.mark.ledger("A4", "C6")
async def test_updating_a_configuration_takes_only_what_the_mask_names(w: World, node: FakeNode) -> None:
    staging = await w.serving(await w.version(), STAGING)
    config = pb.DeploymentConfig(
        resources=pb.Resources(cpu_cores=3), health_check=pb.HealthCheck(interval_s=9, failure_threshold=7)
    )
    request = calls.UpdateDeploymentRequest(
        deployment=staging.name, config=config, update_mask=FieldMask(paths=["health_check"])
    )
    updated = (await w.stub.UpdateDeployment(request)).deployment
    assert (updated.revision, updated.config.resources.cpu_cores) == (2, 1)
    assert updated.config.health_check.interval_s == 9
    await w.eventually(lambda: node.config.replicas[0].health_check.failure_threshold == 7)
    assert len(node.config.replicas) == 1, "a health check is no reason to start another process"
    request.update_mask.paths[:] = ["colour"]
    assert (await refusal(w.stub.UpdateDeployment(request))).code == "INVALID_ARGUMENT"
    request.update_mask.paths[:] = []
    assert (await refusal(w.stub.UpdateDeployment(request))).code == "INVALID_ARGUMENT"
    request.update_mask.paths[:] = ["monitoring"]
    request.etag = "old"
    assert (await refusal(w.stub.UpdateDeployment(request))).code == "ABORTED"


# Traffic


@pytest.mark.ledger("C5")
async def test_traffic_is_set_whole_and_every_mistake_is_told(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    staging = await w.serving(await w.version(), STAGING)
    canary = await w.serving(await w.version(), CANARY)
    w.fake_evidence(canary.id, error_ratio=(0.0, 100))
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_SUCCEEDED)

    async def set_traffic(weights: dict[str, int], **fields: Any) -> pb.RouteTable:
        request = calls.SetTrafficRequest(
            endpoint="fraud", weights=[pb.RouteWeight(deployment=d, weight_bp=b) for d, b in weights.items()], **fields
        )
        answer: calls.SetTrafficResponse = await w.stub.SetTraffic(request)
        return answer.routes

    shadow = pb.ShadowRoute(deployment=staging.id, fraction_bp=2500)
    before = (await w.endpoint()).routes
    routes = await set_traffic(
        {"production": 9000, canary.id: 1000}, shadows=[shadow], sticky_header="x-user", etag=before.etag
    )
    assert {r.deployment: r.weight_bp for r in routes.weights} == {production.id: 9000, canary.id: 1000}
    assert (routes.generation, routes.sticky_header) == (before.generation + 1, "x-user")
    await w.eventually(lambda: node.endpoint("fraud").sticky_header == "x-user")
    assert [(s.deployment, s.fraction_bp) for s in node.endpoint("fraud").shadows] == [(staging.id, 2500)]
    assert (await refusal(set_traffic({production.id: 10_000}, etag=before.etag))).code == "ABORTED"
    for bad in ({"production": 9999}, {"production": 9000, canary.id: 1001}, {}, {"staging": 10_000}, {"x": 10_000},
                {"production": 11_000, canary.id: -1000}, {"production": 5000, production.id: 5000}):  # fmt: skip
        error = await refusal(set_traffic(bad))
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "TRAFFIC"), bad
    assert (await refusal(set_traffic({"production": 10_000}, sticky_header="Bad Header"))).code == "INVALID_ARGUMENT"
    assert (await w.endpoint()).routes == routes
    assert (await refusal(w.stub.SetTraffic(calls.SetTrafficRequest(endpoint="nobody")))).code == "NOT_FOUND"
    await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment=staging.id))
    assert not (await w.endpoint()).routes.shadows


@pytest.mark.ledger("C5")
async def test_a_rollout_owns_the_weights_while_it_runs(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    canary = await w.serving(await w.version(), CANARY)
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_PROGRESSING)
    weights = [pb.RouteWeight(deployment="production", weight_bp=10_000)]
    error = await refusal(w.stub.SetTraffic(calls.SetTrafficRequest(endpoint="fraud", weights=weights)))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "ROLLOUT_OWNS_WEIGHTS")
    weights = [pb.RouteWeight(deployment=d, weight_bp=b) for d, b in ((production.id, 9000), (canary.id, 1000))]
    request = calls.SetTrafficRequest(endpoint="fraud", weights=weights, sticky_header="x-user")
    assert (await w.stub.SetTraffic(request)).routes.sticky_header == "x-user"
    error = await refusal(w.deploy(await w.version(), CANARY))
    assert fields(error) == ["no_other_rollout"]


# Health


@pytest.mark.ledger("C6")
async def test_an_unhealthy_replica_leaves_the_traffic_and_comes_back(w: World, node: FakeNode) -> None:
    config = pb.DeploymentConfig(scaling=pb.Scaling(replicas=3))
    production = await w.serving(await w.version(), PRODUCTION, config=config)
    ill, worse, well = sorted(node.replicas)

    def routed() -> list[str]:
        return [r.replica for r in node.endpoint("fraud").deployments[0].replicas]

    await node.say(ill, pb.REPLICA_STATE_UNHEALTHY, reason="no answer")
    degraded = await w.until_state(production.name, pb.DEPLOYMENT_STATE_DEGRADED)
    assert "2 of 3 replicas serve" in degraded.state_reason and "no answer" in degraded.state_reason
    await w.eventually(lambda: routed() == [worse, well])
    await node.say(worse, pb.REPLICA_STATE_UNHEALTHY, reason="no answer")
    await w.eventually(lambda: routed() == [well])
    assert await w.weights() == {production.id: 10_000}
    await node.say(ill, pb.REPLICA_STATE_READY, restarts=1)
    await node.say(worse, pb.REPLICA_STATE_READY, restarts=1)
    await w.until_state(production.name, READY)
    await w.eventually(lambda: len(routed()) == 3)


@pytest.mark.ledger("C6")
async def test_a_replica_that_keeps_dying_is_replaced_by_a_new_one(w: World, node: FakeNode) -> None:
    config = pb.DeploymentConfig(scaling=pb.Scaling(replicas=2))
    production = await w.serving(await w.version(), PRODUCTION, config=config)
    ill = sorted(node.replicas)[0]
    await node.say(ill, pb.REPLICA_STATE_UNHEALTHY, reason="exit 1", restarts=5)
    await w.eventually(lambda: ill not in node.replicas)
    await w.eventually(lambda: _ready_with(w, production.name, 2))
    assert len(node.replicas) == 2
