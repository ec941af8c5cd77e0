"""The client against the real control plane; the asynchronous one and its blocking twin do the same."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from pilotfish import errors
from pilotfish.connection import find_connection
from pilotfish.frames import to_pandas
from tests.registry_models import bare_files, whole_files

from ..conftest import MakeControlPlane, RunningControlPlane
from .client_twins import Transcript, make_client
from .serving_world import FakeNode

KINDS = ("aio", "blocking")


@pytest_asyncio.fixture
async def plane(make_control_plane: MakeControlPlane, engine_name: str) -> AsyncIterator[RunningControlPlane]:
    """Return a control plane with a node that starts whatever it is told."""
    running = await make_control_plane(engine=engine_name, gateway_port=0, sweep_s=0.5)
    async with FakeNode(running.channel_with(running.node_token)):
        yield running


def artifact(directory: Path, files: dict[str, bytes]) -> Path:
    """Write an artifact; return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def models_scenario(client: Any, t: Transcript, work: Path) -> None:
    """Register, look up, change and download."""
    sent: list[tuple[int, int]] = []
    source = artifact(work / "one", whole_files())
    made = client.models.register(
        source, model="churn", label="1.0", aliases=["champion"], metrics={"auc": 0.9}, tags={"team": "risk"},
        hyperparameters={"depth": 3}, description="first", progress=lambda done, total: sent.append((done, total)),
    )  # fmt: skip
    t.told(made)
    total = sum(f.size_bytes for f in made.files)
    assert sent[-1] == (total, total) and [d for d, _ in sent] == sorted(d for d, _ in sent)
    artifact(work / "two", bare_files(1))
    t.told(client.models.register(work / "two" / "model.onnx", model="churn"))
    for ref in ("churn@1", "churn@1.0", "churn@champion", "churn", made.name):
        t.told(client.models.version(ref).number)
    t.told([v.number for v in client.models.versions("churn", any_tags=["team"])])
    t.told([v.number for v in client.models.versions(statuses=["staging"], order_by="number")])
    t.told(client.models.set_alias("churn", "champion", 2))
    t.told(client.models.update("churn", description="who leaves", tags={"a": "b"}))
    t.told(client.models.update_version("churn@1", metrics={"auc": 0.8}, label="1.1"))
    t.told(client.models.set_status("churn@1", "deprecated", reason="old"))
    t.refused(client.models.set_status, "churn@1", "training")
    t.refused(client.models.set_status, "churn@1", "frozen")
    t.refused(client.models.register, work / "none.onnx", model="churn")
    t.refused(client.models.get, "nothing")
    t.refused(client.models.create, "churn")
    t.told([c.action for c in client.models.changes("churn@1")])
    t.told(client.models.profile("churn@1") is not None)
    t.told(client.models.profile("churn@2"))
    target = client.models.download("churn@1", work / "back")
    assert {p.name: p.read_bytes() for p in target.iterdir()} == whole_files()


