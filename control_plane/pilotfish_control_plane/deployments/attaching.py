"""Attaching: from what a sidecar says of a foreign model server to versions, deployments and replicas.

Owns that one call makes everything that is missing or nothing, that the same call again changes nothing, and that a
server whose model changed under the same name becomes a new version. It starts nothing and probes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pilotfish.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from pilotfish_control_plane.deployments import changes
from pilotfish_control_plane.deployments.attachment import AttachCommand, Attached, AttachedModel, Attachment
from pilotfish_control_plane.deployments.commands import DeployCommand
from pilotfish_control_plane.deployments.creation import EXTERNAL, Creation, Origin
from pilotfish_control_plane.deployments.endings import Endings
from pilotfish_control_plane.deployments.model import (
    FULL_WEIGHT_BP,
    Deployment,
    DeploymentState,
    LinkState,
    Replica,
    Stage,
)
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rollout_model import (
    RolloutKind,
    RolloutPlan,
    RolloutStep,
    RolloutStrategy,
)
from pilotfish_control_plane.deployments.rules import attaching as rules
from pilotfish_control_plane.names import VersionRef
from pilotfish_control_plane.registry.model import NewVersion, Version
from pilotfish_control_plane.storage import attachments as rows
from pilotfish_control_plane.storage import deployments as deployment_rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Attaching", "unclaimed"]

Resize = Callable[[Tx, Deployment, int], Deployment]

_AT_ONCE = RolloutPlan(RolloutStrategy.ALL_AT_ONCE, steps=(RolloutStep(FULL_WEIGHT_BP),), criteria=())
"""For a model that its owner has replaced already: there is nothing left to judge it against."""


class Attaching:
    """Binds what sidecars stand beside; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours, creation: Creation, endings: Endings, resize: Resize) -> None:
        """Find versions among `neighbours`, deploy by `creation`, change the number of replicas by `resize`."""
        self._neighbours = neighbours
        self._creation = creation
        self._endings = endings
        self._resize = resize

    def attach(self, tx: Tx, command: AttachCommand) -> list[Attached]:
        """Bind everything that a sidecar stands beside, and let go of what it names no more.

        Raises:
            InvalidArgument: the mappings make no sense; every problem.
            NotFound: there is no such version, and it may not or cannot be registered.
            FailedPrecondition: it cannot be deployed; every reason.
            PermissionDenied: something must be made and the caller may not.
        """
        if found := rules.mapping_problems(command):
            raise InvalidArgument("the sidecar cannot be attached like this", reason="BAD_MAPPING", violations=found)
        before = [a for a in rows.attachments_of(tx.conn, [command.instance]) if a.project == command.project]
        attached = [self._attach_one(tx, command, model) for model in command.models]
        now = [self._row(tx, command, model, each) for model, each in zip(command.models, attached, strict=True)]
        for old in before:
            if not any(old.is_same(new) for new in now):
                rows.remove_attachment(tx.conn, old)
        for new in now:
            self._keep(tx, before, new)
        self._refit(tx, command.instance, before, now)
        return attached

    # Versions

    def _attach_one(self, tx: Tx, command: AttachCommand, model: AttachedModel) -> Attached:
        endpoint = endpoint_rows.endpoint(tx.conn, command.project, model.endpoint)
        name = model.model or (endpoint.model if endpoint is not None else model.endpoint)
        version = self._find(tx, command, model, name)
        registered = version is None
        if version is None:
            version = self._register(tx, command, model, name)
        deployment, deployed = self._deployment(tx, command, model, version)
        return Attached(version, deployment, registered, deployed)

    def _find(self, tx: Tx, command: AttachCommand, model: AttachedModel, name: str) -> Version | None:
        """Return the version that a model is; None: one that nobody registered."""
        registry = self._neighbours.registry()
        if model.version:
            ref = VersionRef.parse(f"{name}@{model.version}", "version", command.project)
            try:
                return registry.resolve_version(tx, f"{name}@{model.version}", command.project)
            except NotFound:
                if ref.number is not None or ref.which == "latest":
                    raise
                return None
        known = rows.attachments_at(tx.conn, command.project, model.endpoint)
        same = [a for a in known if (a.server_model, a.server_version) == (model.server_model, model.server_version)]
        # Its own first: that is what it was bound to before.
        for each in sorted(same, key=lambda a: a.instance != command.instance):
            version = registry.get_version(tx, command.project, each.model, each.version)
            if rules.same_signature(version.signature, model.signature):
                return version
        return self._awaited(tx, command, model) if not same else None

    def _awaited(self, tx: Tx, command: AttachCommand, model: AttachedModel) -> Version | None:
        """Return the version that was deployed as external and waits for a sidecar, if it is the only one."""
        waiting = [
            d
            for d in deployment_rows.open_deployments(tx.conn, command.project, model.endpoint)
            if d.attached and d.state is not DeploymentState.DRAINING
        ]
        taken = {a.version for a in rows.attachments_at(tx.conn, command.project, model.endpoint)}
        numbers = {d.version for d in waiting} - taken
        if len(numbers) != 1:
            return None
        return self._neighbours.registry().get_version(tx, command.project, waiting[0].model, numbers.pop())

    def _register(self, tx: Tx, command: AttachCommand, model: AttachedModel, name: str) -> Version:
        shown = f"{name}@{model.version}" if model.version else f"a version of {name} for {model.shown}"
        if not command.may_register:
            raise NotFound(
                f"nobody registered {shown}, and registering it is forbidden here: register it as external first, "
                "or attach without no_register",
                reason="VERSION_NOT_FOUND",
            )
        self._need_deployer(command, f"register {shown}")
        served = {"server_model": model.server_model, "server_version": model.server_version}
        new = NewVersion(
            command.project,
            name,
            EXTERNAL,
            label=model.version,
            description=f"served by {model.platform}" if model.platform else "served by somebody else",
            tags={k: v for k, v in served.items() if v},
            signature=model.signature,
            profile_json=model.profile_json,
        )
        return self._neighbours.registry().register_external(tx, new, model.checks)

    def _need_deployer(self, command: AttachCommand, what: str) -> None:
        if not command.may_deploy:
            raise PermissionDenied(
                f"attaching {command.instance} would {what}: the caller needs the role deployer for that",
                reason="ROLE_TOO_LOW",
                metadata={"required_role": "DEPLOYER", "project": command.project},
            )

    # Deployments

    def _deployment(
        self, tx: Tx, command: AttachCommand, model: AttachedModel, version: Version
    ) -> tuple[Deployment, bool]:
        if version.framework != EXTERNAL:
            raise FailedPrecondition(
                f"{version} has an artifact and is served by replicas of its own: "
                "name another version, or leave it out to register what this server serves",
                reason="NOT_EXTERNAL",
            )
        found = deployment_rows.open_deployments(tx.conn, command.project, model.endpoint)
        standing = [d for d in found if d.attached and d.state is not DeploymentState.DRAINING]
        mine = [d for d in standing if d.version == version.number and d.model == version.model]
        if mine:
            return max(mine, key=lambda d: (d.stage.rank, d.number)), False
        self._need_deployer(command, f"deploy {version}")
        replaced = self._replaced(tx, command, model, standing)
        stage = replaced.stage if replaced else command.stage or self._free_stage(tx, command.project, model.endpoint)
        deploy = DeployCommand(
            f"{version.model}@{version.number}",
            stage,
            command.project,
            model.endpoint,
            plan=_AT_ONCE if replaced is not None and stage.is_live else None,
        )
        origin = Origin(RolloutKind.PROMOTE if replaced is not None else RolloutKind.DEPLOY)
        made = self._creation.deploy(tx, deploy, origin).deployment
        assert made is not None
        return made, True

    def _replaced(
        self, tx: Tx, command: AttachCommand, model: AttachedModel, standing: list[Deployment]
    ) -> Deployment | None:
        """Return the deployment of what this server served under the same name before, if nobody else serves it."""
        at = rows.attachments_at(tx.conn, command.project, model.endpoint)
        names = (model.server_model, model.server_version)
        before = [a for a in at if a.instance == command.instance and (a.server_model, a.server_version) == names]
        for each in before:
            others = [a for a in at if a.version == each.version and a.instance != command.instance]
            held = [d for d in standing if d.version == each.version]
            if held and not others:
                return max(held, key=lambda d: (d.stage.rank, d.number))
        return None

    def _free_stage(self, tx: Tx, project: str, endpoint: str) -> Stage:
        standing = deployment_rows.open_deployments(tx.conn, project, endpoint)
        return Stage.STAGING if any(d.stage.is_live for d in standing) else Stage.PRODUCTION

    # Rows and replicas

    def _row(self, tx: Tx, command: AttachCommand, model: AttachedModel, each: Attached) -> Attachment:
        return Attachment(
            command.instance,
            command.project,
            model.endpoint,
            model.server_model,
            model.server_version,
            each.version.model,
            each.version.number,
            dict(model.codec),
            model.grpc_address,
            model.http_address,
            tx.now,
        )

    def _keep(self, tx: Tx, before: list[Attachment], new: Attachment) -> None:
        old = next((a for a in before if a.is_same(new)), None)
        if old is not None:
            new = dataclasses.replace(new, created=old.created)
        if new == old:
            return
        rows.save_attachment(tx.conn, new)
        subject = f"projects/{new.project}/endpoints/{new.endpoint}"
        payload = {"instance": new.instance, "model": new.model, "version": new.version, "server": new.server_model}
        tx.emit("sidecar.attached", subject, payload)
        after = {k: getattr(new, k) for k in (*Attachment.KEY, "version")}
        tx.audit("Attach", subject, {"version": old.version} if old is not None else None, after)

    def _refit(self, tx: Tx, instance: str, before: list[Attachment], now: list[Attachment]) -> None:
        """Bring the replicas of every deployment that is concerned into line with who serves it."""
        for project, endpoint in dict.fromkeys((a.project, a.endpoint) for a in (*before, *now)):
            known = rows.attachments_at(tx.conn, project, endpoint)
            concerned = {a.version for a in (*before, *now) if (a.project, a.endpoint) == (project, endpoint)}
            current = {a.version for a in now if (a.project, a.endpoint) == (project, endpoint)}
            for deployment in deployment_rows.open_deployments(tx.conn, project, endpoint):
                if not deployment.attached or deployment.version not in concerned:
                    continue
                if deployment.state is DeploymentState.DRAINING:
                    continue
                serving = [a for a in known if a.version == deployment.version]
                # What was replaced keeps its last replica until its successor carries the traffic.
                if serving or not current:
                    self._fit(tx, deployment, serving)
            touched = [r for r in replica_rows.of_instance(tx.conn, instance) if r.endpoint == endpoint]
            changes.touch_bindings(tx, [r.id for r in touched])

    def _fit(self, tx: Tx, deployment: Deployment, serving: list[Attachment]) -> None:
        replicas = [r for r in replica_rows.replicas_of(tx.conn, [deployment.id])[deployment.id] if not r.draining]
        by_instance = {a.instance: a for a in serving}
        gone = [r for r in replicas if r.instance and r.instance not in by_instance]
        for replica in gone:
            self._endings.drain_replica(tx, deployment, replica.id, f"{replica.instance} serves it no more")
        for replica in (r for r in replicas if r.instance in by_instance):
            self._address(tx, replica, by_instance[replica.instance])
        free = [r for r in replicas if not r.instance and r.link is LinkState.NONE]
        for attachment, replica in zip(unclaimed(serving, replicas), free, strict=False):
            self._address(tx, replica, attachment)
        manual = sum(not r.instance and r.link is not LinkState.NONE for r in replicas)
        wanted = max(1, len(serving) + manual)
        if wanted != deployment.desired_replicas:
            self._resize(tx, deployment, wanted)
        changes.wake_deployment(tx, deployment.id)

    def _address(self, tx: Tx, replica: Replica, attachment: Attachment) -> None:
        facts = {
            "instance": attachment.instance,
            "grpc_address": attachment.grpc_address,
            "http_address": attachment.http_address,
        }
        if any(getattr(replica, name) != value for name, value in facts.items()):
            changes.save_replica(tx, replica, **facts)
            changes.touch_node(tx)


def unclaimed(serving: list[Attachment], replicas: list[Replica]) -> list[Attachment]:
    """Return the attachments whose sidecar has no replica among these yet, one per sidecar."""
    taken = {r.instance for r in replicas if not r.draining}
    return list({a.instance: a for a in serving if a.instance not in taken}.values())
