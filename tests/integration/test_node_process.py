"""The real node process with real model servers, sidecars and Envoy, under a real control plane: killed and frozen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from scipy import stats as scipy_stats

from pilotfish import AsyncClient
from pilotfish.errors import PilotfishError
from pilotfish.v1 import deployment_pb2 as pb
from tests.conftest import MakeControlPlane, RunningControlPlane
from tests.digits_model import digits, write_digits_model

pytestmark = pytest.mark.timeout(90)

SEED = int(os.environ.get("PILOTFISH_NODE_SEED", str(random.SystemRandom().randrange(2**31))))
ENDPOINT = "digits"
FULL_NAME = f"projects/default/endpoints/{ENDPOINT}"
IMAGES = digits()[0]
# Shares of two stages that stand side by side, basis points.
PRODUCTION_BP, CANARY_BP = 7000, 3000


def left_running(home: Path) -> dict[int, str]:
    """Return pid → command line of processes that carry the home's path and are not this one."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) in line and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = line
    return found


def running(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def eventually(
    check: Callable[[], Awaitable[Any]], what: str | Callable[[], str], timeout_s: float = 30.0
) -> Any:
    """Wait until `check` returns something true; return it."""
    until = time.monotonic() + timeout_s
    while not (found := await check()):
        told = what if isinstance(what, str) else what()
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {told}"
        await asyncio.sleep(0.05)
    return found


@dataclass
class Call:
    """One prediction as its caller saw it; times by the monotonic clock, in seconds."""

    prediction_id: str
    began: float
    ended: float
    error: str
    deployment: str = ""


@dataclass
class Load:
    """Callers that predict one row after the other until they are stopped."""

    client: AsyncClient
    calls: list[Call] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def one(self, timeout_s: float = 5.0) -> Call:
        """Predict a random row."""
        row, wanted, began = self.rng.randrange(len(IMAGES)), uuid.uuid4().hex, time.monotonic()
        error = deployment = ""
        try:
            answer = await self.client.endpoint(ENDPOINT).predict(
                IMAGES[row : row + 1], ids=[wanted], timeout_s=timeout_s
            )
            deployment = answer.deployment
        except PilotfishError as failed:
            error = f"{type(failed).__name__}: {failed}"
        self.calls.append(Call(wanted, began, time.monotonic(), error, deployment))
        return self.calls[-1]

    async def _run(self, pause_s: float) -> None:
        while True:
            await self.one()
            await asyncio.sleep(pause_s)

    def start(self, callers: int = 4, pause_s: float = 0.01) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._run(pause_s)) for _ in range(callers)]

    async def stop(self) -> None:
        """End, in the middle of a call if need be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def failed(self) -> list[Call]:
        """The calls that got no answer."""
        return [c for c in self.calls if c.error]

    def answered_after(self, when: float) -> int:
        """Return the number of answers to calls that began later."""
        return sum(not c.error and c.began > when for c in self.calls)


class World:
    """A control plane, a client and a node process."""

    def __init__(self, plane: RunningControlPlane, client: AsyncClient) -> None:
        """Start the node."""
        self.plane, self.client, self.home = plane, client, plane.home
        self.load = Load(client)
        self._address, self._token_file = plane.address, plane.app.paths.node_token
        self.last: list[pb.Replica] = []
        self.node = self.start_node()

    @property
    def log(self) -> str:
        """What the node has written last."""
        return (self.home / "node.log").read_text()[-3000:]

    def start_node(self) -> subprocess.Popen[bytes]:
        """Start the process."""
        argv = [sys.executable, "-m", "pilotfish_node", "--home", str(self.home), "--control-plane", self._address]
        argv += ["--token-file", str(self._token_file)]
        with (self.home / "node.log").open("ab") as log:
            self.node = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.node

    async def replicas(self, deployment: str) -> list[pb.Replica]:
        """Return the replicas that have not ended."""
        return await self.client.deployments.replicas(deployment)

    async def until_ready(self, deployment: str, count: int, *, without: Sequence[int] = ()) -> list[pb.Replica]:
        """Wait until `count` replicas are all there is and all are READY, none with a server of `without`."""

        async def check() -> list[pb.Replica] | None:
            found = await self.replicas(deployment)
            self.last = found
            good = [r for r in found if r.state == pb.REPLICA_STATE_READY and r.server_pid not in (0, *without)]
            return found if len(good) == len(found) == count else None

        found: list[pb.Replica] = await eventually(
            check, lambda: f"{count} replicas READY, but {self.last}\n{self.log}"
        )
        return found

    async def stop(self) -> int:
        """End the node by SIGTERM; return its exit status."""
        if self.node.poll() is None:
            self.node.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.node.wait, 30)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the model's files."""
    directory = tmp_path_factory.mktemp("model") / "digits"
    write_digits_model(directory)
    return directory


