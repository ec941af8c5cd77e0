"""Rules, firings, the kill switch, and retirement plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pilotfish.aio.calls import Calls
from pilotfish.messages import build, timestamp
from pilotfish.v1 import lifecycle_pb2 as pb
from pilotfish.v1 import lifecycle_service_pb2 as svc
from pilotfish.v1 import lifecycle_service_pb2_grpc as svc_grpc

__all__ = ["Lifecycle"]

STUB = svc_grpc.LifecycleServiceStub


class Lifecycle:
    """Automation."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.lifecycle`."""
        self._calls = calls
        self._project = project

    def _rule(self, rule: str) -> str:
        return rule if "/" in rule else f"projects/{self._project}/rules/{rule}"

    # Any: plain values in the contract's names.
    async def create_rule(
        self, rule: str, definition: Mapping[str, Any] | pb.Rule, *, validate_only: bool = False
    ) -> pb.Rule:
        """Create a rule: any of `triggers`, all of `conditions`, `actions` in order.

        Raises:
            InvalidArgument: every bad trigger, condition and action.
        """
        request = svc.CreateRuleRequest(
            project=self._project, rule_id=rule, rule=build(pb.Rule, definition, "rule"), validate_only=validate_only
        )
        answer: svc.CreateRuleResponse = await self._calls.unary(STUB, "CreateRule", request)
        return answer.rule

    async def rule(self, rule: str) -> pb.Rule:
        """Return a rule."""
        answer: svc.GetRuleResponse = await self._calls.unary(
            STUB, "GetRule", svc.GetRuleRequest(name=self._rule(rule))
        )
        return answer.rule

    async def rules(self) -> list[pb.Rule]:
        """Return every rule."""
        request = svc.ListRulesRequest(project=self._project, page_size=1000)
        answer: svc.ListRulesResponse = await self._calls.unary(STUB, "ListRules", request)
        return list(answer.rules)

    async def update_rule(self, rule: str, **fields: Any) -> pb.Rule:
        """Change fields of a rule, such as enabled=False: a new revision."""
        message = build(pb.Rule, fields, "rule")
        message.name = self._rule(rule)
        request = svc.UpdateRuleRequest(rule=message)
        request.update_mask.paths.extend(fields)
        answer: svc.UpdateRuleResponse = await self._calls.unary(STUB, "UpdateRule", request)
        return answer.rule

    async def delete_rule(self, rule: str) -> None:
        """Delete a rule; its firings stay."""
        await self._calls.unary(STUB, "DeleteRule", svc.DeleteRuleRequest(name=self._rule(rule)))

    async def firings(self, rule: str = "", *, filter: str = "", limit: int = 1000) -> list[pb.Firing]:
        """Return firings with their actions, newest first; rule "": of all."""
        request = svc.ListFiringsRequest(parent=self._rule(rule) if rule else "", filter=filter, page_size=limit)
        answer: svc.ListFiringsResponse = await self._calls.unary(STUB, "ListFirings", request)
        return list(answer.firings)

    async def pause(self, reason: str, *, endpoint: str = "") -> None:
        """Pause all automation, or one endpoint's."""
        request = svc.SetAutomationRequest(project=self._project, endpoint=endpoint, paused=True, reason=reason)
        await self._calls.unary(STUB, "SetAutomation", request)

    async def resume(self, *, endpoint: str = "") -> None:
        """Let automation act again."""
        request = svc.SetAutomationRequest(project=self._project, endpoint=endpoint, paused=False)
        await self._calls.unary(STUB, "SetAutomation", request)

    async def automation(self) -> svc.GetAutomationResponse:
        """Tell whether automation is paused, and where."""
        request = svc.GetAutomationRequest(project=self._project)
        answer: svc.GetAutomationResponse = await self._calls.unary(STUB, "GetAutomation", request)
        return answer

    async def plan_retirement(
        self,
        subject: str,
        retirement_time: datetime,
        *,
        replacement_version: int = 0,
        replacement_model: str = "",
        reduction_steps_bp: Sequence[int] = (),
        notify: Sequence[str] = (),
        notes: str = "",
        validate_only: bool = False,
    ) -> pb.RetirementPlan:
        """Plan the retirement of "m@v" or a model; phases already past run at once, in order."""
        request = svc.CreateRetirementPlanRequest(
            subject=subject,
            retirement_time=timestamp(retirement_time),
            migration_plan=pb.MigrationPlan(
                replacement_version=replacement_version,
                replacement_model=replacement_model,
                reduction_steps_bp=reduction_steps_bp,
                notify=notify,
                notes=notes,
            ),
            validate_only=validate_only,
        )
        answer: svc.CreateRetirementPlanResponse = await self._calls.unary(STUB, "CreateRetirementPlan", request)
        return answer.plan

    async def retirement_plan(self, name: str) -> pb.RetirementPlan:
        """Return a plan."""
        request = svc.GetRetirementPlanRequest(name=name)
        answer: svc.GetRetirementPlanResponse = await self._calls.unary(STUB, "GetRetirementPlan", request)
        return answer.plan

    async def retirement_plans(self) -> list[pb.RetirementPlan]:
        """Return plans, newest first."""
        request = svc.ListRetirementPlansRequest(project=self._project, page_size=1000)
        answer: svc.ListRetirementPlansResponse = await self._calls.unary(STUB, "ListRetirementPlans", request)
        return list(answer.plans)

    async def postpone_retirement(self, name: str, retirement_time: datetime) -> pb.RetirementPlan:
        """Move the day; dates of phases that have begun stay."""
        request = svc.UpdateRetirementPlanRequest(
            plan=pb.RetirementPlan(name=name, retirement_time=timestamp(retirement_time))
        )
        request.update_mask.paths.append("retirement_time")
        answer: svc.UpdateRetirementPlanResponse = await self._calls.unary(STUB, "UpdateRetirementPlan", request)
        return answer.plan

    async def cancel_retirement(self, name: str, reason: str) -> pb.RetirementPlan:
        """Call a plan off."""
        request = svc.CancelRetirementPlanRequest(name=name, reason=reason)
        answer: svc.CancelRetirementPlanResponse = await self._calls.unary(STUB, "CancelRetirementPlan", request)
        return answer.plan
