"""Turns `spec.json` into a checked `JobSpec`, or names every problem in it with its field path.

Owns the checks that need no data. Used by the trainer before it works, and by whoever stores a pipeline, so that a bad
definition is refused when it is written and not at night when it runs. Opens nothing, and imports no numerical package.
"""

from __future__ import annotations

import math
from typing import Any

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_control_plane.trainer.estimator_names import ESTIMATORS, known_types
from pilotfish_control_plane.trainer.fields import Fields
from pilotfish_control_plane.trainer.metric_names import METRICS, metric_names
from pilotfish_control_plane.trainer.spec import (
    ChampionRule,
    EvaluationConfig,
    JobSpec,
    ModelConfig,
    SearchConfig,
    SearchRange,
    SplitConfig,
    Task,
    Threshold,
    TrainingConfig,
)
from pilotfish_control_plane.trainer.spec_features import read_feature_config
from pilotfish_control_plane.trainer.spec_quality import read_quality
from pilotfish_control_plane.trainer.spec_sources import read_join, read_sources

__all__ = ["read_spec"]

_SPLITS = ("group", "random", "stratified", "time")
_COMPARISONS = ("<", "<=", ">", ">=")


def read_spec(document: Any) -> JobSpec:
    """Return the checked specification.

    Raises:
        InvalidArgument: `violations` names every problem; reason `SPEC_INVALID`.
    """
    problems: list[Violation] = _not_finite(document, "")
    root = Fields(document, "", problems)
    sources = read_sources(root)
    join = read_join(root.child("feature_config"), [source.name for source in sources])
    training = _training(root)
    spec = JobSpec(
        job_id=root.text("job_id", ""),
        pipeline=root.text("pipeline", ""),
        pipeline_revision=root.integer("pipeline_revision", 0, low=0),
        trigger=root.text("reason", ""),
        seed=root.integer("seed", 0, low=0, high=2**32 - 1),
        sources=sources,
        features=read_feature_config(root, join),
        training=training,
        evaluation=_evaluation(root, training.model.task),
        quality=read_quality(root),
        champion_dir=root.optional_text("champion_dir"),
        previous_profile=root.optional_text("previous_profile"),
        allowed_roots=root.names("allowed_roots") or (),
        allow_private=root.names("allow_private") or (),
    )
    _check_together(root, spec)
    if problems:
        unique = list(dict.fromkeys(problems))
        raise InvalidArgument(
            f"the job's specification has {len(unique)} problem(s)", reason="SPEC_INVALID", violations=unique
        )
    return spec


def _training(root: Fields) -> TrainingConfig:
    part = root.child("training_config", required=True)
    model_part = part.child("model_config", required=True)
    framework = model_part.choice("framework", ("sklearn",), "sklearn")
    task = Task(model_part.choice("task", [str(task) for task in Task], str(Task.CLASSIFICATION)))
    kind = model_part.choice("type", known_types())
    if kind and kind not in ESTIMATORS[task]:
        allowed = ", ".join(known_types(task))
        model_part.report("type", f"{kind!r} does not do {task}; allowed: {allowed}", "UNKNOWN_VALUE")
    model_part.close()
    config = TrainingConfig(
        model=ModelConfig(kind, task, framework),
        hyperparameters=part.mapping("hyperparameters"),
        search=_search(part, task) if part.has("search") else None,
        split=_split(part, task, root),
    )
    part.close()
    return config


def _search(part: Fields, task: Task) -> SearchConfig:
    child = part.child("search")
    method = child.choice("method", ("grid", "random"))
    space_part = child.child("space", required=True)
    space = {name: _dimension(space_part, name, method) for name in space_part.keys()}  # noqa: SIM118
    if not space and child.has("space"):
        child.report("space", "must name at least one hyperparameter", "REQUIRED")
    search = SearchConfig(
        method=method,
        space={name: values for name, values in space.items() if values is not None},
        trials=child.integer("trials", 20, low=1, high=10_000),
        metric=child.choice("metric", metric_names(task), "") or None,
        max_seconds=child.number("max_seconds", 600.0, low=0.1),
    )
    child.close()
    return search


def _dimension(space: Fields, name: str, method: str) -> tuple[Any, ...] | SearchRange | None:
    value = space.raw(name)
    if isinstance(value, list):
        if not value:
            space.report(name, "must list at least one value", "REQUIRED")
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if not isinstance(value, dict):
        space.report(name, 'must be a list of values or a range {"low", "high"}', "WRONG_TYPE")
        return None
    part = space.child(name)
    found = SearchRange(
        part.number("low"), part.number("high"), part.boolean("log", False), part.boolean("integer", False)
    )
    part.close()
    if method == "grid":
        part.report("", "a grid needs a list of values; a range is for method random")
    if found.low >= found.high:
        part.report("high", f"must be above low {found.low:g}, got {found.high:g}", "OUT_OF_RANGE")
    if found.log and found.low <= 0:
        part.report("low", f"must be above 0 for log, got {found.low:g}", "OUT_OF_RANGE")
    return found


