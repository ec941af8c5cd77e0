"""google.longrunning.Operations on the wire: jobs, rollouts and starting deployments as operations.

Owns the conversion and the waiting. The contract is described in protos/pilotfish/v1/operation.proto; the roles are in
`roles`, because these methods cannot carry our option.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.longrunning import operations_pb2_grpc
from google.longrunning import operations_proto_pb2 as lro
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from pilotfish import wire_errors
from pilotfish.errors import InvalidArgument, Unimplemented, Violation
from pilotfish.v1 import operation_pb2 as pb
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.deployments.commands import RolloutControl
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.deployments.rollout_model import Rollout
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.grpc_server import deployments_wire, roles, training_wire
from pilotfish_control_plane.grpc_server.context import current
from pilotfish_control_plane.names import OPERATIONS, ProjectName
from pilotfish_control_plane.operations.model import Operation, OperationKind
from pilotfish_control_plane.operations.service import OperationService, topic_of
from pilotfish_control_plane.storage.paging import PageRequest
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.model import Job
from pilotfish_control_plane.training.service import TrainingService

__all__ = ["OperationsServicer", "install"]

WAIT_SWEEP_S = 5.0
# A wait ends this much before the call's deadline, or a quarter of what is left, so that its answer arrives in time.
ANSWER_MARGIN_S = 2.0
WHY = "its operation was cancelled"

# Cancelling an operation needs the role of what is then done.
_CANCELS = {
    OperationKind.JOB: "/pilotfish.v1.TrainingService/CancelJob",
    OperationKind.ROLLOUT: "/pilotfish.v1.DeploymentService/ControlRollout",
    OperationKind.DEPLOYMENT: "/pilotfish.v1.DeploymentService/StopDeployment",
}
_KINDS = {
    OperationKind.JOB: pb.OPERATION_KIND_JOB,
    OperationKind.ROLLOUT: pb.OPERATION_KIND_ROLLOUT,
    OperationKind.DEPLOYMENT: pb.OPERATION_KIND_DEPLOYMENT,
}


# Any: the generated servicer has no types, and the context is grpc's of whatever method this is.
class OperationsServicer(operations_pb2_grpc.OperationsServicer):  # type: ignore[misc]  # as above
    """Checks, converts and waits; `operations.service` finds and cancels."""

    def __init__(self, core: Core, service: OperationService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service

    async def GetOperation(self, request: lro.GetOperationRequest, context: Any) -> lro.Operation:
        """Return an operation."""
        return await self._read(request.name)

    async def _read(self, name: str) -> lro.Operation:
        return await self._core.mutations.read(lambda tx: self._wire(tx, [self._service.get(tx, name)])[0])

    async def ListOperations(self, request: lro.ListOperationsRequest, context: Any) -> lro.ListOperationsResponse:
        """Return a page of operations, newest first."""
        project = _project(request.name)
        asked = PageRequest(request.page_size, request.page_token, request.filter, scope=f"{OPERATIONS}/{project}")

        def listed(tx: Tx) -> lro.ListOperationsResponse:
            page = self._service.list_operations(tx, project, asked)
            return lro.ListOperationsResponse(
                operations=self._wire(tx, page.items), next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(listed)

    async def WaitOperation(self, request: lro.WaitOperationRequest, context: Any) -> lro.Operation:
        """Return an operation when it is done, after the timeout, or just before the deadline."""
        until = _until(request)
        found = await self._core.mutations.read(lambda tx: self._service.get(tx, request.name))
        # Subscribed before the state is read that counts: a change in between wakes instead of being missed.
        with self._core.wakes.subscribe(topic_of(found)) as wakes:
            while True:
                message = await self._read(request.name)
                left_s = until - time.monotonic()
                if message.done or left_s <= 0:
                    return message
                await wakes.wait(min(left_s, WAIT_SWEEP_S))

    async def CancelOperation(self, request: lro.CancelOperationRequest, context: Any) -> Empty:
        """Cancel the job, abort the rollout, stop the deployment that the operation shows."""
        principal = current().principal

        def cancel(tx: Tx) -> Empty:
            operation = self._service.get(tx, request.name)
            roles.authorize_in(principal, _CANCELS[operation.kind], operation.subject.project)
            self._service.cancel(tx, operation)
            return Empty()

        return await self._core.mutations.mutate(request, cancel)

    async def DeleteOperation(self, request: lro.DeleteOperationRequest, context: Any) -> Empty:
        """Refuse: there is nothing to delete."""
        raise Unimplemented(
            "an operation is a view of its job, rollout or deployment, which is kept as history: there is nothing to "
            "delete; to end it, call CancelOperation"
        )

    def _wire(self, tx: Tx, operations: Sequence[Operation]) -> list[lro.Operation]:
        deployments = [o.subject for o in operations if isinstance(o.subject, Deployment) and o.error is None]
        views: dict[str, deployments_wire.DeploymentView] = {}
        if deployments:
            service = self._core.services.get(DeploymentService)
            replicas = service.replicas_of(tx, [d.id for d in deployments])
            weights = service.weights_of(tx, deployments)
            views = {d.id: deployments_wire.DeploymentView(d, replicas[d.id], weights[d.id]) for d in deployments}
        return [self._one(tx, o, views) for o in operations]

    def _one(self, tx: Tx, found: Operation, views: Mapping[str, deployments_wire.DeploymentView]) -> lro.Operation:
        message = lro.Operation(name=found.name, done=found.done)
        message.metadata.Pack(_metadata(found))
        if found.error is not None:
            message.error.CopyFrom(Status.FromString(wire_errors.to_status_details(found.error)))
        elif found.done:
            message.response.Pack(self._resource(tx, found, views))
        return message

    def _resource(self, tx: Tx, found: Operation, views: Mapping[str, deployments_wire.DeploymentView]) -> Message:
        subject = found.subject
        if isinstance(subject, Job):
            return training_wire.job_to_wire(subject)
        if isinstance(subject, Rollout):
            decisions = self._core.services.get(DeploymentService).decisions(tx, subject)
            return deployments_wire.rollout_to(subject, decisions)
        return deployments_wire.deployment_to(views[subject.id])


def _metadata(found: Operation) -> pb.OperationMetadata:
    subject, stamp = found.subject, deployments_wire.timestamp
    return pb.OperationMetadata(
        name=found.name,
        resource=subject.name,
        kind=_KINDS[found.kind],
        state=subject.state.value,
        state_reason=subject.state_reason,
        stage=found.stage,
        progress=found.progress,
        create_time=stamp(subject.created),
        start_time=stamp(found.started),
        update_time=stamp(found.updated),
        end_time=stamp(subject.ended),
        cancel_requested=found.cancel_requested,
    )


def _project(name: str) -> str | None:
    """Return the project whose operations are listed; None: of all."""
    if name in ("", OPERATIONS):
        return None
    rest = name.removeprefix(f"{OPERATIONS}/")
    if rest == name:
        problem = f"{name!r} is neither {OPERATIONS} nor {OPERATIONS}/{ProjectName.PATTERN}"
        raise InvalidArgument(problem, reason="BAD_NAME", violations=[Violation("name", problem, "BAD_NAME")])
    return ProjectName.parse(rest, "name").project


def _until(request: lro.WaitOperationRequest) -> float:
    """Return until when to wait, on the clock's `monotonic`."""
    now, deadline = time.monotonic(), current().deadline
    # The interceptor gives every unary call a deadline; without one a wait answers at once.
    left_s = 0.0 if deadline is None else max(0.0, deadline - now)
    wait_s = left_s - min(ANSWER_MARGIN_S, left_s / 4)
    if request.HasField("timeout"):
        timeout_s = request.timeout.seconds + request.timeout.nanos / 1e9
        if timeout_s < 0:
            problem = f"{timeout_s:g} s is negative: give 0 or more, or leave it out to wait until the deadline"
            raise InvalidArgument(f"timeout cannot be used: {problem}", violations=[Violation("timeout", problem)])
        wait_s = min(wait_s, timeout_s)
    return now + wait_s


class _Neighbours:
    """The areas that own what is cancelled, asked at every call."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def cancel_job(self, tx: Tx, job: Job) -> None:
        self._core.services.get(TrainingService).cancel(tx, job.id, WHY)

    def abort_rollout(self, tx: Tx, rollout: Rollout) -> None:
        service = self._core.services.get(DeploymentService)
        service.control_rollout(tx, rollout.name, RolloutControl.ABORT, WHY)

    def stop_deployment(self, tx: Tx, deployment: Deployment) -> None:
        self._core.services.get(DeploymentService).stop(tx, deployment.name, WHY)


def install(core: Core) -> Installed:
    """Add google.longrunning.Operations."""
    service = core.services.add(OperationService(_Neighbours(core)))
    servicer = OperationsServicer(core, service)
    return Installed(servicers=[(operations_pb2_grpc.add_OperationsServicer_to_server, servicer)])
