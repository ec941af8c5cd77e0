"""Reads the `data_sources` and the `join_config` of a specification.

Owns which source types exist and what each needs. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pilotfish_control_plane.trainer.fields import Fields, suggestion
from pilotfish_control_plane.trainer.spec import (
    ApiSource,
    DatabaseSource,
    FileSource,
    JoinConfig,
    JoinStep,
    Pagination,
    PredictionLogSource,
    Source,
)

__all__ = ["FILE_FORMATS", "SOURCE_TYPES", "read_join", "read_sources"]

SOURCE_TYPES = ("api", "database", "file", "prediction_log")
FILE_FORMATS = ("csv", "json", "jsonl", "parquet")
_STYLES = ("cursor", "none", "offset", "page")


def read_sources(root: Fields) -> tuple[Source, ...]:
    """Return the sources; problems are reported on `root`."""
    sources: list[Source] = []
    children = root.children("data_sources", required=True)
    if not children and root.has("data_sources"):
        root.report("data_sources", "must name at least one source", "REQUIRED")
    seen: set[str] = set()
    for index, outer in enumerate(children):
        child = outer.merged("options")
        name = child.text("name", f"source_{index}" if len(children) == 1 else ...)
        if name in seen:
            child.report("name", f"{name!r} is used by an earlier source; names must differ", "DUPLICATE")
        seen.add(name)
        kind = child.choice("type", SOURCE_TYPES)
        if kind:
            sources.append(_READERS[kind](child, name))
            child.close()
    return tuple(sources)


def _database(child: Fields, name: str) -> Source:
    return DatabaseSource(
        name=name,
        connection=child.text("connection"),
        query=child.text("query"),
        parameters=_scalars(child, "parameters"),
        max_rows=child.integer("max_rows", 5_000_000, low=1),
    )


def _file(child: Fields, name: str) -> Source:
    paths = child.names("paths") if child.has("paths") else None
    if paths is None:
        paths = (child.text("path"),)
    elif child.has("path"):
        child.report("path", "give either path or paths, not both")
    return FileSource(
        name=name,
        paths=paths,
        format=child.choice("format", FILE_FORMATS, "") or None,
        delimiter=child.text("delimiter", ","),
        encoding=child.text("encoding", "utf-8"),
        max_rows=child.integer("max_rows", 5_000_000, low=1),
    )


def _api(child: Fields, name: str) -> Source:
    return ApiSource(
        name=name,
        endpoint=child.text("endpoint"),
        parameters={key: _query_text(value) for key, value in _scalars(child, "parameters").items()},
        headers={key: str(value) for key, value in _scalars(child, "headers").items()},
        records_path=child.text("records_path", ""),
        pagination=_pagination(child),
        timeout_s=child.number("timeout_s", 30.0, low=0.1, high=600),
        max_rows=child.integer("max_rows", 1_000_000, low=1),
    )


def _pagination(child: Fields) -> Pagination:
    if not child.has("pagination"):
        return Pagination()
    part = child.child("pagination")
    style = part.choice("type", _STYLES)
    usual = {"page": "page", "offset": "offset", "cursor": "cursor"}.get(style, "")
    pagination = Pagination(
        style=style or "none",
        parameter=part.text("parameter", usual),
        size_parameter=part.text("size_parameter", ""),
        size=part.integer("size", 1000, low=1, high=1_000_000),
        first=part.integer("first", 1, low=0),
        cursor_path=part.text("cursor_path", ... if style == "cursor" else ""),
        max_pages=part.integer("max_pages", 1000, low=1, high=1_000_000),
    )
    part.close()
    return pagination


def _prediction_log(child: Fields, name: str) -> Source:
    child.raw("serving_endpoint")  # both are what the export at `path` was made from
    child.raw("since_days")
    return PredictionLogSource(name, child.text("path"), child.integer("max_rows", 5_000_000, low=1))


_READERS = {"api": _api, "database": _database, "file": _file, "prediction_log": _prediction_log}


def _scalars(child: Fields, name: str) -> dict[str, Any]:
    values = child.mapping(name)
    for key, value in values.items():
        if not isinstance(value, (str, int, float, bool)):
            child.report(f"{name}.{key}", f"must be a text, a number, true or false, got {type(value).__name__}")
    return {key: value for key, value in values.items() if isinstance(value, (str, int, float, bool))}


def _query_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_join(parent: Fields, names: Collection[str]) -> JoinConfig | None:
    """Return how the sources become one table; None when nothing is said.

    Args:
        parent: the object that holds `join_config`.
        names: the sources that exist.
    """
    if not parent.has("join_config") or not parent.mapping("join_config"):
        if len(names) > 1:
            parent.report("join_config", f"is missing; it must say how {', '.join(names)} become one table", "REQUIRED")
        return None
    part = parent.child("join_config")
    steps = tuple(_join_step(child, names) for child in part.children("joins"))
    base = part.text("base", "")
    joined = {base, *(step.source for step in steps)} - {""}
    if isinstance(part.raw("union"), bool):
        union = tuple(name for name in names if name not in joined) if part.raw("union") else ()
    else:
        union = part.names("union") or ()
    if not base and union and not steps:
        base, union = union[0], union[1:]
    elif not base:
        part.report("base", "is missing; it must name the source that the others are joined to", "REQUIRED")
    for field, name in [("base", base), *((f"union[{i}]", name) for i, name in enumerate(union))]:
        if name and name not in names:
            part.report(field, _unknown_source(name, names), "UNKNOWN_SOURCE")
    part.close()
    unused = [name for name in names if name not in joined | {base, *union}]
    if base in names and unused:
        part.report("", f"leaves out {', '.join(unused)}; join it, stack it by union, or remove the source")
    return JoinConfig(base, steps, union)


def _join_step(child: Fields, names: Collection[str]) -> JoinStep:
    source = child.text("source")
    if source and source not in names:
        child.report("source", _unknown_source(source, names), "UNKNOWN_SOURCE")
    keys = child.raw("on")
    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    if isinstance(keys, str) and keys:
        left = right = (keys,)
    elif isinstance(keys, list) and keys and all(isinstance(key, str) for key in keys):
        left = right = tuple(keys)
    elif isinstance(keys, dict) and keys and all(isinstance(key, str) for key in keys.values()):
        left, right = tuple(keys), tuple(keys.values())
    else:
        child.report("on", "must be a column, a list of columns, or an object {left column: right column}", "REQUIRED")
    step = JoinStep(
        source, left, right, child.choice("how", ("inner", "left"), "inner"), child.boolean("allow_fan_out", False)
    )
    child.close()
    return step


def _unknown_source(name: str, names: Collection[str]) -> str:
    return f"there is no source {name!r}{suggestion(name, names)} (sources: {', '.join(names)})"
