"""The table of a job in the form it is trained on: the same types that requests will have when the model serves.

Owns which column plays which role, how values become float32 or text, the order of the rows, and the hash of the data.
Judges nothing but types: quality is checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pilotfish_control_plane.trainer.fields import suggestion
from pilotfish_control_plane.trainer.hashes import Hashes, column_digest, hash_array, row_hashes
from pilotfish_control_plane.trainer.outcome import Issue, Severity
from pilotfish_control_plane.trainer.spec import FeatureConfig, FeatureSet, Task

__all__ = [
    "CATEGORICAL",
    "NUMERIC",
    "Roles",
    "Table",
    "as_categories",
    "as_numbers",
    "category_series",
    "class_names",
    "data_hash",
    "prepare_table",
    "resolve_roles",
]

NUMERIC = "numeric"
CATEGORICAL = "categorical"
_MAX_NAMED = 20
# Features become inputs of the graph under their own names when they are not one matrix.
_OUTPUT_NAMES = {"label", "prediction", "probabilities"}
_INNER_NAMES = "pf_"


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns are features, of which kind, in the order of the model's inputs."""

    features: tuple[str, ...]
    kinds: Mapping[str, str]
    label: str
    id_column: str | None
    time_column: str | None
    group_column: str | None

    def of_kind(self, kind: str) -> list[str]:
        """Return the features of one kind, in order."""
        return [name for name in self.features if self.kinds[name] == kind]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows ready to be divided and learned from; all parts have one entry per row.

    Attributes:
        features: float32 columns for numbers (NaN: missing), text columns for categories (empty: missing).
        label: int64 or texts for classes, float64 for numbers.
        raw: every column as it was joined; a champion with other features is evaluated on it.
        time: nanoseconds since 1970, or None without a time column.
        group: whole numbers that are equal for rows of one group, or None.
        hashes: of the feature values of each row; equal rows have equal hashes.
    """

    features: pd.DataFrame
    label: npt.NDArray[Any]
    raw: pd.DataFrame
    roles: Roles
    time: npt.NDArray[np.int64] | None
    group: npt.NDArray[np.int64] | None
    hashes: Hashes

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.features)

    def take(self, rows: npt.NDArray[np.intp]) -> Table:
        """Return the given rows, in the given order."""
        return Table(
            self.features.iloc[rows].reset_index(drop=True),
            self.label[rows],
            self.raw.iloc[rows].reset_index(drop=True),
            self.roles,
            None if self.time is None else self.time[rows],
            None if self.group is None else self.group[rows],
            self.hashes[rows],
        )


def resolve_roles(raw: pd.DataFrame, config: FeatureConfig) -> tuple[Roles, list[Issue]]:
    """Return the roles of the columns that exist, and an issue for each one that does not, or cannot be a feature."""
    issues: list[Issue] = []
    others = {
        "label": config.label,
        "id_column": config.id_column,
        "time_column": config.time_column,
        "group_column": config.group_column,
    }
    for role, column in others.items():
        if column is not None and column not in raw.columns:
            issues.append(_missing_column(column, f"the {role} of feature_config", raw))
    named = config.features or config.feature_set.features
    if named is None:
        named = tuple(str(column) for column in raw.columns if column not in others.values())
    absent = [name for name in named if name not in raw.columns]
    issues += [_missing_column(name, "a feature", raw) for name in absent[:_MAX_NAMED]]
    if len(absent) > _MAX_NAMED:
        more = f"{len(absent) - _MAX_NAMED} more features are missing from the data"
        issues.append(Issue("schema", Severity.ERROR, "", more, float(len(absent))))
    kinds: dict[str, str] = {}
    named_kinds = _named_kinds(config.feature_set)
    for name in named:
        if name in absent:
            continue
        if pd.api.types.is_datetime64_any_dtype(raw[name]):
            message = f"{name!r} is a time and cannot be a feature; make it the time_column, or leave it out"
            issues.append(Issue("schema", Severity.ERROR, name, message))
            continue
        kinds[name] = named_kinds.get(name) or _kind(raw[name])
    if CATEGORICAL in kinds.values():
        for name in sorted(name for name in kinds if name in _OUTPUT_NAMES or name.startswith(_INNER_NAMES)):
            message = f"a feature cannot be called {name!r}: the model's graph uses this name; rename the column"
            issues.append(Issue("schema", Severity.ERROR, name, message))
    if not kinds and not issues:
        issues.append(Issue("schema", Severity.ERROR, "", "no column is left to learn from"))
    roles = Roles(tuple(kinds), kinds, config.label, config.id_column, config.time_column, config.group_column)
    return roles, issues


def _named_kinds(feature_set: FeatureSet) -> dict[str, str]:
    """Return the kinds that the definition gives: by name, or because a column is to be encoded or scaled."""
    by_type = {"encoding": CATEGORICAL, "scaling": NUMERIC}
    implied = {
        name: by_type[step.type]
        for step in feature_set.transformations
        if step.type in by_type
        for name in step.columns or ()
    }
    return {**implied, **feature_set.kinds}


def _missing_column(column: str, role: str, raw: pd.DataFrame) -> Issue:
    names = [str(name) for name in raw.columns]
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    message = f"the data has no column {column!r}, {role}{suggestion(column, names)} (columns: {listed})"
    return Issue("schema", Severity.ERROR, column, message)


def _kind(column: pd.Series[Any]) -> str:
    """Return the kind of a column by its values: texts are categories, everything that counts is a number."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return NUMERIC
    if column.dtype != object:
        return CATEGORICAL
    present = column.dropna()
    texts = present.map(lambda value: isinstance(value, (str, bytes)))
    return CATEGORICAL if present.empty or bool(texts.any()) else NUMERIC


