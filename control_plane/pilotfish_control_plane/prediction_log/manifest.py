"""The list of Parquet parts that are the log, and the watermarks of the log files that became parts.

Owns `manifest.log`: frames of JSON, each one atomic change. A part exists for readers when, and only when,
the manifest names it. It never writes or deletes a part itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pilotfish.errors import FailedPrecondition

from .batches import Gap, Source
from .durable import publish, sync_file, write_all
from .frames import encode_frame, scan

__all__ = ["Change", "Manifest", "Part", "State"]

_logger = logging.getLogger(__name__)
_KIND = 9
_REWRITE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One immutable Parquet file.

    Attributes:
        path: below the log's directory, with `/`.
        kind: `parts` for predictions, `truth` for ground truth.
        deployment: id of its one deployment; "" for truths, which have a column instead.
        day: days since 1970 UTC of every row.
        size_bytes: length of the file.
        first_us: earliest time, microseconds since 1970 UTC.
        last_us: latest time, inclusive.
        first_segment: lowest number of the log files its rows came from.
        last_segment: highest number.
        columns: stored name and Arrow type of every column that is not in all parts.
        merged: it was made from other parts.
    """

    path: str
    kind: str
    deployment: str
    day: int
    rows: int
    size_bytes: int
    first_us: int
    last_us: int
    first_segment: int
    last_segment: int
    columns: tuple[tuple[str, str], ...]
    merged: bool = False


_PART_FIELDS = tuple(f.name for f in fields(Part) if f.name != "columns")


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic change of the state.

    Attributes:
        rolled: number of the log file whose rows are now in parts; None when none is.
        add: parts that now exist.
        remove: paths of parts that no longer do.
        marks: watermarks that the rolled file proves.
        gaps: gaps that it records.
    """

    rolled: int | None = None
    add: Sequence[Part] = ()
    remove: Sequence[str] = ()
    marks: Mapping[Source, int] = field(default_factory=dict)
    gaps: Sequence[Gap] = ()


@dataclass(frozen=True, slots=True)
class State:
    """Everything the manifest says; replaced as a whole, never changed.

    Attributes:
        rolled: the highest number of a log file that became parts; -1 for none.
    """

    parts: Mapping[str, Part] = field(default_factory=dict)
    marks: Mapping[Source, int] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    rolled: int = -1

    def apply(self, changes: Iterable[Change]) -> State:
        """Return the state after changes, in order."""
        parts, marks, gaps, rolled = dict(self.parts), dict(self.marks), dict.fromkeys(self.gaps), self.rolled
        for change in changes:
            for path in change.remove:
                parts.pop(path, None)
            parts.update((part.path, part) for part in change.add)
            for source, mark in change.marks.items():
                marks[source] = max(mark, marks.get(source, 0))
            gaps.update(dict.fromkeys(change.gaps))
            rolled = rolled if change.rolled is None else max(rolled, change.rolled)
        return State(parts, marks, tuple(gaps), rolled)


class Manifest:
    """The file that makes changes of the part list durable, one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Read the file, cutting off a torn last change.

        Raises:
            FailedPrecondition: a change in the middle is damaged; the file must be restored from a backup.
        """
        self._path = path
        self.state = State()
        self._end = self._rewritten_bytes = 0
        path.with_suffix(".tmp").unlink(missing_ok=True)
        if path.exists():
            self._replay()
        else:
            self._rewrite()
        self._handle = os.open(path, os.O_WRONLY)
        if os.fstat(self._handle).st_size > self._end:
            _logger.warning("%s: cut off a change that was never finished", path)
            os.ftruncate(self._handle, self._end)
            os.fsync(self._handle)
        os.lseek(self._handle, self._end, os.SEEK_SET)

    def commit(self, change: Change) -> State:
        """Make a change durable and return the state after it.

        Raises:
            OSError: nothing changed.
        """
        buffers, size, _ = encode_frame(_KIND, _encode(change), (), group_start=self._end)
        try:
            write_all(self._handle, buffers)
            sync_file(self._handle)
        except OSError:
            os.ftruncate(self._handle, self._end)
            os.lseek(self._handle, self._end, os.SEEK_SET)
            raise
        self._end += size
        self.state = self.state.apply([change])
        if self._end > max(_REWRITE_BYTES, 4 * self._rewritten_bytes):
            self._shorten()
        return self.state

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def _replay(self) -> None:
        found = scan(memoryview(self._path.read_bytes()))
        if found.damaged:
            raise FailedPrecondition(
                f"{self._path} is damaged at byte {found.damaged[0][0]}: restore it from a backup; nothing was changed",
                reason="PREDICTION_LOG_DAMAGED",
                metadata={"path": str(self._path)},
            )
        self.state = self.state.apply(_decode(frame.head) for frame in found.frames)
        self._end = found.good_end
        self._rewritten_bytes = found.frames[0].end if found.frames else 0

    def _rewrite(self) -> None:
        """Replace the file by one change that has the same state."""
        rolled = self.state.rolled if self.state.rolled >= 0 else None
        whole = Change(rolled, tuple(self.state.parts.values()), (), self.state.marks, self.state.gaps)
        buffers, size, _ = encode_frame(_KIND, _encode(whole), (), group_start=0)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.writelines(buffers)
        publish(temporary, self._path)
        self._end = self._rewritten_bytes = size

    def _shorten(self) -> None:
        try:
            self._rewrite()
        except OSError as error:
            # The old file is complete: a full disk only postpones the rewriting.
            _logger.warning("%s could not be rewritten, it stays as it is: %s", self._path, error)
            self._path.with_suffix(".tmp").unlink(missing_ok=True)
            self._rewritten_bytes = self._end
            return
        os.close(self._handle)
        self._handle = os.open(self._path, os.O_WRONLY)
        os.lseek(self._handle, self._end, os.SEEK_SET)


def _encode(change: Change) -> dict[str, Any]:
    schemas = {part.columns: 0 for part in change.add}
    for number, columns in enumerate(schemas):
        schemas[columns] = number
    return {
        "rolled": change.rolled,
        "schemas": list(schemas),
        "add": [[*(getattr(part, name) for name in _PART_FIELDS), schemas[part.columns]] for part in change.add],
        "remove": list(change.remove),
        "marks": [[s.instance, s.incarnation, s.stream, mark] for s, mark in change.marks.items()],
        "gaps": [asdict(gap) for gap in change.gaps],
    }


def _decode(head: Mapping[str, Any]) -> Change:
    schemas = [tuple((name, kind) for name, kind in columns) for columns in head["schemas"]]
    return Change(
        rolled=head["rolled"],
        add=[
            Part(columns=schemas[number], **dict(zip(_PART_FIELDS, row, strict=True))) for *row, number in head["add"]
        ],
        remove=head["remove"],
        marks={Source(instance, incarnation, stream): mark for instance, incarnation, stream, mark in head["marks"]},
        gaps=[Gap(**{**gap, "source": Source(**gap["source"])}) for gap in head["gaps"]],
    )
