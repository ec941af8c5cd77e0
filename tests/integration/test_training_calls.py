"""Training through real calls: pipelines, jobs in processes of their own, feature sets, the gate, what starts a job."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from pilotfish.messages import build
from pilotfish.v1 import training_pb2 as pb
from pilotfish.v1 import training_service_pb2 as svc
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.monitoring.model import EvidenceEvent, EvidenceKind
from pilotfish_control_plane.storage import monitoring as evidence_rows
from pilotfish_control_plane.storage import training as rows
from pilotfish_control_plane.storage.transaction import Tx

from .training_world import Workshop, definition, eventually, frame

pytestmark = pytest.mark.timeout(240)


@pytest_asyncio.fixture
async def shop(make_control_plane: Any, tmp_path: Path) -> AsyncIterator[Workshop]:
    """A control plane on SQLite that runs jobs."""
    data = tmp_path / "data"
    data.mkdir()
    frame().to_csv(data / "rows.csv", index=False)
    plane = await make_control_plane(data_roots=str(data))
    async with AsyncClient(plane.address, plane.token) as client:
        yield Workshop(plane, client, data)


@pytest_asyncio.fixture
async def office(make_control_plane: Any, engine_name: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """A control plane on each engine whose jobs wait for ever: it has no place to run one."""
    plane = await make_control_plane(engine=engine_name, training_jobs=0)
    async with AsyncClient(plane.address, plane.token) as client:
        yield Workshop(plane, client, tmp_path)


# Pipelines ------------------------------------------------------------------------------------------------------


@pytest.mark.ledger("D1")
async def test_a_pipeline_is_defined_read_listed_and_revised(office: Workshop) -> None:
    pipelines = office.client.pipelines
    made = await pipelines.create("weekly", definition(description="one", schedule="0 3 * * 1"))
    assert (made.name, made.revision, made.author) == ("projects/default/pipelines/weekly", 1, "admin")
    with pytest.raises(AlreadyExists):
        await pipelines.create("weekly", definition())
    changed = await pipelines.update("weekly", {"description": "two", "timeout_s": 60.0, "etag": made.etag}, FIELDS)
    assert (changed.revision, changed.description, changed.timeout_s) == (2, "two", 60.0)
    assert changed.schedule == "0 3 * * 1", "what the mask does not name stays"
    assert changed.data_sources == made.data_sources and changed.training_config == made.training_config
    with pytest.raises(Aborted):
        await pipelines.update("weekly", {"description": "three", "etag": made.etag}, ["description"])
    assert (await pipelines.get("weekly")).description == "two"
    assert (await pipelines.get("weekly", revision=1)).description == "one", "old revisions stay readable"
    await pipelines.create("other", definition(model="churn"))
    assert [p.name.rpartition("/")[2] for p in await pipelines.list()] == ["other", "weekly"]
    assert [p.model for p in await pipelines.list(filter='model = "churn"')] == ["churn"]
    for missing in (pipelines.get("none"), pipelines.get("weekly", revision=9), pipelines.trigger("none")):
        with pytest.raises(NotFound):
            await missing


FIELDS = ["description", "timeout_s"]


@pytest.mark.ledger("D1", "D3")
async def test_every_bad_field_is_named_at_once_and_nothing_is_stored(office: Workshop) -> None:
    bad = definition(
        model="No Such Id!",
        data_sources=[{"name": "rows", "type": "ftp"}],
        feature_config={},
        schedule="61 * * * *",
        timeout_s=-1.0,
        triggers=[
            {"type": "moon"},
            {"type": "data_drift"},
            {"type": "data_drift", "endpoint": "e", "cooldown_s": -5.0},
        ],
    )
    bad["training_config"]["model_config"]["type"] = "oracle"
    bad["evaluation_config"]["thresholds"][0]["metric"] = "beauty"
    with pytest.raises(InvalidArgument) as caught:
        await office.client.pipelines.create("bad", bad)
    found = {v.field: v.description for v in caught.value.violations}
    assert set(found) == {
        "pipeline.model",
        "pipeline.data_sources[0].type",
        "pipeline.feature_config.label",
        "pipeline.training_config.model_config.type",
        "pipeline.evaluation_config.thresholds[0].metric",
        "pipeline.schedule",
        "pipeline.timeout_s",
        "pipeline.triggers[0].type",
        "pipeline.triggers[1].endpoint",
        "pipeline.triggers[2].cooldown_s",
    }
    assert "ftp" in found["pipeline.data_sources[0].type"]
    with pytest.raises(NotFound):
        await office.client.pipelines.get("bad")
    with pytest.raises(InvalidArgument) as caught:
        await office.client.pipelines.create("Bad Id", definition())
    assert [v.field for v in caught.value.violations] == ["pipeline_id"]
    unknown = definition(feature_config={"label": "label", "feature_set_id": "nowhere"})
    with pytest.raises(NotFound, match="nowhere"):
        await office.client.pipelines.create("bad", unknown)
    await office.client.pipelines.create("checked", definition(), validate_only=True)
    assert await office.client.pipelines.list() == []


@pytest.mark.ledger("D1")
async def test_what_is_read_can_be_written_back_without_losing_anything(office: Workshop) -> None:
    full = definition(
        data_sources=[
            {
                "name": "a",
                "type": "database",
                "connection": "postgresql://me:secret@db.example/rows",
                "query": "SELECT * FROM t WHERE n > :n",
                "parameters": {"n": 3},
            },
            {"name": "b", "type": "api", "endpoint": "https://api.example/rows",
             "parameters": {"q": "x", "pagination": {"type": "page", "size": 10}}},
            {"name": "c", "type": "prediction_log", "serving_endpoint": "fraud", "since_days": 7.0},
        ],
        triggers=[{"type": "data_drift", "endpoint": "fraud", "cooldown_s": 60.0}],
    )  # fmt: skip
    full["feature_config"]["join_config"] = {"base": "a", "joins": [{"source": "b", "on": ["id"]}], "union": ["c"]}
    full["evaluation_config"] |= {"champion_metric": "f1_score", "champion_margin": 0.01}
    full["evaluation_config"]["thresholds"].append(
        {"metric": "f1_score", "comparison": ">", "bound": 0.5, "min_sample": 40}
    )
    made = await office.client.pipelines.create("full", full)
    assert "secret" not in str(made), "a password is never shown"
    assert made.data_sources[0].connection == "postgresql://me:***@db.example/rows"
    wanted = build(pb.Pipeline, full, "pipeline")
    assert made.evaluation_config.thresholds == wanted.evaluation_config.thresholds
    assert made.data_sources[1:] == wanted.data_sources[1:] and made.triggers == wanted.triggers
    again = (await office.stub.UpdatePipeline(svc.UpdatePipelineRequest(pipeline=made))).pipeline
    assert again.revision == 2
    for message in (made, again):
        for name in ("revision", "etag", "update_time"):
            message.ClearField(name)
    assert again == made
    stored = await office.plane.core.db.read(lambda tx: rows.pipeline(tx.conn, "default", "full"))
    assert stored.definition["data_sources"][0]["connection"].count("secret") == 1, "the mask was not written back"


# Jobs that wait -------------------------------------------------------------------------------------------------


@pytest.mark.ledger("D2")
async def test_the_same_request_id_starts_one_job(office: Workshop) -> None:
    await office.client.pipelines.create("weekly", definition())
    request = svc.TriggerPipelineRequest(pipeline="weekly", reason="try", request_id=uuid.uuid4().hex)
    answers = await asyncio.gather(*(office.stub.TriggerPipeline(request) for _ in range(4)))
    assert len({a.job.name for a in answers}) == 1
    others = await asyncio.gather(*(office.client.pipelines.trigger("weekly", reason=str(i)) for i in range(4)))
    assert len({j.name for j in others}) == 4, "each job has an id of its own"
    jobs = await office.client.pipelines.jobs("weekly")
    assert len(jobs) == 5 and {j.trigger_reason for j in jobs} == {"try", "0", "1", "2", "3"}
    assert all((j.state, j.trigger, j.author) == (pb.JOB_STATE_QUEUED, "manual", "admin") for j in jobs)
    assert [j.trigger_reason for j in jobs][-1] == "try", "newest first"
    assert await office.client.pipelines.jobs(filter='state = "running"') == []


@pytest.mark.ledger("D2")
async def test_a_waiting_job_is_cancelled_at_once_and_retried_under_its_id(office: Workshop) -> None:
    pipelines = office.client.pipelines
    await pipelines.create("weekly", definition())
    job = await pipelines.trigger("weekly")
    with pytest.raises(FailedPrecondition):
        await pipelines.retry(job.name)
    cancelled = await pipelines.cancel(job.name, reason="too early")
    assert cancelled.state == pb.JOB_STATE_CANCELLED and "too early" in cancelled.state_reason
    assert cancelled.HasField("end_time")
    assert (await pipelines.wait(job.name, timeout_s=10)).state == pb.JOB_STATE_CANCELLED
    with pytest.raises(FailedPrecondition):
        await pipelines.cancel(job.name)
    again = await pipelines.retry(job.name)
    assert (again.name, again.state, again.attempt) == (job.name, pb.JOB_STATE_QUEUED, 2)
    assert not again.HasField("end_time")
    for call in (pipelines.job("none"), pipelines.cancel("none"), pipelines.retry("none")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(InvalidArgument):
        await pipelines.trigger("weekly", delivery={"endpoint": "fraud", "stage": "production"})


# What starts a job by itself ------------------------------------------------------------------------------------


@pytest.mark.ledger("D9")
async def test_a_schedule_starts_one_job_for_each_slot_and_one_for_all_that_were_missed(
    make_control_plane: Any, engine_name: str
) -> None:
    clock = FakeClock()  # 2030-01-01 00:00
    plane = await make_control_plane(engine=engine_name, clock=clock, training_jobs=0, sweep_s=0.05)
    async with AsyncClient(plane.address, plane.token) as client:
        hourly = definition(schedule="0 * * * *", triggers=[{"type": "schedule"}])
        await client.pipelines.create("hourly", hourly)

        async def due(hour: str) -> None:
            async def moved() -> bool:
                found = await plane.core.db.read(lambda tx: rows.pipeline(tx.conn, "default", "hourly"))
                return str(found.due).startswith(hour)

            await eventually(moved)

        await due("2030-01-01 01:00")
        assert await client.pipelines.jobs() == []
        clock.advance(3600)
        await due("2030-01-01 02:00")
        (job,) = await client.pipelines.jobs()
        assert (job.trigger, job.trigger_reason) == ("schedule", "schedule 2030-01-01T01:00:00+00:00")
        await asyncio.sleep(0.2)
        assert len(await client.pipelines.jobs()) == 1, "one job for one slot"
        clock.advance(5 * 3600 + 60)
        await due("2030-01-01 07:00")
        assert len(await client.pipelines.jobs()) == 2, "five missed slots are made up for once"
        await client.pipelines.update("hourly", {"schedule": "", "triggers": []}, ["schedule", "triggers"])
        clock.advance(7200)
        await asyncio.sleep(0.2)
        assert len(await client.pipelines.jobs()) == 2


@pytest.mark.ledger("D9")
@pytest.mark.parametrize("kind", [EvidenceKind.DATA_DRIFT, EvidenceKind.PERFORMANCE_DEGRADATION])
async def test_evidence_starts_a_job_once_and_not_again_before_the_cooldown_is_over(
    make_control_plane: Any, engine_name: str, kind: EvidenceKind
) -> None:
    clock = FakeClock()
    plane = await make_control_plane(engine=engine_name, clock=clock, training_jobs=0, sweep_s=0.05)

    async def evidence(number: int, of: EvidenceKind = kind, endpoint: str = "fraud") -> None:
        def add(tx: Tx) -> None:
            event = EvidenceEvent(
                f"episode-{number}", of, "default", endpoint, "dep-1", "production", 0.4, 0.2, 500, {}, tx.now, tx.now
            )
            assert evidence_rows.add_evidence(tx.conn, event)
            tx.wake("lifecycle")

        await plane.core.db.write(add)

        async def looked_at() -> bool:
            return bool(await plane.core.db.read(lambda tx: rows.cursor(tx.conn, "pipeline-triggers")) == number)

        await eventually(looked_at)

    async with AsyncClient(plane.address, plane.token) as client:
        await evidence(1)  # before there is a pipeline: nobody's
        watching = definition(triggers=[{"type": kind.value, "endpoint": "fraud", "cooldown_s": 600.0}])
        await client.pipelines.create("watching", watching)
        await client.pipelines.create("deaf", definition())
        await evidence(2, of=EvidenceKind.ERROR_RATE_INCREASE)
        await evidence(3, endpoint="churn")
        assert await client.pipelines.jobs() == []
        await evidence(4)
        (job,) = await client.pipelines.jobs()
        assert (job.pipeline, job.trigger, job.trigger_reason) == ("watching", kind.value, "episode-4")
        await evidence(5)
        assert len(await client.pipelines.jobs()) == 1, "the first one still waits"
        await client.pipelines.cancel(job.name)
        clock.advance(timedelta(seconds=599).total_seconds())
        await evidence(6)
        assert len(await client.pipelines.jobs()) == 1, "the cooldown is not over"
        clock.advance(1.0)
        await evidence(7)
        assert [j.trigger_reason for j in await client.pipelines.jobs()] == ["episode-7", "episode-4"]