def as_numbers(column: pd.Series[Any]) -> tuple[npt.NDArray[np.float64], int]:
    """Return float64 with NaN for what is missing or no number, and how many values were no number."""
    if pd.api.types.is_bool_dtype(column) and column.dtype != object:
        return column.to_numpy(dtype=np.float64, na_value=np.nan), 0
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), 0
    objects = column.astype(object)
    missing = objects.isna().to_numpy()
    numbers = np.full(len(objects), np.nan)
    wrong = 0
    for index, value in enumerate(objects.to_numpy()):
        if missing[index] or (isinstance(value, str) and not value.strip()):
            continue
        try:
            numbers[index] = float(value)
        except (TypeError, ValueError, OverflowError):
            wrong += 1
    return numbers, wrong


def as_categories(column: pd.Series[Any]) -> npt.NDArray[np.object_]:
    """Return texts, empty for what is missing; whole numbers are written without a fraction, booleans in lower case.

    A column of whole numbers becomes floats as soon as one value is missing; `3` and `3.0` must stay one category.
    """
    objects = column.astype(object)
    missing = objects.isna().to_numpy()
    texts = ["" if gone else _category(value) for value, gone in zip(objects.to_numpy(), missing, strict=True)]
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def category_series(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return `as_categories` as a column of Python texts; pandas' own text type would come back by itself."""
    return pd.Series(as_categories(column), index=column.index, dtype=object)


def _category(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def prepare_table(raw: pd.DataFrame, roles: Roles, task: Task) -> tuple[Table, list[Issue]]:
    """Return the rows that have a label, in the order of their content, and what was found wrong with types.

    The order makes the splits the same whatever order a database returns its rows in.
    """
    issues: list[Issue] = []
    label, present, label_issues = _label(raw[roles.label], task)
    issues += label_issues
    raw, label = raw.loc[present].reset_index(drop=True), label[present]
    columns: dict[str, pd.Series[Any]] = {}
    for name in roles.features:
        if roles.kinds[name] == CATEGORICAL:
            columns[name] = category_series(raw[name])
            continue
        numbers, wrong = as_numbers(raw[name])
        if wrong:
            message = f"{wrong} values of {name!r} are no numbers; clean them, or set its kind to categorical"
            issues.append(Issue("schema", Severity.ERROR, name, message, float(wrong), 0.0))
        with np.errstate(over="ignore"):
            columns[name] = pd.Series(numbers.astype(np.float32), index=raw.index)
    features = pd.DataFrame(columns, index=raw.index)
    time, time_issues = _time(raw, roles.time_column)
    group = None if roles.group_column is None else pd.factorize(raw[roles.group_column], use_na_sentinel=False)[0]
    table = Table(
        features, label, raw, roles, time, None if group is None else group.astype(np.int64), row_hashes(features)
    )
    whole = table.hashes ^ (hash_array(label) * np.uint64(0x9E3779B97F4A7C15))
    order = np.lexsort((whole, table.hashes))
    return table.take(order), issues + time_issues


def _label(column: pd.Series[Any], task: Task) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], list[Issue]]:
    """Return the labels, where one is present, and what was wrong."""
    if task is Task.REGRESSION:
        numbers, wrong = as_numbers(column)
        issues = []
        if wrong:
            message = f"{wrong} labels are no numbers; clean them, or use a classification model"
            issues.append(Issue("label", Severity.ERROR, str(column.name), message, float(wrong), 0.0))
        return numbers, ~np.isnan(numbers), issues
    texts = as_categories(column)
    present = texts != ""
    if pd.api.types.is_bool_dtype(column):
        return (texts == "true").astype(np.int64), present, []
    whole = [_is_whole(text) for text in np.unique(texts[present].astype(str))]
    if whole and all(whole):
        numbers = np.zeros(len(texts), dtype=np.int64)
        numbers[present] = [int(text) for text in texts[present]]
        return numbers, present, []
    return texts, present, []


def _is_whole(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 18 and text == str(int(text))


def _time(raw: pd.DataFrame, column: str | None) -> tuple[npt.NDArray[np.int64] | None, list[Issue]]:
    if column is None:
        return None, []
    values = raw[column]
    if pd.api.types.is_numeric_dtype(values):
        times = pd.to_datetime(values, unit="s", utc=True, errors="coerce")
    else:
        times = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
    wrong = int(times.isna().sum())
    issues = []
    if wrong:
        message = f"{wrong} values of {column!r} are missing or no times (ISO 8601, or seconds since 1970)"
        issues.append(Issue("schema", Severity.ERROR, column, message, float(wrong), 0.0))
    nanoseconds: npt.NDArray[np.int64] = times.dt.as_unit("ns").astype("int64").to_numpy().astype(np.int64)
    return nanoseconds, issues


def data_hash(table: Table) -> str:
    """Return the SHA-256 (hexadecimal) of the training data: names, kinds and values of features and label.

    It does not depend on the order of rows in their source.
    """
    columns = [(name, table.roles.kinds[name], table.features[name].to_numpy()) for name in table.roles.features]
    return column_digest([*columns, (table.roles.label, "label", table.label)])


def class_names(labels: npt.NDArray[Any]) -> Sequence[Any]:
    """Return the distinct classes in ascending order, as plain ints or texts."""
    return sorted({value.item() if isinstance(value, np.generic) else value for value in labels})
