"""From a closed window to the report that goes to the control plane.

Owns the wire form of counts and verdicts. It never decides when a window closes and computes no statistic itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pilotfish.stats import ClosedWindow, DriftConfig, DriftVerdict, FeatureGroup, FeatureVerdict, Profile, verdict
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish_sidecar.rows import INPUT, OUTPUT, Who

__all__ = ["Judged", "judge_window", "report_window"]

_MAX_FEATURES: Final = 1000
_MAX_REPORT_BYTES: Final = 900 << 10


@dataclass(frozen=True, slots=True)
class Judged:
    """A closed window with what was found.

    Attributes:
        window: the counts.
        found: the verdict.
        profile_id: of the reference.
        learned_json: the reference as JSON, in the first window after it was learned; else empty.
    """

    window: ClosedWindow
    found: DriftVerdict
    profile_id: str
    learned_json: str = ""


def judge_window(profile: Profile, config: DriftConfig, window: ClosedWindow, learned_json: str = "") -> Judged:
    """Return the window with its verdict."""
    return Judged(window, verdict(profile, window.sums, config), profile.id, learned_json)


def report_window(judged: Judged, who: Who, *, incarnation: int, index: int) -> fleet.WindowReport:
    """Return the report of a window; its id is unique for ever."""
    window = judged.window
    report = fleet.WindowReport(
        window=f"{who.replica}/{incarnation}/{index}",
        replica=who.replica,
        deployment=who.deployment,
        index=index,
        rows=window.rows,
        profile_id=judged.profile_id,
        learned_profile_json=judged.learned_json,
    )
    report.start_time.FromDatetime(window.started)
    report.end_time.FromDatetime(window.ended)
    _write_verdict(report.verdict, judged, report.window, who)
    for scale, counts in sorted(window.sums.items()):
        packed = counts.to_bytes()
        # The base window always goes; sums of many windows can be added up again from those.
        if scale == 1 or report.ByteSize() + len(packed) <= _MAX_REPORT_BYTES:
            report.counts.add(scale=scale, counts=packed)
    return report


def _write_verdict(message: monitoring.DriftVerdict, judged: Judged, window_id: str, who: Who) -> None:
    found = judged.found
    message.window = window_id
    message.deployment = who.deployment
    message.method = found.method
    message.score = found.score
    message.threshold = found.threshold
    message.n = found.n
    message.drifted = found.drifted
    message.data_score = found.data_score
    message.prediction_score = found.prediction_score
    message.scale = found.scale
    message.reason = found.reason
    message.profile_id = judged.profile_id
    message.start_time.FromDatetime(judged.window.started)
    message.end_time.FromDatetime(judged.window.ended)
    ordered = sorted(found.features, key=lambda feature: (not feature.drifted, -feature.score))
    for feature in ordered[:_MAX_FEATURES]:
        written = message.features.add(
            feature=feature.name,
            group=INPUT if feature.group is FeatureGroup.INPUT else OUTPUT,
            score=feature.score,
            threshold=feature.threshold,
            n=feature.n,
            drifted=feature.drifted,
            reason=_why(feature),
        )
        if feature.p_value is not None:
            written.p_value = feature.p_value


def _why(feature: FeatureVerdict) -> str:
    if not feature.drifted:
        return feature.reason
    return feature.method if feature.method in ("missing", "unseen") else "distribution"