def _split(part: Fields, task: Task, root: Fields) -> SplitConfig:
    child = part.child("split_config")
    usual = "stratified" if task is Task.CLASSIFICATION else "random"
    seed = root.raw("seed")
    split = SplitConfig(
        method=child.choice("method", _SPLITS, usual),
        train=child.number("train", 0.6, low=0, high=1),
        validation=child.number("validation", 0.2, low=0, high=1),
        test=child.number("test", 0.2, low=0, high=1),
        seed=child.integer("seed", seed if isinstance(seed, int) else 0, low=0, high=2**32 - 1),
    )
    child.close()
    total = split.train + split.validation + split.test
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        child.report("", f"train + validation + test must be 1, got {total:g}", "OUT_OF_RANGE")
    for name in ("train", "test"):
        if getattr(split, name) <= 0:
            child.report(name, "must be above 0", "OUT_OF_RANGE")
    if split.method == "stratified" and task is Task.REGRESSION:
        child.report("method", "stratified needs classes; use random, time or group for regression")
    return split


def _evaluation(root: Fields, task: Task) -> EvaluationConfig:
    part = root.child("evaluation_config")
    metrics = part.names("metrics") or ()
    for index, name in enumerate(metrics):
        _check_metric(part, f"metrics[{index}]", name, task)
    thresholds: list[Threshold] = []
    for child in part.children("thresholds"):
        metric = child.text("metric")
        _check_metric(child, "metric", metric, task)
        usual = ">=" if metric not in METRICS or METRICS[metric].greater_is_better else "<="
        thresholds.append(
            Threshold(
                metric,
                child.choice("comparison", _COMPARISONS, usual),
                child.number("bound"),
                child.integer("min_sample", 0, low=0),
            )
        )
        child.close()
    config = EvaluationConfig(
        metrics=metrics,
        thresholds=tuple(thresholds),
        champion=_champion(part, task) if part.has("champion") else None,
        averaging=part.choice("averaging", ("macro", "micro", "weighted"), "macro"),
        positive_class=_class_name(part),
        minimum_rows=part.integer("minimum_rows", 20, low=1),
        importance_seconds=part.number("importance_seconds", 1.5, low=0, high=3600),
    )
    part.close()
    return config


def _champion(part: Fields, task: Task) -> ChampionRule:
    child = part.child("champion")
    metric = child.optional_text("metric")
    if metric:
        _check_metric(child, "metric", metric, task)
    margin = child.number("margin", 0.0)
    require = child.choice("require", ("point", "significant"), "point")
    child.close()
    return ChampionRule(metric, margin, require)


def _class_name(part: Fields) -> str | None:
    value = part.raw("positive_class")
    if value is not None and not isinstance(value, (str, int)):
        part.report("positive_class", f"must be a class, got {value!r}", "WRONG_TYPE")
    return None if value is None else str(int(value) if isinstance(value, bool) else value)


def _check_metric(part: Fields, field: str, name: str, task: Task) -> None:
    allowed = metric_names(task)
    if name and name not in allowed:
        part.report(field, f"{name!r} is not a metric of {task}; allowed: {', '.join(allowed)}", "UNKNOWN_VALUE")


def _check_together(root: Fields, spec: JobSpec) -> None:
    """Report what is only wrong in combination."""
    columns = {"time": spec.features.time_column, "group": spec.features.group_column}
    method = spec.training.split.method
    if method in columns and columns[method] is None:
        root.report(f"feature_config.{method}_column", f"is missing; the {method} split needs it", "REQUIRED")
    search = spec.training.search
    if search and spec.training.split.validation <= 0:
        root.report(
            "training_config.split_config.validation", "must be above 0: the search is decided on it", "OUT_OF_RANGE"
        )
    for name in set(search.space if search else ()) & set(spec.training.hyperparameters):
        root.report(
            f"training_config.hyperparameters.{name}", "is also in search.space; give it in one place", "DUPLICATE"
        )


def _not_finite(value: Any, path: str) -> list[Violation]:
    """Return every NaN and infinity in the document: JSON has none, but Python's parser lets them through."""
    if isinstance(value, float) and not math.isfinite(value):
        return [Violation(path, f"must be a finite number, got {value}", "NOT_FINITE")]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _not_finite(item, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _not_finite(item, f"{path}[{index}]")]
    return []
