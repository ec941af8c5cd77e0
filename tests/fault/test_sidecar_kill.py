"""The agent is killed -9 at random points: no row, window, call or acknowledgement is lost or counted twice."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.v1 import sidecar_service_pb2 as pb
from pilotfish.v1 import sidecar_service_pb2_grpc as pb_grpc
from tests.sidecar_fleet import AgentProcess, Caller, FakeFleet, eventually, reference, sidecar_config

SEEDS = [int(seed) for seed in os.environ.get("PILOTFISH_TEST_SEEDS", "1,2").split(",")]


FAST = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]


def check_books(fleet: FakeFleet, sent: list[str], *, window_size: int, gaps: bool = False) -> None:
    """Fail unless everything that was sent is there exactly once."""
    assert fleet.problems == []
    assert gaps or fleet.gaps == []
    assert sorted(fleet.ids()) == sorted(sent)
    assert sum(report.calls for report in fleet.of("outcomes")) == len(sent)
    assert sum(sum(report.latency_counts) for report in fleet.of("outcomes")) == len(sent)
    windows = fleet.of("windows")
    assert {window.rows for window in windows} == {window_size}
    assert len(windows) == len(sent) // window_size
    assert len({window.window for window in windows}) == len(windows)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(180)
async def test_kill_9_at_random_points_loses_nothing_and_counts_nothing_twice(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    fleet = FakeFleet(config=sidecar_config(profile=reference()))
    await fleet.start()
    agent = AgentProcess(tmp_path, fleet.address)
    caller = Caller(tmp_path, seed=seed)
    total = 6000
    kills = 0
    try:
        agent.start()
        while len(caller.sent) < total:
            caller.serve(rng.randint(1, 120))
            await asyncio.sleep(rng.uniform(0.0, 0.05))
            if rng.random() < 0.08:
                if rng.random() < 0.7:
                    await asyncio.to_thread(agent.wait_ready)
                    await asyncio.sleep(rng.uniform(0.0, 0.4))
                agent.kill()
                kills += 1
                agent.start()
        caller.serve(-len(caller.sent) % 100)
        await asyncio.to_thread(agent.wait_ready)
        await eventually(lambda: len(fleet.ids()) >= len(caller.sent), 30, "rows")
        await eventually(lambda: sum(r.calls for r in fleet.of("outcomes")) >= len(caller.sent), 10, "outcomes")
        await eventually(lambda: len(fleet.of("windows")) >= len(caller.sent) // 100, 10, "windows")
        assert await agent.terminate() == 0
        check_books(fleet, caller.sent, window_size=100)
        assert kills >= 2, "the test has killed nothing"
        assert len({hello.incarnation for hello in fleet.hellos}) >= 2
        books = caller.tap._counters.read()
        assert (books.captured, books.in_flight) == (len(caller.sent), 0)
    finally:
        await over(agent, fleet, caller)


async def over(agent: AgentProcess, fleet: FakeFleet, *callers: Caller) -> None:
    """End what a test started."""
    agent.kill()
    for caller in callers:
        await asyncio.to_thread(caller.tap.close)
    await fleet.stop()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(180)
async def test_the_agent_and_the_control_plane_die_in_any_order_and_the_books_agree(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(1000 + seed)
    fleet = FakeFleet(config=sidecar_config(profile=reference()))
    await fleet.start()
    agent = AgentProcess(tmp_path, fleet.address)
    caller = Caller(tmp_path, seed=seed)
    agent.start()
    up = True
    try:
        for _ in range(60):
            caller.serve(rng.randint(1, 80))
            await asyncio.sleep(rng.uniform(0.0, 0.08))
            happening = rng.random()
            if happening < 0.06:
                agent.kill()
                agent.start()
            elif happening < 0.2:
                await (fleet.stop() if up else fleet.start())
                up = not up
            elif happening < 0.3 and fleet.watermarks:
                # It comes back from an older copy of itself, or its acknowledgements are lost.
                fleet.lose_acks = not fleet.lose_acks
                key = rng.choice(list(fleet.watermarks))
                fleet.watermarks[key] = max(0, fleet.watermarks[key] - rng.randint(0, 30))
        fleet.lose_acks = False
        if not up:
            await fleet.start()
        caller.serve(-len(caller.sent) % 100)
        await asyncio.to_thread(agent.wait_ready)
        await eventually(lambda: len(set(fleet.ids())) >= len(caller.sent), 60, "rows")
        await eventually(lambda: sum(r.calls for r in fleet.of("outcomes")) >= len(caller.sent), 10, "outcomes")
        await eventually(lambda: len(fleet.of("windows")) >= len(caller.sent) // 100, 10, "windows")
        assert await agent.terminate() == 0
        check_books(fleet, caller.sent, window_size=100, gaps=True)
    finally:
        await over(agent, fleet, caller)


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_the_log_api_answered_is_never_lost(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(2000 + seed)
    fleet = FakeFleet(config=sidecar_config(profile=reference()))
    await fleet.start()
    agent = AgentProcess(tmp_path, fleet.address, "--deployment", "d1", "--endpoint", "fraud")
    agent.start()
    await asyncio.to_thread(agent.wait_ready)
    answered: list[str] = []
    tried: set[str] = set()

    async def log_forever(worker: int) -> None:
        count = 0
        async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'log.sock'}", options=FAST) as channel:
            stub = pb_grpc.SidecarServiceStub(channel)
            while count < 150:
                ids = [f"w{worker}-{count}-{i}" for i in range(3)]
                tried.update(ids)
                batch = monitoring.PredictionBatch(prediction_ids=ids)
                data = b"\0\0\x80\x3f" * 3
                batch.columns.add(name="age", group=monitoring.COLUMN_GROUP_INPUT, datatype="FP32", data=data)
                request = pb.SidecarServiceLogPredictionsRequest(batch=batch, request_id=f"{worker}/{count}")
                try:
                    await stub.LogPredictions(request, wait_for_ready=True, timeout=20)
                except grpc.aio.AioRpcError as error:
                    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), error
                    continue  # the same request again: it may have been stored
                answered.extend(ids)
                count += 1

    async def kill_often() -> None:
        for _ in range(4):
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            agent.kill()
            agent.start()
            await asyncio.to_thread(agent.wait_ready)

    try:
        await asyncio.gather(*(log_forever(worker) for worker in range(4)), kill_often())
        await eventually(lambda: len(fleet.ids()) >= len(answered), 30, "rows")
        assert await agent.terminate() == 0
        assert sorted(fleet.ids()) == sorted(answered) and set(answered) <= tried
        assert fleet.problems == []
    finally:
        await over(agent, fleet)


async def test_a_full_disk_loses_no_call_and_stops_no_agent(tmp_path: Path) -> None:
    fleet = FakeFleet(config=sidecar_config(profile=reference()))
    await fleet.start()
    agent = AgentProcess(tmp_path, fleet.address)
    agent.start()
    caller = Caller(tmp_path)
    try:
        await asyncio.to_thread(agent.wait_ready)
        await eventually(lambda: fleet.acks, what="configuration")
        caller.serve(50)
        await eventually(lambda: len(fleet.ids()) == 50)
        assert agent.process is not None
        hard = resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE)[1]
        # Not a byte more fits any file: every append fails as on a full disk.
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        caller.serve(200)
        await asyncio.sleep(2.0)
        assert agent.process.poll() is None
        assert len(fleet.ids()) == 50
        books = caller.tap._counters.read()
        assert (books.served, books.captured, books.in_flight) == (250, 50, 200)
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        await eventually(lambda: len(fleet.ids()) == 250, 20, "rows after there was room again")
        caller.serve(50)
        await eventually(lambda: len(fleet.of("windows")) == 3)
        await eventually(lambda: sum(r.calls for r in fleet.of("outcomes")) == 300, what="outcomes")
        assert await agent.terminate() == 0
        check_books(fleet, caller.sent, window_size=100)
    finally:
        await over(agent, fleet, caller)


SERVER = """
import sys, time
from pathlib import Path
from tests.sidecar_fleet import Caller
caller = Caller(Path(sys.argv[1]))
caller.serve(400)
print("served", flush=True)
time.sleep(60)
"""


async def test_a_killed_server_leaves_closed_books_and_nothing_uncounted(tmp_path: Path) -> None:
    fleet = FakeFleet(config=sidecar_config(profile=reference()))
    await fleet.start()
    agent = AgentProcess(tmp_path, fleet.address)
    agent.start()
    try:
        await asyncio.to_thread(agent.wait_ready)
        await eventually(lambda: fleet.acks, what="configuration")
        assert agent.process is not None
        for life in range(2):
            # While the agent stands still the server cannot deliver: what it holds dies with it.
            agent.process.send_signal(signal.SIGSTOP if life else signal.SIGCONT)
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
            )
            assert server.stdout is not None
            await asyncio.to_thread(server.stdout.readline)
            await asyncio.sleep(0.3)
            server.kill()
            server.wait()
            server.stdout.close()
            agent.process.send_signal(signal.SIGCONT)
            served = 400 * (life + 1)
            await eventually(lambda served=served: counts(fleet).served == served, 10, "counts")
            await eventually(lambda: counts(fleet).in_flight == 0, 10, "closed books")
        await eventually(lambda: counts(fleet).captured == len(fleet.ids()), 10, "rows")
        books = counts(fleet)
        assert books.captured + sum(books.dropped.values()) == books.served == 800
        assert books.captured >= 400 and set(books.dropped) <= {"crash"}
        assert not fleet.states[-1].replicas[0].healthy
    finally:
        await over(agent, fleet)


def counts(fleet: FakeFleet) -> monitoring.CaptureCounts:
    """Return the newest capture counts that the control plane was told."""
    replicas = fleet.states[-1].replicas if fleet.states else []
    return replicas[0].capture if replicas else monitoring.CaptureCounts()
