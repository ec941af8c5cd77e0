"""Trains the model: once with the given hyperparameters, or as the best of a search on the validation split.

Owns the search and what is reported of it. The search looks at the training and the validation split only; the test
split does not exist for this module.
"""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.trainer.estimators import check_hyperparameters, make_estimator, shown_hyperparameters
from pilotfish_control_plane.trainer.metric_names import METRICS, default_metric
from pilotfish_control_plane.trainer.metrics import compute_metrics
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed, plain
from pilotfish_control_plane.trainer.spec import SearchConfig, SearchRange, Task, TrainingConfig

__all__ = ["FittedModel", "Progress", "fit_model", "trials_of"]

logger = logging.getLogger(__name__)

Progress = Callable[[float, str, Mapping[str, Any]], None]
Matrix = npt.NDArray[np.float32]
_MAX_CURVE_POINTS = 50


@dataclass(frozen=True, slots=True, eq=False)
class FittedModel:
    """A trained estimator and how it came to be.

    Attributes:
        chosen: the hyperparameters that were given or found; `hyperparameters` has the defaults as well.
        search: one entry per trial: hyperparameters, metric, value, seconds, and the error of a failed one.
        seconds: time of the last fit.
    """

    estimator: Any
    chosen: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    seconds: float
    search: Sequence[Mapping[str, Any]] = ()
    issues: Sequence[Issue] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, eq=False)
class FitData:
    """What a model learns from, and what a search is decided on."""

    train: Matrix
    train_label: npt.NDArray[Any]
    validation: Matrix
    validation_label: npt.NDArray[Any]


def fit_model(data: FitData, config: TrainingConfig, seed: int, clock: Clock, progress: Progress) -> FittedModel:
    """Return the trained model.

    Args:
        data: both splits, transformed.
        config: estimator, hyperparameters and search.
        seed: for the estimator and the draws of a random search.
        clock: measures time and ends a search.
        progress: called with the fraction done, a line, and metrics.

    Raises:
        TrainingFailed: SPEC_INVALID for wrong hyperparameters, FIT_FAILED when no model could be trained.
    """
    issues = check_hyperparameters(config.model, config.hyperparameters)
    if config.search is not None:
        issues += _search_issues(config)
    if issues:
        raise TrainingFailed(Reason.SPEC_INVALID, "the hyperparameters do not fit the model", issues)
    if config.search is None:
        return _fit_once(data, config, config.hyperparameters, seed, clock, progress)
    return _search(data, config, config.search, seed, clock, progress)


def _search_issues(config: TrainingConfig) -> list[Issue]:
    assert config.search is not None
    found: dict[tuple[str, str], Issue] = {}
    for name, values in config.search.space.items():
        if isinstance(values, SearchRange):
            values = tuple(int(v) if values.integer else v for v in (values.low, values.high))
        for value in values:
            for issue in check_hyperparameters(config.model, {name: value}, "training_config.search.space"):
                found[issue.column, issue.message] = issue
    return list(found.values())


def _fit_once(
    data: FitData, config: TrainingConfig, values: Mapping[str, Any], seed: int, clock: Clock, progress: Progress
) -> FittedModel:
    estimator = make_estimator(config.model, values, seed, data.train_label)
    begin = clock.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(data.train, data.train_label)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            message = f"{config.model.type} cannot be trained: {error}"
            raise TrainingFailed(
                Reason.FIT_FAILED, message, [Issue("fit", Severity.ERROR, "training_config", message)]
            ) from error
    issues = [
        Issue("fit", Severity.WARNING, "training_config.hyperparameters", str(warning.message).split("\n")[0])
        for warning in caught
        if type(warning.message).__name__ == "ConvergenceWarning"
    ]
    _report_curve(estimator, progress)
    return FittedModel(
        estimator,
        dict(values),
        plain(shown_hyperparameters(config.model, estimator)),
        clock.monotonic() - begin,
        issues=tuple(dict.fromkeys(issues)),
    )


def _report_curve(estimator: Any, progress: Progress) -> None:
    """Report the loss by step, where the estimator has kept it, thinned to at most 50 points."""
    curve = getattr(estimator, "loss_curve_", None)
    if curve is None:
        curve = getattr(estimator, "train_score_", None)
    if curve is None or not len(curve):
        return
    for step in sorted({round(step) for step in np.linspace(1, len(curve), min(len(curve), _MAX_CURVE_POINTS))}):
        progress(step / len(curve), f"step {step} of {len(curve)}", {"step": step, "loss": float(curve[step - 1])})