@contextlib.asynccontextmanager
async def world(make: MakeControlPlane, model_dir: Path, **settings: Any) -> AsyncIterator[World]:
    """Start everything and register the model; at the end everything is gone, by the node's own doing."""
    print(f"seed {SEED}")
    plane = await make(engine="sqlite", **settings)
    async with AsyncClient(plane.address, plane.token) as client:
        found = World(plane, client)
        try:
            await client.models.register(model_dir, model=ENDPOINT)
            yield found
            assert await found.stop() == 0, found.log
            assert not left_running(found.home), "SIGTERM of the node left processes running"
        finally:
            await found.load.stop()
            for pid in left_running(found.home):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(found.node.wait, 10)


@pytest.mark.ledger("C1", "C6")
async def test_a_killed_model_server_is_replaced_and_only_calls_in_flight_on_it_fail(
    make_control_plane: MakeControlPlane, model_dir: Path
) -> None:
    async with world(make_control_plane, model_dir) as w:
        config = {"scaling": {"replicas": 2}}
        deployed = await w.client.deployments.deploy(f"{ENDPOINT}@1", stage="production", config=config)
        assert deployed.state == pb.DEPLOYMENT_STATE_READY
        before = await w.until_ready(deployed.name, 2)
        assert not (await w.load.one()).error
        w.load.start()
        await asyncio.sleep(0.5)
        killed = before[0].server_pid
        os.kill(killed, signal.SIGKILL)
        while running(killed):
            await asyncio.sleep(0.001)
        gone = time.monotonic()
        after = await w.until_ready(deployed.name, 2, without=[killed])
        again = time.monotonic()
        await asyncio.sleep(0.3)
        await w.load.stop()
        assert {r.id for r in after} == {r.id for r in before}
        assert {r.sidecar_pid for r in after} == {r.sidecar_pid for r in before}
        assert next(r for r in after if r.id == before[0].id).restarts == 1
        assert len(w.load.calls) > 50 and w.load.answered_after(again) > 0
        # Four callers have four calls in flight at most; whoever began after its end was served elsewhere.
        assert len(w.load.failed) <= 4, w.load.failed
        assert all(c.began <= gone for c in w.load.failed), (gone, w.load.failed)


@pytest.mark.ledger("C6")
async def test_a_frozen_model_server_leaves_the_traffic_and_is_replaced(
    make_control_plane: MakeControlPlane, model_dir: Path
) -> None:
    async with world(make_control_plane, model_dir) as w:
        check = {"interval_s": 0.2, "timeout_s": 0.3, "failure_threshold": 2}
        config = {"scaling": {"replicas": 2}, "health_check": check}
        deployed = await w.client.deployments.deploy(f"{ENDPOINT}@1", stage="production", config=config)
        before = await w.until_ready(deployed.name, 2)
        assert not (await w.load.one()).error
        frozen = before[0]
        began = time.monotonic()
        os.kill(frozen.server_pid, signal.SIGSTOP)

        async def unhealthy() -> bool:
            found = {r.id: r for r in await w.replicas(deployed.name)}
            return found[frozen.id].state == pb.REPLICA_STATE_UNHEALTHY

        await eventually(unhealthy, f"unhealthy\n{w.log}")
        out_s = time.monotonic() - began
        # What Envoy was told takes a moment to reach its workers.
        await asyncio.sleep(0.2)
        answers = [await w.load.one(timeout_s=2.0) for _ in range(40)]
        assert not [c.error for c in answers if c.error]
        await w.until_ready(deployed.name, 2, without=[frozen.server_pid])
        print(f"out of the traffic after {out_s:.2f} s, replaced after {time.monotonic() - began:.2f} s")
        assert not running(frozen.server_pid)
        assert not [c.error for c in [await w.load.one(timeout_s=2.0) for _ in range(20)] if c.error]


@pytest.mark.ledger("C4")
async def test_a_deployment_is_scaled_out_and_in_with_real_replicas_and_no_failed_call(
    make_control_plane: MakeControlPlane, model_dir: Path
) -> None:
    async with world(make_control_plane, model_dir) as w:
        deployed = await w.client.deployments.deploy(f"{ENDPOINT}@1", stage="production")
        first = await w.until_ready(deployed.name, 1)
        w.load.start(callers=2, pause_s=0.02)
        await w.client.deployments.scale(deployed.name, 2)
        both = await w.until_ready(deployed.name, 2)
        assert len({r.server_pid for r in both} | {r.sidecar_pid for r in both}) == 4
        await asyncio.sleep(0.3)
        await w.client.deployments.scale(deployed.name, 1)
        kept = (await w.until_ready(deployed.name, 1))[0]
        ended = next(r for r in both if r.id != kept.id)

        async def gone() -> bool:
            return not running(ended.server_pid) and not running(ended.sidecar_pid)

        await eventually(gone, f"{ended.id} gone\n{w.log}")
        await w.load.stop()
        assert kept.server_pid in {r.server_pid for r in both} and first[0].id in {r.id for r in both}
        assert w.load.calls and not w.load.failed, w.load.failed[:3]


