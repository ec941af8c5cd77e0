"""The estimators by name, and where scikit-learn keeps them.

Owns which model types a pipeline may ask for, per task. Imports none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pilotfish_control_plane.trainer.spec import Task

__all__ = ["ESTIMATORS", "EstimatorInfo", "known_types"]


@dataclass(frozen=True, slots=True)
class EstimatorInfo:
    """One estimator of one task.

    Attributes:
        module: module of scikit-learn.
        class_name: class in it.
        defaults: arguments used unless the pipeline says otherwise.
        calibrated: it has no probabilities of its own and is wrapped in a cross-validated calibration.
    """

    module: str
    class_name: str
    defaults: dict[str, Any]
    calibrated: bool = False


def _info(module: str, class_name: str, calibrated: bool = False, **defaults: Any) -> EstimatorInfo:
    return EstimatorInfo(f"sklearn.{module}", class_name, defaults, calibrated)


ESTIMATORS: dict[Task, dict[str, EstimatorInfo]] = {
    Task.CLASSIFICATION: {
        "decision_tree": _info("tree", "DecisionTreeClassifier"),
        "extra_trees": _info("ensemble", "ExtraTreesClassifier"),
        "gradient_boosting": _info("ensemble", "GradientBoostingClassifier"),
        "hist_gradient_boosting": _info("ensemble", "HistGradientBoostingClassifier"),
        "knn": _info("neighbors", "KNeighborsClassifier"),
        "logistic_regression": _info("linear_model", "LogisticRegression", max_iter=1000),
        "mlp": _info("neural_network", "MLPClassifier", max_iter=300),
        "naive_bayes": _info("naive_bayes", "GaussianNB"),
        "random_forest": _info("ensemble", "RandomForestClassifier"),
        "svm": _info("svm", "SVC", calibrated=True),
    },
    Task.REGRESSION: {
        "decision_tree": _info("tree", "DecisionTreeRegressor"),
        "elastic_net": _info("linear_model", "ElasticNet", max_iter=10_000),
        "extra_trees": _info("ensemble", "ExtraTreesRegressor"),
        "gradient_boosting": _info("ensemble", "GradientBoostingRegressor"),
        "hist_gradient_boosting": _info("ensemble", "HistGradientBoostingRegressor"),
        "knn": _info("neighbors", "KNeighborsRegressor"),
        "lasso": _info("linear_model", "Lasso", max_iter=10_000),
        "linear_regression": _info("linear_model", "LinearRegression"),
        "mlp": _info("neural_network", "MLPRegressor", max_iter=500),
        "random_forest": _info("ensemble", "RandomForestRegressor"),
        "ridge": _info("linear_model", "Ridge"),
        "svm": _info("svm", "SVR"),
    },
}


def known_types(task: Task | None = None) -> tuple[str, ...]:
    """Return the model types of `task`, or of any task, in alphabetical order."""
    tables = ESTIMATORS.values() if task is None else (ESTIMATORS[task],)
    return tuple(sorted({name for table in tables for name in table}))