def delivery_scenario(client: Any, t: Transcript, work: Path) -> None:
    """Deploy, judge, promote, roll back, weigh."""
    for i in (1, 2):
        client.models.register(artifact(work / str(i), bare_files(i)), model="fraud")
    t.told([c.check for c in client.deployments.check("fraud@1", stage="production")])
    t.refused(client.deployments.deploy, "fraud@1", stage="moon")
    t.refused(client.deployments.deploy, "fraud@9")
    first = t.told(client.deployments.deploy("fraud@1", stage="production", config={"scaling": {"replicas": 2}}))
    t.told(client.deployments.deploy("fraud@2", stage="staging", wait=False))
    t.told(client.deployments.wait(client.deployments.get("fraud/staging").name, timeout_s=20).state)
    t.refused(client.deployments.rollback, "fraud/production", "bad")
    t.told(client.deployments.promote("fraud/staging", target_stage="production", validate_only=True).promoted)
    criteria = [{"metric": "prediction_count", "comparison": ">=", "bound": 0, "min_sample": 1}]
    judged = client.deployments.promote("fraud/staging", target_stage="production", criteria=criteria)
    t.told((judged.promoted, judged.decision.verdict))
    t.told(client.deployments.scale(first.name, 1).config)
    t.told(client.deployments.update("fraud/production", health_check={"interval_s": 5.0}).revision)
    endpoint = client.endpoints.get("fraud")
    t.told([d.stage for d in endpoint.deployments])
    t.refused(client.endpoints.set_traffic, "fraud", {"production": 5000})
    t.refused(client.endpoints.set_traffic, "fraud", {"production": 10_000}, etag="stale")
    t.told([w.weight_bp for w in client.endpoints.set_traffic("fraud", {"production": 10_000}).weights])
    t.told(len(client.deployments.replicas(first.name)) >= 1)
    t.told([d.version for d in client.deployments.list("fraud")])
    rollouts = client.deployments.rollouts("fraud")
    t.told([r.stage for r in rollouts])
    t.told(list(client.deployments.watch_rollout(rollouts[0].name, timeout_s=20))[-1].state)
    t.refused(client.deployments.stop, "fraud/production")
    stopped = t.told(client.deployments.stop("fraud/staging", reason="over"))
    t.refused(client.deployments.wait, stopped.name, timeout_s=5)


def observing_scenario(client: Any, t: Transcript, work: Path) -> None:
    """Log predictions and truths, export them, read metrics and the report."""
    client.models.register(artifact(work / "m", bare_files()), model="obs")
    client.deployments.deploy("obs@1", stage="production")
    at = datetime.now(UTC) - timedelta(minutes=5)
    rows = {"age": np.arange(50.0), "word": [f"w{i}" for i in range(50)]}
    ids = [f"p{i}" for i in range(50)]
    client.monitoring.log_predictions(
        "obs/production", rows, {"label": [i % 2 for i in range(50)]}, prediction_ids=ids, times=[at] * 50
    )
    one = client.monitoring.log_prediction("obs/production", {"age": 1.0, "word": "x"}, 1, ground_truth=1, time=at)
    t.told(client.monitoring.log_truth(ids[:10], [i % 2 for i in range(10)], scope="obs"))
    t.refused(client.monitoring.log_truth, ["a", "b"], [1.0], scope="obs")
    frame = to_pandas(client.monitoring.export("obs"))
    t.told(sorted(set(frame.index) - {one}))
    t.told(sorted(frame["truth"].tolist()))
    t.told([m.prediction_count for m in client.monitoring.metrics("obs")])
    report = client.monitoring.report("obs", start=at - timedelta(days=1))
    t.told((report["endpoint"], report["totals"]["predictions"]))
    t.told([v.drifted for v in client.monitoring.drift("obs")])
    t.told(client.monitoring.alerts())
    t.refused(client.monitoring.metrics, "nowhere")


def automation_scenario(client: Any, t: Transcript, work: Path) -> None:
    """Define pipelines, features, rules; pause; retire; tokens; events."""
    client.models.register(artifact(work / "m", bare_files()), model="auto")
    pipeline = {
        "model": "auto",
        "data_sources": [{"name": "rows", "type": "file", "path": "rows.csv"}],
        "feature_config": {"label": "y"},
        "training_config": {
            "model_config": {"framework": "sklearn", "type": "random_forest", "task": "classification"}
        },
    }
    t.told(client.pipelines.create("nightly", pipeline))
    t.told(client.pipelines.update("nightly", {"description": "every night", "schedule": "0 3 * * *"}))
    bad = {**pipeline, "data_sources": [{"name": "q", "type": "carrier_pigeon"}]}
    t.refused(client.pipelines.create, "worse", bad)
    t.refused(client.pipelines.create, "worse", {"modell": "x"})
    t.told([p.revision for p in client.pipelines.list()])
    transformations = [{"type": "scaling", "method": "standard", "columns": ["age"]}]
    t.told(client.features.put("basics", transformations))
    t.told(client.features.get("basics").revision)
    rule = {"triggers": [{"type": "data_drift"}], "actions": [{"type": "send_alert", "parameters": {"message": "see"}}]}
    t.told(client.lifecycle.create_rule("tell", rule))
    t.told(client.lifecycle.update_rule("tell", enabled=False).enabled)
    t.refused(client.lifecycle.create_rule, "bad", {"triggers": [{"type": "x"}], "actions": [{"type": "y"}]})
    client.lifecycle.pause("night", endpoint="")
    t.told(client.lifecycle.automation())
    client.lifecycle.resume()
    t.told(client.lifecycle.automation().paused)
    day = datetime.now(UTC) + timedelta(days=200)
    plan = client.lifecycle.plan_retirement("auto@1", day, validate_only=True)
    t.told([p.phase for p in plan.phases])
    t.told(len(client.lifecycle.retirement_plans()))
    plan = client.lifecycle.plan_retirement("auto@1", day)
    t.told(client.lifecycle.postpone_retirement(plan.name, day + timedelta(days=9)).state)
    t.told(client.lifecycle.cancel_retirement(plan.name, "not yet").state)
    t.told(client.access.whoami().role)
    client.lifecycle.delete_rule("tell")
    t.refused(client.lifecycle.rule, "tell")
    kinds = {e.event.kind for e in client.events.watch(["rule.", "retirement."], resume_token="0", timeout_s=2.0)}
    t.told(sorted(kinds))


