"""Pipelines and jobs, feature sets, experiment runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from pilotfish.aio.calls import Calls
from pilotfish.errors import DeadlineExceeded
from pilotfish.messages import build, enum_text
from pilotfish.v1 import experiment_pb2, feature_service_pb2, feature_service_pb2_grpc
from pilotfish.v1 import experiment_service_pb2 as exp
from pilotfish.v1 import experiment_service_pb2_grpc as exp_grpc
from pilotfish.v1 import training_pb2 as pb
from pilotfish.v1 import training_service_pb2 as svc
from pilotfish.v1 import training_service_pb2_grpc as svc_grpc

__all__ = ["Experiments", "Features", "Pipelines"]

STUB = svc_grpc.TrainingServiceStub
FEATURES = feature_service_pb2_grpc.FeatureServiceStub
EXPERIMENTS = exp_grpc.ExperimentServiceStub
ENDED = ("succeeded", "rejected", "failed", "cancelled", "timed_out")


class Pipelines:
    """How models are made, and their jobs."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.pipelines`."""
        self._calls = calls
        self._project = project

    def _name(self, pipeline: str) -> str:
        return pipeline if "/" in pipeline else f"projects/{self._project}/pipelines/{pipeline}"

    # Any: plain values in the contract's names.
    async def create(
        self, pipeline: str, definition: Mapping[str, Any] | pb.Pipeline, *, validate_only: bool = False
    ) -> pb.Pipeline:
        """Define a pipeline.

        Raises:
            InvalidArgument: every bad field, unknown source types included.
        """
        request = svc.CreatePipelineRequest(
            project=self._project,
            pipeline_id=pipeline,
            pipeline=build(pb.Pipeline, definition, "pipeline"),
            validate_only=validate_only,
        )
        answer: svc.CreatePipelineResponse = await self._calls.unary(STUB, "CreatePipeline", request)
        return answer.pipeline

    async def get(self, pipeline: str, *, revision: int = 0) -> pb.Pipeline:
        """Return a revision of a pipeline, 0: its newest."""
        request = svc.GetPipelineRequest(name=self._name(pipeline), revision=revision)
        answer: svc.GetPipelineResponse = await self._calls.unary(STUB, "GetPipeline", request)
        return answer.pipeline

    async def update(self, pipeline: str, definition: Mapping[str, Any], fields: Sequence[str] = ()) -> pb.Pipeline:
        """Change the fields named (those of the definition, if none is): a new revision."""
        message = build(pb.Pipeline, definition, "pipeline")
        message.name = self._name(pipeline)
        request = svc.UpdatePipelineRequest(pipeline=message)
        request.update_mask.paths.extend(fields or [f for f in definition if f not in ("name", "model")])
        answer: svc.UpdatePipelineResponse = await self._calls.unary(STUB, "UpdatePipeline", request)
        return answer.pipeline

    async def trigger(
        self,
        pipeline: str,
        *,
        reason: str = "",
        delivery: Mapping[str, Any] | None = None,
        wait: bool = False,
        timeout_s: float = 3600.0,
        progress: Callable[[pb.JobProgress], None] | None = None,
    ) -> pb.Job:
        """Start a job; with `wait`, return it when it has ended.

        Args:
            pipeline: the pipeline.
            reason: why; kept with the job.
            delivery: what is done with the version: {"endpoint", "stage", "plan"}.
            wait: wait for its end, however it ends.
            timeout_s: seconds to wait.
            progress: called with every line of progress while waiting.
        """
        request = svc.TriggerPipelineRequest(pipeline=self._name(pipeline), reason=reason)
        if delivery is not None:
            request.delivery.CopyFrom(build(pb.DeliveryPlan, delivery, "delivery"))
        answer: svc.TriggerPipelineResponse = await self._calls.unary(STUB, "TriggerPipeline", request)
        if not wait:
            return answer.job
        return await self.wait(answer.job.name, timeout_s=timeout_s, progress=progress)

    async def job(self, name: str) -> pb.Job:
        """Return a job by its id or full name."""
        answer: svc.GetJobResponse = await self._calls.unary(STUB, "GetJob", svc.GetJobRequest(name=name))
        return answer.job

    async def jobs(self, pipeline: str = "", *, filter: str = "") -> list[pb.Job]:
        """Return jobs, newest first; pipeline "": of all."""
        request = svc.ListJobsRequest(parent=self._name(pipeline) if pipeline else "", filter=filter, page_size=1000)
        answer: svc.ListJobsResponse = await self._calls.unary(STUB, "ListJobs", request)
        return list(answer.jobs)

    async def watch(self, name: str, *, after_sequence: int = 0) -> AsyncIterator[svc.WatchJobResponse]:
        """Yield every line of progress from the beginning, until the job ends."""
        request = svc.WatchJobRequest(name=name, after_sequence=after_sequence)
        async for answer in self._calls.stream(STUB, "WatchJob", request):
            yield answer

    async def wait(
        self, name: str, *, timeout_s: float = 3600.0, progress: Callable[[pb.JobProgress], None] | None = None
    ) -> pb.Job:
        """Return a job when it has ended, however it ended; over restarts of the control plane too.

        Raises:
            DeadlineExceeded: it did not end in time; it goes on.
        """
        request = svc.WatchJobRequest(name=name)
        async for answer in self._calls.stream(STUB, "WatchJob", request, timeout_s=timeout_s):
            if progress is not None and answer.HasField("progress"):
                progress(answer.progress)
            if enum_text(pb.JobState.DESCRIPTOR, answer.job.state) in ENDED:
                return answer.job  # type: ignore[no-any-return]  # the stream's answers are typed by its method
        raise DeadlineExceeded(f"{name} did not end within {timeout_s:g} s; it goes on")

    async def cancel(self, name: str, *, reason: str = "") -> pb.Job:
        """Cancel a job."""
        request = svc.CancelJobRequest(name=name, reason=reason)
        answer: svc.CancelJobResponse = await self._calls.unary(STUB, "CancelJob", request)
        return answer.job

    async def retry(self, name: str) -> pb.Job:
        """Run a failed, cancelled or timed-out job again under the same id."""
        answer: svc.RetryJobResponse = await self._calls.unary(STUB, "RetryJob", svc.RetryJobRequest(name=name))
        return answer.job

    async def list(self, *, filter: str = "") -> list[pb.Pipeline]:
        """Return every pipeline that the filter matches."""
        request = svc.ListPipelinesRequest(project=self._project, filter=filter, page_size=1000)
        answer: svc.ListPipelinesResponse = await self._calls.unary(STUB, "ListPipelines", request)
        return list(answer.pipelines)


