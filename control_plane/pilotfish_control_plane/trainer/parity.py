"""Proves that an exported graph answers like the estimator it was made from, row by row.

Owns the tolerances, and which rows have no single right answer. A model whose graph answers differently is refused: the
failure names the worst row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pilotfish_control_plane.trainer.export import Exported
from pilotfish_control_plane.trainer.features import FittedFeatures
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed, plain
from pilotfish_control_plane.trainer.spec import Task

__all__ = ["Parity", "check_parity"]

_PROBABILITY_TOLERANCE = 1e-4
# In standard deviations of the label. Unscaled columns of 10^5 cost a neural network four of float32's seven digits.
_NUMBER_TOLERANCE = 1e-3
_SAME_DISTANCE = 1e-5

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the graph is from scikit-learn.

    Attributes:
        rows: rows compared.
        tolerance: largest difference allowed: of a probability, or of a number in units of the label's spread.
        worst: largest difference found.
        ties: rows that differ where no answer is the right one: the two best probabilities are closer than the
            tolerance, or the last neighbour that counts is as far away as the next that does not.
    """

    rows: int
    tolerance: float
    worst: float
    ties: int


def check_parity(
    exported: Exported, estimator: Any, fitted: FittedFeatures, features: pd.DataFrame, task: Task, spread: float
) -> Parity:
    """Return how far the graph is from scikit-learn on the given rows.

    Args:
        exported: the graph.
        estimator: the estimator that it was made from.
        fitted: the transformations that it was made from.
        features: rows to compare.
        task: what the answers are.
        spread: standard deviation of the label of a regression; differences are measured in it.

    Raises:
        TrainingFailed: EXPORT_FAILED, with the row that differs most.
    """
    matrix = fitted.transform(features)
    answers = exported.scorer.answer(features)
    expected = np.ravel(estimator.predict(matrix))
    free = _tied_neighbours(estimator, matrix)
    if task is Task.REGRESSION:
        unit = spread if spread > 0 else 1.0
        gaps: Floats = np.abs(answers.label.astype(np.float64) - expected) / unit
        # A float32 holds 24 bits: a number far from 0 cannot be closer than that to its double.
        limits: Floats = _NUMBER_TOLERANCE + 8 * float(np.finfo(np.float32).eps) * np.abs(expected) / unit
    else:
        assert answers.probabilities is not None
        truth = np.asarray(estimator.predict_proba(matrix), dtype=np.float64)
        gaps = np.abs(answers.probabilities.astype(np.float64) - truth).max(axis=1)
        limits = np.full(len(gaps), _PROBABILITY_TOLERANCE)
        ordered = np.sort(truth, axis=1)
        close = ordered[:, -1] - ordered[:, -2] <= 2 * _PROBABILITY_TOLERANCE
        other = np.asarray([a != b for a, b in zip(answers.label.tolist(), expected.tolist(), strict=True)])
        free |= other & close & (gaps <= limits)
        gaps = np.where(other & ~close, np.inf, gaps)
    differs = ~(gaps <= limits)
    if (differs & ~free).any():
        raise _refusal(np.where(free, 0.0, gaps), limits, answers.label, expected, features)
    tied = (free & (differs | (answers.label != expected))) if task is Task.CLASSIFICATION else free & differs
    worst = gaps[~free]
    tolerance = _NUMBER_TOLERANCE if task is Task.REGRESSION else _PROBABILITY_TOLERANCE
    return Parity(len(features), tolerance, float(worst.max()) if len(worst) else 0.0, int(tied.sum()))


def _tied_neighbours(estimator: Any, matrix: npt.NDArray[np.float32]) -> Bools:
    """Return for which rows the k nearest neighbours are not one set; which of them is used is arbitrary."""
    count = getattr(estimator, "n_neighbors", None)
    if count is None or not hasattr(estimator, "kneighbors") or count >= estimator.n_samples_fit_:
        return np.zeros(len(matrix), dtype=np.bool_)
    distances = estimator.kneighbors(matrix, n_neighbors=count + 1)[0]
    last, following = distances[:, -2], distances[:, -1]
    return np.asarray(following - last <= _SAME_DISTANCE * np.maximum(following, 1.0), dtype=np.bool_)


def _refusal(gaps: Floats, limits: Floats, got: Any, expected: Any, features: pd.DataFrame) -> TrainingFailed:
    broken = ~(gaps <= limits)
    worst = int(np.argmax(np.where(np.isnan(gaps), np.inf, gaps) - limits))
    shown = {str(name): plain(value) for name, value in features.iloc[worst, :8].to_dict().items()}
    values = ", ".join(f"{name}={value!r}" for name, value in shown.items())
    more = ", …" if len(features.columns) > 8 else ""
    message = (
        f"the ONNX graph answers {int(broken.sum())} of {len(gaps)} rows differently from scikit-learn; the worst is "
        f"row {worst} ({values}{more}): {plain(got[worst])!r} instead of {plain(expected[worst])!r}"
    )
    path = "training_config.model_config"
    issue = Issue("parity", Severity.ERROR, path, message, float(gaps[worst]), float(limits[worst]))
    return TrainingFailed(Reason.EXPORT_FAILED, message, [issue])
