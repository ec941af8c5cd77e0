"""Streams of nodes and sidecars: hello, heartbeats, leases, configuration, artifacts, through real calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask

from pilotfish.errors import NotFound
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish.v1 import deployment_service_pb2_grpc, fleet_service_pb2_grpc, monitoring_pb2
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish_control_plane.fleet.model import MemberKind
from pilotfish_control_plane.fleet.service import FleetRegistry, Terms
from pilotfish_control_plane.storage import events, monitoring

from .serving_world import FakeNode, World, refusal, world

STAGING, PRODUCTION = pb.STAGE_STAGING, pb.STAGE_PRODUCTION
READY = pb.DEPLOYMENT_STATE_READY


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


@pytest_asyncio.fixture
async def node(w: World) -> AsyncIterator[FakeNode]:
    async with w.node() as found:
        yield found


class FakeSidecar:
    """A sidecar on the real wire that acknowledges whatever it is told."""

    def __init__(self, channel: grpc.aio.Channel, replica: str, *, config_version: int = 0) -> None:
        self._stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        self.replica = replica
        self.instance = f"sidecar-{replica}"
        self.config_version = config_version
        self.configs: list[fleet.MemberConfig] = []
        self.received: list[fleet.ConnectResponse] = []
        self.refuses = ""
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FakeSidecar:
        self._call = self._stub.Connect()
        hello = fleet.Hello(
            kind=fleet.MEMBER_KIND_SIDECAR,
            instance=self.instance,
            incarnation=1,
            program_version="0.1",
            replicas=[self.replica] if self.replica else [],
            config_version=self.config_version,
            host="here",
        )
        await self.send(hello=hello)
        self.welcome = (await self._call.read()).welcome
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, **message: Any) -> None:
        await self._call.write(fleet.ConnectRequest(**message))

    async def _run(self) -> None:
        while isinstance(message := await self._call.read(), fleet.ConnectResponse):
            self.received.append(message)
            if message.WhichOneof("message") == "config":
                self.configs.append(message.config)
                ack = fleet.ConfigAck(version=message.config.version, nonce=message.config.nonce, error=self.refuses)
                await self.send(config_ack=ack)

    async def code(self) -> grpc.StatusCode:
        """Wait for the end of the stream; return how it ended."""
        found: grpc.StatusCode = await asyncio.wait_for(self._call.code(), 10)
        return found


def a_sidecar(w: World, replica: str, **options: Any) -> FakeSidecar:
    return FakeSidecar(w.plane.channel_with(w.plane.node_token), replica, **options)


async def members(w: World, **request: Any) -> dict[str, fleet.Member]:
    stub: Any = fleet_service_pb2_grpc.FleetServiceStub(w.plane.channel)
    answer = await stub.ListMembers(fleet.ListMembersRequest(**request))
    return {m.instance: m for m in answer.members}


async def staging(w: World, **fields: Any) -> tuple[pb.Deployment, str]:
    """Return a staging deployment that is READY, and its only replica's id."""
    found = await w.serving(await w.version(), STAGING, **fields)
    return found, found.replicas[0].id


async def raw(w: World, *messages: fleet.ConnectRequest, token: str | None = None) -> Any:
    """Open a stream with these messages and read until it fails."""
    async with w.plane.channel_with(w.plane.node_token if token is None else token) as channel:
        stub: Any = fleet_service_pb2_grpc.FleetServiceStub(channel)
        call = stub.Connect(_later(messages))
        try:
            async for _ in call:
                pass
        finally:
            call.cancel()


