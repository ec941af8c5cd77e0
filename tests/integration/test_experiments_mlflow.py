"""Runs are also sent to an MLflow server; the one here speaks its REST interface and forgets nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pilotfish.v1 import experiment_pb2 as pb
from pilotfish.v1 import experiment_service_pb2 as svc
from pilotfish.v1 import experiment_service_pb2_grpc as svc_grpc
from tests.registry_models import Client, bare_files, whole_files

AREAS = ["registry", "artifacts", "experiments"]

Answer = tuple[int, dict[str, Any]]


class Mlflow:
    """The part of MLflow's tracking server that a tracker needs, in memory, with its refusals."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.failures = 0
        self.tokens: set[str] = set()

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        if self.failures:
            self.failures -= 1
            return 503, {"error_code": "TEMPORARILY_UNAVAILABLE"}
        name, _, query = path.partition("?")
        call = name.removeprefix("/api/2.0/mlflow/").replace("/", "_").replace("-", "_")
        answer: Answer = getattr(self, call)(body or urllib.parse.parse_qs(query))
        return answer

    def experiments_get_by_name(self, asked: dict[str, Any]) -> Answer:
        found = self.experiments.get(asked["experiment_name"][0])
        if found is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}
        return 200, {"experiment": {"experiment_id": found}}

    def experiments_create(self, asked: dict[str, Any]) -> Answer:
        if asked["name"] in self.experiments:
            return 400, {"error_code": "RESOURCE_ALREADY_EXISTS"}
        self.experiments[asked["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[asked["name"]]}

    def runs_search(self, asked: dict[str, Any]) -> Answer:
        key, _, value = asked["filter"].partition(" = ")
        key, value = key.removeprefix("tags.").strip("`"), value.strip("'")
        runs = [r for r in self.runs.values() if r["experiment"] in asked["experiment_ids"]]
        found = [r for r in runs if r["tags"].get(key) == value]
        params = [[{"key": k, "value": v} for k, v in r["params"].items()] for r in found]
        return 200, {
            "runs": [{"info": {"run_id": r["id"]}, "data": {"params": p}} for r, p in zip(found, params, strict=True)]
        }

    def runs_create(self, asked: dict[str, Any]) -> Answer:
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {
            "id": run_id,
            "experiment": asked["experiment_id"],
            "tags": {t["key"]: t["value"] for t in asked["tags"]},
            "params": {},
            "metrics": {},
            "status": "RUNNING",
            "start": asked["start_time"],
            "end": None,
        }
        return 200, {"run": {"info": {"run_id": run_id}}}

    def runs_log_batch(self, asked: dict[str, Any]) -> Answer:
        run = self.runs[asked["run_id"]]
        for param in asked.get("params", []):
            if run["params"].get(param["key"], param["value"]) != param["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE"}
            run["params"][param["key"]] = param["value"]
        for metric in asked.get("metrics", []):
            run["metrics"].setdefault(metric["key"], {})[metric["step"]] = metric["value"]
        run["tags"] |= {t["key"]: t["value"] for t in asked.get("tags", [])}
        return 200, {}

    def runs_update(self, asked: dict[str, Any]) -> Answer:
        run = self.runs[asked["run_id"]]
        run["status"], run["end"] = asked["status"], asked.get("end_time")
        return 200, {}


@pytest.fixture
def mlflow() -> Iterator[tuple[Mlflow, str]]:
    state = Mlflow()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.tokens.add(self.headers.get("Authorization", ""))
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, answer = state.answer(self.path, json.loads(raw) if raw else {})
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


async def until(reached: Any, what: str) -> None:
    for _ in range(400):
        if reached():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not reached: {what}")


@pytest.mark.ledger("B5")
async def test_every_run_is_also_sent_to_mlflow_and_comes_there_once(
    make_control_plane: Any, engine_name: str, mlflow: tuple[Mlflow, str]
) -> None:
    server, uri = mlflow
    server.failures = 2
    settings = {"mlflow_uri": uri, "mlflow_token": "secret", "sweep_s": 0.2}
    plane = await make_control_plane(areas=AREAS, engine=engine_name, **settings)
    client, stub = Client(plane.channel), svc_grpc.ExperimentServiceStub(plane.channel)
    version = await client.register("churn", whole_files(), metrics={"auc": 0.9}, tags={"team": "risk"})
    with pytest.raises(Exception, match="refused"):
        await client.register("churn", {**bare_files(), "model.pkl": b"\x80\x04."})
    run = (await stub.CreateRun(svc.CreateRunRequest(experiment="churn"))).run
    for step in range(3):
        points = [pb.MetricPoint(metric="loss", step=step, value=1.0 / (step + 1))]
        await stub.LogRun(svc.LogRunRequest(name=run.name, points=points))
    log = svc.LogRunRequest(name=run.name, state=pb.RUN_STATE_FINISHED)
    log.parameters.update({"depth": 3, "name": "small"})
    await stub.LogRun(log)

    def mine() -> dict[str, Any]:
        return next((r for r in server.runs.values() if r["tags"]["pilotfish.run"] == run.name), {})

    await until(lambda: mine().get("status") == "FINISHED" and len(mine()["metrics"]["loss"]) == 3, "the user's run")
    ended = {"FINISHED", "FAILED"}
    await until(
        lambda: len(server.runs) == 4 and {r["status"] for r in server.runs.values()} <= ended, "all four runs, ended"
    )
    assert mine()["params"] == {"depth": "3", "name": "small"} and mine()["end"] >= mine()["start"]
    assert mine()["metrics"]["loss"] == {0: 1.0, 1: 0.5, 2: 1.0 / 3}
    assert list(server.experiments) == ["pilotfish/default/churn"]
    assert sorted((r["tags"]["pilotfish.kind"], r["status"]) for r in server.runs.values()) == [
        ("custom", "FINISHED"),
        ("registration", "FINISHED"),
        ("validation", "FAILED"),
        ("validation", "FINISHED"),
    ]
    registered = next(r for r in server.runs.values() if r["tags"]["pilotfish.kind"] == "registration")
    assert registered["tags"]["pilotfish.subject"] == version.name and registered["tags"]["team"] == "risk"
    assert registered["metrics"] == {"auc": {0: 0.9}}
    assert server.tokens == {"Bearer secret"}


async def test_a_dead_mlflow_holds_nothing_up(make_control_plane: Any) -> None:
    plane = await make_control_plane(areas=AREAS, mlflow_uri="http://127.0.0.1:9", sweep_s=0.2)
    assert (await Client(plane.channel).register("churn")).number == 1
