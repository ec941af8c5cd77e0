"""One consistent view for a query: which parts, and which records are still in log files.

Owns the count of running queries, so that a part that was merged or purged away is deleted only when no query
can still read it. It never decides which parts go.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from .journal import Journal
from .manifest import Part, State
from .segments import Record, map_file

__all__ = ["Snapshot", "Snapshots"]

_logger = logging.getLogger(__name__)


Located = tuple[int, Record, pa.Buffer]  # number of the log file, record, and the file's bytes


@dataclass(frozen=True)
class Snapshot:
    """What a query reads; rows appended or rolled later are not in it.

    Attributes:
        root: directory of the log.
        parts: committed parts by path.
        rolled: highest number of a log file whose rows are in parts.
        tail: number, records and bytes of each log file that is not.
    """

    root: Path
    parts: Mapping[str, Part]
    rolled: int
    tail: Sequence[tuple[int, Sequence[Record], pa.Buffer]]

    @cached_property
    def parts_by_deployment(self) -> Mapping[str, Sequence[Part]]:
        """The parts of predictions; "" has those of truths."""
        found: dict[str, list[Part]] = {}
        for part in self.parts.values():
            found.setdefault(part.deployment, []).append(part)
        return found

    @cached_property
    def _records(self) -> Mapping[tuple[int, str], Sequence[Located]]:
        found: dict[tuple[int, str], list[Located]] = {}
        for number, records, data in self.tail:
            for record in records:
                if record.rows:
                    found.setdefault((record.kind, record.deployment), []).append((number, record, data))
        return found

    def records(self, kind: int, deployments: Iterable[str] | None = None) -> Sequence[Located]:
        """Return the records of a kind, those of one deployment in order of arrival; None for all deployments."""
        if deployments is None:
            return [item for (its, _), items in self._records.items() if its == kind for item in items]
        return [item for name in deployments for item in self._records.get((kind, name), ())]


class Snapshots:
    """Hands out snapshots and deletes removed parts when the last query that could see them has ended."""

    def __init__(self, root: Path, journal: Journal, state: State) -> None:
        """Begin with the state that was read from the manifest."""
        self._root, self._journal = root, journal
        self.state = state
        self._turn = 0
        self._open: dict[int, int] = {}  # turn -> queries that began in it
        self._doomed: list[tuple[int, str]] = []

    @contextmanager
    def take(self) -> Iterator[Snapshot]:
        """Give a snapshot whose files stay readable until the block is left."""
        with self._journal.view:
            turn = self._turn
            self._open[turn] = self._open.get(turn, 0) + 1
            state = self.state
            # Mapped here: a log file may be removed as soon as the lock is free, its pages stay.
            tail = [(s.number, s.records[:count], map_file(s.path)) for s, count, _ in self._journal.tail()]
        try:
            yield Snapshot(self._root, state.parts, state.rolled, tail)
        finally:
            with self._journal.view:
                self._open[turn] -= 1
                if not self._open[turn]:
                    del self._open[turn]
            self._delete_doomed()

    def replace(self, state: State, removed: Sequence[str] = (), rolled: int | None = None) -> None:
        """Show a new state to queries that begin from now on, and delete what it no longer has.

        Args:
            state: what the manifest says now.
            removed: paths of parts to delete.
            rolled: number of the log file whose rows are parts now.
        """
        with self._journal.view:
            self.state = state
            if rolled is not None:
                self._journal.drop(rolled)
            self._doomed += [(self._turn, path) for path in removed]
            self._turn += 1
        self._delete_doomed()

    def _delete_doomed(self) -> None:
        with self._journal.view:
            oldest = min(self._open, default=self._turn)
            ready = [path for turn, path in self._doomed if turn < oldest]
            self._doomed = [(turn, path) for turn, path in self._doomed if turn >= oldest]
        for path in ready:
            try:
                (self._root / path).unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("%s could not be deleted, the next start will: %s", self._root / path, error)
