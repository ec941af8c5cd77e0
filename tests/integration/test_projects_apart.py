"""A role in one project reaches nothing of another, also not through names that mix the two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import InvalidArgument, NotFound
from pilotfish.v1 import deployment_pb2 as dep
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.v1 import monitoring_service_pb2 as monitoring_calls
from pilotfish.v1 import monitoring_service_pb2_grpc, training_service_pb2_grpc
from pilotfish.v1 import training_service_pb2 as training_calls
from pilotfish_control_plane.access.model import Role
from pilotfish_control_plane.storage import access
from pilotfish_control_plane.storage.transaction import Tx

from .serving_world import World, refusal, world
from .test_operations_calls import definition

pytestmark = [pytest.mark.timeout(240), pytest.mark.ledger("G3")]
MINE = "projects/mine/pipelines/weekly"


@pytest_asyncio.fixture
async def w(make_control_plane: Any) -> AsyncIterator[World]:
    async with world(make_control_plane, "sqlite") as found:
        yield found


async def admin_of(plane: Any, project: str) -> grpc.aio.Channel:
    def add(tx: Tx) -> None:
        access.bind(tx, "mallory", project, Role.ADMIN)
        access.add_token(tx, "mallory-1", "mallory", access.digest("token-of-mallory"))

    await plane.core.db.write(add)
    channel: grpc.aio.Channel = plane.channel_with("token-of-mallory")
    return channel


async def test_a_job_is_not_found_under_the_name_of_another_project(make_control_plane: Any) -> None:
    plane = await make_control_plane(engine="sqlite", training_jobs=0)
    async with AsyncClient(plane.address, plane.token) as client, await admin_of(plane, "mine") as channel:
        await client.pipelines.create("weekly", definition())
        job = await client.pipelines.trigger("weekly")
        disguised = f"{MINE}/jobs/{job.name.rpartition('/')[2]}"
        stub = training_service_pb2_grpc.TrainingServiceStub(channel)
        for call in (
            stub.GetJob(training_calls.GetJobRequest(name=disguised)),
            stub.CancelJob(training_calls.CancelJobRequest(name=disguised)),
            stub.RetryJob(training_calls.RetryJobRequest(name=disguised)),
            stub.WatchJob(training_calls.WatchJobRequest(name=disguised)).read(),
        ):
            assert isinstance(await refusal(call), NotFound)
        other_pipeline = job.name.replace("pipelines/weekly", "pipelines/daily")
        with pytest.raises(NotFound):
            await client.pipelines.job(other_pipeline)
        assert await client.pipelines.job(job.name) == await client.pipelines.job(job.name.rpartition("/")[2])
        assert (await client.pipelines.job(job.name)).state == job.state, "nothing was cancelled"


async def test_truths_meet_only_predictions_within_their_scope(w: World) -> None:
    version = await w.version("fraud", framework="external")
    here = (await w.deploy(version, dep.STAGE_STAGING)).deployment
    there = (await w.deploy(version, dep.STAGE_STAGING, endpoint="other")).deployment
    async with AsyncClient(w.plane.address, w.plane.token) as client:
        for deployment in (here, there):
            await client.monitoring.log_predictions(
                deployment.name, {"x": [1.0, 2.0]}, {"label": [0, 1]}, prediction_ids=["a", "b"]
            )
        assert await client.monitoring.log_truth(["a", "b"], [1, 1], scope="other") == 2
        assert [p async for p in client.monitoring.export("fraud", labelled_only=True)] == []
        (part,) = [p async for p in client.monitoring.export("other", labelled_only=True)]
        assert list(part.prediction_ids) == ["a", "b"]
    ident = there.name.rpartition("/")[2]
    stub = monitoring_service_pb2_grpc.MonitoringServiceStub(w.plane.channel)
    batch = monitoring.GroundTruthBatch(deployment=ident, prediction_ids=["a"], values=[1.0])
    error = await refusal(stub.LogGroundTruth(monitoring_calls.LogGroundTruthRequest(scope="fraud", batch=batch)))
    assert isinstance(error, InvalidArgument) and error.violations[0].field == "batch.deployment"
