"""Encoders that turn one category into one number, learned from the training rows only.

Owns the encodings that scikit-learn has not, in its own interface (fit, transform). Every encoder keeps `tables_`: by
column the number of each known category; unknown categories get `unknown_`. This is all that serving needs, so each of
them becomes one look-up in the exported graph.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin

__all__ = ["CategoryFill", "FrequencyEncoder", "OrdinalCodes", "TargetMeans"]

Objects = npt.NDArray[Any]


class CategoryFill(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Puts a category in the place of a missing one, which is an empty text: this is how it arrives in a request.

    Args:
        method: `constant` or `most_frequent`.
        value: the constant.
    """

    fill_: list[str]

    def __init__(self, method: str = "constant", value: str = "") -> None:
        """Keep the settings."""
        self.method = method
        self.value = value

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the commonest category of each column of `X`, texts of shape (rows, columns)."""
        matrix = np.asarray(X, dtype=object)
        self.fill_ = [self.value] * matrix.shape[1]
        if self.method == "most_frequent":
            for index, column in enumerate(matrix.T):
                levels, counts = np.unique(column[column != ""].astype(str), return_counts=True)
                self.fill_[index] = str(levels[np.argmax(counts)]) if len(levels) else ""
        return self

    def transform(self, X: Any) -> Objects:
        """Return the texts with the empty ones filled."""
        matrix = np.array(X, dtype=object)
        for index, fill in enumerate(self.fill_):
            matrix[matrix[:, index] == "", index] = fill
        return matrix

    def get_feature_names_out(self, input_features: Any = None) -> Objects:
        """Return the names unchanged."""
        return np.asarray(input_features, dtype=object)


class _TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Looks every category up in the table of its column."""

    tables_: list[dict[str, float]]
    unknown_: list[float]

    def transform(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the numbers of the categories, shape (rows, columns), float64."""
        matrix = np.asarray(X, dtype=object)
        encoded = np.empty(matrix.shape, dtype=np.float64)
        for index, (table, unknown) in enumerate(zip(self.tables_, self.unknown_, strict=True)):
            encoded[:, index] = [table.get(value, unknown) for value in matrix[:, index]]
        return encoded

    def get_feature_names_out(self, input_features: Any = None) -> Objects:
        """Return the names unchanged: one number for each category column."""
        return np.asarray(input_features, dtype=object)


class FrequencyEncoder(_TableEncoder):
    """A category becomes its share of the training rows; an unknown one becomes 0."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the shares from `X`, texts of shape (rows, columns)."""
        matrix = np.asarray(X, dtype=object)
        self.tables_ = []
        for column in matrix.T:
            levels, counts = np.unique(column.astype(str), return_counts=True)
            shares = (counts / len(column)).tolist()
            self.tables_.append(dict(zip(levels.tolist(), shares, strict=True)))
        self.unknown_ = [0.0] * matrix.shape[1]
        return self


class OrdinalCodes(_TableEncoder):
    """A category becomes its position in alphabetical order, from 0; an unknown one becomes -1."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the categories of `X`, texts of shape (rows, columns)."""
        matrix = np.asarray(X, dtype=object)
        self.tables_ = [
            {level: float(code) for code, level in enumerate(np.unique(column.astype(str)).tolist())}
            for column in matrix.T
        ]
        self.unknown_ = [-1.0] * matrix.shape[1]
        return self


class TargetMeans(_TableEncoder):
    """A category becomes the mean label of its training rows, drawn towards the mean of all rows when it is rare.

    For classes the label is 1 for the last class in order and 0 for the others, so it is meant for two classes.
    Training rows themselves are encoded without their own fold (`fit_transform`): otherwise a rare category would
    carry its row's label into the training data.

    Args:
        smoothing: rows that the mean of all rows counts as.
        folds: parts that the training rows are encoded in.
        seed: for drawing the folds.
    """

    def __init__(self, smoothing: float = 10.0, folds: int = 5, seed: int = 0) -> None:
        """Keep the settings."""
        self.smoothing = smoothing
        self.folds = folds
        self.seed = seed

    def fit(self, X: Any, y: Any) -> Self:
        """Learn the means from all rows."""
        matrix, target = np.asarray(X, dtype=object), _as_target(y)
        overall = float(target.mean())
        self.tables_ = [self._means(column, target, overall) for column in matrix.T]
        self.unknown_ = [overall] * matrix.shape[1]
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> npt.NDArray[np.float64]:
        """Return the training rows, each encoded by the means of the other folds, and learn from all rows."""
        matrix, target = np.asarray(X, dtype=object), _as_target(y)
        folds = min(self.folds, len(target))
        fold_of = np.random.default_rng(self.seed).permutation(np.arange(len(target)) % folds)
        encoded = np.empty(matrix.shape, dtype=np.float64)
        for fold in range(folds):
            inside = fold_of == fold
            encoded[inside] = self.fit(matrix[~inside], target[~inside]).transform(matrix[inside])
        self.fit(matrix, target)
        return encoded

    def _means(self, column: Objects, target: npt.NDArray[np.float64], overall: float) -> dict[str, float]:
        levels, codes, counts = np.unique(column.astype(str), return_inverse=True, return_counts=True)
        sums = np.bincount(codes, weights=target, minlength=len(levels))
        means = (sums + self.smoothing * overall) / (counts + self.smoothing)
        return dict(zip(levels.tolist(), means.tolist(), strict=True))


def _as_target(y: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(y)
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    classes = sorted(set(values.tolist()))
    return np.asarray(values == classes[-1], dtype=np.float64)
