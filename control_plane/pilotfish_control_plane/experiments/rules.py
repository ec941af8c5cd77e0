"""What may be recorded, and how runs are compared.

Owns the decisions. Plain Python: no SQL, no clock, no wire.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any  # JSON of any depth

from pilotfish.errors import Violation
from pilotfish_control_plane.experiments.model import Comparison, Point, Run
from pilotfish_control_plane.registry.rules import check_json, check_key, check_metrics, check_tags

__all__ = ["MAX_POINTS", "check_points", "check_run", "compare", "newest"]

MAX_POINTS = 1_000
MAX_STEP = 2**62


def check_points(points: Sequence[Point]) -> list[Violation]:
    """Return everything that is wrong with points."""
    found = []
    if len(points) > MAX_POINTS:
        found.append(Violation("points", f"{len(points)} points, at most {MAX_POINTS} are allowed", "TOO_MANY"))
    for i, point in enumerate(points[:MAX_POINTS]):
        found += check_key(point.metric, f"points[{i}].metric")
        if not 0 <= point.step <= MAX_STEP:
            found.append(Violation(f"points[{i}].step", f"is {point.step}, must be 0 or more", "OUT_OF_RANGE"))
        if not math.isfinite(point.value):
            found.append(Violation(f"points[{i}].value", f"is {point.value}, must be finite", "NOT_FINITE"))
    return found


def check_run(
    parameters: Mapping[str, Any], tags: Mapping[str, str], metrics: Mapping[str, float] | None = None
) -> list[Violation]:
    """Return everything that is wrong with what a run is given."""
    return check_json(parameters, "parameters") + check_tags(tags) + check_metrics(metrics or {})


def newest(known: Mapping[str, tuple[int, float]], points: Sequence[Point]) -> dict[str, tuple[int, float]]:
    """Return metric -> (step, value) at the highest step; of equal steps the later point holds."""
    found = dict(known)
    for point in points:
        if point.metric not in found or point.step >= found[point.metric][0]:
            found[point.metric] = (point.step, point.value)
    return found


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Return one row per parameter, then one per metric, that any of the runs has, each side in order of its name."""
    rows = []
    for metric in (False, True):
        sides: list[Mapping[str, Any]] = [run.metrics if metric else run.parameters for run in runs]
        for key in sorted({key for side in sides for key in side}):
            values = tuple(json.dumps(side[key], sort_keys=True) if key in side else "" for side in sides)
            rows.append(Comparison(key, metric, values, len(set(values)) > 1))
    return rows
