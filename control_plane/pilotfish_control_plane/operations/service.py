"""Operations: found, listed, cancelled, each in the caller's transaction.

Owns no state: it reads jobs, rollouts and deployments, and cancels through the services that own them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pilotfish.errors import NotFound
from pilotfish_control_plane.deployments.changes import WATCH_TOPIC
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.deployments.rollout_model import Rollout
from pilotfish_control_plane.names import OperationRef
from pilotfish_control_plane.operations.model import Operation, OperationKind, Subject
from pilotfish_control_plane.operations.rules import of_deployment, of_job, of_rollout
from pilotfish_control_plane.storage import operations as rows
from pilotfish_control_plane.storage import training as training_rows
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.model import Job

__all__ = ["Neighbours", "OperationService", "topic_of"]

_KINDS = {"jobs": OperationKind.JOB, "rollouts": OperationKind.ROLLOUT, "deployments": OperationKind.DEPLOYMENT}


class Neighbours(Protocol):
    """What cancelling needs of the other areas."""

    def cancel_job(self, tx: Tx, job: Job) -> None:
        """Cancel a job that has not ended."""
        ...

    def abort_rollout(self, tx: Tx, rollout: Rollout) -> None:
        """Abort a rollout that may still succeed."""
        ...

    def stop_deployment(self, tx: Tx, deployment: Deployment) -> None:
        """Stop a deployment that has not been ready."""
        ...


class OperationService:
    """Views of long work."""

    def __init__(self, neighbours: Neighbours) -> None:
        """Cancel through `neighbours`."""
        self._neighbours = neighbours

    def get(self, tx: Tx, name: str) -> Operation:
        """Return an operation.

        Raises:
            InvalidArgument: it is no name of an operation.
            NotFound: there is no such job, rollout or deployment.
        """
        ref = OperationRef.parse(name)
        found = rows.load(tx.conn, [rows.Ref(_KINDS[ref.collection], ref.id)])
        # An id alone is not enough: the name says in which project the caller's role was looked at.
        if not found or (ref.resource and found[0].name != ref.resource):
            raise NotFound(f"there is no operation {name}", reason="OPERATION_NOT_FOUND")
        return _views(tx, found)[0]

    def list_operations(self, tx: Tx, project: str | None, request: PageRequest) -> Page[Operation]:
        """Return a page of operations, newest first; project None: of all projects."""
        page = rows.list_operations(tx.conn, project, request)
        return Page(_views(tx, rows.load(tx.conn, page.items)), page.next_page_token)

    def cancel(self, tx: Tx, operation: Operation) -> None:
        """Ask for the end of what an operation shows; one that is done or being cancelled stays as it is."""
        subject = operation.subject
        if operation.done or operation.cancel_requested:
            return
        if isinstance(subject, Job):
            self._neighbours.cancel_job(tx, subject)
        elif isinstance(subject, Deployment):
            self._neighbours.stop_deployment(tx, subject)
        elif subject.state.can_move:
            self._neighbours.abort_rollout(tx, subject)


def topic_of(operation: Operation) -> str:
    """Return what is woken whenever the operation moves."""
    return f"{'job' if operation.kind is OperationKind.JOB else WATCH_TOPIC}.{operation.subject.id}"


def _views(tx: Tx, subjects: Sequence[Subject]) -> list[Operation]:
    told = training_rows.told_last(tx.conn, [s.id for s in subjects if isinstance(s, Job)])
    views = []
    for subject in subjects:
        if isinstance(subject, Job):
            views.append(of_job(subject, told.get(subject.id)))
        elif isinstance(subject, Rollout):
            views.append(of_rollout(subject))
        else:
            views.append(of_deployment(subject))
    return views
