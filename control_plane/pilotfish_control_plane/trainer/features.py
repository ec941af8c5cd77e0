"""Turns columns into the float32 matrix that an estimator learns from, as the feature set says.

Owns imputation, scaling, encoding and selection; all are fitted on the training rows only. What was fitted is kept in a
form that `onnx_features` can write down exactly, operation by operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import (
    SelectKBest,
    SelectPercentile,
    f_classif,
    f_regression,
    mutual_info_classif,
    mutual_info_regression,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler

from pilotfish_control_plane.trainer.encoders import CategoryFill, FrequencyEncoder, OrdinalCodes, TargetMeans
from pilotfish_control_plane.trainer.fields import suggestion
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed
from pilotfish_control_plane.trainer.spec import FeatureSet, Task, Transformation
from pilotfish_control_plane.trainer.table import CATEGORICAL, NUMERIC, Roles, Table

__all__ = ["FeaturePlan", "FittedFeatures", "feature_statistics", "fit_features", "plan_features"]

_SCALERS: dict[str, Any] = {
    "max_abs": MaxAbsScaler,
    "minmax": MinMaxScaler,
    "robust": RobustScaler,
    "standard": StandardScaler,
}


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """How each feature is treated, resolved from the transformations: the last one that names a column wins.

    Attributes:
        columns: the features used, in order.
        imputation: by column (method, value for `constant`).
        scaling: by numeric column.
        encoding: by categorical column.
        selection: steps over the whole matrix, in order.
    """

    columns: tuple[str, ...]
    imputation: Mapping[str, tuple[str, Any]]
    scaling: Mapping[str, str]
    encoding: Mapping[str, str]
    selection: tuple[Transformation, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Columns of one kind that are treated alike; `key` is their name in the column transformer."""

    key: str
    kind: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FittedFeatures:
    """Fitted transformations.

    Attributes:
        plan: what was asked for.
        groups: the columns by treatment, in the order of the transformer's output.
        columns: the fitted column transformer, before selection.
        support: which of its outputs are kept, in order.
        names: name of each number the estimator sees.
    """

    plan: FeaturePlan
    roles: Roles
    groups: tuple[Group, ...]
    columns: Any
    support: npt.NDArray[np.intp]
    names: tuple[str, ...]

    def transform(self, features: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Return shape (rows, len(names)), float32."""
        matrix = np.asarray(self.columns.transform(_as_input(features, self.roles)), dtype=np.float64)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(matrix[:, self.support].astype(np.float32))


def plan_features(feature_set: FeatureSet, roles: Roles) -> FeaturePlan:
    """Return how each feature is treated.

    Raises:
        TrainingFailed: FEATURES_FAILED, with an issue for each transformation that does not fit the columns.
    """
    issues: list[Issue] = []
    kept = list(roles.features)
    imputation: dict[str, tuple[str, Any]] = {
        name: ("median", None) if roles.kinds[name] == NUMERIC else ("constant", "") for name in kept
    }
    scaling = dict.fromkeys(roles.of_kind(NUMERIC), "none")
    encoding = dict.fromkeys(roles.of_kind(CATEGORICAL), "onehot")
    selection: list[Transformation] = []
    for index, step in enumerate(feature_set.transformations):
        path = f"feature_config.feature_set.transformations[{index}]"
        if step.type == "feature_selection":
            if step.method == "columns":
                kept = [name for name in kept if name in _columns(step, roles, None, path, issues)]
            else:
                selection.append(step)
        elif step.type == "imputation":
            for name in _imputed(step, roles, path, issues):
                imputation[name] = (step.method, step.options.get("value"))
        elif step.type == "scaling":
            scaling.update(dict.fromkeys(_columns(step, roles, NUMERIC, path, issues), step.method))
        else:
            encoding.update(dict.fromkeys(_columns(step, roles, CATEGORICAL, path, issues), step.method))
    if not kept and not issues:
        issues.append(Issue("features", Severity.ERROR, "", "feature selection leaves no feature"))
    if issues:
        raise TrainingFailed(Reason.FEATURES_FAILED, "the feature set does not fit the data", issues)
    return FeaturePlan(tuple(kept), imputation, scaling, encoding, tuple(selection))


def _columns(step: Transformation, roles: Roles, kind: str | None, path: str, issues: list[Issue]) -> tuple[str, ...]:
    """Return the columns of a step: those named, or all of its kind."""
    if step.columns is None:
        return tuple(roles.features if kind is None else roles.of_kind(kind))
    for name in step.columns:
        if name not in roles.kinds:
            message = f"{step.type} names {name!r}, which is no feature{suggestion(name, roles.features)}"
            issues.append(Issue("features", Severity.ERROR, f"{path}.columns", message))
        elif kind is not None and roles.kinds[name] != kind:
            message = f"{step.type} {step.method} is for {kind} columns, {name!r} is {roles.kinds[name]}"
            issues.append(Issue("features", Severity.ERROR, f"{path}.columns", message))
    return tuple(name for name in step.columns if name in roles.kinds)


def _imputed(step: Transformation, roles: Roles, path: str, issues: list[Issue]) -> tuple[str, ...]:
    value = step.options.get("value")
    if step.method in ("mean", "median"):
        return _columns(step, roles, NUMERIC, path, issues)
    if step.method == "constant":
        return _columns(step, roles, CATEGORICAL if isinstance(value, str) else NUMERIC, path, issues)
    return _columns(step, roles, None, path, issues)


def _as_input(features: pd.DataFrame, roles: Roles) -> pd.DataFrame:
    """Return the columns with numbers as float64: arithmetic is done in double, and rounded once at the end."""
    numeric = dict.fromkeys(roles.of_kind(NUMERIC), np.float64)
    return features.astype(numeric)


def _groups(plan: FeaturePlan, roles: Roles) -> tuple[Group, ...]:
    """Return the columns by treatment: one pass over a matrix instead of one for each column."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in plan.columns:
        kind = roles.kinds[name]
        treatment = plan.scaling[name] if kind == NUMERIC else plan.encoding[name]
        groups.setdefault((kind, treatment, *plan.imputation[name]), []).append(name)
    return tuple(
        Group(f"{key[0]}_{index}", key[0], tuple(columns)) for index, (key, columns) in enumerate(groups.items())
    )


def _pipeline(plan: FeaturePlan, group: Group, seed: int) -> Any:
    name = group.columns[0]
    method, value = plan.imputation[name]
    if group.kind == NUMERIC:
        fill: Any = SimpleImputer(
            strategy=method, fill_value=value if method == "constant" else None, keep_empty_features=True
        )
        scaler = _SCALERS.get(plan.scaling[name])
        return Pipeline([("impute", fill), ("transform", scaler() if scaler else "passthrough")])
    encoders: dict[str, Any] = {
        "frequency": FrequencyEncoder,
        "onehot": lambda: OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        "ordinal": OrdinalCodes,
        "target": lambda: TargetMeans(seed=seed),
    }
    fill = CategoryFill(method, value if method == "constant" else "")
    return Pipeline([("impute", fill), ("transform", encoders[plan.encoding[name]]())])


def fit_features(
    feature_set: FeatureSet, train: Table, task: Task, seed: int
) -> tuple[FittedFeatures, npt.NDArray[np.float32]]:
    """Return the transformations fitted on the training rows, and those rows transformed.

    The second value is not always `transform(train)`: target means are learned without each row's own fold.

    Raises:
        TrainingFailed: FEATURES_FAILED.
    """
    roles = train.roles
    plan = plan_features(feature_set, roles)
    groups = _groups(plan, roles)
    issues = _target_issues(plan, train, task)
    steps = [(group.key, _pipeline(plan, group, seed), list(group.columns)) for group in groups]
    columns = ColumnTransformer(steps, verbose_feature_names_out=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant columns: quality has named them already
        matrix = np.asarray(columns.fit_transform(_as_input(train.features, roles), train.label), dtype=np.float64)
        support = np.arange(matrix.shape[1])
        for step in plan.selection:
            support = support[_selected(step, matrix[:, support], train.label, task, seed, issues)]
    if not len(support):
        issues.append(Issue("features", Severity.ERROR, "", "feature selection leaves no feature; loosen it"))
    if issues:
        raise TrainingFailed(Reason.FEATURES_FAILED, "feature selection does not fit the data", issues)
    every = _output_names(columns, plan, groups)
    fitted = FittedFeatures(plan, roles, groups, columns, support, tuple(every[index] for index in support))
    with np.errstate(over="ignore"):
        return fitted, np.ascontiguousarray(matrix[:, support].astype(np.float32))


def _selected(
    step: Transformation,
    matrix: npt.NDArray[np.float64],
    label: npt.NDArray[Any],
    task: Task,
    seed: int,
    issues: list[Issue],
) -> npt.NDArray[np.intp]:
    width = matrix.shape[1]
    if step.method == "variance":
        # Not VarianceThreshold.fit: it raises when nothing is left, here that is one issue among others.
        return np.flatnonzero(np.var(matrix, axis=0) > step.options["threshold"])
    if step.options.get("k", 0) > width:
        message = f"k_best asks for {step.options['k']} of {width} features"
        issues.append(
            Issue("features", Severity.ERROR, "feature_config.feature_set", message, step.options["k"], width)
        )
        return np.arange(width)
    score = _score(step.options["score"], task, seed)
    selector = (
        SelectKBest(score, k=step.options["k"])
        if step.method == "k_best"
        else SelectPercentile(score, percentile=step.options["percentile"])
    )
    selector.fit(matrix, label)
    return np.flatnonzero(np.asarray(selector.get_support()))


def _score(name: str, task: Task, seed: int) -> Any:
    if name == "f":
        return f_classif if task is Task.CLASSIFICATION else f_regression
    measure = mutual_info_classif if task is Task.CLASSIFICATION else mutual_info_regression
    return lambda X, y: measure(X, y, random_state=seed)


def _target_issues(plan: FeaturePlan, train: Table, task: Task) -> list[Issue]:
    by_target = [name for name, method in plan.encoding.items() if method == "target" and name in plan.columns]
    if not by_target or task is Task.REGRESSION or len(set(train.label.tolist())) <= 2:
        return []
    message = f"target encoding of {', '.join(by_target)} needs two classes or a number; use onehot or frequency"
    return [Issue("features", Severity.ERROR, by_target[0], message)]


def _output_names(columns: Any, plan: FeaturePlan, groups: tuple[Group, ...]) -> list[str]:
    names: list[str] = []
    for group in groups:
        if group.kind == CATEGORICAL and plan.encoding[group.columns[0]] == "onehot":
            encoder = columns.named_transformers_[group.key].named_steps["transform"]
            for name, levels in zip(group.columns, encoder.categories_, strict=True):
                names += [f"{name}={level}" for level in levels]
        else:
            names += group.columns
    return names


def feature_statistics(train: Table, fitted: FittedFeatures) -> dict[str, Any]:
    """Return by feature what its training values look like, and whether selection kept it.

    Numbers: count, missing, mean, sd (divided by n), min, quartiles, max. Categories: count, missing, distinct, and
    the ten commonest with their counts.
    """
    kept = {name.split("=", 1)[0] if name not in fitted.roles.kinds else name for name in fitted.names}
    statistics: dict[str, Any] = {}
    for name in train.roles.features:
        column = train.features[name]
        used = name in kept
        if train.roles.kinds[name] == NUMERIC:
            values = column.to_numpy(dtype=np.float64)
            known = values[~np.isnan(values)]
            entry: dict[str, Any] = {"kind": NUMERIC, "count": len(known), "missing": len(values) - len(known)}
            if len(known):
                low, q1, median, q3, high = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist()
                entry |= {"mean": float(known.mean()), "sd": float(known.std()), "min": low, "q1": q1}
                entry |= {"median": median, "q3": q3, "max": high}
        else:
            counts = column[column != ""].value_counts()
            entry = {"kind": CATEGORICAL, "count": int(counts.sum()), "missing": int((column == "").sum())}
            entry |= {"distinct": len(counts), "levels": {str(k): int(v) for k, v in counts.head(10).items()}}
        statistics[name] = entry | {"used": used}
    return statistics
