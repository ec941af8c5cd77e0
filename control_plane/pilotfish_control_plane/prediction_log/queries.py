"""Reading the prediction log: one snapshot, one DuckDB connection, one answer.

Owns how a request becomes SQL over parts and log files. It never writes to the log, and a query never waits
for an append.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pilotfish.errors import InvalidArgument, PilotfishError, ResourceExhausted, Unavailable, Violation

from .arrays import to_arrow
from .columns import INPUT, OUTPUT, feature_name
from .manifest import Part
from .options import LogOptions
from .parts import PARTS, TRUTH, stack
from .repeats import Repeats
from .segments import PREDICTIONS, TRUTHS
from .snapshots import Snapshot, Snapshots
from .sql import BASE, TRUTH_COLUMNS, Relation, attempts_sql, base_sql, feature_types, labels_sql, quote_text

__all__ = ["Queries", "Request", "Session"]

_GLOB = re.compile(r"[*?\[]")  # DuckDB reads file names as patterns; in brackets each stands for itself
_HIDDEN = ("seq", "id_hash")


@dataclass(frozen=True, slots=True)
class Request:
    """Which rows are asked for.

    Attributes:
        deployments: ids; None for all.
        start_us: first time, microseconds since 1970 UTC; None for no limit.
        end_us: first time that is too late; None for no limit.
        roles: see `Role`.
    """

    deployments: Sequence[str] | None = None
    start_us: int | None = None
    end_us: int | None = None
    roles: Sequence[int] = (0,)

    def where(self) -> str:
        """Return the condition on `time`."""
        limits = []
        if self.start_us is not None:
            limits.append(f"time >= make_timestamptz({int(self.start_us)})")
        if self.end_us is not None:
            limits.append(f"time < make_timestamptz({int(self.end_us)})")
        return " AND ".join(limits) or "true"

    def overlaps(self, part: Part) -> bool:
        """Tell whether a part may have rows in the asked time."""
        early = self.end_us is not None and part.first_us >= self.end_us
        late = self.start_us is not None and part.last_us < self.start_us
        return not early and not late


class Session:
    """One request over one snapshot: relations registered, `base` ready to be selected from."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, repeats: Repeats, request: Request):
        """Register what the request needs."""
        self.connection = connection
        self._snapshot = snapshot
        self._request = request
        asked = None if request.deployments is None else frozenset(request.deployments)
        parts = [p for p in snapshot.parts.values() if p.kind == PARTS and (asked is None or p.deployment in asked)]
        tail = self._tail(PREDICTIONS, asked)
        self.relations = [*_part_relations(snapshot.root, filter(request.overlaps, parts)), *tail]
        known = {p.deployment for p in parts} | {r.deployment for _, r, _ in snapshot.records(PREDICTIONS, asked)}
        repeated = repeats.find(snapshot, sorted(known))
        self._repeats = bool(len(repeated))
        if self._repeats:
            self.connection.register("repeated_ids", pa.table({"id_hash": to_arrow(np.asarray(repeated))}))
            everything = [*_part_relations(snapshot.root, parts), *tail]
            self.connection.execute(f"CREATE TEMP TABLE attempts_of AS {attempts_sql(everything, request.roles)}")
        features = {name for r in self.relations for name in r.columns if name.startswith((INPUT, OUTPUT))}
        self.names = {stored: feature_name(stored) for stored in features}
        self.types = feature_types(self.relations, self.names)

    def base(self, features: Sequence[str] = (), only: str = "true") -> tuple[str, dict[str, str]]:
        """Return the expressions that end in `base`, and the alias in it of each feature.

        Args:
            features: names as in results.
            only: a further condition on the rows.
        """
        aliased = {name: (f"f{index}", self.types.get(name, "DOUBLE")) for index, name in enumerate(features)}
        where, roles = f"{self._request.where()} AND {only}", self._request.roles
        text = base_sql(self.relations, aliased, self.names, where, roles, repeats=self._repeats)
        return text, {name: alias for name, (alias, _) in aliased.items()}

    def labels(self, rows: str) -> str:
        """Return the expression `labels` for the rows of `rows`."""
        parts = [part for part in self._snapshot.parts.values() if part.kind == TRUTH]
        truths = [*_part_relations(self._snapshot.root, parts), *self._tail(TRUTHS, None)]
        return labels_sql(truths, rows)

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

    def _tail(self, kind: int, deployments: frozenset[str] | None) -> list[Relation]:
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
            expressions.append(self.labels("base"))
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
        _check(request)
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


def _check(request: Request) -> None:
    problems: list[Violation] = []
    if request.start_us is not None and request.end_us is not None and request.start_us > request.end_us:
        problems.append(Violation("start", f"{request.start_us} is after the end {request.end_us}"))
    if not request.roles or any(int(role) not in (0, 1, 2) for role in request.roles):
        problems.append(Violation("roles", f"{list(request.roles)}: give some of 0 live, 1 shadow, 2 replay"))
    if problems:
        error: PilotfishError = InvalidArgument("the query of the prediction log cannot be run", violations=problems)
        raise error
