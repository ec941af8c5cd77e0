"""ExperimentService on the wire.

Owns the conversion. It decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC
from typing import Any, cast  # Any: grpc's contexts carry no useful type
from weakref import WeakValueDictionary

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import experiment_pb2 as pb
from pilotfish.v1 import experiment_service_pb2 as svc
from pilotfish.v1 import experiment_service_pb2_grpc as svc_grpc
from pilotfish_control_plane.core import ActionHandler, Core, Installed, external
from pilotfish_control_plane.experiments.mlflow import MlflowServer
from pilotfish_control_plane.experiments.model import Point, Run, RunKind, RunState
from pilotfish_control_plane.experiments.reconciler import EXPORT_RUN, RunExports
from pilotfish_control_plane.experiments.service import ExperimentService
from pilotfish_control_plane.grpc_server.registry_wire import struct_from_wire, struct_to_wire, time_to_wire
from pilotfish_control_plane.names import RunName, project_id
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.storage.paging import PageRequest
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import JsonObject

__all__ = ["ExperimentServicer", "install", "run_to_wire"]

# The generated enums' numbers are ints to everything but their types.
_KINDS = {kind: cast("pb.RunKind", pb.RunKind.Value(f"RUN_KIND_{kind.name}")) for kind in RunKind}
_STATES = {state: cast("pb.RunState", pb.RunState.Value(f"RUN_STATE_{state.name}")) for state in RunState}
_STATES_BACK: dict[int, RunState] = {number: state for state, number in _STATES.items()}


def run_to_wire(run: Run) -> pb.Run:
    """Return a run on the wire."""
    return pb.Run(
        name=run.name,
        kind=_KINDS[run.kind],
        state=_STATES[run.state],
        experiment=run.experiment,
        subject=run.subject,
        parameters=struct_to_wire(run.parameters),
        metrics=dict(run.metrics),
        tags=dict(run.tags),
        start_time=time_to_wire(run.started_at),
        end_time=None if run.ended_at is None else time_to_wire(run.ended_at),
        author=run.author,
    )


def _point_to_wire(point: Point) -> pb.MetricPoint:
    time = None if point.time is None else time_to_wire(point.time)
    return pb.MetricPoint(metric=point.metric, step=point.step, value=point.value, time=time)


def _points(points: Sequence[pb.MetricPoint]) -> list[Point]:
    read = []
    for i, point in enumerate(points):
        try:
            time = point.time.ToDatetime(UTC) if point.HasField("time") else None
        except (ValueError, OverflowError) as error:
            field = f"points[{i}].time"
            raise InvalidArgument(f"{field}: {error}", violations=[Violation(field, str(error))]) from error
        read.append(Point(point.metric, point.step, point.value, time))
    return read


class ExperimentServicer(svc_grpc.ExperimentServiceServicer):
    """The calls of ExperimentService."""

    def __init__(self, core: Core, service: ExperimentService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service

    async def CreateRun(self, request: svc.CreateRunRequest, context: Any) -> svc.CreateRunResponse:
        """Begin a run."""
        project = project_id(request.project)
        parameters = struct_from_wire(request.parameters, "parameters")

        def create(tx: Tx) -> svc.CreateRunResponse:
            run = self._service.create_run(tx, project, request.experiment, parameters, dict(request.tags))
            return svc.CreateRunResponse(run=run_to_wire(run))

        return await self._core.mutations.mutate(request, create)

    async def LogRun(self, request: svc.LogRunRequest, context: Any) -> svc.LogRunResponse:
        """Add to a run, and perhaps end it."""
        name = RunName.read(request.name)
        if request.state and request.state not in _STATES_BACK:
            text = f"is {request.state}, which is unknown"
            raise InvalidArgument(f"state {text}", violations=[Violation("state", text)])
        state = _STATES_BACK.get(request.state)
        parameters = struct_from_wire(request.parameters, "parameters")
        points = _points(request.points)

        def add(tx: Tx) -> svc.LogRunResponse:
            run = self._service.log_run(
                tx,
                name.project,
                name.run,
                points=points,
                parameters=parameters,
                tags=dict(request.tags),
                state=state,
            )
            return svc.LogRunResponse(run=run_to_wire(run))

        return await self._core.mutations.mutate(request, add)

    async def GetRun(self, request: svc.GetRunRequest, context: Any) -> svc.GetRunResponse:
        """Get a run with its series."""
        name = RunName.read(request.name)

        def get(tx: Tx) -> tuple[Run, list[Point]]:
            run = self._service.get_run(tx, name.project, name.run)
            return run, self._service.points(tx, run.id)

        run, points = await self._core.mutations.read(get)
        return svc.GetRunResponse(run=run_to_wire(run), points=[_point_to_wire(p) for p in points])

    async def ListRuns(self, request: svc.ListRunsRequest, context: Any) -> svc.ListRunsResponse:
        """List runs, newest first."""
        project = project_id(request.project)
        asked = PageRequest(request.page_size, request.page_token, request.filter, scope=project)
        page = await self._core.mutations.read(lambda tx: self._service.list_runs(tx, project, asked))
        return svc.ListRunsResponse(runs=[run_to_wire(r) for r in page.items], next_page_token=page.next_page_token)

    async def CompareRuns(self, request: svc.CompareRunsRequest, context: Any) -> svc.CompareRunsResponse:
        """Compare parameters and metrics."""
        names = [RunName.read(name, f"names[{i}]") for i, name in enumerate(request.names)]
        rows = await self._core.mutations.read(lambda tx: self._service.compare(tx, names))
        return svc.CompareRunsResponse(
            rows=[
                svc.CompareRunsResponse.Row(
                    key=row.key, metric=row.metric, values_json=row.values_json, differs=row.differs
                )
                for row in rows
            ]
        )


def _exporter(core: Core, service: ExperimentService) -> ActionHandler:
    """Return what performs `export_run`: reads the run as it is now and sends it."""
    server = MlflowServer(core.settings.mlflow_uri, core.settings.mlflow_token)
    # Two exports of one run at once would both find no copy, and make two.
    turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def export(action: Action) -> JsonObject | None:
        project, run_id = str(action.payload["project"]), str(action.payload["run"])

        def get(tx: Tx) -> tuple[Run, list[Point]]:
            return service.get_run(tx, project, run_id), service.points(tx, run_id)

        async with turns.setdefault(run_id, asyncio.Lock()):
            run, points = await core.db.read(get)
            return {"mlflow_run": await asyncio.to_thread(server.send, run, points)}

    return external(export)


def install(core: Core) -> Installed:
    """Add ExperimentService, and the export to MLflow where a server is set."""
    service = core.services.add(ExperimentService())
    exports = bool(core.settings.mlflow_uri)
    return Installed(
        servicers=[(svc_grpc.add_ExperimentServiceServicer_to_server, ExperimentServicer(core, service))],
        reconcilers=[RunExports()] if exports else [],
        executors={EXPORT_RUN: _exporter(core, service)} if exports else {},
    )
