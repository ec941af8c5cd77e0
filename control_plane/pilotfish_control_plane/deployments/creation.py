"""How a deployment begins: the readiness checks, the endpoint, the rows.

Owns that every way in (deploy, promotion, rollback) passes the same checks and leaves the same rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.deployments import changes
from pilotfish_control_plane.deployments.commands import DeployCommand, Deployed
from pilotfish_control_plane.deployments.configuration import DeploymentConfig
from pilotfish_control_plane.deployments.endings import Endings
from pilotfish_control_plane.deployments.model import Deployment, DeploymentState, Endpoint, Revision, RouteTable, Stage
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rollout_model import Rollout, RolloutKind, RolloutPlan, RolloutState
from pilotfish_control_plane.deployments.rules import configuration, readiness
from pilotfish_control_plane.fleet.model import LOCAL_NODE
from pilotfish_control_plane.names import VersionRef, check_id
from pilotfish_control_plane.registry.model import Version
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Creation", "Origin"]

EXTERNAL = "external"
"""The framework of versions that somebody else serves."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a deployment comes from: what began it, and the deployment that is promoted or rolled back."""

    kind: RolloutKind = RolloutKind.DEPLOY
    source: Deployment | None = None
    automation: bool = False
    own_rollout: str = ""


class Creation:
    """Begins deployments; every method works in the caller's transaction."""

    def __init__(self, neighbours: Neighbours, endings: Endings) -> None:
        """Find versions among `neighbours`, end superseded candidates with `endings`."""
        self._neighbours = neighbours
        self._endings = endings

    def deploy(self, tx: Tx, command: DeployCommand, origin: Origin | None = None) -> Deployed:
        """Check and begin a deployment.

        Raises:
            InvalidArgument: names, configuration or plan make no sense; every problem.
            NotFound: there is no such version; the other failed checks are violations too.
            FailedPrecondition: a check failed; every one that did.
        """
        origin = origin or Origin(automation=command.automation)
        ref = VersionRef.parse(command.version_ref, "version", command.project)
        endpoint_id = check_id(command.endpoint or ref.model, "endpoint")
        plan = command.plan or RolloutPlan.default(command.stage)
        problems = configuration.config_problems(command.config, command.stage)
        problems += configuration.plan_problems(plan, command.stage) if command.stage.is_live else []
        configuration.check("the deployment", problems)
        version, missing = self._find(tx, command.version_ref, ref)
        endpoint = endpoint_rows.endpoint(tx.conn, ref.project, endpoint_id)
        if endpoint is not None and endpoint.model != ref.model:
            raise InvalidArgument(
                f"endpoint {endpoint_id} serves model {endpoint.model}, not {ref.model}: name another endpoint",
                reason="ENDPOINT_SERVES_OTHER_MODEL",
                violations=[Violation("endpoint", f"serves {endpoint.model}", "ENDPOINT_SERVES_OTHER_MODEL")],
            )
        facts = self._facts(tx, endpoint, version, command.stage, command.config, origin)
        facts = dataclasses.replace(
            facts,
            version=str(version) if version else str(ref),
            missing=missing,
            artifact_problems=command.artifact_problems,
        )
        checks = readiness.readiness(facts)
        if failed := readiness.violations(checks):
            if command.check_only:
                return Deployed(None, checks, None)
            raise _refusal(facts, failed)
        assert version is not None
        endpoint = endpoint or self.create_endpoint(tx, ref.project, endpoint_id, ref.model)
        deployment, rollout = self.begin(tx, endpoint, version, command.stage, command.config, plan, origin)
        return Deployed(deployment, checks, rollout)

    def _find(self, tx: Tx, text: str, ref: VersionRef) -> tuple[Version | None, str]:
        try:
            return self._neighbours.registry().resolve_version(tx, text, ref.project), ""
        except NotFound as error:
            return None, error.message

    def promotion(
        self,
        tx: Tx,
        source: Deployment,
        target: Stage,
        plan: RolloutPlan | None,
        *,
        automation: bool = False,
        own_rollout: str = "",
    ) -> tuple[Deployment, Rollout | None]:
        """Check and begin the deployment of a later stage; return it with its rollout.

        Raises:
            FailedPrecondition: a check failed; every one that did.
        """
        endpoint = endpoint_rows.endpoint(tx.conn, source.project, source.endpoint)
        assert endpoint is not None
        origin = Origin(RolloutKind.PROMOTE, source, automation, own_rollout)
        version = self.check_promotion(tx, endpoint, source, target, origin)
        # The check saw past the source's own rollout; by now it is over.
        endpoint = endpoint_rows.endpoint(tx.conn, source.project, source.endpoint)
        assert endpoint is not None
        config = _for_stage(source.config, target)
        return self.begin(tx, endpoint, version, target, config, plan or RolloutPlan.default(target), origin)

    def check_promotion(self, tx: Tx, endpoint: Endpoint, source: Deployment, target: Stage, origin: Origin) -> Version:
        """Return the version that may be promoted.

        Raises:
            FailedPrecondition: a check failed; every one that did.
        """
        version = self._neighbours.registry().get_version(tx, source.project, source.model, source.version)
        facts = self._facts(tx, endpoint, version, target, source.config, origin)
        if failed := readiness.violations(readiness.readiness(facts)):
            raise _refusal(facts, failed)
        return version

    def _facts(
        self,
        tx: Tx,
        endpoint: Endpoint | None,
        version: Version | None,
        stage: Stage,
        config: DeploymentConfig,
        origin: Origin,
    ) -> readiness.ReadinessFacts:
        production, quarantine, open_rollout = "", "", ""
        if endpoint is not None:
            held = rows.slots_of(tx.conn, endpoint.project, endpoint.id).get(Stage.PRODUCTION)
            production = held.id if held is not None else ""
            marks = endpoint_rows.quarantines_of(tx.conn, endpoint.project, endpoint.id)
            quarantine = next((m.reason for m in marks if version is not None and m.version == version.number), "")
            open_rollout = endpoint.open_rollout if endpoint.open_rollout != origin.own_rollout else ""
        return readiness.ReadinessFacts(
            version=str(version) if version is not None else "",
            status=version.status.value if version is not None else "",
            stage=stage,
            resources=config.resources,
            replicas=config.scaling.replicas,
            attached=version is not None and version.framework == EXTERNAL,
            capacity=self._capacity(tx),
            production=production,
            promotion=origin.kind is not RolloutKind.DEPLOY,
            rollback=origin.kind is RolloutKind.ROLLBACK,
            automation=origin.automation,
            quarantine=quarantine,
            open_rollout=open_rollout,
        )

    def _capacity(self, tx: Tx) -> readiness.Capacity | None:
        node = fleet_rows.node(tx.conn, LOCAL_NODE)
        if node is None or not node.cpu_cores or not node.memory_mib:
            return None
        open_ones = [d for d in rows.open_deployments(tx.conn) if not d.attached]
        promised = sum(d.desired_replicas * d.config.resources.memory_mib for d in open_ones)
        return readiness.Capacity(node.node, node.cpu_cores, node.memory_mib, promised)

    def create_endpoint(self, tx: Tx, project: str, endpoint_id: str, model: str) -> Endpoint:
        """Insert an endpoint; return it with the lowest free port of its own."""
        taken = endpoint_rows.ports_in_use(tx.conn)
        port = next((p for p in self._neighbours.endpoint_ports if p not in taken), 0)
        endpoint = Endpoint(project, endpoint_id, model, port, tx.now, RouteTable(updated=tx.now))
        endpoint_rows.add_endpoint(tx.conn, endpoint)
        changes.touch_node(tx)
        tx.emit("endpoint.created", endpoint.name, {"model": model, "port": port, "actor": tx.actor.name})
        tx.audit("CreateEndpoint", endpoint.name, None, {"model": model, "port": port})
        return endpoint

    def begin(
        self,
        tx: Tx,
        endpoint: Endpoint,
        version: Version,
        stage: Stage,
        config: DeploymentConfig,
        plan: RolloutPlan,
        origin: Origin,
    ) -> tuple[Deployment, Rollout | None]:
        """Insert a deployment that passed its checks, with its revision, slot and rollout."""
        incumbent = rows.slots_of(tx.conn, endpoint.project, endpoint.id).get(stage)
        deployment = Deployment(
            project=endpoint.project,
            id=self._neighbours.new_id("d"),
            number=0,
            endpoint=endpoint.id,
            model=endpoint.model,
            version=version.number,
            stage=stage,
            state=DeploymentState.PENDING,
            config=config,
            author=tx.actor.name,
            created=tx.now,
            attached=version.framework == EXTERNAL,
            previous=incumbent.id if incumbent is not None else "",
            rollout=self._neighbours.new_id("r") if stage.is_live else "",
        )
        deployment = rows.add_deployment(tx.conn, deployment)
        rows.add_revision(tx.conn, Revision(deployment.id, 1, config, tx.actor.name, tx.now))
        self._supersede(tx, deployment, incumbent)
        changes.emit_deployment(tx, deployment)
        changes.wake_deployment(tx, deployment.id)
        tx.audit("Deploy", deployment.name, None, {"version": str(version), "stage": stage.value})
        return deployment, self._open_rollout(tx, endpoint, deployment, plan, origin)

    def _supersede(self, tx: Tx, deployment: Deployment, incumbent: Deployment | None) -> None:
        """Take the slot if nobody serves from it, and end older candidates for it."""
        for other in rows.open_deployments(tx.conn, deployment.project, deployment.endpoint):
            same = other.stage is deployment.stage and other.id != deployment.id
            if same and other.state.is_coming:
                self._endings.end(tx, other, f"superseded by {deployment.id} before it was ready")
        if incumbent is None or incumbent.state.is_coming:
            rows.set_slot(tx.conn, deployment)

    def _open_rollout(
        self, tx: Tx, endpoint: Endpoint, deployment: Deployment, plan: RolloutPlan, origin: Origin
    ) -> Rollout | None:
        if not deployment.rollout:
            return None
        if endpoint.open_rollout:
            raise FailedPrecondition(
                f"rollout {endpoint.open_rollout} of {endpoint.id} is unfinished: wait for it or abort it",
                reason="NO_OTHER_ROLLOUT",
            )
        rollout = rollout_rows.add_rollout(
            tx.conn,
            Rollout(
                project=endpoint.project,
                endpoint=endpoint.id,
                id=deployment.rollout,
                number=0,
                deployment=deployment.id,
                stage=deployment.stage,
                state=RolloutState.PENDING,
                plan=plan,
                kind=origin.kind,
                author=tx.actor.name,
                created=tx.now,
                source=origin.source.id if origin.source is not None else "",
            ),
        )
        current = endpoint_rows.endpoint(tx.conn, endpoint.project, endpoint.id)
        assert current is not None
        changes.save_endpoint(tx, current, open_rollout=rollout.id)
        tx.emit("rollout.pending", rollout.name, {"deployment": deployment.id, "stage": deployment.stage.value})
        changes.wake_rollout(tx, rollout.id)
        return rollout


def _for_stage(config: DeploymentConfig, stage: Stage) -> DeploymentConfig:
    """Return the configuration with at least one replica where live traffic comes."""
    scaling = config.scaling
    if not stage.is_live or (scaling.replicas >= 1 and scaling.min_replicas >= 1):
        return config
    scaling = dataclasses.replace(
        scaling,
        replicas=max(1, scaling.replicas),
        min_replicas=max(1, scaling.min_replicas),
        max_replicas=max(1, scaling.max_replicas),
    )
    return dataclasses.replace(config, scaling=scaling)


def _refusal(facts: readiness.ReadinessFacts, failed: list[Violation]) -> FailedPrecondition | NotFound:
    what = facts.missing or f"{facts.version} cannot be deployed to {facts.stage.value}: {failed[0].description}"
    if not facts.missing and len(failed) > 1:
        what += f" (and {len(failed) - 1} more)"
    if facts.missing:
        return NotFound(what, reason="VERSION_EXISTS", violations=failed)
    return FailedPrecondition(what, reason="NOT_READY_TO_DEPLOY", violations=failed)
