"""Divides rows into train, validation and test.

Owns the four methods. Rows with equal features always stay on one side: a copy of a training row in the test split
would be scored from memory. Draws only from the generator it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed
from pilotfish_control_plane.trainer.spec import SplitConfig, Task
from pilotfish_control_plane.trainer.table import Table

__all__ = ["Split", "split_rows"]

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of each part, ascending; together they are all rows, and none is in two."""

    train: Rows
    validation: Rows
    test: Rows


def split_rows(table: Table, config: SplitConfig, task: Task) -> Split:
    """Return the parts of the table by the configured method.

    Raises:
        TrainingFailed: SPLIT_FAILED, when a part would be empty or a class would be missing from the training rows.
    """
    shares = (config.train, config.validation, config.test)
    generator = np.random.default_rng(config.seed)
    if config.method == "time":
        assert table.time is not None
        part = _by_time(table.time, shares)
    elif config.method == "group":
        assert table.group is not None
        part = _by_unit(table.group, shares, generator)
    elif config.method == "stratified":
        part = _stratified(table, shares, generator)
    else:
        part = _by_unit(_codes(table.hashes), shares, generator)
    split = Split(*(np.flatnonzero(part == index) for index in range(3)))
    _check(table, split, config, task)
    return split


def _codes(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _by_unit(
    units: npt.NDArray[np.int64], shares: Sequence[float], generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the part of each row: whole units, drawn at random, each to the part that lacks the largest share of it.

    Units of several rows are placed first, in random order from the largest down: one that came last could overfill a
    part that was already complete. Single rows then fill every part to its exact size.
    """
    sizes = np.bincount(units)
    wanted = [share * len(units) for share in shares]
    filled = [0.0, 0.0, 0.0]
    part_of_unit = np.zeros(len(sizes), dtype=np.int64)
    several = generator.permutation(np.flatnonzero(sizes > 1))
    for unit in several[np.argsort(-sizes[several], kind="stable")].tolist():
        lacking = [(want - have) / want if want > 0 else -np.inf for want, have in zip(wanted, filled, strict=True)]
        best = lacking.index(max(lacking))
        part_of_unit[unit] = best
        filled[best] += float(sizes[unit])
    single = np.flatnonzero(sizes == 1)
    if len(single):
        left = np.maximum(np.subtract(wanted, filled), 0.0)
        part_of_unit[single] = _exact(len(single), (left / left.sum()).tolist(), generator)
    return part_of_unit[units]


def _exact(rows: int, shares: Sequence[float], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return random parts of exactly the wanted sizes; what rounding leaves over goes to the largest remainders."""
    counts = _counts(rows, shares)
    return generator.permutation(np.repeat(np.arange(3), counts)).astype(np.int64)


def _counts(rows: int, shares: Sequence[float]) -> npt.NDArray[np.int64]:
    exact = np.asarray(shares) * rows
    counts = np.floor(exact + 1e-9).astype(np.int64)
    remainders = np.where(np.asarray(shares) > 0, exact - counts, -1.0)
    for index in np.argsort(-remainders, kind="stable")[: rows - int(counts.sum())]:
        counts[index] += 1
    return counts


def _stratified(table: Table, shares: Sequence[float], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return parts in which every class has its share.

    Equal rows with different labels are put with the label of the first of them, so that they stay together.
    """
    units = _codes(table.hashes)
    labels = _codes(table.label)
    first = np.unique(units, return_index=True)[1]
    label_of_unit = labels[first]
    part = np.zeros(len(units), dtype=np.int64)
    for label in np.unique(label_of_unit):
        rows = np.flatnonzero(label_of_unit[units] == label)
        part[rows] = _by_unit(_codes(units[rows]), shares, generator)
    return part


def _by_time(times: npt.NDArray[np.int64], shares: Sequence[float]) -> npt.NDArray[np.int64]:
    """Return the oldest rows as training, the newest as test; rows of one instant stay on one side."""
    order = np.argsort(times, kind="stable")
    ends = np.cumsum(_counts(len(times), shares))
    ordered = times[order]
    part = np.zeros(len(times), dtype=np.int64)
    for index in (1, 2):
        start = int(ends[index - 1])
        if start < len(times):
            # Back to the first row of this instant, so that none of it is learned from and tested on.
            start = int(np.searchsorted(ordered, ordered[start], side="left"))
            part[order[start:]] = index
    return part


def _check(table: Table, split: Split, config: SplitConfig, task: Task) -> None:
    issues: list[Issue] = []
    for name in ("train", "validation", "test"):
        if getattr(config, name) > 0 and not len(getattr(split, name)):
            message = f"the {name} split is empty: {len(table)} rows are too few for the {config.method} split"
            issues.append(Issue("split", Severity.ERROR, f"training_config.split_config.{name}", message, 0.0, 1.0))
    if not issues and task is Task.CLASSIFICATION:
        missing = sorted(set(table.label.tolist()) - set(table.label[split.train].tolist()), key=str)
        if missing:
            listed = ", ".join(map(str, missing[:10]))
            message = f"the training split has no row of class {listed}; use the stratified split, or more rows"
            issues.append(Issue("split", Severity.ERROR, table.roles.label, message, float(len(missing)), 0.0))
    if issues:
        raise TrainingFailed(Reason.SPLIT_FAILED, "the rows cannot be divided", issues)
