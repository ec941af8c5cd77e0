"""Spans and times as they are typed: 90s, 15m, 6h, 7d, 2026-12-31, 2026-12-31T18:00. Owns the reading."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pilotfish.errors import InvalidArgument, Violation

__all__ = ["parse_span", "parse_when"]

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_span(text: str) -> float:
    """Return a span in seconds; a number alone is seconds.

    Raises:
        InvalidArgument: it has another form.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in UNITS:
        raise InvalidArgument(f"{text!r} is no span", violations=[Violation("span", "write 90s, 15m, 6h, 7d or 2w")])
    return float(found[1]) * UNITS[found[2]]


def parse_when(text: str, now: datetime) -> datetime:
    """Return a time: a date or time of ISO 8601 (UTC unless it says otherwise), or a span from now.

    Raises:
        InvalidArgument: it is neither.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    try:
        return now + timedelta(seconds=parse_span(text.removeprefix("+")))
    except (InvalidArgument, OverflowError):
        raise InvalidArgument(
            f"{text!r} is no time", violations=[Violation("time", "write 2027-03-31, 2027-03-31T18:00, or a span: 90d")]
        ) from None
