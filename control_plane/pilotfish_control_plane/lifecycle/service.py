"""Rules and the switch, each call in one transaction. Owns their life; firing is `lifecycle.firing`'s."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pilotfish.errors import Aborted, AlreadyExists, InvalidArgument, NotFound, PilotfishError, Violation
from pilotfish_control_plane.lifecycle.model import Rule
from pilotfish_control_plane.lifecycle.rules import check_rule
from pilotfish_control_plane.names import RuleName, check_id
from pilotfish_control_plane.storage import lifecycle as rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["LifecycleService", "Targets"]

# Raises NotFound or InvalidArgument when what an action names is not there.
Targets = Callable[[Tx, str, str, Mapping[str, Any]], None]

FIELDS = ("description", "triggers", "conditions", "actions", "enabled", "cooldown_s")


class LifecycleService:
    """Rules of automation, and the switch that pauses them."""

    def __init__(self, check_target: Targets) -> None:
        """Check targets of actions through `check_target(tx, project, action type, parameters)`."""
        self._check_target = check_target

    def create_rule(self, tx: Tx, rule: Rule) -> Rule:
        """Store a new rule.

        Raises:
            InvalidArgument: every bad trigger, condition and action, targets that do not exist included.
            AlreadyExists: the id is taken.
        """
        check_id(rule.id, "rule_id")
        if rows.rule(tx.conn, rule.project, rule.id) is not None:
            raise AlreadyExists(f"there is a rule {rule.id} already: change it with UpdateRule")
        revision = rows.last_revision(tx.conn, rule.project, rule.id) + 1
        new = dataclasses.replace(rule, revision=revision, created=tx.now, author=tx.actor.name)
        return self._put(tx, new, None)

    def update_rule(self, tx: Tx, rule: Rule, fields: Sequence[str], etag: str = "") -> Rule:
        """Change the fields named as a new revision.

        Raises:
            InvalidArgument: no field, an unknown one, or a bad value.
            Aborted: the etag is not the newest.
        """
        unknown = [f for f in fields if f not in FIELDS]
        if unknown or not fields:
            text = f"{', '.join(unknown)} cannot be changed" if unknown else "names no field"
            raise InvalidArgument(
                f"update_mask {text}", violations=[Violation("update_mask", f"{text}; use {', '.join(FIELDS)}")]
            )
        before = self.rule(tx, rule.project, rule.id)
        if etag and etag != before.etag:
            raise Aborted(f"rule {rule.id} was changed meanwhile: read it again and repeat")
        changed = dataclasses.replace(before, **{f: getattr(rule, f) for f in fields}, revision=before.revision + 1)
        put = self._put(tx, changed, before)
        self._forget(tx, before, put)
        return put

    def delete_rule(self, tx: Tx, project: str, rule_id: str) -> None:
        """Delete a rule; its firings stay."""
        found = self.rule(tx, project, rule_id)
        rows.delete_rule(tx.conn, project, rule_id)
        rows.lapse_suspected(tx.conn, project, rule_id, "the rule was deleted", tx.now)
        tx.audit("DeleteRule", found.name, _summary(found), None)
        tx.emit("rule.deleted", found.name)

    def _forget(self, tx: Tx, before: Rule, after: Rule) -> None:
        """Begin anew where a rule's triggers changed or it was switched off: what was seen was seen by another one."""
        rows.lapse_suspected(tx.conn, after.project, after.id, "the rule was changed", tx.now)
        for i, trigger in enumerate(before.triggers):
            if not after.enabled or after.triggers[i : i + 1] != (trigger,):
                rows.reset_watches(tx.conn, after.project, after.id, i)

    def rule(self, tx: Tx, project: str, rule_id: str) -> Rule:
        """Return a rule.

        Raises:
            NotFound: there is none.
        """
        found = rows.rule(tx.conn, project, rule_id)
        if found is None:
            raise NotFound(f"there is no rule {RuleName(project, rule_id)}")
        return found

    def _put(self, tx: Tx, rule: Rule, before: Rule | None) -> Rule:
        problems = check_rule(rule)
        for i, action in enumerate(rule.actions):
            try:
                self._check_target(tx, rule.project, action.type, action.parameters)
            except PilotfishError as error:
                problems.append(Violation(f"rule.actions[{i}].parameters", error.message))
        if problems:
            raise InvalidArgument(f"rule {rule.id} cannot be used", violations=problems)
        found = dataclasses.replace(rule, updated=tx.now)
        rows.put_rule(tx.conn, found)
        tx.audit("PutRule", found.name, _summary(before) if before else None, _summary(found))
        tx.emit("rule.revised", found.name, {"revision": found.revision, "enabled": found.enabled})
        tx.wake("lifecycle")
        return found

    def pause(self, tx: Tx, project: str, paused: bool, reason: str) -> None:
        """Pause or resume all automation of a project."""
        if paused and not reason:
            raise InvalidArgument("why is automation paused?", violations=[Violation("reason", "is required to pause")])
        before, _ = rows.paused(tx.conn, project)
        rows.set_paused(tx.conn, project, paused, reason, tx.actor.name, tx.now)
        tx.audit("SetAutomation", f"projects/{project}", {"paused": before}, {"paused": paused, "reason": reason})
        tx.emit("automation.paused" if paused else "automation.resumed", f"projects/{project}", {"reason": reason})
        tx.wake("lifecycle")

    def paused(self, tx: Tx, project: str) -> tuple[bool, str]:
        """Return whether all automation of a project is paused, and why."""
        return rows.paused(tx.conn, project)


def _summary(rule: Rule) -> dict[str, Any]:
    return {
        "revision": rule.revision,
        "enabled": rule.enabled,
        "triggers": [t.type for t in rule.triggers],
        "actions": [a.type for a in rule.actions],
    }
