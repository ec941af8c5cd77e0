"""What is checked before a version is deployed, each check with what was found.

Owns the list of checks; finding the facts is the service's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotfish.errors import Violation
from pilotfish_control_plane.deployments.configuration import Resources
from pilotfish_control_plane.deployments.model import Stage

__all__ = ["Capacity", "ReadinessCheck", "ReadinessFacts", "readiness", "violations"]

DEPLOYABLE = ("staging", "production")


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """One thing that was checked, and what was found."""

    check: str
    passed: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has: cores, memory in MiB, and how much memory its replicas were promised."""

    node: str
    cpu_cores: float
    memory_mib: int
    promised_mib: int


@dataclass(frozen=True, slots=True)
class ReadinessFacts:
    """All that the checks look at.

    Args:
        version: the version as `model@number`, or as it was written when there is none.
        missing: why there is no such version; empty: there is.
        status: the version's status; empty: there is no version.
        rollback: it comes back by a rollback, for which a deprecated version is good enough.
        artifact_problems: what is wrong with its files; None: not looked at here.
        attached: somebody else serves it, nothing is started.
        capacity: what the node has; None: no node has reported.
        production: id of the endpoint's production deployment; empty: none.
        promotion: it comes by a promotion, which may reach production.
        quarantine: why automation may not deploy it; empty: it may.
        open_rollout: id of the endpoint's unfinished rollout; empty: none.
    """

    version: str
    stage: Stage
    resources: Resources
    replicas: int
    missing: str = ""
    status: str = ""
    rollback: bool = False
    artifact_problems: Sequence[str] | None = None
    attached: bool = False
    capacity: Capacity | None = None
    production: str = ""
    promotion: bool = False
    automation: bool = False
    quarantine: str = ""
    open_rollout: str = ""


def readiness(facts: ReadinessFacts) -> tuple[ReadinessCheck, ...]:
    """Return every check with its outcome, always all of them and in the same order."""
    return (
        _version_exists(facts),
        _status_allows(facts),
        _artifact_intact(facts),
        _resources_fit(facts),
        _stage_order(facts),
        _not_quarantined(facts),
        _no_other_rollout(facts),
    )


def violations(checks: Sequence[ReadinessCheck]) -> list[Violation]:
    """Return one violation per failed check; its reason is the check's name in capitals."""
    return [Violation(c.check, c.explanation, c.check.upper()) for c in checks if not c.passed]


def _version_exists(facts: ReadinessFacts) -> ReadinessCheck:
    return ReadinessCheck("version_exists", not facts.missing, facts.missing or f"{facts.version} is registered")


def _status_allows(facts: ReadinessFacts) -> ReadinessCheck:
    name = "status_allows"
    if facts.missing:
        return ReadinessCheck(name, False, "there is no version whose status could allow it")
    if facts.status in DEPLOYABLE or (facts.rollback and facts.status == "deprecated"):
        return ReadinessCheck(name, True, f"{facts.version} is {facts.status}")
    advice = {
        "deprecated": "set it back to staging first, or deploy a newer version",
        "archived": "undelete it first, or deploy a newer version",
        "failed": "it did not pass its gate: deploy another version",
    }.get(facts.status, "wait until its job has registered it")
    text = f"{facts.version} is {facts.status}, and only {' and '.join(DEPLOYABLE)} are deployed: {advice}"
    return ReadinessCheck(name, False, text)


def _artifact_intact(facts: ReadinessFacts) -> ReadinessCheck:
    name = "artifact_intact"
    if facts.missing:
        return ReadinessCheck(name, False, "there is no artifact to look at")
    if facts.attached:
        return ReadinessCheck(name, True, f"{facts.version} is served by somebody else and has no artifact here")
    if facts.artifact_problems is None:
        return ReadinessCheck(name, True, "each replica compares every file's hash before it loads it")
    if facts.artifact_problems:
        text = f"the files of {facts.version} are not as registered: {'; '.join(facts.artifact_problems)}"
        return ReadinessCheck(name, False, text)
    return ReadinessCheck(name, True, "every file has its size and hash")


def _resources_fit(facts: ReadinessFacts) -> ReadinessCheck:
    name, wanted, capacity = "resources_fit", facts.resources, facts.capacity
    if facts.attached:
        return ReadinessCheck(name, True, "nothing is started for it here")
    if capacity is None:
        return ReadinessCheck(name, True, "no node has reported its size yet: it starts when one does")
    found = []
    if wanted.cpu_cores > capacity.cpu_cores:
        found.append(f"a replica asks for {wanted.cpu_cores:g} cores, node {capacity.node} has {capacity.cpu_cores:g}")
    needed = wanted.memory_mib * facts.replicas
    if needed + capacity.promised_mib > capacity.memory_mib:
        free = max(0, capacity.memory_mib - capacity.promised_mib)
        found.append(
            f"{facts.replicas} x {wanted.memory_mib} MiB are asked for, node {capacity.node} has {free} MiB left "
            f"of {capacity.memory_mib}: ask for less, or stop something"
        )
    return ReadinessCheck(name, not found, "; ".join(found) or f"node {capacity.node} has room")


def _stage_order(facts: ReadinessFacts) -> ReadinessCheck:
    name = "stage_order"
    if facts.stage is Stage.PRODUCTION and facts.production and not facts.promotion:
        text = f"the endpoint has a production deployment ({facts.production}): deploy to staging or canary and promote"
        return ReadinessCheck(name, False, text)
    if facts.stage is Stage.CANARY and not facts.production:
        return ReadinessCheck(name, True, "there is no production to share with: the canary takes all live traffic")
    return ReadinessCheck(name, True, f"{facts.stage.value} may be reached this way")


def _not_quarantined(facts: ReadinessFacts) -> ReadinessCheck:
    name = "not_quarantined"
    if not facts.quarantine:
        return ReadinessCheck(name, True, "it is not quarantined at this endpoint")
    if facts.automation:
        text = f"{facts.version} is quarantined here ({facts.quarantine}): a person must clear it first"
        return ReadinessCheck(name, False, text)
    return ReadinessCheck(name, True, f"quarantined here ({facts.quarantine}), which binds automation only")


def _no_other_rollout(facts: ReadinessFacts) -> ReadinessCheck:
    name = "no_other_rollout"
    if facts.open_rollout and facts.stage.is_live:
        text = f"rollout {facts.open_rollout} of this endpoint is unfinished: wait for it or abort it"
        return ReadinessCheck(name, False, text)
    return ReadinessCheck(name, True, "no unfinished rollout stands in the way")
