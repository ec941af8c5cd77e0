"""Compares the data with that of the last run.

Owns the drift check of training data; the statistics are `pilotfish.stats`, the same that watch live traffic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from pilotfish.errors import PilotfishError
from pilotfish.stats import DriftConfig, FeatureGroup, Profile, count_window, verdict
from pilotfish_control_plane.trainer.outcome import Issue
from pilotfish_control_plane.trainer.spec import CheckConfig
from pilotfish_control_plane.trainer.table import Table

__all__ = ["check_drift"]

_MAX_NAMED = 20


def check_drift(table: Table, previous_profile: str | None, settings: CheckConfig) -> list[Issue]:
    """Return an issue for each feature that is distributed otherwise than in the last run; at most 20, worst first.

    Args:
        table: all rows with a label.
        previous_profile: path of the last run's profile; None: there is none, and nothing is said.
        settings: severity, and the limit `max_psi` in nats.
    """
    if previous_profile is None or not settings.enabled or not len(table):
        return []
    try:
        profile = Profile.from_json(Path(previous_profile).read_text(encoding="utf-8"))
    except (OSError, ValueError, PilotfishError) as error:
        message = f"the last run's profile cannot be read, so drift was not checked: {error}"
        return [Issue("drift", settings.severity, "", message)]
    known = {feature.name for feature in profile.features if feature.group is FeatureGroup.INPUT}
    limit = settings.limits["max_psi"]
    names = [name for name in table.roles.features if name in known]
    issues = _changed_columns(table, known, settings)
    if not names:
        return issues
    columns: dict[str, npt.NDArray[Any]] = {name: table.features[name].to_numpy() for name in names}
    config = DriftConfig(method="psi", threshold=limit, min_rows=1)
    found = verdict(profile, count_window(profile, columns), config)
    drifted = sorted(
        (item for item in found.features if item.drifted and item.name in columns), key=lambda item: -item.score
    )
    for item in drifted[:_MAX_NAMED]:
        message = (
            f"{item.name!r} is distributed otherwise than in the last run: PSI {item.score:.3f} nats, limit {limit:g}"
        )
        issues.append(Issue("drift", settings.severity, item.name, message, item.score, limit))
    if len(drifted) > _MAX_NAMED:
        message = f"{len(drifted) - _MAX_NAMED} more features are distributed otherwise than in the last run"
        issues.append(Issue("drift", settings.severity, "", message, float(len(drifted)), limit))
    return issues


def _changed_columns(table: Table, known: set[str], settings: CheckConfig) -> list[Issue]:
    added = [name for name in table.roles.features if name not in known]
    gone = sorted(known - set(table.roles.features))
    issues = []
    for names, word in ((added, "are new since"), (gone, "were features in")):
        if names:
            message = f"{len(names)} features {word} the last run: {', '.join(names[:10])}"
            issues.append(Issue("drift", settings.severity, "", message, float(len(names)), 0.0))
    return issues
