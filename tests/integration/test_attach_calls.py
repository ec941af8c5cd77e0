"""Attaching through real calls: a foreign model server becomes versions, deployments and replicas, or nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import json_format

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish.v1 import experiment_service_pb2 as runs
from pilotfish.v1 import experiment_service_pb2_grpc, fleet_service_pb2_grpc, registry_service_pb2_grpc
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import registry_service_pb2 as registry

from .serving_world import FakeNode, World, refusal, world
from .test_fleet_streams import FakeSidecar

READY = pb.DEPLOYMENT_STATE_READY


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


@pytest_asyncio.fixture
async def node(w: World) -> AsyncIterator[FakeNode]:
    async with w.node() as found:
        yield found


def signature(*names: str) -> str:
    """A signature as a server's metadata gives it."""
    return json.dumps({"inputs": [{"name": n, "datatype": "FP32", "shape": [-1, 4]} for n in names], "outputs": []})


def iris(**fields: Any) -> fleet.AttachedModel:
    values = {
        "server_model": "iris-sk",
        "endpoint": "iris",
        "signature_json": signature("x"),
        "platform": "mlserver 1.7",
    }
    return fleet.AttachedModel(**{**values, "platform": "mlserver 1.7", "grpc_address": "127.0.0.1:9001", **fields})


async def attach(w: World, *models: fleet.AttachedModel, channel: Any = None, **fields: Any) -> Any:
    stub: Any = fleet_service_pb2_grpc.FleetServiceStub(channel or w.plane.channel)
    request = fleet.AttachRequest(**{"instance": "beside", "models": models, **fields})
    return [*(await stub.Attach(request)).attachments]


async def versions(w: World, model: str = "iris") -> Any:
    stub: Any = registry_service_pb2_grpc.RegistryServiceStub(w.plane.channel)
    request = registry.ListVersionsRequest(parent=f"projects/default/models/{model}")
    return [*(await stub.ListVersions(request)).versions]


class Beside(FakeSidecar):
    """An attached sidecar: it knows no replica, only its own name."""

    def __init__(self, w: World, instance: str = "beside") -> None:
        super().__init__(w.plane.channel_with(w.plane.node_token), "")
        self.instance = instance

    def bindings(self) -> dict[str, fleet.ReplicaBinding]:
        """The newest bindings, by deployment."""
        return {b.deployment: b for b in self.configs[-1].sidecar.bindings} if self.configs else {}

    async def says(self, *, healthy: bool = True) -> None:
        """Report every replica that it is bound to."""
        states = [fleet.SidecarReplicaState(replica=b.replica, healthy=healthy) for b in self.bindings().values()]
        await self.send(sidecar_state=fleet.SidecarState(replicas=states))


async def ready(w: World, beside: Beside, name: str) -> pb.Deployment:
    """Return an attached deployment once it is READY."""
    short = name.rpartition("/")[2]
    await w.eventually(lambda: short in beside.bindings())
    await beside.says()
    return await w.until_state(name, READY)


@pytest.mark.ledger("C1", "B1")
async def test_a_model_that_nobody_registered_becomes_an_external_version_in_production(w: World) -> None:
    first = await attach(w, iris(checks=["the server is ready", "its metadata was read"]))
    assert [(a.endpoint, a.registered, a.deployed) for a in first] == [("iris", True, True)]
    (version,) = await versions(w)
    assert (version.name, version.framework) == (first[0].version, "external")
    assert version.description == "served by mlserver 1.7" and version.tags == {"server_model": "iris-sk"}
    assert version.signature == json_format.ParseDict(json.loads(signature("x")), type(version.signature)())
    tracker: Any = experiment_service_pb2_grpc.ExperimentServiceStub(w.plane.channel)
    listed = await tracker.ListRuns(runs.ListRunsRequest(filter='kind = "validation"'))
    assert "its metadata was read" in str(listed.runs[0].parameters)
    deployed = await w.get(first[0].deployment)
    assert deployed.stage == pb.STAGE_PRODUCTION
    again = await attach(w, iris(checks=["the server is ready", "its metadata was read"]))
    assert [(a.version, a.deployment) for a in again] == [(a.version, a.deployment) for a in first]
    assert not again[0].registered and not again[0].deployed
    assert len(await versions(w)) == 1


