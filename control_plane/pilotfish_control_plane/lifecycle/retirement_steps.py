"""What the steps of a retirement do, each in the transaction that marks it done.

Owns the nine steps. A step that would take something away that is still in use does nothing and answers the blockers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotfish_control_plane.deployments.model import Deployment, Stage
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.lifecycle.model import Plan
from pilotfish_control_plane.lifecycle.retirement import RetirementService
from pilotfish_control_plane.lifecycle.rules import Evidence, reduction_due
from pilotfish_control_plane.monitoring.model import AlertKind, Severity
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.registry.model import Version, VersionStatus
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.storage.paging import PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["RetirementSteps"]

MAX_ERROR_RATIO = 0.05
MIN_SAMPLE = 30

Result = Mapping[str, Any]  # plain JSON


class RetirementSteps:
    """The steps of every plan."""

    def __init__(
        self,
        plans: RetirementService,
        registry: Callable[[], RegistryService],
        deployments: Callable[[], DeploymentService],
        monitoring: Callable[[], MonitoringService],
    ) -> None:
        """Act through the other areas."""
        self._plans = plans
        self._registry = registry
        self._deployments = deployments
        self._monitoring = monitoring

    def handlers(self) -> dict[str, Callable[[Tx, Action], Result]]:
        """Return the handler of every step by its action's kind."""
        steps = (
            self.send_deprecation_notices,
            self.update_documentation,
            self.reduce_traffic_allocation,
            self.monitor_performance,
            self.complete_traffic_migration,
            self.verify_new_model,
            self.stop_deployment,
            self.archive_model,
            self.cleanup_resources,
        )
        return {f"retirement.{step.__name__}": self._unless_over(step) for step in steps}

    def _unless_over(self, step: Callable[[Tx, Action], Result]) -> Callable[[Tx, Action], Result]:
        """Return the step so that it does nothing for a plan that was called off after the step was enqueued."""

        def perform(tx: Tx, action: Action) -> Result:
            plan = self._plan(tx, action)
            return step(tx, action) if plan.state.is_open else {"skipped": f"{plan.name} is {plan.state.value}"}

        return perform

    # deprecation_warning ---------------------------------------------------------------------------------

    def send_deprecation_notices(self, tx: Tx, action: Action) -> Result:
        """Raise one notice per endpoint that still serves the subject, and one for the subject itself."""
        plan = self._plan(tx, action)
        told = []
        endpoints = sorted({d.endpoint for d in self._live(tx, plan)}) or [""]
        for endpoint in endpoints:
            where = f" at endpoint {endpoint}" if endpoint else ""
            alert = self._monitoring().alerts.raise_alert(
                tx, AlertKind.RULE, Severity.INFO, project=plan.project, endpoint=endpoint, deployment="",
                summary=f"{plan.subject}{where} retires on {plan.retirement:%Y-%m-%d}. {plan.migration.notes}".strip(),
                details={"plan": plan.name, "notify": list(plan.migration.notify)}, episode=f"{action.key}/{endpoint}",
            )  # fmt: skip
            told.append(alert.id)
        return {"alerts": told, "notify": list(plan.migration.notify)}

    def update_documentation(self, tx: Tx, action: Action) -> Result:
        """Write the date and the successor into the tags of the subject; versions out of service become deprecated."""
        plan = self._plan(tx, action)
        tags = {"retires": f"{plan.retirement:%Y-%m-%d}", "retirement_plan": plan.id}
        if plan.migration.replacement_version:
            model = plan.migration.replacement_model or plan.model
            tags["replaced_by"] = f"{model}@{plan.migration.replacement_version}"
        registry = self._registry()
        deprecated = []
        for version in self._versions(tx, plan):
            registry.update_version(tx, plan.project, plan.model, version.number, tags={**version.tags, **tags})
            if version.status is VersionStatus.STAGING:
                registry.set_status(
                    tx, plan.project, plan.model, version.number, VersionStatus.DEPRECATED, reason=f"{plan.name}"
                )
                deprecated.append(version.number)
        return {"tags": tags, "deprecated": deprecated}

    # traffic_reduction -----------------------------------------------------------------------------------

    def reduce_traffic_allocation(self, tx: Tx, action: Action) -> Result:
        """Leave the subject the share that is due now, and give the rest to its replacement."""
        plan = self._plan(tx, action)
        phase, after = plan.phases[1], plan.phases[2]
        left = reduction_due(plan.migration, phase, after, tx.now)
        moved: dict[str, int] = {}
        blockers: list[str] = []
        for deployment in self._carrying(tx, plan):
            if left is None:
                continue
            if self._deployments().traffic_bp(tx, deployment) <= left:
                continue
            blockers += self._shift(tx, plan, deployment, left)
            moved[deployment.endpoint] = left
        if blockers:
            return {"blockers": blockers}
        last = not plan.migration.reduction_steps_bp or left == plan.migration.reduction_steps_bp[-1]
        if not last and self._carrying(tx, plan):
            span_s = (after.due - phase.due).total_seconds()
            return {"left_bp": moved, "again_in_s": span_s / len(plan.migration.reduction_steps_bp)}
        return {"left_bp": moved}

    def monitor_performance(self, tx: Tx, action: Action) -> Result:
        """Look at the replacement's errors under the traffic that it has."""
        return self._judge(tx, self._plan(tx, action))

    # final_migration -------------------------------------------------------------------------------------

    def complete_traffic_migration(self, tx: Tx, action: Action) -> Result:
        """Give the replacement all of the traffic."""
        plan = self._plan(tx, action)
        blockers: list[str] = []
        moved = []
        for deployment in self._carrying(tx, plan):
            blockers += self._shift(tx, plan, deployment, 0)
            moved.append(deployment.endpoint)
        return {"blockers": blockers} if blockers else {"moved": moved}

    def verify_new_model(self, tx: Tx, action: Action) -> Result:
        """Look at the replacement once more before the old one goes."""
        return self._judge(tx, self._plan(tx, action))

    # retirement ------------------------------------------------------------------------------------------

    def stop_deployment(self, tx: Tx, action: Action) -> Result:
        """Stop every deployment of the subject that carries no live traffic; one that does is a blocker."""
        plan = self._plan(tx, action)
        carrying = self._carrying(tx, plan)
        if carrying:
            return {"blockers": [self._says(tx, d) for d in carrying]}
        stopped = [self._deployments().stop(tx, d.name, f"{plan.name}", True).name for d in self._live(tx, plan)]
        return {"stopped": stopped}

    def archive_model(self, tx: Tx, action: Action) -> Result:
        """Archive the subject's versions."""
        plan = self._plan(tx, action)
        registry = self._registry()
        archived = []
        versions = self._versions(tx, plan)
        # All of them first: a blocked plan takes nothing away.
        serving = [v for v in versions if v.status is VersionStatus.PRODUCTION]
        if serving:
            return {"blockers": [f"{v} is in production: promote another version first" for v in serving]}
        if leaving := [d.name for d in self._live(tx, plan)]:
            # They drain; an archived version has no deployments.
            return {"waits_for": leaving, "again_in_s": min(60.0, 0.5 * 2.0 ** plan.phases[-1].attempt)}
        for version in versions:
            number, reason = version.number, plan.name
            if version.status is VersionStatus.STAGING:
                registry.set_status(tx, plan.project, plan.model, number, VersionStatus.DEPRECATED, reason=reason)
            if version.status in (VersionStatus.STAGING, VersionStatus.DEPRECATED):
                registry.set_status(tx, plan.project, plan.model, number, VersionStatus.ARCHIVED, reason=reason)
                archived.append(number)
        return {"archived": archived}

    def cleanup_resources(self, tx: Tx, action: Action) -> Result:
        """Say what is kept: artifacts stay until they are purged, so that an archived version can come back."""
        plan = self._plan(tx, action)
        return {"kept_bytes": sum(v.artifact_size_bytes for v in self._versions(tx, plan))}

    # What they share -------------------------------------------------------------------------------------

    def _plan(self, tx: Tx, action: Action) -> Plan:
        return self._plans.get(tx, str(action.payload["plan"]))

    def _versions(self, tx: Tx, plan: Plan) -> list[Version]:
        registry = self._registry()
        if plan.version:
            return [registry.get_version(tx, plan.project, plan.model, plan.version)]
        return list(registry.list_versions(tx, plan.project, plan.model, PageRequest(1000)).items)

    def _live(self, tx: Tx, plan: Plan) -> list[Deployment]:
        found = self._deployments().live(tx, plan.project)
        return [d for d in found if d.model == plan.model and plan.version in (0, d.version)]

    def _carrying(self, tx: Tx, plan: Plan) -> list[Deployment]:
        service = self._deployments()
        return [d for d in self._live(tx, plan) if service.traffic_bp(tx, d)]

    def _says(self, tx: Tx, deployment: Deployment) -> str:
        share = self._deployments().traffic_bp(tx, deployment) / 100
        return (
            f"{deployment.model}@{deployment.version} carries {share:g} % of the live traffic of {deployment.endpoint} "
            f"as {deployment.stage.value}: promote another version there first"
        )

    def _replacement(self, tx: Tx, plan: Plan, endpoint: str) -> Deployment | None:
        """Return the replacement's live deployment at an endpoint."""
        model = plan.migration.replacement_model or plan.model
        service = self._deployments()
        for stage in (Stage.PRODUCTION, Stage.CANARY):
            found = service.current(tx, plan.project, endpoint, stage)
            if found is not None and found.state.serves and (found.model, found.version) == (
                model, plan.migration.replacement_version,
            ):  # fmt: skip
                return found
        return None

    def _shift(self, tx: Tx, plan: Plan, deployment: Deployment, left_bp: int) -> list[str]:
        """Leave a deployment a share and give the rest to the replacement; return what is in the way."""
        if not plan.migration.replacement_version:
            return [self._says(tx, deployment) + " (the plan names no replacement)"]
        replacement = self._replacement(tx, plan, deployment.endpoint)
        if replacement is None:
            model = plan.migration.replacement_model or plan.model
            named = f"{model}@{plan.migration.replacement_version}"
            return [f"{named} is not live at endpoint {deployment.endpoint}: deploy it as canary there first"]
        weights = [(deployment.id, left_bp), (replacement.id, 10_000 - left_bp)]
        service = self._deployments()
        routes = service.endpoint(tx, plan.project, deployment.endpoint).routes
        service.set_traffic(
            tx, deployment.endpoint, weights, routes.shadows, routes.sticky_header, project=plan.project
        )
        return []

    def _judge(self, tx: Tx, plan: Plan) -> Result:
        """Return what is known of the replacement; too many errors are a blocker, no calls are none."""
        seen: dict[str, Any] = {}
        for deployment in self._deployments().live(tx, plan.project):
            model = plan.migration.replacement_model or plan.model
            if (deployment.model, deployment.version) != (model, plan.migration.replacement_version):
                continue
            if not deployment.stage.is_live:
                continue
            evidence: Evidence = self._monitoring().evidence(tx, deployment.id, None)
            ratio = evidence.get("error_ratio")
            if ratio is None or ratio.value is None:
                continue
            seen[deployment.id] = {"error_ratio": ratio.value, "n": ratio.n}
            if ratio.n >= MIN_SAMPLE and ratio.value > MAX_ERROR_RATIO:
                return {"blockers": [f"{deployment.name}: {ratio.value:.1%} of {ratio.n} calls failed"]}
        return {"seen": seen}