class Features:
    """The feature store."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.features`."""
        self._calls = calls
        self._project = project

    async def put(
        self, feature_set: str, transformations: Sequence[Mapping[str, Any]], *, description: str = ""
    ) -> feature_service_pb2.FeatureSet:
        """Define a feature set, or its next revision."""
        definition = {"transformations": list(transformations), "description": description}
        request = feature_service_pb2.PutFeatureSetRequest(
            project=self._project,
            feature_set_id=feature_set,
            feature_set=build(feature_service_pb2.FeatureSet, definition, "feature_set"),
        )
        answer: feature_service_pb2.PutFeatureSetResponse = await self._calls.unary(FEATURES, "PutFeatureSet", request)
        return answer.feature_set

    async def get(self, feature_set: str, *, revision: int = 0) -> feature_service_pb2.FeatureSet:
        """Return a revision of a feature set, 0: its newest."""
        request = feature_service_pb2.GetFeatureSetRequest(name=feature_set, revision=revision)
        answer: feature_service_pb2.GetFeatureSetResponse = await self._calls.unary(FEATURES, "GetFeatureSet", request)
        return answer.feature_set

    async def statistics(
        self, feature_set: str
    ) -> list[feature_service_pb2.ListFeatureStatisticsResponse.JobStatistics]:
        """Return what every job measured of the features, newest first."""
        request = feature_service_pb2.ListFeatureStatisticsRequest(name=feature_set)
        answer: feature_service_pb2.ListFeatureStatisticsResponse = await self._calls.unary(
            FEATURES, "ListFeatureStatistics", request
        )
        return list(answer.statistics)

    async def list(self) -> list[feature_service_pb2.FeatureSet]:
        """Return the newest revision of every feature set."""
        request = feature_service_pb2.ListFeatureSetsRequest(project=self._project, page_size=1000)
        answer: feature_service_pb2.ListFeatureSetsResponse = await self._calls.unary(
            FEATURES, "ListFeatureSets", request
        )
        return list(answer.feature_sets)


class Experiments:
    """Recorded runs."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.experiments`."""
        self._calls = calls
        self._project = project

    async def create_run(
        self, experiment: str, *, parameters: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> experiment_pb2.Run:
        """Begin a run."""
        request = exp.CreateRunRequest(project=self._project, experiment=experiment, tags=dict(tags or {}))
        if parameters:
            request.parameters.update(dict(parameters))
        answer: exp.CreateRunResponse = await self._calls.unary(EXPERIMENTS, "CreateRun", request)
        return answer.run

    async def log(
        self, run: str, metrics: Mapping[str, float] | None = None, *, step: int = 0, state: str = ""
    ) -> experiment_pb2.Run:
        """Add a value per metric at a step; `state` finished or failed ends the run."""
        values: dict[str, Any] = {
            "name": run,
            "points": [{"metric": k, "step": step, "value": v} for k, v in (metrics or {}).items()],
        }
        request = build(exp.LogRunRequest, values | ({"state": state} if state else {}))
        answer: exp.LogRunResponse = await self._calls.unary(EXPERIMENTS, "LogRun", request)
        return answer.run

    async def run(self, name: str) -> exp.GetRunResponse:
        """Return a run with its series."""
        answer: exp.GetRunResponse = await self._calls.unary(EXPERIMENTS, "GetRun", exp.GetRunRequest(name=name))
        return answer

    async def runs(self, *, filter: str = "") -> list[experiment_pb2.Run]:
        """Return runs, newest first."""
        request = exp.ListRunsRequest(project=self._project, filter=filter, page_size=1000)
        answer: exp.ListRunsResponse = await self._calls.unary(EXPERIMENTS, "ListRuns", request)
        return list(answer.runs)

    async def compare(self, names: Sequence[str]) -> list[exp.CompareRunsResponse.Row]:
        """Return every parameter and metric of some runs side by side."""
        request = exp.CompareRunsRequest(names=names)
        answer: exp.CompareRunsResponse = await self._calls.unary(EXPERIMENTS, "CompareRuns", request)
        return list(answer.rows)
