"""The real sidecar on the real control plane: a tapped server's rows become metrics, verdicts and alerts, once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.v1 import monitoring_service_pb2 as calls
from pilotfish.v1 import monitoring_service_pb2_grpc as calls_grpc
from pilotfish.v1 import sidecar_service_pb2 as local
from pilotfish.v1 import sidecar_service_pb2_grpc as local_grpc
from pilotfish_sidecar.agent import Agent, AgentSettings
from pilotfish_sidecar.rows import Who
from pilotfish_sidecar.uplink import UplinkSettings
from tests.sidecar_fleet import METHOD, Caller, call_bytes

from .serving_world import World, world


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


class Loop:
    """A deployment, the sidecar of its replica, and the tap of its server."""

    def __init__(self, w: World, directory: Path) -> None:
        self.w, self.directory = w, directory
        self.monitoring = calls_grpc.MonitoringServiceStub(w.plane.channel)
        self.deployment = pb.Deployment()
        self.rng = np.random.default_rng(11)
        self.served = 0

    async def deploy(self, **drift: Any) -> None:
        """Bring a version into production and start its replica's sidecar and server."""
        config = pb.DeploymentConfig()
        config.monitoring.drift_detection.MergeFrom(monitoring.DriftDetection(**drift))
        version = await self.w.version()
        self.deployment = await self.w.serving(version, pb.STAGE_PRODUCTION, config=config)
        self.replica = self.deployment.replicas[0].id
        token = self.directory / "token"
        token.write_text(self.w.plane.node_token)
        self.agent = Agent(
            AgentSettings(
                self.directory, f"sidecar-{self.replica}", UplinkSettings(self.w.plane.address, token),
                self.directory / "tap.sock", self.directory / "tap.counters", self.directory / "spool",
                self.directory / "log.sock", Who("", self.replica),
            )
        )  # fmt: skip
        await self.agent.start()
        self.caller = Caller(self.directory, replica=self.replica)

    def serve(self, count: int, *, shift: float = 0.0, code: int = 0) -> None:
        """Serve calls of one row."""
        for row in self.rng.normal(size=(count, 2)) + shift:
            ident = f"p{self.served}"
            request, response = call_bytes(ident, row, name="x")
            self.caller.tap.record(
                METHOD, request, b"" if code else response, code, time.time_ns() // 1000, 2000, ident
            )
            self.served += 1

    async def metrics(self) -> monitoring.DeploymentMetrics:
        """Return the deployment's live numbers."""
        answer = await self.monitoring.GetMetrics(calls.GetMetricsRequest(name=self.deployment.name))
        found: monitoring.DeploymentMetrics = answer.metrics[0]
        return found

    async def verdicts(self) -> list[monitoring.DriftVerdict]:
        """Return the verdicts, newest first."""
        request = calls.ListDriftVerdictsRequest(name=self.deployment.name, page_size=1000)
        return list((await self.monitoring.ListDriftVerdicts(request)).verdicts)

    async def all_counted(self) -> monitoring.DeploymentMetrics:
        """Wait until every call served is counted, and return the numbers."""

        async def counted() -> bool:
            found = await self.metrics()
            return found.prediction_count >= self.served and found.capture.captured >= self.served

        await self.w.eventually(counted, 20)
        return await self.metrics()

    async def close(self) -> None:
        """End the server and the sidecar."""
        await asyncio.to_thread(self.caller.tap.close)
        await self.agent.stop()


@pytest.mark.ledger("E1", "E2", "E3", "E4", "E5", "G1")
async def test_rows_of_a_tapped_server_become_metrics_verdicts_and_one_alert(w: World, tmp_path: Path) -> None:
    async with w.node():
        loop = Loop(w, tmp_path)
        await loop.deploy(window_size=200, learn_rows=1000)
        try:
            loop.serve(1600)
            loop.serve(40, code=13)
            numbers = await loop.all_counted()
            assert (numbers.prediction_count, numbers.error_count) == (1640, 40)
            assert numbers.capture.served == numbers.capture.captured == 1640
            assert numbers.latency_p50_ms == pytest.approx(2.0, rel=0.3)
            await w.eventually(lambda: _length(loop.verdicts(), 3), 10)
            assert not any(verdict.drifted for verdict in await loop.verdicts())
            loop.serve(600, shift=1.5)
            await w.eventually(lambda: _length(loop.verdicts(), 6), 10)
            verdicts = await loop.verdicts()
            assert [verdict.drifted for verdict in verdicts] == [True] * 3 + [False] * 3
            assert {f.feature for f in verdicts[0].features if f.drifted} >= {"x_0", "x_1"}
            alerts = (await loop.monitoring.ListAlerts(calls.ListAlertsRequest())).alerts
            drift = [alert for alert in alerts if alert.kind == monitoring.ALERT_KIND_DATA_DRIFT]
            assert len(drift) == 1 and drift[0].deployment == loop.deployment.id
        finally:
            await loop.close()


async def _length(listing: Any, least: int) -> bool:
    return len(await listing) >= least


@pytest.mark.ledger("E2", "G1", "G2")
async def test_a_restart_of_the_control_plane_loses_and_doubles_nothing(
    make_control_plane: Any, w: World, tmp_path: Path, engine_name: str
) -> None:
    async with w.node():
        loop = Loop(w, tmp_path)
        await loop.deploy(window_size=100, learn_rows=200)
        settings = w.plane.app.settings
        loop.serve(450)
        await loop.all_counted()
    await w.plane.app.stop()
    loop.serve(333)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'log.sock'}") as channel:
        truths = monitoring.GroundTruthBatch(prediction_ids=[f"p{i}" for i in range(100)], values=[0.0] * 100)
        await local_grpc.SidecarServiceStub(channel).LogGroundTruth(
            local.SidecarServiceLogGroundTruthRequest(batch=truths)
        )
    await w.eventually(lambda: loop.caller.tap._counters.read().captured == 783, 10)
    again = await make_control_plane(
        engine=engine_name,
        home=w.plane.home,
        port=int(w.plane.address.rpartition(":")[2]),
        gateway_port=0,
        database=settings.database_url,
    )
    loop.monitoring = calls_grpc.MonitoringServiceStub(again.channel)
    try:
        numbers = await loop.all_counted()
        assert (numbers.prediction_count, numbers.capture.captured) == (783, 783)
        await w.eventually(lambda: _length(loop.verdicts(), 5), 10)
        assert sorted(verdict.n for verdict in await loop.verdicts())[0] >= 100
        await w.eventually(lambda: loop.agent.spool.unacknowledged()[0] == 0)
        stored = await _stored_ids(loop)
        assert sorted(stored) == sorted(f"p{i}" for i in range(783))
        assert (await loop.metrics()).labelled_count == 100
    finally:
        await loop.close()


async def _stored_ids(loop: Loop) -> list[str]:
    """Return the prediction id of every row in the prediction log, as an export gives them."""
    request = calls.ExportPredictionsRequest(name=loop.deployment.name)
    return [i async for part in loop.monitoring.ExportPredictions(request) for i in part.batch.prediction_ids]
