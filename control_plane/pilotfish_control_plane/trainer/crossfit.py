"""What a model says about rows that it has not learned from, for every training row.

Owns the cross-fitted outputs that a profile's reference for prediction drift is made of. A model's answers to the rows
it was trained on are surer than any it will give again; taken as the reference they would make the first healthy window
look like drift.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from pilotfish_control_plane.trainer.scorer import Answers
from pilotfish_control_plane.trainer.spec import Task

__all__ = ["cross_fitted"]

_FOLDS = 5


def cross_fitted(
    estimator: Any,
    matrix: npt.NDArray[np.float32],
    label: npt.NDArray[Any],
    hashes: npt.NDArray[np.uint64],
    classes: Sequence[Any],
    task: Task,
    generator: np.random.Generator,
) -> Answers | None:
    """Return an answer for each row by a copy of the estimator that was trained without the row's fold.

    Args:
        estimator: fitted; only its settings are used.
        matrix: training rows, transformed.
        label: their labels.
        hashes: rows with equal hashes go to the same fold.
        classes: what the columns of the probabilities stand for.
        task: what the answers are.
        generator: draws the folds.

    Returns:
        None when a fold cannot be trained, for want of rows of a class for example.
    """
    units = np.unique(hashes, return_inverse=True)[1]
    fold_of = (generator.permutation(int(units.max()) + 1) % _FOLDS)[units]
    found = np.zeros((len(label), max(1, len(classes))), dtype=np.float32)
    for fold in np.unique(fold_of):
        inside = fold_of == fold
        copy: Any = clone(estimator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                copy.fit(matrix[~inside], label[~inside])
            except (ValueError, ArithmeticError, np.linalg.LinAlgError):
                return None
            if task is Task.REGRESSION:
                found[inside, 0] = np.ravel(copy.predict(matrix[inside]))
            elif list(copy.classes_) != list(classes):
                return None
            else:
                found[inside] = copy.predict_proba(matrix[inside])
    if task is Task.REGRESSION:
        return Answers(found[:, 0], None)
    names = np.asarray(classes, dtype=label.dtype)
    return Answers(names[np.argmax(found, axis=1)], found)
