"""Access, events, the fleet, and long-running operations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from google.longrunning import operations_pb2_grpc as lro_grpc
from google.longrunning import operations_proto_pb2 as lro

from pilotfish.blocking.calls import Calls
from pilotfish.errors import DeadlineExceeded
from pilotfish.messages import build
from pilotfish.operation import Operation, operation_from_wire, operation_name
from pilotfish.v1 import access_service_pb2 as acc
from pilotfish.v1 import access_service_pb2_grpc as acc_grpc
from pilotfish.v1 import event_service_pb2, event_service_pb2_grpc, fleet_service_pb2, fleet_service_pb2_grpc

__all__ = ["Access", "Events", "Fleet", "Operations"]

ACCESS = acc_grpc.AccessServiceStub
OPERATIONS = lro_grpc.OperationsStub
# One call waits this long at most; a longer wait is several.
WAIT_S = 20.0
PAGE_SIZE = 1000


class Access:
    """Tokens and the audit trail."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.access`."""
        self._calls = calls
        self._project = project

    def whoami(self) -> acc.WhoAmIResponse:
        """Tell who the caller is."""
        answer: acc.WhoAmIResponse = self._calls.unary(ACCESS, "WhoAmI", acc.WhoAmIRequest())
        return answer

    def create_token(self, name: str, role: str, *, lifetime_s: float = 0.0) -> str:
        """Make a token and return its text, which is shown this once."""
        request = build(acc.CreateTokenRequest, {"name": name, "role": role, "lifetime_s": lifetime_s})
        answer: acc.CreateTokenResponse = self._calls.unary(ACCESS, "CreateToken", request)
        return answer.secret

    def tokens(self) -> list[acc.Token]:
        """Return every token, without its text."""
        answer: acc.ListTokensResponse = self._calls.unary(ACCESS, "ListTokens", acc.ListTokensRequest())
        return list(answer.tokens)

    def revoke_token(self, name: str) -> acc.Token:
        """Revoke a token."""
        answer: acc.RevokeTokenResponse = self._calls.unary(
            ACCESS, "RevokeToken", acc.RevokeTokenRequest(name=name)
        )
        return answer.token

    def audit(self, *, filter: str = "", limit: int = 100) -> list[acc.AuditEntry]:
        """Return the audit trail, newest first."""
        request = acc.ListAuditEntriesRequest(filter=filter, page_size=limit)
        answer: acc.ListAuditEntriesResponse = self._calls.unary(ACCESS, "ListAuditEntries", request)
        return list(answer.entries)

    def verify_audit(self) -> acc.VerifyAuditResponse:
        """Check the seals of the audit trail."""
        answer: acc.VerifyAuditResponse = self._calls.unary(ACCESS, "VerifyAudit", acc.VerifyAuditRequest())
        return answer


class Events:
    """What happens, as it happens."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.events`."""
        self._calls = calls
        self._project = project

    def watch(
        self,
        kinds: Sequence[str] = (),
        *,
        subject_prefix: str = "",
        resume_token: str = "",
        timeout_s: float | None = None,
    ) -> Iterator[event_service_pb2.WatchResponse]:
        """Yield events as they are committed.

        Args:
            kinds: kinds, or prefixes that end in "."; empty: all.
            subject_prefix: prefix of the subject's resource name.
            resume_token: where to go on; "": from now on, "0": from the beginning.
            timeout_s: seconds after which the stream ends.
        """
        request = event_service_pb2.WatchRequest(
            project=self._project, kinds=kinds, subject_prefix=subject_prefix, resume_token=resume_token
        )
        stub = event_service_pb2_grpc.EventServiceStub
        try:
            for answer in self._calls.stream(stub, "Watch", request, timeout_s=timeout_s):
                yield answer
        except DeadlineExceeded:
            # The time that was given is over: that is how such a stream ends.
            return


class Fleet:
    """Sidecars and nodes."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.fleet`."""
        self._calls = calls
        self._project = project

    def members(self) -> list[fleet_service_pb2.Member]:
        """Return every sidecar and node."""
        stub = fleet_service_pb2_grpc.FleetServiceStub
        answer: fleet_service_pb2.ListMembersResponse = self._calls.unary(
            stub, "ListMembers", fleet_service_pb2.ListMembersRequest()
        )
        return list(answer.members)


class Operations:
    """Jobs, rollouts and starting deployments as google.longrunning operations: views, named operations/{resource}."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.operations`."""
        self._calls = calls
        self._project = project

    def get(self, name: str) -> Operation:
        """Return an operation by its name or by the resource name of what it shows.

        Raises:
            InvalidArgument: it is neither.
            NotFound: there is none.
        """
        request = lro.GetOperationRequest(name=operation_name(name))
        return operation_from_wire(self._calls.unary(OPERATIONS, "GetOperation", request))

    def wait(self, name: str, *, timeout_s: float = 3600.0) -> Operation:
        """Return an operation when it is done, however it ended, or as it stands after `timeout_s`.

        `result()` of what is returned gives the resource or raises what became of it.
        """
        until = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, until - time.monotonic())
            request = lro.WaitOperationRequest(name=operation_name(name))
            request.timeout.FromMilliseconds(round(min(left_s, WAIT_S) * 1000))
            answer = self._calls.unary(OPERATIONS, "WaitOperation", request, timeout_s=2 * WAIT_S)
            if answer.done or left_s <= WAIT_S:
                return operation_from_wire(answer)

    def cancel(self, name: str) -> None:
        """Cancel the job, abort the rollout, stop the starting deployment; harmless when it is done.

        Raises:
            NotFound: there is none.
            PermissionDenied: the caller may not do that to the resource itself.
        """
        request = lro.CancelOperationRequest(name=operation_name(name))
        self._calls.unary(OPERATIONS, "CancelOperation", request)

    def list(self, *, filter: str = "") -> list[Operation]:
        """Return the operations of the project, newest first, such as `kind = "job" AND done = false`."""
        found: list[Operation] = []
        request = lro.ListOperationsRequest(
            name=f"operations/projects/{self._project}", filter=filter, page_size=PAGE_SIZE
        )
        while True:
            answer = self._calls.unary(OPERATIONS, "ListOperations", request)
            found += [operation_from_wire(o) for o in answer.operations]
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token
