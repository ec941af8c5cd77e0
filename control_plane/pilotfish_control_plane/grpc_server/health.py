"""Health and reflection, as gRPC's own tools expect them.

Owns the serving status of each service. Both are public: they tell what the server is, never what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

__all__ = ["Health", "add_reflection"]


class Health:
    """The serving status; NOT_SERVING until `serving`, and again from `draining` on."""

    def __init__(self, server: grpc.aio.Server, services: Iterable[str]) -> None:
        """Add the health service to `server` for itself (the empty name) and `services`."""
        self._services = ("", *services, health.SERVICE_NAME)
        self._servicer = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        """Say that calls are welcome."""
        for name in self._services:
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def draining(self) -> None:
        """Say that calls should go elsewhere; this cannot be taken back."""
        await self._servicer.enter_graceful_shutdown()


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let tools list and describe `services`."""
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
