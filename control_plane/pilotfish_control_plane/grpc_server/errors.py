"""Ends a call with an error.

Owns the step from an exception to the call's status, details and trailing metadata. The table itself is
`pilotfish.wire_errors`, which the client reads backwards.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NoReturn

import grpc

from pilotfish import wire_errors
from pilotfish.errors import Internal, PilotfishError

__all__ = ["REQUEST_ID_KEY", "abort", "as_pilotfish_error", "code_of"]

log = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
_CODES = {code.name: code for code in grpc.StatusCode}


def code_of(error: PilotfishError) -> grpc.StatusCode:
    """Return the status of `error`; a subclass has that of its base."""
    return _CODES.get(error.code, grpc.StatusCode.INTERNAL)


def as_pilotfish_error(error: Exception, method: str, request_id: str) -> PilotfishError:
    """Return what the caller is shown: pilotfish's errors as they are, anything else as a bug without its text."""
    if isinstance(error, PilotfishError):
        return dataclasses.replace(error, request_id=request_id)
    log.error("unexpected error in %s, request id %s", method, request_id, exc_info=error)
    return Internal(
        f"{method} failed by an error of the control plane: look for request id {request_id} in its log",
        request_id=request_id,
    )


# Any: the context of whatever method this is.
async def abort(context: grpc.aio.ServicerContext[Any, Any], error: PilotfishError) -> NoReturn:
    """End the call with `error`.

    Raises:
        grpc.aio.AbortError: always; let it pass.
    """
    trailing = ((REQUEST_ID_KEY, error.request_id), (wire_errors.DETAILS_KEY, wire_errors.to_status_details(error)))
    await context.abort(code_of(error), wire_errors.status_message(error), trailing)
    raise AssertionError("abort returned")
