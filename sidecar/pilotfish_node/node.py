"""The node itself: reconciles what runs on this machine with the configuration it holds.

Replicas in service reach the gateway without the control plane: the newest routes that it gave, with the
addresses that this node sees healthy.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from pilotfish.v1 import fleet_service_pb2
from pilotfish_node.files import read_json, write_atomically
from pilotfish_node.gateway import Gateway
from pilotfish_node.link import Link, NodeView, spec_from_wire
from pilotfish_node.model import NodeSpec, ReplicaAddress, ReplicaState
from pilotfish_node.processes import adopt
from pilotfish_node.replicas import Places, Replica

__all__ = ["Node"]

log = logging.getLogger(__name__)

SWEEP_S = 1.0
# Between the routes without a replica being in force and its server being told to end.
LAME_DUCK_S = 1.0


class Node:
    """Runs until stopped; `stop(keep_running=True)` leaves replicas and gateway alive for the next node."""

    def __init__(
        self, home: Path, node: str, *, control_plane: str, token_file: Path, gateway_port: int, host: str
    ) -> None:
        self._dir = home / "nodes" / node
        for name in ("run", "spool", "cache", "gateway", "s"):
            (self._dir / name).mkdir(parents=True, exist_ok=True)
        (self._dir / "s").chmod(0o700)
        self._home = home
        self._address = control_plane
        self._held = self._dir / "config.pb"
        self._spec, self._known = NodeSpec(), False
        self._replicas: dict[str, Replica] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._gateway = Gateway(self._dir / "gateway", host=host, shared_port=gateway_port)
        self._applied: object = None
        self._link = Link(
            node=node,
            incarnation=self._next_incarnation(),
            address=self._control_plane,
            token_file=token_file,
            view=self._view,
            on_spec=self._take,
            held_version=lambda: self._spec.version,
        )
        self._places = Places(
            run=self._dir / "run",
            spool=self._dir / "spool",
            cache=self._dir / "cache",
            sockets=self._dir / "s",
            control_plane=self._control_plane,
            token_file=token_file,
            host=host,
        )

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self._load_held()
        link = asyncio.create_task(self._link.run(), name="link")
        try:
            while True:
                # Before, not after: what comes while it works would be forgotten until the next sweep.
                self._wake.clear()
                await self._reconcile()
                try:
                    await asyncio.wait_for(self._wake.wait(), timeout=SWEEP_S)
                except TimeoutError:
                    continue
        finally:
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)

    async def stop(self, *, keep_running: bool) -> None:
        """Let go of everything, or end the gateway first and every replica after it."""
        if keep_running:
            await asyncio.gather(*(r.detach() for r in self._replicas.values()))
            return
        await self._gateway.stop()
        await asyncio.gather(*(r.stop() for r in self._replicas.values()), *self._stopping.values())

    def _control_plane(self) -> str:
        """Return the control plane's address; with port 0 it says itself where it listens now."""
        if not self._address.endswith(":0"):
            return self._address
        found = read_json(self._home / "run" / "control_plane.json") or {}
        return f"127.0.0.1:{int(found.get('grpc_port', 0))}"

    def _next_incarnation(self) -> int:
        path = self._dir / "incarnation.json"
        number = int((read_json(path) or {}).get("incarnation", 0)) + 1
        write_atomically(path, b'{"incarnation": %d}' % number)
        return number

    def _take(self, config: fleet_service_pb2.NodeConfig, version: int) -> None:
        """Take a configuration: check it, keep it on disk, then act on it."""
        spec = spec_from_wire(config, version)
        held = fleet_service_pb2.MemberConfig(version=version, node=config)
        write_atomically(self._held, held.SerializeToString())
        self._spec, self._known = spec, True
        self._wake.set()

    def _load_held(self) -> None:
        try:
            held = fleet_service_pb2.MemberConfig.FromString(self._held.read_bytes())
            self._spec, self._known = spec_from_wire(held.node, held.version), True
        except FileNotFoundError:
            return
        except Exception:
            # Bytes of any kind may lie there after a crash of the machine; the control plane sends them anew.
            log.exception("the held configuration cannot be read; waiting for the control plane")

    def _changed(self) -> None:
        self._wake.set()
        self._link.notify()

    def _view(self) -> NodeView:
        return NodeView([r.status for r in self._replicas.values()], self._gateway.state)

    async def _reconcile(self) -> None:
        if not self._known:
            return
        wanted = {r.replica: r for r in self._spec.replicas}
        for name, spec in wanted.items():
            if name not in self._replicas and name not in self._stopping:
                self._replicas[name] = Replica(spec, self._places, self._link.fetch, self._changed)
            elif name in self._replicas:
                self._replicas[name].spec = spec
        await self._update_gateway()
        for name in [n for n in self._replicas if n not in wanted]:
            replica = self._replicas.pop(name)
            self._stopping[name] = asyncio.create_task(self._end(name, replica), name=f"stop-{name}")
        await self._remove_strays(set(wanted))

    async def _end(self, name: str, replica: Replica) -> None:
        try:
            # Envoy's workers take new routes a moment after its main thread says that they are in force.
            await asyncio.sleep(LAME_DUCK_S)
            await replica.stop()
        finally:
            self._stopping.pop(name, None)
            self._changed()

    async def _update_gateway(self) -> None:
        """Write routes when they or the replicas in service changed; start Envoy again when it died."""
        if self._applied is None and any(r.unjudged for r in self._replicas.values()):
            # The gateway still serves them by its last routes: do not take them out before they were probed.
            return
        addresses: dict[str, ReplicaAddress] = dict(self._spec.attached)
        for name, replica in self._replicas.items():
            status = replica.status
            if status.state is ReplicaState.READY and status.address is not None:
                addresses[name] = status.address
        if not self._spec.gateway.endpoints and not self._gateway.state.running:
            return
        key = (self._spec.gateway, tuple(sorted(addresses.items())))
        try:
            if key != self._applied or self._gateway.tidy_due():
                await self._gateway.apply(self._spec.gateway, addresses)
                self._applied = key
                self._link.notify()
            else:
                await self._gateway.restart_if_dead(self._spec.gateway, addresses)
        except (OSError, TimeoutError) as error:
            log.warning("gateway: %s", error)
            self._applied = None
            self._link.notify()

    async def _remove_strays(self, wanted: set[str]) -> None:
        """End recorded processes of replicas that nobody wants any more."""
        for directory in self._places.run.iterdir():
            name = directory.name
            if name in wanted or name in self._replicas or name in self._stopping or not directory.is_dir():
                continue
            for record in ("server.json", "sidecar.json"):
                process = adopt(directory / record)
                if process is not None:
                    log.info("ending a replica that nobody wants", extra={"replica": name, "pid": process.pid})
                    await process.stop(grace_s=3.0)
