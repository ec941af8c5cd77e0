"""Endpoints, deployments, traffic and rollouts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from pilotfish.aio.calls import Calls
from pilotfish.errors import DeadlineExceeded, FailedPrecondition, Violation
from pilotfish.messages import build, enum_text
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish.v1 import deployment_service_pb2 as svc
from pilotfish.v1 import deployment_service_pb2_grpc as svc_grpc

__all__ = ["Deployments", "Endpoints"]

STUB = svc_grpc.DeploymentServiceStub


# Any: plain values in the contract's names.
def _deploy_request(
    version: str,
    stage: str,
    endpoint: str,
    config: Mapping[str, Any] | pb.DeploymentConfig | None,
    plan: Mapping[str, Any] | pb.RolloutPlan | None,
) -> svc.DeployRequest:
    request = build(svc.DeployRequest, {"version": version, "endpoint": endpoint, "stage": stage})
    if config is not None:
        request.config.CopyFrom(build(pb.DeploymentConfig, config, "config"))
    if plan is not None:
        request.plan.CopyFrom(build(pb.RolloutPlan, plan, "plan"))
    return request


class Endpoints:
    """Stable names that callers use, and their traffic."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.endpoints`."""
        self._calls = calls
        self._project = project

    def _name(self, endpoint: str) -> str:
        return endpoint if "/" in endpoint else f"projects/{self._project}/endpoints/{endpoint}"

    async def create(self, endpoint: str, model: str) -> pb.Endpoint:
        """Create an endpoint for a model; deploying creates it too."""
        request = svc.CreateEndpointRequest(project=self._project, endpoint_id=endpoint, model=model)
        answer: svc.CreateEndpointResponse = await self._calls.unary(STUB, "CreateEndpoint", request)
        return answer.endpoint

    async def get(self, endpoint: str) -> pb.Endpoint:
        """Return an endpoint with its routes and current deployments."""
        request = svc.GetEndpointRequest(name=self._name(endpoint))
        answer: svc.GetEndpointResponse = await self._calls.unary(STUB, "GetEndpoint", request)
        return answer.endpoint

    async def delete(self, endpoint: str) -> None:
        """Delete an endpoint without current deployments."""
        await self._calls.unary(STUB, "DeleteEndpoint", svc.DeleteEndpointRequest(name=self._name(endpoint)))

    async def set_traffic(
        self,
        endpoint: str,
        weights: Mapping[str, int],
        *,
        shadows: Mapping[str, int] | None = None,
        sticky_header: str = "",
        etag: str = "",
    ) -> pb.RouteTable:
        """Set the live weights of an endpoint, whole.

        Args:
            endpoint: the endpoint.
            weights: stage or deployment's id → basis points; they sum to 10000.
            shadows: deployment's id → share of requests copied to it, basis points.
            sticky_header: header whose value keeps a caller on one deployment.
            etag: of the route table; "": not guarded.

        Raises:
            InvalidArgument: a wrong sum, a negative weight, an unknown or ended target.
            Aborted: somebody changed the table meanwhile.
        """
        request = svc.SetTrafficRequest(
            endpoint=self._name(endpoint),
            weights=[pb.RouteWeight(deployment=k, weight_bp=v) for k, v in weights.items()],
            shadows=[pb.ShadowRoute(deployment=k, fraction_bp=v) for k, v in (shadows or {}).items()],
            sticky_header=sticky_header,
            etag=etag,
        )
        answer: svc.SetTrafficResponse = await self._calls.unary(STUB, "SetTraffic", request)
        return answer.routes

    async def clear_quarantine(self, endpoint: str, version: int, reason: str) -> pb.Endpoint:
        """Let automation deploy a version again."""
        request = svc.ClearQuarantineRequest(endpoint=self._name(endpoint), version=version, reason=reason)
        answer: svc.ClearQuarantineResponse = await self._calls.unary(STUB, "ClearQuarantine", request)
        return answer.endpoint

    async def list(self, *, filter: str = "") -> list[pb.Endpoint]:
        """Return every endpoint that the filter matches."""
        found: list[pb.Endpoint] = []
        token = ""
        while True:
            request = svc.ListEndpointsRequest(project=self._project, filter=filter, page_size=1000, page_token=token)
            answer: svc.ListEndpointsResponse = await self._calls.unary(STUB, "ListEndpoints", request)
            found += answer.endpoints
            token = answer.next_page_token
            if not token:
                return found