@pytest.mark.ledger("C1", "C7")
async def test_a_sidecar_that_knows_only_its_name_is_told_what_it_stands_beside(w: World, node: FakeNode) -> None:
    codec = fleet.Codec(kind="json", json=fleet.JsonCodec(path="/predict"))
    async with Beside(w) as beside:
        (attached,) = await attach(w, iris(server_version="3", codec=codec))
        deployed = await ready(w, beside, attached.deployment)
        (binding,) = beside.bindings().values()
    assert (binding.server_model, binding.server_version) == ("iris-sk", "3")
    assert (binding.endpoint, binding.model, binding.version) == ("iris", "iris", 1)
    assert binding.codec == codec and json.loads(binding.signature_json)["inputs"][0]["name"] == "x"
    assert [r.id for r in deployed.replicas] == [binding.replica]
    assert await w.weights("iris") == {binding.deployment: 10_000}
    (routed,) = (await w.eventually(lambda: node.endpoint("iris").deployments))[0].replicas
    assert (routed.replica, routed.grpc_address, routed.http_address) == (binding.replica, "127.0.0.1:9001", "")
    assert binding.replica not in node.replicas, "nothing is started for it"
    # A sidecar that comes later finds its bindings as well.
    async with Beside(w) as beside:
        await w.eventually(beside.bindings)
        assert list(beside.bindings()) == [binding.deployment]


async def test_what_may_not_be_made_leaves_nothing_behind(w: World) -> None:
    error = await refusal(attach(w, iris(), no_register=True))
    assert isinstance(error, NotFound) and "nobody registered a version of iris for iris-sk" in error.message
    sidecar = w.plane.channel_with(w.plane.node_token)
    error = await refusal(attach(w, iris(), channel=sidecar))
    assert isinstance(error, PermissionDenied) and error.metadata["required_role"] == "DEPLOYER"
    error = await refusal(attach(w, iris(), iris(server_model="other", endpoint="other", version="9")))
    assert isinstance(error, NotFound), "the first of the two must not stand"
    own = await w.version("iris")
    error = await refusal(attach(w, iris(version=str(own.number))))
    assert isinstance(error, FailedPrecondition) and error.reason == "NOT_EXTERNAL"
    listed = await w.stub.ListEndpoints(calls.ListEndpointsRequest())
    assert not listed.endpoints and len(await versions(w)) == 1
    # What stands already, the sidecar's own role is enough for.
    made = await attach(w, iris(version="theirs"))
    assert await attach(w, iris(version="theirs"), channel=sidecar) == [
        fleet.Attachment(endpoint="iris", version=made[0].version, deployment=made[0].deployment)
    ]


async def test_every_bad_mapping_is_named(w: World) -> None:
    models = [
        iris(endpoint="No Id"),
        iris(endpoint="a", model="No Id", grpc_address="localhost:9001"),
        iris(endpoint="b", http_address="127.0.0.1:0", codec=fleet.Codec(kind="xml")),
        iris(server_model="one", endpoint="c"),
        iris(server_model="two", endpoint="c"),
    ]
    error = await refusal(attach(w, *models, instance=""))
    assert isinstance(error, InvalidArgument) and error.reason == "BAD_MAPPING"
    assert [v.field for v in error.violations] == [
        "instance", "models[0].endpoint", "models[1].model", "models[1].grpc_address",
        "models[2].http_address", "models[2].codec.kind", "models", "models",
    ]  # fmt: skip
    error = await refusal(attach(w, iris(signature_json="{", profile_json="[]")))
    assert [v.field for v in error.violations] == ["models[0].signature_json", "models[0].profile_json"]


@pytest.mark.ledger("B3")
async def test_a_version_is_found_by_number_label_or_alias_and_a_new_label_is_registered(w: World) -> None:
    (labelled,) = await attach(w, iris(version="2.1.0"))
    assert labelled.registered and (await versions(w))[0].label == "2.1.0"
    (same,) = await attach(w, iris(version="1"), instance="second")
    assert (same.version, same.deployment, same.registered) == (labelled.version, labelled.deployment, False)
    error = await refusal(attach(w, iris(version="7"), instance="third"))
    assert isinstance(error, NotFound)


