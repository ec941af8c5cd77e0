"""TrainingService on the wire, and the installation of training: service, runner, triggers."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish.v1 import training_service_pb2 as svc
from pilotfish.v1 import training_service_pb2_grpc
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.deployments.commands import DeployCommand
from pilotfish_control_plane.deployments.model import Stage
from pilotfish_control_plane.deployments.rollout_model import plan_from_json
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.experiments.service import ExperimentService
from pilotfish_control_plane.features.service import FeatureService
from pilotfish_control_plane.grpc_server import training_wire as wire
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.names import DEFAULT_PROJECT, JobName, PipelineName
from pilotfish_control_plane.prediction_log import PredictionLog
from pilotfish_control_plane.registry.model import NewVersion, Version, VersionStatus
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import training as rows
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.paging import Listing, PageRequest, fetch_page
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.job_files import Champion, JobInputs
from pilotfish_control_plane.training.model import Delivery, Job, JobState, TriggerCommand
from pilotfish_control_plane.training.reconciler import PipelineTriggers
from pilotfish_control_plane.training.runner import JobRunner
from pilotfish_control_plane.training.service import TrainingService

__all__ = ["TrainingServicer", "install"]

WATCH_SWEEP_S = 5.0
_P, _J = rows.pipelines.c, rows.jobs.c
PIPELINES = Listing(
    key=Scalar(_P.id),
    fields={"name": Scalar(_P.id), "model": Scalar(_P.model)},
    orders={"name": Scalar(_P.id)},
    default_order="name",
)
JOBS = Listing(
    key=Scalar(_J.number, Kind.NUMBER),
    fields={
        "state": Scalar(_J.state, choices={s.value: s.value for s in JobState}),
        "trigger": Scalar(_J.trigger),
        "pipeline": Scalar(_J.pipeline),
        "model": Scalar(_J.model),
    },
    orders={"number": Scalar(_J.number, Kind.NUMBER)},
    default_order="number desc",
)


def _pipeline_name(text: str, field: str = "name") -> PipelineName:
    return PipelineName.parse(text, field) if "/" in text else PipelineName(DEFAULT_PROJECT, text)


def _job_name(text: str) -> JobName | str:
    if not text:
        raise InvalidArgument("which job?", violations=[Violation("name", "is empty")])
    return JobName.parse(text, "name") if "/" in text else text


class TrainingServicer(training_service_pb2_grpc.TrainingServiceServicer):
    """Checks and converts; the work is in `training`."""

    def __init__(self, core: Core, service: TrainingService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service

    async def CreatePipeline(self, request: svc.CreatePipelineRequest, context: Any) -> svc.CreatePipelineResponse:
        """See the contract."""
        found = wire.pipeline_from_wire(
            request.pipeline, request.project or DEFAULT_PROJECT, request.pipeline_id, self._core.clock.now()
        )
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.CreatePipelineResponse(pipeline=wire.pipeline_to_wire(self._service.create(tx, found))),
        )

    async def GetPipeline(self, request: svc.GetPipelineRequest, context: Any) -> svc.GetPipelineResponse:
        """See the contract."""
        name = _pipeline_name(request.name)
        return await self._core.mutations.read(
            lambda tx: svc.GetPipelineResponse(
                pipeline=wire.pipeline_to_wire(self._service.get(tx, name.project, name.pipeline, request.revision))
            )
        )

    async def ListPipelines(self, request: svc.ListPipelinesRequest, context: Any) -> svc.ListPipelinesResponse:
        """See the contract."""
        project = request.project or DEFAULT_PROJECT

        def read(tx: Tx) -> svc.ListPipelinesResponse:
            asked = PageRequest(request.page_size, request.page_token, request.filter, scope=project)
            query = select(rows.pipelines).where(_P.project == project)
            page = fetch_page(tx.conn, query, PIPELINES, asked, lambda row: self._service.get(tx, project, row.id))
            return svc.ListPipelinesResponse(
                pipelines=[wire.pipeline_to_wire(p) for p in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(read)

    async def UpdatePipeline(self, request: svc.UpdatePipelineRequest, context: Any) -> svc.UpdatePipelineResponse:
        """See the contract."""
        name = _pipeline_name(request.pipeline.name, "pipeline.name")
        found = wire.pipeline_from_wire(request.pipeline, name.project, name.pipeline, self._core.clock.now())
        fields = list(request.update_mask.paths)
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.UpdatePipelineResponse(
                pipeline=wire.pipeline_to_wire(self._service.update(tx, found, fields, request.pipeline.etag))
            ),
        )

    async def TriggerPipeline(self, request: svc.TriggerPipelineRequest, context: Any) -> svc.TriggerPipelineResponse:
        """See the contract."""
        name = _pipeline_name(request.pipeline, "pipeline")
        delivery = wire.delivery_from_wire(request.delivery)
        command = TriggerCommand(name.pipeline, request.reason or "manual", "manual", name.project, delivery)
        return await self._core.mutations.mutate(
            request, lambda tx: svc.TriggerPipelineResponse(job=wire.job_to_wire(self._service.trigger(tx, command)))
        )

    async def GetJob(self, request: svc.GetJobRequest, context: Any) -> svc.GetJobResponse:
        """See the contract."""
        name = _job_name(request.name)
        return await self._core.mutations.read(
            lambda tx: svc.GetJobResponse(job=wire.job_to_wire(self._service.named(tx, name)))
        )

    async def ListJobs(self, request: svc.ListJobsRequest, context: Any) -> svc.ListJobsResponse:
        """See the contract."""

        def read(tx: Tx) -> svc.ListJobsResponse:
            query = select(rows.jobs)
            if request.parent:
                name = _pipeline_name(request.parent, "parent")
                self._service.get(tx, name.project, name.pipeline)
                query = query.where(_J.project == name.project, _J.pipeline == name.pipeline)
            asked = PageRequest(request.page_size, request.page_token, request.filter, scope=request.parent)
            page = fetch_page(tx.conn, query, JOBS, asked, rows.job_from)
            return svc.ListJobsResponse(
                jobs=[wire.job_to_wire(j) for j in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(read)

    async def WatchJob(self, request: svc.WatchJobRequest, context: Any) -> AsyncIterator[svc.WatchJobResponse]:
        """See the contract."""
        name, after, shown = _job_name(request.name), request.after_sequence, ""
        job_id = (await self._core.mutations.read(lambda tx: self._service.named(tx, name))).id
        with self._core.wakes.subscribe(f"job.{job_id}") as wake:
            while True:
                job = await self._core.mutations.read(lambda tx: self._service.job(tx, job_id))
                lines = await self._core.mutations.read(lambda tx, n=after: self._service.progress(tx, job_id, n))  # type: ignore[misc]
                for line in lines:
                    after = line.sequence
                    yield svc.WatchJobResponse(progress=wire.progress_to_wire(line), job=wire.job_to_wire(job))
                standing = f"{job.state}/{job.attempt}/{job.state_reason}"
                if standing != shown and not lines:
                    yield svc.WatchJobResponse(job=wire.job_to_wire(job))
                shown = standing
                if job.state.has_ended:
                    if lines:
                        yield svc.WatchJobResponse(job=wire.job_to_wire(job))
                    return
                await wake.wait(WATCH_SWEEP_S)

    async def CancelJob(self, request: svc.CancelJobRequest, context: Any) -> svc.CancelJobResponse:
        """See the contract."""
        name = _job_name(request.name)

        def cancel(tx: Tx) -> svc.CancelJobResponse:
            job = self._service.named(tx, name)
            return svc.CancelJobResponse(job=wire.job_to_wire(self._service.cancel(tx, job.id, request.reason)))

        return await self._core.mutations.mutate(request, cancel)

    async def RetryJob(self, request: svc.RetryJobRequest, context: Any) -> svc.RetryJobResponse:
        """See the contract."""
        name = _job_name(request.name)
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.RetryJobResponse(
                job=wire.job_to_wire(self._service.retry(tx, self._service.named(tx, name).id))
            ),
        )


class _Neighbours:
    """The other areas, asked at every call."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def features(self) -> FeatureService:
        return self._core.services.get(FeatureService)

    def begin_version(self, tx: Tx, new: NewVersion) -> Version:
        return self._core.services.get(RegistryService).begin_version(tx, new)

    def complete_version(self, tx: Tx, version_id: str, new: NewVersion) -> Version:
        return self._core.services.get(RegistryService).complete_version(tx, version_id, new)

    def fail_version(self, tx: Tx, version_id: str, reason: str, metrics: Mapping[str, float]) -> None:
        try:
            self._core.services.get(RegistryService).fail_version(tx, version_id, reason, metrics)
        except (NotFound, FailedPrecondition):
            # It failed before, or somebody removed it: nothing is left to mark.
            return

    def deliver(self, tx: Tx, project: str, version_name: str, delivery: Delivery) -> str:
        plan = plan_from_json(delivery.plan) if delivery.plan else None
        command = DeployCommand(
            version_name, Stage(delivery.stage), project, delivery.endpoint, plan=plan, automation=True
        )
        service = self._core.services.get(DeploymentService)
        current = service.current(tx, project, delivery.endpoint, Stage.PRODUCTION)
        if current is not None:
            # A successor is watched and scaled as what it means to replace.
            command = dataclasses.replace(command, config=current.config)
        deployed = service.deploy(tx, command)
        return deployed.deployment.name if deployed.deployment is not None else ""

    def record(self, tx: Tx, job: Job, parameters: Mapping[str, Any], metrics: Mapping[str, float], ok: bool) -> None:
        state = "finished" if ok else "failed"
        tags = {"pipeline": job.pipeline, "trigger": job.trigger}
        experiments = self._core.services.get(ExperimentService)
        experiments.record(tx, "training", state, job.model, job.name, parameters, metrics, tags, project=job.project)


