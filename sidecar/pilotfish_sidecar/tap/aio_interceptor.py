"""The tap for grpc.aio servers: `grpc.aio.server(interceptors=[TapInterceptor(tap)])`.

Owns the wrapping of handlers. A tapped handler gets identity (de)serialisers, so that the bytes are seen
once; the application's own (de)serialisers run inside. Put it first in the list: it must see what the
client sees. Calls without a handler and methods that are not tapped pass untouched.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import grpc

from pilotfish_sidecar.tap.grpc_calls import TAPPED_METHODS, GrpcCall
from pilotfish_sidecar.tap.tap import Tap

__all__ = ["TapInterceptor"]

_CANCELLED = grpc.StatusCode.CANCELLED.value[0]

# Any: handlers and contexts are typed by the message, and here is any message.


class TapInterceptor(grpc.aio.ServerInterceptor):
    """Taps unary inference calls of a grpc.aio server; streaming ones are counted.

    Args:
        tap: takes the records.
        methods: gRPC paths to tap.
    """

    def __init__(self, tap: Tap, methods: Collection[str] = TAPPED_METHODS) -> None:
        """Keep them."""
        self._tap = tap
        self._methods = frozenset(methods)
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler, wrapped when its calls are tapped."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in self._methods:
            return handler
        if handler.request_streaming or handler.response_streaming:
            self._tap.count_streaming()
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            wrap = _asynchronous if inspect.iscoroutinefunction(handler.unary_unary) else _in_thread
            known = (handler, grpc.unary_unary_rpc_method_handler(wrap(self._tap, method, handler)))
            self._wrapped[method] = known
        return known[1]


def _asynchronous(tap: Tap, method: str, handler: Any) -> Callable[[bytes, Any], Awaitable[bytes]]:
    parse = handler.request_deserializer or _same
    build = handler.response_serializer or _same
    inner = handler.unary_unary

    async def behaviour(request: bytes, context: Any) -> bytes:
        call = GrpcCall(tap, method, request, context)
        try:
            message = parse(request)
            call.begin(message)
            answer = await inner(message, context)
            response = b"" if call.code() else build(answer)
        except asyncio.CancelledError:
            call.failed(_CANCELLED)
            raise
        except BaseException:
            call.failed()
            raise
        call.answered(answer, response)
        return response

    return behaviour


def _in_thread(tap: Tap, method: str, handler: Any) -> Callable[[bytes, Any], bytes]:
    """Return the behaviour for a synchronous handler, which grpc.aio runs in its thread pool."""
    parse = handler.request_deserializer or _same
    build = handler.response_serializer or _same
    inner = handler.unary_unary

    def behaviour(request: bytes, context: Any) -> bytes:
        watched = _WatchedContext(context)
        call = GrpcCall(tap, method, request, watched)
        try:
            message = parse(request)
            call.begin(message)
            answer = inner(message, watched)
            response = b"" if call.code() else build(answer)
        except BaseException:
            call.failed()
            raise
        call.answered(answer, response)
        return response

    return behaviour


class _WatchedContext:
    """The context that grpc.aio gives to synchronous handlers, remembering what was set: it can't be asked."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._code: Any = None
        self._trailing: Any = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def code(self) -> Any:
        return self._code

    def set_code(self, code: Any) -> None:
        self._code = code
        self._context.set_code(code)

    def trailing_metadata(self) -> Any:
        return self._trailing

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = trailing_metadata
        self._context.set_trailing_metadata(trailing_metadata)

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> Any:
        self._code = code
        return self._context.abort(code, details, trailing_metadata)


def _same(value: Any) -> Any:
    return value