def _search(
    data: FitData, config: TrainingConfig, search: SearchConfig, seed: int, clock: Clock, progress: Progress
) -> FittedModel:
    metric = search.metric or default_metric(config.model.task)
    sign = 1.0 if METRICS[metric].greater_is_better else -1.0
    trials = trials_of(search, seed)
    begin = clock.monotonic()
    record: list[dict[str, Any]] = []
    best: FittedModel | None = None
    best_value = -math.inf
    for index, values in enumerate(trials):
        if record and clock.monotonic() - begin > search.max_seconds:
            logger.info("the search ends after %d of %d trials: its time is over", index, len(trials))
            break
        entry: dict[str, Any] = {"hyperparameters": plain(values), "metric": metric, "value": None}
        try:
            fitted = _fit_once(data, config, {**config.hyperparameters, **values}, seed, clock, _no_progress)
            value = _validation_value(fitted.estimator, data, metric, config.model.task)
            entry |= {"value": value, "seconds": fitted.seconds}
            if value is not None and sign * value > best_value:
                best, best_value = fitted, sign * value
        except TrainingFailed as error:
            entry["error"] = error.message
        record.append(entry)
        shown = "failed" if entry["value"] is None else f"{metric} {entry['value']:.4f}"
        metrics = {metric: entry["value"], "trial": index + 1, "best": sign * best_value if best else None}
        progress((index + 1) / len(trials), f"trial {index + 1} of {len(trials)}: {shown}", metrics)
    if best is None:
        issues = [
            Issue(
                "search", Severity.ERROR, f"training_config.search.trials[{index}]", str(entry.get("error", "no value"))
            )
            for index, entry in enumerate(record)
        ]
        raise TrainingFailed(Reason.FIT_FAILED, "no trial of the search gave a model", issues)
    return FittedModel(best.estimator, best.chosen, best.hyperparameters, best.seconds, tuple(record), best.issues)


def _no_progress(_: float, __: str, ___: Mapping[str, Any]) -> None:
    """The curves of single trials are not shown."""


def _validation_value(estimator: Any, data: FitData, metric: str, task: Task) -> float | None:
    if task is Task.REGRESSION:
        return compute_metrics(task, data.validation_label, estimator.predict(data.validation)).get(metric)
    classes = estimator.classes_.tolist()
    probabilities = estimator.predict_proba(data.validation)
    return compute_metrics(task, data.validation_label, estimator.predict(data.validation), probabilities, classes).get(
        metric
    )


def trials_of(search: SearchConfig, seed: int) -> list[dict[str, Any]]:
    """Return the combinations to try: all of a grid (at most `trials`), or `trials` different draws."""
    if search.method == "grid":
        names = list(search.space)
        every = itertools.product(*(_listed(search.space[name]) for name in names))
        return [dict(zip(names, values, strict=True)) for values in itertools.islice(every, search.trials)]
    generator = np.random.default_rng(seed)
    drawn: dict[str, dict[str, Any]] = {}
    # A space with few combinations repeats itself: stop when new draws no longer come.
    for values in itertools.islice(_draws(search, generator), search.trials * 20):
        drawn.setdefault(repr(sorted(values.items())), values)
        if len(drawn) == search.trials:
            break
    return list(drawn.values())


def _listed(values: tuple[Any, ...] | SearchRange) -> tuple[Any, ...]:
    assert not isinstance(values, SearchRange)  # the reader refuses a range in a grid
    return values


def _draws(search: SearchConfig, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    while True:
        yield {name: _draw(values, generator) for name, values in search.space.items()}


def _draw(values: tuple[Any, ...] | SearchRange, generator: np.random.Generator) -> Any:
    if not isinstance(values, SearchRange):
        return values[int(generator.integers(len(values)))]
    low, high = (math.log(values.low), math.log(values.high)) if values.log else (values.low, values.high)
    drawn = float(generator.uniform(low, high))
    drawn = math.exp(drawn) if values.log else drawn
    return int(min(max(round(drawn), math.ceil(values.low)), math.floor(values.high))) if values.integer else drawn