def install(core: Core) -> Installed:
    """Offer training to the other areas, and run its jobs on this machine."""
    service = core.services.add(TrainingService(_Neighbours(core)))

    def champion_of(tx: Tx, project: str, model: str) -> Champion | None:
        registry, artifacts = core.services.get(RegistryService), core.services.get(ArtifactService)
        asked = PageRequest(1, filter='status = "production"', order_by="number desc")
        found: Sequence[Version] = registry.list_versions(tx, project, model, asked).items
        if not found:
            return None
        version = registry.get_version(tx, project, model, found[0].number)
        directory = artifacts.local_path(version.artifact_path)
        if version.status is not VersionStatus.PRODUCTION or directory is None:
            return None
        profile = registry.profile(tx, version)
        names = tuple(str(n) for n in version.signature.get("feature_names", ()))
        return Champion(version.number, str(directory), profile[1] if profile else "", names)

    def inputs_of(tx: Tx, job: Job) -> JobInputs:
        pipeline = service.get(tx, job.project, job.pipeline, job.revision)
        feature_set = str(pipeline.definition.get("feature_config", {}).get("feature_set_id", ""))
        definition = None
        if feature_set:
            found_set = core.services.get(FeatureService).get(tx, job.project, feature_set)
            definition = {"name": found_set.id, "version": found_set.revision, **found_set.definition}
        deployments: dict[str, Sequence[str]] = {}
        for source in pipeline.definition.get("data_sources", ()):
            if source.get("type") == "prediction_log":
                endpoint = str(source.get("endpoint", ""))
                found = core.services.get(DeploymentService).of_endpoint(tx, job.project, endpoint)
                deployments[endpoint] = [d.id for d in found]
        return JobInputs(job, pipeline, definition, champion_of(tx, job.project, job.model), deployments, tx.now)

    settings = core.settings
    roots = [str(core.paths.home / "data"), *(r for r in settings.data_roots.split(":") if r)]
    runner = JobRunner(
        core.db,
        service,
        lambda: core.services.get(ArtifactService),
        lambda: core.services.get(PredictionLog),
        inputs_of,
        name=_runner_name(core),
        directory=core.paths.home / "jobs",
        slots=settings.training_jobs,
        roots=roots,
        private=[n for n in settings.private_networks.split(",") if n],
    )
    triggers = PipelineTriggers(
        service, lambda tx, serial: core.services.get(MonitoringService).evidence_after(tx, serial)
    )
    return Installed(
        servicers=[(training_service_pb2_grpc.add_TrainingServiceServicer_to_server, TrainingServicer(core, service))],
        reconcilers=[triggers],
        background=[runner],
    )


def _runner_name(core: Core) -> str:
    """Return this machine's name among runners; it stays the same over restarts of the control plane."""
    path = core.paths.run / "runner"
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()
