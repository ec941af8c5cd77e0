"""Reads `feature_config` and the feature-set definition in it.

Owns which transformations exist and which parameters each takes. A definition may list its transformations, or give
them by type: `{"scaling": "standard", "feature_selection": {"method": "k_best", "k": 20}}`.
"""

from __future__ import annotations

from typing import Any

from pilotfish_control_plane.trainer.fields import Fields
from pilotfish_control_plane.trainer.spec import FeatureConfig, FeatureSet, JoinConfig, Transformation

__all__ = ["METHODS", "read_feature_config", "read_feature_set"]

METHODS: dict[str, tuple[str, ...]] = {
    "imputation": ("constant", "mean", "median", "most_frequent"),
    "scaling": ("max_abs", "minmax", "none", "robust", "standard"),
    "encoding": ("frequency", "onehot", "ordinal", "target"),
    "feature_selection": ("columns", "k_best", "percentile", "variance"),
}
KINDS = ("categorical", "numeric")
_SCORES = ("f", "mutual_information")


def read_feature_config(root: Fields, join: JoinConfig | None) -> FeatureConfig:
    """Return the roles of the columns and the feature set; problems are reported on `root`."""
    part = root.child("feature_config", required=True)
    part.raw("join_config")
    config = FeatureConfig(
        label=part.text("label"),
        feature_set_id=part.text("feature_set_id", ""),
        feature_set=read_feature_set(part.child("feature_set")) if part.has("feature_set") else _USUAL,
        features=part.names("features") or None,
        id_column=part.optional_text("id_column"),
        time_column=part.optional_text("time_column"),
        group_column=part.optional_text("group_column"),
        join=join,
    )
    roles = {
        "label": config.label,
        "id_column": config.id_column,
        "time_column": config.time_column,
        "group_column": config.group_column,
    }
    for name in (*(config.features or ()), *(config.feature_set.features or ())):
        for role in ("label", "id_column"):
            if name and name == roles[role]:
                part.report("features", f"{name!r} is the {role} and cannot be a feature as well", "LEAKAGE")
    part.close()
    return config


_USUAL = FeatureSet(transformations=(Transformation("scaling", "standard"), Transformation("encoding", "onehot")))


def read_feature_set(part: Fields) -> FeatureSet:
    """Return a feature-set definition; problems are reported on `part`.

    Without any transformation named, columns are used as they are: numbers unscaled with medians for missing values,
    categories one column each.
    """
    names, kinds = _feature_columns(part)
    steps: list[Transformation] = []
    listed = part.raw("transformations")
    if isinstance(listed, dict):
        by_type = part.child("transformations")
        steps += _steps_by_type(by_type)
        by_type.close()
    elif listed is not None:
        steps += [step for child in part.children("transformations") if (step := _step(child, None))]
    steps += _steps_by_type(part)
    for known in ("author", "create_time", "description", "feature_set_id", "revision"):
        part.raw(known)
    feature_set = FeatureSet(
        name=part.text("name", ""),
        version=part.integer("version", part.integer("revision", 0, low=0), low=0),
        features=names,
        kinds=kinds,
        transformations=tuple(steps),
    )
    part.close()
    return feature_set


def _feature_columns(part: Fields) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """Return the columns and the kinds given for them: each entry is a name or `{"name", "kind"}`."""
    if not part.has("features") or not part.items("features"):
        return None, {}
    names: list[str] = []
    kinds: dict[str, str] = {}
    for index, value in enumerate(part.items("features")):
        if isinstance(value, str) and value:
            names.append(value)
            continue
        child = Fields(value, part.where(f"features[{index}]"), part.problems)
        name = child.text("name")
        kind = child.choice("kind", KINDS, "")
        child.raw("description")
        child.close()
        names.append(name)
        if kind:
            kinds[name] = kind
    for name in sorted({name for name in names if names.count(name) > 1}):
        part.report("features", f"{name!r} is listed twice", "DUPLICATE")
    return tuple(dict.fromkeys(names)), kinds


def _steps_by_type(part: Fields) -> list[Transformation]:
    steps: list[Transformation] = []
    for kind in METHODS:
        value = part.raw(kind)
        if value is None:
            continue
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            path = part.where(f"{kind}[{index}]" if isinstance(value, list) else kind)
            document: Any = {"method": item} if isinstance(item, str) else item
            step = _step(Fields(document, path, part.problems), kind)
            if step:
                steps.append(step)
    return steps


def _step(child: Fields, kind: str | None) -> Transformation | None:
    kind = kind or child.choice("type", tuple(METHODS))
    if not kind:
        return None
    child.raw("type")
    method = child.choice("method", METHODS[kind])
    columns = child.names("columns") or None
    parameters = child.child("parameters") if child.has("parameters") else child
    options = _options(parameters, kind, method, columns)
    parameters.close()
    child.close()
    return Transformation(kind, method, columns, options) if method else None


def _options(child: Fields, kind: str, method: str, columns: tuple[str, ...] | None) -> dict[str, Any]:
    if kind == "imputation" and method == "constant":
        value = child.raw("value")
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            child.report("value", "must be the number or the text that stands for a missing value", "REQUIRED")
        return {"value": value}
    if kind == "feature_selection":
        if columns is not None and method != "columns":
            child.report("columns", "selection looks at all features together; leave columns out")
        if method == "k_best":
            return {"k": child.integer("k", low=1), "score": child.choice("score", _SCORES, "f")}
        if method == "percentile":
            score = child.choice("score", _SCORES, "f")
            return {"percentile": child.number("percentile", low=0.1, high=100), "score": score}
        if method == "variance":
            return {"threshold": child.number("threshold", 0.0, low=0)}
        if method == "columns" and not columns:
            child.report("columns", "must name the features to keep", "REQUIRED")
    return {}