async def _later(messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message
    await asyncio.sleep(30)


@pytest.mark.ledger("G3")
async def test_only_nodes_and_sidecars_may_connect_and_they_may_do_nothing_else(w: World) -> None:
    hello = fleet.ConnectRequest(hello=fleet.Hello(kind=fleet.MEMBER_KIND_NODE, instance="local"))
    async with w.plane.channel_with(w.plane.node_token) as channel:
        stub: Any = deployment_service_pb2_grpc.DeploymentServiceStub(channel)
        error = await refusal(stub.ListDeployments(calls.ListDeploymentsRequest()))
        assert error.code == "PERMISSION_DENIED"
        members_stub: Any = fleet_service_pb2_grpc.FleetServiceStub(channel)
        assert (await refusal(members_stub.ListMembers(fleet.ListMembersRequest()))).code == "PERMISSION_DENIED"
    assert (await refusal(raw(w, hello, token="wrong"))).code == "UNAUTHENTICATED"


@pytest.mark.ledger("G4")
async def test_a_stream_begins_with_a_hello_that_makes_sense(w: World) -> None:
    beat = fleet.ConnectRequest(heartbeat=fleet.Heartbeat(sequence=1))
    error = await refusal(raw(w, beat))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "NO_HELLO")
    error = await refusal(raw(w, fleet.ConnectRequest(hello=fleet.Hello(instance=""))))
    assert {v.field for v in error.violations} == {"hello.kind", "hello.instance"}
    good = fleet.ConnectRequest(hello=fleet.Hello(kind=fleet.MEMBER_KIND_SIDECAR, instance="s"))
    assert (await refusal(raw(w, good, good))).code == "INVALID_ARGUMENT"
    state = fleet.ConnectRequest(node_state=fleet.NodeState())
    assert (await refusal(raw(w, good, state))).code == "INVALID_ARGUMENT"


@pytest.mark.ledger("C7")
async def test_members_are_listed_with_what_they_acknowledged(w: World, node: FakeNode) -> None:
    _, replica = await staging(w)
    async with a_sidecar(w, replica) as sidecar:
        assert sidecar.welcome.lease_s > sidecar.welcome.heartbeat_interval_s > 0
        assert node.welcome is not None and sidecar.welcome.epoch == node.welcome.epoch >= 1
        await w.eventually(lambda: sidecar.configs)
        await sidecar.send(heartbeat=fleet.Heartbeat(sequence=7))
        await w.eventually(lambda: [m for m in sidecar.received if m.heartbeat.sequence == 7])
        found = await w.eventually(lambda: _acknowledged(w, sidecar))
        assert (found.kind, found.link) == (fleet.MEMBER_KIND_SIDECAR, pb.LINK_STATE_CONNECTED)
        assert (list(found.replicas), found.host, found.program_version) == ([replica], "here", "0.1")
        assert list(await members(w, kind=fleet.MEMBER_KIND_NODE)) == ["local"]
        await w.eventually(lambda: _link(w, "fraud/staging", pb.LINK_STATE_CONNECTED))
        sidecar.refuses = "no such method"
        await _monitor(w, "psi")
        await w.eventually(lambda: _refused(w, sidecar.instance))


async def _acknowledged(w: World, sidecar: FakeSidecar) -> fleet.Member | None:
    found = (await members(w))[sidecar.instance]
    return found if found.config_version == sidecar.configs[-1].version and not found.config_error else None


async def _refused(w: World, instance: str) -> bool:
    return (await members(w))[instance].config_error == "no such method"


async def _link(w: World, name: str, state: int) -> bool:
    return (await w.get(name)).replicas[0].link == state


async def _monitor(w: World, method: str) -> None:
    config = pb.DeploymentConfig(
        monitoring=monitoring_pb2.MonitoringConfig(drift_detection=monitoring_pb2.DriftDetection(method=method))
    )
    await w.stub.UpdateDeployment(
        calls.UpdateDeploymentRequest(
            deployment="fraud/staging", config=config, update_mask=FieldMask(paths=["monitoring"])
        )
    )


