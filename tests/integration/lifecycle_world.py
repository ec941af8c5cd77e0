"""What tests of automation share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pilotfish import AsyncClient
from pilotfish.stats import build_profile
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import fleet_service_pb2_grpc, lifecycle_service_pb2_grpc
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish.v1 import monitoring_pb2 as mon
from pilotfish_control_plane.registry.service import RegistryService

from .serving_world import FakeNode, World

SEED = 20261124
WINDOW = 200
CONFIG = dep.DeploymentConfig(
    monitoring=mon.MonitoringConfig(drift_detection=mon.DriftDetection(window_size=WINDOW, min_sample=100, scales=[1]))
)
ENDED = {
    pb.FIRING_STATE_DONE,
    pb.FIRING_STATE_PARTIAL,
    pb.FIRING_STATE_FAILED,
    pb.FIRING_STATE_LAPSED,
    pb.FIRING_STATE_SUPPRESSED,
}
DONE, SUPPRESSED = pb.FIRING_STATE_DONE, pb.FIRING_STATE_SUPPRESSED
ALERT = {"type": "send_alert", "parameters": {"severity": "info", "message": "look"}}
DRIFT = {"type": "data_drift"}


@dataclass
class Served:
    """A production deployment with a profile, and a caller."""

    world: World
    client: AsyncClient
    production: dep.Deployment
    node: FakeNode
    seeds: Any = field(default_factory=lambda: iter(range(SEED, SEED + 10_000)))
    offsets: int = 0

    # What happens -----------------------------------------------------------------------------------------

    async def window(self, shift: float, deployment: str = "fraud/production") -> list[str]:
        """Log one window of rows."""
        rng = np.random.default_rng(next(self.seeds))
        inputs = {"x": rng.normal(size=WINDOW) + shift, "y": rng.normal(size=WINDOW)}
        return await self.client.monitoring.log_predictions(deployment, inputs, rng.integers(0, 2, WINDOW))

    async def drift(self) -> None:
        """Begin an episode of drift."""
        await self.window(2.0)

    async def calm(self) -> None:
        """End it."""
        await self.window(0.0)
        await self.window(0.0)

    async def outcome(self, deployment: str, calls: int, errors: int) -> None:
        """Report calls and errors as a sidecar does."""
        stub: Any = fleet_service_pb2_grpc.FleetServiceStub(self.world.plane.channel_with(self.world.plane.node_token))
        report = fleet.OutcomeReport(
            replica="r1", deployment=deployment, calls=calls, errors={"INTERNAL": errors} if errors else {},
            latency_bounds_us=[1000, 2000], latency_counts=[calls, 0, 0], latency_sum_us=500 * calls,
        )  # fmt: skip
        report.start_time.FromDatetime(self.world.core.clock.now())
        report.end_time.FromDatetime(self.world.core.clock.now())
        first, self.offsets = self.offsets, self.offsets + 1
        message = fleet.PublishRequest(
            instance="sidecar-r1", incarnation=1, stream="outcomes", first_offset=first, end_offset=first + 1,
            outcomes=report,
        )  # fmt: skip

        async def requests() -> AsyncIterator[fleet.PublishRequest]:
            yield message

        async for answer in stub.Publish(requests()):
            assert answer.watermark == first + 1

    # What came of it --------------------------------------------------------------------------------------

    async def firings(self, rule: str, count: int = 1) -> list[pb.Firing]:
        """Wait until so many firings of a rule have ended; return them, newest first."""

        async def look() -> list[pb.Firing] | None:
            found = await self.client.lifecycle.firings(rule)
            return found if len(found) == count and all(f.state in ENDED for f in found) else None

        found: list[pb.Firing] = await self.world.eventually(look)
        return found

    async def firing(self, rule: str) -> pb.Firing:
        """Wait until a rule's only firing has ended; return it."""
        (found,) = await self.firings(rule)
        return found

    async def rule(self, rule: str, **fields: Any) -> pb.Rule:
        """Create a rule that alerts on drift, unless told otherwise."""
        return await self.client.lifecycle.create_rule(
            rule, {"triggers": [DRIFT], "actions": [ALERT], "cooldown_s": 0, **fields}
        )


async def profiled(world: World, model: str = "fraud") -> Any:
    """Register a version with a profile of x and y."""
    rng = np.random.default_rng(SEED)
    profile = build_profile(
        {"x": rng.normal(size=2000), "y": rng.normal(size=2000)}, {"label": rng.integers(0, 2, 2000)}
    )
    version = await world.version(model)
    registry = world.core.services.get(RegistryService)
    await world.core.db.write(
        lambda tx: registry.set_profile(tx, "default", version.model, version.number, profile.to_json(), "for the test")
    )
    return version


def stub_of(world: World) -> Any:
    return lifecycle_service_pb2_grpc.LifecycleServiceStub(world.plane.channel)


def seconds_between(earlier: Any, later: Any) -> float:
    return float((later.ToDatetime() - earlier.ToDatetime()).total_seconds())
