"""A client that answers from memory, and the command line run against it, for tests of what is said and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pilotfish.cli.main import app
from pilotfish.messages import build
from pilotfish.v1 import deployment_pb2 as deploy_pb
from pilotfish.v1 import deployment_service_pb2 as deploy_svc
from pilotfish.v1 import registry_pb2


def deployment(**fields: Any) -> deploy_pb.Deployment:
    """Return fraud@3 in staging, READY, but for what is said."""
    values: dict[str, Any] = {
        "name": "projects/default/endpoints/fraud/deployments/d1",
        "id": "d1",
        "endpoint": "fraud",
        "model": "fraud",
        "version": 3,
        "stage": "staging",
        "state": "ready",
        "revision": 1,
        "ready_replicas": 1,
        "config": {"resources": {"cpu_cores": 1.0, "memory_mib": 1024}, "scaling": {"replicas": 1}},
    }
    return build(deploy_pb.Deployment, values | fields)


def version(number: int = 3, **fields: Any) -> registry_pb2.Version:
    """Return fraud@3."""
    name = f"projects/default/models/fraud/versions/{number}"
    values = {"name": name, "model": "fraud", "number": number, "status": "staging", "framework": "onnx"}
    return build(registry_pb2.Version, values | fields)


def judged(verdict: str, *, promoted: bool) -> deploy_svc.PromoteResponse:
    """Return the answer of a promotion whose one criterion came out so."""
    criterion = {"metric": "error_ratio", "comparison": "<=", "bound": 0.01, "min_sample": 100}
    one = {"criterion": criterion, "verdict": verdict, "value": 0.02, "bound": 0.01, "n": 412, "explanation": "seen so"}
    values: dict[str, Any] = {"promoted": promoted, "decision": {"verdict": verdict, "verdicts": [one]}}
    if promoted:
        values["deployment"] = deployment(stage="production", traffic_bp=10_000)
    return build(deploy_svc.PromoteResponse, values)


@dataclass
class Recorder:
    """Answers calls by name from `answers`, and remembers how it was called."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments, **options) if callable(answer) else answer

        return call


class FakeClient:
    """The areas of a client, each a Recorder."""

    AREAS = ("models", "endpoints", "deployments", "pipelines", "features", "experiments")
    MORE = ("monitoring", "lifecycle", "access", "events", "fleet")

    def __init__(self) -> None:
        self.connection = SimpleNamespace(address="127.0.0.1:7433")
        self.areas = {name: Recorder() for name in self.AREAS + self.MORE}
        self.closed = False

    def __getattr__(self, name: str) -> Recorder:
        try:
            return self.__dict__["areas"][name]  # type: ignore[no-any-return]  # filled above
        except KeyError:
            raise AttributeError(name) from None

    def close(self) -> None:
        self.closed = True


class World:
    """The command line in front of a fake client."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.asked: list[Any] = []

    def run(self, *arguments: str, **options: Any) -> Result:
        """Run a command; its streams are no terminal."""
        return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(app, list(arguments), **options)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Return the command line in front of a fake client."""
    for name in ("ADDRESS", "TOKEN", "HOME", "PROJECT", "OUTPUT"):
        monkeypatch.delenv(f"PILOTFISH_{name}", raising=False)
    client = FakeClient()
    found = World(client)

    def connect(cli: Any, *, timeout_s: float) -> FakeClient:
        found.asked.append((cli, timeout_s))
        return client

    monkeypatch.setattr("pilotfish.cli.context.connect", connect)
    yield found
