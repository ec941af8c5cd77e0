"""Which rows of a snapshot have prediction ids that occur more than once.

Owns the search in parts, through `IdIndex`, and in the log files beside them. Repeats are few, so their rows
are at hand and a query joins them instead of looking for them among all rows.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .arrays import column_to_numpy, text_to_arrow, to_arrow
from .id_index import KEY_COLUMNS, KEY_SCHEMA, NO_HASHES, NO_KEYS, NO_NUMBERS, Hashes, IdIndex, Numbers, Run, union
from .manifest import Part
from .parts import read_part
from .segments import PREDICTIONS, Record, decode, sequence_numbers
from .snapshots import Snapshot

__all__ = ["Repeated", "Repeats"]


@dataclass(frozen=True, slots=True)
class Repeated:
    """The rows whose id may occur more than once.

    Attributes:
        keys: their key columns and `deployment`; None where they are too many and must be searched by hash.
        hashes: the hashes of their ids, sorted; only where `keys` is None.
    """

    keys: pa.Table | None
    hashes: Hashes


class Repeats:
    """The repeated prediction ids of every deployment, counted when they are first needed."""

    def __init__(self, root: Path) -> None:
        """Use the folder `ids` below `root`."""
        self._folder = root / "ids"
        self._root = root
        self._lock = threading.Lock()
        self._indexes: dict[str, IdIndex] = {}

    def find(self, snapshot: Snapshot, deployments: Iterable[str]) -> Repeated:
        """Return the rows of a snapshot whose id may occur more than once.

        Args:
            snapshot: what the query reads.
            deployments: ids of the deployments that are asked for.
        """
        parts = snapshot.parts_by_deployment
        found = {name: self._find(snapshot, name, parts.get(name, ())) for name in deployments}
        tables = [_with_deployment(keys, name) for name, (keys, _) in found.items() if keys is not None]
        if len(tables) < len(found) or not tables:
            return Repeated(None, union(*(hashes for _, hashes in found.values())))
        return Repeated(pa.concat_tables(tables), NO_HASHES)

    def forget(self, deployments: Iterable[str]) -> None:
        """Count these deployments again when next asked; after rows were purged."""
        with self._lock:
            for name in deployments:
                self._indexes.pop(name, None)
                shutil.rmtree(self._folder / name, ignore_errors=True)

    def _index(self, name: str, rolled: int) -> IdIndex:
        with self._lock:
            index = self._indexes.get(name)
            if index is None:
                index = self._indexes[name] = IdIndex(self._folder / name, rolled)
            return index

    def _find(self, snapshot: Snapshot, name: str, parts: Sequence[Part]) -> tuple[pa.Table | None, Hashes]:
        """Return the rows of one deployment, or None when they are too many, and the hashes of their ids."""
        index = self._index(name, snapshot.rolled)
        with index.lock:
            fresh = [part for part in parts if part.last_segment > index.covered]
            if fresh:
                rows = [self._read_hashes(part, index.covered) for part in fresh]
                hashes, numbers = (np.concatenate(column) for column in zip(*rows, strict=True))
                covered = max(part.last_segment for part in fresh)
                index.add(hashes, numbers, covered, lambda wanted: self._read_keys(parts, wanted))
            tail_keys, tail_hashes = self._tail(snapshot, name, index, parts)
            found = union(index.repeated, tail_hashes)
            # A snapshot from before the last roll has rows in its log files that the index has from parts.
            if index.keys is None or tail_keys is None or index.covered > snapshot.rolled:
                return None, found
            return pa.concat_tables([index.keys, tail_keys]), found

    def _read_hashes(self, part: Part, covered: int) -> tuple[Hashes, Numbers]:
        table = read_part(self._root, part, ["id_hash", "seq"])
        hashes, numbers = column_to_numpy(table["id_hash"]), column_to_numpy(table["seq"])
        fresh = (numbers >> 32) > covered
        return hashes[fresh], numbers[fresh]

    def _read_keys(self, parts: Sequence[Part], numbers: Numbers) -> pa.Table:
        """Return the key columns of the rows with the given numbers, which are sorted."""
        files = numbers >> 32
        tables = [NO_KEYS]
        for part in parts:
            first, last = np.searchsorted(files, [part.first_segment, part.last_segment + 1])
            if first < last:
                tables.append(_rows_of(self._root / part.path, numbers[first:last]))
        return pa.concat_tables(tables)

    def _tail(
        self, snapshot: Snapshot, name: str, index: IdIndex, parts: Sequence[Part]
    ) -> tuple[pa.Table | None, Hashes]:
        """Return the same for ids repeated within the log files, or between them and the parts."""
        items = snapshot.records(PREDICTIONS, [name])
        key = (index.covered, snapshot.rolled, *((n, r.body_offset) for n, r, _ in (*items[:1], *items[-1:])))
        if key != index.tail_key or not isinstance(index.tail_answer, tuple):
            index.tail_answer = self._search_tail(items, index, parts)
            index.tail_key = key
        keys, hashes = index.tail_answer
        return keys, hashes

    def _search_tail(
        self, items: Sequence[tuple[int, Record, pa.Buffer]], index: IdIndex, parts: Sequence[Part]
    ) -> tuple[pa.Table, Hashes]:
        schemas: dict[bytes, pa.Schema] = {}
        batches = [decode(data, record, schemas)[0] for _, record, data in items]
        hashes = [column_to_numpy(batch["id_hash"]) for batch in batches]
        numbers = [sequence_numbers(number, record) for number, record, _ in items]
        run = Run.of(np.concatenate([NO_HASHES, *hashes]), np.concatenate([NO_NUMBERS, *numbers]))
        common = union(*(old.common(run) for old in index.runs))
        repeated = union(run.twice(), common)
        tables = [NO_KEYS]
        if len(repeated):
            new = np.setdiff1d(common, index.repeated, assume_unique=True)
            older = np.concatenate([NO_NUMBERS, *(old.rows(new) for old in index.runs)])
            tables.append(self._read_keys(parts, np.sort(older)))
        for batch, own, its in zip(batches, hashes, numbers, strict=True):
            chosen = np.isin(own, repeated) if len(repeated) else np.zeros(0, np.bool_)
            if chosen.any():
                rows = pa.Table.from_batches([batch]).append_column("seq", to_arrow(its)).select(KEY_COLUMNS)
                tables.append(rows.filter(to_arrow(chosen)))
        return pa.concat_tables(tables), repeated


def _with_deployment(keys: pa.Table, name: str) -> pa.Table:
    codes = to_arrow(np.zeros(keys.num_rows, np.int32))
    column = pa.DictionaryArray.from_arrays(codes, text_to_arrow([name])).cast(pa.string())
    return keys.append_column("deployment", column)


def _rows_of(path: Path, numbers: Numbers) -> pa.Table:
    """Return the key columns of a part's rows with the given numbers, reading only row groups that have any."""
    with pq.ParquetFile(str(path)) as file:
        present = np.isin(column_to_numpy(file.read(["seq"])["seq"]), numbers)
        tables = [NO_KEYS]
        start = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            chosen = present[start : start + rows]
            start += rows
            if chosen.any():
                table = file.read_row_group(group, list(KEY_COLUMNS)).select(KEY_COLUMNS)
                tables.append(table.filter(to_arrow(chosen)))
    return pa.concat_tables([table.cast(KEY_SCHEMA) for table in tables])
