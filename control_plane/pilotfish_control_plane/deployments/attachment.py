"""Model servers that somebody else runs: what their sidecars say of them, as frozen values.

Owns the arguments, rows and results of attaching; what follows from them is in `deployments.attaching`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from pilotfish_control_plane.deployments.model import Deployment, Stage
from pilotfish_control_plane.names import DEFAULT_PROJECT
from pilotfish_control_plane.registry.model import Version

__all__ = ["AttachCommand", "Attached", "AttachedModel", "Attachment"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One model of a model server beside a sidecar, and the version that it is.

    Args:
        instance: the sidecar's stable id.
        server_model: name under which the model server knows the model; empty: any.
        server_version: version under which it does; empty: any.
        codec: how its calls are read, as the contract's Codec in JSON; empty: Open Inference Protocol.
        grpc_address, http_address: where the gateway reaches it, host:port; empty: it does not.
    """

    KEY: ClassVar[Sequence[str]] = ("instance", "project", "endpoint", "server_model", "server_version")

    instance: str
    project: str
    endpoint: str
    server_model: str
    server_version: str
    model: str
    version: int
    codec: Mapping[str, Any]  # Any: JSON values
    grpc_address: str
    http_address: str
    created: datetime

    def is_same(self, other: Attachment) -> bool:
        """Return whether both are about one model of one server at one endpoint."""
        return all(getattr(self, name) == getattr(other, name) for name in self.KEY)


@dataclass(frozen=True, slots=True)
class AttachedModel:
    """What a sidecar says of one model; the fields are the contract's `AttachedModel`.

    Args:
        version: number, label or alias; empty: found or registered.
        signature: as in signature.json; empty: not known.
        checks: what the probe of the live server found.
    """

    endpoint: str
    server_model: str = ""
    server_version: str = ""
    model: str = ""
    version: str = ""
    signature: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON values
    platform: str = ""
    checks: Sequence[str] = ()
    profile_json: str = ""
    codec: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON values
    grpc_address: str = ""
    http_address: str = ""

    @property
    def shown(self) -> str:
        """What people call it."""
        return ":".join(filter(None, (self.server_model, self.server_version))) or "the server's model"


@dataclass(frozen=True, slots=True)
class AttachCommand:
    """Everything that a sidecar stands beside.

    Args:
        stage: of new deployments; None: production where the endpoint has none, else staging.
        may_register: whether versions that nobody registered become external ones.
        may_deploy: whether the caller may make what is missing at all.
    """

    instance: str
    models: Sequence[AttachedModel]
    project: str = DEFAULT_PROJECT
    stage: Stage | None = None
    may_register: bool = True
    may_deploy: bool = True


@dataclass(frozen=True, slots=True)
class Attached:
    """What one model became."""

    version: Version
    deployment: Deployment
    registered: bool
    deployed: bool
