"""LifecycleService on the wire, and the installation of automation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from pilotfish.errors import InvalidArgument, NotFound, Violation
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish.v1 import lifecycle_service_pb2 as svc
from pilotfish.v1 import lifecycle_service_pb2_grpc
from pilotfish_control_plane.core import Core, Installed, transactional
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.grpc_server import lifecycle_wire as wire
from pilotfish_control_plane.lifecycle.actions import RuleActions
from pilotfish_control_plane.lifecycle.firing import RuleReconciler
from pilotfish_control_plane.lifecycle.model import FiringState, Migration, Plan
from pilotfish_control_plane.lifecycle.retirement import RetirementReconciler, RetirementService
from pilotfish_control_plane.lifecycle.retirement_steps import RetirementSteps
from pilotfish_control_plane.lifecycle.rules import Evidence
from pilotfish_control_plane.lifecycle.service import LifecycleService
from pilotfish_control_plane.monitoring.model import EvidenceEvent
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.names import DEFAULT_PROJECT, EndpointName, ModelName, RuleName
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import actions as outbox
from pilotfish_control_plane.storage import lifecycle as rows
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.paging import Listing, PageRequest, fetch_page
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.service import TrainingService

__all__ = ["LifecycleServicer", "install"]

_R, _F, _T = rows.rules.c, rows.firings.c, rows.retirement_plans.c
RULES = Listing(key=Scalar(_R.id), fields={"name": Scalar(_R.id)}, orders={"name": Scalar(_R.id)}, default_order="name")
FIRINGS = Listing(
    key=Scalar(_F.number, Kind.NUMBER),
    fields={
        "endpoint": Scalar(_F.endpoint),
        "deployment": Scalar(_F.deployment),
        "rule": Scalar(_F.rule),
        "state": Scalar(_F.state, choices={s.value: s.value for s in FiringState}),
    },
    orders={"number": Scalar(_F.number, Kind.NUMBER)},
    default_order="number desc",
)
PLANS = Listing(
    key=Scalar(_T.number, Kind.NUMBER),
    fields={},
    orders={"number": Scalar(_T.number, Kind.NUMBER)},
    default_order="number desc",
)


def _rule_name(text: str, field: str = "name") -> RuleName:
    return RuleName.parse(text, field) if "/" in text else RuleName(DEFAULT_PROJECT, text)


def _plan_name(text: str) -> str:
    return text if "/" in text else f"projects/{DEFAULT_PROJECT}/retirementPlans/{text}"


class LifecycleServicer(lifecycle_service_pb2_grpc.LifecycleServiceServicer):
    """Checks and converts; the work is in `lifecycle`."""

    def __init__(self, core: Core, service: LifecycleService, plans: RetirementService) -> None:
        """Serve `service` and `plans`."""
        self._core = core
        self._service = service
        self._plans = plans

    async def CreateRule(self, request: svc.CreateRuleRequest, context: Any) -> svc.CreateRuleResponse:
        """See the contract."""
        project = request.project or DEFAULT_PROJECT
        rule = wire.rule_from_wire(request.rule, project, request.rule_id, self._core.clock.now())
        return await self._core.mutations.mutate(
            request, lambda tx: svc.CreateRuleResponse(rule=wire.rule_to_wire(self._service.create_rule(tx, rule)))
        )

    async def GetRule(self, request: svc.GetRuleRequest, context: Any) -> svc.GetRuleResponse:
        """See the contract."""
        name = _rule_name(request.name)
        return await self._core.mutations.read(
            lambda tx: svc.GetRuleResponse(rule=wire.rule_to_wire(self._service.rule(tx, name.project, name.rule)))
        )

    async def ListRules(self, request: svc.ListRulesRequest, context: Any) -> svc.ListRulesResponse:
        """See the contract."""
        project = request.project or DEFAULT_PROJECT

        def read(tx: Tx) -> svc.ListRulesResponse:
            asked = PageRequest(request.page_size, request.page_token, scope=project)
            page = fetch_page(tx.conn, select(rows.rules).where(_R.project == project), RULES, asked, rows.rule_from)
            return svc.ListRulesResponse(
                rules=[wire.rule_to_wire(r) for r in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(read)

    async def UpdateRule(self, request: svc.UpdateRuleRequest, context: Any) -> svc.UpdateRuleResponse:
        """See the contract."""
        name = _rule_name(request.rule.name, "rule.name")
        rule = wire.rule_from_wire(request.rule, name.project, name.rule, self._core.clock.now())
        fields = list(request.update_mask.paths)
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.UpdateRuleResponse(
                rule=wire.rule_to_wire(self._service.update_rule(tx, rule, fields, request.rule.etag))
            ),
        )

    async def DeleteRule(self, request: svc.DeleteRuleRequest, context: Any) -> svc.DeleteRuleResponse:
        """See the contract."""
        name = _rule_name(request.name)

        def delete(tx: Tx) -> svc.DeleteRuleResponse:
            self._service.delete_rule(tx, name.project, name.rule)
            return svc.DeleteRuleResponse()

        return await self._core.mutations.mutate(request, delete)

    async def ListFirings(self, request: svc.ListFiringsRequest, context: Any) -> svc.ListFiringsResponse:
        """See the contract."""

        def read(tx: Tx) -> svc.ListFiringsResponse:
            query = select(rows.firings)
            if request.parent:
                name = _rule_name(request.parent, "parent")
                query = query.where(_F.project == name.project, _F.rule == name.rule)
            asked = PageRequest(request.page_size, request.page_token, request.filter, scope=request.parent)
            page = fetch_page(tx.conn, query, FIRINGS, asked, rows.firing_from)
            shown = [wire.firing_to_wire(f, outbox.of_firing(tx.conn, f.id)) for f in page.items]
            return svc.ListFiringsResponse(firings=shown, next_page_token=page.next_page_token)

        return await self._core.mutations.read(read)

    async def SetAutomation(self, request: svc.SetAutomationRequest, context: Any) -> svc.SetAutomationResponse:
        """See the contract."""
        project = request.project or DEFAULT_PROJECT

        def switch(tx: Tx) -> svc.SetAutomationResponse:
            if request.endpoint:
                if request.paused and not request.reason:
                    raise InvalidArgument("why?", violations=[Violation("reason", "is required to pause")])
                deployments = self._core.services.get(DeploymentService)
                deployments.set_automation_paused(tx, project, request.endpoint.rpartition("/")[2], request.paused)
                tx.wake("lifecycle")
            else:
                self._service.pause(tx, project, request.paused, request.reason)
            paused, _, endpoints = self._switches(tx, project)
            return svc.SetAutomationResponse(paused=paused, paused_endpoints=endpoints)

        return await self._core.mutations.mutate(request, switch)

    async def GetAutomation(self, request: svc.GetAutomationRequest, context: Any) -> svc.GetAutomationResponse:
        """See the contract."""

        def read(tx: Tx) -> svc.GetAutomationResponse:
            paused, reason, endpoints = self._switches(tx, request.project or DEFAULT_PROJECT)
            return svc.GetAutomationResponse(paused=paused, reason=reason, paused_endpoints=endpoints)

        return await self._core.mutations.read(read)

    def _switches(self, tx: Tx, project: str) -> tuple[bool, str, list[str]]:
        paused, reason = self._service.paused(tx, project)
        page = self._core.services.get(DeploymentService).list_endpoints(tx, project, PageRequest(1000))
        return paused, reason, [e.id for e in page.items if e.automation_paused]

    # Retirement

    async def CreateRetirementPlan(
        self, request: svc.CreateRetirementPlanRequest, context: Any
    ) -> svc.CreateRetirementPlanResponse:
        """See the contract."""
        if not request.HasField("retirement_time"):
            raise InvalidArgument("when does it retire?", violations=[Violation("retirement_time", "is not set")])
        day = request.retirement_time.ToDatetime(tzinfo=UTC)
        migration = wire.migration_from_wire(request.migration_plan)

        def create(tx: Tx) -> svc.CreateRetirementPlanResponse:
            project, model, version = self._subject(tx, request.subject)
            plan = self._plans.create(tx, project, model, version, day, migration)
            return svc.CreateRetirementPlanResponse(plan=self._shown(tx, plan))

        return await self._core.mutations.mutate(request, create)

    def _subject(self, tx: Tx, text: str) -> tuple[str, str, int]:
        """Return (project, model, version); version 0 is the whole model."""
        if not text:
            raise InvalidArgument("what retires?", violations=[Violation("subject", "is empty")])
        registry = self._core.services.get(RegistryService)
        if "@" in text or "/versions/" in text:
            found = registry.resolve_version(tx, text)
            return found.project, found.model, found.number
        name = ModelName.parse(text, "subject") if "/" in text else ModelName(DEFAULT_PROJECT, text)
        registry.get_model(tx, name.project, name.model)
        return name.project, name.model, 0

    async def GetRetirementPlan(
        self, request: svc.GetRetirementPlanRequest, context: Any
    ) -> svc.GetRetirementPlanResponse:
        """See the contract."""
        name = _plan_name(request.name)
        return await self._core.mutations.read(
            lambda tx: svc.GetRetirementPlanResponse(plan=self._shown(tx, self._plans.get(tx, name)))
        )

    async def ListRetirementPlans(
        self, request: svc.ListRetirementPlansRequest, context: Any
    ) -> svc.ListRetirementPlansResponse:
        """See the contract."""
        project = request.project or DEFAULT_PROJECT

        def read(tx: Tx) -> svc.ListRetirementPlansResponse:
            query = select(rows.retirement_plans).where(_T.project == project)
            asked = PageRequest(request.page_size, request.page_token, scope=project)
            page = fetch_page(tx.conn, query, PLANS, asked, rows.plan_from)
            return svc.ListRetirementPlansResponse(
                plans=[self._shown(tx, p) for p in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(read)

    async def UpdateRetirementPlan(
        self, request: svc.UpdateRetirementPlanRequest, context: Any
    ) -> svc.UpdateRetirementPlanResponse:
        """See the contract."""
        fields = set(request.update_mask.paths)
        unknown = fields - {"retirement_time", "migration_plan"}
        if unknown or not fields:
            text = f"{', '.join(sorted(unknown)) or 'nothing'}: use retirement_time, migration_plan"
            raise InvalidArgument("the mask cannot be used", violations=[Violation("update_mask", text)])
        if "retirement_time" in fields and not request.plan.HasField("retirement_time"):
            raise InvalidArgument(
                "when does it retire?", violations=[Violation("plan.retirement_time", "is in the mask but not set")]
            )
        day = request.plan.retirement_time.ToDatetime(tzinfo=UTC) if "retirement_time" in fields else None
        migration = wire.migration_from_wire(request.plan.migration_plan) if "migration_plan" in fields else None
        name, etag = _plan_name(request.plan.name), request.plan.etag
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.UpdateRetirementPlanResponse(
                plan=self._shown(tx, self._plans.update(tx, name, day=day, migration=migration, etag=etag))
            ),
        )

    async def CancelRetirementPlan(
        self, request: svc.CancelRetirementPlanRequest, context: Any
    ) -> svc.CancelRetirementPlanResponse:
        """See the contract."""
        name = _plan_name(request.name)
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.CancelRetirementPlanResponse(
                plan=self._shown(tx, self._plans.cancel(tx, name, request.reason))
            ),
        )

    def _shown(self, tx: Tx, plan: Plan) -> pb.RetirementPlan:
        newest = {"/".join(a.key.split("/")[:3]): a for a in outbox.of_firing(tx.conn, plan.id)}
        return wire.plan_to_wire(plan, newest)


class _Neighbours:
    """The other areas, asked at every call."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def evidence_after(self, tx: Tx, serial: int) -> list[tuple[int, EvidenceEvent]]:
        return self._core.services.get(MonitoringService).evidence_after(tx, serial)

    def evidence(self, tx: Tx, deployment_id: str, since: datetime | None) -> Evidence:
        return self._core.services.get(MonitoringService).evidence(tx, deployment_id, since)

    def episode(self, tx: Tx, deployment_id: str, evidence_id: str) -> tuple[int, bool] | None:
        return self._core.services.get(MonitoringService).episode(tx, deployment_id, evidence_id)

    def live(self, tx: Tx, project: str, endpoint: str) -> Sequence[Deployment]:
        return self._core.services.get(DeploymentService).live(tx, project, endpoint or None)

    def endpoint_paused(self, tx: Tx, project: str, endpoint: str) -> bool:
        try:
            return self._core.services.get(DeploymentService).endpoint(tx, project, endpoint).automation_paused
        except NotFound:
            return False


