"""The metrics of predictions against known labels.

Owns how each metric is computed and what "not defined" means: None, never NaN. Pure: arrays in, numbers out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from pilotfish_control_plane.trainer.metric_names import metric_names
from pilotfish_control_plane.trainer.spec import Task

__all__ = ["compute_metrics", "confusion_matrix"]

Metrics = dict[str, float | None]


def compute_metrics(
    task: Task,
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    probabilities: npt.NDArray[Any] | None = None,
    classes: Sequence[Any] = (),
    *,
    averaging: str = "macro",
    positive_class: str | None = None,
) -> Metrics:
    """Return every metric of the task by name; None where it is not defined for these rows.

    Args:
        task: which metrics.
        truth: labels, shape (rows,).
        predicted: labels or numbers, shape (rows,).
        probabilities: shape (rows, len(classes)).
        classes: what the columns of `probabilities` stand for.
        averaging: over more than two classes: `macro`, `weighted` or `micro`.
        positive_class: the class that precision, recall and F1 are about when there are two; None: the last.
    """
    if not len(truth):
        return dict.fromkeys(metric_names(task))
    if task is Task.REGRESSION:
        return _regression(truth.astype(np.float64), predicted.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined values are None here, not warnings
        return _classification(truth, predicted, probabilities, list(classes), averaging, positive_class)


def _classification(
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    probabilities: npt.NDArray[Any] | None,
    classes: list[Any],
    averaging: str,
    positive_class: str | None,
) -> Metrics:
    every = sorted({*truth.tolist(), *predicted.tolist(), *classes}, key=lambda value: (str(type(value)), value))
    codes = {value: code for code, value in enumerate(every)}
    y = np.asarray([codes[value] for value in truth.tolist()])
    p = np.asarray([codes[value] for value in predicted.tolist()])
    known = [codes[value] for value in classes] or sorted(set(y.tolist()) | set(p.tolist()))
    if len(known) == 2 and len(every) == 2:
        by_text = {str(value): code for value, code in codes.items()}
        settings: dict[str, Any] = {"average": "binary", "pos_label": by_text.get(positive_class or "", max(known))}
    else:
        settings = {"average": averaging}
    settings["zero_division"] = np.nan
    found: Metrics = {
        "accuracy": float(sk.accuracy_score(y, p)),
        "balanced_accuracy": float(sk.balanced_accuracy_score(y, p)),
        "precision": _defined(sk.precision_score(y, p, **settings)),
        "recall": _defined(sk.recall_score(y, p, **settings)),
        "f1_score": _defined(sk.f1_score(y, p, **settings)),
        "roc_auc": None,
        "log_loss": None,
    }
    if probabilities is not None and set(y.tolist()) <= set(known):
        found |= _probabilistic(y, np.asarray(probabilities, dtype=np.float64), known, averaging)
    return found


def _probabilistic(
    y: npt.NDArray[Any], probabilities: npt.NDArray[np.float64], known: list[int], averaging: str
) -> Metrics:
    columns = np.argsort(known)
    # Sums in float32 give 1.0000001 now and then, and a champion may come from anywhere.
    ordered = np.clip(probabilities[:, columns], 0.0, 1.0)
    ordered = ordered / np.maximum(ordered.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    area: float | None = None
    if len(set(y.tolist())) >= 2:
        if len(known) == 2:
            area = _defined(sk.roc_auc_score(y == max(known), ordered[:, 1]))
        elif set(y.tolist()) == set(known):
            # One class against the rest; micro is not a mean over classes that depends on all pairs alike.
            area = _defined(sk.roc_auc_score(y, ordered, multi_class="ovr", average=averaging, labels=sorted(known)))
    return {"roc_auc": area, "log_loss": _defined(sk.log_loss(y, ordered, labels=sorted(known)))}


def _regression(truth: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> Metrics:
    errors = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    squared = float((errors**2).sum())
    zero = bool((truth == 0).any())
    found = {
        "mae": float(np.abs(errors).mean()),
        "mse": squared / len(errors),
        "rmse": float(np.sqrt(squared / len(errors))),
        # A true value of 0 has no relative error: the metric is not defined, and no epsilon makes it so.
        "mape": None if zero else float(np.abs(errors / truth).mean()),
        "r2": 1 - squared / spread if spread > 0 else None,
    }
    return {name: None if value is None else _defined(value) for name, value in found.items()}


def _defined(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def confusion_matrix(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: Sequence[Any]) -> dict[str, Any]:
    """Return `{"classes", "counts"}`; counts[i][j] are the rows of class i that were predicted as class j.

    Classes that occur without being known to the model come after those that are.
    """
    others = sorted({*truth.tolist(), *predicted.tolist()} - set(classes), key=str)
    every = [*classes, *others]
    codes = {value: code for code, value in enumerate(every)}
    counts = np.zeros((len(every), len(every)), dtype=np.int64)
    for actual, guess in zip(truth.tolist(), predicted.tolist(), strict=True):
        counts[codes[actual], codes[guess]] += 1
    return {"classes": every, "counts": counts.tolist()}
