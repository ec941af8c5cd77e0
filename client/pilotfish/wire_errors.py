"""The one table between pilotfish's exceptions and what goes over the wire.

Owns both directions: an exception to google.rpc.Status bytes (the trailing metadata `grpc-status-details-bin`),
and a failed call back to the exception. Servers, sidecar and client use it, so an error keeps its class, reason
and violations across the wire. It never imports grpc and needs no grpcio-status.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc.status_pb2 import Status

from pilotfish import errors
from pilotfish.errors import PilotfishError, Violation

__all__ = [
    "DETAILS_KEY",
    "DOMAIN",
    "STATUS_OF",
    "from_rpc_error",
    "from_status",
    "status_message",
    "to_status_details",
    "unreached",
]

DOMAIN = "pilotfish"
DETAILS_KEY = "grpc-status-details-bin"

# gRPC clients refuse more than 8 KiB of metadata by default, base64 adds a third.
_MAX_DETAILS_BYTES = 4500
_MAX_MESSAGE_BYTES = 1200

# class -> (status code's name, its number); a status without a class of its own maps through _ALSO.
STATUS_OF: dict[type[PilotfishError], tuple[str, int]] = {
    errors.Cancelled: ("CANCELLED", 1),
    errors.InvalidArgument: ("INVALID_ARGUMENT", 3),
    errors.DeadlineExceeded: ("DEADLINE_EXCEEDED", 4),
    errors.NotFound: ("NOT_FOUND", 5),
    errors.AlreadyExists: ("ALREADY_EXISTS", 6),
    errors.PermissionDenied: ("PERMISSION_DENIED", 7),
    errors.ResourceExhausted: ("RESOURCE_EXHAUSTED", 8),
    errors.FailedPrecondition: ("FAILED_PRECONDITION", 9),
    errors.Aborted: ("ABORTED", 10),
    errors.Unimplemented: ("UNIMPLEMENTED", 12),
    errors.Internal: ("INTERNAL", 13),
    errors.Unavailable: ("UNAVAILABLE", 14),
    errors.Unauthenticated: ("UNAUTHENTICATED", 16),
}
_CLASS_OF = {name: cls for cls, (name, _) in STATUS_OF.items()}
_NAME_OF = {number: name for name, number in STATUS_OF.values()}
_ALSO = {"OUT_OF_RANGE": errors.InvalidArgument, "DATA_LOSS": errors.Internal, "UNKNOWN": errors.Internal}
# How gRPC says that no connection came about.
_UNREACHED = re.compile(r"^failed to connect to all addresses|^DNS resolution failed|^Endpoint closing")
_ALSO_NUMBER = {2: "UNKNOWN", 11: "OUT_OF_RANGE", 15: "DATA_LOSS"}


class _StatusCode(Protocol):
    @property
    def name(self) -> str: ...


class _FailedCall(Protocol):
    """The part of grpc.RpcError and grpc.aio.AioRpcError that is read here."""

    def code(self) -> _StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def _status(error: PilotfishError) -> tuple[str, int]:
    for cls in type(error).__mro__:
        if cls in STATUS_OF:
            return STATUS_OF[cls]
    return STATUS_OF[errors.Internal]


def _shorten(text: str, size_bytes: int) -> str:
    raw = text.encode()
    return text if len(raw) <= size_bytes else raw[: size_bytes - 4].decode(errors="ignore") + " …"


def status_message(error: PilotfishError) -> str:
    """Return the short text for the `grpc-message` header; the whole one is in the details."""
    text = error.message
    while len(urllib.parse.quote(text)) > _MAX_MESSAGE_BYTES:
        text = text[: len(text) * 3 // 4] + "…"
    return text


def _messages(error: PilotfishError, violations: Sequence[Violation], omitted: int) -> list[Message]:
    info = details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = _shorten(str(value), 256)
    if omitted:
        info.metadata["violations_omitted"] = str(omitted)
    messages: list[Message] = [info]
    if violations and isinstance(error, errors.InvalidArgument):
        messages.append(
            details_pb2.BadRequest(
                field_violations=[
                    details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description, reason=v.reason)
                    for v in violations
                ]
            )
        )
    elif violations:
        messages.append(
            details_pb2.PreconditionFailure(
                violations=[
                    details_pb2.PreconditionFailure.Violation(type=v.reason, subject=v.field, description=v.description)
                    for v in violations
                ]
            )
        )
    if error.retry_after_s is not None:
        retry = details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(max(0, round(error.retry_after_s * 1e9)))
        messages.append(retry)
    if error.request_id:
        messages.append(details_pb2.RequestInfo(request_id=error.request_id))
    return messages


def _pack(error: PilotfishError, violations: Sequence[Violation], omitted: int) -> bytes:
    status = Status(code=_status(error)[1], message=_shorten(error.message, _MAX_MESSAGE_BYTES))
    for message in _messages(error, violations, omitted):
        status.details.add().Pack(message)
    packed: bytes = status.SerializeToString()
    return packed


def to_status_details(error: PilotfishError) -> bytes:
    """Return the serialised google.rpc.Status of `error`, for the trailing metadata `DETAILS_KEY`.

    It always fits a client's default limit of metadata: long texts are cut, and violations that do not fit are
    left out, their number in the metadata `violations_omitted`.
    """
    kept = [
        replace(v, field=_shorten(v.field, 256), description=_shorten(v.description, 512), reason=v.reason[:64])
        for v in error.violations
    ]
    total = len(kept)
    packed = _pack(error, kept, 0)
    while len(packed) > _MAX_DETAILS_BYTES and kept:
        kept = kept[: len(kept) * 3 // 4]
        packed = _pack(error, kept, total - len(kept))
    if len(packed) > _MAX_DETAILS_BYTES:
        packed = _pack(replace(error, metadata={}), kept, total)
    return packed


def from_status(status: Status) -> PilotfishError:
    """Return the exception that a google.rpc.Status stands for; its class comes from the code."""
    name = _NAME_OF.get(status.code) or _ALSO_NUMBER.get(status.code, "UNKNOWN")
    error = _build(name, status.message)
    for packed in status.details:
        _read_detail(error, packed)
    return error


def _build(name: str, message: str) -> PilotfishError:
    cls = _CLASS_OF.get(name) or _ALSO.get(name, errors.Internal)
    return cls(message, reason="" if name == cls.code else name)


def _read_detail(error: PilotfishError, packed: AnyMessage) -> None:
    info, bad = details_pb2.ErrorInfo(), details_pb2.BadRequest()
    failed, retry, request = details_pb2.PreconditionFailure(), details_pb2.RetryInfo(), details_pb2.RequestInfo()
    if packed.Unpack(info):
        error.reason, error.metadata = info.reason or error.reason, dict(info.metadata)
    elif packed.Unpack(bad):
        error.violations = tuple(Violation(v.field, v.description, v.reason) for v in bad.field_violations)
    elif packed.Unpack(failed):
        error.violations = tuple(Violation(v.subject, v.description, v.type) for v in failed.violations)
    elif packed.Unpack(retry):
        error.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    elif packed.Unpack(request):
        error.request_id = request.request_id


def from_rpc_error(error: object) -> PilotfishError:
    """Return pilotfish's exception for a failed call.

    Args:
        error: a grpc.RpcError that is a call too (every one that a stub raises), or a grpc.aio.AioRpcError.

    Works for servers that send no details as well: then the class comes from the status alone.
    """
    failed = cast("_FailedCall", error)
    name = failed.code().name
    trailing = dict(failed.trailing_metadata() or ())
    raw = trailing.get(DETAILS_KEY)
    if isinstance(raw, bytes):
        try:
            status = Status.FromString(raw)
        except DecodeError:
            status = Status()
        if (_NAME_OF.get(status.code) or _ALSO_NUMBER.get(status.code)) == name:
            return _with_request_id(from_status(status), trailing)
    return _with_request_id(_build(name, failed.details() or f"the call failed with {name}"), trailing)


def unreached(error: PilotfishError, what: str) -> PilotfishError:
    """Return the error of a call that reached nobody in words of its own; any other error as it is.

    Args:
        error: what the call failed with.
        what: whom it was meant for, such as "the control plane at 127.0.0.1:7433".
    """
    if isinstance(error, errors.Unavailable) and _UNREACHED.search(error.message):
        why = error.message.rpartition(": ")[2].strip()
        error.message = f"{what} cannot be reached: {why[:1].lower()}{why[1:]}"
        error.args = (error.message,)
    return error


def _with_request_id(error: PilotfishError, trailing: dict[str, str | bytes]) -> PilotfishError:
    request_id = trailing.get("x-request-id", "")
    if not error.request_id and isinstance(request_id, str):
        error.request_id = request_id
    return error
