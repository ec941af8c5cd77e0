"""`DeploymentService`: what may be done with endpoints, deployments, traffic and rollouts.

Owns the transaction scripts behind the calls and the actions of automation: each takes a transaction and leaves
everything consistent in it. Nothing here starts a process or waits: reconcilers and nodes bring about what the rows
say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from pilotfish.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.deployments import changes, routing
from pilotfish_control_plane.deployments.attaching import Attaching
from pilotfish_control_plane.deployments.attachment import AttachCommand, Attached
from pilotfish_control_plane.deployments.commands import (
    DeployCommand,
    Deployed,
    PromoteCommand,
    Promoted,
    RolledBack,
    RolloutControl,
    SetTrafficCommand,
)
from pilotfish_control_plane.deployments.configuration import DeploymentConfig, Resources, Scaling
from pilotfish_control_plane.deployments.creation import Creation
from pilotfish_control_plane.deployments.endings import Endings
from pilotfish_control_plane.deployments.model import Deployment, DeploymentState, Endpoint, Revision, Shadow
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.node_side import NodeSide
from pilotfish_control_plane.deployments.promotion import Promotion
from pilotfish_control_plane.deployments.reading import Reading
from pilotfish_control_plane.deployments.restoring import Restoring
from pilotfish_control_plane.deployments.rolling import Rolling
from pilotfish_control_plane.deployments.rollout_model import Rollout
from pilotfish_control_plane.deployments.rules import configuration
from pilotfish_control_plane.names import DEFAULT_PROJECT, check_id
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["DeploymentService"]

CONFIG_FIELDS = ("resources", "scaling", "health_check", "rollback", "monitoring")


class DeploymentService(Reading, NodeSide):
    """Brings versions into service and takes them out; see `Reading` for what can be asked."""

    def __init__(self, neighbours: Neighbours) -> None:
        """Work with the other areas through `neighbours`."""
        super().__init__(neighbours)
        self._neighbours = neighbours
        self.endings = Endings(neighbours)
        self.creation = Creation(neighbours, self.endings)
        self.rolling = Rolling(neighbours, self.endings, self.creation)
        self._promotion = Promotion(neighbours, self.creation, self.rolling)
        self._restoring = Restoring(neighbours, self.creation, self.endings, self.rolling)
        self._attaching = Attaching(neighbours, self.creation, self.endings, self._resize)

    # Endpoints

    def create_endpoint(self, tx: Tx, project: str, endpoint_id: str, model: str) -> Endpoint:
        """Create an endpoint for a model; return it.

        Raises:
            InvalidArgument: the id is none.
            NotFound: there is no such model.
            AlreadyExists: there is an endpoint of this id.
        """
        check_id(endpoint_id, "endpoint_id")
        check_id(model, "model")
        if endpoint_rows.endpoint(tx.conn, project, endpoint_id) is not None:
            raise AlreadyExists(f"there is an endpoint {endpoint_id} already", reason="ENDPOINT_EXISTS")
        if not self._neighbours.registry().has_model(tx, project, model):
            raise NotFound(f"there is no model {model}: register a version of it first", reason="MODEL_NOT_FOUND")
        return self.creation.create_endpoint(tx, project, endpoint_id, model)

    def delete_endpoint(self, tx: Tx, project: str, endpoint_id: str) -> None:
        """Delete an endpoint without current deployments; its history stays.

        Raises:
            NotFound: there is no such endpoint.
            FailedPrecondition: it has deployments that have not ended; names each.
        """
        endpoint = self.endpoint(tx, project, endpoint_id)
        standing = rows.open_deployments(tx.conn, project, endpoint.id)
        if standing:
            raise FailedPrecondition(
                f"endpoint {endpoint.id} has {len(standing)} deployments that have not ended: stop them first",
                reason="HAS_DEPLOYMENTS",
                violations=[
                    Violation(d.name, f"{d.stage.value}, {d.state.value.upper()}", "NOT_ENDED") for d in standing
                ],
            )
        endpoint_rows.delete_endpoint(tx.conn, project, endpoint.id)
        changes.touch_node(tx)
        tx.emit("endpoint.deleted", endpoint.name, {"actor": tx.actor.name})
        tx.audit("DeleteEndpoint", endpoint.name, {"model": endpoint.model}, None)

    def set_automation_paused(self, tx: Tx, project: str, endpoint_id: str, paused: bool) -> Endpoint:
        """Make automation leave an endpoint alone, or not; return the endpoint."""
        endpoint = self.endpoint(tx, project, endpoint_id)
        if endpoint.automation_paused == paused:
            return endpoint
        return changes.save_endpoint(tx, endpoint, automation_paused=paused)

    # In and out

    def deploy(self, tx: Tx, command: DeployCommand) -> Deployed:
        """Deploy a version: see `Creation.deploy`."""
        return self.creation.deploy(tx, command)

    def attach(self, tx: Tx, command: AttachCommand) -> list[Attached]:
        """Bind what a sidecar stands beside: see `Attaching.attach`."""
        return self._attaching.attach(tx, command)

    def promote(self, tx: Tx, command: PromoteCommand) -> Promoted:
        """Judge a deployment and promote it if it passes: see `Promotion.promote`."""
        return self._promotion.promote(tx, self.find(tx, command.deployment, command.project), command)

    def rollback(self, tx: Tx, deployment_ref: str, reason: str, project: str = DEFAULT_PROJECT) -> RolledBack:
        """Bring back the previous version of a stage: see `Restoring.rollback`."""
        _need_reason(reason)
        return self._restoring.rollback(tx, self.find(tx, deployment_ref, project), reason)

    def stop(
        self, tx: Tx, ref: str, reason: str = "", force: bool = False, project: str = DEFAULT_PROJECT
    ) -> Deployment:
        """Stop a deployment; one that has ended or drains already is returned as it is.

        Raises:
            NotFound: there is no such deployment.
            FailedPrecondition: it carries live traffic and `force` is not set.
        """
        deployment = self.find(tx, ref, project)
        if deployment.state.has_ended or deployment.state is DeploymentState.DRAINING:
            return deployment
        weight_bp = self.traffic_bp(tx, deployment)
        if weight_bp and not force:
            raise FailedPrecondition(
                f"{deployment.id} carries {weight_bp / 100:g} % of the live traffic of {deployment.endpoint}: "
                "move it away first, roll back, or set force",
                reason="CARRIES_TRAFFIC",
                metadata={"weight_bp": str(weight_bp)},
            )
        why = reason or f"stopped by {tx.actor.name}"
        if deployment.state.is_coming:
            deployment = changes.save_deployment(tx, deployment, cancelled=True)
        rollout = self.open_rollout_of(tx, deployment)
        if rollout is not None and rollout.state.can_move:
            self.rolling.abort(tx, rollout, why, cancelled=True)
        else:
            self.endings.end(tx, deployment, why)
        tx.audit("StopDeployment", deployment.name, {"state": deployment.state.value}, {"reason": why})
        return self.get(tx, deployment.id)

    # Size and configuration

    def scale(
        self,
        tx: Tx,
        ref: str,
        replicas: int | None = None,
        resources: Resources | None = None,
        etag: str = "",
        project: str = DEFAULT_PROJECT,
    ) -> Deployment:
        """Change the replicas or resources of a deployment: a new revision; return the deployment.

        Raises:
            InvalidArgument: nothing to change, or a value out of range.
            NotFound: there is no such deployment.
            FailedPrecondition: it has ended or drains.
            Aborted: the etag is not the deployment's.
        """
        if replicas is None and resources is None:
            raise InvalidArgument(
                "scaling changes nothing: give replicas, resources, or both",
                violations=[Violation("replicas", "neither replicas nor resources are set", "REQUIRED")],
            )
        deployment = self.find(tx, ref, project)
        config = deployment.config
        if replicas is not None:
            config = dataclasses.replace(config, scaling=_scaled(config, replicas))
        if resources is not None:
            config = dataclasses.replace(config, resources=resources)
        return self._revise(tx, deployment, config, etag, "ScaleDeployment")

    def _resize(self, tx: Tx, deployment: Deployment, replicas: int) -> Deployment:
        config = dataclasses.replace(deployment.config, scaling=_scaled(deployment.config, replicas))
        return self._revise(tx, deployment, config, "", "ScaleDeployment")

    def update(
        self,
        tx: Tx,
        ref: str,
        config: DeploymentConfig,
        fields: Collection[str],
        etag: str = "",
        project: str = DEFAULT_PROJECT,
    ) -> Deployment:
        """Change parts of a deployment's configuration: a new revision; return the deployment.

        Raises:
            InvalidArgument: no field or an unknown one, or a value out of range.
            NotFound, FailedPrecondition, Aborted: as in `scale`.
        """
        unknown = sorted(set(fields) - set(CONFIG_FIELDS))
        if unknown or not fields:
            text = f"unknown fields {', '.join(unknown)}" if unknown else "it names no field"
            raise InvalidArgument(
                f"update_mask: {text}; there are {', '.join(CONFIG_FIELDS)}",
                violations=[Violation("update_mask", text, "UPDATE_MASK")],
            )
        deployment = self.find(tx, ref, project)
        merged = dataclasses.replace(deployment.config, **{f: getattr(config, f) for f in fields})
        return self._revise(tx, deployment, merged, etag, "UpdateDeployment")

    def _revise(self, tx: Tx, deployment: Deployment, config: DeploymentConfig, etag: str, method: str) -> Deployment:
        if etag and etag != deployment.etag:
            raise Aborted(
                f"{deployment.id} changed meanwhile: read it again and repeat",
                reason="ETAG",
                metadata={"etag": deployment.etag},
            )
        if deployment.state.has_ended or deployment.state is DeploymentState.DRAINING:
            raise FailedPrecondition(
                f"{deployment.id} is {deployment.state.value.upper()}: deploy again instead", reason="STATE_FORBIDS"
            )
        configuration.check(deployment.id, configuration.config_problems(config, deployment.stage))
        if config == deployment.config:
            return deployment
        number = deployment.revision + 1
        rows.add_revision(tx.conn, Revision(deployment.id, number, config, tx.actor.name, tx.now))
        before = {"revision": deployment.revision}
        if config.monitoring != deployment.config.monitoring:
            replicas = replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id]
            changes.touch_bindings(tx, [r.id for r in replicas])
        revised = changes.save_deployment(tx, deployment, config=config, revision=number, load_replicas=None)
        changes.touch_node(tx)
        changes.emit_deployment(tx, revised, "revised")
        tx.audit(method, deployment.name, before, {"revision": number})
        return revised

    # Traffic

    def set_traffic(
        self,
        tx: Tx,
        endpoint: str,
        weights: Sequence[tuple[str, int]],
        shadows: Sequence[Shadow] = (),
        sticky: str = "",
        etag: str = "",
        project: str = DEFAULT_PROJECT,
    ) -> Endpoint:
        """Set the live weights, shadows and sticky header of an endpoint, whole: see `routing.set_traffic`."""
        command = SetTrafficCommand(tuple(weights), tuple(shadows), sticky, etag)
        return routing.set_traffic(tx, self.endpoint(tx, project, endpoint), command)

    def quarantine(self, tx: Tx, endpoint: str, version: int, reason: str, project: str = DEFAULT_PROJECT) -> Endpoint:
        """Stop automation from deploying a version at an endpoint; return the endpoint."""
        found = self.endpoint(tx, project, endpoint)
        self.endings.mark(tx, found, version, reason)
        return self.endpoint(tx, project, endpoint)

    def clear_quarantine(
        self, tx: Tx, endpoint: str, version: int, reason: str, project: str = DEFAULT_PROJECT
    ) -> Endpoint:
        """Let automation deploy a version again; return the endpoint.

        Raises:
            InvalidArgument: no reason.
            NotFound: there is no such endpoint, or the version is not quarantined there.
        """
        _need_reason(reason)
        found = self.endpoint(tx, project, endpoint)
        if not endpoint_rows.clear_quarantine(tx.conn, found.project, found.id, version):
            raise NotFound(f"version {version} is not quarantined at {found.id}", reason="NOT_QUARANTINED")
        tx.emit("endpoint.quarantine_cleared", found.name, {"version": version, "reason": reason})
        tx.audit("ClearQuarantine", found.name, {"version": version}, {"reason": reason})
        return changes.save_endpoint(tx, found)

    # Rollouts

    def control_rollout(
        self, tx: Tx, name: str, control: RolloutControl, reason: str = "", project: str = DEFAULT_PROJECT
    ) -> Rollout:
        """Pause, resume, abort or finish a rollout; return it.

        Raises:
            InvalidArgument: no reason where one is required.
            NotFound: there is no such rollout.
            FailedPrecondition: its state forbids it; says which states are allowed.
        """
        rollout = self.rollout(tx, name, project)
        if control in (RolloutControl.ABORT, RolloutControl.PROMOTE_FULL):
            _need_reason(reason)
        before = {"state": rollout.state.value, "step": rollout.step}
        match control:
            case RolloutControl.PAUSE:
                changed = self.rolling.pause(tx, rollout, reason)
            case RolloutControl.RESUME:
                changed = self.rolling.resume(tx, rollout, reason)
            case RolloutControl.ABORT:
                why = f"aborted by {tx.actor.name}: {reason}"
                changed = self.rolling.abort(tx, rollout, why, cancelled=True)
            case RolloutControl.PROMOTE_FULL:
                changed = self.rolling.skip_to_end(tx, rollout, reason)
        after = {"command": control.value, "reason": reason, "state": changed.state.value, "step": changed.step}
        tx.audit("ControlRollout", rollout.name, before, after)
        return changed


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidArgument("say why: reason is empty", violations=[Violation("reason", "is required", "REQUIRED")])


def _scaled(config: DeploymentConfig, replicas: int) -> Scaling:
    """Return the scaling with another number of replicas; bounds that were just the number follow it."""
    scaling = config.scaling
    if scaling.target_in_flight <= 0 or scaling.min_replicas == scaling.max_replicas:
        return dataclasses.replace(scaling, replicas=replicas, min_replicas=replicas, max_replicas=replicas)
    return dataclasses.replace(scaling, replicas=replicas)
