"""What the two gRPC interceptors share: which methods are tapped, and the record of one call.

Owns ids, codes and metadata of a tapped gRPC call; the interceptors own the waiting. Requests and
responses are seen twice: as bytes, which are recorded, and as messages, of which only `id` is read.
Nothing here raises into the call: a context that lacks something costs the record's detail, no more.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import grpc

from pilotfish_sidecar.tap.headers import CallHeaders, answer_headers, new_prediction_id, read_headers
from pilotfish_sidecar.tap.tap import Tap

__all__ = ["TAPPED_METHODS", "GrpcCall"]

log = logging.getLogger(__name__)

TAPPED_METHODS: Final = frozenset(
    {"/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"}
)
"""Inference methods of the Open Inference Protocol v2; ModelStreamInfer is MLServer's and Triton's."""

_UNKNOWN: Final = grpc.StatusCode.UNKNOWN.value[0]


class GrpcCall:
    """One unary call on its way through a server.

    Args:
        tap: takes the record.
        method: gRPC path.
        request: bytes as on the wire.
        context: the servicer context, of any of grpc's three kinds.
    """

    __slots__ = ("_begin", "_context", "_headers", "_ident", "_method", "_request", "_start_us", "_tap")

    # Any: grpc's contexts share no typed base with `code` and `trailing_metadata`.
    def __init__(self, tap: Tap, method: str, request: bytes, context: Any) -> None:
        """Start the clock."""
        self._start_us = time.time_ns() // 1000
        self._begin = time.perf_counter_ns()
        self._tap = tap
        self._method = method
        self._request = request
        self._context = context
        self._headers = _headers_of(context)
        self._ident = ""

    def begin(self, message: Any) -> None:
        """Learn the id from the request, else from the headers, and announce it.

        Called before the handler runs: abort() sends the metadata that is set at that moment.
        """
        self._take_id(message)
        self._ident = self._ident or self._headers.request_id
        if self._ident:
            self._announce()

    def code(self) -> int:
        """Return the status that the handler set, as a number; 0 when it set none."""
        try:
            code = self._context.code()
            if code is None:
                return 0
            return code if isinstance(code, int) else int(code.value[0])
        except Exception:
            log.debug("no status code in %r", self._context, exc_info=True)
            return 0

    def answered(self, message: Any, response: bytes) -> None:
        """Record a call that the handler answered.

        Args:
            message: the response, of which the id is read when the request had none.
            response: its bytes; empty when the handler set a status other than OK.
        """
        if not self._ident:
            self._take_id(message)
            self._ident = self._ident or new_prediction_id()
        self._record(response, self.code())
        self._announce()

    def failed(self, code: int = 0) -> None:
        """Record a call whose handler raised, with `code`, else the status that it set, else UNKNOWN."""
        self._ident = self._ident or new_prediction_id()
        self._record(b"", code or self.code() or _UNKNOWN)

    def _take_id(self, message: Any) -> None:
        ident = getattr(message, "id", "")
        self._ident = ident if isinstance(ident, str) else ""

    def _announce(self) -> None:
        """Add our trailing metadata to what the application set; ours win over older ones of the same name."""
        mine = answer_headers(self._ident, self._tap.identity)
        names = {name for name, _ in mine}
        try:
            before = self._context.trailing_metadata() or ()
            self._context.set_trailing_metadata((*((k, v) for k, v in before if k not in names), *mine))
        except Exception:
            log.debug("the prediction id cannot be announced", exc_info=True)

    def _record(self, response: bytes, code: int) -> None:
        self._tap.record(
            self._method,
            self._request,
            response,
            code,
            self._start_us,
            (time.perf_counter_ns() - self._begin) // 1000,
            self._ident,
            self._headers.kept,
            role=self._headers.role,
        )


def _headers_of(context: Any) -> CallHeaders:
    try:
        return read_headers(context.invocation_metadata() or ())
    except Exception:
        log.debug("no metadata in %r", context, exc_info=True)
        return read_headers(())
