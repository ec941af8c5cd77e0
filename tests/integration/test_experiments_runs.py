"""Experiment tracking through real calls, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, PilotfishError
from pilotfish.v1 import experiment_pb2 as pb
from pilotfish.v1 import experiment_service_pb2 as svc
from pilotfish.v1 import experiment_service_pb2_grpc as svc_grpc
from pilotfish.wire_errors import from_rpc_error
from pilotfish_control_plane.experiments.model import Point
from pilotfish_control_plane.experiments.service import ExperimentService
from tests.registry_models import Client, bare_files, whole_files

AREAS = ["registry", "artifacts", "experiments"]


@pytest_asyncio.fixture
async def plane(make_control_plane: Any, engine_name: str) -> AsyncIterator[Any]:
    yield await make_control_plane(areas=AREAS, engine=engine_name)


@pytest.fixture
def stub(plane: Any) -> Any:
    return svc_grpc.ExperimentServiceStub(plane.channel)


async def error_of(call: Awaitable[Any]) -> PilotfishError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


async def begin(stub: Any, experiment: str = "churn", **fields: Any) -> pb.Run:
    return (await stub.CreateRun(svc.CreateRunRequest(experiment=experiment, **fields))).run


@pytest.mark.ledger("B5")
async def test_registrations_and_validations_good_and_bad_are_recorded(plane: Any, stub: Any) -> None:
    client = Client(plane.channel)
    version = await client.register("churn", whole_files(), metrics={"auc": 0.9}, tags={"team": "risk"})
    await error_of(client.register("churn", {**bare_files(), "model.pkl": b"\x80\x04."}))
    runs = (await stub.ListRuns(svc.ListRunsRequest(filter='experiment = "churn"'))).runs
    told = {(pb.RunKind.Name(r.kind)[9:], pb.RunState.Name(r.state)[10:], r.subject) for r in runs}
    refused = next(r for r in runs if r.state == pb.RUN_STATE_FAILED)
    assert told == {
        ("REGISTRATION", "FINISHED", version.name),
        ("VALIDATION", "FINISHED", version.name),
        ("VALIDATION", "FAILED", refused.subject),
    }
    assert refused.subject.startswith("uploads/")
    problems = MessageToDict(refused.parameters)["problems"]
    assert [(p["path"], p["reason"]) for p in problems] == [("model.pkl", "PICKLE")]
    registered = next(r for r in runs if r.kind == pb.RUN_KIND_REGISTRATION)
    assert dict(registered.metrics) == {"auc": 0.9} and dict(registered.tags) == {"team": "risk"}
    assert registered.HasField("end_time") and registered.author == "admin"


@pytest.mark.ledger("B5")
async def test_the_platform_records_training_and_rollbacks_beside_users(plane: Any, stub: Any) -> None:
    service, db = ExperimentService(), plane.core.db
    subject = "projects/default/endpoints/e/deployments/d1"
    await db.write(lambda tx: service.record(tx, "rollback", "finished", "churn", subject, {"reason": "slow"}))
    run_id = await db.write(lambda tx: service.record(tx, "training", "running", "churn", "jobs/1", {"depth": 3}))
    points = [Point("loss", step, 1 / (step + 1)) for step in range(5)]
    await db.write(lambda tx: service.log_points(tx, run_id, points))
    await db.write(
        lambda tx: service.finish(tx, run_id, "finished", subject="projects/default/models/churn/versions/1")
    )
    found = (await stub.ListRuns(svc.ListRunsRequest(filter='kind = "rollback"'))).runs
    assert [(r.subject, MessageToDict(r.parameters)) for r in found] == [(subject, {"reason": "slow"})]
    whole = await stub.GetRun(svc.GetRunRequest(name=f"projects/default/runs/{run_id}"))
    assert whole.run.state == pb.RUN_STATE_FINISHED and whole.run.subject.endswith("versions/1")
    assert [(p.step, p.value) for p in whole.points] == [(s, 1 / (s + 1)) for s in range(5)]
    assert dict(whole.run.metrics) == {"loss": 0.2}


@pytest.mark.ledger("B5")
async def test_a_run_takes_points_parameters_and_tags_until_it_ends(stub: Any) -> None:
    run = await begin(stub, parameters=struct(depth=3), tags={"who": "me"}, request_id="a")
    assert (await begin(stub, parameters=struct(depth=3), tags={"who": "me"}, request_id="a")) == run
    assert run.state == pb.RUN_STATE_RUNNING and run.kind == pb.RUN_KIND_CUSTOM and not run.HasField("end_time")
    steps = list(range(30))
    random.Random(3).shuffle(steps)
    points = [pb.MetricPoint(metric="loss", step=s, value=100.0 - s) for s in steps]
    points += [pb.MetricPoint(metric="loss", step=4, value=-1.0), pb.MetricPoint(metric="auc", step=0, value=0.5)]
    request = svc.LogRunRequest(name=run.name, points=points, request_id="b", tags={"gpu": "a100"})
    request.parameters.update({"depth": 4, "rate": 0.5})
    for _ in range(2):  # the second is the same request again
        changed = (await stub.LogRun(request)).run
    assert dict(changed.metrics) == {"loss": 71.0, "auc": 0.5}
    assert MessageToDict(changed.parameters) == {"depth": 4.0, "rate": 0.5}
    assert dict(changed.tags) == {"who": "me", "gpu": "a100"}
    whole = await stub.GetRun(svc.GetRunRequest(name=run.name))
    expected = [("auc", 0, 0.5)] + [("loss", s, -1.0 if s == 4 else 100.0 - s) for s in range(30)]
    assert [(p.metric, p.step, p.value) for p in whole.points] == expected
    better = svc.LogRunRequest(name=run.name, points=[pb.MetricPoint(metric="loss", step=29, value=1.5)])
    assert (await stub.LogRun(better)).run.metrics["loss"] == 1.5
    series = (await stub.GetRun(svc.GetRunRequest(name=run.name))).points
    assert [p.value for p in series if p.step == 29] == [1.5], "one value per step"
    ended = (await stub.LogRun(svc.LogRunRequest(name=run.name, state=pb.RUN_STATE_FAILED))).run
    assert ended.state == pb.RUN_STATE_FAILED and ended.HasField("end_time")
    late = await error_of(stub.LogRun(svc.LogRunRequest(name=run.name, points=points[:1])))
    assert isinstance(late, FailedPrecondition) and late.reason == "RUN_ENDED"


async def test_what_may_not_be_logged_is_named(stub: Any) -> None:
    run = await begin(stub)
    bad = [
        pb.MetricPoint(metric="", step=0, value=1),
        pb.MetricPoint(metric="loss", step=-1, value=1),
        pb.MetricPoint(metric="loss", step=1, value=float("nan")),
    ]
    error = await error_of(stub.LogRun(svc.LogRunRequest(name=run.name, points=bad)))
    assert isinstance(error, InvalidArgument)
    assert [v.field for v in error.violations] == ["points[0].metric", "points[1].step", "points[2].value"]
    many = [pb.MetricPoint(metric="loss", step=s, value=1) for s in range(1001)]
    assert isinstance(await error_of(stub.LogRun(svc.LogRunRequest(name=run.name, points=many))), InvalidArgument)
    assert (await stub.LogRun(svc.LogRunRequest(name=run.name, points=many[:1000]))).run.metrics["loss"] == 1
    for name in ("projects/default/runs/nothing", "nothing"):
        assert isinstance(await error_of(stub.GetRun(svc.GetRunRequest(name=name))), NotFound)
        assert isinstance(await error_of(stub.LogRun(svc.LogRunRequest(name=name))), NotFound)
    for experiment in ("", "Not An Id", "x" * 64):
        assert isinstance(await error_of(begin(stub, experiment)), InvalidArgument)
    assert isinstance(await error_of(begin(stub, parameters=struct(x=float("inf")))), InvalidArgument)


@pytest.mark.ledger("B5")
async def test_runs_are_listed_by_filter_newest_first_and_paged(plane: Any, stub: Any) -> None:
    made = []
    for i in range(11):
        run = await begin(stub, "churn" if i % 2 else "fraud", tags={"fold": str(i % 3)})
        await stub.LogRun(
            svc.LogRunRequest(
                name=run.name,
                points=[pb.MetricPoint(metric="auc", step=1, value=i / 10)],
                state=pb.RUN_STATE_FINISHED if i % 4 == 0 else pb.RUN_STATE_UNSPECIFIED,
            )
        )
        made.append((run.name, i))

    async def every(filter: str = "") -> list[int]:
        found, token = [], ""
        while True:
            page = await stub.ListRuns(svc.ListRunsRequest(filter=filter, page_size=3, page_token=token))
            found += [dict(made)[r.name] for r in page.runs]
            token = page.next_page_token
            if not token:
                return found

    assert await every() == list(reversed(range(11)))
    assert await every('experiment = "churn"') == [9, 7, 5, 3, 1]
    assert await every("metrics.auc > 0.75") == [10, 9, 8]
    assert await every('tags.fold = "0" AND state = "finished"') == [0]
    assert await every('state = "running" AND experiment = "fraud"') == [10, 6, 2]
    assert isinstance(await error_of(stub.ListRuns(svc.ListRunsRequest(filter="shoes = 1"))), InvalidArgument)
    other = await stub.ListRuns(svc.ListRunsRequest(project="other"))
    assert not other.runs


@pytest.mark.ledger("B5")
async def test_runs_are_compared_parameter_by_parameter_and_metric_by_metric(stub: Any) -> None:
    first = await begin(stub, parameters=struct(depth=3, shape=[1, 2], same="x"))
    second = await begin(stub, parameters=struct(depth=4, shape=[1, 2], same="x", extra=None))
    await stub.LogRun(svc.LogRunRequest(name=first.name, points=[pb.MetricPoint(metric="auc", step=0, value=0.5)]))
    rows = (await stub.CompareRuns(svc.CompareRunsRequest(names=[first.name, second.name]))).rows
    table = {(r.key, r.metric): ([json.loads(v) if v else "absent" for v in r.values_json], r.differs) for r in rows}
    assert table == {
        ("depth", False): ([3, 4], True),
        ("extra", False): (["absent", None], True),
        ("same", False): (["x", "x"], False),
        ("shape", False): ([[1, 2], [1, 2]], False),
        ("auc", True): ([0.5, "absent"], True),
    }
    assert isinstance(await error_of(stub.CompareRuns(svc.CompareRunsRequest(names=[first.name]))), InvalidArgument)
    missing = svc.CompareRunsRequest(names=[first.name, "projects/default/runs/nothing"])
    assert isinstance(await error_of(stub.CompareRuns(missing)), NotFound)
