"""A control plane for sidecar tests that speaks the real FleetService, and the agent as a process.

It keeps what it is sent by (incarnation, stream, offset), so that a row that came twice, or never, shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.stats import Profile, build_profile
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import fleet_service_pb2_grpc as fleet_grpc
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish_sidecar.tap import Tap, TapIdentity, TapSettings

FEATURES = ("age", "income", "score")
SIGNATURE = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}], "feature_names": list(FEATURES)}


def reference(seed: int = 1, rows: int = 5000) -> Profile:
    """Return the profile of three normal features and a numeric output."""
    rng = np.random.default_rng(seed)
    inputs = {name: rng.normal(size=rows).astype(np.float32) for name in FEATURES}
    return build_profile(inputs, {"prediction": rng.normal(size=rows).astype(np.float32)})


def sidecar_config(
    version: int = 1,
    *,
    replica: str = "r1",
    window_size: int = 100,
    method: str = "",
    profile: Profile | None = None,
    learn_rows: int = 0,
    sample_bp: int | None = None,
    signature: str = json.dumps(SIGNATURE),
    window_time_s: float = 0.0,
) -> fleet.MemberConfig:
    """Return a configuration with one binding."""
    drift = monitoring.DriftDetection(
        method=method, window_size=window_size, learn_rows=learn_rows, window_time_s=window_time_s
    )
    watch = monitoring.MonitoringConfig(drift_detection=drift)
    if sample_bp is not None:
        watch.sample_bp = sample_bp
    binding = fleet.ReplicaBinding(
        replica=replica,
        deployment="d1",
        endpoint="fraud",
        model="fraud",
        version=7,
        monitoring=watch,
        profile_json=profile.to_json() if profile is not None else "",
        signature_json=signature,
    )
    return fleet.MemberConfig(version=version, nonce=f"n{version}", sidecar=fleet.SidecarConfig(bindings=[binding]))


Key = tuple[int, str]


@dataclass(repr=False)
class FakeFleet(fleet_grpc.FleetServiceServicer):
    """What a control plane stores and says; `problems` must stay empty."""

    config: fleet.MemberConfig | None = None
    rows: dict[Key, dict[int, Any]] = field(default_factory=dict)
    watermarks: dict[Key, int] = field(default_factory=dict)
    hellos: list[fleet.Hello] = field(default_factory=list)
    acks: list[fleet.ConfigAck] = field(default_factory=list)
    states: list[fleet.SidecarState] = field(default_factory=list)
    results: list[fleet.CommandResult] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    gaps: list[tuple[Key, int, int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, str, int]] = field(default_factory=list)
    heartbeats: int = 0
    silent: bool = False
    lose_acks: bool = False
    refusals: int = 0
    heartbeat_interval_s: float = 0.2
    max_publish_bytes: int = 1 << 20
    port: int = 0
    _server: Any = None
    _outboxes: list[asyncio.Queue[fleet.ConnectResponse]] = field(default_factory=list)

    async def start(self) -> None:
        """Listen on the port of the last time, or on a free one."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        fleet_grpc.add_FleetServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Go away, as a killed control plane does."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def push(self, **message: Any) -> None:
        """Send a message to every member that is connected."""
        for outbox in self._outboxes:
            outbox.put_nowait(fleet.ConnectResponse(**message))

    async def Connect(self, requests: AsyncIterator[fleet.ConnectRequest], context: Any) -> AsyncIterator[Any]:
        """Greet, push the configuration, answer heartbeats."""
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        first = await anext(aiter(requests))
        self.hellos.append(first.hello)
        outbox: asyncio.Queue[fleet.ConnectResponse] = asyncio.Queue()
        self._outboxes.append(outbox)
        welcome = fleet.Welcome(
            epoch=1,
            heartbeat_interval_s=self.heartbeat_interval_s,
            lease_s=10 * self.heartbeat_interval_s,
            max_publish_bytes=self.max_publish_bytes,
            watermarks=[
                fleet.StreamOffset(stream=stream, incarnation=incarnation, offset=offset)
                for (incarnation, stream), offset in self.watermarks.items()
            ],
        )
        yield fleet.ConnectResponse(welcome=welcome)
        if self.config is not None:
            yield fleet.ConnectResponse(config=self.config)
        reading = asyncio.ensure_future(self._read(requests, outbox))
        try:
            while True:
                yield await outbox.get()
        finally:
            reading.cancel()
            self._outboxes.remove(outbox)

    async def _read(
        self, requests: AsyncIterator[fleet.ConnectRequest], outbox: asyncio.Queue[fleet.ConnectResponse]
    ) -> None:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "heartbeat":
                self.heartbeats += 1
                if not self.silent:
                    outbox.put_nowait(fleet.ConnectResponse(heartbeat=request.heartbeat))
            elif kind == "config_ack":
                self.acks.append(request.config_ack)
            elif kind == "sidecar_state":
                self.states.append(request.sidecar_state)
            elif kind == "command_result":
                self.results.append(request.command_result)

    async def Publish(self, requests: AsyncIterator[fleet.PublishRequest], context: Any) -> AsyncIterator[Any]:
        """Store by offset and answer the watermark."""
        async for request in requests:
            if self.refusals:
                self.refusals -= 1
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the disk is full")
            self.sizes.append(request.ByteSize())
            key = (request.incarnation, request.stream)
            self._store(key, request)
            if not self.lose_acks:
                yield fleet.PublishResponse(
                    incarnation=request.incarnation, stream=request.stream, watermark=self.watermarks[key]
                )

    def _store(self, key: Key, request: fleet.PublishRequest) -> None:
        known = self.watermarks.get(key, 0)
        if request.first_offset > known:
            self.gaps.append((key, known, request.first_offset))
        payload = request.WhichOneof("payload")
        entries: Sequence[Any]
        if payload == "predictions":
            entries = [(i, request.predictions.deployment) for i in request.predictions.prediction_ids]
        elif payload == "truths":
            entries = list(request.truths.prediction_ids)
        else:
            entries = [request.window if payload == "window" else request.outcomes]
        if len(entries) != request.end_offset - request.first_offset:
            self.problems.append(f"{key}: {len(entries)} entries for {request.first_offset}..{request.end_offset}")
        stored = self.rows.setdefault(key, {})
        for offset, entry in enumerate(entries, request.first_offset):
            if offset in stored and stored[offset] != entry:
                self.problems.append(f"{key}: offset {offset} came again with other content")
            if offset < known and offset not in stored:
                self.problems.append(f"{key}: offset {offset} came after the watermark {known} had passed it")
            stored.setdefault(offset, entry)
        self.watermarks[key] = max(known, request.end_offset)
        self.arrivals.append((time.monotonic(), request.stream, len(entries)))

    async def FetchArtifact(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Sidecars fetch nothing."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "sidecars fetch nothing")
        yield

    async def ListMembers(self, request: Any, context: Any) -> Any:
        """Sidecars ask for nobody."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "sidecars ask for nobody")

    def of(self, stream: str) -> list[Any]:
        """Return everything stored of one stream, by incarnation and offset."""
        return [
            entry
            for (_, name), rows in sorted(self.rows.items())
            if name == stream
            for _, entry in sorted(rows.items())
        ]

    def ids(self) -> list[str]:
        """Return the prediction id of every row stored."""
        return [ident for ident, _ in self.of("predictions")]


async def eventually(condition: Any, timeout_s: float = 15.0, what: str = "") -> None:
    """Return when the condition holds; fail when it does not within the time."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        await asyncio.sleep(0.02)


def call_bytes(ident: str, rows: Any, *, name: str = "input") -> tuple[bytes, bytes]:
    """Return request and response of one inference call; the answer is the sum of each row."""
    table = np.atleast_2d(np.asarray(rows, dtype=np.float32))
    request = oip.ModelInferRequest(model_name="fraud", id=ident)
    tensor = request.inputs.add(name=name, datatype="FP32", shape=list(table.shape))
    tensor.contents.fp32_contents.extend(table.ravel().tolist())
    response = oip.ModelInferResponse(model_name="fraud", model_version="7", id=ident)
    out = response.outputs.add(name="prediction", datatype="FP32", shape=[len(table), 1])
    out.contents.fp32_contents.extend(table.sum(axis=1).tolist())
    return request.SerializeToString(), response.SerializeToString()


METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Caller:
    """A model server's tap that is fed by the test."""

    def __init__(self, directory: Path, *, seed: int = 0, replica: str = "r1", **settings: Any) -> None:
        """Open the tap."""
        identity = TapIdentity("d1", replica, "7")
        self.tap = Tap(TapSettings(directory / "tap.sock", directory / "tap.counters", identity, **settings))
        self.rng = np.random.default_rng(seed)
        self.sent: list[str] = []

    def serve(self, calls: int, *, shift: float = 0.0, code: int = 0, prefix: str = "p") -> None:
        """Serve calls of one row each."""
        for _ in range(calls):
            ident = f"{prefix}{len(self.sent)}"
            request, response = call_bytes(ident, self.rng.normal(size=3) + shift)
            now_us = time.time_ns() // 1000
            self.tap.record(METHOD, request, b"" if code else response, code, now_us, 1500, ident)
            self.sent.append(ident)


class AgentProcess:
    """The agent as a process of its own."""

    def __init__(self, directory: Path, address: str, *flags: str, env: dict[str, str] | None = None) -> None:
        """Prepare."""
        self.directory = directory
        token = directory / "token"
        token.write_text("secret-token\n")
        self.command = [
            sys.executable, "-m", "pilotfish_sidecar", "agent",
            "--run-dir", str(directory), "--replica", "r1", "--control-plane", address,
            "--token-file", str(token), *flags,
        ]  # fmt: skip
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = directory / "agent.log"

    def start(self) -> None:
        """Start it and return at once."""
        (self.directory / "sidecar.ready").unlink(missing_ok=True)
        with self.log_path.open("ab") as output:
            self.process = subprocess.Popen(self.command, stderr=output, env=self.env)

    def wait_ready(self, timeout_s: float = 20.0) -> float:
        """Return the seconds until it listens."""
        begun = time.monotonic()
        while not (self.directory / "sidecar.ready").exists():
            assert self.process is not None and self.process.poll() is None, self.log_path.read_text()[-3000:]
            assert time.monotonic() - begun < timeout_s, self.log_path.read_text()[-3000:]
            time.sleep(0.005)
        return time.monotonic() - begun

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def terminate(self, timeout_s: float = 15.0) -> int:
        """Ask it to stop, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, timeout_s)
        self.process = None
        return code
