"""One thing in full: its fields, sections and tables. Owns the layout of `describe`; it calls nothing."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pilotfish.cli.columns import COLUMNS
from pilotfish.cli.formats import (
    age,
    bytes_text,
    comparison,
    criterion,
    duration,
    escape,
    number,
    percent,
    ref,
    short_name,
    state_glyph,
    state_style,
    time_text,
)
from pilotfish.cli.kinds import name_of
from pilotfish.cli.output import Column, Output, Record
from pilotfish.cli.verdicts import show_decision

__all__ = ["field_text", "show_fields", "show_record"]

# Told elsewhere, or of no use to a reader.
HIDDEN = {"name", "id", "state", "status"}
UNTOLD = {"etag"}
# Numbers that mean nothing at 0.
OPTIONAL = ("_version", "_pid", "port")
STATES = ("state", "status", "link")
LISTED = {
    "deployments": "deployments",
    "versions": "versions",
    "replicas": "replicas",
    "alerts": "alerts",
    "metrics": "metrics",
}


def show_record(out: Output, kind: str, record: Record) -> None:
    """Write everything about one record."""
    state = next((record[s] for s in STATES if record.get(s)), "")
    title = f"[bold]{escape(name_of(record))}[/]  [dim]{kind}[/]"
    if state:
        title += f"   [{state_style(state)}]{state_glyph(state)} {state}[/]"
    out.line(title)
    if record.get("name"):
        out.line(f"[dim]{escape(str(record['name']))}[/]")
    out.line()
    show_fields(out, {k: v for k, v in record.items() if k not in HIDDEN})


def show_fields(out: Output, fields: Record, *, indent: int = 2) -> None:
    """Write the simple fields as a grid, then each section under its heading."""
    shown = {k: v for k, v in fields.items() if k not in UNTOLD and not (k.endswith(OPTIONAL) and v == 0)}
    simple = {k: field_text(k, v, out.now) for k, v in shown.items() if not _is_section(v, indent)}
    out.pairs({_words(k): text for k, text in simple.items() if text}, indent=indent)
    for key, value in shown.items():
        if _is_section(value, indent) and value:
            _show_section(out, key, value, indent)


def _show_section(out: Output, key: str, value: Any, indent: int) -> None:
    if isinstance(value, dict) and not any(v for k, v in value.items() if k not in UNTOLD):
        return
    if indent == 2:
        out.heading(_words(key).capitalize())
    else:
        out.line(f"{' ' * indent}[dim]{_words(key)}[/]")
    inner = 2 if indent == 2 else indent + 2
    if isinstance(value, dict):
        if "verdicts" in value and "verdict" in value:
            show_decision(out, value, indent=inner)
        else:
            show_fields(out, value, indent=4 if indent == 2 else inner)
    elif key == "decisions":
        for decision in value[:5]:
            show_decision(out, decision, indent=inner)
    elif key == "changes":
        out.table(value, _change_columns(out.now), indent=inner)
    elif key in LISTED:
        out.table(value, COLUMNS[LISTED[key]](out.now), indent=inner)
    else:
        _show_list(out, value, inner)


def _change_columns(now: datetime) -> list[Column]:
    def moved(change: Record) -> str:
        before, after = (_compact(change.get(f"{side}_json", "")) for side in ("before", "after"))
        return f"{before} → {after}" if before and after else (after or before)

    return [
        Column("AGO", lambda r: age(r.get("time", ""), now), "dim", right=True),
        Column("WHO", lambda r: r.get("actor", "")),
        Column("WHAT", lambda r: r.get("action", ""), "bold"),
        Column("VALUE", moved, wide=True),
        Column("WHY", lambda r: r.get("reason", ""), "dim", wide=True),
    ]


def _compact(text: str) -> str:
    """Return a JSON object as NAME=VALUE pairs, without what is empty."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return text
    if not isinstance(value, dict):
        return str(value)
    kept = {k: v for k, v in value.items() if v not in ("", None, [], {})}
    return " ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in kept.items())


def _show_list(out: Output, rows: list[Record], indent: int) -> None:
    """Write rows as a table over their simple fields; whatever is nested is put into words."""
    if "metric" in rows[0] and "bound" in rows[0]:
        for row in rows:
            least = f"  [dim]n ≥ {row['min_sample']}[/]" if row.get("min_sample") else ""
            out.line(f"{' ' * indent}{escape(criterion(row))}{least}")
        return
    keys: list[str] = []
    for row in rows:
        keys += [k for k, v in row.items() if k not in keys and k != "etag" and v not in ("", [], {}, None, 0)]
    columns = [
        Column(
            _words(k).upper(),
            lambda r, k=k: field_text(k, r.get(k, ""), out.now, short=True),  # type: ignore[misc]  # k is bound here
            "bold" if i == 0 else "",
            wide=k in ("explanation", "message", "description", "state_reason", "before_json", "after_json", "reason"),
        )
        for i, k in enumerate(keys)
    ]
    out.table(rows, columns, indent=indent)


def _is_section(value: Any, indent: int) -> bool:
    """Tell whether a value gets a heading; below the top only what holds more than simple fields does."""
    if isinstance(value, dict):
        return any(isinstance(v, dict) or _is_table(v) for v in value.values()) or (
            indent == 2 and (len(value) > 3 or "verdict" in value)
        )
    return _is_table(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _words(key: str) -> str:
    for suffix in ("_bp", "_bytes", "_s", "_time", "_mib"):
        if key.endswith(suffix) and key != suffix:
            key = key.removesuffix(suffix)
    return {"create": "created", "update": "changed", "end": "ended", "start": "started"}.get(
        key, key.replace("_", " ")
    )


def field_text(key: str, value: Any, now: datetime, *, short: bool = False) -> str:
    """Return a field as people read it; empty for what is not set.

    Args:
        key: the field's name, whose ending tells the unit.
        value: its plain value.
        now: what ages are counted from.
        short: for a cell of a table.
    """
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(field_text(key, v, now, short=True) for v in value)
    if isinstance(value, dict):
        return criterion(value) if "metric" in value else _pairs(value, now)
    if isinstance(value, str):
        return _string(key, value, now, short=short)
    return _quantity(key, value)


def _pairs(value: dict[str, Any], now: datetime) -> str:
    told = {k: field_text(k, v, now, short=True) for k, v in value.items() if v not in (0, "", None)}
    return "  ".join(f"{_words(k)} {text}" for k, text in told.items() if text)


def _string(key: str, value: str, now: datetime, *, short: bool) -> str:
    if key.endswith("_time") or key == "time":
        return f"{time_text(value, now).split(' UTC')[0]}" if short else time_text(value, now)
    if key == "comparison":
        return comparison(value)
    if key in ("training_data_hash", "data_hash", "sha256") and len(value) > 16:
        return f"{value[:16]}…"
    if value.startswith("projects/"):
        return ref(value) if "/versions/" in value else (short_name(value) if short else value)
    return value


def _quantity(key: str, value: float) -> str:
    if key.endswith("_bp"):
        return percent(value)
    if key.endswith("_bytes"):
        return bytes_text(value)
    if key.endswith("_mib"):
        return f"{value:g} MiB"
    if key.endswith("_s"):
        return duration(value)
    if key.endswith(("_pid", "port")) or key == "sequence":
        return str(int(value))
    return number(value)
