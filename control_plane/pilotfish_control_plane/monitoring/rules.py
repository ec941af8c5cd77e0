"""What follows from counts, verdicts and labels. Pure: no clock, no store, no wire.

Owns the numbers of monitoring: quantiles of histograms, quality of labelled predictions, and when an alert begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotfish.stats import DriftConfig, DriftVerdict, FeatureGroup
from pilotfish_control_plane.deployments.configuration import DriftDetection

__all__ = [
    "classification_quality",
    "drift_config",
    "drifted_features",
    "histogram_quantile",
    "quality_of",
    "regression_quality",
    "verdict_to_json",
]

Values = npt.NDArray[Any]  # outputs and truths: float, int, bool or object (str), as the model has them


def histogram_quantile(bounds: Sequence[int], counts: Sequence[int], q: float) -> float | None:
    """Return the q-quantile of a latency histogram in microseconds, interpolated within its bucket.

    Args:
        bounds: upper bounds of the buckets, rising, microseconds.
        counts: calls per bucket, one more than the bounds; the last bucket is open and gives its lower bound.
        q: 0 to 1.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank, below = q * total, 0
    for i, count in enumerate(counts):
        if below + count >= rank and count:
            low = float(bounds[i - 1]) if i else 0.0
            if i >= len(bounds):
                return low
            return low + (float(bounds[i]) - low) * max(0.0, (rank - below) / count)
        below += count
    return float(bounds[-1]) if bounds else None


def drift_config(settings: DriftDetection) -> DriftConfig:
    """Return the statistics' own configuration of a deployment's drift detection."""
    return DriftConfig(
        method=settings.method,
        threshold=settings.threshold,
        window_size=settings.window_size,
        min_rows=min(settings.min_sample, settings.window_size),
        scales=tuple(sorted({1, *settings.scales})),
        time_limit_s=settings.window_time_s,
    )


def verdict_to_json(found: DriftVerdict) -> dict[str, Any]:
    """Return a verdict as plain JSON, most drifted features first."""
    features = [
        {
            "feature": f.name,
            "group": "input" if f.group is FeatureGroup.INPUT else "output",
            "score": f.score,
            "p_value": f.p_value,
            "threshold": f.threshold,
            "n": f.n,
            "drifted": f.drifted,
            "reason": f.reason or (f.method if f.drifted else ""),
            "detail": f.detail,
        }
        for f in sorted(found.features, key=lambda f: (not f.drifted, -f.score))
    ]
    return {
        "method": found.method,
        "score": found.score,
        "threshold": found.threshold,
        "n": found.n,
        "drifted": found.drifted,
        "data_score": found.data_score,
        "data_drifted": found.data_drifted,
        "prediction_score": found.prediction_score,
        "prediction_drifted": found.prediction_drifted,
        "scale": found.scale,
        "reason": found.reason,
        "features": features,
    }


def drifted_features(verdict: Mapping[str, Any], group: str | None = None) -> list[str]:
    """Return the names of the drifted features, strongest first."""
    return [f["feature"] for f in verdict.get("features", ()) if f["drifted"] and group in (None, f["group"])]


def _as_text(values: Values) -> list[str]:
    """Return class names in one form: 1, 1.0, True and "1" are the same class."""
    found = []
    for value in values.tolist():
        if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
            found.append(str(int(value)))
        else:
            text = str(value)
            found.append(text.removesuffix(".0") if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text)
    return found


def classification_quality(
    predicted: Values, truths: Values, probabilities: Mapping[str, Values] | None = None
) -> dict[str, float]:
    """Return accuracy, precision, recall, f1_score (of the positive class with two classes, else macro) and roc_auc.

    Args:
        predicted: class per row, shape (rows,).
        truths: true class per row, shape (rows,).
        probabilities: class name to probability per row; needed for roc_auc, with two classes only.

    The positive class is the later one in sorted order, which is 1 of 0 and 1.
    """
    said, true = np.array(_as_text(predicted), dtype=object), np.array(_as_text(truths), dtype=object)
    if said.size == 0:
        return {}
    classes = sorted({*said.tolist(), *true.tolist()}, key=_class_order)
    found = {"accuracy": float(np.mean(said == true))}
    judged = classes[-1:] if len(classes) == 2 else classes
    precision, recall, f1 = [], [], []
    for name in judged:
        hits = float(np.sum((said == name) & (true == name)))
        p = hits / max(float(np.sum(said == name)), 1.0)
        r = hits / max(float(np.sum(true == name)), 1.0)
        precision.append(p)
        recall.append(r)
        f1.append(2 * p * r / (p + r) if p + r else 0.0)
    found |= {"precision": _mean(precision), "recall": _mean(recall), "f1_score": _mean(f1)}
    if probabilities and len(classes) == 2 and classes[-1] in probabilities:
        area = _roc_auc(probabilities[classes[-1]].astype(float), true == classes[-1])
        if area is not None:
            found["roc_auc"] = area
    return found


def _class_order(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), "")
    except ValueError:
        return (1, 0.0, name)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _roc_auc(scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> float | None:
    """Return the area under the curve by rank sums, ties counted half; None with one class only."""
    known = np.isfinite(scores)
    scores, positive = scores[known], positive[known]
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return None
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    ranks = (ends - (sizes - 1) / 2.0)[inverse]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2.0) / (ones * zeros))


def regression_quality(predicted: Values, truths: Values) -> dict[str, float]:
    """Return mae, rmse and r2 (where the truths vary) of finite pairs."""
    said, true = predicted.astype(float), truths.astype(float)
    known = np.isfinite(said) & np.isfinite(true)
    said, true = said[known], true[known]
    if said.size == 0:
        return {}
    error = said - true
    found = {"mae": float(np.mean(np.abs(error))), "rmse": math.sqrt(float(np.mean(error**2)))}
    spread = float(np.sum((true - true.mean()) ** 2))
    if spread > 0:
        found["r2"] = 1.0 - float(np.sum(error**2)) / spread
    return found


def quality_of(
    outputs: Mapping[str, Values], truths: Values, *, label: str | None, classes: Sequence[str]
) -> dict[str, float]:
    """Return the quality metrics of labelled predictions; empty where they cannot be told.

    Args:
        outputs: output name to values, shape (rows,).
        truths: shape (rows,).
        label: the output that holds the prediction; None: `label`, else the only output.
        classes: the model's classes; empty: a regression if the prediction is a float.
    """
    name = label if label in outputs else "label" if "label" in outputs else None
    if name is None and len(outputs) == 1:
        name = next(iter(outputs))
    if name is None or not truths.size:
        return {}
    predicted = outputs[name]
    # A whole number, a truth value or a text is a class; a model that predicts a quantity answers with a float.
    if classes or predicted.dtype.kind in "ObUSiu" or truths.dtype.kind in "ObUS":
        found = {k.removeprefix("probability_"): v for k, v in outputs.items() if k.startswith("probability_")}
        return classification_quality(predicted, truths, found)
    return regression_quality(predicted, truths)