SCENARIOS: dict[str, Callable[[Any, Transcript, Path], None]] = {
    "models": models_scenario,
    "delivery": delivery_scenario,
    "observing": observing_scenario,
    "automation": automation_scenario,
}


async def run(
    kind: str, plane: RunningControlPlane, scenario: Callable[..., None], work: Path, **options: Any
) -> list[Any]:
    """Run a scenario with a client of a kind; return its transcript."""
    client, transcript = make_client(kind, plane.address, plane.token, **options), Transcript()
    try:
        await asyncio.to_thread(scenario, client, transcript, work)
    except errors.DeadlineExceeded as error:
        raise AssertionError(f"{kind}, after {transcript.lines[-1:]}: {error}") from error
    finally:
        await asyncio.to_thread(client.close)
    return transcript.lines


@pytest.mark.ledger("B1", "B3", "B4", "C1", "C2", "C4", "C5", "C7", "D1", "E2", "E6", "F1", "G4")
@pytest.mark.parametrize("name", SCENARIOS)
async def test_both_clients_are_answered_the_same(
    name: str, make_control_plane: MakeControlPlane, databases: Any, tmp_path: Path
) -> None:
    found: dict[str, list[Any]] = {}
    for kind in KINDS:
        running = await make_control_plane(home=tmp_path / kind, gateway_port=0, sweep_s=0.5)
        async with FakeNode(running.channel_with(running.node_token)):
            found[kind] = await run(kind, running, SCENARIOS[name], tmp_path / f"work-{kind}")
        await running.app.stop()
    assert len(found["aio"]) > 8
    for one, other in zip(found["aio"], found["blocking"], strict=True):
        assert one == other


@pytest.mark.parametrize("name", ["models", "delivery"])
async def test_the_client_works_on_both_engines(name: str, plane: RunningControlPlane, tmp_path: Path) -> None:
    assert len(await run("aio", plane, SCENARIOS[name], tmp_path / "work")) > 8


@pytest.mark.ledger("G3")
@pytest.mark.parametrize("kind", KINDS)
async def test_roles_and_tokens_are_errors_of_our_own(kind: str, make_control_plane: MakeControlPlane) -> None:
    plane = await make_control_plane()
    admin = make_client(kind, plane.address, plane.token)
    secret = await asyncio.to_thread(admin.access.create_token, "eve", "viewer", lifetime_s=60.0)
    viewer = make_client(kind, plane.address, secret)
    assert await asyncio.to_thread(viewer.models.list) == []
    with pytest.raises(errors.PermissionDenied):
        await asyncio.to_thread(viewer.models.create, "m")
    await asyncio.to_thread(admin.access.revoke_token, "eve")
    with pytest.raises(errors.Unauthenticated):
        await asyncio.to_thread(viewer.models.list)
    for client in (admin, viewer):
        await asyncio.to_thread(client.close)


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_there_is_said_in_words_of_our_own(kind: str) -> None:
    client = make_client(kind, "127.0.0.1:1", "t", timeout_s=2.0)
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable, match=r"the control plane at 127\.0\.0\.1:1 cannot be reached") as caught:
        await asyncio.to_thread(client.models.list)
    assert "ipv4" not in str(caught.value) and time.monotonic() - begun < 10
    with pytest.raises(errors.Unavailable):
        await asyncio.to_thread(lambda: list(client.events.watch(timeout_s=2.0)))
    await asyncio.to_thread(client.close)


