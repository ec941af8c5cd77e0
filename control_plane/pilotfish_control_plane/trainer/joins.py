"""Makes one table of several sources.

Owns joining by keys and stacking, and the checks that a join did what was meant: keys exist and have the same type, no
row is multiplied by accident, something is left. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from pilotfish_control_plane.trainer.fields import suggestion
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed
from pilotfish_control_plane.trainer.spec import JoinConfig, JoinStep

__all__ = ["join_sources"]


def join_sources(
    frames: Mapping[str, pd.DataFrame], config: JoinConfig | None, wanted: Sequence[str] | None
) -> tuple[pd.DataFrame, list[Issue]]:
    """Return one table and the warnings found on the way.

    Args:
        frames: rows by source name.
        config: how they belong together; None: there is one source.
        wanted: the columns that the job needs, used to judge stacked sources; None: all of the base.

    Raises:
        TrainingFailed: JOIN_FAILED, with every problem that can be seen at once.
    """
    if config is None:
        return next(iter(frames.values())).reset_index(drop=True), []
    warnings: list[Issue] = []
    table = frames[config.base]
    for index, step in enumerate(config.joins):
        table = _join(table, frames[step.source], step, f"feature_config.join_config.joins[{index}]", warnings)
    if config.union:
        table = _stack(table, {name: frames[name] for name in config.union}, wanted, warnings)
    return table.reset_index(drop=True), warnings


def _join(left: pd.DataFrame, right: pd.DataFrame, step: JoinStep, path: str, warnings: list[Issue]) -> pd.DataFrame:
    problems = [
        Issue("join", Severity.ERROR, f"{path}.on", f"{side} has no column {key!r}{suggestion(key, frame.columns)}")
        for side, frame, keys in (
            ("the table so far", left, step.left_on),
            (f"source {step.source!r}", right, step.right_on),
        )
        for key in keys
        if key not in frame.columns
    ]
    if problems:
        raise TrainingFailed(Reason.JOIN_FAILED, f"source {step.source!r} cannot be joined", problems)
    left, right = _same_key_types(left, right, step, path)
    same_name = set(left.columns) & set(right.columns) - set(step.right_on)
    if same_name:
        listed = ", ".join(sorted(map(str, same_name))[:10])
        problems.append(
            Issue("join", Severity.ERROR, path, f"both sides have the column {listed}; rename or select it away")
        )
    repeated = int(right.duplicated(list(step.right_on), keep="first").sum())
    if repeated and not step.allow_fan_out:
        message = (
            f"{repeated} rows of {step.source!r} repeat a key of an earlier row, so the join would multiply rows; "
            "make the key unique, or set allow_fan_out"
        )
        problems.append(Issue("join", Severity.ERROR, f"{path}.on", message, float(repeated), 0.0))
    if problems:
        raise TrainingFailed(Reason.JOIN_FAILED, f"source {step.source!r} cannot be joined", problems)
    return _merged(left, right, step, path, warnings)


def _merged(left: pd.DataFrame, right: pd.DataFrame, step: JoinStep, path: str, warnings: list[Issue]) -> pd.DataFrame:
    # A missing key matches nothing: pandas would pair every missing key with every other.
    keyed = right.dropna(subset=list(step.right_on))
    how: Literal["inner", "left"] = "inner" if step.how == "inner" else "left"
    table = left.merge(
        keyed, how=how, left_on=list(step.left_on), right_on=list(step.right_on), indicator="_pilotfish_side"
    )
    matched = int((table["_pilotfish_side"] == "both").sum())
    table = table.drop(columns=["_pilotfish_side"])
    if not matched:
        message = f"no row of {step.source!r} matches; look at the keys {', '.join(step.right_on)}"
        raise TrainingFailed(
            Reason.JOIN_FAILED,
            f"source {step.source!r} matches nothing",
            [Issue("join", Severity.ERROR, f"{path}.on", message, 0.0, 1.0)],
        )
    lost = len(left) - matched
    if lost > 0:
        verb = "dropped" if step.how == "inner" else "kept without values"
        message = f"{lost} of {len(left)} rows have no match in {step.source!r} and were {verb}"
        warnings.append(Issue("join", Severity.WARNING, path, message, float(lost)))
    return table


def _same_key_types(
    left: pd.DataFrame, right: pd.DataFrame, step: JoinStep, path: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both sides with keys that compare: numbers with numbers, else texts with texts."""
    left, right = left.copy(deep=False), right.copy(deep=False)
    for left_key, right_key in zip(step.left_on, step.right_on, strict=True):
        both = (left[left_key], right[right_key])
        if all(pd.api.types.is_numeric_dtype(key) for key in both):
            continue
        if any(pd.api.types.is_numeric_dtype(key) for key in both):
            message = (
                f"the key {left_key!r} is {both[0].dtype} on one side and {right_key!r} is {both[1].dtype} in "
                f"{step.source!r}; make them the same type"
            )
            issue = Issue("join", Severity.ERROR, f"{path}.on", message)
            raise TrainingFailed(Reason.JOIN_FAILED, f"source {step.source!r} cannot be joined", [issue])
        left[left_key] = both[0].astype("object")
        right[right_key] = both[1].astype("object")
    return left, right


def _stack(
    table: pd.DataFrame, others: Mapping[str, pd.DataFrame], wanted: Sequence[str] | None, warnings: list[Issue]
) -> pd.DataFrame:
    needed = list(dict.fromkeys(table.columns if wanted is None else wanted))
    problems = [
        Issue(
            "union",
            Severity.ERROR,
            name,
            f"source {name!r} lacks {len(missing)} of {len(needed)} columns: {', '.join(missing[:10])}",
            float(len(missing)),
            0.0,
        )
        for name, frame in others.items()
        if (missing := [column for column in needed if column not in frame.columns])
    ]
    if problems:
        raise TrainingFailed(Reason.JOIN_FAILED, "the sources cannot be stacked", problems)
    for name, frame in others.items():
        extra = len(set(frame.columns) - set(table.columns))
        if extra:
            message = f"{extra} columns of {name!r} are not in the first source and were left out"
            warnings.append(Issue("union", Severity.WARNING, name, message, float(extra)))
    parts = [table, *(frame[[name for name in table.columns if name in frame.columns]] for frame in others.values())]
    return pd.concat(parts, ignore_index=True)
