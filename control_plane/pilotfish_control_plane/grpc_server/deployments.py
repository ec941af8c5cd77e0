"""DeploymentService on the wire.

Owns the conversion of each call and the watch streams. What a call does is in `deployments.service`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from pilotfish.errors import NotFound
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as calls
from pilotfish.v1 import deployment_service_pb2_grpc
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.deployments.changes import WATCH_TOPIC
from pilotfish_control_plane.deployments.commands import DeployCommand, PromoteCommand
from pilotfish_control_plane.deployments.model import Deployment, Endpoint, Stage
from pilotfish_control_plane.deployments.reconciler import DeploymentReconciler, LoadReconciler, RolloutReconciler
from pilotfish_control_plane.deployments.rollout_model import Rollout
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.grpc_server import deployments_wire as wire
from pilotfish_control_plane.grpc_server.deployment_neighbours import neighbours_of
from pilotfish_control_plane.names import (
    DEFAULT_PROJECT,
    EndpointName,
    ProjectName,
    VersionRef,
    project_id,
)
from pilotfish_control_plane.registry.model import Version
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage.paging import PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["DeploymentServicer", "install"]

M = TypeVar("M", bound=Message)

WATCH_SWEEP_S = 5.0


class DeploymentServicer(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Serves the calls of DeploymentService."""

    def __init__(self, core: Core, service: DeploymentService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service

    # Endpoints

    async def CreateEndpoint(self, request: calls.CreateEndpointRequest, context: Any) -> calls.CreateEndpointResponse:
        """Create an endpoint for a model."""

        def create(tx: Tx) -> calls.CreateEndpointResponse:
            made = self._service.create_endpoint(tx, project_id(request.project), request.endpoint_id, request.model)
            return calls.CreateEndpointResponse(endpoint=self._endpoint(tx, made))

        return await self._core.mutations.mutate(request, create)

    async def GetEndpoint(self, request: calls.GetEndpointRequest, context: Any) -> calls.GetEndpointResponse:
        """Return an endpoint."""

        def get(tx: Tx) -> calls.GetEndpointResponse:
            found = self._service.endpoint(tx, DEFAULT_PROJECT, request.name)
            return calls.GetEndpointResponse(endpoint=self._endpoint(tx, found))

        return await self._core.mutations.read(get)

    async def ListEndpoints(self, request: calls.ListEndpointsRequest, context: Any) -> calls.ListEndpointsResponse:
        """Return a page of endpoints."""

        def listed(tx: Tx) -> calls.ListEndpointsResponse:
            project = project_id(request.project)
            page = self._service.list_endpoints(
                tx, project, PageRequest(request.page_size, request.page_token, request.filter, scope=project)
            )
            return calls.ListEndpointsResponse(
                endpoints=[self._endpoint(tx, e) for e in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(listed)

    async def DeleteEndpoint(self, request: calls.DeleteEndpointRequest, context: Any) -> calls.DeleteEndpointResponse:
        """Delete an endpoint without current deployments."""

        def delete(tx: Tx) -> calls.DeleteEndpointResponse:
            name = EndpointName.read(request.name)
            self._service.delete_endpoint(tx, name.project, name.endpoint)
            return calls.DeleteEndpointResponse()

        return await self._core.mutations.mutate(request, delete)

    # In and out

    async def Deploy(self, request: calls.DeployRequest, context: Any) -> calls.DeployResponse:
        """Deploy a version to a stage of an endpoint."""
        stage = wire.stage_from(request.stage)
        command = DeployCommand(
            version_ref=request.version,
            stage=stage,
            endpoint=request.endpoint,
            config=wire.deployment_config_from(request.config),
            plan=wire.plan_from(request.plan, stage) if request.HasField("plan") else None,
            check_only=request.validate_only,
        )
        command = await self._with_artifact(command)

        def deploy(tx: Tx) -> calls.DeployResponse:
            deployed = self._service.deploy(tx, command)
            response = calls.DeployResponse(checks=wire.readiness_to(deployed.checks))
            if deployed.deployment is not None:
                response.deployment.CopyFrom(self._deployment(tx, deployed.deployment, anonymous=command.check_only))
            if deployed.rollout is not None and not command.check_only:
                response.rollout = deployed.rollout.name
            return response

        return await self._core.mutations.mutate(request, deploy)

    async def _with_artifact(self, command: DeployCommand) -> DeployCommand:
        """Return the command with its version pinned and its files compared with what was registered."""
        ref = VersionRef.parse(command.version_ref, "version", command.project)

        def find(tx: Tx) -> Version | None:
            try:
                return self._core.services.get(RegistryService).find(tx, ref)
            except NotFound:
                return None

        version = await self._core.mutations.read(find)
        if version is None or not version.artifact_path:
            return command
        # Not in the transaction: hashing a large artifact takes longer than any transaction may.
        artifacts = self._core.services.get(ArtifactService)
        found = await asyncio.to_thread(artifacts.verify, version.artifact_path, version.files)
        return dataclasses.replace(command, version_ref=version.name, artifact_problems=tuple(found))

    async def Promote(self, request: calls.PromoteRequest, context: Any) -> calls.PromoteResponse:
        """Promote a deployment to a later stage under criteria."""
        target = wire.stage_from(request.target_stage, "target_stage") if request.target_stage else None
        criteria = wire.criteria_from(request.criteria)

        def promote(tx: Tx) -> calls.PromoteResponse:
            source = self._service.find(tx, request.deployment)
            stages = list(Stage)
            later = target or stages[min(source.stage.rank + 1, len(stages) - 1)]
            plan = wire.plan_from(request.plan, later) if request.HasField("plan") else None
            done = self._service.promote(tx, PromoteCommand(source.name, target, criteria, plan))
            response = calls.PromoteResponse(promoted=done.promoted, decision=wire.decision_to(done.decision))
            if request.validate_only:
                response.decision.name = ""
            if done.deployment is not None:
                response.deployment.CopyFrom(self._deployment(tx, done.deployment, anonymous=request.validate_only))
            if done.rollout is not None and not request.validate_only:
                response.rollout = done.rollout.name
            return response

        return await self._core.mutations.mutate(request, promote)

    async def Rollback(self, request: calls.RollbackRequest, context: Any) -> calls.RollbackResponse:
        """Bring back the previous version of a stage and stop the current one."""

        def rollback(tx: Tx) -> calls.RollbackResponse:
            done = self._service.rollback(tx, request.deployment, request.reason)
            response = calls.RollbackResponse(stopped=self._deployment(tx, done.stopped))
            if done.restored is not None:
                response.restored.CopyFrom(self._deployment(tx, done.restored))
            return response

        return await self._core.mutations.mutate(request, rollback)

    async def StopDeployment(self, request: calls.StopDeploymentRequest, context: Any) -> calls.StopDeploymentResponse:
        """Stop a deployment."""

        def stop(tx: Tx) -> calls.StopDeploymentResponse:
            stopped = self._service.stop(tx, request.deployment, request.reason, request.force)
            return calls.StopDeploymentResponse(deployment=self._deployment(tx, stopped))

        return await self._core.mutations.mutate(request, stop)

    async def ScaleDeployment(
        self, request: calls.ScaleDeploymentRequest, context: Any
    ) -> calls.ScaleDeploymentResponse:
        """Change the replicas or resources of a deployment."""

        def scale(tx: Tx) -> calls.ScaleDeploymentResponse:
            before = self._service.find(tx, request.deployment)
            resources = None
            if request.HasField("resources"):
                resources = wire.resources_from(request.resources, before.config.resources)
            replicas = request.replicas if request.HasField("replicas") else None
            scaled = self._service.scale(tx, before.name, replicas, resources, request.etag)
            return calls.ScaleDeploymentResponse(deployment=self._deployment(tx, scaled))

        return await self._core.mutations.mutate(request, scale)

    async def UpdateDeployment(
        self, request: calls.UpdateDeploymentRequest, context: Any
    ) -> calls.UpdateDeploymentResponse:
        """Change parts of a deployment's configuration."""
        config = wire.deployment_config_from(request.config)

        def update(tx: Tx) -> calls.UpdateDeploymentResponse:
            updated = self._service.update(tx, request.deployment, config, request.update_mask.paths, request.etag)
            return calls.UpdateDeploymentResponse(deployment=self._deployment(tx, updated))

        return await self._core.mutations.mutate(request, update)

    async def SetTraffic(self, request: calls.SetTrafficRequest, context: Any) -> calls.SetTrafficResponse:
        """Set the live weights, shadows and sticky header of an endpoint, whole."""

        def set_traffic(tx: Tx) -> calls.SetTrafficResponse:
            changed = self._service.set_traffic(
                tx,
                request.endpoint,
                wire.weights_from(request.weights),
                wire.shadows_from(request.shadows),
                request.sticky_header,
                request.etag,
            )
            return calls.SetTrafficResponse(routes=wire.routes_to(changed.routes))

        return await self._core.mutations.mutate(request, set_traffic)

    async def ClearQuarantine(
        self, request: calls.ClearQuarantineRequest, context: Any
    ) -> calls.ClearQuarantineResponse:
        """Let automation deploy a version again."""

        def clear(tx: Tx) -> calls.ClearQuarantineResponse:
            cleared = self._service.clear_quarantine(tx, request.endpoint, request.version, request.reason)
            return calls.ClearQuarantineResponse(endpoint=self._endpoint(tx, cleared))

        return await self._core.mutations.mutate(request, clear)

    # Questions

    async def GetDeployment(self, request: calls.GetDeploymentRequest, context: Any) -> calls.GetDeploymentResponse:
        """Return a deployment."""

        def get(tx: Tx) -> calls.GetDeploymentResponse:
            return calls.GetDeploymentResponse(deployment=self._deployment(tx, self._service.find(tx, request.name)))

        return await self._core.mutations.read(get)

    async def ListDeployments(
        self, request: calls.ListDeploymentsRequest, context: Any
    ) -> calls.ListDeploymentsResponse:
        """Return a page of deployments, newest first."""

        def listed(tx: Tx) -> calls.ListDeploymentsResponse:
            project, endpoint = _parent(request.parent)
            scope = f"{project}/{endpoint}/{request.show_ended}"
            page = self._service.list_deployments(
                tx,
                project,
                endpoint,
                request.show_ended,
                PageRequest(request.page_size, request.page_token, request.filter, scope=scope),
            )
            return calls.ListDeploymentsResponse(
                deployments=[wire.deployment_to(v) for v in self._views(tx, page.items)],
                next_page_token=page.next_page_token,
            )

        return await self._core.mutations.read(listed)

    async def ListReplicas(self, request: calls.ListReplicasRequest, context: Any) -> calls.ListReplicasResponse:
        """Return the replicas of a deployment or of an endpoint."""

        def listed(tx: Tx) -> calls.ListReplicasResponse:
            replicas = []
            for deployment in self._below(tx, request.parent, request.show_ended):
                replicas += self._service.replicas(tx, deployment.id, show_ended=request.show_ended)
            return calls.ListReplicasResponse(replicas=[wire.replica_to(r) for r in replicas])

        return await self._core.mutations.read(listed)

    def _below(self, tx: Tx, parent: str, show_ended: bool) -> list[Deployment]:
        if "/deployments/" in parent or ("/" in parent and not parent.startswith("projects/")):
            return [self._service.find(tx, parent)]
        endpoint = self._service.endpoint(tx, DEFAULT_PROJECT, parent)
        if not show_ended:
            return self._service.live(tx, endpoint.project, endpoint.id)
        page = self._service.list_deployments(
            tx, endpoint.project, endpoint.id, True, PageRequest(page_size=1000, scope="replicas")
        )
        return list(page.items)

    async def GetRollout(self, request: calls.GetRolloutRequest, context: Any) -> calls.GetRolloutResponse:
        """Return a rollout."""

        def get(tx: Tx) -> calls.GetRolloutResponse:
            return calls.GetRolloutResponse(rollout=self._rollout(tx, self._service.rollout(tx, request.name)))

        return await self._core.mutations.read(get)

    async def ListRollouts(self, request: calls.ListRolloutsRequest, context: Any) -> calls.ListRolloutsResponse:
        """Return a page of rollouts, newest first."""

        def listed(tx: Tx) -> calls.ListRolloutsResponse:
            project, endpoint = _parent(request.parent)
            page = self._service.list_rollouts(
                tx,
                project,
                endpoint,
                PageRequest(request.page_size, request.page_token, scope=f"{project}/{endpoint}"),
            )
            return calls.ListRolloutsResponse(
                rollouts=[self._rollout(tx, r) for r in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(listed)

    async def ControlRollout(self, request: calls.ControlRolloutRequest, context: Any) -> calls.ControlRolloutResponse:
        """Pause, resume, abort or finish a rollout."""
        control = wire.control_from(request.command)

        def steer(tx: Tx) -> calls.ControlRolloutResponse:
            changed = self._service.control_rollout(tx, request.name, control, request.reason)
            return calls.ControlRolloutResponse(rollout=self._rollout(tx, changed))

        return await self._core.mutations.mutate(request, steer)

    # Watches

    async def WatchDeployment(
        self, request: calls.WatchDeploymentRequest, context: Any
    ) -> AsyncIterator[calls.WatchDeploymentResponse]:
        """Send a deployment at once and again after every change, until it ends."""
        found = await self._core.mutations.read(lambda tx: self._service.find(tx, request.name))

        def read(tx: Tx) -> tuple[pb.Deployment, bool]:
            deployment = self._service.get(tx, found.id)
            return self._deployment(tx, deployment), deployment.state.has_ended

        async for message in self._watch(f"{WATCH_TOPIC}.{found.id}", read):
            yield calls.WatchDeploymentResponse(deployment=message)

    async def WatchRollout(
        self, request: calls.WatchRolloutRequest, context: Any
    ) -> AsyncIterator[calls.WatchRolloutResponse]:
        """Send a rollout at once and again after every change, until it ends."""
        found = await self._core.mutations.read(lambda tx: self._service.rollout(tx, request.name))

        def read(tx: Tx) -> tuple[pb.Rollout, bool]:
            rollout = self._service.rollout(tx, found.name)
            return self._rollout(tx, rollout), not rollout.state.is_open

        async for message in self._watch(f"{WATCH_TOPIC}.{found.id}", read):
            yield calls.WatchRolloutResponse(rollout=message)

    async def _watch(self, topic: str, read: Callable[[Tx], tuple[M, bool]]) -> AsyncIterator[M]:
        """Yield what `read` returns whenever it differs from the last time, until it says that it ended."""
        sent: M | None = None
        # Subscribed before the first read: a change in between wakes instead of being missed.
        with self._core.wakes.subscribe(topic) as wakes:
            while True:
                message, ended = await self._core.mutations.read(read)
                if message != sent:
                    yield message
                    sent = message
                if ended:
                    return
                await wakes.wait(WATCH_SWEEP_S)

    # Views

    def _deployment(self, tx: Tx, deployment: Deployment, *, anonymous: bool = False) -> pb.Deployment:
        return wire.deployment_to(self._view(tx, deployment), anonymous=anonymous)

    def _view(self, tx: Tx, deployment: Deployment) -> wire.DeploymentView:
        return self._views(tx, [deployment])[0]

    def _views(self, tx: Tx, deployments: Sequence[Deployment]) -> list[wire.DeploymentView]:
        replicas = self._service.replicas_of(tx, [d.id for d in deployments])
        weights = self._service.weights_of(tx, deployments)
        return [wire.DeploymentView(d, replicas[d.id], weights[d.id]) for d in deployments]

    def _endpoint(self, tx: Tx, endpoint: Endpoint) -> pb.Endpoint:
        current = self._service.current_ones(tx, endpoint.project, endpoint.id)
        return wire.endpoint_to(
            endpoint,
            self._views(tx, current),
            self._service.quarantines(tx, endpoint),
            self._service.node_facts(tx),
        )

    def _rollout(self, tx: Tx, rollout: Rollout) -> pb.Rollout:
        return wire.rollout_to(rollout, self._service.decisions(tx, rollout))


def _parent(text: str) -> tuple[str, str]:
    """Return project and endpoint of a parent; "": all endpoints of the default project."""
    if not text:
        return DEFAULT_PROJECT, ""
    if text.startswith("projects/") and text.count("/") == 1:
        return ProjectName.parse(text, "parent").project, ""
    name = EndpointName.read(text, "parent")
    return name.project, name.endpoint


def install(core: Core) -> Installed:
    """Add the area to a control plane."""
    neighbours = neighbours_of(core)
    service = core.services.add(DeploymentService(neighbours))
    servicer = DeploymentServicer(core, service)
    return Installed(
        servicers=[(deployment_service_pb2_grpc.add_DeploymentServiceServicer_to_server, servicer)],
        reconcilers=[DeploymentReconciler(service), RolloutReconciler(service), LoadReconciler(neighbours)],
    )
