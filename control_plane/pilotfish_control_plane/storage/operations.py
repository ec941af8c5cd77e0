"""Jobs, rollouts and deployments as one list.

Owns the query over the three tables and its pages; it has no table. The rows themselves are loaded by the modules
that own them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, Text, cast, literal_column, select, union_all

from pilotfish_control_plane.deployments.model import DeploymentState
from pilotfish_control_plane.deployments.rollout_model import RolloutState
from pilotfish_control_plane.operations.model import OperationKind, Subject
from pilotfish_control_plane.storage import deployments, rollouts, training
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.training.model import JobState

__all__ = ["Ref", "list_operations", "load"]


@dataclass(frozen=True, slots=True)
class Ref:
    """Which resource an operation is a view of."""

    kind: OperationKind
    id: str


def _part(kind: OperationKind, table: Table, done: ColumnElement[bool]) -> Select[Any]:
    word = cast(literal_column(f"'{kind.value}'"), Text)
    return select(
        word.label("kind"),
        table.c.id,
        table.c.project,
        table.c.state,
        table.c.created,
        done.label("done"),
        (word + "/" + table.c.id).label("key"),
    )


_J, _R, _D = training.jobs, rollouts.rollouts, deployments.deployments
_ALL = union_all(
    _part(OperationKind.JOB, _J, _J.c.state.in_([s.value for s in JobState if s.has_ended])),
    _part(OperationKind.ROLLOUT, _R, _R.c.state.in_([s.value for s in RolloutState if not s.is_open])),
    _part(OperationKind.DEPLOYMENT, _D, _D.c.state.in_([s.value for s in DeploymentState if not s.is_coming])),
).subquery("operations")

_OPERATIONS = Listing(
    key=Scalar(_ALL.c.key),
    fields={
        "kind": Scalar(_ALL.c.kind, choices={k.value: k.value for k in OperationKind}),
        "done": Scalar(_ALL.c.done, Kind.BOOL),
        "state": Scalar(_ALL.c.state),
    },
    orders={"create_time": Scalar(_ALL.c.created, Kind.TIME)},
    default_order="create_time desc",
)


def list_operations(conn: Connection, project: str | None, request: PageRequest) -> Page[Ref]:
    """Return a page of what operations are views of, newest first; project None: of all projects."""
    query = select(_ALL)
    if project is not None:
        query = query.where(_ALL.c.project == project)
    return fetch_page(conn, query, _OPERATIONS, request, lambda row: Ref(OperationKind(row.kind), row.id))


def load(conn: Connection, refs: Sequence[Ref]) -> list[Subject]:
    """Return the resources that exist, in the order asked for."""
    ids: dict[OperationKind, list[str]] = defaultdict(list)
    for ref in refs:
        ids[ref.kind].append(ref.id)
    found: dict[Ref, Subject] = {}
    for job in training.jobs_by_id(conn, ids[OperationKind.JOB]).values():
        found[Ref(OperationKind.JOB, job.id)] = job
    for rollout in rollouts.rollouts_by_id(conn, ids[OperationKind.ROLLOUT]).values():
        found[Ref(OperationKind.ROLLOUT, rollout.id)] = rollout
    for deployment in deployments.deployments_by_id(conn, ids[OperationKind.DEPLOYMENT]).values():
        found[Ref(OperationKind.DEPLOYMENT, deployment.id)] = deployment
    return [found[ref] for ref in refs if ref in found]
