"""A fake node, fake evidence and versions with files, for tests that drive deployments through real calls."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc

from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish.v1 import deployment_service_pb2_grpc, fleet_service_pb2_grpc
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.wire_errors import from_rpc_error
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.core import Core
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.registry.model import NewVersion, Version
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage.transaction import Tx

AREAS = ["registry", "artifacts", "experiments", "events", "deployments", "monitoring", "fleet", "operations"]


@dataclass(frozen=True)
class Value:
    """One measured metric."""

    value: float | None
    n: int
    source: str = "windows/1"


@dataclass
class FakeReplica:
    """What the fake node says of one replica."""

    state: int = pb.REPLICA_STATE_STARTING
    warmed: bool = False
    reason: str = ""
    restarts: int = 0
    number: int = 0


class FakeNode:
    """A node on the real wire: it starts whatever it is told at once, unless a test says otherwise."""

    def __init__(
        self, channel: grpc.aio.Channel, instance: str = "local", *, memory_mib: int = 65536, incarnation: int = 1
    ) -> None:
        self._stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
        self.instance = instance
        self.incarnation = incarnation
        self.memory_mib = memory_mib
        self.cores = 8.0
        self.replicas: dict[str, FakeReplica] = {}
        self.configs: list[fleet.MemberConfig] = []
        self.welcome: fleet.Welcome | None = None
        self.goodbye = False
        self.error: grpc.aio.AioRpcError | None = None
        # What tests change.
        self.starts = True
        self.acknowledges = True
        self.ends_by_itself = True
        self.generation = 0
        self.order: list[tuple[str, Any]] = []
        self._numbers = itertools.count(1)
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    @property
    def config(self) -> fleet.NodeConfig:
        """The newest configuration."""
        return self.configs[-1].node

    def endpoint(self, name: str) -> fleet.GatewayEndpoint:
        """The newest routes of an endpoint."""
        return next(e for e in self.config.gateway.endpoints if e.endpoint == name)

    def weights(self, name: str) -> dict[str, int]:
        """The newest weights of an endpoint."""
        return {w.deployment: w.weight_bp for w in self.endpoint(name).weights}

    async def __aenter__(self) -> FakeNode:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        self._call = self._stub.Connect()
        hello = fleet.Hello(kind=fleet.MEMBER_KIND_NODE, instance=self.instance, incarnation=self.incarnation)
        await self._call.write(fleet.ConnectRequest(hello=hello))
        first = await self._call.read()
        assert isinstance(first, fleet.ConnectResponse), await self._call.details()
        self.welcome = first.welcome
        self._task = asyncio.create_task(self._run())

    async def disconnect(self) -> None:
        if self._call is not None:
            self._call.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def ended(self) -> grpc.aio.AioRpcError | None:
        """Wait until the stream ends; return how."""
        assert self._task is not None
        await asyncio.wait_for(asyncio.gather(self._task, return_exceptions=True), 10)
        return self.error

    async def _run(self) -> None:
        await self.report()
        try:
            while isinstance(message := await self._call.read(), fleet.ConnectResponse):
                match message.WhichOneof("message"):
                    case "config":
                        await self._take(message.config)
                    case "goodbye":
                        self.goodbye = True
            code, details = await self._call.code(), await self._call.details()
            if code is not grpc.StatusCode.OK:
                self.error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
        except grpc.aio.AioRpcError as error:
            self.error = error

    async def _take(self, config: fleet.MemberConfig) -> None:
        self.configs.append(config)
        ack = fleet.ConfigAck(version=config.version, nonce=config.nonce)
        await self._call.write(fleet.ConnectRequest(config_ack=ack))
        wanted = {r.replica: r for r in config.node.replicas}
        for name, spec in wanted.items():
            if name not in self.replicas and not spec.draining:
                self.replicas[name] = FakeReplica(number=next(self._numbers))
                self.order.append(("started", name))
                if self.starts:
                    self.replicas[name].state, self.replicas[name].warmed = pb.REPLICA_STATE_READY, True
            elif name in self.replicas and spec.draining and self.ends_by_itself:
                if self.replicas[name].state != pb.REPLICA_STATE_STOPPED:
                    self.order.append(("drained", name))
                self.replicas[name].state = pb.REPLICA_STATE_STOPPED
        for name in [n for n in self.replicas if n not in wanted]:
            if self.replicas[name].state != pb.REPLICA_STATE_STOPPED:
                self.order.append(("drained", name))
            del self.replicas[name]
        if self.acknowledges:
            self.generation = config.node.gateway.generation
            for endpoint in config.node.gateway.endpoints:
                self.order.append(("routed", {w.deployment: w.weight_bp for w in endpoint.weights}))
        await self.report()

    async def report(self) -> None:
        """Send the whole state."""
        statuses = [
            fleet.ReplicaStatus(
                replica=name,
                state=r.state,  # type: ignore[arg-type]  # a number is as good as the enum here
                reason=r.reason,
                restarts=r.restarts,
                warmed=r.warmed,
                grpc_address=f"127.0.0.1:{20000 + r.number}",
                http_address=f"127.0.0.1:{30000 + r.number}",
                server_pid=1000 + r.number,
                sidecar_pid=2000 + r.number,
            )
            for name, r in self.replicas.items()
        ]
        gateway = fleet.GatewayStatus(running=True, shared_port=7435, generation=self.generation)
        state = fleet.NodeState(replicas=statuses, gateway=gateway, cpu_cores=self.cores, memory_mib=self.memory_mib)
        await self._call.write(fleet.ConnectRequest(node_state=state))

    async def say(self, name: str, state: int, *, reason: str = "", restarts: int = 0, warmed: bool = True) -> None:
        """Change what is said of a replica, and say it."""
        replica = self.replicas[name]
        replica.state, replica.reason, replica.restarts, replica.warmed = state, reason, restarts, warmed
        await self.report()

    async def acknowledge(self) -> None:
        """Put the newest routes into force, and say so."""
        self.acknowledges = True
        self.generation = self.config.gateway.generation
        await self.report()


@dataclass
class World:
    """A control plane, a caller, and evidence that tests make up."""

    plane: Any
    stub: Any
    evidence: dict[str, Mapping[str, Value]] = field(default_factory=dict)
    asked_since: dict[str, datetime | None] = field(default_factory=dict)
    # Until when the made-up calls came; None: they come all the time.
    evidence_ended: datetime | None = None

    @property
    def core(self) -> Core:
        core: Core = self.plane.core
        return core

    def node(self, **options: Any) -> FakeNode:
        """Return a node that is not connected yet."""
        return FakeNode(self.plane.channel_with(self.plane.node_token), **options)

    async def version(self, model: str = "fraud", *, framework: str = "onnx") -> Version:
        """Register a version with files in the store."""
        artifacts = self.core.services.get(ArtifactService)
        folder = Path(self.plane.home) / "uploads" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(uuid.uuid4().bytes * 100)
        files = () if framework == "external" else await asyncio.to_thread(artifacts.import_directory, folder)
        signature = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}
        new = NewVersion("default", model, framework, id=uuid.uuid4().hex, files=files, signature=signature)
        registry = self.core.services.get(RegistryService)
        version = await self.core.db.write(lambda tx: registry.register(tx, new))
        if files:
            await asyncio.to_thread(artifacts.commit, files, version.artifact_path)
        return version

    async def status_of(self, version: Version) -> str:
        """Return the status of a version now."""
        registry = self.core.services.get(RegistryService)
        found = await self.core.db.read(
            lambda tx: registry.get_version(tx, version.project, version.model, version.number)
        )
        return found.status.value

    def fake_evidence(self, deployment: str, **metrics: tuple[float, int] | float) -> None:
        """Say what was measured of a deployment, and wake the rollouts as monitoring does."""
        self.evidence[deployment] = {
            name: Value(v[0], v[1], f"windows/{name}/{deployment}")
            if isinstance(v, tuple)
            else Value(v, 1000, f"windows/{name}/{deployment}")
            for name, v in metrics.items()
        }
        self.core.wakes.notify(["rollouts"])

    def _evidence(self, tx: Tx, deployment_id: str, since: datetime | None = None) -> Mapping[str, Value]:
        self.asked_since[deployment_id] = since
        # As monitoring does: calls are kept in grains of ten seconds, and a grain that `since` falls into counts whole.
        if self.evidence_ended is not None and since is not None:
            grain = since.timestamp() // 10 * 10
            if grain > self.evidence_ended.timestamp():
                return {}
        return self.evidence.get(deployment_id, {})

    # Calls

    async def deploy(self, version: Version | str, stage: pb.Stage, **fields: Any) -> calls.DeployResponse:
        """Deploy a version."""
        ref = version if isinstance(version, str) else version.name
        answer: calls.DeployResponse = await self.stub.Deploy(calls.DeployRequest(version=ref, stage=stage, **fields))
        return answer

    async def get(self, name: str) -> pb.Deployment:
        """Return a deployment by `endpoint/stage` or name."""
        answer: calls.GetDeploymentResponse = await self.stub.GetDeployment(calls.GetDeploymentRequest(name=name))
        return answer.deployment

    async def endpoint(self, name: str = "fraud") -> pb.Endpoint:
        """Return an endpoint."""
        answer: calls.GetEndpointResponse = await self.stub.GetEndpoint(calls.GetEndpointRequest(name=name))
        return answer.endpoint

    async def weights(self, name: str = "fraud") -> dict[str, int]:
        """Return an endpoint's weights."""
        return {w.deployment: w.weight_bp for w in (await self.endpoint(name)).routes.weights}

    async def rollout(self, name: str) -> pb.Rollout:
        """Return a rollout."""
        answer: calls.GetRolloutResponse = await self.stub.GetRollout(calls.GetRolloutRequest(name=name))
        return answer.rollout

    async def until_state(self, name: str, state: int, timeout_s: float = 10.0) -> pb.Deployment:
        """Follow a deployment until it stands so."""
        call = self.stub.WatchDeployment(calls.WatchDeploymentRequest(name=name))
        found: pb.Deployment = await self._until(call, "deployment", state, timeout_s)
        return found

    async def until_rollout(self, name: str, state: int, timeout_s: float = 10.0) -> pb.Rollout:
        """Follow a rollout until it stands so."""
        call = self.stub.WatchRollout(calls.WatchRolloutRequest(name=name))
        found: pb.Rollout = await self._until(call, "rollout", state, timeout_s)
        return found

    async def _until(self, call: Any, field_name: str, state: int, timeout_s: float) -> Any:
        last = None
        try:
            async with asyncio.timeout(timeout_s):
                async for message in call:
                    last = getattr(message, field_name)
                    if last.state == state:
                        return last
        except TimeoutError:
            raise AssertionError(f"not state {state} within {timeout_s} s, but {last}") from None
        finally:
            call.cancel()
        raise AssertionError(f"the watch ended at {last}")

    async def serving(self, version: Version, stage: pb.Stage, **fields: Any) -> pb.Deployment:
        """Deploy a version and wait until it is READY."""
        deployed = await self.deploy(version, stage, **fields)
        return await self.until_state(deployed.deployment.name, pb.DEPLOYMENT_STATE_READY)

    async def eventually(self, check: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Wait until `check` (plain or async) returns something true; return it."""
        found = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = check()
                    if asyncio.iscoroutine(found):
                        found = await found
                    if found:
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"still {found!r} after {timeout_s} s") from None


@contextlib.asynccontextmanager
async def world(make_control_plane: Any, engine: str, **settings: Any) -> AsyncIterator[World]:
    """Start a control plane with everything that deployments need, and evidence that tests make up."""
    options = {"gateway_port": 0, "sweep_s": 0.5, **settings}
    plane = await make_control_plane(areas=AREAS, engine=engine, **options)
    found = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    plane.core.services.get(MonitoringService).evidence = found._evidence
    yield found


async def refusal(call: Any) -> Any:
    """Return the error of a call that must fail."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"it was not refused but answered {answer}")