@pytest.mark.ledger("C1", "E1")
async def test_a_sidecar_is_told_what_it_serves_and_every_change_of_it(w: World, node: FakeNode) -> None:
    deployment, replica = await staging(w)
    async with a_sidecar(w, replica) as sidecar:
        await w.eventually(lambda: sidecar.configs)
        binding = sidecar.configs[0].sidecar.bindings[0]
        assert (binding.replica, binding.deployment, binding.endpoint) == (replica, deployment.id, "fraud")
        assert (binding.model, binding.version) == ("fraud", deployment.version)
        assert binding.monitoring.drift_detection.method == "calibrated"
        assert '"name": "x"' in binding.signature_json and binding.profile_json == ""
        await _monitor(w, "psi")
        await w.eventually(lambda: len(sidecar.configs) == 2)
        assert sidecar.configs[1].version > sidecar.configs[0].version
        assert sidecar.configs[1].sidecar.bindings[0].monitoring.drift_detection.method == "psi"
        assert sidecar.configs[1].nonce != sidecar.configs[0].nonce
    held = sidecar.configs[-1].version
    async with a_sidecar(w, replica, config_version=held) as again:
        await asyncio.sleep(0.3)
        assert not again.configs, "it holds the newest configuration already"


@pytest.mark.ledger("C5")
async def test_a_change_of_traffic_reaches_the_node_within_50_ms(w: World, node: FakeNode) -> None:
    production = await w.serving(await w.version(), PRODUCTION)
    canary = await w.serving(await w.version(), pb.STAGE_CANARY)
    w.fake_evidence(canary.id, error_ratio=(0.0, 100))
    await w.until_rollout(canary.rollout, pb.ROLLOUT_STATE_SUCCEEDED)
    taken: list[float] = []
    for i in range(11):
        share = 1000 + i
        weights = [pb.RouteWeight(deployment=d, weight_bp=b) for d, b in ((canary.id, share), (production.id, 10_000 - share))]  # fmt: skip  # noqa: E501
        await w.stub.SetTraffic(calls.SetTrafficRequest(endpoint="fraud", weights=weights))
        committed = time.perf_counter()
        async with asyncio.timeout(5):
            while node.weights("fraud").get(canary.id) != share:
                await asyncio.sleep(0.001)
        taken.append(time.perf_counter() - committed)
    median_ms = sorted(taken)[5] * 1000
    print(f"median {median_ms:.1f} ms, worst {max(taken) * 1000:.1f} ms")  # shown when the test fails
    assert median_ms <= 50


@pytest.mark.ledger("C7")
async def test_a_newer_stream_of_the_same_instance_takes_over(w: World, node: FakeNode) -> None:
    async with w.node(incarnation=2) as newer:
        error = await node.ended()
        assert error is not None and error.code() is grpc.StatusCode.ABORTED
        await w.eventually(lambda: newer.configs)
        await asyncio.sleep(0.1)
        found = (await members(w))["local"]
        assert (found.incarnation, found.link) == (2, pb.LINK_STATE_CONNECTED)
        await w.serving(await w.version(), PRODUCTION)


@pytest.mark.ledger("G2")
async def test_a_lost_sidecar_is_unknown_then_lost_and_moves_no_traffic(w: World, node: FakeNode) -> None:
    w.core.services.get(FleetRegistry)._terms = {
        MemberKind.SIDECAR: Terms(0.1, 0.6),
        MemberKind.NODE: Terms(0.5, 30.0),
    }
    production = await w.serving(await w.version(), PRODUCTION)
    replica = production.replicas[0].id
    async with a_sidecar(w, replica):
        await w.eventually(lambda: _link(w, "fraud/production", pb.LINK_STATE_CONNECTED))
    await w.eventually(lambda: _link(w, "fraud/production", pb.LINK_STATE_UNKNOWN))
    await w.eventually(lambda: _link(w, "fraud/production", pb.LINK_STATE_LOST))
    assert (await members(w))[f"sidecar-{replica}"].link == pb.LINK_STATE_LOST
    found = await w.get("fraud/production")
    assert (found.state, found.traffic_bp, found.ready_replicas) == (READY, 10_000, 1)
    async with a_sidecar(w, replica):
        await w.eventually(lambda: _link(w, "fraud/production", pb.LINK_STATE_CONNECTED))
    kinds = await w.core.db.read(lambda tx: [e.kind for e in events.tail(tx.conn, 0, kinds=["member"])])
    assert kinds.count("member.lost") == 1 and kinds.count("member.connected") == 3


