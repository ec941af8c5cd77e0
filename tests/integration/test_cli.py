"""The command line against the real control plane: every group of commands, and what programs read from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from pilotfish.cli.main import app
from tests.registry_models import bare_files, whole_files

from ..conftest import MakeControlPlane, RunningControlPlane
from .serving_world import FakeNode


@dataclass
class Shell:
    """The command line pointed at a control plane; commands run in a thread beside it."""

    plane: RunningControlPlane
    work: Path
    token: str = ""

    # Any: the runner's result, whatever its version calls it.
    async def run(self, *arguments: str, code: int = 0, **options: Any) -> Any:
        """Run a command that must end with an exit code; return its result."""
        given = ["--address", self.plane.address, "--token", self.token or self.plane.token]
        runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"})
        result = await asyncio.to_thread(runner.invoke, app, [*arguments, *given], **options)
        assert result.exit_code == code, f"{arguments} ended with {result.exit_code}:\n{result.output}"
        assert "Traceback" not in result.output and "grpc." not in result.stderr
        return result

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Return the one document that a command writes."""
        return json.loads((await self.run(*arguments, "-o", "json", code=code)).stdout)

    def artifact(self, name: str, files: dict[str, bytes]) -> str:
        """Write an artifact; return its directory."""
        directory = self.work / name
        directory.mkdir(parents=True)
        for path, data in files.items():
            (directory / path).write_bytes(data)
        return str(directory)

    def file(self, name: str, text: str) -> str:
        """Write a file; return its path."""
        (self.work / name).write_text(text)
        return str(self.work / name)


@pytest_asyncio.fixture
async def shell(make_control_plane: MakeControlPlane, tmp_path: Path) -> AsyncIterator[Shell]:
    """Return the command line before a control plane whose node starts whatever it is told."""
    plane = await make_control_plane(gateway_port=0, sweep_s=0.5)
    (tmp_path / "work").mkdir()
    async with FakeNode(plane.channel_with(plane.node_token)):
        yield Shell(plane, tmp_path / "work")


@pytest.mark.ledger("G5", "B1", "C1", "C2", "C3", "C5")
async def test_a_version_is_registered_deployed_judged_promoted_and_rolled_back(shell: Shell) -> None:
    first = await shell.run("register", shell.artifact("one", whole_files()), "-m", "fraud", "--alias", "champion")
    assert "fraud@1 is registered" in first.stdout and "pilotfish deploy fraud@1" in first.stderr
    await shell.run("register", shell.artifact("two", bare_files(1)), "-m", "fraud")
    assert (await shell.run("get", "versions", "fraud", "-o", "name")).stdout.split() == ["fraud@2", "fraud@1"]
    await shell.run("deploy", "fraud@champion", "--stage", "production")
    deployed = await shell.run("deploy", "fraud@2", "--stage", "staging")
    assert "fraud@2 serves at fraud/staging" in deployed.stdout and "● ready" in deployed.stderr
    too_early = await shell.run("promote", "fraud/staging", "--to", "production", "-c", "accuracy>=0.9:10", code=4)
    assert "INCONCLUSIVE" in too_early.stdout and "accuracy >= 0.9" in too_early.stdout
    always = ("-c", "prediction_count>=0:1")
    verdict = await shell.json("promote", "fraud/staging", "--to", "production", *always, "--dry-run")
    assert (
        verdict["decision"]["verdict"] == "pass"
        and verdict["decision"]["verdicts"][0]["criterion"]["metric"] == "prediction_count"
    )
    status = await shell.json("status", code=0)
    assert {(d["stage"], d["version"]) for d in status["endpoints"][0]["deployments"]} == {
        ("production", 1),
        ("staging", 2),
    }
    refused = await shell.run("rollback", "fraud/production", "--reason", "bad", code=5)
    assert "cannot be rolled back" in refused.stderr
    table = await shell.json("traffic", "fraud")
    assert [w["weight_bp"] for w in table["routes"]["weights"]] == [10_000]
    await shell.run("traffic", "fraud", "production=50", code=2)
    await shell.run("stop", "fraud/production", code=5)
    await shell.run("stop", "fraud/staging", "--reason", "over")
    scaled = await shell.json("scale", "fraud/production", "--replicas", "2", "--memory", "512")
    assert scaled["config"]["scaling"]["replicas"] == 2
    assert scaled["config"]["resources"] == {"cpu_cores": 1, "memory_mib": 512}
    for kind in ("endpoints", "deployments", "replicas", "rollouts"):
        assert (await shell.run("get", kind)).stdout.count("\n") >= 2
    described = await shell.run("describe", "deployment", "fraud/production")
    assert "drift detection" in described.stdout and "calibrated" in described.stdout


