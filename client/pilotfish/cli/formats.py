"""How values read in a terminal: ages, sizes, shares, numbers, states and bars. Owns the wording, prints nothing."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "age",
    "bar",
    "bytes_text",
    "comparison",
    "criterion",
    "duration",
    "escape",
    "number",
    "parse_time",
    "percent",
    "ref",
    "short_name",
    "state_glyph",
    "state_style",
    "time_text",
]

COMPARISONS = {
    "less_than": "<",
    "less_than_or_equal": "<=",
    "greater_than": ">",
    "greater_than_or_equal": ">=",
}

GOOD = {"ready", "production", "succeeded", "pass", "done", "resolved", "completed", "connected", "finished", "enabled"}
MOVING = {
    "pending",
    "starting",
    "warming",
    "training",
    "evaluating",
    "progressing",
    "running",
    "queued",
    "acting",
    "confirmed",
    "leased",
    "draining",
    "aborting",
    "deprecation_warning",
    "traffic_reduction",
    "final_migration",
    "retirement",
}
DOUBTFUL = {"degraded", "unhealthy", "paused", "inconclusive", "suspected", "partial", "halted", "unknown", "warning"}
BAD = {"failed", "fail", "aborted", "lost", "rejected", "timed_out", "firing", "critical", "revoked"}


def state_style(state: str) -> str:
    """Return the colour of a state: green is well, cyan moves, yellow is doubtful, red is bad, dim is over."""
    for words, style in ((GOOD, "green"), (MOVING, "cyan"), (DOUBTFUL, "yellow"), (BAD, "red")):
        if state in words:
            return style
    return "blue" if state in ("staging", "canary", "scheduled") else "dim"


def state_glyph(state: str) -> str:
    """Return the sign of a state, which says the same as its colour."""
    if state in ("pass", "fail", "inconclusive"):
        return {"pass": "✓", "fail": "✗"}.get(state, "?")
    for words, glyph in ((GOOD, "●"), (MOVING, "◐"), (DOUBTFUL, "▲"), (BAD, "✗")):
        if state in words:
            return glyph
    return "○"


def parse_time(text: str) -> datetime | None:
    """Return a time of the contract's JSON form; None: there is none."""
    if not text:
        return None
    found = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        at = datetime.fromisoformat(found)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def escape(text: str) -> str:
    """Return text that rich shows as it is, brackets included."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def duration(seconds: float) -> str:
    """Return seconds as people say them: 0.4 s, 12 s, 3 min, 5 h, 2 d."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for size, unit, limit in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if seconds < size * limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def age(text: str, now: datetime) -> str:
    """Return how long ago a time was; empty for none, "in 3 d" for one to come."""
    at = parse_time(text)
    if at is None:
        return ""
    gone = (now - at).total_seconds()
    return f"in {duration(-gone)}" if gone < -1.0 else duration(max(gone, 0.0))


def time_text(text: str, now: datetime) -> str:
    """Return a time to the second, in UTC, and how far off it is."""
    at = parse_time(text)
    if at is None:
        return ""
    how_far = age(text, now)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC  ({how_far if how_far.startswith('in ') else how_far + ' ago'})"


def bytes_text(size: float) -> str:
    """Return bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def percent(basis_points: float) -> str:
    """Return basis points as a percentage without needless zeros."""
    return f"{basis_points / 100:.2f}".rstrip("0").rstrip(".") + " %"


# Any: a cell of a table.
def number(value: Any, digits: int = 4) -> str:
    """Return a number with as many significant digits as tell something; a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def bar(share: float, width: int = 20) -> str:
    """Return a bar for a share of 0 to 1, in eighths of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + " ▏▎▍▌▋▊▉"[part].strip()).ljust(width)


def comparison(word: str) -> str:
    """Return the sign of a comparison."""
    return COMPARISONS.get(word, word)


def criterion(value: dict[str, Any]) -> str:
    """Return a criterion as it is written on the command line."""
    text = f"{value.get('metric', '')} {comparison(value.get('comparison', ''))} {number(value.get('bound', 0))}"
    return text + (" + baseline" if value.get("against_baseline") else "")


def short_name(name: str) -> str:
    """Return the last part of a resource name."""
    return name.rpartition("/")[2]


def ref(name: str) -> str:
    """Return a resource name as people type it: fraud@3, fraud/staging stays, the id of anything else."""
    parts = name.split("/")
    if len(parts) >= 6 and parts[2] == "models" and parts[4] == "versions":
        return f"{parts[3]}@{parts[5]}"
    return parts[-1]