@pytest.mark.ledger("C5")
async def test_a_split_of_traffic_is_obeyed_by_real_calls(
    make_control_plane: MakeControlPlane, model_dir: Path
) -> None:
    async with world(make_control_plane, model_dir) as w:
        await w.client.models.register(model_dir, model=ENDPOINT)
        production = await w.client.deployments.deploy(f"{ENDPOINT}@1", stage="production")
        # A rollout that is soon content, because it owns the weights while it runs.
        content = {"metric": "error_ratio", "comparison": "<=", "bound": 1.0, "min_sample": 1}
        plan = {"steps": [{"weight_bp": 1000}], "criteria": [content]}
        canary = await w.client.deployments.deploy(f"{ENDPOINT}@2", stage="canary", plan=plan)
        w.load.start()

        async def finished() -> bool:
            return (await w.client.deployments.rollout(ENDPOINT)).state == pb.ROLLOUT_STATE_SUCCEEDED

        await eventually(finished, f"the rollout ends\n{w.log}")
        await w.load.stop()
        weights = {"production": PRODUCTION_BP, "canary": CANARY_BP}
        await w.client.endpoints.set_traffic(ENDPOINT, weights)
        files = w.home / "nodes" / "local" / "gateway" / "files"

        async def written() -> bool:
            return any(f'"weight": {CANARY_BP}' in p.read_text() for p in files.glob("routes-*.json"))

        await eventually(written, f"the node gives Envoy the weights\n{w.log}")
        # Envoy's workers take new routes a moment after their file was written.
        await asyncio.sleep(1.0)
        calls = [await w.load.one() for _ in range(600)]
        assert not [c.error for c in calls if c.error]
        seen = Counter(c.deployment for c in calls)
        assert set(seen) == {production.id, canary.id}
        expected = [600 * PRODUCTION_BP / 10_000, 600 * CANARY_BP / 10_000]
        p = scipy_stats.chisquare([seen[production.id], seen[canary.id]], expected).pvalue
        print(f"{seen[production.id]}/{seen[canary.id]} of 600, p = {p:.4f}")
        assert p > 0.001


@pytest.mark.ledger("G2")
async def test_a_killed_node_costs_no_prediction_and_the_next_one_adopts_what_runs(
    make_control_plane: MakeControlPlane, model_dir: Path
) -> None:
    async with world(make_control_plane, model_dir) as w:
        deployed = await w.client.deployments.deploy(f"{ENDPOINT}@1", stage="production")
        before = (await w.until_ready(deployed.name, 1))[0]
        w.load.start(callers=2, pause_s=0.02)
        await asyncio.sleep(0.3)
        old = w.node
        old.kill()
        old.wait(10)
        dead = time.monotonic()
        await asyncio.sleep(1.5)
        without_node = w.load.answered_after(dead)
        w.start_node()

        async def adopted() -> bool:
            members = await w.client.fleet.members()
            return any(m.instance == "local" and m.incarnation == 2 for m in members)

        await eventually(adopted, f"the new node is connected\n{w.log}")
        after = (await w.until_ready(deployed.name, 1))[0]
        await asyncio.sleep(1.5)
        await w.load.stop()
        assert without_node > 10
        assert (after.id, after.server_pid, after.sidecar_pid) == (before.id, before.server_pid, before.sidecar_pid)
        assert running(after.server_pid) and running(after.sidecar_pid)
        assert not w.load.failed, w.load.failed[:3]


@pytest.mark.ledger("G2")
async def test_predictions_go_on_without_the_control_plane_and_every_row_arrives_once(
    make_control_plane: MakeControlPlane, model_dir: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    async with world(make_control_plane, model_dir, port=port) as w:
        deployed = await w.client.deployments.deploy(f"{ENDPOINT}@1", stage="production")
        before = (await w.until_ready(deployed.name, 1))[0]
        w.load.start(callers=2, pause_s=0.02)
        await asyncio.sleep(0.5)
        await w.plane.app.stop()
        stopped = time.monotonic()
        await asyncio.sleep(2.0)
        without = w.load.answered_after(stopped)
        w.plane = await make_control_plane(engine="sqlite", home=w.home, port=port)
        back = time.monotonic()
        await asyncio.sleep(1.0)
        await w.load.stop()
        assert without > 10 and w.load.answered_after(back) > 0
        assert not w.load.failed, w.load.failed[:3]
        sent = Counter(c.prediction_id for c in w.load.calls)

        async def exported() -> Counter[str]:
            found: Counter[str] = Counter()
            async for part in w.client.monitoring.export(FULL_NAME):
                found.update(part.prediction_ids)
                assert set(part.attempts) <= {1}
            return found

        async def complete() -> bool:
            return set(sent) <= set(await exported())

        await eventually(complete, f"{len(sent)} rows exported\n{w.log}")
        found = await exported()
        # A caller that was stopped in the middle of its call knows no answer, but its row may be there.
        assert {c: n for c, n in found.items() if n != 1} == {}
        assert len(found) - len(sent) <= 2
        after = (await w.until_ready(deployed.name, 1))[0]
        assert (after.server_pid, after.sidecar_pid) == (before.server_pid, before.sidecar_pid)
