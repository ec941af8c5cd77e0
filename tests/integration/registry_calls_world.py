"""What tests of registry calls share."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from pilotfish.errors import (
    PilotfishError,
)
from pilotfish.v1 import registry_pb2
from pilotfish.wire_errors import from_rpc_error
from pilotfish_control_plane.registry.model import NewVersion
from pilotfish_control_plane.registry.service import RegistryService

AREAS = ["registry", "artifacts", "experiments"]


Status = registry_pb2.VersionStatus


async def error_of(call: Awaitable[Any]) -> PilotfishError:
    """Return what the call fails with, as the client library would raise it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def seed(plane: Any, model: str = "churn", count: int = 1, **fields: Any) -> list[int]:
    """Register versions without artifacts, past the validator; return their numbers."""
    service = plane.core.services.get(RegistryService)
    made = []
    for _ in range(count):
        new = NewVersion("default", model, "external", **fields)
        made.append((await plane.core.db.write(lambda tx, new=new: service.register(tx, new))).number)
    return made
