"""Rows of rules, firings, watches, switches and retirement plans. Owns the tables and queries; decides nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Row,
    Table,
    Text,
    UniqueConstraint,
    and_,
    delete,
    insert,
    select,
    update,
)

from pilotfish_control_plane.lifecycle.model import (
    Condition,
    Firing,
    FiringState,
    Migration,
    Phase,
    Plan,
    PlanState,
    Rule,
    RuleAction,
    RuleTrigger,
    Watch,
)
from pilotfish_control_plane.storage.metadata import metadata
from pilotfish_control_plane.storage.puts import put
from pilotfish_control_plane.storage.types import Json, UtcDateTime

rules = Table(
    "rules",
    metadata,
    Column("project", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("description", Text, nullable=False),
    Column("definition", Json, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
    Column("author", Text, nullable=False),
)

rule_counters = Table(
    "rule_counters",
    metadata,
    Column("project", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

rule_slots = Table(
    "rule_slots",
    metadata,
    Column("project", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("trigger", BigInteger, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("due", UtcDateTime, nullable=False),
)

rule_watches = Table(
    "rule_watches",
    metadata,
    Column("project", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("trigger", BigInteger, primary_key=True),
    Column("deployment", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("hits", BigInteger, nullable=False),
    Column("seen", Text, nullable=False),
)

firings = Table(
    "firings",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("rule_revision", BigInteger, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("state_reason", Text, nullable=False),
    Column("evidence_details", Json, nullable=False),
    Column("evidence_time", UtcDateTime, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("acted", UtcDateTime),
    Column("ended", UtcDateTime),
    Column("actions", Json, nullable=False),
    UniqueConstraint("project", "rule", "rule_revision", "deployment", "evidence", name="firings_once_per_evidence"),
)
Index("firings_by_rule", firings.c.project, firings.c.rule, firings.c.number)

automation_switches = Table(
    "automation_switches",
    metadata,
    Column("project", Text, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("updated", UtcDateTime, nullable=False),
)

retirement_plans = Table(
    "retirement_plans",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False, unique=True),
    Column("project", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("retirement", UtcDateTime, nullable=False),
    Column("migration", Json, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("phases", Json, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("blockers", Json, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("author", Text, nullable=False),
    Column("serial", BigInteger, nullable=False),
)


# Rules --------------------------------------------------------------------------------------------------------


def rule_from(row: Row[Any]) -> Rule:
    """Return a row of rules as a value."""
    d = row.definition
    triggers = tuple(RuleTrigger(**{**t, "stages": tuple(t["stages"])}) for t in d["triggers"])
    return Rule(
        row.project, row.id, row.description, triggers, tuple(Condition(**c) for c in d["conditions"]),
        tuple(RuleAction(**a) for a in d["actions"]), row.enabled, d["cooldown_s"], row.revision, row.created,
        row.updated, row.author,
    )  # fmt: skip


def rule(conn: Connection, project: str, rule_id: str) -> Rule | None:
    """Return a rule; None: there is none."""
    row = conn.execute(select(rules).where(rules.c.project == project, rules.c.id == rule_id)).first()
    return None if row is None else rule_from(row)


def enabled_rules(conn: Connection) -> list[Rule]:
    """Return every rule that is switched on."""
    rows = conn.execute(select(rules).where(rules.c.enabled.is_(True)).order_by(rules.c.project, rules.c.id))
    return [rule_from(r) for r in rows]


def put_rule(conn: Connection, found: Rule) -> None:
    """Store a rule's newest revision."""
    definition = {
        "triggers": [dataclasses.asdict(t) | {"stages": list(t.stages)} for t in found.triggers],
        "conditions": [dataclasses.asdict(c) for c in found.conditions],
        "actions": [dataclasses.asdict(a) | {"parameters": dict(a.parameters)} for a in found.actions],
        "cooldown_s": found.cooldown_s,
    }
    values = {
        "description": found.description,
        "definition": definition,
        "enabled": found.enabled,
        "revision": found.revision,
        "updated": found.updated,
    }
    key = {"project": found.project, "id": found.id}
    put(conn, rules, key, values, once={"created": found.created, "author": found.author})
    put(conn, rule_counters, key, {"revision": found.revision})


def last_revision(conn: Connection, project: str, rule_id: str) -> int:
    """Return the newest revision that a rule of this id ever had, deleted ones too."""
    query = select(rule_counters.c.revision).where(rule_counters.c.project == project, rule_counters.c.id == rule_id)
    return int(conn.execute(query).scalar() or 0)