@pytest.mark.ledger("G5", "C7")
async def test_a_canary_is_followed_paused_and_aborted(shell: Shell) -> None:
    for i in (1, 2):
        await shell.run("register", shell.artifact(str(i), bare_files(i)), "-m", "fraud")
    await shell.run("deploy", "fraud@1", "--stage", "production")
    await shell.run("deploy", "fraud@2", "--stage", "canary", "--steps", "5,25:60", "-c", "error_ratio<=0.01:1000")
    rollout = await shell.json("rollout", "status", "fraud")
    assert [s["weight_bp"] for s in rollout["plan"]["steps"]] == [500, 2500]
    assert rollout["plan"]["criteria"][0]["min_sample"] == 1000
    assert (await shell.json("rollout", "pause", "fraud", "--reason", "lunch"))["state"] == "paused"
    shown = await shell.run("rollout", "status", "fraud")
    assert "▲ paused" in shown.stdout and "error_ratio <= 0.01" in shown.stdout and "resume" in shown.stderr
    assert (await shell.json("rollout", "resume", "fraud"))["state"] == "progressing"
    await shell.run("rollout", "abort", "fraud", "--reason", "no")
    ended = await shell.run("rollout", "status", "fraud", "--watch", code=1)
    assert "aborted" in ended.stdout
    table = await shell.json("traffic", "fraud")
    assert [w["weight_bp"] for w in table["routes"]["weights"] if w["weight_bp"]] == [10_000]


DEFINITIONS = """
kind: Model
name: churn
description: who leaves
tags: {team: growth}
---
kind: FeatureSet
name: basics
transformations:
  - {type: scaling, method: standard, columns: [age]}
---
kind: Pipeline
name: nightly
model: churn
data_sources: [{name: rows, type: file, path: rows.csv}]
feature_config: {label: left, feature_set_id: basics}
training_config:
  model_config: {framework: sklearn, type: random_forest, task: classification}
schedule: "0 3 * * *"
---
kind: Rule
name: tell
triggers: [{type: data_drift, endpoint: churn}]
actions: [{type: send_alert, parameters: {message: look, severity: warning}}]
"""


@pytest.mark.ledger("G5", "D1", "F1")
async def test_what_a_file_defines_is_created_then_unchanged_then_changed(shell: Shell) -> None:
    path = shell.file("all.yaml", DEFINITIONS)
    outcomes = [d["outcome"] for d in await shell.json("apply", "-f", path, "--dry-run")]
    assert outcomes == ["created"] * 4
    assert [d["outcome"] for d in await shell.json("apply", "-f", path)] == ["created"] * 4
    assert [d["outcome"] for d in await shell.json("apply", "-f", path)] == ["unchanged"] * 4
    shell.file("all.yaml", DEFINITIONS.replace("0 3", "0 4").replace("severity: warning", "severity: critical"))
    result = await shell.json("apply", "-f", path)
    assert [(d["outcome"], d["fields"]) for d in result] == [
        ("unchanged", []), ("unchanged", []), ("changed", ["schedule"]), ("changed", ["actions"])]  # fmt: skip
    assert (await shell.json("get", "pipeline", "nightly"))["revision"] == 2
    back = shell.file("back.json", json.dumps({"kind": "Rule", **await shell.json("get", "rule", "tell")}))
    assert [d["outcome"] for d in await shell.json("apply", "-f", back)] == ["unchanged"]
    bad = shell.file("bad.yaml", DEFINITIONS.replace("churn\ndata", "other\ndata"))
    refused = await shell.run("apply", "-f", bad, code=5)
    assert "Pipeline nightly: model cannot be changed" in refused.stderr


@pytest.mark.ledger("G5", "F1", "F5")
async def test_automation_is_paused_and_retirement_planned(shell: Shell) -> None:
    await shell.run("register", shell.artifact("one", bare_files()), "-m", "fraud")
    await shell.run("register", shell.artifact("two", bare_files(1)), "-m", "fraud")
    assert (await shell.json("automation", "pause", "--reason", "night"))["paused"] is True
    assert "paused" in (await shell.run("automation", "status")).stdout
    assert (await shell.json("automation", "resume"))["paused"] is False
    dry = await shell.json("retire", "fraud@1", "--on", "100d", "--replacement", "2", "--dry-run")
    assert [p["phase"] for p in dry["phases"]] == [
        "deprecation_warning", "traffic_reduction", "final_migration", "retirement"]  # fmt: skip
    assert await shell.json("get", "retirements") == []
    plan = await shell.json("retire", "fraud@1", "--on", "200d", "--replacement", "2")
    name = plan["name"].rpartition("/")[2]
    assert "taken over by @2" in (await shell.run("retirement", "show", name)).stdout
    await shell.run("retirement", "postpone", name, "--on", "300d")
    assert (await shell.json("retirement", "cancel", name, "--reason", "no"))["state"] == "cancelled"
    await shell.run("retire", "fraud@1", "--on", "someday", code=2)


