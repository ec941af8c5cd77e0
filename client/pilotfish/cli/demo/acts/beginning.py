"""How it begins: a first version is trained, tried and promoted."""

from __future__ import annotations

from typing import Any

from pilotfish.cli.demo.data import PIXELS, write_sources
from pilotfish.cli.demo.story import ENDPOINT, MODEL, MONITORING, Story, word
from pilotfish.cli.demo.traffic import LateLabels, Sender
from pilotfish.errors import PilotfishError
from pilotfish.v1 import common_pb2, training_pb2

__all__ = ["stage_and_promote", "train_first"]

LABEL_DELAY_S = 0.3


def train_first(story: Story) -> None:
    """Define a pipeline over an SQL table joined with a CSV, and train version 1 on the digits 0 to 5."""
    with story.show.step("train", "Train version 1: an SQL table joined with a CSV, digits 0–5 only"):
        database, labels = write_sources(story.split.train, story.data_dir)
        story.client.features.put("pixels", [{"type": "scaling", "method": "standard"}], description="64 pixels")
        story.client.pipelines.create(
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
                        "seed": story.seed,
                    },
                },
                "evaluation_config": {
                    "metrics": ["accuracy", "precision", "recall", "f1_score", "roc_auc"],
                    "thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.85}],
                    "champion_metric": "accuracy",
                },
            },
        )
        with story.show.bar("training", 100) as update:
            job = story.client.pipelines.trigger(
                MODEL, reason="the first version", wait=True, timeout_s=120.0,
                progress=lambda p: update(round(p.progress * 100), f"{p.stage}: {p.message[:60]}"),
            )  # fmt: skip
        state = word(training_pb2.JobState, job.state)
        story.need(state == "succeeded", f"the job is {state}: {job.state_reason}")
        metrics = ", ".join(
            f"{k} {v:.3f}" for k, v in sorted(job.metrics.items()) if k in ("accuracy", "f1_score", "roc_auc")
        )
        story.show.fact(f"{MODEL}@{job.version} passed its gate and is registered: {metrics}")


def stage_and_promote(story: Story) -> None:
    """Deploy to staging, send trial traffic there, promote to production under criteria."""
    with story.show.step("promote", "Deploy to staging, try it there, promote to production under criteria"):
        staged = story.client.deployments.deploy(f"{MODEL}@1", stage="staging", endpoint=ENDPOINT, config=MONITORING)
        story.gateway = story.client.endpoints.get(ENDPOINT).gateway_address
        story.need(bool(story.gateway), "there is no gateway")
        story.show.fact(f"staging serves as {staged.id}; gateway at {story.gateway}")
        story.labels = LateLabels(
            lambda ids, truths: _log_truth(story, ids, truths), story.ledger, delay_s=LABEL_DELAY_S
        )
        story.labels.start()
        trial = Sender(story.gateway, ENDPOINT, story.ledger, stage="staging")
        story.send(trial, story.split.trial, "trial traffic to staging")
        trial.close()
        criteria = [
            {"metric": "error_ratio", "comparison": "<=", "bound": 0.01, "min_sample": 50},
            {"metric": "accuracy", "comparison": ">=", "bound": 0.8, "min_sample": 50},
        ]

        def judge() -> Any:
            answer = story.client.deployments.promote(
                f"{ENDPOINT}/staging",
                target_stage="production",
                criteria=criteria,
                plan={"strategy": "all_at_once"},
            )
            inconclusive = word(common_pb2.Verdict, answer.decision.verdict) == "inconclusive"
            return None if inconclusive else answer

        answer = story.wait_for("a verdict", judge, timeout_s=30.0)
        story.show_verdicts(answer.decision)
        story.need(answer.promoted, "version 1 was not promoted")
        _wait_live(story, answer.deployment.name)


def _wait_live(story: Story, name: str) -> None:
    deployment = story.client.deployments.wait(name, timeout_s=60.0)

    def live() -> bool:
        routes = story.client.endpoints.get(ENDPOINT).routes
        return any(w.deployment == deployment.id and w.weight_bp == 10_000 for w in routes.weights)

    story.wait_for(f"all traffic on {deployment.id}", live, timeout_s=30.0)

    def answers() -> bool:
        try:
            return bool(story.client.endpoint(ENDPOINT).metadata().inputs)
        except PilotfishError:
            return False

    story.wait_for("the gateway's answer", answers, timeout_s=30.0)
    story.show.fact(f"{MODEL}@{deployment.version} has 100 % of the live traffic")


def _log_truth(story: Story, ids: Any, truths: Any) -> None:
    story.client.monitoring.log_truth(list(ids), list(truths), scope=ENDPOINT)
