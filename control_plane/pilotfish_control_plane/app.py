"""The control plane as one process: puts the parts together, starts them, and drains them.

Owns the order of start and end, the lock on the home directory, and the list of areas. It decides nothing about
models.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import importlib.util
import json
import logging
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry, Gauge

from pilotfish.errors import FailedPrecondition
from pilotfish_control_plane.access.authentication import Authenticator, OpenAuthenticator, TokenAuthenticator
from pilotfish_control_plane.access.bootstrap import bootstrap, secret_file, token_for_node
from pilotfish_control_plane.clock import Clock, SystemClock
from pilotfish_control_plane.core import ActionHandler, Core, Installed, Paths, Reconciler
from pilotfish_control_plane.grpc_server.context import Mutations
from pilotfish_control_plane.grpc_server.interceptors import CallInterceptor
from pilotfish_control_plane.grpc_server.metrics import CallMetrics
from pilotfish_control_plane.grpc_server.server import GrpcServer
from pilotfish_control_plane.grpc_server.streams import OpenStreams
from pilotfish_control_plane.http.server import HttpServer, application
from pilotfish_control_plane.reconcile.housekeeping import AnswerRetention, AuditSealer
from pilotfish_control_plane.reconcile.leadership import Leadership
from pilotfish_control_plane.reconcile.loop import ReconcileLoop
from pilotfish_control_plane.reconcile.metrics import LoopMetrics
from pilotfish_control_plane.reconcile.outbox import Outbox
from pilotfish_control_plane.settings import Settings
from pilotfish_control_plane.storage import leases
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.wakes import Wakes

__all__ = ["AREAS", "Area", "ControlPlane", "install_areas"]

log = logging.getLogger(__name__)

LOCAL_STORE = "local-prediction-store"

Area = str | Callable[[Core], Installed]
"""The name of a module `grpc_server/<area>.py`, or an install function itself."""

# Each is a module `grpc_server/<area>.py` with `install(core) -> Installed`. An area that needs another's service
# asks for it when a call comes (core.services.get), so the order here does not matter.
AREAS: tuple[str, ...] = (
    "access",
    "events",
    "registry",
    "artifacts",
    "experiments",
    "features",
    "deployments",
    "monitoring",
    "training",
    "lifecycle",
    "fleet",
    "operations",
)


def install_areas(core: Core, areas: Sequence[Area]) -> list[Installed]:
    """Return what each area adds; a name without a module, or a module without `install`, adds nothing."""
    installed = []
    for area in areas:
        if not isinstance(area, str):
            installed.append(area(core))
            continue
        name = f"pilotfish_control_plane.grpc_server.{area}"
        if importlib.util.find_spec(name) is None:
            log.debug("area %s is not part of this build", area)
            continue
        install: Callable[[Core], Installed] | None = getattr(importlib.import_module(name), "install", None)
        if install is None:
            log.warning("area %s has no install() and adds nothing", area)
            continue
        installed.append(install(core))
    return installed


def _handlers(installed: Sequence[Installed]) -> dict[str, ActionHandler]:
    handlers: dict[str, ActionHandler] = {}
    for area in installed:
        if doubled := handlers.keys() & area.executors.keys():
            raise ValueError(f"two areas perform actions of the kind {', '.join(sorted(doubled))}")
        handlers |= area.executors
    return handlers


class ControlPlane:
    """One control plane; `start`, then `stop`, once each."""

    core: Core
    grpc_port: int
    http_port: int

    def __init__(self, settings: Settings, *, areas: Sequence[Area] = AREAS, clock: Clock | None = None) -> None:
        """Prepare one with `areas`; nothing is touched before `start`."""
        self.settings = settings
        self.paths = Paths(settings.home)
        self._areas = areas
        self._clock = clock or SystemClock()
        self._tasks: list[asyncio.Task[None]] = []
        self._installed: list[Installed] = []
        self._ready = False
        self._holder = ""
        self._local_store: Leadership | None = None
        # What has been started, to be ended in the opposite order.
        self._ending = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Lock the home, open the store, install the areas, serve.

        Raises:
            FailedPrecondition: the home, a port or a local store is in use.
            Unavailable: the store does not answer.
        """
        try:
            self._lock_home()
            self.core = await self._open_core()
            await self._serve()
            self._write_run_file()
            self._ready = True
        except BaseException:
            await self.stop()
            raise
        log.info("serving gRPC on %s:%d, HTTP on port %d", self.settings.host, self.grpc_port, self.http_port)

    async def stop(self) -> None:
        """Drain: no new calls, running ones finish, loops end, the store closes. Harmless when called again."""
        self._ready = False
        await self._ending.aclose()

    def _lock_home(self) -> None:
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.paths.run.mkdir(exist_ok=True, mode=0o700)
        lock = (home / "lock").open("a+")
        self._ending.callback(lock.close)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"{home} is in use by another control plane: stop it, or set another home", reason="HOME_IN_USE"
            ) from None

    def _instance(self) -> str:
        """Return the id of this home, the same for ever."""
        return secret_file(self.paths.home / "instance")[:16]

    async def _open_core(self) -> Core:
        settings, wakes, metrics = self.settings, Wakes(), CollectorRegistry()
        instance = self._instance()
        token, node_token = secret_file(self.paths.token), token_for_node(self.paths.node_token)
        db = await asyncio.to_thread(
            Database.open,
            settings.database_url,
            self._clock,
            wakes=wakes,
            readers=settings.database_readers,
            writers=settings.database_writers,
        )
        self._ending.push_async_callback(asyncio.to_thread, db.close)
        self._holder = f"{instance}/{secrets.token_hex(4)}"
        if settings.prediction_store == "local":
            await self._claim_local_store(db)
        await db.write(lambda tx: bootstrap(tx, instance, token, node_token))
        queued = Gauge("pilotfish_store_queued_writes", "Writes that wait for the writer", registry=metrics)
        queued.set_function(lambda: db.queued_writes)
        return Core(db, settings, self._clock, Mutations(db), wakes, self.paths, metrics)

    async def _claim_local_store(self, db: Database) -> None:
        """Refuse a database that another control plane uses while the predictions lie in one home."""
        ttl_s = self.settings.lease_s
        claim = await db.write(lambda tx: leases.acquire(tx.conn, LOCAL_STORE, self._holder, tx.now, ttl_s))
        if claim is None:
            raise FailedPrecondition(
                "another control plane uses this database, and the prediction_store is local: stop the other, or set "
                f"prediction_store to shared on both (after a crash of the other, wait {ttl_s:.0f} s)",
                reason="LOCAL_STORE_IN_USE",
            )
        self._local_store = Leadership(db, self._holder, ttl_s=ttl_s, name=LOCAL_STORE)

    async def _serve(self) -> None:
        core, settings = self.core, self.settings
        self._installed = install_areas(core, self._areas)
        for area in self._installed:
            if area.close is not None:
                self._ending.callback(area.close)
        authenticator: Authenticator = TokenAuthenticator(core.db) if settings.authentication else OpenAuthenticator()
        streams = OpenStreams(authenticator, core.wakes)
        interceptor = CallInterceptor(
            authenticator, CallMetrics(core.metrics), streams, default_deadline_s=settings.default_deadline_s
        )
        servicers = [pair for area in self._installed for pair in area.servicers]
        self._start_loops(streams)
        server = GrpcServer(settings, servicers, interceptor, streams)
        self._ending.push_async_callback(server.stop, settings.drain_s)
        self.grpc_port = await server.start()
        routes = [route for area in self._installed for route in area.routes]
        http = HttpServer(settings, application(settings, core.metrics, authenticator, lambda: self._ready, routes))
        self._ending.push_async_callback(http.stop)
        self.http_port = await http.start()

    def _start_loops(self, streams: OpenStreams) -> None:
        core, settings = self.core, self.settings
        leadership = Leadership(core.db, self._holder, ttl_s=settings.lease_s)
        metrics = LoopMetrics(core.metrics)
        sealer = AuditSealer(secret_file(self.paths.audit_key).encode(), self.paths.audit_head)
        reconcilers: list[Reconciler] = [
            sealer,
            AnswerRetention(),
            *(r for area in self._installed for r in area.reconcilers),
        ]
        handlers = _handlers(self._installed)
        loop = ReconcileLoop(core.db, reconcilers, leadership, metrics, sweep_s=settings.sweep_s)
        outbox = Outbox(core.db, handlers, leadership, metrics, random.Random(), sweep_s=settings.sweep_s)
        self._ending.push_async_callback(self._end_loops)
        if self._local_store is not None:
            self._keep("local-store", self._local_store.run)
        self._keep("leadership", leadership.run)
        self._keep("reconcilers", loop.run)
        self._keep("outbox", outbox.run)
        self._keep("streams", streams.run)
        for area in self._installed:
            for background in area.background:
                self._keep(type(background).__name__, background.run)

    def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        async def keep() -> None:
            while True:
                try:
                    await run()
                    log.error("loop %s ended by itself, starting it again", name)
                except Exception:
                    log.exception("loop %s failed, starting it again", name)
                await asyncio.sleep(1.0)

        self._tasks.append(asyncio.create_task(keep(), name=name))

    async def _end_loops(self) -> None:
        # The lease is given up last, so that what the others still record is fenced by it.
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _write_run_file(self) -> None:
        path = self.paths.run / "control_plane.json"
        facts = {"pid": os.getpid(), "host": self.settings.host, "grpc_port": self.grpc_port}
        facts |= {"http_port": self.http_port, "started": self._clock.now().isoformat()}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(facts) + "\n")
        temporary.replace(path)
        self._ending.callback(path.unlink, missing_ok=True)
