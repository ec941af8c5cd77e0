"""How it is watched: clean traffic, a rule, and the drift that the sidecar finds."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import numpy as np
from google.protobuf import json_format

from pilotfish.cli.demo.data import DigitRows
from pilotfish.cli.demo.story import ENDPOINT, MODEL, WINDOW, Story
from pilotfish.cli.demo.traffic import LiveTraffic, Sender
from pilotfish.messages import build
from pilotfish.v1 import deployment_pb2

__all__ = ["clean_traffic", "shift", "write_rules"]


def clean_traffic(story: Story) -> None:
    """Send rows like those that version 1 knows: two full windows and no alert."""
    with story.show.step("clean", f"Clean traffic by gRPC and REST, labels arriving late: windows of {WINDOW} rows"):
        sender = Sender(story.gateway, ENDPOINT, story.ledger)
        story.send(sender, story.split.clean, "clean traffic")
        sender.close()
        story.facts["clean_predictions_before_shift"] = len(story.split.clean)
        verdicts = story.wait_for("two full windows", lambda: story.verdicts(2), timeout_s=30.0)
        rows = [
            [
                v.window,
                str(v.n),
                f"{v.score:.2f}",
                f"{v.threshold:.2f}",
                "[red]drifted[/]" if v.drifted else "[green]quiet[/]",
            ]
            for v in reversed(verdicts)
        ]
        story.show.table(["window", "rows", "score", "threshold", "verdict"], rows)
        alerts = story.client.monitoring.alerts()
        story.facts["alerts_before_shift"] = len(alerts)
        story.need(not alerts, f"an alert on clean traffic: {[a.summary for a in alerts]}")
        story.show.fact("no alert")


def write_rules(story: Story) -> None:
    """Write the rule that closes the loop: drift, retrain, canary, promote."""
    with story.show.step("rules", "A rule closes the loop: drift → retrain → canary → promote on evidence"):
        plan = {
            "strategy": "canary",
            "steps": [{"weight_bp": 3000}],
            "criteria": [
                {"metric": "error_ratio", "comparison": "<=", "bound": 0.01, "min_sample": 40},
                {"metric": "accuracy", "comparison": ">=", "bound": 0.85, "min_sample": 40},
            ],
            "max_wait_s": 60,
            "on_inconclusive": "abort",
            "auto_promote": True,
        }
        delivery = {"endpoint": ENDPOINT, "stage": "STAGE_CANARY", "plan": _wire_plan(plan)}
        story.client.lifecycle.create_rule(
            "retrain-on-drift",
            {
                "description": "new kinds of rows: learn them, try the result, promote it if it is good",
                "triggers": [{"type": "data_drift", "endpoint": ENDPOINT, "stages": ["production"]}],
                "conditions": [{"metric": "label_count", "comparison": ">=", "bound": 100}],
                "actions": [
                    {
                        "type": "send_alert",
                        "parameters": {"severity": "info", "message": "drift: retraining begins"},
                    },
                    {"type": "retrain_model", "parameters": {"pipeline": MODEL, "delivery": delivery}},
                ],
                "cooldown_s": 600,
            },
        )
        story.show.fact("retrain-on-drift: send_alert, retrain_model → canary 30 % → production")


def shift(story: Story) -> None:
    """Let the other digits arrive until the sidecar finds them."""
    with story.show.step("drift", "The digits 6–9 arrive: the sidecar finds the drift"):
        sender = Sender(story.gateway, ENDPOINT, story.ledger)
        before = len(story.client.lifecycle.firings("retrain-on-drift"))
        story.need(before == 0, "the rule fired before the shift")
        story.traffic = LiveTraffic(sender, _shifted_pool(story), story.seed + 1, pause_s=0.008)
        first = story.ledger.sent
        story.traffic.start()
        with story.show.bar("shifted traffic", None) as update:

            def drifted() -> Any:
                update(story.ledger.sent - first)
                return [v for v in story.client.monitoring.drift(f"{ENDPOINT}/production") if v.drifted]

            verdict = story.wait_for("drift", drifted, timeout_s=60.0)[-1]
        # Rows of the stream up to the end of the window that told: what came later is not counted.
        closed = verdict.end_time.ToDatetime(tzinfo=UTC).timestamp()
        with story.ledger.lock:
            counted = sum(1 for t in story.ledger.times[first:] if t <= closed + 0.001)
        story.facts["drift_detected_after_predictions"] = counted
        names = [f.feature for f in verdict.features if f.drifted]
        story.show.fact(
            f"drift after {counted} shifted predictions: {verdict.method} {verdict.score:.1f}, "
            f"threshold {verdict.threshold:.1f}"
        )
        story.show.fact(f"{len(names)} of {len(verdict.features)} features drifted, most of all {', '.join(names[:4])}")


def _shifted_pool(story: Story) -> DigitRows:
    """Return the new digits with some of the known ones among them."""
    known = 200
    images = np.concatenate([story.split.new.images, story.split.clean.images[:known]])
    odd = np.concatenate([story.split.new.odd, story.split.clean.odd[:known]])
    return DigitRows(images, odd)


# Any: plain JSON.
def _wire_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a rollout plan with the contract's full enum names, as rules keep it."""
    return json_format.MessageToDict(build(deployment_pb2.RolloutPlan, plan), preserving_proto_field_name=True)
