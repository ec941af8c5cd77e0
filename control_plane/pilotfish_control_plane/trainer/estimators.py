"""Makes estimators from their names and hyperparameters.

Owns which hyperparameters may be given (everything that the estimator itself declares, but for what the job decides:
randomness, threads, output) and that each wrong one is named. Fits nothing.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from pilotfish_control_plane.trainer.estimator_names import ESTIMATORS, EstimatorInfo
from pilotfish_control_plane.trainer.fields import suggestion
from pilotfish_control_plane.trainer.outcome import Issue, Severity
from pilotfish_control_plane.trainer.spec import ModelConfig

__all__ = ["check_hyperparameters", "make_estimator", "shown_hyperparameters"]

_DECIDED_BY_THE_JOB = frozenset(
    {"callback", "categorical_features", "copy_X", "n_jobs", "probability", "random_state", "verbose", "warm_start"}
)
_PATH = "training_config.hyperparameters"


def _class(info: EstimatorInfo) -> Any:
    return getattr(importlib.import_module(info.module), info.class_name)


def check_hyperparameters(model: ModelConfig, values: Mapping[str, Any], path: str = _PATH) -> list[Issue]:
    """Return an issue for each hyperparameter that the estimator does not have or whose value it refuses."""
    info = ESTIMATORS[model.task][model.type]
    estimator = _class(info)()
    known = sorted(set(estimator.get_params(deep=False)) - _DECIDED_BY_THE_JOB)
    issues = []
    for name, value in values.items():
        if name in _DECIDED_BY_THE_JOB:
            message = f"{name!r} is decided by the job and cannot be set"
        elif name not in known:
            message = (
                f"{model.type} has no hyperparameter {name!r}{suggestion(name, known)} (it has: {', '.join(known)})"
            )
        else:
            message = _refusal(info, name, value)
        if message:
            issues.append(Issue("hyperparameters", Severity.ERROR, f"{path}.{name}", message))
    return issues


def _refusal(info: EstimatorInfo, name: str, value: Any) -> str:
    """Return why the estimator refuses one value, or nothing; scikit-learn checks all declared types and ranges."""
    estimator = _class(info)(**{name: _native(info, name, value)})
    try:
        estimator._validate_params()
    except ValueError as error:
        # The whole text is "The 'C' parameter of SVC must be …. Got -1 instead."
        return re.sub(r"\s+", " ", str(error))
    return ""


def _native(info: EstimatorInfo, name: str, value: Any) -> Any:
    """Return the value as the estimator takes it.

    Some ways that JSON comes in know only floats: 100.0 becomes 100 where the estimator wants a whole number. A value
    that it takes as it is stays as it is.
    """
    if isinstance(value, (list, tuple)):
        return tuple(int(item) if isinstance(item, float) and item.is_integer() else item for item in value)
    if isinstance(value, float) and value.is_integer():
        try:
            _class(info)(**{name: value})._validate_params()
        except ValueError:
            return int(value)
    return value


def make_estimator(model: ModelConfig, values: Mapping[str, Any], seed: int, labels: Any = None) -> Any:
    """Return an estimator that is not fitted, single-threaded and seeded.

    Args:
        model: which one.
        values: hyperparameters that were checked.
        seed: for its randomness.
        labels: the training labels; class weights are looked up in them and calibration adapts to rare classes.
    """
    info = ESTIMATORS[model.task][model.type]
    chosen = {**info.defaults, **{name: _native(info, name, value) for name, value in values.items()}}
    if isinstance(chosen.get("class_weight"), Mapping) and labels is not None:
        chosen["class_weight"] = _by_class(chosen["class_weight"], labels)
    estimator = _class(info)(**chosen)
    # n_jobs stays unset everywhere, which means one thread.
    if "random_state" in estimator.get_params(deep=False):
        estimator.set_params(random_state=seed)
    if not info.calibrated:
        return estimator
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold

    rarest = 5 if labels is None else min(labels.tolist().count(value) for value in set(labels.tolist()))
    folds = StratifiedKFold(max(2, min(5, rarest)), shuffle=True, random_state=seed)
    calibrated: Any = CalibratedClassifierCV  # Any: its declared type of `ensemble` is narrower than what it takes
    return calibrated(estimator, method="sigmoid", cv=folds, ensemble=False)


def _by_class(weights: Mapping[str, Any], labels: Any) -> dict[Any, Any]:
    """Return the weights by class: JSON has only texts as keys."""
    by_text = {str(value): value for value in set(labels.tolist())}
    return {by_text.get(str(key), key): weight for key, weight in weights.items()}


def shown_hyperparameters(model: ModelConfig, estimator: Any) -> dict[str, Any]:
    """Return every hyperparameter that the model was trained with, defaults included."""
    inner = estimator.estimator if ESTIMATORS[model.task][model.type].calibrated else estimator
    return {
        name: value
        for name, value in inner.get_params(deep=False).items()
        if isinstance(value, (str, int, float, bool, list, tuple, dict, type(None)))
        and name not in ("n_jobs", "verbose")
    }
