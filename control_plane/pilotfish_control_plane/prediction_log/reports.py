"""Figures over the prediction log: counts, errors, latencies, labelled rows, training data.

Owns what each figure counts. Only live rows count as predictions unless other roles are asked for; attempts
of one prediction count once; conflicts count as predictions and join no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pilotfish.errors import InvalidArgument, Violation

from .arrays import column_to_numpy
from .columns import DAY_US, INPUT, OUTPUT
from .parts import day_name
from .queries import Session
from .sql import quote_name

__all__ = ["DailyCount", "ErrorRate", "Labelled", "LatencyQuantiles"]


@dataclass(frozen=True, slots=True)
class DailyCount:
    """Counts of one deployment on one UTC day.

    Attributes:
        predictions: rows, an attempt repeated with equal inputs counting once.
        attempts: calls, repeated ones included.
        errors: predictions whose code is not 0.
        conflicts: predictions that share their id with other inputs.
        latency_us: quantile to microseconds, as asked for; empty where no latency is known.
    """

    deployment: str
    day: date
    predictions: int
    attempts: int
    errors: int
    conflicts: int
    latency_us: Mapping[float, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LatencyQuantiles:
    """Latencies of predictions.

    Attributes:
        n: predictions with a known latency.
        values_us: quantile to microseconds, an observed value; empty when n is 0.
    """

    n: int
    values_us: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Errors among predictions; `ratio` is None without predictions."""

    predictions: int
    errors: int

    @property
    def ratio(self) -> float | None:
        """Return errors per prediction, 0 to 1."""
        return self.errors / self.predictions if self.predictions else None


@dataclass(frozen=True, slots=True)
class Labelled:
    """Predictions whose truth is known, oldest first.

    Attributes:
        ids: prediction ids, shape (rows,).
        outputs: output name to values, shape (rows,); NaN or None where missing.
        truths: float64, or object (str) when any truth is a text, shape (rows,).
        times_us: int64, microseconds since 1970 UTC of the predictions, shape (rows,).
        truth_times_us: int64, of the truths, shape (rows,).
    """

    ids: list[str]
    outputs: dict[str, npt.NDArray[Any]]  # typed by the model: float, int, bool or object (str)
    truths: npt.NDArray[Any]
    times_us: npt.NDArray[np.int64]
    truth_times_us: npt.NDArray[np.int64]


def _quantiles(asked: Sequence[float]) -> list[float]:
    bad = [q for q in asked if not 0 <= q <= 1]
    if bad:
        raise InvalidArgument(
            f"quantiles are between 0 and 1, got {bad}", violations=[Violation("quantiles", f"{q}") for q in bad]
        )
    return [float(q) for q in asked]


def count(session: Session) -> int:
    """Return the number of predictions."""
    base, _ = session.base()
    ((number,),) = session.fetch(f"WITH {base} SELECT count(*) FROM base")
    return int(number)


def daily_counts(session: Session, quantiles: Sequence[float]) -> list[DailyCount]:
    """Return the counts per deployment and day that has predictions, in that order."""
    base, _ = session.base()
    asked = _quantiles(quantiles)
    latency = f", quantile_disc(latency_us, {asked})" if asked else ", NULL"
    rows = session.fetch(
        f"WITH {base} SELECT deployment, epoch_us(time) // {DAY_US} AS day, count(*), sum(attempts), "
        f"count(*) FILTER (code <> 0), count(*) FILTER (conflict){latency} "
        "FROM base GROUP BY deployment, day ORDER BY deployment, day"
    )
    return [
        DailyCount(
            deployment, date.fromisoformat(day_name(day)), n, int(attempts), errors, conflicts,
            dict(zip(asked, values, strict=True)) if values else {},
        )
        for deployment, day, n, attempts, errors, conflicts, values in rows
    ]  # fmt: skip


def latency_quantiles(session: Session, quantiles: Sequence[float]) -> LatencyQuantiles:
    """Return quantiles of the latency over all predictions of the session."""
    asked = _quantiles(quantiles)
    base, _ = session.base()
    rows = session.fetch(f"WITH {base} SELECT count(latency_us), quantile_disc(latency_us, {asked or [0.5]}) FROM base")
    ((n, values),) = rows
    return LatencyQuantiles(n, dict(zip(asked, values, strict=True)) if n and asked else {})


def error_rate(session: Session) -> ErrorRate:
    """Return how many predictions failed."""
    base, _ = session.base()
    rows = session.fetch(f"WITH {base} SELECT count(*), count(*) FILTER (code <> 0) FROM base")
    ((n, errors),) = rows
    return ErrorRate(n, errors)


def labelled(session: Session) -> Labelled:
    """Return the answered predictions with a truth."""
    outputs = sorted(name for name in session.types if name.startswith(OUTPUT))
    base, aliases = session.base(outputs, session.only_labelled())
    chosen = "".join(f", p.{aliases[name]}" for name in outputs)
    names = ["id", "time", "truth", "text", "truth_time", *outputs]
    table = session.table(
        f"WITH {base}, {session.labels()} SELECT p.prediction_id, epoch_us(p.time), l.truth, l.truth_text, "
        f"epoch_us(l.truth_time){chosen} FROM base p JOIN labels l ON l.seq = p.seq WHERE p.code = 0 "
        "ORDER BY p.time, p.seq",
        names,
    )
    return Labelled(
        table["id"].to_pylist(),
        {name.removeprefix(OUTPUT): column_to_numpy(table[name]) for name in outputs},
        _truths(table),
        column_to_numpy(table["time"]),
        column_to_numpy(table["truth_time"]),
    )


def _truths(table: pa.Table) -> npt.NDArray[Any]:
    if table["text"].null_count == table.num_rows:
        return column_to_numpy(table["truth"])
    pairs = zip(table["text"].to_pylist(), table["truth"].to_pylist(), strict=True)
    return np.array([text if text is not None else f"{number:g}" for text, number in pairs], dtype=object)


def training_frame(session: Session, features: Sequence[str], label: str) -> pa.Table:
    """Return one row per answered, labelled prediction without a conflict: `features` and then `label`.

    Raises:
        InvalidArgument: a feature that no row has, or one with the label's name.
    """
    missing = [n for n in features if INPUT + n not in session.types] if session.relations else []
    problems = [Violation("feature_names", f"no prediction has an input {name!r}") for name in missing]
    if label in features:
        problems.append(Violation("label_name", f"{label!r} is also a feature"))
    if problems:
        raise InvalidArgument("the training data cannot be read from the prediction log", violations=problems)
    base, aliases = session.base([INPUT + name for name in features], session.only_labelled())
    labels = session.labels()
    rows = "FROM base p JOIN labels l ON l.seq = p.seq WHERE p.code = 0 AND NOT p.conflict"
    texts = session.fetch(f"WITH {base}, {labels} SELECT count(l.truth_text) {rows}")
    truth = "coalesce(l.truth_text, format('{:g}', l.truth))" if texts[0][0] else "l.truth"
    chosen = "".join(f"p.{quote_name(aliases[INPUT + name])}, " for name in features)
    text = f"WITH {base}, {labels} SELECT {chosen}{truth} {rows} ORDER BY p.time, p.seq"
    return session.table(text, [*features, label])
