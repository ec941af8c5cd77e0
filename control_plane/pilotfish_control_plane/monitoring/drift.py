"""A deployment's verdict over its replicas' windows, its episodes, and what automation is told.

Owns the step from a window report to a stored verdict, an episode, an alert and a piece of evidence, all in one
transaction. The statistics are `pilotfish.stats`, the same as in the sidecar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pilotfish.errors import PilotfishError
from pilotfish.stats import EpisodeEvent, EpisodeState, Profile, WindowCounts, advance, sum_counts, verdict
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.monitoring.alerts import Alerts
from pilotfish_control_plane.monitoring.model import (
    AlertKind,
    EvidenceEvent,
    EvidenceKind,
    Severity,
    StoredVerdict,
    WindowReport,
)
from pilotfish_control_plane.monitoring.rules import drift_config, drifted_features, verdict_to_json
from pilotfish_control_plane.storage import monitoring as rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["DriftJudge", "OnLearned", "ProfileOf"]

# The reference of a deployment as (id, JSON); None: it is still learned.
OnLearned = Callable[[Tx, str], None]
ProfileOf = Callable[[Tx, Deployment], tuple[str, str] | None]

# (kind of evidence, kind of alert, what it says of the verdict, what drifted)
KINDS = (
    (EvidenceKind.DATA_DRIFT, AlertKind.DATA_DRIFT, "data_drifted", "data_score", "input", "inputs"),
    (
        EvidenceKind.PREDICTION_DRIFT,
        AlertKind.PREDICTION_DRIFT,
        "prediction_drifted",
        "prediction_score",
        "output",
        "predictions",
    ),
)


class DriftJudge:
    """Judges every closed window once."""

    def __init__(self, alerts: Alerts, profile_of: ProfileOf, on_learned: OnLearned) -> None:
        """Use `profile_of` for the reference of a deployment with several replicas; tell `on_learned` of a new one."""
        self._alerts = alerts
        self._profile_of = profile_of
        self._on_learned = on_learned

    def take(self, tx: Tx, deployment: Deployment, report: WindowReport) -> StoredVerdict | None:
        """Store a window, judge its deployment, advance its episodes; None: the window was taken before."""
        if report.learned_profile and rows.set_learned_profile(
            tx.conn, deployment.id, report.profile_id, report.learned_profile, tx.now
        ):
            # Every replica compares with the one reference, or their counts could not be added.
            self._on_learned(tx, deployment.id)
        if not rows.add_window(tx.conn, report, tx.now):
            return None
        found = self._over_replicas(tx, deployment, report)
        stored = StoredVerdict(
            0, report.window, deployment.project, deployment.endpoint, deployment.id, found,
            report.started, report.ended, profile_id=report.profile_id,
        )  # fmt: skip
        # A window without a verdict (learning, too few rows) neither begins nor ends an episode.
        judged = bool(found.get("features"))
        episodes = [self._advance(tx, stored, kind, deployment) for kind in KINDS] if judged else []
        stored = dataclasses.replace(stored, episode=next((e for e in episodes if e), ""))
        stored = dataclasses.replace(stored, id=rows.add_verdict(tx.conn, stored))
        payload = {k: found[k] for k in ("method", "score", "threshold", "n", "drifted")}
        tx.emit("drift.verdict", deployment.name, payload | {"window": report.window, "episode": stored.episode})
        tx.wake("rollouts")
        tx.wake("lifecycle")
        return stored

    def _over_replicas(self, tx: Tx, deployment: Deployment, report: WindowReport) -> Mapping[str, Any]:
        """Return the verdict on the newest counts of all replicas; with one replica it is the sidecar's own."""
        config = drift_config(deployment.config.monitoring.drift_detection)
        since = report.ended - timedelta(seconds=2 * config.time_limit_s)
        newest = rows.newest_windows(tx.conn, deployment.id, report.profile_id, since)
        newest[report.replica] = report
        if len(newest) == 1:
            return report.verdict
        reference = self._profile_of(tx, deployment)
        if reference is None or reference[0] != report.profile_id:
            return report.verdict
        try:
            profile = Profile.from_json(reference[1])
            sums = {
                scale: sum_counts(WindowCounts.from_bytes(w.counts[scale]) for w in newest.values())
                for scale in sorted(set.intersection(*(set(w.counts) for w in newest.values())))
            }
            return verdict_to_json(verdict(profile, sums, config))
        except PilotfishError:
            # Counts that cannot be read were stored with their report; the sidecar's own verdict stands.
            return report.verdict

    def _advance(self, tx: Tx, stored: StoredVerdict, kind: tuple[Any, ...], deployment: Deployment) -> str:
        """Advance one kind of episode; return its id while it is open."""
        evidence, alert, drifted_key, score_key, group, noun = kind
        drifted = bool(stored.verdict.get(drifted_key))
        state = _episode_from(rows.episode(tx.conn, deployment.id, evidence.value))
        state, event = advance(state, drifted, stored.window, stored.ended)
        if event is None and not state.latest:
            return ""
        as_json = _episode_json(state)
        rows.set_episode(tx.conn, deployment.id, evidence.value, state.number, state.open, as_json)
        episode = f"{deployment.id}/{evidence.value}/{state.number}"
        if event is EpisodeEvent.ENDED:
            self._alerts.resolve(tx, deployment.id, alert, episode)
        if event is EpisodeEvent.STARTED:
            features = drifted_features(stored.verdict, group)
            details = {
                "window": stored.window,
                "method": stored.verdict["method"],
                "score": stored.verdict[score_key],
                "threshold": stored.verdict["threshold"],
                "n": stored.verdict["n"],
                "features": features[:20],
                "drifted_features": len(features),
            }
            named = ", ".join(features[:3]) + (f" and {len(features) - 3} more" if len(features) > 3 else "")
            summary = (
                f"{deployment.endpoint}: {noun} of {deployment.model}@{deployment.version} drifted ({named}); "
                f"{stored.verdict['method']} {stored.verdict[score_key]:.3g}, "
                f"threshold {stored.verdict['threshold']:.3g}, {stored.verdict['n']} rows"
            )
            self._alerts.raise_alert(
                tx, alert, Severity.WARNING, project=deployment.project, endpoint=deployment.endpoint,
                deployment=deployment.id, summary=summary, details=details, episode=episode,
            )  # fmt: skip
            rows.add_evidence(
                tx.conn,
                EvidenceEvent(
                    episode, evidence, deployment.project, deployment.endpoint, deployment.id, deployment.stage.value,
                    float(stored.verdict[score_key]), float(stored.verdict["threshold"]), int(stored.verdict["n"]),
                    details, stored.ended, tx.now,
                ),
            )  # fmt: skip
        return episode if state.open else ""


# Any: JSON values.
def _episode_from(stored: Mapping[str, Any] | None) -> EpisodeState:
    if stored is None:
        return EpisodeState()
    times = {k: datetime.fromisoformat(stored[k]) if stored[k] else None for k in ("started", "ended")}
    return EpisodeState(**{**stored, **times})


def _episode_json(state: EpisodeState) -> dict[str, Any]:
    found = dataclasses.asdict(state)
    for key in ("started", "ended"):
        found[key] = found[key].isoformat() if found[key] else None
    return found