def delete_rule(conn: Connection, project: str, rule_id: str) -> None:
    """Remove a rule with its slots and watches; its firings stay."""
    conn.execute(delete(rules).where(rules.c.project == project, rules.c.id == rule_id))
    for table in (rule_slots, rule_watches):
        conn.execute(delete(table).where(table.c.project == project, table.c.rule == rule_id))


def slot(conn: Connection, project: str, rule_id: str, trigger: int, revision: int) -> datetime | None:
    """Return when a schedule trigger is due; None: not known for this revision."""
    key = and_(rule_slots.c.project == project, rule_slots.c.rule == rule_id, rule_slots.c.trigger == trigger)
    row = conn.execute(select(rule_slots).where(key)).first()
    return row.due if row is not None and row.revision == revision else None


def set_slot(conn: Connection, project: str, rule_id: str, trigger: int, revision: int, due: datetime) -> None:
    """Keep when a schedule trigger is due."""
    key = {"project": project, "rule": rule_id, "trigger": trigger}
    put(conn, rule_slots, key, {"revision": revision, "due": due})


def watch(conn: Connection, project: str, rule_id: str, trigger: int, deployment: str) -> Watch:
    """Return how a metric trigger stands for a deployment."""
    key = and_(
        rule_watches.c.project == project, rule_watches.c.rule == rule_id, rule_watches.c.trigger == trigger,
        rule_watches.c.deployment == deployment,
    )  # fmt: skip
    row = conn.execute(select(rule_watches).where(key)).first()
    if row is None:
        return Watch(rule_id, trigger, deployment)
    return Watch(rule_id, trigger, deployment, row.number, row.open, row.hits, row.seen)


def set_watch(conn: Connection, project: str, found: Watch) -> None:
    """Keep how a metric trigger stands for a deployment."""
    key = {"project": project, "rule": found.rule, "trigger": found.trigger, "deployment": found.deployment}
    values = {"number": found.number, "open": found.open, "hits": found.hits, "seen": found.seen}
    put(conn, rule_watches, key, values)


def reset_watches(conn: Connection, project: str, rule_id: str, trigger: int) -> None:
    """Forget what a metric trigger has seen; its episodes' numbers go on."""
    key = and_(rule_watches.c.project == project, rule_watches.c.rule == rule_id, rule_watches.c.trigger == trigger)
    conn.execute(update(rule_watches).where(key).values(open=False, hits=0, seen=""))


# Firings ------------------------------------------------------------------------------------------------------


def firing_from(row: Row[Any]) -> Firing:
    """Return a row of firings as a value."""
    return Firing(
        row.id, row.number, row.project, row.rule, row.rule_revision, row.deployment, row.endpoint, row.evidence,
        FiringState(row.state), row.evidence_details, row.evidence_time, row.created,
        tuple(RuleAction(**a) for a in row.actions), row.kind, row.state_reason, row.acted, row.ended,
    )  # fmt: skip


def _firing_values(found: Firing) -> dict[str, Any]:
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    values["state"] = found.state.value
    values["evidence_details"] = dict(found.evidence_details)
    values["actions"] = [dataclasses.asdict(a) | {"parameters": dict(a.parameters)} for a in found.actions]
    return values


def firing_of(
    conn: Connection, project: str, rule_id: str, revision: int, deployment: str, evidence: str
) -> Firing | None:
    """Return the firing of a rule's revision for a piece of evidence."""
    row = conn.execute(
        select(firings).where(
            firings.c.project == project,
            firings.c.rule == rule_id,
            firings.c.rule_revision == revision,
            firings.c.deployment == deployment,
            firings.c.evidence == evidence,
        )
    ).first()
    return None if row is None else firing_from(row)


def firing(conn: Connection, firing_id: str) -> Firing | None:
    """Return a firing by its id."""
    row = conn.execute(select(firings).where(firings.c.id == firing_id)).first()
    return None if row is None else firing_from(row)


def add_firing(conn: Connection, found: Firing) -> Firing:
    """Store a new firing; return it with its number."""
    newest = conn.execute(select(firings.c.number).order_by(firings.c.number.desc()).limit(1)).scalar()
    numbered = dataclasses.replace(found, number=int(newest or 0) + 1)
    conn.execute(insert(firings).values(_firing_values(numbered)))
    return numbered


def set_firing(conn: Connection, found: Firing) -> None:
    """Store a changed firing."""
    conn.execute(update(firings).where(firings.c.id == found.id).values(_firing_values(found)))


