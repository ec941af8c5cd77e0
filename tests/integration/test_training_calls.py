"""Training through real calls: pipelines, jobs in processes of their own, feature sets, the gate, what starts a job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PilotfishError,
)
from pilotfish.messages import build
from pilotfish.v1 import common_pb2, experiment_pb2, training_service_pb2_grpc
from pilotfish.v1 import registry_pb2 as registry
from pilotfish.v1 import training_pb2 as pb
from pilotfish.v1 import training_service_pb2 as svc
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.monitoring.model import EvidenceEvent, EvidenceKind
from pilotfish_control_plane.storage import monitoring as evidence_rows
from pilotfish_control_plane.storage import training as rows
from pilotfish_control_plane.storage.transaction import Tx

pytestmark = pytest.mark.timeout(240)
SEED = 20261123
LIMIT_S = 90.0
# A search that goes on until its time is over: a job that is still running when a test looks at it.
SEARCH = {"method": "random", "space": {"C": {"low": 0.01, "high": 10.0}}, "trials": 10_000, "metric": "accuracy"}


def frame(n: int = 150, noise: float = 0.3) -> pd.DataFrame:
    rng = np.random.default_rng(SEED)
    x, y = rng.normal(size=n), rng.normal(size=n)
    label = (x + y + noise * rng.normal(size=n) > 0).astype(int)
    return pd.DataFrame({"id": np.arange(n), "x": x, "y": y, "label": label})


# Any: plain values in the contract's names.
def definition(**changes: Any) -> dict[str, Any]:
    """Return a small pipeline over rows.csv, with changes."""
    found: dict[str, Any] = {
        "model": "fraud",
        "data_sources": [{"name": "rows", "type": "file", "path": "rows.csv"}],
        "feature_config": {"label": "label", "id_column": "id"},
        "training_config": {
            "model_config": {"framework": "sklearn", "type": "logistic_regression", "task": "classification"},
            "split_config": {"method": "stratified", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 3},
        },
        "evaluation_config": {"thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.7}]},
    }
    return found | changes


def searching(seconds: float) -> dict[str, Any]:
    """Return a pipeline whose jobs train for about so many seconds."""
    found = definition()
    found["training_config"]["search"] = SEARCH | {"max_seconds": seconds}
    return found


@dataclass
class Workshop:
    """A control plane with a directory of training data, and a client."""

    plane: Any
    client: AsyncClient
    data: Path

    @property
    def stub(self) -> Any:
        return training_service_pb2_grpc.TrainingServiceStub(self.plane.channel)

    def directory(self, job: pb.Job, attempt: int = 1) -> Path:
        return Path(self.plane.home / "jobs" / job.name.rpartition("/")[2] / str(attempt))

    async def run(self, pipeline: str, **options: Any) -> pb.Job:
        return await self.client.pipelines.trigger(pipeline, wait=True, timeout_s=LIMIT_S, **options)

    async def reached(self, job: pb.Job, stage: str, attempt: int = 1) -> None:
        """Wait until a job's own progress shows a stage."""
        async with asyncio.timeout(LIMIT_S):
            async for seen in self.client.pipelines.watch(job.name):
                if seen.job.attempt == attempt and seen.progress.stage == stage:
                    return
                assert seen.job.state in (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING), seen.job.state_reason


async def trainings(client: AsyncClient) -> list[experiment_pb2.Run]:
    """Return the recorded runs of jobs; a version that is registered is recorded as well."""
    return [r for r in await client.experiments.runs() if r.kind == experiment_pb2.RUN_KIND_TRAINING]


async def eventually(check: Callable[[], Awaitable[Any]], limit_s: float = 20.0) -> Any:
    async with asyncio.timeout(limit_s):
        while not (found := await check()):
            await asyncio.sleep(0.02)
    return found


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


# Jobs that run --------------------------------------------------------------------------------------------------


