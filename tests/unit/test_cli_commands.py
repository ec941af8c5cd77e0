"""Commands against a client in memory: what they ask for, what they say, and the exit code they end with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pilotfish.cli.main import main
from pilotfish.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotfishError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
)
from pilotfish.messages import build
from pilotfish.v1 import deployment_pb2 as deploy_pb
from pilotfish.v1 import registry_pb2, training_pb2

from .cli_world import World, deployment, judged, version, world

__all__ = ["world"]  # the fixture


@pytest.mark.parametrize(
    ("error", "code", "step"),
    [
        (NotFound("there is no model fraud"), 1, "pilotfish get models"),
        (NotFound("there is no retirement plan x"), 1, "pilotfish get retirements"),
        (AlreadyExists("taken"), 1, "choose another name"),
        (InvalidArgument("bad"), 2, "pilotfish get --help"),
        (FailedPrecondition("the state forbids it"), 5, "pilotfish status"),
        (PermissionDenied("too low"), 5, "token create"),
        (Unauthenticated("no token"), 1, "PILOTFISH_TOKEN"),
        (Unavailable("down"), 1, "pilotfish up"),
        (ResourceExhausted("full", retry_after_s=3.0), 1, "in 3 s"),
        (DeadlineExceeded("late"), 1, "pilotfish status"),
        (Internal("a bug", request_id="r-17"), 1, "r-17"),
    ],
)
def test_an_error_is_told_whole_with_its_exit_code_and_the_next_step(
    world: World, error: PilotfishError, code: int, step: str
) -> None:
    error.violations = (Violation("stage", "is no stage"), Violation("", "and another thing"))
    world.client.models.answers["list"] = error
    result = world.run("get", "models", "-o", "json")
    assert result.exit_code == code
    assert result.stdout == ""
    assert f"✗ {error.message}" in result.stderr
    assert "• stage: is no stage" in result.stderr and "• and another thing" in result.stderr
    assert step in result.stderr
    assert "Traceback" not in result.output and "grpc" not in result.output
    assert world.client.closed


def test_wrong_usage_ends_with_2(world: World) -> None:
    for arguments in (
        ["frob"],
        ["get"],
        ["deploy"],
        ["get", "models", "-o", "xml"],
        ["rollback", "fraud/production"],
        [],
    ):
        assert world.run(*arguments).exit_code == 2, arguments
    assert world.run("get", "frobs").exit_code == 2
    assert world.asked == []


@pytest.mark.parametrize(("verdict", "code"), [("fail", 3), ("inconclusive", 4)])
def test_a_promotion_that_was_not_made_ends_with_its_verdict(world: World, verdict: str, code: int) -> None:
    world.client.deployments.answers["promote"] = judged(verdict, promoted=False)
    result = world.run("promote", "fraud/staging", "--to", "production", "-c", "error_ratio<=0.01:100")
    assert result.exit_code == code
    assert "error_ratio <= 0.01" in result.stdout and verdict.upper() in result.stdout and "412" in result.stdout
    [(_, arguments, options)] = world.client.deployments.calls
    assert arguments == ("fraud/staging",) and options["target_stage"] == "production"
    assert options["criteria"] == [{"metric": "error_ratio", "comparison": "<=", "bound": 0.01, "min_sample": 100}]
    as_json = world.run("promote", "fraud/staging", "-o", "json")
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["decision"]["verdict"] == verdict


def test_a_promotion_is_followed_until_it_serves(world: World) -> None:
    world.client.deployments.answers["promote"] = judged("pass", promoted=True)
    world.client.deployments.answers["watch"] = lambda name, timeout_s: iter(
        [deployment(stage="production", state="warming"), deployment(stage="production", traffic_bp=10_000)]
    )
    result = world.run("promote", "fraud/staging")
    assert result.exit_code == 0
    assert "fraud@3 is in fraud/production, 100 % of the traffic" in result.stdout
    assert "warming" in result.stderr and "ready" in result.stderr


def test_judging_only_promotes_nothing(world: World) -> None:
    world.client.deployments.answers["promote"] = judged("pass", promoted=False)
    result = world.run("promote", "fraud/staging", "--dry-run")
    assert result.exit_code == 0 and "nothing was changed" in result.stdout
    assert world.client.deployments.calls[0][2]["validate_only"] is True


def test_a_bad_criterion_never_reaches_the_control_plane(world: World) -> None:
    result = world.run("promote", "fraud/staging", "-c", "accuracy=1")
    assert result.exit_code == 2 and "METRIC<=BOUND" in result.stderr
    assert world.asked == []


def test_a_deployment_is_shown_on_its_way_and_documented_once(world: World) -> None:
    world.client.deployments.answers["deploy"] = deployment(state="pending")
    world.client.deployments.answers["watch"] = lambda name, timeout_s: iter(
        [deployment(state="starting"), deployment(state="starting"), deployment()]
    )
    result = world.run("deploy", "fraud@3", "--replicas", "2", "--memory", "512", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["state"] == "ready"
    assert result.stderr.count("starting") == 1
    _, arguments, options = world.client.deployments.calls[0]
    assert arguments == ("fraud@3",) and options["stage"] == "staging" and options["wait"] is False
    assert options["config"] == {"scaling": {"replicas": 2}, "resources": {"memory_mib": 512}}


def test_a_deployment_that_fails_says_why_and_where_to_look(world: World) -> None:
    world.client.deployments.answers["deploy"] = deployment(state="pending")
    failed = deployment(state="failed", replicas=[{"id": "r", "state_reason": "its model does not load"}])
    world.client.deployments.answers["watch"] = lambda name, timeout_s: iter([failed])
    result = world.run("deploy", "fraud@3")
    assert result.exit_code == 1
    assert "its model does not load" in result.stderr and "pilotfish describe deployment" in result.stderr


def test_a_deployment_that_takes_too_long_goes_on(world: World) -> None:
    def watch(name: str, timeout_s: float) -> Any:
        yield deployment(state="starting", state_reason="pulls files")
        raise DeadlineExceeded("over")

    world.client.deployments.answers |= {"deploy": deployment(state="pending"), "watch": watch}
    result = world.run("deploy", "fraud@3", "--timeout", "5")
    assert result.exit_code == 1 and "is starting at fraud/staging after 5 s: pulls files" in result.stderr


def test_checks_before_a_deployment_are_all_shown(world: World) -> None:
    checks = [
        deploy_pb.ReadinessCheck(check="version_exists", passed=True, explanation="it does"),
        deploy_pb.ReadinessCheck(check="stage_order", passed=False, explanation="canary needs production"),
    ]
    world.client.deployments.answers["check"] = checks
    result = world.run("deploy", "fraud@3", "--stage", "canary", "--dry-run")
    assert result.exit_code == 5
    assert "✓ version exists" in result.stdout and "canary needs production" in result.stdout
    world.client.deployments.answers["check"] = checks[:1]
    assert world.run("deploy", "fraud@3", "--dry-run").exit_code == 0


def test_traffic_is_set_whole_under_the_tables_etag(world: World) -> None:
    routes = {"generation": 4, "etag": "r4", "weights": [{"deployment": "d1", "weight_bp": 10_000}]}
    endpoint = build(
        deploy_pb.Endpoint, {"name": "projects/default/endpoints/fraud", "model": "fraud", "routes": routes}
    )
    world.client.endpoints.answers |= {"get": endpoint, "set_traffic": endpoint.routes}
    result = world.run("traffic", "fraud", "canary=10", "production=90")
    assert result.exit_code == 0
    _, arguments, options = world.client.endpoints.calls[1]
    assert arguments == ("fraud", {"canary": 1000, "production": 9000}) and options["etag"] == "r4"
    assert world.run("traffic", "fraud", "canary=10").exit_code == 2


def test_scaling_keeps_the_resources_that_were_not_named(world: World) -> None:
    world.client.deployments.answers |= {"get": deployment(), "scale": deployment()}
    assert world.run("scale", "fraud/staging", "--cpu", "2").exit_code == 0
    assert world.client.deployments.calls[-1][2]["resources"] == {"cpu_cores": 2.0, "memory_mib": 1024}
    assert world.run("scale", "fraud/staging").exit_code == 2


def test_a_name_after_a_plural_is_the_parent_and_after_a_singular_the_thing(world: World) -> None:
    world.client.models.answers |= {"versions": [version(1), version(2)], "version": version(2)}
    assert world.run("get", "versions", "fraud", "-o", "name").stdout == "fraud@1\nfraud@2\n"
    assert world.run("get", "versions", "fraud@2", "-o", "name").stdout == "fraud@2\n"
    assert world.run("get", "version", "fraud", "-o", "name").stdout == "fraud@2\n"
    assert [name for name, _, _ in world.client.models.calls] == ["versions", "version", "version"]


def test_a_name_that_is_no_parent_may_be_one_of_the_kind(world: World) -> None:
    job = build(training_pb2.Job, {"name": "projects/default/pipelines/p/jobs/j1", "pipeline": "p"})

    def find(name: str) -> Any:
        if name != "j1":
            raise NotFound(f"there is no job {name}")
        return job

    world.client.pipelines.answers |= {"jobs": NotFound("there is no pipeline"), "job": find}
    assert world.run("get", "jobs", "j1", "-o", "name").stdout == "projects/default/pipelines/p/jobs/j1\n"
    missing = world.run("get", "jobs", "j2")
    assert missing.exit_code == 1 and "there is no pipeline" in missing.stderr
    replica = build(deploy_pb.Replica, {"name": f"{deployment().name}/replicas/r1", "id": "r1"})
    world.client.deployments.answers |= {
        "get": deployment(),
        "replicas": [replica],
        "list": [deployment(replicas=[replica])],
    }
    assert len(json.loads(world.run("get", "replicas", "fraud/staging", "-o", "json").stdout)) == 1
    assert json.loads(world.run("get", "replica", "r1", "-o", "json").stdout)["id"] == "r1"


def test_a_register_tells_facts_as_the_contract_has_them(world: World, tmp_path: Path) -> None:
    world.client.models.answers["register"] = version(artifact_size_bytes=2048)
    result = world.run(
        "register", str(tmp_path), "-m", "fraud", "--metric", "auc=0.9", "--tag", "team=risk",
        "--hyperparameter", "depth=3", "--hyperparameter", "name=abc", "--alias", "champion",
    )  # fmt: skip
    assert result.exit_code == 0 and "fraud@3 is registered" in result.stdout
    options = world.client.models.calls[0][2]
    assert options["metrics"] == {"auc": 0.9} and options["tags"] == {"team": "risk"}
    assert options["hyperparameters"] == {"depth": 3, "name": "abc"} and options["aliases"] == ["champion"]
    assert world.run("register", str(tmp_path), "-m", "fraud", "--metric", "auc=x").exit_code == 2


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("rejected", 3), ("failed", 1), ("cancelled", 1)])
def test_a_watched_job_ends_with_its_own_exit_code(world: World, state: str, code: int) -> None:
    name = "projects/default/pipelines/p/jobs/j1"
    queued = build(training_pb2.Job, {"name": name, "pipeline": "p", "state": "queued"})
    ended = build(training_pb2.Job, {"name": name, "pipeline": "p", "state": state, "metrics": {"accuracy": 0.9}})

    class Answer:
        job = ended
        progress = training_pb2.JobProgress(sequence=1, stage="train", progress=0.5, message="fitting")

        def HasField(self, _: str) -> bool:
            return True

    away = [Unavailable("restarting")]

    def watch(name: str, after_sequence: int) -> Any:
        if away:
            raise away.pop()
        yield Answer()

    world.client.pipelines.answers |= {"trigger": queued, "watch": watch}
    result = world.run("train", "p", "--watch", "--deliver", "fraud/canary")
    assert result.exit_code == code
    assert "fitting" in result.stderr and state in result.stdout
    assert world.client.pipelines.calls[0][2]["delivery"] == {"endpoint": "fraud", "stage": "canary"}


def test_apply_says_created_changed_and_unchanged(world: World, tmp_path: Path) -> None:
    models = {"a": build(registry_pb2.Model, {"name": "projects/default/models/a", "description": "old"})}
    models["c"] = build(
        registry_pb2.Model, {"name": "projects/default/models/c", "description": "same", "tags": {"x": "1"}}
    )

    def get(name: str) -> Any:
        if name not in models:
            raise NotFound(f"there is no model {name}")
        return models[name]

    world.client.models.answers |= {"get": get, "create": None, "update": None}
    file = tmp_path / "models.json"
    documents = [
        {"kind": "Model", "name": "a", "description": "new"},
        {"kind": "Model", "name": "b", "spec": {"tags": {"t": "u"}}},
        {"kind": "Model", "name": "c", "description": "same"},
    ]
    file.write_text(json.dumps(documents))
    dry = world.run("apply", "-f", str(file), "--dry-run")
    assert "would be changed" in dry.stdout and [c[0] for c in world.client.models.calls] == ["get"] * 3
    result = world.run("apply", "-f", str(file), "-o", "json")
    assert [d["outcome"] for d in json.loads(result.stdout)] == ["changed", "created", "unchanged"]
    assert ("update", ("a",), {"description": "new", "tags": None}) in world.client.models.calls
    assert ("create", ("b",), {"description": "", "tags": {"t": "u"}}) in world.client.models.calls


def test_truths_are_given_as_pairs_or_as_a_file(world: World, tmp_path: Path) -> None:
    world.client.monitoring.answers["log_truth"] = 2
    assert world.run("truth", "fraud", "a=1", "b=0").exit_code == 0
    assert world.client.monitoring.calls[0][1:] == ((["a", "b"], [1.0, 0.0]), {"scope": "fraud"})
    file = tmp_path / "truths.csv"
    file.write_text("prediction_id,truth\na,cat\nb,dog\n")
    assert world.run("truth", "fraud", "-f", str(file)).exit_code == 0
    assert world.client.monitoring.calls[1][1] == (["a", "b"], ["cat", "dog"])
    assert world.run("truth", "fraud").exit_code == 2
    assert world.run("truth", "fraud", "a").exit_code == 2


def test_the_text_of_a_token_is_all_that_stdout_gets(world: World) -> None:
    world.client.access.answers["create_token"] = "s3cret"
    result = world.run("token", "create", "ci", "--role", "deployer", "--lifetime", "90d")
    assert result.stdout == "s3cret\n"
    assert world.client.access.calls[0][1:] == (("ci", "deployer"), {"lifetime_s": 7_776_000.0})


def test_a_file_that_cannot_be_used_is_told_without_a_traceback(world: World) -> None:
    world.client.models.answers["download"] = PermissionError(13, "Permission denied", "/root/x")
    result = world.run("download", "m@1", "/root/x")
    assert result.exit_code == 1 and "✗ /root/x: Permission denied" in result.stderr


def test_options_reach_the_client(world: World) -> None:
    world.client.models.answers["list"] = []
    world.run("get", "models", "--address", "h:1", "--token", "t", "--project", "p", "--home", "/tmp/x", "-o", "json")
    world.run("get", "models", "--ca-file", "ca.pem", "--cert-file=c.pem", "--key-file", "k.pem")
    assert [str(p) for p in (world.asked[1][0].ca_file, world.asked[1][0].cert_file)] == ["ca.pem", "c.pem"]
    cli, _ = world.asked[0]
    assert (cli.address, cli.token, cli.project, str(cli.home)) == ("h:1", "t", "p", "/tmp/x")


def test_main_returns_the_exit_code_and_never_raises(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pilotfish ")
    assert main(["--home", str(tmp_path), "--address", "127.0.0.1:1", "get", "models"]) == 1
    assert "there is no token" in capsys.readouterr().err
    assert main(["--address", "127.0.0.1:1", "--token", "t", "version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["server"] == ""


def test_help_loads_neither_grpc_nor_protobuf_nor_rich() -> None:
    code = (
        "import sys; from pilotfish.cli.main import main; main(['--help']);"
        "heavy = {'grpc', 'google.protobuf', 'numpy', 'rich', 'yaml', 'importlib.metadata', 'urllib.request'};"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "promote" in ended.stdout and "Exit codes" in ended.stdout
