"""The other areas as deployments see them.

Owns the translation of their services into `deployments.neighbours`. It is the only place where the areas meet.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

from pilotfish.errors import NotFound
from pilotfish_control_plane.core import Core
from pilotfish_control_plane.deployments.neighbours import Neighbours
from pilotfish_control_plane.deployments.rollout_model import Evidence
from pilotfish_control_plane.experiments.service import ExperimentService
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.names import DeploymentName, VersionRef
from pilotfish_control_plane.registry.model import NewVersion, Version, VersionStatus
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import monitoring as monitoring_rows
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import JsonObject

__all__ = ["neighbours_of", "new_id", "parse_ports"]

ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


class _Registry:
    """The registry as deployments see it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def _service(self) -> RegistryService:
        return self._core.services.get(RegistryService)

    def resolve_version(self, tx: Tx, ref: str, project: str) -> Version:
        return self._service.find(tx, VersionRef.parse(ref, "version", project))

    def get_version(self, tx: Tx, project: str, model: str, number: int) -> Version:
        return self._service.get_version(tx, project, model, number)

    def has_model(self, tx: Tx, project: str, model: str) -> bool:
        try:
            self._service.get_model(tx, project, model)
        except NotFound:
            return False
        return True

    def register_external(self, tx: Tx, new: NewVersion, checks: Sequence[str]) -> Version:
        version = self._service.register(tx, new)
        self._core.services.get(ExperimentService).record(
            tx,
            "validation",
            "finished",
            version.model,
            version.name,
            {"framework": new.framework, "checks": list(checks), "problems": []},
            project=version.project,
        )
        return version

    def set_standing(self, tx: Tx, version: Version, *, in_production: bool, reason: str) -> None:
        status = VersionStatus.PRODUCTION if in_production else VersionStatus.STAGING
        self._service.set_status(
            tx, version.project, version.model, version.number, status, reason=reason, by_deployment=True
        )

    def profile_json(self, tx: Tx, version: Version) -> str:
        found = self._service.profile(tx, version)
        return found[1] if found is not None else ""


class _Monitoring:
    """Monitoring as deployments see it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def grain_s(self) -> float:
        return float(monitoring_rows.BUCKET_S)

    def evidence(self, tx: Tx, deployment_id: str, since: datetime | None) -> Evidence:
        return self._core.services.get(MonitoringService).evidence(tx, deployment_id, since)

    def learned_profile(self, tx: Tx, deployment_id: str) -> str:
        found = monitoring_rows.learned_profile(tx.conn, deployment_id)
        return found[1] if found is not None else ""


class _Experiments:
    """The experiment tracker as deployments see it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def record_rollback(
        self, tx: Tx, experiment: str, subject: str, parameters: JsonObject, tags: Mapping[str, str]
    ) -> None:
        project = DeploymentName.parse(subject).project
        self._core.services.get(ExperimentService).record(
            tx, "rollback", "finished", experiment, subject, parameters, {}, tags, project=project
        )


def new_id(prefix: str) -> str:
    """Return a new id: a letter and ten random characters, short enough for the paths of sockets."""
    return prefix + "".join(secrets.choice(ID_ALPHABET) for _ in range(10))


def parse_ports(text: str) -> range:
    """Return the ports of a checked setting such as "7500-7999"; "" or "0": none."""
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1) if dash else range(0)


def neighbours_of(core: Core) -> Neighbours:
    """Return the neighbours in a control plane; each is looked up when it is needed."""
    registry, monitoring, experiments = _Registry(core), _Monitoring(core), _Experiments(core)
    return Neighbours(
        registry=lambda: registry,
        monitoring=lambda: monitoring,
        experiments=lambda: experiments,
        new_id=new_id,
        endpoint_ports=parse_ports(core.settings.endpoint_ports),
    )
