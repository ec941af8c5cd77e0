"""Monitoring through real calls: rows, truths, windows, verdicts, alerts, report, export, and what is refused."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import InvalidArgument, NotFound
from pilotfish.stats import DriftConfig, WindowTracker, build_profile, verdict
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import deployment_service_pb2_grpc, fleet_service_pb2_grpc
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish_control_plane.registry.service import RegistryService

from .serving_world import World

SEED = 20261123
MONITORING = dep.DeploymentConfig(
    monitoring=pb.MonitoringConfig(drift_detection=pb.DriftDetection(window_size=200, min_sample=100, scales=[1]))
)


@pytest_asyncio.fixture
async def served(make_control_plane: Any, engine_name: str) -> AsyncIterator[tuple[World, AsyncClient, dep.Deployment]]:
    """A staging deployment with a profile, and a client."""
    plane = await make_control_plane(engine=engine_name)
    world = World(plane, deployment_service_pb2_grpc.DeploymentServiceStub(plane.channel))
    rng = np.random.default_rng(SEED)
    profile = build_profile(
        {"x": rng.normal(size=2000), "y": rng.normal(size=2000)}, {"label": rng.integers(0, 2, 2000)}
    )
    version = await world.version()
    registry = plane.core.services.get(RegistryService)
    await plane.core.db.write(
        lambda tx: registry.set_profile(tx, "default", version.model, version.number, profile.to_json(), "for the test")
    )
    async with world.node(), AsyncClient(plane.address, plane.token) as client:
        deployment = await world.serving(version, dep.STAGE_STAGING, config=MONITORING)
        yield world, client, deployment


def rows(n: int, shift: float = 0.0, seed: int = SEED) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=n) + shift, "y": rng.normal(size=n)}, rng.integers(0, 2, n)


@pytest.mark.ledger("E2", "E3", "G6")
async def test_rows_and_late_truths_are_joined_by_id(served: tuple[World, AsyncClient, dep.Deployment]) -> None:
    world, client, deployment = served
    inputs, labels = rows(50)
    ids = await client.monitoring.log_predictions("fraud/staging", inputs, labels)
    assert len(set(ids)) == 50
    truths = labels.copy()
    truths[:5] = 1 - truths[:5]
    assert await client.monitoring.log_truth(ids, truths, scope="fraud") == 50

    async def measured() -> Any:
        (found,) = await client.monitoring.metrics("fraud/staging")
        return found if found.labelled_count == 50 else None

    found = await world.eventually(measured)
    assert found.deployment == deployment.id
    assert found.prediction_count == 50 and found.error_count == 0
    assert found.quality["accuracy"] == pytest.approx(0.9)
    assert found.label_coverage == pytest.approx(1.0)


@pytest.mark.ledger("E2", "G1")
async def test_a_repeated_request_id_stores_no_row_twice(served: tuple[World, AsyncClient, dep.Deployment]) -> None:
    from pilotfish.frames import batch_from_rows
    from pilotfish.v1 import monitoring_service_pb2, monitoring_service_pb2_grpc

    world, client, _ = served
    inputs, labels = rows(20)
    stub: Any = monitoring_service_pb2_grpc.MonitoringServiceStub(world.plane.channel)
    batch = batch_from_rows(inputs, labels, None, None, None)
    request = monitoring_service_pb2.LogPredictionsRequest(
        deployment="fraud/staging", batch=batch, request_id=uuid.uuid4().hex
    )
    for _ in range(3):
        assert (await stub.LogPredictions(request)).stored == 20
    stored = [i async for part in client.monitoring.export("fraud") for i in part.prediction_ids]
    assert sorted(stored) == sorted(batch.prediction_ids)


@pytest.mark.ledger("E4", "E5")
async def test_straight_rows_are_judged_by_the_same_drift_code(
    served: tuple[World, AsyncClient, dep.Deployment],
) -> None:
    _, client, _ = served
    clean, labels = rows(400)
    await client.monitoring.log_predictions("fraud/staging", clean, labels)
    verdicts = await client.monitoring.drift("fraud/staging")
    assert [v.drifted for v in verdicts] == [False, False]
    assert await client.monitoring.alerts() == []
    shifted, labels = rows(400, shift=1.5, seed=SEED + 1)
    await client.monitoring.log_predictions("fraud/staging", shifted, labels)
    newest = await client.monitoring.drift("fraud/staging", drifted_only=True)
    assert len(newest) == 2
    assert [f.feature for f in newest[0].features if f.drifted] == ["x"]
    alerts = await client.monitoring.alerts()
    assert len(alerts) == 1, "two drifted windows in a row are one episode and one alert"
    assert "x" in alerts[0].summary and alerts[0].episode == newest[0].episode == newest[1].episode


@pytest.mark.ledger("E5")
async def test_an_alert_is_acknowledged_silenced_and_resolved(
    served: tuple[World, AsyncClient, dep.Deployment],
) -> None:
    _, client, _ = served
    shifted, labels = rows(200, shift=2.0)
    await client.monitoring.log_predictions("fraud/staging", shifted, labels)
    (alert,) = await client.monitoring.alerts(filter='state = "firing"')
    assert (await client.monitoring.acknowledge(alert.name, note="looking")).acknowledged_by == "admin"
    with pytest.raises(InvalidArgument, match="past"):
        await client.monitoring.silence(alert.name, datetime.now(UTC) - timedelta(hours=1))
    assert (await client.monitoring.silence(alert.name, datetime.now(UTC) + timedelta(hours=1))).HasField(
        "silenced_until"
    )
    for i in range(2):
        clean, labels = rows(200, seed=SEED + 10 + i)
        await client.monitoring.log_predictions("fraud/staging", clean, labels)
    assert await client.monitoring.alerts(filter='state = "firing"') == []
    with pytest.raises(NotFound):
        await client.monitoring.acknowledge("projects/default/alerts/none")


@pytest.mark.ledger("E6")
async def test_a_report_tells_totals_days_drift_and_what_to_do(
    served: tuple[World, AsyncClient, dep.Deployment],
) -> None:
    world, client, deployment = served
    quiet = await client.monitoring.report("fraud")
    assert quiet["recommendations"][0].startswith("No prediction was logged")
    shifted, labels = rows(200, shift=2.0)
    ids = await client.monitoring.log_predictions("fraud/staging", shifted, labels)
    await client.monitoring.log_truth(ids[:10], labels[:10])

    async def labelled() -> Any:
        found = await client.monitoring.report("fraud")
        return found if found["totals"]["labelled"] == 10 else None

    report = await world.eventually(labelled)
    assert report["totals"]["predictions"] == 200
    assert [d["predictions"] for d in report["predictions_per_day"]] == [200]
    assert report["drift_analysis"]["windows_drifted"] == 1
    assert report["drift_analysis"]["most_drifted_features"][0]["feature"] == "x"
    assert report["performance_analysis"][0]["deployment"] == deployment.id
    assert any("retrain" in r for r in report["recommendations"])
    assert any("Only 5%" in r for r in report["recommendations"])
    with pytest.raises(NotFound):
        await client.monitoring.report("nothing")


@pytest.mark.ledger("G1", "E4")
async def test_what_a_sidecar_publishes_twice_is_counted_once(
    served: tuple[World, AsyncClient, dep.Deployment],
) -> None:
    world, client, deployment = served
    stub: Any = fleet_service_pb2_grpc.FleetServiceStub(world.plane.channel_with(world.plane.node_token))
    registry = world.core.services.get(RegistryService)
    version = await world.core.db.read(lambda tx: registry.get_version(tx, "default", "fraud", 1))
    stored = await world.core.db.read(lambda tx: registry.profile(tx, version))
    assert stored is not None
    from pilotfish.stats import Profile

    profile, config = Profile.from_json(stored[1]), DriftConfig(window_size=200, scales=(1,))
    tracker = WindowTracker(profile, config)
    shifted, labels = rows(200, shift=2.0)
    (window,) = tracker.add(shifted, {"label": labels}, datetime.now(UTC))
    judged = verdict(profile, window.sums, config)
    report = fleet.WindowReport(
        window="r1/1/0", replica="r1", deployment=deployment.id, rows=window.rows, profile_id=profile.id,
        counts=[fleet.ScaledCounts(scale=1, counts=window.sums[1].to_bytes())],
        verdict=pb.DriftVerdict(
            method=judged.method, score=judged.score, threshold=judged.threshold, n=judged.n, drifted=judged.drifted,
            data_score=judged.data_score, scale=1,
            features=[
                pb.FeatureDrift(feature="x", group=pb.COLUMN_GROUP_INPUT, score=judged.score, drifted=True, n=200)
            ],
        ),
    )  # fmt: skip
    report.start_time.GetCurrentTime()
    report.end_time.GetCurrentTime()
    outcome = fleet.OutcomeReport(
        replica="r1", deployment=deployment.id, calls=200, errors={"INTERNAL": 4}, latency_bounds_us=[1000, 2000],
        latency_counts=[150, 50, 0], latency_sum_us=200_000,
    )  # fmt: skip
    outcome.start_time.GetCurrentTime()
    outcome.end_time.GetCurrentTime()
    batch = pb.PredictionBatch(
        deployment=deployment.id, endpoint="fraud", model="fraud", version=1, replica="r1",
        prediction_ids=[f"p{i}" for i in range(3)], times_us=[1] * 3, latencies_us=[5] * 3, input_hashes=[1, 2, 3],
        columns=[pb.Column(name="x", group=pb.COLUMN_GROUP_INPUT, datatype="FP64", data=np.zeros(3).tobytes())],
    )  # fmt: skip
    same = {"instance": "sidecar-r1", "incarnation": 7}
    messages = [
        fleet.PublishRequest(**same, stream="predictions", first_offset=0, end_offset=3, predictions=batch),
        fleet.PublishRequest(**same, stream="windows", first_offset=0, end_offset=1, window=report),
        fleet.PublishRequest(**same, stream="outcomes", first_offset=0, end_offset=1, outcomes=outcome),
    ]

    async def publish() -> dict[str, int]:
        async def requests() -> AsyncIterator[fleet.PublishRequest]:
            for message in messages:
                yield message

        marks: dict[str, int] = {}
        async for answer in stub.Publish(requests()):
            marks[answer.stream] = answer.watermark
        return marks

    assert await publish() == await publish() == {"predictions": 3, "windows": 1, "outcomes": 1}
    (metrics,) = await client.monitoring.metrics("fraud/staging")
    assert (metrics.prediction_count, metrics.error_count) == (200, 4)
    assert metrics.latency_p50_ms == pytest.approx(1000 * 100 / 150 / 1000, rel=1e-6)
    assert len(await client.monitoring.drift("fraud/staging")) == 1
    assert len(await client.monitoring.alerts()) == 1


@pytest.mark.ledger("E2")
async def test_bad_rows_are_refused_with_every_problem(served: tuple[World, AsyncClient, dep.Deployment]) -> None:
    from pilotfish.v1 import monitoring_service_pb2, monitoring_service_pb2_grpc
    from pilotfish.wire_errors import from_rpc_error

    world, client, _ = served
    stub: Any = monitoring_service_pb2_grpc.MonitoringServiceStub(world.plane.channel)
    batch = pb.PredictionBatch(
        prediction_ids=["a", "b"],
        times_us=[1],
        columns=[
            pb.Column(name="x", group=pb.COLUMN_GROUP_INPUT, datatype="FP64", data=b"123"),
            pb.Column(name="y", datatype="FP64"),
            pb.Column(name="z", group=pb.COLUMN_GROUP_OUTPUT, datatype="COMPLEX"),
        ],
    )
    with pytest.raises(Exception) as caught:
        await stub.LogPredictions(monitoring_service_pb2.LogPredictionsRequest(deployment="fraud/staging", batch=batch))
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgument)
    fields = {v.field for v in error.violations}
    assert fields == {"batch.times_us", "batch.columns[0].data", "batch.columns[1].group", "batch.columns[2].datatype"}
    with pytest.raises(InvalidArgument, match="finite"):
        await client.monitoring.log_truth(["a"], [float("nan")])
    with pytest.raises(NotFound):
        await client.monitoring.log_predictions("none/staging", {"x": [1.0]}, [1])
