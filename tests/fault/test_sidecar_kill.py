"""The agent is killed -9 at random points: no row, window, call or acknowledgement is lost or counted twice."""

from __future__ import annotations

import asyncio
import os
import random
import resource
from pathlib import Path

import grpc
import pytest
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.v1 import sidecar_service_pb2 as pb
from pilotfish.v1 import sidecar_service_pb2_grpc as pb_grpc

from tests.sidecar_fleet import AgentProcess, Caller, FakeFleet, eventually, reference, sidecar_config

SEEDS = [int(seed) for seed in os.environ.get("PILOTFISH_TEST_SEEDS", "1,2").split(",")]


def check_books(fleet: FakeFleet, sent: list[str], *, window_size: int) -> None:
    """Fail unless everything that was sent is there exactly once."""
    assert fleet.problems == []
    assert fleet.gaps == []
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
        agent.kill()
        caller.tap.close()
        await fleet.stop()
