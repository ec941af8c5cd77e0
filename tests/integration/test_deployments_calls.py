"""Every call of DeploymentService: what it answers, what it refuses, and what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish.v1 import deployment_service_pb2_grpc, monitoring_pb2
from pilotfish_control_plane.access.model import Role
from pilotfish_control_plane.registry.model import VersionStatus
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import access, audit, events
from pilotfish_control_plane.storage.transaction import Tx

from .deployments_world import CANARY, DEV, PRODUCTION, READY, STAGING, STOPPED, fields
from .serving_world import FakeNode, World, refusal, world


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


@pytest_asyncio.fixture
async def node(w: World) -> AsyncIterator[FakeNode]:
    async with w.node() as found:
        yield found


# Endpoints


@pytest.mark.ledger("C7")
async def test_endpoints_are_created_listed_filtered_paged_and_deleted(w: World) -> None:
    await w.version("fraud")
    await w.version("churn")
    for name, model in (("a", "fraud"), ("b", "churn"), ("c", "fraud")):
        answer = await w.stub.CreateEndpoint(calls.CreateEndpointRequest(endpoint_id=name, model=model))
        assert (answer.endpoint.name, answer.endpoint.model) == (f"projects/default/endpoints/{name}", model)
    assert answer.endpoint.port == 7502
    listed = await w.stub.ListEndpoints(calls.ListEndpointsRequest(filter='model = "fraud"'))
    assert [e.name[-1] for e in listed.endpoints] == ["a", "c"]
    page = await w.stub.ListEndpoints(calls.ListEndpointsRequest(page_size=2))
    rest = await w.stub.ListEndpoints(calls.ListEndpointsRequest(page_size=2, page_token=page.next_page_token))
    assert [e.name[-1] for e in (*page.endpoints, *rest.endpoints)] == ["a", "b", "c"]
    assert not rest.next_page_token
    await w.stub.DeleteEndpoint(calls.DeleteEndpointRequest(name="b"))
    assert (await refusal(w.stub.GetEndpoint(calls.GetEndpointRequest(name="b")))).code == "NOT_FOUND"
    again = await w.stub.CreateEndpoint(calls.CreateEndpointRequest(endpoint_id="b", model="fraud"))
    assert (again.endpoint.model, again.endpoint.port) == ("fraud", 7501)


@pytest.mark.ledger("C7", "G4")
async def test_an_endpoint_that_cannot_be_is_refused(w: World) -> None:
    await w.version()

    async def refused(**request: Any) -> str:
        return str((await refusal(w.stub.CreateEndpoint(calls.CreateEndpointRequest(**request)))).code)

    assert await refused(endpoint_id="Bad Name", model="fraud") == "INVALID_ARGUMENT"
    assert await refused(endpoint_id="x", model="nobody") == "NOT_FOUND"
    await w.stub.CreateEndpoint(calls.CreateEndpointRequest(endpoint_id="x", model="fraud"))
    assert await refused(endpoint_id="x", model="fraud") == "ALREADY_EXISTS"
    error = await refusal(w.stub.ListEndpoints(calls.ListEndpointsRequest(filter="colour = 1")))
    assert error.code == "INVALID_ARGUMENT"
    assert (await refusal(w.stub.DeleteEndpoint(calls.DeleteEndpointRequest(name="y")))).code == "NOT_FOUND"


async def test_an_endpoint_with_deployments_is_not_deleted(w: World, node: FakeNode) -> None:
    staging = await w.serving(await w.version(), STAGING)
    error = await refusal(w.stub.DeleteEndpoint(calls.DeleteEndpointRequest(name="fraud")))
    assert (error.code, fields(error)) == ("FAILED_PRECONDITION", [staging.name])
    await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment=staging.name))
    await w.until_state(staging.name, STOPPED)
    await w.stub.DeleteEndpoint(calls.DeleteEndpointRequest(name="fraud"))
    await w.eventually(lambda: not node.config.gateway.endpoints)
    # Its history stays, and nothing of it comes back with a new endpoint of the same name.
    assert (await w.get(staging.name)).state == STOPPED
    again = await w.serving(await w.version(), STAGING)
    error = await refusal(w.stub.Rollback(calls.RollbackRequest(deployment=again.name, reason="bad")))
    assert error.reason == "NO_PREVIOUS_VERSION"


# Deploy


@pytest.mark.ledger("C1")
async def test_a_refused_deployment_tells_every_reason_and_leaves_nothing(w: World) -> None:
    async with w.node(memory_mib=4096) as node:
        await w.serving(await w.version(), PRODUCTION)
        version = await w.version()
        registry = w.core.services.get(RegistryService)
        await w.core.db.write(
            lambda tx: registry.set_status(tx, "default", "fraud", 2, VersionStatus.DEPRECATED, reason="old")
        )
        for path in (w.plane.home / "artifacts").rglob("model.onnx"):
            if version.artifact_path in str(path):
                path.chmod(0o600)
                path.write_bytes(b"tampered")
        config = pb.DeploymentConfig(resources=pb.Resources(cpu_cores=64, memory_mib=8192))
        error = await refusal(w.deploy(version, PRODUCTION, config=config))
        assert error.code == "FAILED_PRECONDITION"
        assert fields(error) == ["status_allows", "artifact_intact", "resources_fit", "stage_order"]
        assert "deprecated" in error.violations[0].description and "model.onnx" in error.violations[1].description
        checked = await w.deploy(version, PRODUCTION, config=config, validate_only=True)
        assert [c.check for c in checked.checks if not c.passed] == fields(error)
        assert not checked.HasField("deployment")
        assert len((await w.endpoint()).deployments) == 1
        assert len(node.replicas) == 1


@pytest.mark.ledger("C1")
async def test_a_version_that_does_not_exist_is_not_found_and_no_endpoint_appears(w: World) -> None:
    await w.version()
    error = await refusal(w.deploy("fraud@9", STAGING))
    assert (error.code, fields(error)[0]) == ("NOT_FOUND", "version_exists")
    assert (await refusal(w.deploy("nobody@1", STAGING))).code == "NOT_FOUND"
    assert not (await w.stub.ListEndpoints(calls.ListEndpointsRequest())).endpoints


@pytest.mark.ledger("C1", "A4")
async def test_every_bad_field_of_a_deployment_is_told_at_once(w: World) -> None:
    version = await w.version()
    config = pb.DeploymentConfig(
        resources=pb.Resources(cpu_cores=-1),
        scaling=pb.Scaling(replicas=65),
        monitoring=monitoring_pb2.MonitoringConfig(drift_detection=monitoring_pb2.DriftDetection(method="magic")),
    )
    error = await refusal(w.deploy(version, STAGING, config=config))
    assert error.code == "INVALID_ARGUMENT"
    assert set(fields(error)) == {
        "config.resources.cpu_cores",
        "config.scaling.replicas",
        "config.scaling.min_replicas",
        "config.monitoring.drift_detection.method",
    }
    assert (await refusal(w.deploy(version, pb.STAGE_UNSPECIFIED))).code == "INVALID_ARGUMENT"
    plan = pb.RolloutPlan(steps=[pb.RolloutStep(weight_bp=20_000)])
    assert fields(await refusal(w.deploy(version, CANARY, plan=plan))) == ["plan.steps[0].weight_bp"]
    assert (await refusal(w.deploy("not a ref!", STAGING))).code == "INVALID_ARGUMENT"
    await w.version("churn")
    await w.deploy(version, STAGING)
    error = await refusal(w.deploy("churn@1", STAGING, endpoint="fraud"))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "ENDPOINT_SERVES_OTHER_MODEL")


@pytest.mark.ledger("A4")
async def test_what_is_unset_takes_its_default_and_what_is_set_stays(w: World) -> None:
    config = pb.DeploymentConfig(
        resources=pb.Resources(cpu_cores=0.5),
        scaling=pb.Scaling(replicas=2, max_replicas=4, target_in_flight=3),
        health_check=pb.HealthCheck(interval_s=0.5),
        rollback=pb.RollbackSettings(automatic=False, keep_previous_s=7),
        monitoring=monitoring_pb2.MonitoringConfig(
            drift_detection=monitoring_pb2.DriftDetection(enabled=False, scales=[1, 2]), sample_bp=0
        ),
    )
    found = (await w.deploy(await w.version(), STAGING, config=config)).deployment.config
    assert (found.resources.cpu_cores, found.resources.memory_mib) == (0.5, 1024)
    assert (found.scaling.replicas, found.scaling.min_replicas, found.scaling.max_replicas) == (2, 2, 4)
    assert (found.health_check.interval_s, found.health_check.startup_timeout_s) == (0.5, 60)
    assert (found.rollback.automatic, found.rollback.keep_previous_s) == (False, 7)
    assert (found.monitoring.drift_detection.enabled, found.monitoring.sample_bp) == (False, 0)
    assert list(found.monitoring.drift_detection.scales) == [1, 2]
    assert found.monitoring.performance_monitoring.max_error_ratio == 0.05


@pytest.mark.ledger("C1", "A2")
async def test_a_newer_staging_deployment_takes_the_stage_when_it_is_ready(w: World, node: FakeNode) -> None:
    first = await w.serving(await w.version(), STAGING)
    node.starts = False
    second = (await w.deploy(await w.version(), STAGING)).deployment
    await w.until_state(second.name, pb.DEPLOYMENT_STATE_STARTING)
    assert (await w.get("fraud/staging")).id == first.id
    third = (await w.deploy(await w.version(), STAGING)).deployment
    failed = await w.until_state(second.name, pb.DEPLOYMENT_STATE_FAILED)
    assert third.id in failed.state_reason
    name = await w.eventually(lambda: next((n for n in node.replicas if n.startswith(third.id)), None))
    await node.say(name, pb.REPLICA_STATE_READY)
    await w.until_state(third.name, READY)
    await w.until_state(first.name, STOPPED)
    assert (await w.get("fraud/staging")).id == third.id
    assert third.previous == first.id


@pytest.mark.ledger("C1")
async def test_without_a_node_a_deployment_waits_and_says_so(w: World) -> None:
    answer = await w.deploy(await w.version(), STAGING)
    waiting = await w.eventually(lambda: _with_reason(w, answer.deployment.name))
    assert waiting.state == pb.DEPLOYMENT_STATE_PENDING and "node" in waiting.state_reason
    async with w.node():
        await w.until_state(answer.deployment.name, READY)


async def _with_reason(w: World, name: str) -> pb.Deployment | None:
    found = await w.get(name)
    return found if found.state_reason else None


@pytest.mark.ledger("G4", "C1")
async def test_a_repeated_request_gets_the_same_answer_and_one_deployment(w: World) -> None:
    version = await w.version()
    answers = [await w.deploy(version, STAGING, request_id="once") for _ in range(3)]
    assert len({a.deployment.id for a in answers}) == 1
    error = await refusal(w.deploy(version, DEV, request_id="once"))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    listed = await w.stub.ListDeployments(calls.ListDeploymentsRequest(show_ended=True))
    assert len(listed.deployments) == 1


@pytest.mark.ledger("G3", "C1")
async def test_a_viewer_may_look_and_not_deploy(w: World) -> None:
    version = await w.version()

    def viewer(tx: Tx) -> None:
        access.bind(tx, "eve", "default", Role.VIEWER)
        access.add_token(tx, "eve-1", "eve", access.digest("eves-token"))

    await w.core.db.write(viewer)
    async with w.plane.channel_with("eves-token") as channel:
        stub: Any = deployment_service_pb2_grpc.DeploymentServiceStub(channel)
        await stub.ListDeployments(calls.ListDeploymentsRequest(parent="projects/default"))
        error = await refusal(stub.Deploy(calls.DeployRequest(version=version.name, stage=STAGING)))
        assert error.code == "PERMISSION_DENIED"


# Watches and lists


@pytest.mark.ledger("C7", "G4")
async def test_a_watch_sends_every_change_and_ends_with_the_deployment(w: World, node: FakeNode) -> None:
    answer = await w.deploy(await w.version(), STAGING)
    seen: list[int] = []

    async def follow() -> None:
        async for message in w.stub.WatchDeployment(calls.WatchDeploymentRequest(name=answer.deployment.name)):
            if not seen or seen[-1] != message.deployment.state:
                seen.append(message.deployment.state)

    task = asyncio.create_task(follow())
    await w.until_state(answer.deployment.name, READY)
    await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment="fraud/staging"))
    await asyncio.wait_for(task, 10)
    assert seen[-1] == STOPPED and seen == sorted(seen)
    for stub, request in (
        (w.stub.WatchDeployment, calls.WatchDeploymentRequest(name="fraud/canary")),
        (w.stub.WatchRollout, calls.WatchRolloutRequest(name="fraud")),
    ):
        error = await refusal(_first(stub(request)))
        assert error.code == "NOT_FOUND"


async def _first(call: Any) -> Any:
    return await anext(aiter(call))


@pytest.mark.ledger("C7")
async def test_deployments_are_listed_newest_first_and_filtered(w: World, node: FakeNode) -> None:
    one = await w.serving(await w.version(), STAGING)
    two = await w.serving(await w.version(), STAGING)
    other = await w.serving(await w.version("churn"), DEV)
    await w.until_state(one.name, STOPPED)

    async def ids(**request: Any) -> list[str]:
        answer = await w.stub.ListDeployments(calls.ListDeploymentsRequest(**request))
        return [d.id for d in answer.deployments]

    assert await ids() == [other.id, two.id]
    assert await ids(show_ended=True) == [other.id, two.id, one.id]
    assert await ids(parent="projects/default/endpoints/fraud") == [two.id]
    assert await ids(filter='stage = "development"') == [other.id]
    assert await ids(filter='state = "STOPPED"', show_ended=True) == [one.id]
    assert await ids(filter='version = 2 AND model = "fraud"') == [two.id]
    assert (await refusal(ids(filter="nonsense"))).code == "INVALID_ARGUMENT"
    replicas = (await w.stub.ListReplicas(calls.ListReplicasRequest(parent="fraud"))).replicas
    assert [r.deployment for r in replicas] == [two.id]
    assert replicas[0].name == f"{two.name}/replicas/{replicas[0].id}"
    for name in ("fraud/canary", f"projects/default/endpoints/churn/deployments/{two.id}"):
        assert (await refusal(w.get(name))).code == "NOT_FOUND"
    assert (await refusal(w.stub.ListReplicas(calls.ListReplicasRequest(parent="none")))).code == "NOT_FOUND"
    assert (await refusal(w.rollout("projects/default/endpoints/fraud/rollouts/r0"))).code == "NOT_FOUND"


async def test_every_change_is_an_event_and_who_made_it_is_in_the_audit_trail(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment=production.name, force=True, reason="over"))
    await w.until_state(production.name, STOPPED)
    found = await w.core.db.read(lambda tx: events.tail(tx.conn, 0, subject_prefix=production.name))
    kinds = [e.kind for e in found if e.subject == production.name]
    assert kinds == [f"deployment.{s}" for s in ("pending", "starting", "warming", "ready", "draining", "stopped")]
    trail = await w.core.db.read(lambda tx: tx.conn.execute(audit.audit.select()).all())
    methods = [(r.method, r.resource) for r in trail if r.method in ("Deploy", "StopDeployment", "CreateEndpoint")]
    endpoint = "projects/default/endpoints/fraud"
    assert methods == [("CreateEndpoint", endpoint), ("Deploy", production.name), ("StopDeployment", production.name)]
