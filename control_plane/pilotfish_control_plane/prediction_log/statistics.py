"""How large the prediction log is; it owns the counting and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from .parts import PARTS, TRUTH
from .segments import PREDICTIONS
from .snapshots import Snapshot

__all__ = ["LogStatistics", "measure"]


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """Sizes at one moment; rows are as appended, before repeated ids are counted as one.

    Attributes:
        parts: Parquet files of predictions.
        part_rows: predictions in them.
        part_bytes: their length.
        truth_parts: Parquet files of truths.
        truth_rows: truths in them.
        log_files: log files that are not in parts yet.
        log_rows: predictions in those.
        log_bytes: their length.
    """

    parts: int
    part_rows: int
    part_bytes: int
    truth_parts: int
    truth_rows: int
    log_files: int
    log_rows: int
    log_bytes: int


def measure(snapshot: Snapshot) -> LogStatistics:
    """Return the sizes of a snapshot."""
    predictions = [p for p in snapshot.parts.values() if p.kind == PARTS]
    truths = [p for p in snapshot.parts.values() if p.kind == TRUTH]
    return LogStatistics(
        parts=len(predictions),
        part_rows=sum(p.rows for p in predictions),
        part_bytes=sum(p.size_bytes for p in predictions),
        truth_parts=len(truths),
        truth_rows=sum(p.rows for p in truths),
        log_files=len(snapshot.tail),
        log_rows=sum(r.rows for _, records, _ in snapshot.tail for r in records if r.kind == PREDICTIONS),
        log_bytes=sum(data.size for _, _, data in snapshot.tail),
    )
