"""The agent's books: what it must remember so that a kill loses nothing and counts nothing twice.

Owns the small facts that records carry in their meta: watermarks of the taps, undecodable calls, closed books of
taps that ended, calls logged through the log API, and the request ids seen in the last minutes. It opens no file.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["REQUEST_MEMORY_S", "Accounts", "Request", "Totals"]

REQUEST_MEMORY_S: Final = 600.0
_MAX_REQUESTS: Final = 20_000


@dataclass(slots=True)
class Totals:
    """Calls of taps: those whose books are closed, or those whose records are stored."""

    served: int = 0
    captured: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Request:
    """A call of the log API that was stored.

    Attributes:
        key: hash of its request id.
        body: hash of what it carried.
        stored: rows it stored.
        at_s: when, seconds since 1970.
    """

    key: str
    body: str
    stored: int
    at_s: float

    @staticmethod
    def digest(data: bytes) -> str:
        """Return a hash short enough to keep thousands of."""
        return hashlib.blake2b(data, digest_size=12).hexdigest()


class Accounts:
    """What is remembered; changed only by `apply`, live and at recovery alike."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.tap_marks: dict[str, int] = {}
        self.tap_stored: dict[str, Totals] = {}
        self.undecodable: dict[str, Counter[str]] = {}
        self.closed: dict[str, Totals] = {}
        self.closed_taps: OrderedDict[str, None] = OrderedDict()
        self.logged: Counter[str] = Counter()
        self.requests: OrderedDict[str, Request] = OrderedDict()

    def apply(self, meta: Mapping[str, Any]) -> None:  # Any: JSON values
        """Take what a record's meta says."""
        if "tap" in meta:
            incarnation, next_seq, captured, dropped = meta["tap"]
            self.tap_marks[incarnation] = next_seq
            stored = self.tap_stored.setdefault(incarnation, Totals())
            stored.captured += captured
            stored.dropped.update(dropped)
        for replica, reasons in meta.get("undecodable", {}).items():
            self.undecodable.setdefault(replica, Counter()).update(reasons)
        if "books" in meta:
            books = meta["books"]
            self._close(books["tap"], books["replica"], books["served"], books["captured"], books["dropped"])
        if "logged" in meta:
            replica, rows = meta["logged"]
            self.logged[replica] += rows
        if "request" in meta:
            self._remember(Request(*meta["request"]))

    def _close(self, tap: str, replica: str, served: int, captured: int, dropped: Mapping[str, int]) -> None:
        if tap in self.closed_taps:
            return
        totals = self.closed.setdefault(replica, Totals())
        totals.served += served
        totals.captured += captured
        totals.dropped.update(dropped)
        self.closed_taps[tap] = None
        self.tap_marks.pop(tap, None)
        self.tap_stored.pop(tap, None)
        while len(self.closed_taps) > 256:
            self.closed_taps.popitem(last=False)

    def _remember(self, request: Request) -> None:
        self.requests[request.key] = request
        oldest = request.at_s - REQUEST_MEMORY_S
        while self.requests:
            first = next(iter(self.requests.values()))
            if first.at_s >= oldest and len(self.requests) <= _MAX_REQUESTS:
                return
            self.requests.popitem(last=False)

    def recall(self, request_id: str, now_s: float) -> Request | None:
        """Return the request of that id, if it was stored within the last 10 minutes."""
        request = self.requests.get(Request.digest(request_id.encode()))
        return request if request is not None and request.at_s >= now_s - REQUEST_MEMORY_S else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "tap_marks": self.tap_marks,
            "undecodable": self.undecodable,
            "tap_stored": {tap: (t.captured, t.dropped) for tap, t in self.tap_stored.items()},
            "closed": {name: (t.served, t.captured, t.dropped) for name, t in self.closed.items()},
            "closed_taps": list(self.closed_taps),
            "logged": self.logged,
            "requests": [(r.key, r.body, r.stored, r.at_s) for r in self.requests.values()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Accounts:
        """Return the books of `to_json`."""
        accounts = cls()
        accounts.tap_marks.update(data.get("tap_marks", {}))
        for tap, (captured, dropped) in data.get("tap_stored", {}).items():
            accounts.tap_stored[tap] = Totals(0, captured, Counter(dropped))
        accounts.undecodable = {name: Counter(reasons) for name, reasons in data.get("undecodable", {}).items()}
        for name, (served, captured, dropped) in data.get("closed", {}).items():
            accounts.closed[name] = Totals(served, captured, Counter(dropped))
        accounts.closed_taps.update(dict.fromkeys(data.get("closed_taps", ())))
        accounts.logged.update(data.get("logged", {}))
        for row in data.get("requests", ()):
            accounts._remember(Request(*row))
        return accounts
