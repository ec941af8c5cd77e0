"""What a validator reports while it works, line by line, so that a crash leaves what was found before it.

Owns the wire between the validating process and its parent: JSON lines of one key each: `stage`, `check`, `problem`,
`result`. It decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO  # Any: JSON of any depth

from pilotfish_control_plane.artifacts.model import Problem

__all__ = ["Findings", "Received", "Validator"]

MAX_PROBLEMS = 200
_MAX_TEXT = 600


class Findings:
    """Collects and sends; `problems` is what decides."""

    def __init__(self, out: BinaryIO) -> None:
        """Send to `out`, flushed after every line."""
        self._out = out
        self.problems: list[Problem] = []

    def _send(self, key: str, value: Any) -> None:
        self._out.write(json.dumps({key: value}, allow_nan=False).encode() + b"\n")
        self._out.flush()

    def stage(self, name: str) -> None:
        """Tell what comes next: if the process dies, it died of this."""
        self._send("stage", name)

    def check(self, text: str) -> None:
        """Report something checked and found right, or `warning: …`."""
        self._send("check", text[:_MAX_TEXT])

    def problem(self, path: str, description: str, reason: str) -> None:
        """Report a reason to refuse."""
        text = description if len(description) <= _MAX_TEXT else description[: _MAX_TEXT - 1] + "…"
        found = Problem(path, text.replace("\x00", "\\0"), reason)
        self.problems.append(found)
        if len(self.problems) <= MAX_PROBLEMS:
            self._send("problem", {"path": found.path, "description": found.description, "reason": found.reason})

    def result(self, **values: Any) -> None:
        """Report what was learned; the last line of a whole run."""
        self._send("result", values)


Validator = Callable[[Path, Mapping[str, Any], Findings], Mapping[str, Any]]
"""Checks one directory: (directory, signature from the request, findings) -> signature, example_ok, dependencies,
profile_json. Registered by framework; other distributions add theirs as entry points in `pilotfish.validators`."""


class Received:
    """The parent's side: what came before the end, however it ended. Trusts nothing about the lines."""

    def __init__(self, raw: bytes) -> None:
        """Read the lines; whatever is not one is left out."""
        self.stage = "start"
        self.checks: list[str] = []
        self.problems: list[Problem] = []
        self.result: Mapping[str, Any] | None = None
        for line in raw.split(b"\n"):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                self._take(entry)

    def _take(self, entry: Mapping[str, Any]) -> None:
        stage, check, problem, result = (entry.get(k) for k in ("stage", "check", "problem", "result"))
        if isinstance(stage, str):
            self.stage = stage[:64]
        if isinstance(check, str) and len(self.checks) < 200:
            self.checks.append(check[:_MAX_TEXT])
        if isinstance(problem, dict) and len(self.problems) < MAX_PROBLEMS:
            fields = [str(problem.get(k, "")) for k in ("path", "description", "reason")]
            self.problems.append(Problem(fields[0][:255], fields[1][:_MAX_TEXT], fields[2][:64]))
        if isinstance(result, dict):
            self.result = result
