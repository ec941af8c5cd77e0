"""The prediction ids of one deployment's parts, as hashes with the numbers of their rows.

Owns the files below `ids/<deployment>/`: sorted runs, the hashes that occur more than once, and the rows that
have them. It is a cache that can be deleted at any time: hashes only nominate rows, and the ids themselves
decide what a repeat is.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .columns import TIME

__all__ = ["KEY_COLUMNS", "KEY_SCHEMA", "Hashes", "IdIndex", "Numbers", "Run", "union"]

_logger = logging.getLogger(__name__)

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]  # `seq` of rows
NO_HASHES: Hashes = np.zeros(0, np.uint64)
NO_NUMBERS: Numbers = np.zeros(0, np.int64)
MOST_KEYS = 1_000_000  # above it queries search the parts instead: about 100 MB of memory per deployment

KEY_SCHEMA = pa.schema(
    {
        "seq": pa.int64(),
        "time": TIME,
        "prediction_id": pa.string(),
        "role": pa.uint8(),
        "code": pa.uint16(),
        "input_hash": pa.uint64(),
    }
)
KEY_COLUMNS = tuple(KEY_SCHEMA.names)
NO_KEYS = pa.Table.from_batches([], KEY_SCHEMA)


@dataclass(frozen=True, slots=True)
class Run:
    """Hashes in rising order, and the number of the row of each; shape (rows,) both."""

    hashes: Hashes
    numbers: Numbers

    @staticmethod
    def of(hashes: Hashes, numbers: Numbers) -> Run:
        """Sort hashes, leaving out those of rows without an id."""
        there = hashes != 0
        hashes, numbers = hashes[there], numbers[there]
        order = np.argsort(hashes, kind="stable")
        return Run(np.ascontiguousarray(hashes[order]), np.ascontiguousarray(numbers[order]))

    def twice(self) -> Hashes:
        """Return the hashes that occur more than once."""
        return np.unique(self.hashes[1:][self.hashes[1:] == self.hashes[:-1]])

    def common(self, other: Run) -> Hashes:
        """Return the hashes that both have."""
        if not len(self.hashes) or not len(other.hashes):
            return NO_HASHES
        places = np.searchsorted(self.hashes, other.hashes)
        places[places == len(self.hashes)] = 0
        return np.unique(np.asarray(other.hashes[self.hashes[places] == other.hashes]))

    def rows(self, wanted: Hashes) -> Numbers:
        """Return the numbers of all rows that have one of the hashes; `wanted` is sorted."""
        left = np.searchsorted(self.hashes, wanted, "left")
        right = np.searchsorted(self.hashes, wanted, "right")
        counts = right - left
        if not counts.sum():
            return NO_NUMBERS
        starts = np.repeat(left - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
        return np.asarray(self.numbers[starts + np.arange(int(counts.sum()))])


def union(*hashes: Hashes) -> Hashes:
    """Return the hashes that are in any of the arrays, sorted."""
    filled = [h for h in hashes if len(h)]
    if not filled:
        return NO_HASHES
    return np.unique(np.concatenate(filled)) if len(filled) > 1 else filled[0]


class IdIndex:
    """The rows of one deployment's parts from log files up to and including `covered`."""

    def __init__(self, folder: Path, rolled: int) -> None:
        """Load the index, or begin an empty one when there is none that fits.

        Args:
            folder: its directory.
            rolled: highest log file that is in parts; an index that says more is from another time.
        """
        self.lock = threading.Lock()
        self._folder = folder
        self.covered = -1
        self.runs: list[Run] = []
        self.repeated = NO_HASHES
        self.keys: pa.Table | None = NO_KEYS
        self._saved: dict[str, str | int] = {"repeated": "", "repeats": 0, "keys": "", "key_rows": 0}
        self.tail_key: tuple[object, ...] = ()  # of the cached answer for the log files, see `repeats`
        self.tail_answer: object = None
        try:
            self._load(rolled)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            _logger.warning("%s cannot be used and is built again: %s", folder, error)

    def add(self, hashes: Hashes, numbers: Numbers, covered: int, read: Callable[[Numbers], pa.Table]) -> None:
        """Take in further rows, those of log files up to `covered`.

        Args:
            hashes: of their ids, shape (rows,).
            numbers: `seq` of each row.
            covered: highest number of their log files.
            read: returns the key columns of the rows with the given numbers.
        """
        fresh = Run.of(hashes, numbers)
        common = union(*(run.common(fresh) for run in self.runs))
        touched = union(fresh.twice(), common)
        if len(touched):
            new = np.setdiff1d(common, self.repeated, assume_unique=True)
            rows = np.concatenate([fresh.rows(touched), *(run.rows(new) for run in self.runs)])
            self.repeated = union(self.repeated, touched)
            if self.keys is not None and len(rows) + self.keys.num_rows <= MOST_KEYS:
                self.keys = pa.concat_tables([self.keys, read(np.sort(rows))]).combine_chunks()
            else:
                self.keys = None
        self.covered = covered
        self._push(fresh)
        self._save()

    def _push(self, fresh: Run) -> None:
        """Keep runs of falling size: a row is merged a few times in its life, and a look-up asks a few runs."""
        merged = [fresh]
        while self.runs and len(self.runs[-1].hashes) <= 2 * sum(len(run.hashes) for run in merged):
            merged.append(self.runs.pop())
        if len(merged) > 1:
            hashes = np.concatenate([np.asarray(run.hashes) for run in merged])
            fresh = Run.of(hashes, np.concatenate([np.asarray(run.numbers) for run in merged]))
        if len(fresh.hashes):
            self.runs.append(fresh)

    def _load(self, rolled: int) -> None:
        index = json.loads((self._folder / "index.json").read_text())
        if index["covered"] > rolled:
            raise ValueError("it is newer than the log, which was restored from a backup")
        runs = [_read_run(self._folder / name, rows) for name, rows in index["runs"]]
        repeated: Hashes = NO_HASHES
        if index["repeats"]:
            repeated = np.fromfile(self._folder / index["repeated"], np.uint64)
        keys: pa.Table | None = NO_KEYS
        if index["keys"]:
            with pa.memory_map(str(self._folder / index["keys"])) as file:
                keys = pa.ipc.open_file(file).read_all()
        if len(repeated) != index["repeats"] or (keys.num_rows if keys is not None else 0) != index["key_rows"]:
            raise ValueError("a file has another length than the index says")
        self.runs, self.repeated, self.covered = runs, repeated, index["covered"]
        self.keys = None if index["overflow"] else keys
        self._saved = {name: index[name] for name in ("repeated", "repeats", "keys", "key_rows")}

    def _save(self) -> None:
        """Write the index for the next start; a crash in between costs only a new count."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A run is merged with any that is not longer than twice it, so no two have the same length.
            runs = [(f"{self.covered}-{len(run.hashes)}.run", run) for run in self.runs]
            kept = [(_file_of(run) or name, len(run.hashes)) for name, run in runs]
            for name, run in runs:
                if not _file_of(run):
                    with (self._folder / name).open("wb") as file:
                        run.hashes.tofile(file)
                        run.numbers.tofile(file)
            files = self._save_repeats()
            index = {"covered": self.covered, "runs": kept, "overflow": self.keys is None, **files}
            temporary = self._folder / "index.tmp"
            temporary.write_text(json.dumps(index))
            temporary.replace(self._folder / "index.json")
            self.runs = [_read_run(self._folder / name, rows) for name, rows in kept]
            wanted = {name for name, _ in kept} | {str(files["repeated"]), str(files["keys"]), "index.json"}
            for path in self._folder.iterdir():
                if path.name not in wanted:
                    path.unlink()
        except OSError as error:
            _logger.warning("the index of prediction ids in %s was not saved: %s", self._folder, error)

    def _save_repeats(self) -> dict[str, str | int]:
        """Write what has grown; both only ever grow, so an equal length means an unchanged file."""
        repeats, rows = len(self.repeated), self.keys.num_rows if self.keys is not None else 0
        saved = self._saved
        if saved.get("repeats", 0) != repeats:
            saved = {**saved, "repeated": f"{self.covered}-{repeats}.twice", "repeats": repeats}
            self.repeated.tofile(self._folder / str(saved["repeated"]))
        if saved.get("key_rows", 0) != rows:
            saved = {**saved, "keys": f"{self.covered}-{rows}.keys" if rows else "", "key_rows": rows}
            if self.keys is not None:
                path = str(self._folder / str(saved["keys"]))
                with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, KEY_SCHEMA) as writer:
                    writer.write_table(self.keys)
        self._saved = saved
        return saved


def _read_run(path: Path, rows: int) -> Run:
    if path.stat().st_size != 16 * rows:
        raise ValueError(f"{path.name} has another length than the index says")
    hashes = np.memmap(path, np.uint64, "r", shape=(rows,))
    return Run(hashes, np.memmap(path, np.int64, "r", offset=8 * rows, shape=(rows,)))


def _file_of(run: Run) -> str:
    """Return the name of the file that a run was read from, "" for one that is only in memory."""
    return Path(str(run.hashes.filename)).name if isinstance(run.hashes, np.memmap) and run.hashes.filename else ""
