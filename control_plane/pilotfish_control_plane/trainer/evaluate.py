"""Measures a model on the test split, by the graph that will be served.

Owns the test metrics and the comparison with the champion on the same rows. Decides nothing: that is the gate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotfish_control_plane.trainer.comparison import Comparison, Scored, compare
from pilotfish_control_plane.trainer.hashes import row_hashes
from pilotfish_control_plane.trainer.metric_names import default_metric, metric_names
from pilotfish_control_plane.trainer.metrics import compute_metrics, confusion_matrix
from pilotfish_control_plane.trainer.scorer import Answers, ModelUnusable, Scorer, input_table, load_artifact
from pilotfish_control_plane.trainer.spec import EvaluationConfig, Task
from pilotfish_control_plane.trainer.table import Table

__all__ = ["TRAINING_ROWS", "ChampionResult", "Evaluation", "evaluate", "evaluate_champion"]

TRAINING_ROWS = "training_rows.bin"
_PROBABILITY_FLOOR = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A model's answers on some rows, and its metrics there."""

    answers: Answers
    metrics: dict[str, float | None]
    confusion: dict[str, Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class ChampionResult:
    """What came of running the champion.

    Attributes:
        metrics: on the whole test split; None when it could not be run.
        comparison: on the rows that are fair; None when they cannot be compared.
        why_not: the cause, when there is no comparison.
        note: which rows the comparison rests on.
    """

    metrics: dict[str, float | None] | None
    comparison: Comparison | None
    why_not: str = ""
    note: str = ""


def evaluate(scorer: Scorer, test: Table, config: EvaluationConfig, task: Task) -> Evaluation:
    """Return the metrics that were asked for (or all), and the confusion matrix of classes."""
    answers = scorer.answer(test.features)
    found = _metrics(test.label, answers, scorer.classes, config, task)
    champion_metric = (config.champion.metric or default_metric(task)) if config.champion else None
    wanted = {*config.metrics, *(item.metric for item in config.thresholds), champion_metric}
    names = [name for name in metric_names(task) if not config.metrics or name in wanted]
    confusion = confusion_matrix(test.label, answers.label, scorer.classes) if task is Task.CLASSIFICATION else None
    return Evaluation(answers, {name: found[name] for name in names}, confusion)


def _metrics(
    truth: npt.NDArray[Any], answers: Answers, classes: Sequence[Any], config: EvaluationConfig, task: Task
) -> dict[str, float | None]:
    return compute_metrics(
        task,
        truth,
        answers.label,
        answers.probabilities,
        classes,
        averaging=config.averaging,
        positive_class=config.positive_class,
    )


def evaluate_champion(
    directory: Path,
    candidate: Evaluation,
    candidate_classes: Sequence[Any],
    test: Table,
    config: EvaluationConfig,
    task: Task,
    generator: np.random.Generator,
) -> ChampionResult:
    """Return the champion's metrics on the test split and the paired comparison with the candidate.

    Rows that the champion has learned from are left out of the comparison: it would score them from memory. When too
    few others remain, all are used, and the note says so.
    """
    try:
        scorer = load_artifact(directory)
        _check_answers(scorer, task)
        features = input_table(test.raw, scorer.signature)
        answers = scorer.answer(features)
    except ModelUnusable as error:
        return ChampionResult(None, None, f"the champion cannot be evaluated: {error}")
    except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
        return ChampionResult(None, None, f"the champion fails on the test rows: {str(error).strip()[:300]}")
    metrics = _metrics(test.label, answers, scorer.classes, config, task)
    assert config.champion is not None
    metric = config.champion.metric or default_metric(task)
    rows, note = _fair_rows(directory, row_hashes(features), config.minimum_rows)
    sides = (
        _scored(metric, test.label[rows], _rows_of(candidate.answers, rows), candidate_classes, config, task),
        _scored(metric, test.label[rows], _rows_of(answers, rows), scorer.classes, config, task),
    )
    wins = _wins(test.label[rows], sides[0].label, sides[1].label, task)
    comparison = compare(metric, *sides, wins, generator)
    shown = {name: metrics[name] for name in candidate.metrics}
    why_not = "" if comparison else f"{metric} is not defined for both models on {len(rows)} test rows"
    return ChampionResult(shown, comparison, why_not, note)


def _check_answers(scorer: Scorer, task: Task) -> None:
    names = {output.get("name") for output in scorer.signature["outputs"]}
    wanted = {"prediction"} if task is Task.REGRESSION else {"label", "probabilities"}
    if not wanted <= names:
        raise ModelUnusable(f"it does not answer {', '.join(sorted(wanted - names))}, so it is no model for {task}")


def _fair_rows(directory: Path, hashes: npt.NDArray[np.uint64], minimum: int) -> tuple[npt.NDArray[np.intp], str]:
    """Return the test rows that the champion has not learned from, as far as its artifact tells."""
    every = np.arange(len(hashes))
    path = directory / TRAINING_ROWS
    if not path.exists():
        return every, "which rows the champion was trained on is unknown"
    known = np.fromfile(path, dtype="<u8")
    fair = np.flatnonzero(~np.isin(hashes, known))
    seen = len(every) - len(fair)
    if not seen:
        return every, ""
    if len(fair) < minimum:
        return every, f"the champion was trained on {seen} of the {len(every)} test rows, which favours it"
    return fair, f"{seen} test rows that the champion was trained on are left out"


def _rows_of(answers: Answers, rows: npt.NDArray[np.intp]) -> Answers:
    return Answers(answers.label[rows], None if answers.probabilities is None else answers.probabilities[rows])


def _scored(
    metric: str,
    truth: npt.NDArray[Any],
    answers: Answers,
    classes: Sequence[Any],
    config: EvaluationConfig,
    task: Task,
) -> Scored:
    def value(rows: npt.NDArray[np.intp]) -> float | None:
        return _metrics(truth[rows], _rows_of(answers, rows), classes, config, task)[metric]

    return Scored(answers.label, _row_scores(metric, truth, answers, classes), value)


def _row_scores(
    metric: str, truth: npt.NDArray[Any], answers: Answers, classes: Sequence[Any]
) -> npt.NDArray[np.float64] | None:
    """Return what the metric is the mean of (for rmse: what its square is the mean of); None for other metrics."""
    if metric == "accuracy":
        return np.asarray(
            [a == b for a, b in zip(truth.tolist(), answers.label.tolist(), strict=True)], dtype=np.float64
        )
    if metric == "log_loss" and answers.probabilities is not None and set(truth.tolist()) <= set(classes):
        codes = {value: code for code, value in enumerate(classes)}
        shares = np.clip(answers.probabilities.astype(np.float64), 0.0, 1.0)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        told = shares[np.arange(len(truth)), [codes[value] for value in truth.tolist()]]
        losses: npt.NDArray[np.float64] = -np.log(np.clip(told, _PROBABILITY_FLOOR, 1.0))
        return losses
    if metric in ("mae", "mse", "rmse"):
        errors: npt.NDArray[np.float64] = answers.label.astype(np.float64) - truth
        return np.abs(errors) if metric == "mae" else errors**2
    return None


def _wins(truth: npt.NDArray[Any], candidate: npt.NDArray[Any], champion: npt.NDArray[Any], task: Task) -> Any:
    if task is Task.REGRESSION:
        return np.sign(np.abs(champion - truth) - np.abs(candidate - truth)).astype(np.int64)
    right = [
        np.asarray([a == b for a, b in zip(truth.tolist(), side.tolist(), strict=True)], dtype=np.int64)
        for side in (candidate, champion)
    ]
    return right[0] - right[1]
