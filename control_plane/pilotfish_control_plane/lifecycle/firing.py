"""The reconciler of rules: evidence becomes firings, firings become actions of the outbox, one at a time.

Owns the way from evidence to action. State and actions are written in one transaction under unique keys, so that a
crash anywhere repeats nothing and loses nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from pilotfish.errors import PilotfishError
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.lifecycle.model import Firing, FiringState, Rule, RuleTrigger
from pilotfish_control_plane.lifecycle.rules import (
    Evidence,
    advance_watch,
    condition_failure,
    crossed,
    details_of,
    ended_state,
    next_slot,
)
from pilotfish_control_plane.monitoring.model import EvidenceEvent
from pilotfish_control_plane.storage import actions as outbox
from pilotfish_control_plane.storage import lifecycle as rows
from pilotfish_control_plane.storage import training as cursors
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Neighbours", "RuleReconciler"]

log = logging.getLogger(__name__)

CURSOR = "rules"
# Calls and errors are judged over the last minutes, quality over the deployment's life.
RECENT = timedelta(minutes=5)


class Neighbours(Protocol):
    """What rules need of the other areas."""

    def evidence_after(self, tx: Tx, serial: int) -> list[tuple[int, EvidenceEvent]]:
        """Return evidence that came after a serial number."""
        ...

    def evidence(self, tx: Tx, deployment_id: str, since: datetime | None) -> Evidence:
        """Return the metrics of a deployment."""
        ...

    def episode(self, tx: Tx, deployment_id: str, evidence_id: str) -> tuple[int, bool] | None:
        """Return the drifted windows of an episode and whether it is open; None: a newer one has begun."""
        ...

    def live(self, tx: Tx, project: str, endpoint: str) -> Sequence[Deployment]:
        """Return deployments that have not ended; endpoint "": of all."""
        ...

    def endpoint_paused(self, tx: Tx, project: str, endpoint: str) -> bool:
        """Tell whether automation is paused for an endpoint."""
        ...


class RuleReconciler:
    """Fires rules and sees their actions through."""

    name = "rules"
    topics = ("lifecycle", "actions.finished")

    def __init__(self, neighbours: Neighbours) -> None:
        """Read evidence through `neighbours`."""
        self._neighbours = neighbours

    def reconcile(self, tx: Tx) -> float | None:
        """Take new evidence, fire, and go on with what was fired; return seconds until the next slot."""
        enabled = rows.enabled_rules(tx.conn)
        self._take_evidence(tx, enabled)
        waits: list[float] = []
        for rule in enabled:
            try:
                with tx.savepoint():
                    waits += self._watch(tx, rule)
            except PilotfishError:
                # One failing rule stops no other.
                log.exception("rule %s cannot be evaluated", rule.name)
        self._watch_suspicions(tx, enabled)
        for firing in rows.firings_in(tx.conn, [FiringState.CONFIRMED, FiringState.ACTING]):
            self._go_on(tx, firing)
        return min(waits, default=None)

    # From evidence to firing -----------------------------------------------------------------------------

    def _take_evidence(self, tx: Tx, enabled: Sequence[Rule]) -> None:
        serial = newest = cursors.cursor(tx.conn, CURSOR)
        for after, event in self._neighbours.evidence_after(tx, serial):
            newest = after
            details = {**event.details, "value": event.value, "threshold": event.threshold, "n": event.n}
            for rule in enabled:
                needed = _confirmations(rule, event)
                if rule.project != event.project or needed is None:
                    continue
                try:
                    with tx.savepoint():
                        self._fire(
                            tx, rule, event.deployment, event.endpoint, event.id, event.kind.value, details,
                            event.evidence_time, suspected=needed > 1,
                        )  # fmt: skip
                except PilotfishError:
                    # As below: one failing rule stops no other.
                    log.exception("rule %s cannot take evidence %s", rule.name, event.id)
        if newest != serial:
            cursors.set_cursor(tx.conn, CURSOR, newest)

    def _watch_suspicions(self, tx: Tx, enabled: Sequence[Rule]) -> None:
        """Confirm suspected drift when enough of its windows drifted; end it when its episode did."""
        by_id = {(r.project, r.id, r.revision): r for r in enabled}
        for firing in rows.firings_in(tx.conn, [FiringState.SUSPECTED]):
            rule = by_id.get((firing.project, firing.rule, firing.rule_revision))
            needed = min((t.confirmations for t in rule.triggers if t.type == firing.kind), default=1) if rule else 1
            if rule is None or firing.kind != "data_drift":
                continue
            windows, is_open = self._neighbours.episode(tx, firing.deployment, firing.evidence) or (0, False)
            if windows >= needed:
                self._confirm(tx, rule, firing)
            elif not is_open:
                gone = dataclasses.replace(
                    firing, state=FiringState.LAPSED, ended=tx.now, state_reason="the evidence went away"
                )
                rows.set_firing(tx.conn, gone)

    def _watch(self, tx: Tx, rule: Rule) -> list[float]:
        waits = []
        for i, trigger in enumerate(rule.triggers):
            if trigger.type == "schedule":
                waits.append(self._schedule(tx, rule, i, trigger))
            elif trigger.type in ("performance_degradation", "error_rate_increase"):
                for deployment in self._neighbours.live(tx, rule.project, trigger.endpoint):
                    if deployment.stage.value in trigger.stages and deployment.state.serves:
                        self._metric(tx, rule, i, trigger, deployment)
        return waits

    def _schedule(self, tx: Tx, rule: Rule, index: int, trigger: RuleTrigger) -> float:
        due = rows.slot(tx.conn, rule.project, rule.id, index, rule.revision)
        if due is None:
            due = next_slot(trigger.cron, tx.now)
            rows.set_slot(tx.conn, rule.project, rule.id, index, rule.revision, due)
        if due <= tx.now:
            details = {"trigger": "schedule", "cron": trigger.cron, "slot": due.isoformat()}
            self._fire(tx, rule, "", trigger.endpoint, f"slot/{due.isoformat()}", "schedule", details, due)
            due = next_slot(trigger.cron, tx.now)
            rows.set_slot(tx.conn, rule.project, rule.id, index, rule.revision, due)
        return max(0.0, (due - tx.now).total_seconds())

    def _metric(self, tx: Tx, rule: Rule, index: int, trigger: RuleTrigger, deployment: Deployment) -> None:
        evidence = self._neighbours.evidence(tx, deployment.id, tx.now - RECENT)
        found = crossed(trigger, evidence)
        if found is None:
            return
        bad, value, n = found
        before = rows.watch(tx.conn, rule.project, rule.id, index, deployment.id)
        after, state = advance_watch(before, trigger, bad, f"{n}:{value:.9g}")
        if after != before:
            rows.set_watch(tx.conn, rule.project, after)
        if state is None:
            return
        evidence_id = f"{deployment.id}/{trigger.type}/{index}/{after.number}"
        details = details_of(trigger, value, n)
        known = rows.firing_of(tx.conn, rule.project, rule.id, rule.revision, deployment.id, evidence_id)
        if state is FiringState.LAPSED:
            if known is not None and known.state is FiringState.SUSPECTED:
                rows.set_firing(
                    tx.conn,
                    dataclasses.replace(known, state=state, ended=tx.now, state_reason="the evidence went away"),
                )
            return
        if known is not None and known.state is FiringState.SUSPECTED and state is FiringState.CONFIRMED:
            self._confirm(tx, rule, dataclasses.replace(known, evidence_details=details))
        elif known is None:
            self._fire(
                tx, rule, deployment.id, deployment.endpoint, evidence_id, trigger.type, details, tx.now,
                suspected=state is FiringState.SUSPECTED,
            )  # fmt: skip

    # Any: plain JSON.
    def _fire(
        self, tx: Tx, rule: Rule, deployment: str, endpoint: str, evidence: str, kind: str, details: Mapping[str, Any],
        at: datetime, *, suspected: bool = False,
    ) -> None:  # fmt: skip
        if rows.firing_of(tx.conn, rule.project, rule.id, rule.revision, deployment, evidence) is not None:
            return
        # The id is computed: the same evidence can never fire the same revision twice.
        text = f"{rule.project}/{rule.id}/{rule.revision}/{deployment}/{evidence}"
        firing = Firing(
            id=f"firing-{hashlib.sha256(text.encode()).hexdigest()[:12]}",
            number=0,
            project=rule.project,
            rule=rule.id,
            rule_revision=rule.revision,
            deployment=deployment,
            endpoint=endpoint,
            evidence=evidence,
            kind=kind,
            state=FiringState.SUSPECTED,
            evidence_details=dict(details),
            evidence_time=at,
            created=tx.now,
            actions=rule.actions,
        )
        firing = rows.add_firing(tx.conn, firing)
        if not suspected:
            self._confirm(tx, rule, firing)

    def _confirm(self, tx: Tx, rule: Rule, firing: Firing) -> None:
        """Act on a firing, or say why not."""
        why_not = self._why_not(tx, rule, firing)
        if why_not:
            over = dataclasses.replace(firing, state=FiringState.SUPPRESSED, state_reason=why_not, ended=tx.now)
            rows.set_firing(tx.conn, over)
            tx.emit("rule.suppressed", firing.name, {"reason": why_not, "evidence": firing.evidence})
            return
        acting = dataclasses.replace(firing, state=FiringState.ACTING, acted=tx.now)
        rows.set_firing(tx.conn, acting)
        tx.emit("rule.fired", firing.name, {"evidence": firing.evidence, **firing.evidence_details})
        self._enqueue(tx, acting, 0)

    def _why_not(self, tx: Tx, rule: Rule, firing: Firing) -> str:
        is_paused, reason = rows.paused(tx.conn, rule.project)
        if is_paused:
            return f"automation is paused: {reason}"
        if firing.endpoint and self._neighbours.endpoint_paused(tx, rule.project, firing.endpoint):
            return f"automation is paused for endpoint {firing.endpoint}"
        last = rows.last_acted(tx.conn, rule.project, rule.id, firing.deployment, firing.endpoint)
        if last is not None and last.acted is not None:
            gone = (tx.now - last.acted).total_seconds()
            if gone < rule.cooldown_s:
                return f"cooldown: {last.id} acted {gone:.0f} s ago, {rule.cooldown_s:g} s must pass"
        if rule.conditions:
            evidence = self._neighbours.evidence(tx, firing.deployment, None) if firing.deployment else {}
            return condition_failure(rule.conditions, evidence, tx.now)
        return ""

    # From firing to actions ------------------------------------------------------------------------------

    def _enqueue(self, tx: Tx, firing: Firing, index: int) -> None:
        action = firing.actions[index]
        payload = {
            "parameters": dict(action.parameters),
            "firing": firing.name,
            "firing_id": firing.id,
            "project": firing.project,
            "rule": firing.rule,
            "deployment": firing.deployment,
            "endpoint": firing.endpoint,
            "kind": firing.kind,
            "evidence": firing.evidence,
            "details": dict(firing.evidence_details),
        }
        outbox.enqueue(tx, key=firing.action_key(index), kind=action.type, payload=payload, firing=firing.id)

    def _go_on(self, tx: Tx, firing: Firing) -> None:
        """Enqueue the next action when the last one has ended, or end the firing."""
        done = outbox.of_firing(tx.conn, firing.id)
        if not done:
            self._enqueue(tx, firing, 0)
            return
        last = done[-1]
        if last.state not in (outbox.ActionState.SUCCEEDED, outbox.ActionState.FAILED):
            return
        failed = last.state is outbox.ActionState.FAILED
        stop = failed and firing.actions[len(done) - 1].stop_on_failure
        if len(done) < len(firing.actions) and not stop:
            self._enqueue(tx, firing, len(done))
            return
        outcomes = [a.state is outbox.ActionState.SUCCEEDED for a in done]
        state = ended_state(outcomes, len(firing.actions))
        errors = "; ".join(f"{a.kind}: {a.error}" for a in done if a.error)
        over = dataclasses.replace(firing, state=state, state_reason=errors, ended=tx.now)
        rows.set_firing(tx.conn, over)
        tx.emit(f"rule.{state.value}", firing.name, {"errors": errors})


def _confirmations(rule: Rule, event: EvidenceEvent) -> int | None:
    """Return the fewest windows that confirm a piece of evidence for a rule; None: no trigger matches it."""
    return min((t.confirmations for t in rule.triggers if _matches(t, event)), default=None)


def _matches(trigger: RuleTrigger, event: EvidenceEvent) -> bool:
    if trigger.endpoint and trigger.endpoint != event.endpoint:
        return False
    if trigger.type != event.kind.value or event.stage not in trigger.stages:
        return False
    return event.n >= trigger.min_sample and event.value >= trigger.threshold
