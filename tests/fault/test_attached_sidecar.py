"""An attached sidecar on the real control plane: its processes may be killed, no caller notices, the accounts close."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from pilotfish.child_process import read_json
from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import monitoring_service_pb2 as calls
from pilotfish.v1 import monitoring_service_pb2_grpc as calls_grpc
from tests.integration.serving_world import World, world
from tests.integration.test_relay import INFER, answer, channel, question
from tests.relay_world import until


@pytest_asyncio.fixture
async def w(make_control_plane: Any) -> AsyncIterator[World]:
    async with world(make_control_plane, "sqlite") as found:
        yield found


@pytest_asyncio.fixture
async def foreign_port() -> AsyncIterator[int]:
    """A model server that knows nothing of pilotfish."""

    async def infer(request: bytes, context: Any) -> bytes:
        return answer(request)

    async def ready(request: bytes, context: Any) -> bytes:
        return bytes(oip.ServerReadyResponse(ready=True).SerializeToString())

    server = grpc.aio.server()
    unary = grpc.unary_unary_rpc_method_handler
    methods = {"ModelInfer": unary(infer), "ServerReady": unary(ready)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


class Attached:
    """The command `pilotfish-sidecar attach` in a directory of its own."""

    def __init__(self, w: World, replica: str, port: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pf-att-"))
        token = self.directory / "token"
        token.write_text(w.plane.node_token)
        self.run_dir = self.directory / "run"
        self.arguments = ["attach", "--run-dir", str(self.run_dir), "--listen", f"127.0.0.1:0=127.0.0.1:{port}"]
        self.arguments += ["--replica", replica, "--control-plane", w.plane.address, "--token-file", str(token)]
        self.arguments += ["--health", f"grpc://127.0.0.1:{port}"]
        self.supervisor: subprocess.Popen[bytes] | None = None

    async def start(self) -> str:
        self.supervisor = subprocess.Popen([sys.executable, "-m", "pilotfish_sidecar", *self.arguments])
        await until(lambda: read_json(self.run_dir / "listeners.json"), "the start")
        await until(lambda: read_json(self.run_dir / "relay.ready"), "the relay's start")
        return str(read_json(self.run_dir / "relay.ready")["addresses"][0])

    def pid(self, name: str) -> int:
        return int(read_json(self.run_dir / "run" / f"{name}.process.json").get("pid", 0))

    async def kill(self, name: str) -> None:
        """Kill -9 one of the three, and wait until another one runs in its place."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)
        await until(lambda: self.pid(name) not in (0, before), f"another {name}")

    async def stop(self) -> None:
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.terminate()
            await asyncio.to_thread(self.supervisor.wait)

    def clean(self) -> None:
        for name in ("relay", "decoder", "agent"):
            pid = self.pid(name)
            if pid:
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


class Load:
    """Calls through the relay, one after the other on each of a few connections."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = asyncio.Event()
        self.answered = 0
        self._tasks = [asyncio.ensure_future(self._run(i)) for i in range(3)]

    async def _run(self, lane: int) -> None:
        count = 0
        async with channel(self._address) as opened:
            call = opened.unary_unary(INFER)
            while not self._stop.is_set():
                asked = question(lane * 1_000_000 + count)
                assert await call(asked) == answer(asked)
                count += 1
                self.answered += 1
                await asyncio.sleep(0.002)

    async def more(self, calls: int) -> None:
        """Wait for further answers."""
        wanted = self.answered + calls
        await until(lambda: self.answered >= wanted or any(t.done() for t in self._tasks), "further answers")

    async def end(self) -> int:
        """Stop, and return how many calls were answered; raises what a call raised."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        return self.answered


@pytest.mark.ledger("G1", "G2", "C1")
@pytest.mark.timeout(240)
async def test_no_call_fails_and_the_accounts_close_when_decoder_agent_and_supervisor_are_killed_in_turn(
    w: World, foreign_port: int
) -> None:
    version = await w.version("theirs", framework="external")
    deployed = await w.deploy(version, pb.STAGE_STAGING)
    name = deployed.deployment.name
    await w.until_state(name, pb.DEPLOYMENT_STATE_STARTING)

    async def replicas() -> Any:
        return (await w.get(name)).replicas

    replica = (await w.eventually(replicas))[0].id
    attached = Attached(w, replica, foreign_port)
    try:
        address = await attached.start()
        await w.until_state(name, pb.DEPLOYMENT_STATE_READY)
        load = Load(address)
        await load.more(200)
        await attached.kill("decoder")
        await load.more(200)
        await attached.kill("agent")
        await load.more(200)
        assert attached.supervisor is not None
        attached.supervisor.kill()
        await asyncio.to_thread(attached.supervisor.wait)
        relay = attached.pid("relay")
        await load.more(100)
        await attached.start()
        assert attached.pid("relay") == relay, "the next supervisor takes the relay over"
        await load.more(200)
        answered = await load.end()
        seen: Any = None
        monitoring = calls_grpc.MonitoringServiceStub(w.plane.channel)

        async def closed() -> Any:
            nonlocal seen
            found = seen = (await monitoring.GetMetrics(calls.GetMetricsRequest(name=name))).metrics
            counts = found[0].capture if found else None
            done = counts is not None and counts.served >= answered and counts.in_flight == 0
            return found[0] if done and found[0].prediction_count >= counts.captured else None

        try:
            found = await w.eventually(closed, 30)
        except AssertionError:
            raise AssertionError(f"{answered} answered, but {seen}") from None
        capture = found.capture
        # A health probe of the sidecar goes to the server itself: what the relay saw are these calls alone.
        assert capture.served == answered
        assert capture.captured + sum(capture.dropped.values()) == answered
        assert set(capture.dropped) <= {"crash", "blind", "no_decoder"}
        assert found.prediction_count == capture.captured
        assert capture.captured >= 600
    finally:
        await attached.stop()
        attached.clean()
