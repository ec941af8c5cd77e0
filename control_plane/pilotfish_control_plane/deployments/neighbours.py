"""What deployments need of the other areas.

Owns the narrow views of registry, monitoring and experiments; who stands behind each is asked at every call, so
that areas may be installed in any order and tests may bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pilotfish_control_plane.deployments.rollout_model import Evidence
from pilotfish_control_plane.registry.model import NewVersion, Version
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import JsonObject

__all__ = ["Experiments", "Monitoring", "Neighbours", "Registry"]


class Registry(Protocol):
    """Versions: find them, and let their standing follow production."""

    def resolve_version(self, tx: Tx, ref: str, project: str) -> Version:
        """Return the version that a caller's words mean; NotFound when there is none."""
        ...

    def get_version(self, tx: Tx, project: str, model: str, number: int) -> Version:
        """Return a version; NotFound when there is none."""
        ...

    def has_model(self, tx: Tx, project: str, model: str) -> bool:
        """Return whether there is such a model."""
        ...

    def register_external(self, tx: Tx, new: NewVersion, checks: Sequence[str]) -> Version:
        """Register a version that somebody else serves, with what a probe of the live server found; return it."""
        ...

    def set_standing(self, tx: Tx, version: Version, *, in_production: bool, reason: str) -> None:
        """Set the version's status to production, or back to staging."""
        ...

    def profile_json(self, tx: Tx, version: Version) -> str:
        """Return the profile of the training data; empty: there is none."""
        ...


class Monitoring(Protocol):
    """What was measured of deployments."""

    @property
    def grain_s(self) -> float:
        """Seconds by which `since` may be rounded down."""
        ...

    def evidence(self, tx: Tx, deployment_id: str, since: datetime | None) -> Evidence:
        """Return the metrics of a deployment since a time; None: of its whole life."""
        ...

    def learned_profile(self, tx: Tx, deployment_id: str) -> str:
        """Return the profile that a deployment without training data learned, as JSON; empty: none yet."""
        ...


class Experiments(Protocol):
    """The record of what happened."""

    def record_rollback(
        self, tx: Tx, experiment: str, subject: str, parameters: JsonObject, tags: Mapping[str, str]
    ) -> None:
        """Record a rollback."""
        ...


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How to reach each neighbour, and where new ids come from."""

    registry: Callable[[], Registry]
    monitoring: Callable[[], Monitoring]
    experiments: Callable[[], Experiments]
    new_id: Callable[[str], str]
    endpoint_ports: Sequence[int] = ()
