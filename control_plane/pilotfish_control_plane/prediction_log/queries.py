"""Reading the prediction log: one snapshot, one DuckDB connection, one answer.

Owns how a request becomes SQL over parts and log files. It never writes to the log, and a query never waits
for an append.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pilotfish.errors import InvalidArgument, ResourceExhausted, Unavailable, Violation

from .arrays import text_to_arrow, to_arrow
from .columns import INPUT, OUTPUT, feature_name, hash_ids
from .manifest import Part
from .options import LogOptions
from .parts import stack
from .repeats import Repeats
from .requests import Request
from .segments import PREDICTIONS, TRUTHS
from .snapshots import Snapshot, Snapshots
from .sql import (
    BASE,
    TRUTH_COLUMNS,
    Relation,
    attempts_sql,
    base_sql,
    feature_types,
    keys_by_hash_sql,
    keys_sql,
    labels_sql,
    quote_text,
    truth_hashes_sql,
)

__all__ = ["Queries", "Session"]

_GLOB = re.compile(r"[*?\[]")  # DuckDB reads file names as patterns; in brackets each stands for itself
_HIDDEN = ("seq", "id_hash")


class Session:
    """One request over one snapshot: relations registered, `base` ready to be selected from."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, repeats: Repeats, request: Request):
        """Register what the request needs."""
        self.connection = connection
        self._snapshot = snapshot
        self._request = request
        parts = [part for name in self._deployments() for part in snapshot.parts_by_deployment.get(name, ())]
        tail = self._tail(PREDICTIONS, self._deployments())
        self.relations = [*_part_relations(snapshot.root, filter(request.overlaps, parts)), *tail]
        truths = snapshot.parts_by_deployment.get("", ())
        self._truths = [*_part_relations(snapshot.root, truths), *self._tail(TRUTHS, None)]
        self._repeats = self._find_repeats(repeats, [*_part_relations(snapshot.root, parts), *tail])
        features = {name for r in self.relations for name in r.columns if name.startswith((INPUT, OUTPUT))}
        self._only_ids = self._find_ids(request.prediction_ids)
        self.names = {stored: feature_name(stored) for stored in features}
        self.types = feature_types(self.relations, self.names)

    def _deployments(self) -> Sequence[str]:
        if self._request.deployments is not None:
            return list(dict.fromkeys(self._request.deployments))
        waiting = {record.deployment for _, record, _ in self._snapshot.records(PREDICTIONS)}
        return sorted(waiting | self._snapshot.parts_by_deployment.keys() - {""})

    def _find_ids(self, wanted: Sequence[str] | None) -> str:
        """Return the condition that only the asked prediction ids meet."""
        if wanted is None:
            return "true"
        ids = text_to_arrow(list(dict.fromkeys(wanted)))
        table = pa.table({"prediction_id": ids, "id_hash": to_arrow(hash_ids(ids))})
        self.connection.register("wanted_ids", table)
        # The hash alone decides nearly always, and is quicker to compare and to read than the text.
        hashes = "id_hash IN (SELECT id_hash FROM wanted_ids)"
        return f"{hashes} AND prediction_id IN (SELECT prediction_id FROM wanted_ids)"

    def _find_repeats(self, repeats: Repeats, everything: Sequence[Relation]) -> bool:
        """Make the table `attempts_of` and tell whether it has any row."""
        repeated = repeats.find(self._snapshot, self._deployments())
        if repeated.keys is not None:
            self.connection.register("repeated_keys", repeated.keys)
            rows = keys_sql(self._request.roles)
        else:
            self.connection.register("repeated_ids", pa.table({"id_hash": to_arrow(np.asarray(repeated.hashes))}))
            rows = keys_by_hash_sql(everything, self._request.roles)
        if not (repeated.keys.num_rows if repeated.keys is not None else len(repeated.hashes)):
            return False
        self.connection.execute(f"CREATE TEMP TABLE attempts_of AS {attempts_sql(rows, self._request.where())}")
        ((found,),) = self.connection.execute("SELECT count(*) FROM attempts_of").fetchall()
        return bool(found)

    def base(self, features: Sequence[str] = (), only: str = "true") -> tuple[str, dict[str, str]]:
        """Return the expressions that end in `base`, and the alias in it of each feature.

        Args:
            features: names as in results.
            only: a further condition on the rows.
        """
        aliased = {name: (f"f{index}", self.types.get(name, "DOUBLE")) for index, name in enumerate(features)}
        where, roles = f"{self._request.where()} AND {self._only_ids} AND {only}", self._request.roles
        text = base_sql(self.relations, aliased, self.names, where, roles, repeats=self._repeats)
        return text, {name: alias for name, (alias, _) in aliased.items()}

    def labels(self) -> str:
        """Return the expression `labels` for the rows of `base`."""
        return labels_sql(self._truths, "base")

    def only_labelled(self) -> str:
        """Return a condition that no row without a truth meets.

        Truths are mostly few beside predictions: finding their rows by hash first spares reading the other rows.
        """
        base, _ = self.base()
        hashes = truth_hashes_sql(self._truths)
        rows = f"WITH {base} SELECT seq FROM base WHERE id_hash IN ({hashes})"
        with _translated():
            self.connection.execute(f"CREATE OR REPLACE TEMP TABLE with_truth AS {rows}")
        return "seq IN (SELECT seq FROM with_truth)"

    def fetch(self, text: str) -> list[tuple[Any, ...]]:  # typed by the SQL, which only the caller knows
        """Run SQL and return its rows."""
        with _translated():
            return self.connection.execute(text).fetchall()

    def table(self, text: str, names: Sequence[str]) -> pa.Table:
        """Run SQL and return a table whose columns are called `names`."""
        with _translated():
            return self.connection.sql(text).to_arrow_table().rename_columns(list(names))

    def batches(self, text: str, names: Sequence[str], rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Run SQL and yield its rows in batches of at most `rows`."""
        with _translated():
            reader = self.connection.sql(text).to_arrow_reader(rows)
            try:
                for batch in reader:
                    yield batch.rename_columns(list(names))
            finally:
                reader.close()

    def _tail(self, kind: int, deployments: Iterable[str] | None) -> list[Relation]:
        relations = []
        for index, table in enumerate(stack(self._snapshot.records(kind, deployments))):
            name = f"tail_{kind}_{index}"
            self.connection.register(name, table)
            relations.append(Relation(name, {f.name: str(f.type) for f in table.schema}))
        return relations

    def select(
        self,
        columns: Sequence[str] | None,
        *,
        with_truth: bool,
        limit: int | None = None,
        newest_first: bool = False,
        ordered: bool = True,
    ) -> tuple[str, list[str]]:
        """Return the SQL of a listing and the names of its columns.

        Raises:
            InvalidArgument: columns that no row has.
        """
        names = self._columns(columns, with_truth)
        way = "DESC" if newest_first else "ASC"
        only = "true" if limit is None else self._page(limit, way)
        base, aliases = self.base([n for n in names if n.startswith((INPUT, OUTPUT))], only)
        expressions = [base]
        joined = "FROM base p"
        if any(name in TRUTH_COLUMNS for name in names):
            expressions.append(self.labels())
            joined += " LEFT JOIN labels l ON l.seq = p.seq"
        chosen = [f"l.{n}" if n in TRUTH_COLUMNS else f"p.{aliases.get(n, n)}" for n in names]
        text = f"WITH {', '.join(expressions)} SELECT {', '.join(chosen)} {joined}"
        return text + (f" ORDER BY p.time {way}, p.seq {way}" if ordered else ""), names

    def _page(self, limit: int, way: str) -> str:
        """Return the condition that only the first `limit` rows meet.

        Which rows these are is found from narrow columns; then only the row groups that hold them are read whole.
        """
        base, _ = self.base()
        rows = self.fetch(f"WITH {base} SELECT seq FROM base ORDER BY time {way}, seq {way} LIMIT {int(limit)}")
        if not rows:
            return "false"
        numbers = np.array([seq for (seq,) in rows], np.int64)
        self.connection.register("page", pa.table({"seq": to_arrow(numbers)}))
        return f"seq BETWEEN {numbers.min()} AND {numbers.max()} AND seq IN (SELECT seq FROM page)"

    def _columns(self, columns: Sequence[str] | None, with_truth: bool) -> list[str]:
        truth = TRUTH_COLUMNS if with_truth else ()
        fixed = [*(n for n in BASE if n not in ("metadata", *_HIDDEN)), "attempts", "conflict", "metadata", *truth]
        features = sorted(self.types, key=lambda name: (not name.startswith(INPUT), name))
        if columns is None:
            return [*fixed, *features]
        known = {*fixed, *_HIDDEN, *TRUTH_COLUMNS, *features}
        # Without any row no feature is known, and asking for one is no mistake.
        missing = [c for c in columns if c not in known and (self.relations or not c.startswith((INPUT, OUTPUT)))]
        if missing:
            raise InvalidArgument(
                f"no such columns: {', '.join(missing)}; the predictions have {', '.join([*fixed, *features])}",
                violations=[Violation("columns", f"no column {name!r}") for name in missing],
            )
        return list(columns)


def _part_relations(root: Path, parts: Iterable[Part]) -> list[Relation]:
    """Return one relation per set of columns, so that each file's columns are known without opening it."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for part in parts:
        groups.setdefault(part.columns, []).append(quote_text(_GLOB.sub(r"[\g<0>]", str(root / part.path))))
    return [
        Relation(f"read_parquet([{', '.join(files)}], hive_partitioning=false)", dict(columns))
        for columns, files in groups.items()
    ]


class Queries:
    """Opens a session per request."""

    def __init__(self, root: Path, snapshots: Snapshots, repeats: Repeats, options: LogOptions) -> None:
        """Read through `snapshots`; spill to `tmp` below `root`."""
        self._root, self._snapshots, self._repeats, self._options = root, snapshots, repeats, options

    @contextmanager
    def session(self, request: Request) -> Iterator[Session]:
        """Give a session whose snapshot lasts until the block is left."""
        request.check()
        with self._snapshots.take() as snapshot, _connect(self._root / "tmp", self._options) as connection:
            with _translated():
                session = Session(connection, snapshot, self._repeats, request)
            yield session


@contextmanager
def _connect(spill: Path, options: LogOptions) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": options.query_threads,
            "memory_limit": f"{options.query_memory_bytes}B",
            "temp_directory": str(spill),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "preserve_insertion_order": False,
        },
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise ResourceExhausted(
            f"the query needs more memory than it may use: ask for fewer days or columns ({error})",
            reason="QUERY_TOO_LARGE",
        ) from error
    except (duckdb.IOException, duckdb.InvalidInputException, pa.ArrowInvalid, OSError) as error:
        raise Unavailable(f"a part could not be read, check the disk: {error}", reason="PART_UNREADABLE") from error
