"""The gRPC server: its options, its credentials, its services.

Owns everything between a list of servicers and an open port. It knows no area.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.grpc_server.health import Health, add_reflection
from pilotfish_control_plane.grpc_server.interceptors import CallInterceptor
from pilotfish_control_plane.grpc_server.streams import OpenStreams
from pilotfish_control_plane.settings import Settings

__all__ = ["MAX_MESSAGE_BYTES", "OPTIONS", "GrpcServer"]

STREAM_GRACE_S = 0.5
MAX_MESSAGE_BYTES = 8 * 1024 * 1024

OPTIONS: tuple[tuple[str, int], ...] = (
    # Without this a second server binds the same port silently and takes half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Keepalive notices a frozen peer only with the ping timeout beside it (64 s otherwise, 6 s with it).
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 10 s or slower; the default of 5 min would answer them GOAWAY too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 5),
)

# Any: generated add_* functions are untyped, and servicers share no base class.
Servicers = Sequence[tuple[Callable[[Any, Any], None], Any]]


class GrpcServer:
    """One server with the given servicers, health and reflection."""

    def __init__(
        self, settings: Settings, servicers: Servicers, interceptor: CallInterceptor, streams: OpenStreams
    ) -> None:
        """Build it; nothing listens yet."""
        self._settings = settings
        self._streams = streams
        self._server = grpc.aio.server(interceptors=(interceptor,), options=OPTIONS)
        for add, servicer in servicers:
            add(servicer, self._server)
        self.services = tuple(sorted(_service_names(servicers)))
        self.health = Health(self._server, self.services)
        add_reflection(self._server, self.services)

    async def start(self) -> int:
        """Bind, serve, and return the port.

        Raises:
            FailedPrecondition: the address cannot be bound; says which one.
        """
        host = f"[{self._settings.host}]" if ":" in self._settings.host.strip("[]") else self._settings.host
        address = f"{host}:{self._settings.port}"
        cause: RuntimeError | None = None
        try:
            if self._settings.tls_cert:
                port = self._server.add_secure_port(address, _credentials(self._settings))
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            port, cause = 0, error
        if port == 0:
            raise FailedPrecondition(
                f"cannot listen on {address}: is another control plane running there? Set another port, or 0",
                reason="PORT_TAKEN",
            ) from cause
        await self._server.start()
        await self.health.serving()
        return int(port)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish for `grace_s` seconds, end endless streams, close."""
        await self.health.draining()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        # Downloads that are nearly done may end by themselves; watches never do.
        await asyncio.wait({stopping}, timeout=min(STREAM_GRACE_S, grace_s))
        self._streams.drain()
        await stopping


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    chain = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
    ca = Path(settings.tls_client_ca).read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([chain], root_certificates=ca, require_client_auth=ca is not None)


class _Collector:
    """Stands in for a server, to learn the names of what is added to it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self.names += [handler.service_name() for handler in handlers]

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Take no notice: the generic handlers carry the same name."""


def _service_names(servicers: Servicers) -> set[str]:
    collector = _Collector()
    for add, servicer in servicers:
        add(servicer, collector)
    return set(collector.names)