@pytest.mark.ledger("D2", "D3", "D8")
async def test_a_job_joins_its_sources_and_registers_a_version_with_its_lineage(shop: Workshop) -> None:
    rows_ = frame()
    connection = sqlite3.connect(shop.data / "rows.db")
    rows_[["id", "x", "y"]].to_sql("inputs", connection, index=False)
    connection.close()
    rows_.loc[rows_.id >= 20, ["id", "label"]].to_csv(shop.data / "labels.csv", index=False)
    sources = [
        {"name": "inputs", "type": "database", "connection": f"sqlite:///{shop.data}/rows.db",
         "query": "SELECT * FROM inputs WHERE id >= :first", "parameters": {"first": 10}},
        {"name": "labels", "type": "file", "path": "labels.csv"},
    ]  # fmt: skip
    config = {
        "label": "label",
        "id_column": "id",
        "join_config": {"base": "inputs", "joins": [{"source": "labels", "on": ["id"], "how": "inner"}]},
    }
    await shop.client.pipelines.create("joined", definition(data_sources=sources, feature_config=config))
    job = await shop.client.pipelines.trigger("joined", reason="first try")
    seen = [s async for s in shop.client.pipelines.watch(job.name)]
    lines = [s.progress for s in seen if s.HasField("progress")]
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    assert next(s for s in seen if s.HasField("progress")).job.state == pb.JOB_STATE_RUNNING, "progress came live"
    stages = list(dict.fromkeys(line.stage for line in lines))
    assert {"load", "quality", "split", "features", "train", "evaluate", "gate"} <= set(stages)
    assert [line.progress for line in lines] == sorted(line.progress for line in lines) and lines[-1].progress == 1.0
    done = seen[-1].job
    assert done.state == pb.JOB_STATE_SUCCEEDED, done.state_reason
    later = [s.progress.sequence async for s in shop.client.pipelines.watch(job.name, after_sequence=len(lines) - 2)]
    assert [n for n in later if n] == [len(lines) - 1, len(lines)]

    assert dict(done.result["rows"])["total"] == 130, "rows 20..149 are in both sources"
    assert 0.7 <= done.metrics["accuracy"] <= 1.0
    assert done.gate.verdict == common_pb2.VERDICT_PASS and "accuracy" in done.gate.verdicts[0].explanation
    version = await shop.client.models.version("fraud")
    assert (version.number, version.status) == (1, registry.VERSION_STATUS_STAGING)
    assert done.version == 1 and version.metrics["accuracy"] == done.metrics["accuracy"]
    lineage = version.lineage
    assert lineage.job == job.name and lineage.trigger_reason == "first try"
    assert lineage.code == "projects/default/pipelines/joined@1"
    assert len(lineage.data_hash) == 64 and lineage.data_hash == done.result["data_hash"]
    (run,) = await trainings(shop.client)
    assert run.state == experiment_pb2.RUN_STATE_FINISHED
    assert (run.subject, run.experiment) == (job.name, "fraud")
    assert run.metrics["accuracy"] == done.metrics["accuracy"]


