"""google.longrunning.Operations through real calls: views of jobs, rollouts and starting deployments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import pytest_asyncio
from google.longrunning import operations_pb2_grpc
from google.longrunning import operations_proto_pb2 as lro
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilotfish import AsyncClient
from pilotfish.errors import Aborted, Cancelled, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from pilotfish.v1 import deployment_pb2, operation_pb2, training_pb2
from pilotfish_control_plane.access.model import Role
from pilotfish_control_plane.grpc_server import operations as servicer
from pilotfish_control_plane.storage import access
from pilotfish_control_plane.storage.transaction import Tx

from .serving_world import FakeNode, World, refusal, world

pytestmark = [pytest.mark.timeout(240), pytest.mark.ledger("G4")]
LIMIT_S = 120.0
STAGING, CANARY, PRODUCTION = deployment_pb2.STAGE_STAGING, deployment_pb2.STAGE_CANARY, deployment_pb2.STAGE_PRODUCTION


# Any: plain values in the contract's names.
def definition(bound: float = 0.7) -> dict[str, Any]:
    return {
        "model": "fraud",
        "data_sources": [{"name": "rows", "type": "file", "path": "rows.csv"}],
        "feature_config": {"label": "label", "id_column": "id"},
        "training_config": {
            "model_config": {"framework": "sklearn", "type": "logistic_regression", "task": "classification"},
            "split_config": {"method": "stratified", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 3},
        },
        "evaluation_config": {"thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": bound}]},
    }


def rows(noise: float) -> pd.DataFrame:
    rng = np.random.default_rng(20261130)
    x, y = rng.normal(size=150), rng.normal(size=150)
    label = (x + y + noise * rng.normal(size=150) > 0).astype(int)
    return pd.DataFrame({"id": np.arange(150), "x": x, "y": y, "label": label})


def stub_of(channel: Any) -> Any:
    return operations_pb2_grpc.OperationsStub(channel)


def metadata_of(operation: lro.Operation) -> operation_pb2.OperationMetadata:
    found = operation_pb2.OperationMetadata()
    assert operation.metadata.Unpack(found)
    return found


def seconds(value: float) -> Duration:
    found = Duration()
    found.FromMilliseconds(round(value * 1000))
    return found


@pytest_asyncio.fixture
async def shop(make_control_plane: Any, engine_name: str, tmp_path: Path) -> AsyncIterator[Any]:
    """A control plane on each engine that runs jobs over rows.csv."""
    plane = await make_control_plane(engine=engine_name, data_roots=str(tmp_path))
    rows(0.3).to_csv(tmp_path / "rows.csv", index=False)
    async with AsyncClient(plane.address, plane.token) as client:
        plane.client = client
        yield plane


@pytest_asyncio.fixture
async def office(make_control_plane: Any, engine_name: str) -> AsyncIterator[Any]:
    """A control plane on each engine whose jobs wait for ever: it has no place to run one."""
    plane = await make_control_plane(engine=engine_name, training_jobs=0)
    async with AsyncClient(plane.address, plane.token) as client:
        plane.client = client
        await client.pipelines.create("weekly", definition())
        yield plane


@pytest_asyncio.fixture
async def w(make_control_plane: Any, engine_name: str) -> AsyncIterator[World]:
    async with world(make_control_plane, engine_name) as found:
        yield found


async def principal(plane: Any, name: str, role: Role, project: str = "default") -> grpc.aio.Channel:
    """Return a channel of a new caller with a role in a project."""

    def add(tx: Tx) -> None:
        access.bind(tx, name, project, role)
        access.add_token(tx, f"{name}-1", name, access.digest(f"token-of-{name}"))

    await plane.core.db.write(add)
    channel: grpc.aio.Channel = plane.channel_with(f"token-of-{name}")
    return channel


# Jobs -----------------------------------------------------------------------------------------------------------


async def test_the_operation_of_a_job_goes_from_running_to_done_with_the_job_as_its_response(shop: Any) -> None:
    await shop.client.pipelines.create("weekly", definition())
    job = await shop.client.pipelines.trigger("weekly")
    operations = shop.client.operations
    running = await operations.get(job.operation)
    assert (running.name, running.done, running.resource, running.error) == (job.operation, False, None, None)
    assert running.metadata.resource == job.name
    assert running.metadata.kind == operation_pb2.OPERATION_KIND_JOB and running.metadata.progress < 1
    with pytest.raises(FailedPrecondition) as caught:
        running.result()
    assert caught.value.reason == "NOT_DONE"
    done = await operations.wait(job.operation, timeout_s=LIMIT_S)
    assert done.done and done.error is None, done
    result = done.result()
    assert isinstance(result, training_pb2.Job) and result == await shop.client.pipelines.job(job.name)
    assert (done.metadata.state, done.metadata.progress) == ("succeeded", 1.0)
    assert done.metadata.start_time.ToNanoseconds() <= done.metadata.end_time.ToNanoseconds()
    assert done.metadata.update_time == done.metadata.end_time
    await operations.cancel(job.operation)
    assert await operations.get(job.name) == done, "what is done is not cancelled"


async def test_a_rejected_job_is_an_error_with_its_reason(shop: Any, tmp_path: Path) -> None:
    rows(3.0).to_csv(tmp_path / "rows.csv", index=False)
    await shop.client.pipelines.create("weekly", definition(bound=0.999))
    job = await shop.client.pipelines.trigger("weekly", wait=True, timeout_s=LIMIT_S)
    assert job.state == training_pb2.JOB_STATE_REJECTED
    raw = await stub_of(shop.channel).GetOperation(lro.GetOperationRequest(name=job.operation))
    assert raw.done and not raw.HasField("response") and raw.error.code == code_pb2.FAILED_PRECONDITION
    info = error_details_pb2.ErrorInfo()
    assert raw.error.details[0].Unpack(info)
    assert (info.reason, info.domain, info.metadata["resource"]) == ("JOB_REJECTED", "pilotfish", job.name)
    with pytest.raises(FailedPrecondition, match="accuracy") as caught:
        (await shop.client.operations.get(job.name)).result()
    assert caught.value.reason == "JOB_REJECTED" and job.state_reason in caught.value.message
    assert [v.field for v in caught.value.violations] == ["accuracy"]


async def test_a_wait_wakes_when_the_job_ends_and_answers_unfinished_after_its_timeout(
    office: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await office.client.pipelines.trigger("weekly")
    stub = stub_of(office.channel)
    unfinished = await stub.WaitOperation(lro.WaitOperationRequest(name=job.operation, timeout=seconds(0.1)))
    assert not unfinished.done and metadata_of(unfinished).state == "queued"
    assert not (await office.client.operations.wait(job.operation, timeout_s=0.1)).done
    # Without a timeout of its own it ends with an answer before the call's deadline would.
    at_deadline = await stub.WaitOperation(lro.WaitOperationRequest(name=job.operation), timeout=6)
    assert not at_deadline.done
    # No sweep comes to the rescue: what ends the wait in time is the wake.
    monkeypatch.setattr(servicer, "WAIT_SWEEP_S", 3600.0)
    request = lro.WaitOperationRequest(name=job.operation, timeout=seconds(600))
    waiting = asyncio.ensure_future(stub.WaitOperation(request, timeout=900))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await office.client.pipelines.cancel(job.name)
    assert (await asyncio.wait_for(waiting, 60)).error.code == code_pb2.CANCELLED
    error = await refusal(stub.WaitOperation(lro.WaitOperationRequest(name=job.operation, timeout=seconds(-1))))
    assert error.code == "INVALID_ARGUMENT" and error.violations[0].field == "timeout"


async def test_a_wait_ends_when_the_control_plane_drains(office: Any) -> None:
    job = await office.client.pipelines.trigger("weekly")
    request = lro.WaitOperationRequest(name=job.operation, timeout=seconds(60))
    waiting = asyncio.ensure_future(stub_of(office.channel).WaitOperation(request, timeout=90))
    await asyncio.sleep(0.3)
    await office.app.stop()
    error = await refusal(waiting)
    assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")


async def test_cancelling_a_job_is_harmless_twice_and_a_retry_opens_the_operation_again(office: Any) -> None:
    client = office.client
    job = await client.pipelines.trigger("weekly")
    for _ in range(2):
        await client.operations.cancel(job.operation)
    done = await client.operations.get(job.operation)
    with pytest.raises(Cancelled) as caught:
        done.result()
    assert caught.value.reason == "JOB_CANCELLED" and "cancelled by admin" in caught.value.message
    assert done.metadata.cancel_requested
    entries = [e for e in await client.access.audit() if e.method == "CancelJob"]
    assert [e.resource for e in entries] == [job.name], "the second did nothing"
    await client.pipelines.retry(job.name)
    again = await client.operations.get(job.operation)
    assert not again.done and not again.metadata.cancel_requested


# Who may, and what names mean -----------------------------------------------------------------------------------


async def test_a_viewer_may_look_and_wait_and_not_cancel(office: Any) -> None:
    job = await office.client.pipelines.trigger("weekly")
    cancel = lro.CancelOperationRequest(name=job.operation)
    async with await principal(office, "eve", Role.VIEWER) as channel:
        stub = stub_of(channel)
        assert (await stub.GetOperation(lro.GetOperationRequest(name=job.operation))).name == job.operation
        await stub.WaitOperation(lro.WaitOperationRequest(name=job.operation, timeout=seconds(0)))
        listed = await stub.ListOperations(lro.ListOperationsRequest(name="operations/projects/default"))
        assert [o.name for o in listed.operations] == [job.operation]
        error = await refusal(stub.CancelOperation(cancel))
        assert isinstance(error, PermissionDenied) and error.metadata["required_role"] == "EDITOR"
    # The id alone names no project, so that a role in one is not enough.
    short = lro.GetOperationRequest(name=f"operations/jobs/{job.name.rpartition('/')[2]}")
    other_project = job.operation.replace("projects/default", "projects/mine")
    async with await principal(office, "mallory", Role.ADMIN, "mine") as channel:
        stub = stub_of(channel)
        for call in (
            stub.GetOperation(short),
            stub.GetOperation(lro.GetOperationRequest(name=job.operation)),
            stub.CancelOperation(cancel),
            stub.ListOperations(lro.ListOperationsRequest()),
        ):
            assert isinstance(await refusal(call), PermissionDenied)
        error = await refusal(stub.GetOperation(lro.GetOperationRequest(name=other_project)))
        assert isinstance(error, NotFound), "another project's job is not read under the caller's own"
    assert not (await office.client.operations.get(job.operation)).done
    async with await principal(office, "ed", Role.EDITOR) as channel:
        await stub_of(channel).CancelOperation(cancel)
    assert (await office.client.operations.get(job.operation)).done
    async with office.channel_with("") as channel:
        error = await refusal(stub_of(channel).GetOperation(short))
        assert error.code == "UNAUTHENTICATED"


async def test_names_are_read_both_ways_and_bad_ones_are_refused(office: Any) -> None:
    job = await office.client.pipelines.trigger("weekly")
    for name in (job.operation, job.name, f"operations/jobs/{job.name.rpartition('/')[2]}"):
        assert (await office.client.operations.get(name)).name == job.operation
    parent = "operations/projects/default"
    bad_names = ["", "operations", "operations/", "operations/jobs/", "operations/cakes/x", "jobs/x", parent]
    bad_names += [f"{parent}/jobs/x", "operations/operations/jobs/x", f"{job.operation}/", f"{parent}/models/m"]
    for bad in bad_names:
        for method in ("get", "wait", "cancel"):
            with pytest.raises(InvalidArgument) as caught:
                await getattr(office.client.operations, method)(bad)
            assert [v.field for v in caught.value.violations] == ["name"]
    for unknown in (
        "operations/jobs/none",
        f"{parent}/pipelines/other/jobs/{job.name.rpartition('/')[2]}",
        f"{parent}/endpoints/e/rollouts/none",
        f"{parent}/endpoints/e/deployments/none",
    ):
        for method in ("get", "wait", "cancel"):
            with pytest.raises(NotFound):
                await getattr(office.client.operations, method)(unknown)
    error = await refusal(stub_of(office.channel).DeleteOperation(lro.DeleteOperationRequest(name=job.operation)))
    assert error.code == "UNIMPLEMENTED" and "CancelOperation" in error.message


async def test_operations_are_listed_newest_first_in_pages_and_filtered(office: Any) -> None:
    jobs = [await office.client.pipelines.trigger("weekly") for _ in range(5)]
    await office.client.pipelines.cancel(jobs[2].name)
    stub, seen, token = stub_of(office.channel), [], ""
    request = lro.ListOperationsRequest(name="operations/projects/default", page_size=2)
    while True:
        request.page_token = token
        page = await stub.ListOperations(request)
        assert len(page.operations) <= 2
        seen += [o.name for o in page.operations]
        if not (token := page.next_page_token):
            break
    assert seen == [j.operation for j in reversed(jobs)]
    ended = await office.client.operations.list(filter='kind = "job" AND done = true')
    assert [o.name for o in ended] == [jobs[2].operation]
    assert len(await office.client.operations.list(filter='done = false AND state = "queued"')) == 4
    assert await office.client.operations.list(filter='kind = "rollout"') == []
    everywhere = await stub.ListOperations(lro.ListOperationsRequest(name="operations"))
    assert len(everywhere.operations) == 5
    assert not (await stub.ListOperations(lro.ListOperationsRequest(name="operations/projects/other"))).operations
    first = await stub.ListOperations(lro.ListOperationsRequest(name="operations", page_size=2))
    for bad in (
        lro.ListOperationsRequest(name="projects/default"),
        lro.ListOperationsRequest(name="operations/projects/No"),
        lro.ListOperationsRequest(filter='kind = "cake"'),
        lro.ListOperationsRequest(filter="beauty = 1"),
        lro.ListOperationsRequest(page_size=-1),
        lro.ListOperationsRequest(name="operations/projects/default", page_token=first.next_page_token),
    ):
        assert isinstance(await refusal(stub.ListOperations(bad)), InvalidArgument)


async def test_reflection_lists_and_describes_the_service(office: Any) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(office.channel)  # type: ignore[no-untyped-call]
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.longrunning.Operations"),
    ]
    listed, described = [a async for a in stub.ServerReflectionInfo(iter(asked))]
    assert "google.longrunning.Operations" in [s.name for s in listed.list_services_response.service]
    assert described.file_descriptor_response.file_descriptor_proto


# Rollouts and deployments ---------------------------------------------------------------------------------------


async def test_a_deployment_and_its_rollout_are_operations_until_they_are_through(w: World) -> None:
    async with AsyncClient(w.plane.address, w.plane.token) as client:
        waiting = (await w.deploy(await w.version(), PRODUCTION)).deployment
        coming = await client.operations.get(waiting.name)
        assert not coming.done and coming.metadata.kind == operation_pb2.OPERATION_KIND_DEPLOYMENT
        assert [o.done for o in await client.operations.list()] == [False, False]
        async with w.node():
            ready = await client.operations.wait(waiting.name, timeout_s=LIMIT_S)
            assert isinstance(ready.result(), deployment_pb2.Deployment) and ready.metadata.progress == 1.0
            through = await client.operations.wait(waiting.rollout, timeout_s=LIMIT_S)
            result = through.result()
            assert isinstance(result, deployment_pb2.Rollout) and result.state == deployment_pb2.ROLLOUT_STATE_SUCCEEDED
            assert through.metadata.stage == "step 1 of 1"


async def test_cancelling_a_rollouts_operation_aborts_the_rollout_for_whom_may_deploy(w: World) -> None:
    async with w.node() as node, AsyncClient(w.plane.address, w.plane.token) as client:
        canary = await _canary(w, node)
        name = f"operations/{canary.rollout}"
        async with await principal(w.plane, "ed", Role.EDITOR) as channel:
            error = await refusal(stub_of(channel).CancelOperation(lro.CancelOperationRequest(name=name)))
            assert isinstance(error, PermissionDenied) and error.metadata["required_role"] == "DEPLOYER"
        assert not (await client.operations.get(name)).metadata.cancel_requested
        for _ in range(2):
            await client.operations.cancel(name)
        done = await client.operations.wait(name, timeout_s=LIMIT_S)
        with pytest.raises(Cancelled) as caught:
            done.result()
        assert caught.value.reason == "ROLLOUT_CANCELLED" and "aborted by admin" in caught.value.message
        assert (await w.rollout(canary.rollout)).state == deployment_pb2.ROLLOUT_STATE_ABORTED


async def test_a_rollout_that_its_evidence_ended_is_aborted_and_not_cancelled(w: World) -> None:
    async with w.node() as node, AsyncClient(w.plane.address, w.plane.token) as client:
        canary = await _canary(w, node)
        w.fake_evidence(canary.id, error_ratio=(0.2, 30))
        done = await client.operations.wait(canary.rollout, timeout_s=LIMIT_S)
        with pytest.raises(Aborted, match="error_ratio") as caught:
            done.result()
        assert caught.value.reason == "ROLLOUT_ABORTED" and not done.metadata.cancel_requested


async def test_cancelling_a_deployment_that_has_not_started_stops_it(w: World) -> None:
    async with AsyncClient(w.plane.address, w.plane.token) as client:
        waiting = (await w.deploy(await w.version(), STAGING)).deployment
        for _ in range(2):
            await client.operations.cancel(waiting.name)
        done = await client.operations.wait(waiting.name, timeout_s=LIMIT_S)
        with pytest.raises(Cancelled) as caught:
            done.result()
        assert caught.value.reason == "DEPLOYMENT_CANCELLED" and done.metadata.cancel_requested


async def _canary(w: World, node: FakeNode) -> deployment_pb2.Deployment:
    await w.serving(await w.version(), PRODUCTION)
    canary = await w.serving(await w.version(), CANARY)
    await w.until_rollout(canary.rollout, deployment_pb2.ROLLOUT_STATE_PROGRESSING)
    return canary
