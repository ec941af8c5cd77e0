"""Errors on the wire, without a server: sizes, foreign servers, damage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from pilotfish import errors, wire_errors
from pilotfish.errors import PilotfishError, Violation


@dataclass
class FailedCall(Exception):
    """What a stub raises, as far as it is read."""

    status: grpc.StatusCode
    text: str | None = None
    trailing: tuple[tuple[str, str | bytes], ...] | None = field(default=())

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str | None:
        return self.text

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        return self.trailing


def test_every_class_of_the_tree_has_a_status_of_its_own() -> None:
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, PilotfishError)}
    assert set(wire_errors.STATUS_OF) == classes - {PilotfishError}
    for cls, (name, number) in wire_errors.STATUS_OF.items():
        assert cls.code == name
        assert grpc.StatusCode[name].value[0] == number


def test_details_are_the_standard_messages_of_google_rpc() -> None:
    error = errors.InvalidArgument(
        "m", reason="R", violations=[Violation("f", "d", "V")], metadata={"k": "v"}, retry_after_s=2.5, request_id="q"
    )
    status = Status.FromString(wire_errors.to_status_details(error))
    assert (status.code, status.message) == (3, "m")
    info, bad, retry, request = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.RequestInfo(),
    )
    for detail, message in zip(status.details, (info, bad, retry, request), strict=True):
        assert detail.Unpack(message)
    assert (info.reason, info.domain, dict(info.metadata)) == ("R", "pilotfish", {"k": "v"})
    assert [(v.field, v.description, v.reason) for v in bad.field_violations] == [("f", "d", "V")]
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (2, 500_000_000)
    assert request.request_id == "q"


@pytest.mark.parametrize("status", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_a_foreign_server_without_details_still_gives_an_exception_of_the_tree(status: grpc.StatusCode) -> None:
    error = wire_errors.from_rpc_error(FailedCall(status, "why", (("x-request-id", "r"),)))
    assert isinstance(error, PilotfishError) and type(error) is not PilotfishError
    assert (error.message, error.request_id) == ("why", "r")
    assert error.reason == status.name
    assert wire_errors.from_rpc_error(FailedCall(status, None, None)).message


@pytest.mark.parametrize("raw", [b"\xff\xff", b"", Status(code=5, message="other").SerializeToString()])
def test_damaged_or_contradicting_details_do_not_hide_the_status(raw: bytes) -> None:
    error = wire_errors.from_rpc_error(FailedCall(grpc.StatusCode.ABORTED, "lost", ((wire_errors.DETAILS_KEY, raw),)))
    assert type(error) is errors.Aborted and error.message == "lost"


def test_a_subclass_travels_as_its_base() -> None:
    class Special(errors.NotFound):
        pass

    assert (
        type(wire_errors.from_status(Status.FromString(wire_errors.to_status_details(Special("x"))))) is errors.NotFound
    )


texts = st.text(max_size=3000)


@given(
    st.sampled_from(list(wire_errors.STATUS_OF)),
    texts,
    st.lists(st.builds(Violation, texts, texts, st.text(max_size=80)), max_size=40),
    st.dictionaries(st.text(min_size=1, max_size=20), texts, max_size=5),
)
def test_any_error_fits_a_clients_default_limit_of_metadata(
    cls: type[PilotfishError], message: str, violations: list[Violation], metadata: dict[str, str]
) -> None:
    error = cls(message, violations=violations, metadata=metadata, retry_after_s=0.0, request_id="r" * 128)
    packed = wire_errors.to_status_details(error)
    assert len(packed) * 4 / 3 + 1300 < 8192
    seen = wire_errors.from_status(Status.FromString(packed))
    assert type(seen) is cls
    assert seen.retry_after_s == 0.0


@given(
    st.sampled_from(list(wire_errors.STATUS_OF)),
    st.text(max_size=100),
    st.lists(st.builds(Violation, st.text(max_size=20), st.text(max_size=40), st.text(max_size=20)), max_size=5),
)
def test_an_ordinary_error_comes_back_equal(
    cls: type[PilotfishError], message: str, violations: list[Violation]
) -> None:
    error = cls(message, reason="R", violations=tuple(violations), metadata={"a": "b"}, retry_after_s=0.125)
    seen = wire_errors.from_status(Status.FromString(wire_errors.to_status_details(error)))
    assert dataclasses.asdict(seen) == dataclasses.asdict(error)