class Deployments:
    """Versions in service: deployed, promoted, rolled back, scaled, stopped."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.deployments`."""
        self._calls = calls
        self._project = project

    # Any: plain values in the contract's names.
    async def deploy(
        self,
        version: str,
        *,
        stage: str = "staging",
        endpoint: str = "",
        config: Mapping[str, Any] | pb.DeploymentConfig | None = None,
        plan: Mapping[str, Any] | pb.RolloutPlan | None = None,
        validate_only: bool = False,
        wait: bool = True,
        timeout_s: float = 120.0,
    ) -> pb.Deployment:
        """Deploy a version to a stage and, unless told not to, wait until it serves.

        Args:
            version: "m@3", "m@champion", "m" or a full name.
            stage: development, staging, canary, or production while there is none.
            endpoint: created when it does not exist; "": the model's id.
            config: resources, scaling, health_check, rollback, monitoring.
            plan: how it comes into canary or production.
            validate_only: check only.
            wait: wait for READY.
            timeout_s: seconds to wait.

        Raises:
            FailedPrecondition: readiness checks failed, or it failed to start; every reason is named.
        """
        if validate_only:
            checks = await self.check(version, stage=stage, endpoint=endpoint, config=config, plan=plan)
            failed = [Violation(c.check, c.explanation) for c in checks if not c.passed]
            if failed:
                raise FailedPrecondition(f"{version} cannot be deployed to {stage}", violations=failed)
        request = _deploy_request(version, stage, endpoint, config, plan)
        request.validate_only = validate_only
        answer: svc.DeployResponse = await self._calls.unary(STUB, "Deploy", request)
        if validate_only or not wait:
            return answer.deployment
        return await self.wait(answer.deployment.name, timeout_s=timeout_s)

    async def check(
        self,
        version: str,
        *,
        stage: str = "staging",
        endpoint: str = "",
        config: Mapping[str, Any] | pb.DeploymentConfig | None = None,
        plan: Mapping[str, Any] | pb.RolloutPlan | None = None,
    ) -> list[pb.ReadinessCheck]:
        """Return what is checked before a deployment, each with what was found; change nothing."""
        request = _deploy_request(version, stage, endpoint, config, plan)
        request.validate_only = True
        answer: svc.DeployResponse = await self._calls.unary(STUB, "Deploy", request)
        return list(answer.checks)

    async def promote(
        self,
        deployment: str,
        *,
        target_stage: str = "",
        criteria: Sequence[Mapping[str, Any]] = (),
        plan: Mapping[str, Any] | pb.RolloutPlan | None = None,
        validate_only: bool = False,
    ) -> svc.PromoteResponse:
        """Promote a deployment under criteria; `promoted` says whether, `decision` has a verdict per criterion.

        Args:
            deployment: "{endpoint}/{stage}" or a full name.
            target_stage: "": the next one.
            criteria: such as {"metric": "error_ratio", "comparison": "<=", "bound": 0.01, "min_sample": 100}.
            plan: how it comes in.
            validate_only: judge only.
        """
        values = {"deployment": deployment, "criteria": list(criteria), "validate_only": validate_only}
        request = build(svc.PromoteRequest, values | ({"target_stage": target_stage} if target_stage else {}))
        if plan is not None:
            request.plan.CopyFrom(build(pb.RolloutPlan, plan, "plan"))
        answer: svc.PromoteResponse = await self._calls.unary(STUB, "Promote", request)
        return answer

    async def rollback(self, deployment: str, reason: str) -> svc.RollbackResponse:
        """Bring back the previous version of a stage and stop the current one.

        Raises:
            FailedPrecondition: there is no previous version.
        """
        request = svc.RollbackRequest(deployment=deployment, reason=reason)
        answer: svc.RollbackResponse = await self._calls.unary(STUB, "Rollback", request)
        return answer

    async def stop(self, deployment: str, *, reason: str = "", force: bool = False) -> pb.Deployment:
        """Stop a deployment; one with live traffic only with `force`."""
        request = svc.StopDeploymentRequest(deployment=deployment, reason=reason, force=force)
        answer: svc.StopDeploymentResponse = await self._calls.unary(STUB, "StopDeployment", request)
        return answer.deployment

    async def scale(
        self, deployment: str, replicas: int | None = None, *, resources: Mapping[str, float] | None = None
    ) -> pb.Deployment:
        """Change the replicas or resources of a deployment."""
        request = svc.ScaleDeploymentRequest(deployment=deployment)
        if replicas is not None:
            request.replicas = replicas
        if resources is not None:
            request.resources.CopyFrom(build(pb.Resources, resources, "resources"))
        answer: svc.ScaleDeploymentResponse = await self._calls.unary(STUB, "ScaleDeployment", request)
        return answer.deployment

    async def update(self, deployment: str, **sections: Mapping[str, Any]) -> pb.Deployment:
        """Change sections of the configuration: resources, scaling, health_check, rollback, monitoring."""
        request = svc.UpdateDeploymentRequest(deployment=deployment)
        request.config.CopyFrom(build(pb.DeploymentConfig, sections, "config"))
        request.update_mask.paths.extend(sections)
        answer: svc.UpdateDeploymentResponse = await self._calls.unary(STUB, "UpdateDeployment", request)
        return answer.deployment

    async def get(self, deployment: str) -> pb.Deployment:
        """Return a deployment by "{endpoint}/{stage}" or its full name."""
        request = svc.GetDeploymentRequest(name=deployment)
        answer: svc.GetDeploymentResponse = await self._calls.unary(STUB, "GetDeployment", request)
        return answer.deployment

    async def replicas(self, parent: str, *, show_ended: bool = False) -> list[pb.Replica]:
        """Return the replicas of a deployment or endpoint, by full name."""
        request = svc.ListReplicasRequest(parent=parent, show_ended=show_ended)
        answer: svc.ListReplicasResponse = await self._calls.unary(STUB, "ListReplicas", request)
        return list(answer.replicas)

    async def watch(self, deployment: str, *, timeout_s: float | None = None) -> AsyncIterator[pb.Deployment]:
        """Yield a deployment now and after every change, until it ends."""
        request = svc.WatchDeploymentRequest(name=deployment)
        async for answer in self._calls.stream(STUB, "WatchDeployment", request, timeout_s=timeout_s):
            yield answer.deployment

    async def wait(self, deployment: str, *, timeout_s: float = 120.0) -> pb.Deployment:
        """Wait until a deployment serves.

        Raises:
            FailedPrecondition: it failed or ended; the message says why.
            DeadlineExceeded: it did not serve in time.
        """
        until = time.monotonic() + timeout_s
        found = None
        request = svc.WatchDeploymentRequest(name=deployment)
        try:
            async for answer in self._calls.stream(STUB, "WatchDeployment", request, timeout_s=timeout_s):
                found = cast("pb.Deployment", answer.deployment)
                state = enum_text(pb.DeploymentState.DESCRIPTOR, found.state)
                if state == "ready":
                    return found
                if state in ("failed", "stopped", "draining"):
                    raise FailedPrecondition(f"{found.name} is {state}: {found.state_reason or 'no reason given'}")
        except DeadlineExceeded:
            pass
        left = max(0.0, until - time.monotonic())
        state = enum_text(pb.DeploymentState.DESCRIPTOR, found.state) if found is not None else "unknown"
        reason = found.state_reason if found is not None else ""
        raise DeadlineExceeded(f"{deployment} is {state} after {timeout_s - left:.0f} s: {reason}")

    async def rollout(self, name: str) -> pb.Rollout:
        """Return a rollout by its full name, or an endpoint's newest by the endpoint's id."""
        answer: svc.GetRolloutResponse = await self._calls.unary(STUB, "GetRollout", svc.GetRolloutRequest(name=name))
        return answer.rollout

    async def rollouts(self, endpoint: str = "") -> list[pb.Rollout]:
        """Return rollouts, newest first."""
        parent = endpoint if "/" in endpoint or not endpoint else f"projects/{self._project}/endpoints/{endpoint}"
        request = svc.ListRolloutsRequest(parent=parent, page_size=1000)
        answer: svc.ListRolloutsResponse = await self._calls.unary(STUB, "ListRollouts", request)
        return list(answer.rollouts)

    async def watch_rollout(self, name: str, *, timeout_s: float | None = None) -> AsyncIterator[pb.Rollout]:
        """Yield a rollout now and after every change, until it ends."""
        request = svc.WatchRolloutRequest(name=name)
        async for answer in self._calls.stream(STUB, "WatchRollout", request, timeout_s=timeout_s):
            yield answer.rollout

    async def control_rollout(self, name: str, command: str, *, reason: str = "") -> pb.Rollout:
        """Steer a rollout: pause, resume, abort or promote_full."""
        request = build(svc.ControlRolloutRequest, {"name": name, "command": command, "reason": reason})
        answer: svc.ControlRolloutResponse = await self._calls.unary(STUB, "ControlRollout", request)
        return answer.rollout

    async def list(self, endpoint: str = "", *, filter: str = "", show_ended: bool = False) -> list[pb.Deployment]:
        """Return deployments, newest first."""
        parent = endpoint if "/" in endpoint or not endpoint else f"projects/{self._project}/endpoints/{endpoint}"
        found: list[pb.Deployment] = []
        token = ""
        while True:
            request = svc.ListDeploymentsRequest(
                parent=parent, filter=filter, show_ended=show_ended, page_size=1000, page_token=token
            )
            answer: svc.ListDeploymentsResponse = await self._calls.unary(STUB, "ListDeployments", request)
            found += answer.deployments
            token = answer.next_page_token
            if not token:
                return found
