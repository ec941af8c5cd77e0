"""The HTTP side: metrics, probes, and the routes that areas add.

Owns the socket and the lifetime of uvicorn inside the control plane's loop. On anything but loopback the metrics
need a token, as every call does; the probes tell nothing worth one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from pilotfish.errors import FailedPrecondition, PilotfishError
from pilotfish_control_plane.access.authentication import Authenticator
from pilotfish_control_plane.access.model import Role
from pilotfish_control_plane.settings import Settings

__all__ = ["HttpServer", "application"]


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the control plane has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def application(
    settings: Settings,
    metrics: CollectorRegistry,
    authenticator: Authenticator,
    is_ready: Callable[[], bool],
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Return the ASGI application."""

    async def show_metrics(request: Request) -> Response:
        if not settings.is_loopback:
            try:
                caller = await authenticator.authenticate(request.headers.items())
            except PilotfishError as error:
                return PlainTextResponse(error.message, status_code=401)
            if not caller.principal.may(Role.VIEWER):
                return PlainTextResponse("the metrics need the role viewer in all projects", status_code=403)
        return Response(await asyncio.to_thread(generate_latest, metrics), media_type=CONTENT_TYPE_LATEST)

    async def healthy(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        good = is_ready()
        return PlainTextResponse("ready\n" if good else "not ready\n", status_code=200 if good else 503)

    # A page elsewhere that resolves its own name to 127.0.0.1 must not reach this server.
    hosts = ["127.0.0.1", "localhost", "[::1]"] if settings.is_loopback else ["*"]
    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", healthy),
            Route("/readyz", ready),
            *routes,
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


class HttpServer:
    """Serves an application in the running loop."""

    def __init__(self, settings: Settings, app: Starlette) -> None:
        """Build it; nothing listens yet."""
        self._settings = settings
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
                ssl_certfile=settings.tls_cert or None,
                ssl_keyfile=settings.tls_key or None,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind, serve, and return the port.

        Raises:
            FailedPrecondition: the address cannot be bound; says which one.
        """
        host, port = self._settings.host.strip("[]"), self._settings.http_port
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen on {host}:{port} for HTTP ({error.strerror}): set another http_port, or 0",
                reason="PORT_TAKEN",
            ) from error
        bound = int(listener.getsockname()[1])
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        return bound

    async def stop(self) -> None:
        """Close; running requests get two seconds."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