async def test_a_version_deployed_as_external_before_is_the_one_that_waits(w: World) -> None:
    version = await w.version("iris", framework="external")
    deployed = await w.deploy(version, pb.STAGE_STAGING)
    async with Beside(w) as beside:
        (attached,) = await attach(w, iris(), no_register=True)
        assert (attached.version, attached.deployment) == (version.name, deployed.deployment.name)
        await ready(w, beside, attached.deployment)


async def test_a_server_that_serves_another_model_under_the_same_name_is_another_version(w: World) -> None:
    async with Beside(w) as beside:
        (first,) = await attach(w, iris())
        await ready(w, beside, first.deployment)
        (second,) = await attach(w, iris(signature_json=signature("x", "y")))
        assert second.registered and second.deployed and second.version != first.version
        deployed = await ready(w, beside, second.deployment)
        assert deployed.stage == pb.STAGE_PRODUCTION
        await w.eventually(lambda: list(beside.bindings()) == [second.deployment.rpartition("/")[2]])
        assert beside.bindings()[second.deployment.rpartition("/")[2]].version == 2

    async def carries_all() -> bool:
        return await w.weights("iris") == {second.deployment.rpartition("/")[2]: 10_000}

    await w.eventually(carries_all)


@pytest.mark.ledger("C4")
async def test_each_further_server_of_a_version_is_a_replica_until_it_is_detached(w: World, node: FakeNode) -> None:
    async with Beside(w) as one, Beside(w, "other") as two:
        (first,) = await attach(w, iris())
        await ready(w, one, first.deployment)
        (second,) = await attach(w, iris(grpc_address="127.0.0.1:9002"), instance="other")
        assert second.deployment == first.deployment and not second.deployed
        await w.eventually(two.bindings)
        await two.says()

        async def routed() -> Any:
            (found,) = node.endpoint("iris").deployments
            return sorted(r.grpc_address for r in found.replicas) == ["127.0.0.1:9001", "127.0.0.1:9002"]

        await w.eventually(routed)
        assert {b.replica for b in one.bindings().values()}.isdisjoint(b.replica for b in two.bindings().values())
        await attach(w, instance="other")
        await w.eventually(lambda: not two.bindings())

        async def alone() -> Any:
            found = await w.get(first.deployment)
            return [r.grpc_address for r in found.replicas if r.state == pb.REPLICA_STATE_READY] == ["127.0.0.1:9001"]

        await w.eventually(alone)
        assert list(one.bindings()) == [first.deployment.rpartition("/")[2]]
        # The same place is free for the next one.
        await attach(w, iris(), instance="other")
        await w.eventually(two.bindings)


@pytest.mark.ledger("C2")
async def test_a_promotion_of_an_attached_version_moves_only_weights(w: World) -> None:
    async with Beside(w) as beside:
        old = iris(server_version="1", version="v1")
        (first,) = await attach(w, old)
        await ready(w, beside, first.deployment)
        (_, second) = await attach(w, old, iris(server_version="2", version="v2"))
        deployed = await ready(w, beside, second.deployment)
        assert deployed.stage == pb.STAGE_STAGING, "the endpoint has a production already"
        w.fake_evidence(deployed.id, error_ratio=(0.0, 500), latency_p99_ms=(1.0, 500))
        promoted = await w.stub.Promote(
            calls.PromoteRequest(deployment=second.deployment, target_stage=pb.STAGE_PRODUCTION)
        )
        assert promoted.promoted, promoted
        live = promoted.deployment
        await ready(w, beside, live.name)

        async def carries_all() -> bool:
            return await w.weights("iris") == {live.id: 10_000}

        await w.eventually(carries_all)
        staged = second.deployment.rpartition("/")[2]
        await w.eventually(lambda: live.id in beside.bindings() and staged not in beside.bindings())
        assert beside.bindings()[live.id].server_version == "2"
