"""What a call knows about itself, and how a servicer reaches the database.

Owns `RequestContext` (kept in a context variable by the interceptors) and `Mutations`, which gives every
mutation its idempotency: the answer to a request_id is stored in the transaction of the change.
"""

from __future__ import annotations

import contextvars
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from google.protobuf import symbol_database
from google.protobuf.message import Message

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_control_plane.access.model import ANONYMOUS, Principal
from pilotfish_control_plane.storage import idempotency
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Mutations", "RequestContext", "current", "entered"]

T = TypeVar("T")
M = TypeVar("M", bound=Message)

MAX_REQUEST_ID_CHARS = 128


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One call: who, which, and until when.

    Args:
        principal: who calls.
        request_id: the id of the call, for the log and the answer's metadata; not the idempotency key.
        method: the full method, `/pilotfish.v1.RegistryService/CreateModel`.
        deadline: when the caller gives up, on the clock's `monotonic`; None: never.
    """

    principal: Principal
    request_id: str
    method: str
    deadline: float | None = None


_current: contextvars.ContextVar[RequestContext] = contextvars.ContextVar("pilotfish_request")
_NO_CALL = RequestContext(ANONYMOUS, "", "")


def current() -> RequestContext:
    """Return the running call's context; outside a call, that of an anonymous caller."""
    return _current.get(_NO_CALL)


def entered(context: RequestContext) -> contextvars.Token[RequestContext]:
    """Make `context` the running call's; for the interceptors only."""
    return _current.set(context)


class _DryRun(Exception):
    """Carries the answer out of a transaction that must be undone."""

    def __init__(self, answer: Message) -> None:
        super().__init__("validate_only")
        self.answer = answer


class Mutations:
    """The way of every servicer into the database; the caller is taken from `current()`."""

    def __init__(self, db: Database) -> None:
        """Use `db` for every call."""
        self._db = db

    async def mutate(self, request: Message, fn: Callable[[Tx], M]) -> M:
        """Run `fn` in one write transaction and return its answer, once per request_id.

        When the request has a field `request_id` and it is set: the same id with the same body gets the stored
        answer and `fn` does not run; failures are not stored. When it has a field `validate_only` and it is
        true: `fn` runs, the transaction is undone, its answer is returned.

        Args:
            request: the whole request message.
            fn: does the change and returns the response message; may run more than once.

        Raises:
            InvalidArgument: the request_id was used for another body, or is too long.
        """
        call = current()
        key = str(getattr(request, "request_id", "") or "")
        if len(key) > MAX_REQUEST_ID_CHARS:
            raise InvalidArgument(
                f"request_id has {len(key)} characters, at most {MAX_REQUEST_ID_CHARS} are allowed",
                violations=[Violation("request_id", "too long")],
            )
        dry = bool(getattr(request, "validate_only", False))
        body_hash = _hash(call.method, request) if key and not dry else ""

        def run(tx: Tx) -> Message:
            if dry:
                raise _DryRun(fn(tx))
            if not key:
                return fn(tx)
            stored = idempotency.find(tx.conn, call.principal.name, key)
            if stored is not None:
                return _replay(stored, body_hash, key)
            answer = fn(tx)
            kept = idempotency.Answer(
                call.method, body_hash, answer.DESCRIPTOR.full_name, answer.SerializeToString(deterministic=True)
            )
            idempotency.remember(tx.conn, call.principal.name, key, kept, tx.now)
            return answer

        try:
            answer = await self._db.write(run, actor=call.principal, request_id=call.request_id)
        except _DryRun as undone:
            answer = undone.answer
        return cast("M", answer)

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one write transaction as the caller, without idempotency: for streams that have their own."""
        call = current()
        return await self._db.write(fn, actor=call.principal, request_id=call.request_id)

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on one consistent snapshot as the caller."""
        call = current()
        return await self._db.read(fn, actor=call.principal, request_id=call.request_id)


def _hash(method: str, request: Message) -> str:
    body = request.SerializeToString(deterministic=True)
    return hashlib.sha256(method.encode() + b"\0" + request.DESCRIPTOR.full_name.encode() + b"\0" + body).hexdigest()


def _replay(stored: idempotency.Answer, body_hash: str, key: str) -> Message:
    if stored.body_hash != body_hash:
        raise InvalidArgument(
            f"request_id {key!r} was used before for another request ({stored.method}): give each change a new one",
            reason="REQUEST_ID_REUSED",
            violations=[Violation("request_id", "used before with another body", "REQUEST_ID_REUSED")],
        )
    message_class = symbol_database.Default().GetSymbol(stored.response_type)
    replayed: Message = message_class.FromString(stored.response)
    return replayed
