"""Retirement plans: four phases as durable rows, each step an action of the outbox with a key of its own.

Owns plans and the reconciler that walks them. A step that meets something still in use halts the plan and names the
blockers; nothing is taken away silently.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pilotfish.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.lifecycle.model import PHASES, Migration, Phase, Plan, PlanState
from pilotfish_control_plane.lifecycle.rules import check_migration, phases_of, postponed
from pilotfish_control_plane.names import RetirementPlanName
from pilotfish_control_plane.storage import actions as outbox
from pilotfish_control_plane.storage import lifecycle as rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["RetirementReconciler", "RetirementService"]

STEPS = {phase: steps for phase, _, steps in PHASES}


class RetirementService:
    """Plans: made, changed, called off."""

    def __init__(self, check_subject: Callable[[Tx, str, str, int, Migration], None]) -> None:
        """Check subject and replacement through `check_subject(tx, project, model, version, migration)`."""
        self._check_subject = check_subject

    def create(self, tx: Tx, project: str, model: str, version: int, day: datetime, migration: Migration) -> Plan:
        """Plan a retirement; phases already past run at once, in order.

        Raises:
            InvalidArgument: a bad migration plan.
            NotFound: the subject or its replacement.
            AlreadyExists: there is an open plan for the subject.
        """
        self._check(tx, project, model, version, migration)
        for other in rows.open_plans(tx.conn):
            if (other.project, other.model, other.version) == (project, model, version):
                raise AlreadyExists(
                    f"{other.subject} has an open plan already: {other.name}; change or cancel that one"
                )
        plan = Plan(
            f"plan-{secrets.token_hex(6)}", 0, project, model, version, day, migration, PlanState.SCHEDULED,
            phases_of(day), tx.now, tx.actor.name,
        )  # fmt: skip
        plan = rows.add_plan(tx.conn, plan)
        tx.audit("CreateRetirementPlan", plan.name, None, {"subject": plan.subject, "day": day.isoformat()})
        _tell(tx, plan)
        return plan

    def get(self, tx: Tx, name: str) -> Plan:
        """Return a plan.

        Raises:
            NotFound: there is none.
        """
        parsed = RetirementPlanName.parse(name, "name")
        found = rows.plan(tx.conn, parsed.project, parsed.plan)
        if found is None:
            raise NotFound(f"there is no retirement plan {name}")
        return found

    def update(self, tx: Tx, name: str, *, day: datetime | None, migration: Migration | None, etag: str = "") -> Plan:
        """Change the day or the migration; a halted plan tries again.

        Raises:
            Aborted: the etag is not the newest.
            FailedPrecondition: it is over, or the date of a phase that has begun would move.
        """
        plan = self._open(tx, name)
        if etag and etag != plan.etag:
            raise Aborted(f"{name} was changed meanwhile: read it again and repeat")
        if migration is not None:
            self._check(tx, plan.project, plan.model, plan.version, migration)
            plan = dataclasses.replace(plan, migration=migration)
        if day is not None:
            if plan.phases[-1].started is not None:
                raise FailedPrecondition("retirement has begun: its date cannot move any more")
            plan = dataclasses.replace(plan, retirement=day, phases=postponed(plan.phases, day))
        if plan.state is PlanState.HALTED:
            phases = tuple(
                dataclasses.replace(p, attempt=p.attempt + 1) if p.started and not p.ended else p for p in plan.phases
            )
            plan = dataclasses.replace(
                plan, state=_state_of(phases), phases=phases, blockers=(), state_reason="tried again"
            )
        plan = rows.set_plan(tx.conn, plan)
        tx.audit("UpdateRetirementPlan", plan.name, None, {"day": plan.retirement.isoformat()})
        _tell(tx, plan)
        return plan

    def cancel(self, tx: Tx, name: str, reason: str) -> Plan:
        """Call a plan off.

        Raises:
            FailedPrecondition: it is over, or retirement's first action has begun.
        """
        if not reason:
            raise InvalidArgument("why is it called off?", violations=[Violation("reason", "is required")])
        plan = self._open(tx, name)
        if plan.phases[-1].started is not None:
            raise FailedPrecondition("retirement has begun: it cannot be called off any more")
        words = f"called off by {tx.actor.name}: {reason}"
        plan = rows.set_plan(tx.conn, dataclasses.replace(plan, state=PlanState.CANCELLED, state_reason=words))
        tx.audit("CancelRetirementPlan", plan.name, None, {"reason": reason})
        _tell(tx, plan)
        return plan

    def _open(self, tx: Tx, name: str) -> Plan:
        plan = self.get(tx, name)
        if not plan.state.is_open:
            raise FailedPrecondition(f"{name} is over ({plan.state.value})")
        return plan

    def _check(self, tx: Tx, project: str, model: str, version: int, migration: Migration) -> None:
        problems = check_migration(migration)
        if problems:
            raise InvalidArgument("the migration plan cannot be used", violations=problems)
        self._check_subject(tx, project, model, version, migration)


class RetirementReconciler:
    """Walks every open plan: phases in order, steps in order, each step once."""

    name = "retirement"
    topics = ("retirement", "actions.finished")

    def reconcile(self, tx: Tx) -> float | None:
        """Begin what is due; return the seconds until the next date."""
        waits = [w for plan in rows.open_plans(tx.conn) if (w := self._walk(tx, plan)) is not None]
        return min(waits, default=None)

    def _walk(self, tx: Tx, plan: Plan) -> float | None:
        if plan.state is PlanState.HALTED:
            return None
        index = next((i for i, p in enumerate(plan.phases) if p.ended is None), None)
        if index is None:
            self._save(tx, plan, state=PlanState.COMPLETED, state_reason="")
            return None
        phase = plan.phases[index]
        if phase.started is None:
            if phase.due > tx.now:
                return (phase.due - tx.now).total_seconds()
            phase = dataclasses.replace(phase, started=tx.now)
            plan = self._save(tx, plan, phase=phase, state=PlanState(phase.phase), state_reason="")
        return self._step(tx, plan, phase)

    def _step(self, tx: Tx, plan: Plan, phase: Phase) -> float | None:
        steps = STEPS[phase.phase]
        if phase.step >= len(steps):
            self._save(tx, plan, phase=dataclasses.replace(phase, ended=tx.now))
            tx.wake("retirement")
            return None
        known = outbox.find(tx.conn, plan.step_key(phase.phase, phase.step, phase.attempt))
        if known is None:
            step = steps[phase.step]
            payload = {"plan": plan.name, "step": step, "phase": phase.phase}
            key = plan.step_key(phase.phase, phase.step, phase.attempt)
            outbox.enqueue(tx, key=key, kind=f"retirement.{step}", payload=payload, firing=plan.id)
            return None
        if known.state is outbox.ActionState.FAILED:
            halt(tx, plan, [f"{steps[phase.step]} failed: {known.error}"])
        if known.state is not outbox.ActionState.SUCCEEDED:
            return None
        result = known.result or {}
        if result.get("blockers"):
            halt(tx, plan, list(result["blockers"]))
            return None
        again_in_s = result.get("again_in_s")
        if again_in_s is not None and known.finished is not None:
            left = float(again_in_s) - (tx.now - known.finished).total_seconds()
            if left > 0:
                return left
            self._save(tx, plan, phase=dataclasses.replace(phase, attempt=phase.attempt + 1))
        else:
            self._save(tx, plan, phase=dataclasses.replace(phase, step=phase.step + 1, attempt=0))
        tx.wake("retirement")
        return None

    # Any: fields of a plan.
    def _save(self, tx: Tx, plan: Plan, *, phase: Phase | None = None, **changes: Any) -> Plan:
        if phase is not None:
            changes["phases"] = tuple(phase if p.phase == phase.phase else p for p in plan.phases)
        changed = rows.set_plan(tx.conn, dataclasses.replace(plan, **changes))
        if changed.state is not plan.state:
            _tell(tx, changed)
        return changed


def halt(tx: Tx, plan: Plan, blockers: Sequence[str]) -> Plan:
    """Halt a plan and name what is in the way."""
    words = "halted: " + "; ".join(blockers)
    halted = rows.set_plan(
        tx.conn, dataclasses.replace(plan, state=PlanState.HALTED, blockers=tuple(blockers), state_reason=words)
    )
    _tell(tx, halted)
    return halted


def _state_of(phases: Sequence[Phase]) -> PlanState:
    begun = [p.phase for p in phases if p.started is not None]
    return PlanState(begun[-1]) if begun else PlanState.SCHEDULED


def _tell(tx: Tx, plan: Plan) -> None:
    payload: Mapping[str, Any] = {"subject": plan.subject, "reason": plan.state_reason, "blockers": list(plan.blockers)}
    tx.emit(f"retirement.{plan.state.value}", plan.name, payload)
    tx.wake("retirement")
