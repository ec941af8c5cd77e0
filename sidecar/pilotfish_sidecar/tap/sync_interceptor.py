"""The tap for synchronous gRPC servers: `grpc.server(pool, interceptors=[SyncTapInterceptor(tap)])`.

Owns the wrapping of handlers; a grpc.aio server has an interceptor of its own (`aio_interceptor`). Put it
first in the list: it must see what the client sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import grpc

from pilotfish_sidecar.tap.grpc_calls import TAPPED_METHODS, GrpcCall
from pilotfish_sidecar.tap.tap import Tap

__all__ = ["SyncTapInterceptor"]

# Any: handlers and contexts are typed by the message, and here is any message.


log = logging.getLogger(__name__)


class SyncTapInterceptor(grpc.ServerInterceptor):
    """Taps unary inference calls of a synchronous server; streaming ones are counted.

    Args:
        tap: takes the records.
        methods: gRPC paths to tap.
    """

    def __init__(self, tap: Tap, methods: Collection[str] = TAPPED_METHODS) -> None:
        """Keep them."""
        self._tap = tap
        self._methods = frozenset(methods)
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Return the handler, wrapped when its calls are tapped."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in self._methods:
            return handler
        if handler.request_streaming or handler.response_streaming:
            self._tap.count_streaming()
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = (handler, grpc.unary_unary_rpc_method_handler(_tapped(self._tap, method, handler)))
            self._wrapped[method] = known
        return known[1]


def _tapped(tap: Tap, method: str, handler: Any) -> Callable[[bytes, Any], bytes]:
    inner = handler.unary_unary

    def behaviour(request: bytes, context: Any) -> bytes:
        call = GrpcCall(tap, method, request, context)
        try:
            message = _convert(handler.request_deserializer, request, context, "Exception deserializing request!")
            call.begin(message)
            answer = inner(message, context)
            response: bytes = _convert(handler.response_serializer, answer, context, "Failed to serialize response!")
        except BaseException:
            call.failed()
            raise
        call.answered(answer, b"" if call.code() else response)
        return response

    return behaviour


def _convert(convert: Callable[[Any], Any] | None, value: Any, context: Any, problem: str) -> Any:
    """Return the converted value; on failure answer as grpc itself does, with INTERNAL."""
    if convert is None:
        return value
    try:
        return convert(value)
    except Exception:
        log.exception(problem)
        context.abort(grpc.StatusCode.INTERNAL, problem)
