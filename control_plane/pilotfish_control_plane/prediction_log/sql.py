"""The SQL of a query over parts and log files.

Owns the meaning of repeated prediction ids and of the truth join, as common table expressions. Values in the
text are integers or quoted by this module; it opens nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "BASE",
    "TRUTH_COLUMNS",
    "Relation",
    "attempts_sql",
    "base_sql",
    "feature_types",
    "labels_sql",
    "quote_name",
    "quote_text",
    "truth_hashes_sql",
]

BASE: Mapping[str, str] = {
    "prediction_id": "VARCHAR",
    "id_hash": "UBIGINT",
    "seq": "BIGINT",
    "time": "TIMESTAMPTZ",
    "deployment": "VARCHAR",
    "endpoint": "VARCHAR",
    "model": "VARCHAR",
    "version": "BIGINT",
    "replica": "VARCHAR",
    "latency_us": "BIGINT",
    "role": "UTINYINT",
    "code": "USMALLINT",
    "input_hash": "UBIGINT",
    "metadata": "VARCHAR",
}
TRUTH_COLUMNS = ("truth", "truth_text", "truth_time")
_TRUTH: Mapping[str, str] = {
    "prediction_id": "VARCHAR",
    "id_hash": "UBIGINT",
    "seq": "BIGINT",
    "time": "TIMESTAMPTZ",
    "deployment": "VARCHAR",
    "truth": "DOUBLE",
    "truth_text": "VARCHAR",
}
_TYPES = {"double": "DOUBLE", "float": "FLOAT", "int64": "BIGINT", "bool": "BOOLEAN", "string": "VARCHAR"}


@dataclass(frozen=True, slots=True)
class Relation:
    """Something with rows: parts of the same columns, or a table of records from the log files.

    Attributes:
        source: what follows FROM.
        columns: Arrow type by stored name, of features and `metadata`.
    """

    source: str
    columns: Mapping[str, str]


def quote_name(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return `text` as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def feature_types(relations: Sequence[Relation], names: Mapping[str, str]) -> dict[str, str]:
    """Return the SQL type of each feature over all relations; mixed numbers become DOUBLE, text wins over all.

    Args:
        relations: all that are read.
        names: feature by stored name, see `columns.feature_name`.
    """
    found: dict[str, set[str]] = {}
    for relation in relations:
        for stored, kind in relation.columns.items():
            if stored in names:
                found.setdefault(names[stored], set()).add(_TYPES[kind])
    return {name: _common_type(types) for name, types in found.items()}


def _common_type(types: set[str]) -> str:
    if len(types) == 1:
        return next(iter(types))
    return "VARCHAR" if "VARCHAR" in types else "DOUBLE"


def _select(
    relation: Relation, base: Mapping[str, str], features: Mapping[str, tuple[str, str]], names: Mapping[str, str]
) -> str:
    stored_as = {names[stored]: stored for stored in relation.columns if stored in names}
    absent = {"metadata"} - set(relation.columns)
    chosen = [f"{'NULL' if name in absent else name}::{kind} AS {name}" for name, kind in base.items()]
    for feature, (alias, kind) in features.items():
        stored = stored_as.get(feature)
        chosen.append(f"{quote_name(stored) if stored else 'NULL'}::{kind} AS {alias}")
    return f"SELECT {', '.join(chosen)} FROM {relation.source}"


def _union(selects: Sequence[str], base: Mapping[str, str], extra: Sequence[tuple[str, str]] = ()) -> str:
    if selects:
        return "\nUNION ALL ".join(selects)
    nothing = [f"NULL::{kind} AS {name}" for name, kind in (*base.items(), *extra)]
    return f"SELECT {', '.join(nothing)} WHERE false"


def keys_sql(roles: Sequence[int]) -> str:
    """Return a SELECT of the rows in `repeated_keys`, which has all rows whose id may be repeated."""
    return f"SELECT * FROM repeated_keys WHERE {_in_roles(roles)}"


def keys_by_hash_sql(relations: Sequence[Relation], roles: Sequence[int]) -> str:
    """Return a SELECT of the same rows by their hashes, which are in `repeated_ids`.

    Args:
        relations: those of all times: a repeat may lie outside of the asked time.
        roles: roles that are asked for.
    """
    key = {n: BASE[n] for n in ("seq", "time", "deployment", "role", "prediction_id", "input_hash", "code")}
    repeated = f"{_in_roles(roles)} AND id_hash IN (SELECT id_hash FROM repeated_ids)"
    return _union([f"{_select(r, key, {}, {})} WHERE {repeated}" for r in relations], key)


def attempts_sql(keys: str, where: str) -> str:
    """Return a SELECT with `seq`, `attempts`, `conflict` and `place` of each row that shares its key with another.

    A row key is (deployment, role, prediction id). Equal inputs are attempts of one prediction, shown by the
    first attempt that was answered well, otherwise by the first: that one has place 1. Other inputs under the
    same key are a conflict.

    Args:
        keys: a SELECT of the rows that may.
        where: condition on `time`: of the rows outside of it nobody asks.
    """
    same = "PARTITION BY deployment, role, prediction_id"
    return f"""SELECT seq, attempts, conflict, place FROM (
  SELECT seq, time, count(*) OVER ({same}, input_hash) AS attempts,
    min(input_hash) OVER ({same}) <> max(input_hash) OVER ({same}) AS conflict,
    row_number() OVER ({same}, input_hash ORDER BY code <> 0, seq) AS place
  FROM ({keys})) WHERE (attempts > 1 OR conflict) AND {where}"""


def base_sql(
    relations: Sequence[Relation],
    features: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
    where: str,
    roles: Sequence[int],
    *,
    repeats: bool,
) -> str:
    """Return the common table expression `base`: one row per prediction.

    Args:
        relations: those with rows in the asked time.
        features: alias and SQL type per feature.
        names: feature by stored name.
        where: condition on the rows.
        roles: roles that are asked for.
        repeats: the table `attempts_of` has what `attempts_sql` selects; otherwise no id is repeated.
    """
    selects = [f"{_select(r, BASE, features, names)} WHERE {_in_roles(roles)} AND {where}" for r in relations]
    rows = _union(selects, BASE, list(features.values()))
    # Not materialised: each use reads only the columns that it needs.
    if not repeats:
        return f"base AS NOT MATERIALIZED (SELECT *, 1::BIGINT AS attempts, false AS conflict FROM ({rows}))"
    return f"""base AS NOT MATERIALIZED (
  SELECT r.*, coalesce(k.attempts, 1) AS attempts, coalesce(k.conflict, false) AS conflict
  FROM ({rows}) r LEFT JOIN attempts_of k ON r.seq = k.seq WHERE coalesce(k.place, 1) = 1)"""


def _in_roles(roles: Sequence[int]) -> str:
    return f"role IN ({', '.join(str(int(role)) for role in roles)})"


def truth_hashes_sql(truths: Sequence[Relation]) -> str:
    """Return a SELECT of the id hashes of every truth."""
    return _union([_select(r, {"id_hash": "UBIGINT"}, {}, {}) for r in truths], {"id_hash": "UBIGINT"})


def labels_sql(truths: Sequence[Relation], rows: str) -> str:
    """Return `labels`: the latest truth of each row of `rows` that may have one, by `seq`.

    Args:
        truths: every truth there is; they may come before the prediction or long after.
        rows: name of the expression to label.
    """
    facts = _union([_select(r, _TRUTH, {}, {}) for r in truths], _TRUTH)
    return f"""labels AS NOT MATERIALIZED (
  SELECT p.seq, t.truth, t.truth_text, t.time AS truth_time
  FROM {rows} p JOIN ({facts}) t ON t.id_hash = p.id_hash AND t.prediction_id = p.prediction_id
    AND (t.deployment = '' OR t.deployment = p.deployment)
  WHERE NOT p.conflict AND p.prediction_id <> ''
  QUALIFY row_number() OVER (PARTITION BY p.seq ORDER BY t.time DESC, t.seq DESC) = 1)"""