def firings_in(conn: Connection, states: Sequence[FiringState]) -> list[Firing]:
    """Return the firings in some states, oldest first."""
    query = select(firings).where(firings.c.state.in_([s.value for s in states])).order_by(firings.c.number)
    return [firing_from(r) for r in conn.execute(query)]


def lapse_suspected(conn: Connection, project: str, rule_id: str, reason: str, now: datetime) -> None:
    """End the firings of a rule that are only suspected."""
    key = and_(firings.c.project == project, firings.c.rule == rule_id, firings.c.state == FiringState.SUSPECTED.value)
    conn.execute(update(firings).where(key).values(state=FiringState.LAPSED.value, state_reason=reason, ended=now))


def last_acted(conn: Connection, project: str, rule_id: str, deployment: str, endpoint: str) -> Firing | None:
    """Return a rule's newest firing for a deployment that was acted on; deployment "": of those for none."""
    row = conn.execute(
        select(firings)
        .where(
            firings.c.project == project,
            firings.c.rule == rule_id,
            firings.c.deployment == deployment,
            firings.c.endpoint == endpoint,
            firings.c.acted.is_not(None),
        )
        .order_by(firings.c.number.desc())
        .limit(1)
    ).first()
    return None if row is None else firing_from(row)


# The switch ---------------------------------------------------------------------------------------------------


def paused(conn: Connection, project: str) -> tuple[bool, str]:
    """Return whether all automation of a project is paused, and why."""
    row = conn.execute(select(automation_switches).where(automation_switches.c.project == project)).first()
    return (False, "") if row is None else (row.paused, row.reason)


def set_paused(conn: Connection, project: str, is_paused: bool, reason: str, actor: str, now: datetime) -> None:
    """Pause or resume all automation of a project."""
    values = {"paused": is_paused, "reason": reason, "actor": actor, "updated": now}
    put(conn, automation_switches, {"project": project}, values)


# Retirement ---------------------------------------------------------------------------------------------------


def plan_from(row: Row[Any]) -> Plan:
    """Return a row of retirement plans as a value."""
    m = row.migration
    migration = Migration(
        m["replacement_version"], m["replacement_model"], tuple(m["reduction_steps_bp"]), tuple(m["notify"]), m["notes"]
    )
    phases = tuple(
        Phase(p["phase"], _time(p["due"]), _maybe(p["started"]), _maybe(p["ended"]), p["step"], p["attempt"])
        for p in row.phases
    )
    return Plan(
        row.id, row.number, row.project, row.model, row.version, row.retirement, migration, PlanState(row.state),
        phases, row.created, row.author, row.state_reason, tuple(row.blockers), row.serial,
    )  # fmt: skip


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _maybe(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _plan_values(found: Plan) -> dict[str, Any]:
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    migration = dataclasses.asdict(found.migration)
    values["migration"] = {k: list(v) if isinstance(v, tuple) else v for k, v in migration.items()}
    values["state"] = found.state.value
    values["blockers"] = list(found.blockers)
    values["phases"] = [
        {
            "phase": p.phase,
            "due": p.due.isoformat(),
            "started": p.started.isoformat() if p.started else None,
            "ended": p.ended.isoformat() if p.ended else None,
            "step": p.step,
            "attempt": p.attempt,
        }
        for p in found.phases
    ]
    return values


def add_plan(conn: Connection, found: Plan) -> Plan:
    """Store a new plan; return it with its number."""
    newest = conn.execute(
        select(retirement_plans.c.number).order_by(retirement_plans.c.number.desc()).limit(1)
    ).scalar()
    numbered = dataclasses.replace(found, number=int(newest or 0) + 1)
    conn.execute(insert(retirement_plans).values(_plan_values(numbered)))
    return numbered


def set_plan(conn: Connection, found: Plan) -> Plan:
    """Store a changed plan; return it with its new serial."""
    changed = dataclasses.replace(found, serial=found.serial + 1)
    conn.execute(update(retirement_plans).where(retirement_plans.c.id == found.id).values(_plan_values(changed)))
    return changed


def plan(conn: Connection, project: str, plan_id: str) -> Plan | None:
    """Return a plan by its id."""
    key = and_(retirement_plans.c.project == project, retirement_plans.c.id == plan_id)
    row = conn.execute(select(retirement_plans).where(key)).first()
    return None if row is None else plan_from(row)


def open_plans(conn: Connection) -> list[Plan]:
    """Return every plan that is not over."""
    over = [PlanState.COMPLETED.value, PlanState.CANCELLED.value]
    query = select(retirement_plans).where(retirement_plans.c.state.not_in(over)).order_by(retirement_plans.c.number)
    return [plan_from(r) for r in conn.execute(query)]