TLS = Path(__file__).resolve().parents[1] / "data" / "tls"


@pytest.mark.ledger("G3")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_control_plane_with_mutual_tls_answers_only_whom_its_authority_knows(
    kind: str, make_control_plane: MakeControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = {"tls_cert": str(TLS / "server.pem"), "tls_key": str(TLS / "server.key")}
    plane = await make_control_plane(**server, tls_client_ca=str(TLS / "ca.pem"))
    whole = {"ca_file": TLS / "ca.pem", "cert_file": TLS / "client.pem", "key_file": TLS / "client.key"}
    known = make_client(kind, plane.address, plane.token, **whole)
    assert (await asyncio.to_thread(known.access.whoami)).principal == "admin"
    await asyncio.to_thread(known.close)
    for files in ({}, {"ca_file": TLS / "ca.pem"}, {**whole, "ca_file": TLS / "client.pem"}):
        stranger = make_client(kind, plane.address, plane.token, timeout_s=3.0, **files)
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):
            await asyncio.to_thread(stranger.access.whoami)
        await asyncio.to_thread(stranger.close)
    for name, path in whole.items():
        monkeypatch.setenv(f"PILOTFISH_{name.upper()}", str(path))
    by_environment = make_client(kind, plane.address, plane.token)
    assert (await asyncio.to_thread(by_environment.access.whoami)).principal == "admin"
    await asyncio.to_thread(by_environment.close)


def test_certificates_that_cannot_be_used_are_all_named(tmp_path: Path) -> None:
    connection = find_connection("h:1", "t", ca_file=tmp_path / "none.pem", key_file=tmp_path / "none.key")
    with pytest.raises(errors.InvalidArgument) as caught:
        connection.certificates()
    assert [v.field for v in caught.value.violations] == ["ca_file", "key_file", "cert_file"]
    assert find_connection("h:1", "t").certificates() is None


@pytest.mark.ledger("G4")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_is_left_early_is_ended_on_the_server(
    kind: str, make_control_plane: MakeControlPlane
) -> None:
    plane = await make_control_plane()
    client = make_client(kind, plane.address, plane.token)

    def look() -> str:
        client.lifecycle.pause("a")
        for answer in client.events.watch(resume_token="0"):
            if answer.HasField("event"):
                return str(answer.event.kind)
        return ""

    assert await asyncio.wait_for(asyncio.to_thread(look), 20)
    await asyncio.to_thread(client.close)
    # Nothing is left open: the end of the control plane does not wait for it.
    begun = time.monotonic()
    await plane.app.stop()
    assert time.monotonic() - begun < 5.0


def test_a_partial_upload_is_not_sent_twice(tmp_path: Path) -> None:
    from pilotfish.artifacts import local_files, read_chunks

    big = tmp_path / "model.onnx"
    big.write_bytes(bytes(range(256)) * 10_000)
    [(name, (path, described))] = local_files(big).items()
    assert name == "model.onnx" and described.size_bytes == 2_560_000
    pieces = list(read_chunks(path, 1_500_000))
    assert pieces[0][0] == 1_500_000 and b"".join(data for _, data in pieces) == big.read_bytes()[1_500_000:]
    assert functools.reduce(max, (len(d) for _, d in read_chunks(path, 0))) == 1024 * 1024
    with pytest.raises(errors.InvalidArgument, match="no file or directory"):
        local_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InvalidArgument, match="holds no file"):
        local_files(tmp_path / "empty")
