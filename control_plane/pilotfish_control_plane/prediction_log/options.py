"""The settings of a prediction log; it owns their defaults and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LogOptions"]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Every setting, with its unit in its name.

    Attributes:
        segment_bytes: a log file of this size becomes Parquet parts.
        segment_records: so does one with this many batches, which keeps queries over the log quick.
        segment_age_s: so does one whose first batch is this old.
        small_part_bytes: parts below it are merged.
        merged_part_bytes: merging stops at about this size.
        merge_at_parts: so many small parts of one deployment and day are worth a merge.
        min_free_bytes: appends are refused when the disk has less than this left.
        query_memory_bytes: DuckDB spills to `tmp/` above it, per query.
        query_threads: threads of one query.
        retry_after_s: what a refused sender is told to wait.
        retry_roll_s: wait after a roll or a merge that failed.
    """

    segment_bytes: int = 128 << 20
    segment_records: int = 8192
    segment_age_s: float = 300.0
    small_part_bytes: int = 32 << 20
    merged_part_bytes: int = 128 << 20
    merge_at_parts: int = 8
    min_free_bytes: int = 256 << 20
    query_memory_bytes: int = 1 << 30
    query_threads: int = 2
    retry_after_s: float = 5.0
    retry_roll_s: float = 10.0
