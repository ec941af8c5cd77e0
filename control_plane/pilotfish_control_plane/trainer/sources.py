"""Reads every data source of a job.

Owns which reader serves which type, and that the problems of all sources are told together. Never joins or changes
rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pandas as pd

from pilotfish_control_plane.trainer.api_source import HttpReader, read_api
from pilotfish_control_plane.trainer.database_source import read_database
from pilotfish_control_plane.trainer.file_source import SourceError, read_files, read_prediction_log
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed
from pilotfish_control_plane.trainer.spec import ApiSource, DatabaseSource, FileSource, Source

__all__ = ["load_sources", "read_source"]

logger = logging.getLogger(__name__)


def read_source(source: Source, roots: Sequence[str], allow_private: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one source.

    Raises:
        SourceError: it cannot be read, or has no row.
    """
    if isinstance(source, DatabaseSource):
        frame = read_database(source, roots)
    elif isinstance(source, FileSource):
        frame = read_files(source, roots)
    elif isinstance(source, ApiSource):
        frame = read_api(source, HttpReader(allow_private, source.timeout_s))
    else:
        frame = read_prediction_log(source, roots)
    frame.columns = pd.Index([str(name) for name in frame.columns])
    if frame.empty:
        raise SourceError("it has no rows; check the query or the path")
    return frame


def load_sources(
    sources: Sequence[Source],
    roots: Sequence[str],
    allow_private: Sequence[str],
    progress: Callable[[str, int], None],
) -> dict[str, pd.DataFrame]:
    """Return the rows of every source by its name.

    Args:
        sources: what to read, in order.
        roots: directories that files may lie under.
        allow_private: networks that API sources may reach though they are not public.
        progress: called with the name and the number of rows after each source.

    Raises:
        TrainingFailed: SOURCE_FAILED, with one issue for each source that cannot be read.
    """
    frames: dict[str, pd.DataFrame] = {}
    issues: list[Issue] = []
    for index, source in enumerate(sources):
        try:
            frames[source.name] = read_source(source, roots, allow_private)
            progress(source.name, len(frames[source.name]))
        except SourceError as error:
            logger.warning("source %s cannot be read: %s", source.name, error)
            message = f"source {source.name!r} cannot be read: {error}"
            issues.append(Issue("source", Severity.ERROR, f"data_sources[{index}]", message))
    if issues:
        raise TrainingFailed(Reason.SOURCE_FAILED, f"{len(issues)} of {len(sources)} sources cannot be read", issues)
    return frames
