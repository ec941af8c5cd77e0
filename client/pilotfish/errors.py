"""The errors that pilotfish raises, the same on the server, in the sidecar and in the client.

    PilotfishError
    ├── InvalidArgument      a field is wrong; `violations` names every one
    ├── NotFound             no such resource
    ├── AlreadyExists        the name is taken
    ├── FailedPrecondition   the state forbids it; `violations` gives every reason
    ├── Aborted              an etag or a lease was lost: read again and repeat
    ├── PermissionDenied     the caller's role is too low
    ├── Unauthenticated      no valid token
    ├── ResourceExhausted    a quota, disk or queue is full; `retry_after_s`
    ├── Unavailable          the service or its store is down; `retry_after_s`
    ├── DeadlineExceeded     the time given was too short
    ├── Cancelled            the caller or an operator cancelled it
    ├── Unimplemented        this server does not know the call
    └── Internal             a bug; `request_id` finds it in the log

It owns the exception tree and the status each maps to. It never imports grpc: the mapping to the wire
lives in `pilotfish.wire_errors` and is used on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "PilotfishError",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Violation",
]


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong: the field or the subject, what is wrong with it, and a machine-readable reason."""

    field: str
    description: str
    reason: str = ""


@dataclass(eq=False)
class PilotfishError(Exception):
    """The base of every error of pilotfish.

    Args:
        message: what, which one, what to do.
        reason: UPPER_SNAKE_CASE, stable, for programs.
        violations: every problem, where there are several.
        metadata: further facts for programs.
        retry_after_s: seconds to wait before a retry; None: a retry does not help by itself.
        request_id: the id under which the server logged the call.
    """

    message: str
    reason: str = ""
    violations: Sequence[Violation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    request_id: str = ""

    code: ClassVar[str] = "UNKNOWN"

    def __post_init__(self) -> None:
        """Hand the message to Exception so that tracebacks show it."""
        Exception.__init__(self, self.message)
        if not self.reason:
            self.reason = self.code

    def __str__(self) -> str:
        """Return the message, every violation on a line of its own, and the request id of a bug."""
        lines = [self.message]
        lines += [f"  - {v.field}: {v.description}" if v.field else f"  - {v.description}" for v in self.violations]
        if self.request_id and self.code == "INTERNAL":
            lines.append(f"  request id: {self.request_id}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields, so that errors cross process boundaries whole."""
        return (
            type(self),
            (
                self.message,
                self.reason,
                tuple(self.violations),
                dict(self.metadata),
                self.retry_after_s,
                self.request_id,
            ),
        )


class InvalidArgument(PilotfishError):
    """A field of the request is wrong; `violations` names every one."""

    code = "INVALID_ARGUMENT"


class NotFound(PilotfishError):
    """No such resource."""

    code = "NOT_FOUND"


class AlreadyExists(PilotfishError):
    """The name is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(PilotfishError):
    """The state forbids it; `violations` gives every reason."""

    code = "FAILED_PRECONDITION"


class Aborted(PilotfishError):
    """An etag or a lease was lost: read again and repeat."""

    code = "ABORTED"


class PermissionDenied(PilotfishError):
    """The caller's role is too low."""

    code = "PERMISSION_DENIED"


class Unauthenticated(PilotfishError):
    """No valid token."""

    code = "UNAUTHENTICATED"


class ResourceExhausted(PilotfishError):
    """A quota, disk or queue is full."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(PilotfishError):
    """The service or its store is down."""

    code = "UNAVAILABLE"


class DeadlineExceeded(PilotfishError):
    """The time given was too short."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(PilotfishError):
    """The caller or an operator cancelled it."""

    code = "CANCELLED"


class Unimplemented(PilotfishError):
    """This server does not know the call."""

    code = "UNIMPLEMENTED"


class Internal(PilotfishError):
    """A bug; `request_id` finds it in the server's log."""

    code = "INTERNAL"
