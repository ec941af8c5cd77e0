"""What the acts of the demo share: the client, the accounts, the facts. Every number in them is measured by the run.

A step that does not do what it must raises `StepFailed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotfish.blocking.client import Client
from pilotfish.cli.demo.data import DigitRows, Split, make_split
from pilotfish.cli.demo.show import Show, StepFailed
from pilotfish.cli.demo.traffic import LateLabels, Ledger, LiveTraffic, Sender
from pilotfish.messages import enum_text
from pilotfish.v1 import common_pb2, deployment_pb2

__all__ = ["ENDPOINT", "MODEL", "MONITORING", "WINDOW", "Story", "word"]

ENDPOINT = MODEL = "digits"
WINDOW = 200
MONITORING = {"monitoring": {"drift_detection": {"window_size": WINDOW, "scales": [1, 2], "method": "calibrated"}}}


def word(kind: Any, number: int) -> str:
    """Return an enum's word as people write it."""
    return enum_text(kind.DESCRIPTOR, number)


@dataclass(slots=True)
class Story:
    """One run."""

    home: Path
    data_dir: Path
    seed: int
    show: Show
    client: Client = field(init=False)
    split: Split = field(init=False)
    ledger: Ledger = field(default_factory=Ledger)
    facts: dict[str, Any] = field(default_factory=dict)
    labels: LateLabels | None = None
    traffic: LiveTraffic | None = None
    gateway: str = ""

    def tell(self, acts: Sequence[Callable[[Story], None]]) -> dict[str, Any]:
        """Play the acts; return the facts."""
        self.client = Client(home=self.home)
        self.split = make_split(self.seed)
        try:
            for act in acts:
                act(self)
        finally:
            self.end()
        return self.facts

    def end(self) -> None:
        """Stop whatever still runs in this process."""
        if self.traffic is not None:
            self.traffic.stop()
        if self.labels is not None:
            self.labels.stop()

    def need(self, holds: bool, why: str) -> None:
        """Fail the step unless something holds."""
        if not holds:
            raise StepFailed(self.show.step_name, why)

    def wait_for(self, what: str, look: Callable[[], Any], *, timeout_s: float) -> Any:
        """Return the first true answer of `look`."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            found = look()
            if found:
                return found
            time.sleep(0.1)
        raise StepFailed(self.show.step_name, f"{what} did not happen within {timeout_s:g} s")

    def show_verdicts(self, decision: common_pb2.Decision) -> None:
        """Show the verdict of each criterion."""
        rows = []
        for v in decision.verdicts:
            verdict = word(common_pb2.Verdict, v.verdict)
            colour = {"pass": "green", "fail": "red"}.get(verdict, "yellow")
            value = f"{v.value:.3f}" if v.HasField("value") else "–"
            rows.append([v.criterion.metric, f"[{colour}]{verdict.upper()}[/]", value, f"{v.bound:g}", str(v.n)])
        self.show.table(["criterion", "verdict", "value", "bound", "n"], rows)

    def send(self, sender: Sender, rows: DigitRows, what: str) -> None:
        """Send rows one by one; none may fail."""
        with self.show.bar(what, len(rows)) as update:
            sender.send_all(rows, update)
        self.need(not self.ledger.failures, f"a prediction failed: {self.ledger.failures[:1]}")

    def verdicts(self, at_least: int) -> Any:
        """Return the drift verdicts of production, None while there are fewer."""
        found = self.client.monitoring.drift(f"{ENDPOINT}/production")
        return found if len(found) >= at_least else None

    def watch_rollout(self, version: int) -> deployment_pb2.Rollout:
        """Return the rollout that brought a version into the canary stage, when it has ended."""

        def found() -> Any:
            for rollout in self.client.deployments.rollouts(ENDPOINT):
                name = f"projects/default/endpoints/{ENDPOINT}/deployments/{rollout.deployment}"
                is_canary = word(deployment_pb2.Stage, rollout.stage) == "canary"
                if is_canary and self.client.deployments.get(name).version == version:
                    return rollout
            return None

        rollout = self.wait_for(f"a rollout of version {version}", found, timeout_s=30.0)
        seen: list[deployment_pb2.Rollout] = list(self.client.deployments.watch_rollout(rollout.name, timeout_s=120.0))
        return seen[-1]
