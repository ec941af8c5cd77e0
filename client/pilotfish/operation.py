"""A long-running operation as the client shows it. Owns the unpacking of google.longrunning.Operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pilotfish.errors import FailedPrecondition, PilotfishError
from pilotfish.v1 import deployment_pb2, training_pb2
from pilotfish.v1 import operation_pb2 as pb
from pilotfish.wire_errors import from_status

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Operation", "operation_from_wire", "operation_name"]

PREFIX = "operations/"
RESOURCES = (training_pb2.Job, deployment_pb2.Rollout, deployment_pb2.Deployment)


@dataclass(frozen=True, slots=True)
class Operation:
    """A view of a job, a rollout or a starting deployment.

    Attributes:
        name: operations/{resource name}.
        metadata: the resource's name, kind and state, and how far it is.
        done: whether it will not go on by itself.
        resource: the job, rollout or deployment, once it succeeded.
        error: what became of it, once it did not.
    """

    name: str
    metadata: pb.OperationMetadata
    done: bool
    resource: Message | None = None
    error: PilotfishError | None = None

    # Any: a Job, a Rollout or a Deployment, by the operation's kind.
    def result(self) -> Any:
        """Return the resource of an operation that succeeded.

        Raises:
            PilotfishError: what became of it: Cancelled, Aborted, DeadlineExceeded or FailedPrecondition, with its
                reason; also FailedPrecondition with the reason NOT_DONE while it goes on.
        """
        if self.error is not None:
            raise self.error
        if not self.done:
            raise FailedPrecondition(f"{self.name} goes on: wait for it", reason="NOT_DONE")
        return self.resource


def operation_name(name: str) -> str:
    """Return an operation's name; a resource's own name is taken as well."""
    return PREFIX + name if name.startswith("projects/") else name


# Any: google.longrunning has no types.
def operation_from_wire(message: Any) -> Operation:
    """Return what a google.longrunning.Operation of pilotfish says."""
    metadata = pb.OperationMetadata()
    message.metadata.Unpack(metadata)
    error = from_status(message.error) if message.HasField("error") else None
    resource = None
    for cls in RESOURCES:
        if message.HasField("response") and message.response.Is(cls.DESCRIPTOR):
            resource = cls.FromString(message.response.value)
    return Operation(message.name, metadata, message.done, resource, error)
