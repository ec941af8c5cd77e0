"""How much a model relies on each feature.

Owns permutation importance: one column is shuffled, and the model is asked again. Bounded in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.trainer.metric_names import default_metric
from pilotfish_control_plane.trainer.scorer import Scorer
from pilotfish_control_plane.trainer.spec import Task
from pilotfish_control_plane.trainer.table import Table

__all__ = ["Importance", "importance"]

_MAX_ROWS = 2000
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Importance:
    """How much worse the model gets when one feature is shuffled, in the metric's unit, most important first.

    Attributes:
        metric: `accuracy` (its fall) or `rmse` (its growth).
        values: mean over the shuffles, by feature; features that time did not suffice for are absent.
        repeats: shuffles that every feature had.
    """

    metric: str
    values: dict[str, float]
    repeats: int


def importance(
    scorer: Scorer, test: Table, task: Task, generator: np.random.Generator, clock: Clock, seconds: float
) -> Importance:
    """Return the permutation importance of each feature on at most 2000 of the test rows.

    Args:
        scorer: the model.
        test: rows to shuffle in.
        task: which metric is watched.
        generator: shuffles.
        clock: ends the work.
        seconds: no new shuffle is begun after this time; all features get one before any gets its second, up to five.
    """
    part = test.take(np.sort(generator.permutation(len(test))[:_MAX_ROWS]))
    before = _error(scorer, part.features, part.label, task)
    found: dict[str, list[float]] = {name: [] for name in scorer.feature_names}
    end = clock.monotonic() + seconds
    features = part.features.copy()
    for name in _rounds(list(found)):
        if clock.monotonic() > end:
            break
        kept = features[name]
        features[name] = kept.to_numpy()[generator.permutation(len(part))]
        found[name].append(_error(scorer, features, part.label, task) - before)
        features[name] = kept
    values = {name: float(np.mean(growth)) for name, growth in found.items() if growth}
    ordered = dict(sorted(values.items(), key=lambda item: -item[1]))
    return Importance(default_metric(task), ordered, min(map(len, found.values())))


def _rounds(names: list[str]) -> Iterator[str]:
    for _ in range(_REPEATS):
        yield from names


def _error(scorer: Scorer, features: pd.DataFrame, label: npt.NDArray[Any], task: Task) -> float:
    answers = scorer.answer(features)
    if task is Task.REGRESSION:
        return float(np.sqrt(np.mean((answers.label.astype(np.float64) - label) ** 2)))
    return float(np.mean([a != b for a, b in zip(answers.label.tolist(), label.tolist(), strict=True)]))
