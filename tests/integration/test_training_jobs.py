"""Jobs that run, through real calls: what they register, refuse, survive and leave behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio

from pilotfish import AsyncClient
from pilotfish.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PilotfishError,
)
from pilotfish.v1 import common_pb2, experiment_pb2
from pilotfish.v1 import registry_pb2 as registry
from pilotfish.v1 import training_pb2 as pb

from .training_world import LIMIT_S, Workshop, definition, eventually, frame, searching, trainings

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
