"""What a tap reads of a call's headers, and what it adds to the answer's.

Owns the header names of prediction ids, roles and identities. It never reads bodies.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pilotfish_sidecar.tap.records import Headers, Role, TapIdentity

__all__ = ["KEPT_HEADERS", "CallHeaders", "answer_headers", "new_prediction_id", "read_headers"]

REQUEST_ID: Final = "x-request-id"
ROLE: Final = "pilotfish-role"
KEPT_HEADERS: Final = frozenset({REQUEST_ID, "traceparent", "inference-header-content-length"})
"""Request headers that go to the agent with the call."""

_ROLES: Final = {"shadow": Role.SHADOW, "replay": Role.REPLAY}
_MAX_KEPT: Final = 8
_MAX_VALUE: Final = 512


@dataclass(frozen=True, slots=True)
class CallHeaders:
    """What a call's headers say.

    Attributes:
        request_id: `x-request-id`, or empty.
        role: by `pilotfish-role: shadow | replay`, else live.
        kept: headers that go to the agent.
    """

    request_id: str
    role: Role
    kept: Headers


_NOTHING: Final = CallHeaders("", Role.LIVE, ())


def read_headers(pairs: Iterable[tuple[str, str | bytes]]) -> CallHeaders:
    """Return what matters of a call's headers.

    Args:
        pairs: names in lower case, as HTTP/2 and ASGI have them.
    """
    request_id, role = "", Role.LIVE
    kept: list[tuple[str, str]] = []
    for name, value in pairs:
        if name in KEPT_HEADERS:
            if len(kept) < _MAX_KEPT:
                kept.append((name, _text(value)[:_MAX_VALUE]))
                if name == REQUEST_ID:
                    request_id = kept[-1][1]
        elif name == ROLE:
            role = _ROLES.get(_text(value), Role.LIVE)
    return CallHeaders(request_id, role, tuple(kept)) if kept or role else _NOTHING


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def new_prediction_id() -> str:
    """Return an id for a call that has none: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def answer_headers(prediction_id: str, identity: TapIdentity) -> tuple[tuple[str, str], ...]:
    """Return the headers for the answer, printable ASCII; what is empty is left out."""
    named = (
        ("pilotfish-prediction-id", prediction_id),
        ("pilotfish-deployment", identity.deployment),
        ("pilotfish-version", identity.version),
    )
    return tuple((name, _printable(value)) for name, value in named if value)


def _printable(value: str) -> str:
    if value.isascii() and value.isprintable():
        return value
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in value)
