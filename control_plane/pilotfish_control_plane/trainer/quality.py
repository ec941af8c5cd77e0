"""Checks the data before anything is learned from it.

Owns the order of the checks and which findings stop a job. Every check looks at the whole table, so that one run tells
everything that is wrong. Never changes a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pilotfish_control_plane.trainer.association import association, recovers
from pilotfish_control_plane.trainer.outcome import Issue, Severity
from pilotfish_control_plane.trainer.spec import CheckConfig, ColumnLimits, QualityConfig, Task
from pilotfish_control_plane.trainer.table import CATEGORICAL, NUMERIC, Table, as_categories, as_numbers

__all__ = ["check_quality", "repeated_rows"]

_MAX_ROWS_FOR_ASSOCIATION = 100_000


def check_quality(
    table: Table, unlabelled: int, config: QualityConfig, task: Task, type_issues: Iterable[Issue] = ()
) -> list[Issue]:
    """Return everything that the enabled checks find, errors first.

    Args:
        table: the rows with a label.
        unlabelled: rows that were left out because they have none.
        config: which checks run, their limits and severities.
        task: what the label is.
        type_issues: what reading the types has found already; softened or switched off like the rest.
    """
    issues = [issue for issue in type_issues if config.checks[issue.check].enabled]
    for name, check in _CHECKS.items():
        settings = config.checks[name]
        if settings.enabled:
            found = check(table, unlabelled, settings, config, task)
            issues += [replace(issue, severity=_severity(issue, settings)) for issue in found]
    return sorted(issues, key=lambda issue: issue.severity is not Severity.ERROR)


def _severity(issue: Issue, settings: CheckConfig) -> Severity:
    """Return the severity: a check marks as an error itself what is bad whatever the settings say."""
    return Severity.ERROR if issue.severity is Severity.ERROR else settings.severity


def _found(check: str, column: str, message: str, value: float | None = None, limit: float | None = None) -> Issue:
    return Issue(check, Severity.WARNING, column, message, value, limit)


def _check_schema(table: Table, _: int, __: CheckConfig, config: QualityConfig, ___: Task) -> list[Issue]:
    issues = []
    for name, limits in config.columns.items():
        if name not in table.raw.columns:
            issues.append(_found("schema", name, f"quality_config names the column {name!r}, the data has none"))
        elif limits.type is not None and (actual := _type_of(table, name)) != limits.type:
            issues.append(_found("schema", name, f"{name!r} is {actual}, it must be {limits.type}"))
    return issues


def _type_of(table: Table, name: str) -> str:
    column = table.raw[name]
    if name == table.roles.time_column or pd.api.types.is_datetime64_any_dtype(column):
        return "time"
    if name in table.roles.kinds:
        return table.roles.kinds[name]
    return NUMERIC if as_numbers(column)[1] == 0 else CATEGORICAL


def _missing_share(table: Table, name: str) -> float:
    if name in table.features.columns:
        column = table.features[name]
        gone = (column == "") if table.roles.kinds[name] == CATEGORICAL else column.isna()
        return float(gone.mean())
    return float(table.raw[name].isna().mean())


def _check_missing(table: Table, _: int, settings: CheckConfig, config: QualityConfig, ___: Task) -> list[Issue]:
    issues = []
    own = {name: limits.max_missing for name, limits in config.columns.items() if limits.max_missing is not None}
    for name in dict.fromkeys((*table.roles.features, *(name for name in own if name in table.raw.columns))):
        share = _missing_share(table, name) if len(table) else 0.0
        limit = own.get(name, settings.limits["max_fraction"])
        if share > limit:
            message = f"{share:.1%} of {name!r} is missing, {limit:.1%} is allowed"
            issues.append(_found("missing", name, message, share, limit))
    return issues


def _check_ranges(table: Table, _: int, __: CheckConfig, config: QualityConfig, ___: Task) -> list[Issue]:
    issues = []
    for name in table.roles.of_kind(NUMERIC):
        infinite = int(np.isinf(table.features[name].to_numpy()).sum())
        if infinite:
            message = f"{infinite} values of {name!r} are infinite, or too large for the 32-bit floats of serving"
            issues.append(Issue("range", Severity.ERROR, name, message, float(infinite), 0.0))
    for name, limits in config.columns.items():
        if name in table.raw.columns:
            issues += _check_bounds(table.raw[name], name, limits)
    return issues


def _check_bounds(column: pd.Series[Any], name: str, limits: ColumnLimits) -> list[Issue]:
    issues = []
    if limits.minimum is not None or limits.maximum is not None:
        numbers = as_numbers(column)[0]
        for bound, word, outside in (
            (limits.minimum, "below", numbers < (limits.minimum or 0)),
            (limits.maximum, "above", numbers > (limits.maximum or 0)),
        ):
            if bound is not None and outside.any():
                worst = float(numbers[outside].min() if word == "below" else numbers[outside].max())
                message = f"{int(outside.sum())} values of {name!r} are {word} {bound:g}; the worst is {worst:g}"
                issues.append(_found("range", name, message, worst, bound))
    if limits.allowed is not None:
        allowed = set(as_categories(pd.Series(list(limits.allowed), dtype=object)).tolist())
        texts = as_categories(column)
        odd = sorted({text for text in texts if text and text not in allowed})
        if odd:
            listed = ", ".join(repr(text) for text in odd[:5])
            message = f"{name!r} has {len(odd)} values that are not allowed: {listed}"
            issues.append(_found("range", name, message, float(len(odd)), 0.0))
    return issues


def repeated_rows(table: Table) -> npt.NDArray[np.bool_]:
    """Return which rows repeat an earlier one, features and label alike."""
    labels = pd.util.hash_array(table.label, categorize=True)
    return pd.DataFrame({"features": table.hashes, "label": labels}).duplicated().to_numpy()


def _check_duplicates(table: Table, _: int, settings: CheckConfig, __: QualityConfig, ___: Task) -> list[Issue]:
    if not len(table):
        return []
    share = float(repeated_rows(table).mean())
    limit = settings.limits["max_fraction"]
    if share <= limit:
        return []
    message = f"{share:.1%} of the rows repeat an earlier row, {limit:.1%} is allowed; set drop to keep one of each"
    return [_found("duplicates", "", message, share, limit)]


def _check_labels(table: Table, unlabelled: int, settings: CheckConfig, _: QualityConfig, task: Task) -> list[Issue]:
    name, rows, limits = table.roles.label, len(table), settings.limits
    issues = []
    share = unlabelled / max(1, rows + unlabelled)
    if rows == 0:
        return [Issue("label", Severity.ERROR, name, "no row has a label", 0.0, 1.0)]
    if share > limits["max_missing_fraction"]:
        message = f"{share:.1%} of the rows have no label, {limits['max_missing_fraction']:.1%} is allowed"
        issues.append(_found("label", name, message, share, limits["max_missing_fraction"]))
    if task is Task.REGRESSION:
        if np.isinf(table.label).any():
            issues.append(Issue("label", Severity.ERROR, name, f"{name!r} has infinite values"))
        if np.ptp(table.label) == 0:
            issues.append(Issue("label", Severity.ERROR, name, f"{name!r} has one value only: nothing can be learned"))
        return issues
    classes, counts = np.unique(table.label.astype(str), return_counts=True)
    if len(classes) < 2:
        message = f"every label is {str(classes[0])!r}; at least two classes are needed"
        return [*issues, Issue("label", Severity.ERROR, name, message, 1.0, 2.0)]
    if len(classes) > max(50, rows // 5):
        message = f"{name!r} has {len(classes)} classes in {rows} rows; if it is a number, use a regression model"
        issues.append(Issue("label", Severity.ERROR, name, message, float(len(classes)), float(rows // 5)))
    least = max(limits["min_class_rows"], limits["min_class_fraction"] * rows)
    rare = [(str(text), int(count)) for text, count in zip(classes, counts, strict=True) if count < least]
    if rare:
        listed = ", ".join(f"{text!r} ({count})" for text, count in rare[:10])
        message = f"{len(rare)} classes have fewer than {least:g} rows: {listed}"
        issues.append(_found("label", name, message, float(min(count for _, count in rare)), least))
    return issues


def _check_size(table: Table, _: int, settings: CheckConfig, __: QualityConfig, ___: Task) -> list[Issue]:
    per_feature = settings.limits["min_rows_per_feature"] * len(table.roles.features)
    least = max(settings.limits["min_rows"], per_feature)
    if len(table) >= least:
        return []
    message = f"{len(table)} rows have a label, at least {least:g} are needed"
    return [_found("size", "", message, float(len(table)), least)]


def _check_leakage(table: Table, _: int, settings: CheckConfig, __: QualityConfig, task: Task) -> list[Issue]:
    if len(table) < 20 or (task is Task.CLASSIFICATION and len(np.unique(table.label.astype(str))) < 2):
        return []
    limit = settings.limits["max_association"]
    step = max(1, len(table) // _MAX_ROWS_FOR_ASSOCIATION)
    label = table.label[::step]
    issues = []
    for name in table.roles.features:
        values = table.features[name].to_numpy()[::step]
        numeric = table.roles.kinds[name] == NUMERIC
        if recovers(values, label, numeric=numeric):
            message = f"{name!r} holds the label under another name; take it out of the features"
            issues.append(Issue("leakage", Severity.ERROR, name, message, 1.0, limit))
            continue
        strength = association(values, label, numeric=numeric, task=task)
        if strength is not None and strength > limit:
            message = (
                f"{name!r} alone tells the label almost surely ({strength:.3f} of 1): "
                "make sure that it is known when a prediction is asked for"
            )
            issues.append(_found("leakage", name, message, strength, limit))
    return issues


def _check_constant(table: Table, _: int, __: CheckConfig, ___: QualityConfig, ____: Task) -> list[Issue]:
    constant = [name for name in table.roles.features if _is_constant(table.features[name])]
    if not constant:
        return []
    listed = ", ".join(constant[:10]) + (", …" if len(constant) > 10 else "")
    if len(constant) == len(table.roles.features):
        return [Issue("constant", Severity.ERROR, listed, "every feature has one value only")]
    message = f"{len(constant)} features have one value only and tell nothing: {listed}"
    return [_found("constant", constant[0] if len(constant) == 1 else "", message, float(len(constant)), 0.0)]


def _is_constant(column: pd.Series[Any]) -> bool:
    return bool(column.nunique(dropna=False) <= 1)


_Check = Callable[[Table, int, CheckConfig, QualityConfig, Task], Sequence[Issue]]
_CHECKS: dict[str, _Check] = {
    "schema": _check_schema,
    "missing": _check_missing,
    "range": _check_ranges,
    "duplicates": _check_duplicates,
    "label": _check_labels,
    "size": _check_size,
    "leakage": _check_leakage,
    "constant": _check_constant,
}