@pytest.mark.ledger("D5")
async def test_a_feature_set_is_revised_fitted_saved_with_the_version_and_measured(shop: Workshop) -> None:
    features = shop.client.features
    with pytest.raises(InvalidArgument) as caught:
        await features.put(
            "plain",
            [{"type": "scaling", "method": "magic"}, {"type": "feature_selection", "method": "k_best"}],
        )
    assert {v.field for v in caught.value.violations} == {
        "feature_set.transformations[0].method",
        "feature_set.transformations[1].parameters.k",
    }
    steps = [
        {"type": "scaling", "method": "minmax", "columns": ["x", "y"]},
        {"type": "feature_selection", "method": "k_best", "parameters": {"k": 1}},
    ]
    made = await features.put("plain", steps, description="both scaled")
    assert made.revision == 1 and (await features.put("plain", steps, description="both scaled")).revision == 1
    second = await features.put("plain", steps[:1])
    assert (second.revision, len(second.transformations)) == (2, 1)
    first = await features.get("plain", revision=1)
    assert first.transformations[1].parameters["k"] == 1
    assert [(f.name, f.revision) for f in await features.list()] == [("projects/default/featureSets/plain", 2)]
    assert await features.statistics("plain") == []
    with pytest.raises(NotFound):
        await features.statistics("none")

    config = {"label": "label", "id_column": "id", "feature_set_id": "plain"}
    await shop.client.pipelines.create("scaled", definition(feature_config=config))
    started = await shop.client.pipelines.trigger("scaled")
    await shop.reached(started, "load")
    await features.put("plain", steps, description="a later thought")
    job = await shop.client.pipelines.wait(started.name, timeout_s=LIMIT_S)
    assert job.state == pb.JOB_STATE_SUCCEEDED, job.state_reason
    (found,) = await features.statistics("plain")
    assert (found.job, found.revision) == (job.name, 2), "the revision that the job used, not the newest"
    assert {"x", "y"} <= set(found.statistics)
    directory = await shop.client.models.download("fraud@1")
    document = json.loads((directory / "feature_set.json").read_text())
    assert document["feature_set_id"] == "plain"
    assert (document["definition"]["name"], document["definition"]["version"]) == ("plain", 2)
    assert [t["method"] for t in document["definition"]["transformations"]] == ["minmax"]
    assert document["columns"]["x"]["scaling"] is not None


@pytest.mark.ledger("D3")
async def test_a_file_outside_the_allowed_directories_is_refused(shop: Workshop, tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "private.csv", index=False)
    source = {"name": "rows", "type": "file", "path": str(tmp_path / "private.csv")}
    await shop.client.pipelines.create("thief", definition(data_sources=[source]))
    job = await shop.run("thief")
    assert job.state == pb.JOB_STATE_FAILED and "allowed" in job.state_reason
    assert job.version == 0
    with pytest.raises(NotFound):
        await shop.client.models.version("fraud")


@pytest.mark.ledger("D4")
async def test_bad_data_fails_the_job_with_every_issue_and_a_retry_with_better_data_succeeds(shop: Workshop) -> None:
    bad = frame(40)
    bad.loc[:29, "y"] = np.nan
    bad.to_csv(shop.data / "rows.csv", index=False)
    await shop.client.pipelines.create("weekly", definition())
    job = await shop.run("weekly")
    assert job.state == pb.JOB_STATE_FAILED
    errors = {(i.check, i.column) for i in job.issues if i.severity == "error"}
    assert ("missing", "y") in errors and any(check == "size" for check, _ in errors)
    assert all(i.message for i in job.issues) and "y" in job.state_reason
    (version,) = await shop.client.models.versions("fraud")
    assert version.status == registry.VERSION_STATUS_FAILED

    frame().to_csv(shop.data / "rows.csv", index=False)
    assert (await shop.client.pipelines.retry(job.name)).attempt == 2
    done = await shop.client.pipelines.wait(job.name, timeout_s=LIMIT_S)
    assert done.state == pb.JOB_STATE_SUCCEEDED, done.state_reason
    assert (done.name, done.attempt, done.version) == (job.name, 2, 2)
    assert not [i for i in done.issues if i.severity == "error"]
    assert (await shop.client.models.version("fraud")).number == 2