async def test_a_command_reaches_its_member_once(w: World, node: FakeNode) -> None:
    _, replica = await staging(w)
    async with a_sidecar(w, replica) as sidecar:
        registry = w.core.services.get(FleetRegistry)
        ids = [registry.command(sidecar.instance, "flush"), registry.command(sidecar.instance, "flush")]
        await w.eventually(lambda: len([m for m in sidecar.received if m.HasField("command")]) == 2)
        commands = [m.command for m in sidecar.received if m.HasField("command")]
        assert [c.id for c in commands] == ids and len(set(ids)) == 2
        assert commands[0].generation < commands[1].generation
        assert commands[0].expire_time.ToDatetime() > w.core.clock.now().replace(tzinfo=None)
        await sidecar.send(command_result=fleet.CommandResult(id=ids[0]))
    with pytest.raises(NotFound):
        registry.command("nobody", "flush")


async def test_a_member_that_falls_silent_loses_its_stream(w: World, node: FakeNode) -> None:
    w.core.services.get(FleetRegistry)._terms = {
        MemberKind.SIDECAR: Terms(0.1, 0.5),
        MemberKind.NODE: Terms(0.5, 30.0),
    }
    _, replica = await staging(w)
    async with a_sidecar(w, replica) as sidecar:
        for sequence in range(8):
            await sidecar.send(heartbeat=fleet.Heartbeat(sequence=sequence))
            await asyncio.sleep(0.1)
        assert await sidecar.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_replica_is_let_go_of_only_when_the_gateway_sends_it_nothing(
    w: World, node: FakeNode, by_itself: bool
) -> None:
    node.ends_by_itself = by_itself
    staging_one, replica = await staging(w)
    node.acknowledges = False
    await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment=staging_one.name))
    await w.eventually(lambda: not node.endpoint("fraud").deployments)
    await asyncio.sleep(0.3)
    assert [r.replica for r in node.config.replicas] == [replica]
    assert not node.config.replicas[0].draining
    await node.acknowledge()
    await w.until_state(staging_one.name, pb.DEPLOYMENT_STATE_STOPPED)
    assert not node.replicas or node.replicas[replica].state == pb.REPLICA_STATE_STOPPED


@pytest.mark.ledger("G2")
async def test_a_lost_node_moves_no_traffic_and_its_deployments_stay(w: World) -> None:
    async with w.node() as node:
        production = await w.serving(await w.version(), PRODUCTION)
    await asyncio.sleep(0.3)
    found = await w.get("fraud/production")
    assert (found.id, found.state, found.traffic_bp) == (production.id, READY, 10_000)
    config = pb.DeploymentConfig(health_check=pb.HealthCheck(startup_timeout_s=0.2))
    waiting = (await w.deploy(await w.version(), STAGING, config=config)).deployment
    await asyncio.sleep(0.6)
    assert (await w.get(waiting.name)).state == pb.DEPLOYMENT_STATE_PENDING
    node.incarnation = 2
    await node.connect()
    await w.until_state(waiting.name, READY)
    await node.disconnect()


@pytest.mark.ledger("E3")
async def test_what_a_sidecar_counted_is_kept_newest_first(w: World, node: FakeNode) -> None:
    deployment, replica = await staging(w)
    async with a_sidecar(w, replica) as sidecar:
        for served in (5, 10):
            capture = monitoring_pb2.CaptureCounts(
                served=served, captured=served - 3, in_flight=1, dropped={"overflow": 2}, undecodable={"gzip": 1}
            )
            state = fleet.SidecarReplicaState(replica=replica, healthy=True, capture=capture)
            other = fleet.SidecarReplicaState(replica="somebody-elses", healthy=True, capture=capture)
            await sidecar.send(sidecar_state=fleet.SidecarState(replicas=[state, other]))
        found = await w.eventually(lambda: _captured(w, deployment.id))
        assert (found.served, found.captured, found.in_flight) == (10, 7, 1)
        assert (dict(found.dropped), dict(found.undecodable)) == ({"overflow": 2}, {"gzip": 1})


async def _captured(w: World, deployment: str) -> Any:
    found = await w.core.db.read(lambda tx: monitoring.capture(tx.conn, deployment))
    return found if found is not None and found.served == 10 else None


