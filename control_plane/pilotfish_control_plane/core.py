"""The seam between the process and its areas.

Owns `Core` (what an area is given) and `Installed` (what it gives back). `app` calls each area's
`install(core)`; nothing here knows an area.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.grpc_server.context import Mutations
from pilotfish_control_plane.settings import Settings
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import JsonObject
from pilotfish_control_plane.wakes import Wakes

__all__ = [
    "ActionHandler",
    "Background",
    "Core",
    "Installed",
    "Paths",
    "Reconciler",
    "Services",
    "external",
    "transactional",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the control plane keeps its files; every path below `home`."""

    home: Path

    @property
    def token(self) -> Path:
        """The administrator's token."""
        return self.home / "token"

    @property
    def node_token(self) -> Path:
        """The token of nodes and sidecars."""
        return self.home / "node_token"

    @property
    def audit_key(self) -> Path:
        """The key of the audit chain."""
        return self.home / "audit_key"

    @property
    def audit_head(self) -> Path:
        """The end of the audit chain when it was last sealed here."""
        return self.home / "audit_head"

    @property
    def database(self) -> Path:
        """The SQLite file, unless another database is set."""
        return self.home / "pilotfish.db"

    @property
    def artifacts(self) -> Path:
        """The local artifact store."""
        return self.home / "artifacts"

    @property
    def predictions(self) -> Path:
        """The local prediction log."""
        return self.home / "predictions"

    @property
    def run(self) -> Path:
        """Facts about running processes."""
        return self.home / "run"


class Reconciler(Protocol):
    """Moves actual state towards desired state; run by the leader only.

    Optional attributes: `debounce_s`, how long wakes are gathered before it runs (default 5 ms); `sweep_s`, the
    longest time between two runs (default: the setting).
    """

    @property
    def name(self) -> str:
        """Unique; shown in logs and metrics."""
        ...

    @property
    def topics(self) -> Sequence[str]:
        """What wakes it; `a` also hears `a.b`."""
        ...

    def reconcile(self, tx: Tx) -> float | None:
        """Do what is due in this transaction; return seconds until it is next due, None: at the next wake or sweep."""
        ...


@dataclass(frozen=True, slots=True)
class ActionHandler:
    """How a kind of action is performed; make one with `transactional` or `external`."""

    in_transaction: Callable[[Tx, Action], JsonObject | None] | None = None
    outside: Callable[[Action], Awaitable[JsonObject | None]] | None = None
    lease_s: float = 30.0


def transactional(handler: Callable[[Tx, Action], JsonObject | None]) -> ActionHandler:
    """Perform in the transaction that marks the action SUCCEEDED: the effect comes exactly once."""
    return ActionHandler(in_transaction=handler)


def external(handler: Callable[[Action], Awaitable[JsonObject | None]], *, lease_s: float = 30.0) -> ActionHandler:
    """Perform outside any transaction, at least once, with the same `action.key` every time.

    The lease is renewed while the handler runs; `lease_s` is how long a dead process delays the next attempt.
    """
    return ActionHandler(outside=handler, lease_s=lease_s)


class Background(Protocol):
    """Something of an area that runs beside the calls in every control plane, leader or not."""

    async def run(self) -> None:
        """Run until cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Installed:
    """What an area adds.

    Args:
        servicers: pairs of the generated `add_XServicer_to_server` and the servicer.
        reconcilers: run by the leader.
        executors: kind of action -> handler.
        background: run in every control plane.
        routes: starlette routes beside /metrics and the probes.
        close: called at the end of the process, after the calls have drained.
    """

    # Any: generated add_* functions are untyped, and servicers share no base class.
    servicers: Sequence[tuple[Callable[[Any, Any], None], Any]] = ()
    reconcilers: Sequence[Reconciler] = ()
    executors: Mapping[str, ActionHandler] = field(default_factory=dict)
    background: Sequence[Background] = ()
    routes: Sequence[BaseRoute] = ()
    close: Callable[[], None] | None = None


class Services:
    """The services of all areas, found by class: how one area composes with another in one transaction."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_class: dict[type[object], object] = {}

    def add(self, service: T) -> T:
        """Offer `service` under its own class; return it."""
        if type(service) in self._by_class:
            raise ValueError(f"there is a {type(service).__name__} already")
        self._by_class[type(service)] = service
        return service

    def get(self, cls: type[T]) -> T:
        """Return the service of class `cls`; call it when a call needs it, not in `install`.

        Raises:
            LookupError: no installed area offers it.
        """
        service = self._by_class.get(cls)
        if not isinstance(service, cls):
            raise LookupError(f"no area offers a {cls.__name__}: is it in app.AREAS?")
        return service


@dataclass(frozen=True, slots=True)
class Core:
    """What every area is given."""

    db: Database
    settings: Settings
    clock: Clock
    mutations: Mutations
    wakes: Wakes
    paths: Paths
    metrics: CollectorRegistry
    services: Services = field(default_factory=Services)
