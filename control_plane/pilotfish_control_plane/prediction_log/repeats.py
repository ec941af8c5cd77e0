"""Which prediction ids of a deployment occur more than once.

Owns, per deployment, sorted runs of 64-bit id hashes in `ids/`, and the hashes that were met twice. Queries
leave out the costly search for repeated ids where there are none. It is a cache: it can be deleted at any
time, a hash too many costs time only, and the ids themselves decide what a repeat is.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .arrays import column_to_numpy
from .manifest import Part
from .parts import PARTS, read_part
from .segments import PREDICTIONS, decode
from .snapshots import Snapshot

__all__ = ["Repeats"]

_logger = logging.getLogger(__name__)
Hashes = npt.NDArray[np.uint64]
_NONE: Hashes = np.zeros(0, np.uint64)


class _Deployment:
    """The hashes of one deployment's parts, up to and including log file `covered`."""

    def __init__(self, folder: Path, rolled: int) -> None:
        self.lock = threading.Lock()
        self.folder = folder
        self.covered = -1
        self.runs: list[Hashes] = []
        self.repeated = _NONE
        self.tail_key: tuple[object, ...] = ()
        self.tail_repeated = _NONE
        self._load(rolled)

    def _load(self, rolled: int) -> None:
        try:
            index = json.loads((self.folder / "index.json").read_text())
            runs: list[Hashes] = [np.memmap(self.folder / name, np.uint64, "r") for name in index["runs"]]
            repeated = np.fromfile(self.folder / index["repeated"], np.uint64) if index["repeated"] else _NONE
            if [len(run) for run in runs] != index["rows"] or len(repeated) != index["repeats"]:
                raise ValueError("a file has another length than the index says")
            if index["covered"] > rolled:
                raise ValueError("it is newer than the log, which was restored from a backup")
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError) as error:
            _logger.warning("%s cannot be used and is built again: %s", self.folder, error)
            return
        self.runs, self.repeated, self.covered = [*runs], repeated, index["covered"]

    def add(self, hashes: Hashes, covered: int) -> None:
        """Count the hashes of further rows, those of log files up to `covered`."""
        fresh = np.sort(np.asarray(hashes[hashes != 0]))
        self.repeated = _union(self.repeated, _twice(fresh), *(_common(run, fresh) for run in self.runs))
        self.covered = covered
        merged = [fresh]
        # Runs of falling size: each row is merged a few times in its life, and a look-up asks a few runs.
        while self.runs and len(self.runs[-1]) <= 2 * sum(map(len, merged)):
            merged.append(self.runs.pop())
        if len(fresh):
            self.runs.append(np.sort(np.concatenate([np.asarray(run) for run in merged])) if len(merged) > 1 else fresh)
        self._save()

    def _save(self) -> None:
        """Write the runs for the next start; a crash in between costs only a new count."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = [f"{self.covered}-{len(run)}.run" for run in self.runs]
            for name, run in zip(names, self.runs, strict=True):
                if not isinstance(run, np.memmap):
                    run.tofile(self.folder / name)
            kept = [_file_of(run) or name for name, run in zip(names, self.runs, strict=True)]
            repeated = f"{self.covered}-{len(self.repeated)}.twice" if len(self.repeated) else ""
            if repeated:
                self.repeated.tofile(self.folder / repeated)
            index = {"covered": self.covered, "runs": kept, "rows": [len(r) for r in self.runs]}
            index |= {"repeated": repeated, "repeats": len(self.repeated)}
            temporary = self.folder / "index.tmp"
            temporary.write_text(json.dumps(index))
            temporary.replace(self.folder / "index.json")
            self.runs = [np.memmap(self.folder / name, np.uint64, "r") for name in kept]
            for path in self.folder.iterdir():
                if path.name not in (*kept, repeated, "index.json"):
                    path.unlink()
        except OSError as error:
            _logger.warning("the index of repeated ids in %s was not saved: %s", self.folder, error)


class Repeats:
    """The repeated prediction ids of every deployment, counted when a query first needs them."""

    def __init__(self, root: Path) -> None:
        """Use the folder `ids` below `root`."""
        self._folder = root / "ids"
        self._root = root
        self._lock = threading.Lock()
        self._deployments: dict[str, _Deployment] = {}

    def find(self, snapshot: Snapshot, deployments: Iterable[str]) -> Hashes:
        """Return the hashes of ids that may occur more than once in the snapshot, sorted.

        Args:
            snapshot: what the query reads.
            deployments: ids of the deployments that are asked for.
        """
        by_deployment: dict[str, list[Part]] = {}
        for part in snapshot.parts.values():
            if part.kind == PARTS:
                by_deployment.setdefault(part.deployment, []).append(part)
        found = [self._find(snapshot, name, by_deployment.get(name, [])) for name in deployments]
        return _union(*found)

    def forget(self, deployments: Iterable[str]) -> None:
        """Count these deployments again when next asked; after rows were purged."""
        with self._lock:
            for name in deployments:
                self._deployments.pop(name, None)
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def _find(self, snapshot: Snapshot, name: str, parts: Sequence[Part]) -> Hashes:
        with self._lock:
            entry = self._deployments.get(name)
            if entry is None:
                entry = self._deployments[name] = _Deployment(self._folder / name, snapshot.rolled)
        with entry.lock:
            fresh = [part for part in parts if part.last_segment > entry.covered]
            if fresh:
                hashes = [self._read(part, entry.covered) for part in fresh]
                entry.add(np.concatenate(hashes), max(part.last_segment for part in fresh))
            return _union(entry.repeated, self._tail(snapshot, name, entry))

    def _read(self, part: Part, covered: int) -> Hashes:
        names = ["id_hash"] if part.first_segment > covered else ["id_hash", "seq"]
        table = read_part(self._root, part, names)
        hashes: Hashes = column_to_numpy(table["id_hash"])
        if len(names) == 2:
            hashes = hashes[(column_to_numpy(table["seq"]) >> 32) > covered]
        return hashes

    def _tail(self, snapshot: Snapshot, name: str, entry: _Deployment) -> Hashes:
        """Return the hashes repeated within the log files, or between them and the parts."""
        items = list(snapshot.records(PREDICTIONS, frozenset([name])))
        key = (entry.covered, *((number, record.body_offset) for number, record, _ in items[:1] + items[-1:]))
        if key != entry.tail_key:
            schemas: dict[bytes, pa.Schema] = {}
            columns = [column_to_numpy(decode(data, record, schemas)[0]["id_hash"]) for _, record, data in items]
            hashes = np.concatenate(columns) if columns else _NONE
            hashes = np.sort(hashes[hashes != 0])
            entry.tail_repeated = _union(_twice(hashes), *(_common(run, hashes) for run in entry.runs))
            entry.tail_key = key
        return entry.tail_repeated


def _twice(ordered: Hashes) -> Hashes:
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _common(run: Hashes, ordered: Hashes) -> Hashes:
    """Return the hashes of `ordered` that are in `run`; both are sorted."""
    if not len(run) or not len(ordered):
        return _NONE
    places = np.searchsorted(run, ordered)
    places[places == len(run)] = 0
    return np.unique(ordered[run[places] == ordered])


def _union(*hashes: Hashes) -> Hashes:
    filled = [h for h in hashes if len(h)]
    if not filled:
        return _NONE
    return np.unique(np.concatenate(filled)) if len(filled) > 1 else filled[0]


def _file_of(run: Hashes) -> str:
    return Path(str(run.filename)).name if isinstance(run, np.memmap) and run.filename else ""
