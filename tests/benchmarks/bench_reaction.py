"""From a drift window's close to moved traffic: window report → verdict → rule → action → routes at the node.

Real gRPC on loopback: a sidecar's Publish stream, the control plane with its rule, and a node on the real wire that
notes when the new weights arrive. There is no peer: others poll, and their interval would be the figure.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pilotfish import AsyncClient
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import deployment_service_pb2_grpc, fleet_service_pb2_grpc
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish_control_plane.app import ControlPlane
from pilotfish_control_plane.settings import Settings
from tests.conftest import RunningControlPlane, authenticated_channel
from tests.integration.serving_world import World

EPISODES = int(os.environ.get("BENCH_EPISODES", "200"))


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory(prefix="pilotfish-bench-") as directory:
        seconds = asyncio.run(_measure(Path(directory) / "home"))
    for name, q in (("reaction.p50_s", 0.5), ("reaction.p99_s", 0.99)):
        value = round(float(np.quantile(seconds, q)), 4)
        yield {
            "figure": name,
            "value": value,
            "unit": "s",
            "peer": None,
            "peer_value": None,
            "ratio": None,
            "n": len(seconds),
        }


async def _measure(home: Path) -> list[float]:
    home.mkdir(parents=True)
    app = ControlPlane(Settings(home=home, port=0, http_port=0, drain_s=1.0))
    await app.start()
    channel = authenticated_channel(f"127.0.0.1:{app.grpc_port}", app.paths.token.read_text().strip())
    plane = RunningControlPlane(app, channel)
    try:
        world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
        async with world.node() as node, AsyncClient(plane.address, plane.token) as client:
            return await _episodes(world, node, client)
    finally:
        await channel.close()
        await app.stop()


async def _episodes(world: World, node: Any, client: AsyncClient) -> list[float]:
    first, second = await world.version(), await world.version()
    await world.serving(first, dep.STAGE_PRODUCTION)
    plan = dep.RolloutPlan(strategy=dep.ROLLOUT_STRATEGY_ALL_AT_ONCE)
    deployed = await world.deploy(second, dep.STAGE_CANARY, plan=plan)
    canary = await world.until_state(deployed.deployment.name, dep.DEPLOYMENT_STATE_READY)
    if deployed.rollout:
        await client.deployments.control_rollout(deployed.rollout, "promote_full", reason="the benchmark moves weights")
    await client.lifecycle.create_rule(
        "away",
        {
            "triggers": [{"type": "data_drift", "endpoint": "fraud", "stages": ["canary"]}],
            "actions": [{"type": "update_traffic_allocation", "parameters": {"weights": {"production": 10_000}}}],
            "cooldown_s": 0,
        },
    )
    requests: asyncio.Queue[fleet.PublishRequest] = asyncio.Queue()

    async def feed() -> AsyncIterator[fleet.PublishRequest]:
        while True:
            yield await requests.get()

    stub: Any = fleet_service_pb2_grpc.FleetServiceStub(world.plane.channel_with(world.plane.node_token))
    call = stub.Publish(feed())
    seconds, offset = [], 0
    try:
        for _ in range(EPISODES):
            await client.endpoints.set_traffic("fraud", {"production": 5000, "canary": 5000})
            await world.eventually(lambda: node.weights("fraud").get(canary.id) == 5000, 30.0)
            closed = time.time()
            await requests.put(_window(canary.id, offset, drifted=True))
            await world.eventually(lambda: not node.weights("fraud").get(canary.id), 30.0)
            seconds.append(time.time() - closed)
            for clean in (1, 2):
                await requests.put(_window(canary.id, offset + clean, drifted=False))
            offset += 3
            while (await call.read()).watermark < offset:
                continue
    finally:
        call.cancel()
    return seconds


def _window(deployment: str, offset: int, *, drifted: bool) -> fleet.PublishRequest:
    score = 9.0 if drifted else 0.5
    feature = pb.FeatureDrift(
        feature="x", group=pb.COLUMN_GROUP_INPUT, score=score, threshold=4.0, n=200, drifted=drifted
    )
    report = fleet.WindowReport(
        window=f"r/1/{offset}", replica="r", deployment=deployment, index=offset, rows=200, profile_id="p",
        verdict=pb.DriftVerdict(
            method="calibrated", score=score, data_score=score, threshold=4.0, n=200, drifted=drifted, scale=1,
            features=[feature],
        ),
    )  # fmt: skip
    report.start_time.GetCurrentTime()
    report.end_time.GetCurrentTime()
    return fleet.PublishRequest(
        instance="sidecar-r", incarnation=1, stream="windows", first_offset=offset, end_offset=offset + 1, window=report
    )
