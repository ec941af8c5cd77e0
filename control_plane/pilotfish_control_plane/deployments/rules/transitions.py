"""Which change of state is allowed; everything else is refused with the allowed list.

Owns the three tables. It changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.deployments.model import DeploymentState, ReplicaState
from pilotfish_control_plane.deployments.rollout_model import RolloutState

__all__ = ["DEPLOYMENT", "REPLICA", "ROLLOUT", "check_deployment", "check_replica", "check_rollout"]

_D, _R, _O = DeploymentState, ReplicaState, RolloutState

DEPLOYMENT: Mapping[DeploymentState, frozenset[DeploymentState]] = {
    _D.PENDING: frozenset({_D.STARTING, _D.FAILED}),
    _D.STARTING: frozenset({_D.WARMING, _D.FAILED}),
    _D.WARMING: frozenset({_D.READY, _D.FAILED}),
    _D.READY: frozenset({_D.DEGRADED, _D.DRAINING}),
    _D.DEGRADED: frozenset({_D.READY, _D.DRAINING}),
    _D.DRAINING: frozenset({_D.STOPPED}),
    _D.STOPPED: frozenset(),
    _D.FAILED: frozenset(),
}

REPLICA: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    _R.STARTING: frozenset({_R.READY, _R.STOPPED}),
    _R.READY: frozenset({_R.UNHEALTHY, _R.STOPPED}),
    _R.UNHEALTHY: frozenset({_R.READY, _R.STOPPED}),
    _R.STOPPED: frozenset(),
}

_ENDING = frozenset({_O.ABORTING})
ROLLOUT: Mapping[RolloutState, frozenset[RolloutState]] = {
    _O.PENDING: _ENDING | {_O.PROGRESSING},
    _O.PROGRESSING: _ENDING | {_O.PAUSED, _O.SUCCEEDED},
    # A person may skip what is left of a paused rollout; it goes on, and succeeds, in one transaction.
    _O.PAUSED: _ENDING | {_O.PROGRESSING},
    _O.ABORTING: frozenset({_O.ABORTED}),
    _O.SUCCEEDED: frozenset(),
    _O.ABORTED: frozenset(),
}

S = TypeVar("S", bound=enum.StrEnum)


def check_deployment(name: str, current: DeploymentState, target: DeploymentState) -> None:
    """Raise FailedPrecondition unless a deployment may go from `current` to `target`."""
    _check("deployment", name, current, target, DEPLOYMENT)


def check_replica(name: str, current: ReplicaState, target: ReplicaState) -> None:
    """Raise FailedPrecondition unless a replica may go from `current` to `target`."""
    _check("replica", name, current, target, REPLICA)


def check_rollout(name: str, current: RolloutState, target: RolloutState) -> None:
    """Raise FailedPrecondition unless a rollout may go from `current` to `target`."""
    _check("rollout", name, current, target, ROLLOUT)


def _check(kind: str, name: str, current: S, target: S, table: Mapping[S, frozenset[S]]) -> None:
    allowed = table[current]
    if target in allowed:
        return
    choices = ", ".join(sorted(s.value.upper() for s in allowed)) or "nothing: it has ended"
    raise FailedPrecondition(
        f"{kind} {name} is {current.value.upper()} and cannot become {target.value.upper()}; allowed: {choices}",
        reason="STATE_FORBIDS",
        metadata={"state": current.value.upper(), "target": target.value.upper(), "allowed": choices},
    )
