"""How it ends: the control plane is killed, the accounts are held against the callers' ids, version 1 retires."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pilotfish.blocking.client import Client
from pilotfish.cli.demo.checks import compare_ids
from pilotfish.cli.demo.show import StepFailed
from pilotfish.cli.demo.story import ENDPOINT, MODEL, Story, word
from pilotfish.errors import PilotfishError
from pilotfish.v1 import lifecycle_pb2, monitoring_pb2

__all__ = ["kill_control_plane", "retire_and_report", "settle"]


def kill_control_plane(story: Story) -> None:
    """Kill the control plane in the middle of traffic; the supervisor starts it again."""
    with story.show.step("kill", "kill -9 the control plane in the middle of traffic"):
        run = story.home / "run" / "control_plane.json"
        pid = _pid(run)
        story.need(pid > 0, "the control plane's pid is not known")
        killed = time.time()
        os.kill(pid, signal.SIGKILL)

        def back() -> Any:
            if _pid(run) in (0, pid):
                return None
            try:
                return Client(home=story.home, timeout_s=2.0).access.whoami()
            except PilotfishError:
                return None

        story.wait_for("its return", back, timeout_s=60.0)
        returned = time.time()
        with story.ledger.lock:
            during = sum(1 for t in story.ledger.times if killed < t < returned)
        story.client.close()
        story.client = Client(home=story.home)
        story.facts |= {
            "control_plane_restarts": _restarts(story.home),
            "predictions_during_downtime": during,
            "downtime_seconds": round(returned - killed, 3),
        }
        story.show.fact(f"away for {returned - killed:.1f} s; {during} predictions were answered meanwhile")
        story.need(during > 0, "no prediction was answered while it was away")
        time.sleep(1.0)


def settle(story: Story) -> None:
    """Stop the traffic and hold what the callers saw against an export of the prediction log."""
    with story.show.step("account", "Hold the callers' ids against an export of the prediction log"):
        story.end()
        story.traffic = story.labels = None
        expected = list(story.ledger.answered)
        wanted = set(expected)

        def settled() -> Any:
            stored = [i for part in story.client.monitoring.export(ENDPOINT) for i in part.prediction_ids]
            return stored if wanted <= set(stored) else None

        try:
            stored = story.wait_for("every prediction in the log", settled, timeout_s=30.0)
        except StepFailed:
            stored = [i for part in story.client.monitoring.export(ENDPOINT) for i in part.prediction_ids]
        lost, duplicated = compare_ids(expected, stored)
        labelled = sum(sum(1 for t in part.truths if t) for part in story.client.monitoring.export(ENDPOINT))
        story.facts |= {
            "predictions_sent": story.ledger.sent,
            "predictions_failed": len(story.ledger.failures),
            "predictions_stored": len(stored),
            "lost": lost,
            "duplicated": duplicated,
            "label_coverage": round(labelled / max(len(stored), 1), 4),
        }
        story.show.fact(
            f"{story.ledger.sent} sent, {len(story.ledger.failures)} failed, {len(stored)} stored, "
            f"{lost} lost, {duplicated} duplicated; {labelled / max(len(stored), 1):.1%} have their label"
        )
        story.need(not story.ledger.failures, f"predictions failed: {story.ledger.failures[:3]}")
        story.need(lost == 0 and duplicated == 0, "predictions were lost or counted twice")
        _account_actions(story)


def _account_actions(story: Story) -> None:
    firings = story.client.lifecycle.firings()
    actions = [a for f in firings for a in f.actions]
    done = [a for a in actions if word(lifecycle_pb2.ActionState, a.state) == "succeeded"]
    retrains = [a for a in done if a.type == "retrain_model"]
    jobs = [j for j in story.client.pipelines.jobs(MODEL) if j.trigger == "data_drift"]
    rule_alerts = [a for a in story.client.monitoring.alerts() if word(monitoring_pb2.AlertKind, a.kind) == "rule"]
    alerted = [a for a in done if a.type == "send_alert"]
    # What the actions left behind is counted, not what they say of themselves.
    duplicated = (
        (len(jobs) - len(retrains)) + (len(rule_alerts) - len(alerted)) + (len(actions) - len({a.key for a in actions}))
    )
    acted = [f for f in firings if f.HasField("act_time") and f.actions and f.actions[0].HasField("start_time")]
    reactions = [
        f.actions[0].start_time.ToDatetime().timestamp() - f.evidence_time.ToDatetime().timestamp() for f in acted
    ]
    story.facts |= {
        "reaction_seconds_max": round(max(reactions), 3) if reactions else None,
        "actions_executed": len(done),
        "actions_duplicated": duplicated,
    }
    story.need(duplicated == 0, f"{duplicated} actions took effect more than once")
    story.need(bool(reactions), "no rule acted")
    story.show.fact(
        f"{len(done)} actions, {duplicated} of them twice; "
        f"slowest reaction {max(reactions):.2f} s after its window closed"
    )


def retire_and_report(story: Story) -> None:
    """Retire version 1 and print the report."""
    with story.show.step("retire", "Retire version 1, and read the monitoring report"):
        plan = story.client.lifecycle.plan_retirement(
            f"{MODEL}@1",
            datetime.now(UTC),
            replacement_version=int(story.facts["promoted_version"]),
            notes="superseded",
        )

        def over() -> Any:
            found = story.client.lifecycle.retirement_plan(plan.name)
            return found if word(lifecycle_pb2.RetirementState, found.state) in ("completed", "halted") else None

        plan = story.wait_for("the end of the plan", over, timeout_s=30.0)
        state = word(lifecycle_pb2.RetirementState, plan.state)
        rows = [
            [
                p.phase,
                f"{p.due_time.ToDatetime():%Y-%m-%d}",
                ", ".join(s.type for s in p.steps),
                "[green]done[/]" if p.HasField("end_time") else "…",
            ]
            for p in plan.phases
        ]
        story.show.table(["phase", "due", "steps", ""], rows)
        story.need(state == "completed", f"the plan is {state}: {plan.state_reason}")
        _show_report(story)


def _show_report(story: Story) -> None:
    report = story.client.monitoring.report(ENDPOINT)
    totals, drift = report["totals"], report["drift_analysis"]
    lines = [
        f"predictions {totals['predictions']}, errors {totals['errors']}, "
        f"p50 {totals['latency'].get('p50_ms', 0):.2f} ms, "
        f"p99 {totals['latency'].get('p99_ms', 0):.2f} ms, labels {totals['label_coverage'] or 0:.0%}",
        f"drift: {drift['windows_drifted']} of {drift['windows']} windows, most often "
        + ", ".join(f["feature"] for f in drift["most_drifted_features"][:4]),
    ]
    for p in report["performance_analysis"]:
        accuracy = p["quality"].get("accuracy")
        shown = f"accuracy {accuracy:.3f} on {p['labelled']} labels" if accuracy is not None else "no labels"
        lines.append(f"  {MODEL}@{p['version']} ({p['deployment']}): {p['calls']} calls, {shown}")
    lines += [f"→ {text}" for text in report["recommendations"]]
    story.show.panel(f"Monitoring report of {ENDPOINT}, last 7 days", lines)


def _pid(path: Path) -> int:
    try:
        return int(json.loads(path.read_text()).get("pid", 0))
    except (OSError, ValueError):
        return 0


def _restarts(home: Path) -> int:
    try:
        return int(json.loads((home / "run" / "restarts.json").read_text()).get("control_plane", 0))
    except (OSError, ValueError):
        return 0
