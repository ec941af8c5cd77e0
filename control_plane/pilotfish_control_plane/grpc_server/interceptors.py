"""What happens around every call, in one place and in this order.

Owns: metrics, request id, deadline, authentication, authorisation, the context variable, error mapping, log line.
A servicer sees only calls that may be made, raises pilotfish's errors, and never aborts a call itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from pilotfish.errors import DeadlineExceeded, PilotfishError
from pilotfish_control_plane.access.authentication import Authenticator, Credential
from pilotfish_control_plane.access.model import ANONYMOUS, Role
from pilotfish_control_plane.grpc_server import errors, roles
from pilotfish_control_plane.grpc_server.context import RequestContext, entered
from pilotfish_control_plane.grpc_server.metrics import CallMetrics
from pilotfish_control_plane.grpc_server.streams import OpenStreams

__all__ = ["CallInterceptor"]

log = logging.getLogger("pilotfish_control_plane.calls")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
# Unary calls that wait like a watch does: they too end when the server drains or their token does.
_WAITING = frozenset({"/google.longrunning.Operations/WaitOperation"})
_ANONYMOUS = Credential(ANONYMOUS, "")

# Any: grpc's handlers and messages are untyped.
Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Any]


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    request_id: str
    behaviour: Behaviour
    streams_in: bool
    streams_out: bool


class _CheckedContext:
    """The call's context, with each message that `read` gives checked as well."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], check: Callable[[Any], None]) -> None:
        self._context = context
        self._check = check

    # Any: the message of whatever method this is, and the context's other attributes.
    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._check(message)
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """The whole stack, for the four kinds of calls."""

    def __init__(
        self, authenticator: Authenticator, metrics: CallMetrics, streams: OpenStreams, *, default_deadline_s: float
    ) -> None:
        """Use these for every call; `default_deadline_s` is for unary calls without a deadline."""
        self._authenticator = authenticator
        self._metrics = metrics
        self._streams = streams
        self._default_deadline_s = default_deadline_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler with the stack around it; None: no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        metadata = tuple(handler_call_details.invocation_metadata or ())
        # Any: grpc types these as the synchronous kind.
        behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        call = _Call(
            handler_call_details.method,
            _request_id(metadata),
            behaviour,
            handler.request_streaming,
            handler.response_streaming,
        )

        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await self._run(call, metadata, request, context)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[call.streams_in, call.streams_out]
        return make(run, handler.request_deserializer, handler.response_serializer)

    async def _run(self, call: _Call, metadata: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started = time.monotonic()
        code, who = "OK", ANONYMOUS.name
        self._metrics.started(call.method)
        context.set_trailing_metadata(((errors.REQUEST_ID_KEY, call.request_id),))
        try:
            limit_s = self._time_left(call, context)
            credential = await self._authenticate(call, metadata)
            who = credential.principal.name
            return await self._perform(call, credential, limit_s, request, context)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = _code_name(context.code())
            raise
        except Exception as error:
            shown = errors.as_pilotfish_error(error, call.method, call.request_id)
            code = errors.code_of(shown).name
            await errors.abort(context, shown)
        finally:
            seconds = time.monotonic() - started
            self._metrics.handled(call.method, code, seconds)
            _log_call(call, code, who, seconds)

    def _time_left(self, call: _Call, context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
        """Return how many seconds the handler gets; None: no limit."""
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the call's deadline had passed when it arrived: nothing was done")
        if left is None and not call.streams_in and not call.streams_out:
            return self._default_deadline_s
        return left

    async def _authenticate(self, call: _Call, metadata: Any) -> Credential:
        if roles.required_role(call.method) is Role.PUBLIC:
            return _ANONYMOUS
        return await self._authenticator.authenticate(metadata)

    async def _perform(
        self, call: _Call, credential: Credential, limit_s: float | None, request: Any, context: Any
    ) -> Any:
        check_projects = roles.authorize(credential.principal, call.method)
        deadline = None if limit_s is None else time.monotonic() + limit_s
        entered(RequestContext(credential.principal, call.request_id, call.method, deadline))
        if check_projects:

            def check(message: Any) -> None:
                roles.authorize_request(credential.principal, call.method, message)

            if call.streams_in:
                request, context = _checked(request, check), _CheckedContext(context, check)
            else:
                check(request)
        if call.streams_in or call.streams_out:
            return await self._perform_stream(call, credential, request, context)
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                if call.method in _WAITING:
                    return await self._perform_stream(call, credential, request, context)
                return await call.behaviour(request, context)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"{call.method.rpartition('/')[2]} took longer than {limit_s:.3g} s; it may have been done all the "
                "same: repeat it with the same request_id and a longer deadline"
            ) from None

    async def _perform_stream(self, call: _Call, credential: Credential, request: Any, context: Any) -> Any:
        with self._streams.follow(credential.key, ends_at_drain=call.streams_out or call.method in _WAITING) as stream:
            try:
                result = call.behaviour(request, context)
                if inspect.isawaitable(result):
                    return await result
                async for response in result:
                    await context.write(response)
                return None
            except asyncio.CancelledError:
                if stream.ended is None:
                    raise
                stream.task.uncancel()
                raise _ended(stream.ended) from None


def _ended(reason: PilotfishError) -> PilotfishError:
    return reason


async def _checked(messages: AsyncIterator[Any], check: Callable[[Any], None]) -> AsyncIterator[Any]:
    async for message in messages:
        check(message)
        yield message


def _request_id(metadata: tuple[tuple[str, str | bytes], ...]) -> str:
    for key, value in metadata:
        if key == errors.REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(12)


def _code_name(code: Any) -> str:
    return next((c.name for c in grpc.StatusCode if code in (c, c.value[0])), "UNKNOWN")


def _log_call(call: _Call, code: str, who: str, seconds: float) -> None:
    level = {"OK": logging.DEBUG, "INTERNAL": logging.ERROR}.get(code, logging.INFO)
    if log.isEnabledFor(level):
        facts = {
            "method": call.method,
            "code": code,
            "principal": who,
            "request_id": call.request_id,
            "seconds": round(seconds, 6),
        }
        log.log(level, "%s %s", call.method, code, extra={"facts": facts})