def install(core: Core) -> Installed:
    """Offer rules and retirement, and their actions."""
    actions = RuleActions(
        lambda: core.services.get(DeploymentService),
        lambda: core.services.get(MonitoringService),
        lambda: core.services.get(TrainingService),
        wire.delivery_from_json,
    )

    def check_target(tx: Tx, project: str, kind: str, parameters: Mapping[str, Any]) -> None:
        actions.check(tx, project, kind, parameters)
        if kind == "update_traffic_allocation" and parameters.get("endpoint"):
            name = EndpointName(project, str(parameters["endpoint"]).rpartition("/")[2])
            core.services.get(DeploymentService).endpoint(tx, name.project, name.endpoint)

    def check_subject(tx: Tx, project: str, model: str, version: int, migration: Migration) -> None:
        registry = core.services.get(RegistryService)
        if migration.replacement_version:
            other = migration.replacement_model or model
            registry.get_version(tx, project, other, migration.replacement_version)
            if other == model and version in (0, migration.replacement_version):
                raise InvalidArgument(
                    f"{model}@{migration.replacement_version} cannot replace itself",
                    violations=[Violation("migration_plan.replacement_version", "is the retiring version")],
                )

    service = core.services.add(LifecycleService(check_target))
    plans = core.services.add(RetirementService(check_subject))
    steps = RetirementSteps(
        plans,
        lambda: core.services.get(RegistryService),
        lambda: core.services.get(DeploymentService),
        lambda: core.services.get(MonitoringService),
    )
    kinds = (
        actions.retrain_model,
        actions.rollback_deployment,
        actions.scale_deployment,
        actions.send_alert,
        actions.update_traffic_allocation,
    )
    executors = {action.__name__: transactional(action) for action in kinds}
    executors |= {kind: transactional(step) for kind, step in steps.handlers().items()}
    servicer = LifecycleServicer(core, service, plans)
    return Installed(
        servicers=[(lifecycle_service_pb2_grpc.add_LifecycleServiceServicer_to_server, servicer)],
        reconcilers=[RuleReconciler(_Neighbours(core)), RetirementReconciler()],
        executors=executors,
    )
