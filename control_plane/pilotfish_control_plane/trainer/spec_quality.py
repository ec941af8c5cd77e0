"""Reads `quality_config`: each check can be tuned, softened to a warning, or switched off.

Owns the names of the checks, their limits and their defaults. Looks at no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pilotfish_control_plane.trainer.fields import Fields
from pilotfish_control_plane.trainer.outcome import Severity
from pilotfish_control_plane.trainer.spec import CheckConfig, ColumnLimits, QualityConfig

__all__ = ["DEFAULTS", "read_quality"]


@dataclass(frozen=True, slots=True)
class _Default:
    severity: Severity
    limits: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)


DEFAULTS: Mapping[str, _Default] = {
    # Every named column is there and has the type it should have.
    "schema": _Default(Severity.ERROR),
    # Share of missing values in a feature, 0..1.
    "missing": _Default(Severity.ERROR, {"max_fraction": 0.5}),
    # Infinite values, and the bounds given under `columns`.
    "range": _Default(Severity.ERROR),
    # Share of rows that repeat an earlier row; `drop`: keep only the last of each.
    "duplicates": _Default(Severity.WARNING, {"max_fraction": 0.05}, {"drop": False}),
    # Rows without a label, and how rare a class may be.
    "label": _Default(Severity.ERROR, {"max_missing_fraction": 0.5, "min_class_rows": 10, "min_class_fraction": 0.0}),
    # Rows with a label.
    "size": _Default(Severity.ERROR, {"min_rows": 50, "min_rows_per_feature": 0}),
    # How well a single feature tells the label, 0..1; a feature that equals the label is always an error.
    "leakage": _Default(Severity.WARNING, {"max_association": 0.995}),
    # Features with one value only.
    "constant": _Default(Severity.WARNING),
    # Population stability index in nats against the last run's training data.
    "drift": _Default(Severity.WARNING, {"max_psi": 0.2}),
}
_COLUMN_TYPES = ("categorical", "numeric", "time")


def read_quality(root: Fields) -> QualityConfig:
    """Return the checks with their limits; problems are reported on `root`."""
    part = root.child("quality_config")
    checks: dict[str, CheckConfig] = {}
    for name, default in DEFAULTS.items():
        value = part.raw(name)
        if isinstance(value, bool):
            checks[name] = CheckConfig(value, default.severity, default.limits, default.flags)
            continue
        child = part.child(name)
        severity = child.choice("severity", [str(item) for item in Severity], str(default.severity))
        checks[name] = CheckConfig(
            enabled=child.boolean("enabled", True),
            severity=Severity(severity),
            limits={limit: child.number(limit, usual, low=0) for limit, usual in default.limits.items()},
            flags={flag: child.boolean(flag, usual) for flag, usual in default.flags.items()},
        )
        child.close()
    columns = part.child("columns")
    limits = {name: _column(columns.child(name)) for name in columns.keys()}  # noqa: SIM118  Fields is no mapping
    part.close()
    return QualityConfig(checks, limits)


def _column(child: Fields) -> ColumnLimits:
    allowed = child.items("allowed") if child.has("allowed") else None
    limits = ColumnLimits(
        type=child.choice("type", _COLUMN_TYPES, "") or None,
        minimum=child.optional_number("min"),
        maximum=child.optional_number("max"),
        max_missing=child.optional_number("max_missing"),
        allowed=None if allowed is None else tuple(allowed),
    )
    if limits.minimum is not None and limits.maximum is not None and limits.minimum > limits.maximum:
        child.report("max", f"{limits.maximum:g} is below min {limits.minimum:g}", "OUT_OF_RANGE")
    child.close()
    return limits