@pytest.mark.ledger("G5", "G3")
async def test_tokens_are_made_used_and_revoked(shell: Shell) -> None:
    secret = (await shell.run("token", "create", "eve", "--role", "viewer", "--lifetime", "1h")).stdout.strip()
    viewer = Shell(shell.plane, shell.work, secret)
    assert (await viewer.json("get", "models")) == []
    path = shell.file("model.yaml", "kind: Model\nname: m\n")
    refused = await viewer.run("apply", "-f", path, code=5)
    assert "pilotfish token create" in refused.stderr
    await shell.run("token", "revoke", "eve")
    states = {t["name"]: "revoke_time" in t for t in await shell.json("token", "list")}
    assert states["eve"] is True and states.pop("eve") and not any(states.values())
    await viewer.run("get", "models", code=1)
    assert any(e["actor"] == "admin" for e in await shell.json("audit"))


@pytest.mark.ledger("G5", "E2", "E3", "E6")
async def test_what_was_served_is_shown(shell: Shell) -> None:
    await shell.run("register", shell.artifact("one", bare_files()), "-m", "fraud")
    await shell.run("deploy", "fraud@1", "--stage", "production")

    def log() -> list[str]:
        from pilotfish import Client

        with contextlib.closing(Client(shell.plane.address, shell.plane.token)) as client:
            return client.monitoring.log_predictions("fraud/production", {"x": [1.0] * 40}, {"label": [0, 1] * 20})

    ids = await asyncio.to_thread(log)
    truths = shell.file("truths.csv", "id,truth\n" + "".join(f"{i},{n % 2}\n" for n, i in enumerate(ids[:20])))
    assert (await shell.json("truth", "fraud", "-f", truths)) == {"stored": 20}
    assert [m["prediction_count"] for m in await shell.json("metrics", "fraud")] == [40]
    report = await shell.json("report", "fraud", "--days", "1")
    assert report["totals"]["predictions"] == 40
    shown = (await shell.run("report", "fraud")).stdout
    assert "Predictions per day" in shown and "What to do" in shown
    assert "no window" in (await shell.run("drift", "fraud")).stderr
    assert await shell.json("alerts") == []


@pytest.mark.ledger("G5", "C7")
async def test_events_are_lines_of_json_until_enough_were_seen(shell: Shell) -> None:
    await shell.run("register", shell.artifact("one", bare_files()), "-m", "fraud")
    found = await shell.run("watch", "models", "versions", "--from-start", "--count", "2", "-o", "json")
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert {e["kind"] for e in lines} <= {"model.created", "version.registered"} and len(lines) == 2
    assert (await shell.run("watch", "job", "--for", "0.3s")).stdout == ""


@pytest.mark.ledger("G5")
async def test_every_list_is_one_document_and_every_table_has_a_head(shell: Shell) -> None:
    await shell.run("register", shell.artifact("one", bare_files()), "-m", "fraud")
    await shell.run("deploy", "fraud@1", "--stage", "production")
    kinds = "models versions endpoints deployments replicas rollouts pipelines jobs features rules firings alerts "
    for kind in (kinds + "retirements runs members tokens").split():
        rows = await shell.json("get", kind, "--all")
        assert isinstance(rows, list)
        if rows:
            first = (await shell.run("get", kind, "--all")).stdout.splitlines()[0]
            assert first == first.upper().replace("V", "V"), first
            name = (await shell.run("get", kind, "--all", "-o", "name")).stdout.splitlines()[0]
            singular = kind.removesuffix("s")
            described = await shell.json("describe", singular, name)
            assert isinstance(described, dict) and described
            assert (await shell.run("describe", singular, name)).stdout
    await shell.run("describe", "model", "nothing", code=1)


async def test_doctor_finds_what_is_there_and_what_is_not(shell: Shell) -> None:
    home = str(shell.plane.home)
    found = {f["check"]: f for f in await shell.json("doctor", "--home", home)}
    assert found["answers"]["ok"] is True and found["clock"]["ok"] is True and found["nodes"]["ok"] is True
    assert found["permissions"] == {**found["permissions"], "ok": True, "found": "0700"}
    shell.plane.home.chmod(0o755)
    worse = {f["check"]: f for f in await shell.json("doctor", "--home", home, code=1)}
    assert worse["permissions"]["ok"] is False and worse["permissions"]["advice"] == f"chmod 700 {home}"
    shown = await shell.run("doctor", "--home", home, code=1)
    assert "✗ permissions" in shown.stdout and "→ chmod 700" in shown.stdout
