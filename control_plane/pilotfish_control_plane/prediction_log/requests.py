"""What a query of the prediction log asks for.

Owns the request and its checks; it knows no SQL engine and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotfish.errors import InvalidArgument, Violation

from .manifest import Part

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """Which rows are asked for.

    Attributes:
        deployments: ids; None for all.
        start_us: first time, microseconds since 1970 UTC; None for no limit.
        end_us: first time that is too late; None for no limit.
        roles: see `Role`.
        prediction_ids: only these; None for all.
    """

    deployments: Sequence[str] | None = None
    start_us: int | None = None
    end_us: int | None = None
    roles: Sequence[int] = (0,)
    prediction_ids: Sequence[str] | None = None

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

    def check(self) -> None:
        """Raise InvalidArgument with everything that is wrong."""
        problems: list[Violation] = []
        if self.start_us is not None and self.end_us is not None and self.start_us > self.end_us:
            problems.append(Violation("start", f"{self.start_us} is after the end {self.end_us}"))
        if not self.roles or any(int(role) not in (0, 1, 2) for role in self.roles):
            problems.append(Violation("roles", f"{list(self.roles)}: give some of 0 live, 1 shadow, 2 replay"))
        if problems:
            raise InvalidArgument("the query of the prediction log cannot be run", violations=problems)