@pytest.mark.ledger("D8")
async def test_a_model_below_its_thresholds_is_rejected_with_results_and_never_resolved(shop: Workshop) -> None:
    frame(noise=3.0).to_csv(shop.data / "rows.csv", index=False)
    hard = {"thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.999}]}
    await shop.client.pipelines.create("weekly", definition(evaluation_config=hard))
    job = await shop.run("weekly", delivery={"endpoint": "fraud", "stage": "staging"})
    assert job.state == pb.JOB_STATE_REJECTED and "accuracy" in job.state_reason
    assert job.gate.verdict == common_pb2.VERDICT_FAIL
    (verdict,) = job.gate.verdicts
    assert (verdict.criterion.metric, verdict.bound) == ("accuracy", 0.999)
    assert verdict.n == dict(job.result["rows"])["test"]
    assert verdict.value == job.metrics["accuracy"] < 0.999 and "0.999" in verdict.explanation
    (version,) = await shop.client.models.versions("fraud")
    assert version.status == registry.VERSION_STATUS_FAILED and list(version.files) == []
    assert version.metrics["accuracy"] == job.metrics["accuracy"], "its results are kept"
    with pytest.raises(NotFound):
        await shop.client.models.version("fraud")
    with pytest.raises(PilotfishError):
        await shop.client.deployments.deploy("fraud@1", stage="staging")
    (run,) = await trainings(shop.client)
    assert run.state == experiment_pb2.RUN_STATE_FAILED and run.metrics["accuracy"] == job.metrics["accuracy"]
    with pytest.raises(FailedPrecondition):
        await shop.client.pipelines.retry(job.name)


@pytest.mark.ledger("D2")
async def test_a_running_job_is_cancelled_and_one_that_takes_too_long_times_out(shop: Workshop) -> None:
    await shop.client.pipelines.create("long", searching(60.0))
    job = await shop.client.pipelines.trigger("long")
    await shop.reached(job, "train")
    pid = int((shop.directory(job) / "pid").read_text())
    await shop.client.pipelines.cancel(job.name, reason="wrong rows")
    done = await shop.client.pipelines.wait(job.name, timeout_s=20)
    assert done.state == pb.JOB_STATE_CANCELLED
    assert done.state_reason == "cancelled by admin: wrong rows"

    async def gone() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    await eventually(gone)
    (version,) = await shop.client.models.versions("fraud")
    assert version.status == registry.VERSION_STATUS_FAILED

    await shop.client.pipelines.update("long", {"timeout_s": 0.01}, ["timeout_s"])
    late = await shop.run("long")
    assert late.state == pb.JOB_STATE_TIMED_OUT, late.state_reason
    assert late.attempt == 1 and "0.01 s" in late.state_reason


@pytest.mark.ledger("D2", "G1")
async def test_a_job_goes_on_while_the_control_plane_is_gone(shop: Workshop, make_control_plane: Any) -> None:
    await shop.client.pipelines.create("long", searching(2.0))
    job = await shop.client.pipelines.trigger("long")
    await shop.reached(job, "train")
    pid = int((shop.directory(job) / "pid").read_text())
    await shop.plane.app.stop()
    os.kill(pid, 0)
    second = await make_control_plane(data_roots=str(shop.data), home=shop.plane.home)
    async with AsyncClient(second.address, second.token) as client:
        done = await client.pipelines.wait(job.name, timeout_s=LIMIT_S)
        assert done.state == pb.JOB_STATE_SUCCEEDED, done.state_reason
        assert (done.attempt, done.version) == (1, 1)
        lines = [s.progress.sequence async for s in client.pipelines.watch(job.name) if s.HasField("progress")]
        assert lines == list(range(1, len(lines) + 1)), "no line is lost or doubled over the restart"
        assert [v.status for v in await client.models.versions("fraud")] == [registry.VERSION_STATUS_STAGING]
        assert len(await trainings(client)) == 1


@pytest.mark.ledger("D2", "G1")
async def test_a_job_whose_process_is_killed_is_begun_again_once(shop: Workshop) -> None:
    await shop.client.pipelines.create("long", searching(60.0))
    job = await shop.client.pipelines.trigger("long")
    for attempt in (1, 2):
        await shop.reached(job, "load", attempt)
        os.kill(int((shop.directory(job, attempt) / "pid").read_text()), signal.SIGKILL)
    done = await shop.client.pipelines.wait(job.name, timeout_s=LIMIT_S)
    assert (done.state, done.attempt) == (pb.JOB_STATE_FAILED, 2)
    assert "killed" in done.state_reason
    versions = await shop.client.models.versions("fraud")
    assert {v.status for v in versions} == {registry.VERSION_STATUS_FAILED}


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
