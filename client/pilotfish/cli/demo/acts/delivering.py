"""How versions come and go: a better one is promoted, a bad one is rolled back."""

from __future__ import annotations

from typing import Any

from pilotfish.cli.demo.checks import held_out_accuracy, write_bad_model
from pilotfish.cli.demo.story import ENDPOINT, MODEL, MONITORING, Story, word
from pilotfish.v1 import common_pb2, deployment_pb2, lifecycle_pb2, training_pb2

__all__ = ["bad_version", "successor_promoted"]


def successor_promoted(story: Story) -> None:
    """Watch the rule retrain, the canary being judged, and the better version being promoted."""
    with story.show.step(
        "retrain", "The rule retrains on the prediction log joined with its labels; the better version goes live"
    ):
        firing = story.wait_for(
            "the rule's firing", lambda: story.client.lifecycle.firings("retrain-on-drift"), timeout_s=20.0
        )[0]
        story.need(
            word(lifecycle_pb2.FiringState, firing.state) != "suppressed",
            f"the rule did not act: {firing.state_reason}",
        )
        job = story.wait_for(
            "the job",
            lambda: [j for j in story.client.pipelines.jobs(MODEL) if j.trigger == "data_drift"],
            timeout_s=20.0,
        )[0]
        with story.show.bar("retraining", 100) as update:
            job = story.client.pipelines.wait(
                job.name,
                timeout_s=120.0,
                progress=lambda p: update(round(p.progress * 100), f"{p.stage}: {p.message[:60]}"),
            )
        state = word(training_pb2.JobState, job.state)
        story.need(state == "succeeded", f"the job is {state}: {job.state_reason}")
        champion = job.champion_metrics.get("accuracy", float("nan"))
        story.show.fact(
            f"gate: accuracy {job.metrics['accuracy']:.3f}, "
            f"champion {MODEL}@{job.champion_version} on the same rows {champion:.3f}"
        )
        story.facts["retrained_version"] = job.version
        rollout = story.watch_rollout(job.version)
        state = word(deployment_pb2.RolloutState, rollout.state)
        story.need(state == "succeeded", f"the canary's rollout is {state}: {rollout.state_reason}")
        story.show_verdicts(rollout.decisions[0])

        def in_production() -> Any:
            found = [
                d
                for d in story.client.deployments.list(ENDPOINT)
                if word(deployment_pb2.Stage, d.stage) == "production"
            ]
            return [d for d in found if d.version == job.version and d.traffic_bp == 10_000]

        promoted = story.wait_for(f"{MODEL}@{job.version} in production", in_production, timeout_s=60.0)[0]
        story.facts["promoted_version"] = promoted.version
        story.show.fact(f"{MODEL}@{promoted.version} has 100 % of the live traffic")
        before, after = held_out_accuracy(story.client, MODEL, (1, job.version), story.split.held_out)
        story.facts |= {"champion_accuracy_before": before, "champion_accuracy_after": after}
        story.show.fact(
            f"held-out rows of all digits: {MODEL}@1 {before:.3f} → {MODEL}@{job.version} [bold]{after:.3f}[/]"
        )
        story.need(after > before, "the new version is not better on the held-out rows")
        # What comes next is done by hand: the rule must not retrain for the new deployment in between.
        story.client.lifecycle.update_rule("retrain-on-drift", enabled=False)
        story.show.fact("retrain-on-drift is switched off")


def bad_version(story: Story) -> None:
    """Deploy a version that is wrong on purpose; a criterion fails it."""
    with story.show.step("bad", "A bad version goes canary: a criterion fails it, it is rolled back and quarantined"):
        directory = write_bad_model(story.split.train, story.data_dir / "bad")
        version = story.client.models.register(directory, model=MODEL, description="trained on inverted labels")
        plan = {
            "strategy": "canary",
            "steps": [{"weight_bp": 2000}],
            "criteria": [{"metric": "accuracy", "comparison": ">=", "bound": 0.8, "min_sample": 30}],
            "max_wait_s": 60,
            "on_inconclusive": "abort",
        }
        deployed = story.client.deployments.deploy(
            f"{MODEL}@{version.number}", stage="canary", endpoint=ENDPOINT, config=MONITORING, plan=plan, wait=False
        )
        rollout = story.watch_rollout(version.number)
        state = word(deployment_pb2.RolloutState, rollout.state)
        story.need(state == "aborted", f"the bad canary's rollout is {state}: {rollout.state_reason}")
        failed = next(v for d in rollout.decisions for v in d.verdicts if word(common_pb2.Verdict, v.verdict) == "fail")
        story.show_verdicts(rollout.decisions[0])
        story.facts["rolled_back_version"] = version.number
        story.facts["rollback_verdict"] = {
            "criterion": f"{failed.criterion.metric} >= {failed.bound:g}",
            "value": failed.value,
            "bound": failed.bound,
            "n": failed.n,
        }

        def gone() -> Any:
            endpoint = story.client.endpoints.get(ENDPOINT)
            marked = any(q.version == version.number for q in endpoint.quarantines)
            return marked and not any(w.deployment == deployed.id and w.weight_bp for w in endpoint.routes.weights)

        story.wait_for("weight 0 and quarantine", gone, timeout_s=30.0)
        story.show.fact(f"{MODEL}@{version.number} has no traffic and is quarantined")
