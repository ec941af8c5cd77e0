"""The demo's story, step by step, through the public client. Every number in its result is measured by the run.

A step that does not do what it must raises `StepFailed`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pilotfish.blocking.client import Client
from pilotfish.cli.demo.checks import compare_ids, held_out_accuracy, write_bad_model
from pilotfish.cli.demo.data import PIXELS, DigitRows, Split, make_split, write_sources
from pilotfish.cli.demo.show import Show, StepFailed
from pilotfish.cli.demo.traffic import LateLabels, Ledger, LiveTraffic, Sender
from pilotfish.errors import PilotfishError
from pilotfish.messages import enum_text
from pilotfish.v1 import common_pb2, deployment_pb2, lifecycle_pb2, monitoring_pb2, training_pb2

__all__ = ["STEPS", "Story"]

STEPS = 10
ENDPOINT = MODEL = "digits"
WINDOW = 200
MONITORING = {"monitoring": {"drift_detection": {"window_size": WINDOW, "scales": [1, 2], "method": "calibrated"}}}
LABEL_DELAY_S = 0.3


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
    _labels: LateLabels | None = None
    _traffic: LiveTraffic | None = None
    _gateway: str = ""

    def run(self) -> dict[str, Any]:
        """Tell it; return the facts."""
        self.client = Client(home=self.home)
        self.split = make_split(self.seed)
        try:
            self.train_first()
            self.stage_and_promote()
            self.clean_traffic()
            self.write_rules()
            self.shift()
            self.successor_promoted()
            self.bad_version()
            self.kill_control_plane()
            self.settle()
            self.retire_and_report()
        finally:
            self.end()
        return self.facts

    def end(self) -> None:
        """Stop whatever still runs in this process."""
        if self._traffic is not None:
            self._traffic.stop()
        if self._labels is not None:
            self._labels.stop()

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

    # 1 ---------------------------------------------------------------------------------------------------

    def train_first(self) -> None:
        """Define a pipeline over an SQL table joined with a CSV, and train version 1 on the digits 0 to 5."""
        with self.show.step("train", "Train version 1: an SQL table joined with a CSV, digits 0–5 only"):
            database, labels = write_sources(self.split.train, self.data_dir)
            self.client.features.put("pixels", [{"type": "scaling", "method": "standard"}], description="64 pixels")
            self.client.pipelines.create(
                MODEL,
                {
                    "model": MODEL,
                    "description": "is the digit odd?",
                    "data_sources": [
                        {
                            "name": "images",
                            "type": "database",
                            "connection": f"sqlite:///{database}",
                            "query": "SELECT * FROM images",
                        },
                        {"name": "labels", "type": "file", "path": str(labels), "format": "csv"},
                        {"name": "served", "type": "prediction_log", "serving_endpoint": ENDPOINT},
                    ],
                    "feature_config": {
                        "feature_set_id": "pixels",
                        "label": "odd",
                        "id_column": "id",
                        "features": list(PIXELS),
                        "join_config": {
                            "base": "images",
                            "joins": [{"source": "labels", "on": ["id"], "how": "inner"}],
                            "union": ["served"],
                        },
                    },
                    "training_config": {
                        "model_config": {"framework": "sklearn", "type": "random_forest", "task": "classification"},
                        "hyperparameters": {"n_estimators": 60},
                        "split_config": {
                            "method": "stratified",
                            "train": 0.7,
                            "validation": 0.05,
                            "test": 0.25,
                            "seed": self.seed,
                        },
                    },
                    "evaluation_config": {
                        "metrics": ["accuracy", "precision", "recall", "f1_score", "roc_auc"],
                        "thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.85}],
                        "champion_metric": "accuracy",
                    },
                },
            )
            with self.show.bar("training", 100) as update:
                job = self.client.pipelines.trigger(
                    MODEL, reason="the first version", wait=True, timeout_s=120.0,
                    progress=lambda p: update(round(p.progress * 100), f"{p.stage}: {p.message[:60]}"),
                )  # fmt: skip
            state = word(training_pb2.JobState, job.state)
            self.need(state == "succeeded", f"the job is {state}: {job.state_reason}")
            metrics = ", ".join(
                f"{k} {v:.3f}" for k, v in sorted(job.metrics.items()) if k in ("accuracy", "f1_score", "roc_auc")
            )
            self.show.fact(f"{MODEL}@{job.version} passed its gate and is registered: {metrics}")

    # 2 ---------------------------------------------------------------------------------------------------

    def stage_and_promote(self) -> None:
        """Deploy to staging, send trial traffic there, promote to production under criteria."""
        with self.show.step("promote", "Deploy to staging, try it there, promote to production under criteria"):
            staged = self.client.deployments.deploy(f"{MODEL}@1", stage="staging", endpoint=ENDPOINT, config=MONITORING)
            self._gateway = self.client.endpoints.get(ENDPOINT).gateway_address
            self.need(bool(self._gateway), "there is no gateway")
            self.show.fact(f"staging serves as {staged.id}; gateway at {self._gateway}")
            self._labels = LateLabels(self._log_truth, self.ledger, delay_s=LABEL_DELAY_S)
            self._labels.start()
            trial = Sender(self._gateway, ENDPOINT, self.ledger, stage="staging")
            self._send(trial, self.split.trial, "trial traffic to staging")
            trial.close()
            criteria = [
                {"metric": "error_ratio", "comparison": "<=", "bound": 0.01, "min_sample": 50},
                {"metric": "accuracy", "comparison": ">=", "bound": 0.8, "min_sample": 50},
            ]

            def judge() -> Any:
                answer = self.client.deployments.promote(
                    f"{ENDPOINT}/staging",
                    target_stage="production",
                    criteria=criteria,
                    plan={"strategy": "all_at_once"},
                )
                inconclusive = word(common_pb2.Verdict, answer.decision.verdict) == "inconclusive"
                return None if inconclusive else answer

            answer = self.wait_for("a verdict", judge, timeout_s=30.0)
            self._show_verdicts(answer.decision)
            self.need(answer.promoted, "version 1 was not promoted")
            self._wait_live(answer.deployment.name)

    def _show_verdicts(self, decision: common_pb2.Decision) -> None:
        rows = []
        for v in decision.verdicts:
            verdict = word(common_pb2.Verdict, v.verdict)
            colour = {"pass": "green", "fail": "red"}.get(verdict, "yellow")
            value = f"{v.value:.3f}" if v.HasField("value") else "–"
            rows.append([v.criterion.metric, f"[{colour}]{verdict.upper()}[/]", value, f"{v.bound:g}", str(v.n)])
        self.show.table(["criterion", "verdict", "value", "bound", "n"], rows)

    def _wait_live(self, name: str) -> None:
        deployment = self.client.deployments.wait(name, timeout_s=60.0)

        def live() -> bool:
            routes = self.client.endpoints.get(ENDPOINT).routes
            return any(w.deployment == deployment.id and w.weight_bp == 10_000 for w in routes.weights)

        self.wait_for(f"all traffic on {deployment.id}", live, timeout_s=30.0)

        def answers() -> bool:
            try:
                return bool(self.client.endpoint(ENDPOINT).metadata().inputs)
            except PilotfishError:
                return False

        self.wait_for("the gateway's answer", answers, timeout_s=30.0)
        self.show.fact(f"{MODEL}@{deployment.version} has 100 % of the live traffic")

    def _log_truth(self, ids: Any, truths: Any) -> None:
        self.client.monitoring.log_truth(list(ids), list(truths), scope=ENDPOINT)

    def _send(self, sender: Sender, rows: DigitRows, what: str) -> None:
        with self.show.bar(what, len(rows)) as update:
            sender.send_all(rows, update)
        self.need(not self.ledger.failures, f"a prediction failed: {self.ledger.failures[:1]}")

    # 3 ---------------------------------------------------------------------------------------------------

    def clean_traffic(self) -> None:
        """Send rows like those that version 1 knows: two full windows and no alert."""
        with self.show.step("clean", f"Clean traffic by gRPC and REST, labels arriving late: windows of {WINDOW} rows"):
            sender = Sender(self._gateway, ENDPOINT, self.ledger)
            self._send(sender, self.split.clean, "clean traffic")
            sender.close()
            self.facts["clean_predictions_before_shift"] = len(self.split.clean)
            verdicts = self.wait_for("two full windows", lambda: self._verdicts(2), timeout_s=30.0)
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
            self.show.table(["window", "rows", "score", "threshold", "verdict"], rows)
            alerts = self.client.monitoring.alerts()
            self.facts["alerts_before_shift"] = len(alerts)
            self.need(not alerts, f"an alert on clean traffic: {[a.summary for a in alerts]}")
            self.show.fact("no alert")

    def _verdicts(self, at_least: int) -> Any:
        found = self.client.monitoring.drift(f"{ENDPOINT}/production")
        return found if len(found) >= at_least else None

    # 4 ---------------------------------------------------------------------------------------------------

    def write_rules(self) -> None:
        """Write the rule that closes the loop: drift, retrain, canary, promote."""
        with self.show.step("rules", "A rule closes the loop: drift → retrain → canary → promote on evidence"):
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
            self.client.lifecycle.create_rule(
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
            self.show.fact("retrain-on-drift: send_alert, retrain_model → canary 30 % → production")

    # 5 ---------------------------------------------------------------------------------------------------

    def shift(self) -> None:
        """Let the other digits arrive until the sidecar finds them."""
        with self.show.step("drift", "The digits 6–9 arrive: the sidecar finds the drift"):
            sender = Sender(self._gateway, ENDPOINT, self.ledger)
            before = len(self.client.lifecycle.firings("retrain-on-drift"))
            self.need(before == 0, "the rule fired before the shift")
            self._traffic = LiveTraffic(sender, self._shifted_pool(), self.seed + 1, pause_s=0.008)
            first = self.ledger.sent
            self._traffic.start()
            with self.show.bar("shifted traffic", None) as update:

                def drifted() -> Any:
                    update(self.ledger.sent - first)
                    return [v for v in self.client.monitoring.drift(f"{ENDPOINT}/production") if v.drifted]

                verdict = self.wait_for("drift", drifted, timeout_s=60.0)[-1]
            # Rows of the stream up to the end of the window that told: what came later is not counted.
            closed = verdict.end_time.ToDatetime(tzinfo=UTC).timestamp()
            with self.ledger.lock:
                counted = sum(1 for t in self.ledger.times[first:] if t <= closed + 0.001)
            self.facts["drift_detected_after_predictions"] = counted
            names = [f.feature for f in verdict.features if f.drifted]
            self.show.fact(
                f"drift after {counted} shifted predictions: {verdict.method} {verdict.score:.1f}, "
                f"threshold {verdict.threshold:.1f}"
            )
            self.show.fact(
                f"{len(names)} of {len(verdict.features)} features drifted, most of all {', '.join(names[:4])}"
            )

    def _shifted_pool(self) -> DigitRows:
        """Return the new digits with some of the known ones among them."""
        known = 200
        images = np.concatenate([self.split.new.images, self.split.clean.images[:known]])
        odd = np.concatenate([self.split.new.odd, self.split.clean.odd[:known]])
        return DigitRows(images, odd)

    # 6 ---------------------------------------------------------------------------------------------------

    def successor_promoted(self) -> None:
        """Watch the rule retrain, the canary being judged, and the better version being promoted."""
        with self.show.step(
            "retrain", "The rule retrains on the prediction log joined with its labels; the better version goes live"
        ):
            firing = self.wait_for(
                "the rule's firing", lambda: self.client.lifecycle.firings("retrain-on-drift"), timeout_s=20.0
            )[0]
            self.need(
                word(lifecycle_pb2.FiringState, firing.state) != "suppressed",
                f"the rule did not act: {firing.state_reason}",
            )
            job = self.wait_for(
                "the job",
                lambda: [j for j in self.client.pipelines.jobs(MODEL) if j.trigger == "data_drift"],
                timeout_s=20.0,
            )[0]
            with self.show.bar("retraining", 100) as update:
                job = self.client.pipelines.wait(
                    job.name,
                    timeout_s=120.0,
                    progress=lambda p: update(round(p.progress * 100), f"{p.stage}: {p.message[:60]}"),
                )
            state = word(training_pb2.JobState, job.state)
            self.need(state == "succeeded", f"the job is {state}: {job.state_reason}")
            champion = job.champion_metrics.get("accuracy", float("nan"))
            self.show.fact(
                f"gate: accuracy {job.metrics['accuracy']:.3f}, "
                f"champion {MODEL}@{job.champion_version} on the same rows {champion:.3f}"
            )
            self.facts["retrained_version"] = job.version
            rollout = self._watch_rollout(job.version)
            state = word(deployment_pb2.RolloutState, rollout.state)
            self.need(state == "succeeded", f"the canary's rollout is {state}: {rollout.state_reason}")
            self._show_verdicts(rollout.decisions[0])

            def in_production() -> Any:
                found = [
                    d
                    for d in self.client.deployments.list(ENDPOINT)
                    if word(deployment_pb2.Stage, d.stage) == "production"
                ]
                return [d for d in found if d.version == job.version and d.traffic_bp == 10_000]

            promoted = self.wait_for(f"{MODEL}@{job.version} in production", in_production, timeout_s=60.0)[0]
            self.facts["promoted_version"] = promoted.version
            self.show.fact(f"{MODEL}@{promoted.version} has 100 % of the live traffic")
            before, after = held_out_accuracy(self.client, MODEL, (1, job.version), self.split.held_out)
            self.facts |= {"champion_accuracy_before": before, "champion_accuracy_after": after}
            self.show.fact(
                f"held-out rows of all digits: {MODEL}@1 {before:.3f} → {MODEL}@{job.version} [bold]{after:.3f}[/]"
            )
            self.need(after > before, "the new version is not better on the held-out rows")

    def _watch_rollout(self, version: int) -> deployment_pb2.Rollout:
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

    # 7 ---------------------------------------------------------------------------------------------------

    def bad_version(self) -> None:
        """Deploy a version that is wrong on purpose; a criterion fails it."""
        with self.show.step(
            "bad", "A bad version goes canary: a criterion fails it, it is rolled back and quarantined"
        ):
            directory = write_bad_model(self.split.train, self.data_dir / "bad")
            version = self.client.models.register(directory, model=MODEL, description="trained on inverted labels")
            plan = {
                "strategy": "canary",
                "steps": [{"weight_bp": 2000}],
                "criteria": [{"metric": "accuracy", "comparison": ">=", "bound": 0.8, "min_sample": 30}],
                "max_wait_s": 60,
                "on_inconclusive": "abort",
            }
            deployed = self.client.deployments.deploy(
                f"{MODEL}@{version.number}", stage="canary", endpoint=ENDPOINT, config=MONITORING, plan=plan, wait=False
            )
            rollout = self._watch_rollout(version.number)
            state = word(deployment_pb2.RolloutState, rollout.state)
            self.need(state == "aborted", f"the bad canary's rollout is {state}: {rollout.state_reason}")
            failed = next(
                v for d in rollout.decisions for v in d.verdicts if word(common_pb2.Verdict, v.verdict) == "fail"
            )
            self._show_verdicts(rollout.decisions[0])
            self.facts["rolled_back_version"] = version.number
            self.facts["rollback_verdict"] = {
                "criterion": f"{failed.criterion.metric} >= {failed.bound:g}",
                "value": failed.value,
                "bound": failed.bound,
                "n": failed.n,
            }

            def gone() -> Any:
                endpoint = self.client.endpoints.get(ENDPOINT)
                marked = any(q.version == version.number for q in endpoint.quarantines)
                return marked and not any(w.deployment == deployed.id and w.weight_bp for w in endpoint.routes.weights)

            self.wait_for("weight 0 and quarantine", gone, timeout_s=30.0)
            self.show.fact(f"{MODEL}@{version.number} has no traffic and is quarantined")

    # 8 ---------------------------------------------------------------------------------------------------

    def kill_control_plane(self) -> None:
        """Kill the control plane in the middle of traffic; the supervisor starts it again."""
        with self.show.step("kill", "kill -9 the control plane in the middle of traffic"):
            run = self.home / "run" / "control_plane.json"
            pid = _pid(run)
            self.need(pid > 0, "the control plane's pid is not known")
            killed = time.time()
            os.kill(pid, signal.SIGKILL)

            def back() -> Any:
                if _pid(run) in (0, pid):
                    return None
                try:
                    return Client(home=self.home, timeout_s=2.0).access.whoami()
                except PilotfishError:
                    return None

            self.wait_for("its return", back, timeout_s=60.0)
            returned = time.time()
            with self.ledger.lock:
                during = sum(1 for t in self.ledger.times if killed < t < returned)
            self.client.close()
            self.client = Client(home=self.home)
            self.facts |= {
                "control_plane_restarts": _restarts(self.home),
                "predictions_during_downtime": during,
                "downtime_seconds": round(returned - killed, 3),
            }
            self.show.fact(f"away for {returned - killed:.1f} s; {during} predictions were answered meanwhile")
            self.need(during > 0, "no prediction was answered while it was away")
            time.sleep(1.0)

    # 9 ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Stop the traffic and hold what the callers saw against an export of the prediction log."""
        with self.show.step("account", "Hold the callers' ids against an export of the prediction log"):
            self.end()
            self._traffic = self._labels = None
            expected = list(self.ledger.answered)
            wanted = set(expected)

            def settled() -> Any:
                stored = [i for part in self.client.monitoring.export(ENDPOINT) for i in part.prediction_ids]
                return stored if wanted <= set(stored) else None

            try:
                stored = self.wait_for("every prediction in the log", settled, timeout_s=30.0)
            except StepFailed:
                stored = [i for part in self.client.monitoring.export(ENDPOINT) for i in part.prediction_ids]
            lost, duplicated = compare_ids(expected, stored)
            labelled = sum(sum(1 for t in part.truths if t) for part in self.client.monitoring.export(ENDPOINT))
            self.facts |= {
                "predictions_sent": self.ledger.sent,
                "predictions_failed": len(self.ledger.failures),
                "predictions_stored": len(stored),
                "lost": lost,
                "duplicated": duplicated,
                "label_coverage": round(labelled / max(len(stored), 1), 4),
            }
            self.show.fact(
                f"{self.ledger.sent} sent, {len(self.ledger.failures)} failed, {len(stored)} stored, "
                f"{lost} lost, {duplicated} duplicated; {labelled / max(len(stored), 1):.1%} have their label"
            )
            self.need(not self.ledger.failures, f"predictions failed: {self.ledger.failures[:3]}")
            self.need(lost == 0 and duplicated == 0, "predictions were lost or counted twice")
            self._account_actions()

    def _account_actions(self) -> None:
        firings = self.client.lifecycle.firings()
        actions = [a for f in firings for a in f.actions]
        done = [a for a in actions if word(lifecycle_pb2.ActionState, a.state) == "succeeded"]
        retrains = [a for a in done if a.type == "retrain_model"]
        jobs = [j for j in self.client.pipelines.jobs(MODEL) if j.trigger == "data_drift"]
        rule_alerts = [a for a in self.client.monitoring.alerts() if word(monitoring_pb2.AlertKind, a.kind) == "rule"]
        alerted = [a for a in done if a.type == "send_alert"]
        # What the actions left behind is counted, not what they say of themselves.
        duplicated = (
            (len(jobs) - len(retrains))
            + (len(rule_alerts) - len(alerted))
            + (len(actions) - len({a.key for a in actions}))
        )
        acted = [f for f in firings if f.HasField("act_time") and f.actions and f.actions[0].HasField("start_time")]
        reactions = [
            f.actions[0].start_time.ToDatetime().timestamp() - f.evidence_time.ToDatetime().timestamp() for f in acted
        ]
        self.facts |= {
            "reaction_seconds_max": round(max(reactions), 3) if reactions else None,
            "actions_executed": len(done),
            "actions_duplicated": duplicated,
        }
        self.need(duplicated == 0, f"{duplicated} actions took effect more than once")
        self.need(bool(reactions), "no rule acted")
        self.show.fact(
            f"{len(done)} actions, {duplicated} of them twice; "
            f"slowest reaction {max(reactions):.2f} s after its window closed"
        )

    # 10 --------------------------------------------------------------------------------------------------

    def retire_and_report(self) -> None:
        """Retire version 1 and print the report."""
        with self.show.step("retire", "Retire version 1, and read the monitoring report"):
            plan = self.client.lifecycle.plan_retirement(
                f"{MODEL}@1",
                datetime.now(UTC),
                replacement_version=int(self.facts["promoted_version"]),
                notes="superseded",
            )

            def over() -> Any:
                found = self.client.lifecycle.retirement_plan(plan.name)
                return found if word(lifecycle_pb2.RetirementState, found.state) in ("completed", "halted") else None

            plan = self.wait_for("the end of the plan", over, timeout_s=30.0)
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
            self.show.table(["phase", "due", "steps", ""], rows)
            self.need(state == "completed", f"the plan is {state}: {plan.state_reason}")
            self._show_report()

    def _show_report(self) -> None:
        report = self.client.monitoring.report(ENDPOINT)
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
        self.show.panel(f"Monitoring report of {ENDPOINT}, last 7 days", lines)


# Any: plain JSON.
def _wire_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a rollout plan with the contract's full enum names, as rules keep it."""
    from google.protobuf import json_format

    from pilotfish.messages import build

    return json_format.MessageToDict(build(deployment_pb2.RolloutPlan, plan), preserving_proto_field_name=True)


def _pid(path: Path) -> int:
    import json

    try:
        return int(json.loads(path.read_text()).get("pid", 0))
    except (OSError, ValueError):
        return 0


def _restarts(home: Path) -> int:
    import json

    try:
        return int(json.loads((home / "run" / "restarts.json").read_text()).get("control_plane", 0))
    except (OSError, ValueError):
        return 0
