"""Reads a JSON object field by field and remembers every problem with its path.

Owns the wording of "missing", "wrong type", "unknown field" and "not one of". Knows no field of any document.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pilotfish.errors import Violation

__all__ = ["Fields", "suggestion"]

_KINDS: dict[str, tuple[type, ...]] = {
    "a text": (str,),
    "a whole number": (int,),
    "a number": (int, float),
    "true or false": (bool,),
    "an object": (dict,),
    "a list": (list,),
}


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, [str(item) for item in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Fields:
    """One JSON object that is being read; objects within share its list of problems.

    Args:
        value: what stands at `path`; anything but an object is a problem.
        path: where it stands, such as `training_config.split_config`; empty for the document itself.
        problems: the list that problems are added to.
    """

    def __init__(self, value: Any, path: str, problems: list[Violation]) -> None:
        """Begin to read; a value of another type reads like an empty object."""
        self.path = path
        self.problems = problems
        self._asked: set[str] = set()
        self._value: Mapping[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.report("", f"must be an object, got {_shown(value)}", "WRONG_TYPE")

    def where(self, name: str) -> str:
        """Return the full path of field `name`."""
        return ".".join(part for part in (self.path, name) if part)

    def report(self, name: str, description: str, reason: str = "INVALID") -> None:
        """Remember that field `name` is wrong."""
        self.problems.append(Violation(self.where(name), description, reason))

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        self._asked.add(name)
        return self._value.get(name) is not None

    def raw(self, name: str) -> Any:
        """Return the field as it stands, None when missing."""
        self._asked.add(name)
        return self._value.get(name)

    def keys(self) -> list[str]:
        """Return the names of all fields."""
        return [str(key) for key in self._value]

    def _get(self, name: str, kind: str, default: Any) -> Any:
        self._asked.add(name)
        value = self._value.get(name)
        if value is None or (value == "" and kind == "a text"):
            if default is Ellipsis:
                self.report(name, f"is missing; it must be {kind}", "REQUIRED")
                return None
            return default
        if kind == "a whole number" and isinstance(value, float) and value.is_integer():
            value = int(value)  # many a JSON writer knows only floats
        wrong = not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "true or false")
        if wrong:
            self.report(name, f"must be {kind}, got {_shown(value)}", "WRONG_TYPE")
            return None if default is Ellipsis else default
        if isinstance(value, float) and not math.isfinite(value):
            self.report(name, f"must be a finite number, got {value}", "NOT_FINITE")
            return None if default is Ellipsis else default
        return value

    def text(self, name: str, default: Any = ...) -> str:
        """Return a text; an empty one is a missing one."""
        value = self._get(name, "a text", default)
        return value if isinstance(value, str) else ""

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None when it is missing or empty."""
        return self._get(name, "a text", None) or None

    def choice(self, name: str, allowed: Collection[str], default: Any = ...) -> str:
        """Return one of `allowed`; anything else is reported with the whole list."""
        value = self.text(name, default)
        if value and value not in allowed:
            listed = ", ".join(sorted(allowed))
            self.report(name, f"{value!r} is not known; allowed: {listed}{suggestion(value, allowed)}", "UNKNOWN_VALUE")
            return default if isinstance(default, str) else ""
        return value

    def number(self, name: str, default: Any = ..., *, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number within [low, high]."""
        value = self._get(name, "a number", default)
        return float(self._bounded(name, value, default, low, high))

    def integer(self, name: str, default: Any = ..., *, low: float = -math.inf, high: float = math.inf) -> int:
        """Return a whole number within [low, high]."""
        value = self._get(name, "a whole number", default)
        return int(self._bounded(name, value, default, low, high))

    def optional_number(self, name: str) -> float | None:
        """Return a finite number, or None when it is missing."""
        value = self._get(name, "a number", None)
        return None if value is None else float(value)

    def _bounded(self, name: str, value: Any, default: Any, low: float, high: float) -> float:
        fallback: float = 0.0 if default is Ellipsis or default is None else default
        if value is None:
            return fallback
        if not low <= value <= high:
            self.report(name, f"must lie within {low:g} and {high:g}, got {value:g}", "OUT_OF_RANGE")
            return fallback
        return float(value) if isinstance(value, float) else value

    def boolean(self, name: str, default: bool) -> bool:
        """Return true or false."""
        return bool(self._get(name, "true or false", default))

    def mapping(self, name: str, default: Any = None) -> dict[str, Any]:
        """Return an object as a dict; empty when missing."""
        value = self._get(name, "an object", default)
        return dict(value) if isinstance(value, dict) else {}

    def items(self, name: str, default: Any = None) -> list[Any]:
        """Return a list; empty when missing."""
        value = self._get(name, "a list", default)
        return list(value) if isinstance(value, list) else []

    def child(self, name: str, *, required: bool = False) -> Fields:
        """Return the object at field `name` to read; a missing one reads like an empty object."""
        self._asked.add(name)
        value = self._value.get(name)
        if value is None:
            if required:
                self.report(name, "is missing; it must be an object", "REQUIRED")
            value = {}
        return Fields(value, self.where(name), self.problems)

    def merged(self, name: str) -> Fields:
        """Return this object with the fields of the object at `name` beside its own; its own come first."""
        inner = self.child(name)
        own = {key: value for key, value in self._value.items() if key != name}
        merged = Fields({**inner._value, **own}, self.path, self.problems)
        return merged

    def children(self, name: str, *, required: bool = False) -> list[Fields]:
        """Return the objects in the list at field `name` to read."""
        values = self.items(name, ... if required else None)
        return [Fields(value, self.where(f"{name}[{index}]"), self.problems) for index, value in enumerate(values)]

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return a list of distinct, non-empty texts; None when the field is missing."""
        if not self.has(name):
            return None
        values = self.items(name)
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value:
                self.report(f"{name}[{index}]", f"must be a name, got {_shown(value)}", "WRONG_TYPE")
            elif value in values[:index]:
                self.report(f"{name}[{index}]", f"{value!r} is listed twice", "DUPLICATE")
        return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))

    def close(self) -> None:
        """Report every field that nobody asked for, unless it is empty: some writers write out what is not set."""
        for key in self.keys():
            if key not in self._asked and self._value[key] not in (None, "", [], {}):
                known = ", ".join(sorted(self._asked))
                self.report(
                    key, f"is not a known field{suggestion(key, self._asked)} (known: {known})", "UNKNOWN_FIELD"
                )


def _shown(value: Any) -> str:
    """Return a short text for a value in a message."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