@pytest.mark.ledger("C1")
async def test_an_attached_server_serves_when_its_sidecar_says_so(w: World) -> None:
    version = await w.version("theirs", framework="external")
    answer = await w.deploy(version, STAGING)
    name = answer.deployment.name
    starting = await w.until_state(name, pb.DEPLOYMENT_STATE_STARTING)
    replica = (await w.eventually(lambda: _replica_of(w, starting.name))).id
    async with a_sidecar(w, replica) as sidecar:
        await w.eventually(lambda: sidecar.configs)
        assert sidecar.configs[0].sidecar.bindings[0].model == "theirs"
        state = fleet.SidecarReplicaState(replica=replica, healthy=True)
        await sidecar.send(sidecar_state=fleet.SidecarState(replicas=[state]))
        await w.until_state(name, READY)
        state.healthy = False
        await sidecar.send(sidecar_state=fleet.SidecarState(replicas=[state]))
        await w.until_state(name, pb.DEPLOYMENT_STATE_DEGRADED)
        await w.stub.StopDeployment(calls.StopDeploymentRequest(deployment=name))
        await w.until_state(name, pb.DEPLOYMENT_STATE_STOPPED)
        await w.eventually(lambda: not sidecar.configs[-1].sidecar.bindings)


async def _replica_of(w: World, name: str) -> pb.Replica | None:
    return next(iter((await w.get(name)).replicas), None)


@pytest.mark.ledger("C1", "B2")
async def test_a_member_reads_the_files_that_it_was_told_to_serve_and_no_others(
    w: World, node: FakeNode, tmp_path: Path
) -> None:
    version, other = await w.version(), await w.version()
    await w.serving(version, STAGING)
    spec = node.config.replicas[0]
    assert (Path(spec.artifact_dir) / "model.onnx").is_file()
    async with w.plane.channel_with(w.plane.node_token) as channel:
        stub: Any = fleet_service_pb2_grpc.FleetServiceStub(channel)

        async def fetch(**request: Any) -> bytes:
            call = stub.FetchArtifact(fleet.FetchArtifactRequest(**request))
            return b"".join([part.data async for part in call])

        whole = await fetch(version=spec.version_name, path="model.onnx")
        assert whole == (Path(spec.artifact_dir) / "model.onnx").read_bytes()
        assert await fetch(version=spec.version_name, path="model.onnx", offset=1000) == whole[1000:]
        assert (await refusal(fetch(version=other.name, path="model.onnx"))).code == "PERMISSION_DENIED"
        assert (await refusal(fetch(version=spec.version_name, path="../token"))).code == "NOT_FOUND"
        assert (await refusal(fetch(version="fraud", path="model.onnx"))).code == "INVALID_ARGUMENT"
        missing = await refusal(fetch(version="projects/default/models/fraud/versions/99", path="x"))
        assert missing.code == "PERMISSION_DENIED"


@pytest.mark.ledger("G2", "C7")
async def test_a_control_plane_that_stops_says_goodbye_and_the_next_one_goes_on(
    make_control_plane: Any, engine_name: str
) -> None:
    async with world(make_control_plane, engine_name) as w:
        node = w.node()
        await node.connect()
        production = await w.serving(await w.version(), PRODUCTION)
        settings, epoch = w.plane.app.settings, node.welcome.epoch if node.welcome else 0
        await w.plane.channel.close()
        await w.plane.app.stop()
        await node.ended()
        assert node.goodbye
        async with world(make_control_plane, engine_name, home=settings.home, database=settings.database) as after:
            found = await after.get("fraud/production")
            assert (found.id, found.state, found.traffic_bp) == (production.id, READY, 10_000)
            again = after.node(incarnation=2)
            again.replicas, again.generation = node.replicas, node.generation
            async with again:
                await after.eventually(lambda: again.configs)
                assert again.welcome is not None and again.welcome.epoch > epoch
                assert again.weights("fraud") == {production.id: 10_000}
                await after.serving(await after.version(), STAGING)
                assert (await after.get("fraud/production")).ready_replicas == 1
                assert [m.link for m in (await members(after)).values()] == [pb.LINK_STATE_CONNECTED]
