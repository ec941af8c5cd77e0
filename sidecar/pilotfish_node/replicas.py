"""One replica: a model server and its sidecar, started, probed, started again with backoff, drained, stopped.

Killing the node stops neither: both run in sessions of their own and are adopted by the next node.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from pilotfish.errors import PilotfishError
from pilotfish_node.artifacts import Fetch, ensure_artifact, write_manifest
from pilotfish_node.files import read_json
from pilotfish_node.health import count_probe, judge, probe_model
from pilotfish_node.model import Probe, ReplicaAddress, ReplicaSpec, ReplicaState, ReplicaStatus
from pilotfish_node.processes import Process, adopt, start

__all__ = ["Places", "Replica", "backoff_s"]

log = logging.getLogger(__name__)

DRAIN_GRACE_S = 6.0
# A server that has failed its probes for this many intervals beyond the threshold is frozen: replace its process.
FROZEN_FACTOR = 2
TICK_S = 0.05


def backoff_s(restarts: int) -> float:
    """Return the seconds to wait before start number `restarts`: 0, 0.5, 1, 2 … 30."""
    return 0.0 if restarts <= 0 else min(30.0, 0.5 * 2.0 ** (restarts - 1))


@dataclass(frozen=True, slots=True)
class Places:
    """Where a replica's files lie, and how its sidecar reaches the control plane."""

    run: Path
    spool: Path
    cache: Path
    sockets: Path
    control_plane: Callable[[], str]
    token_file: Path
    host: str = "127.0.0.1"


class Replica:
    """Keeps one replica as its spec says; `status` is what it sees."""

    def __init__(self, spec: ReplicaSpec, places: Places, fetch: Fetch, changed: Callable[[], None]) -> None:
        self.spec = spec
        self._places = places
        self._fetch = fetch
        self._changed = changed
        self._dir = places.run / spec.replica
        self._server: Process | None = adopt(self._dir / "server.json")
        self._sidecar: Process | None = adopt(self._dir / "sidecar.json")
        self._adopted = self._server is not None
        self._channel: grpc.aio.Channel | None = None
        self._probe = Probe()
        self._restarts = 0
        self._sidecar_restarts = 0
        self._next_start = 0.0
        self._next_sidecar = 0.0
        self._started = asyncio.get_running_loop().time()
        self._stopping = False
        self._status = ReplicaStatus(spec.replica, spec.deployment, ReplicaState.STARTING, "", spec.revision)
        self._task = asyncio.create_task(self._run(), name=f"replica-{spec.replica}")

    @property
    def unjudged(self) -> bool:
        """Tell whether its server was adopted and has passed or failed no probes yet; for 3 s at most."""
        young = asyncio.get_running_loop().time() - self._started < 3.0
        return self._adopted and young and self._status.state is ReplicaState.STARTING

    @property
    def status(self) -> ReplicaStatus:
        """Return what is known of it now, with the use of its process."""
        server, sidecar = self._server, self._sidecar
        rss, cpu = server.usage() if server else (0, 0.0)
        return replace(
            self._status,
            server_pid=server.pid if server else 0,
            sidecar_pid=sidecar.pid if sidecar else 0,
            restarts=self._restarts,
            rss_bytes=rss,
            cpu_seconds=cpu,
        )

    async def stop(self) -> None:
        """Stop the server first and its sidecar after it, so that the last rows are still taken."""
        self._stopping = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
        for process in (self._server, self._sidecar):
            if process is not None:
                await process.stop(grace_s=DRAIN_GRACE_S)
        self._set(ReplicaState.STOPPED, "stopped", address=None)

    async def detach(self) -> None:
        """Leave both processes running and let go of them."""
        self._stopping = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._step()
            except PilotfishError as error:
                self._failed(str(error))
            except OSError as error:
                self._failed(f"cannot start: {error}")
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("replica step failed", extra={"replica": self.spec.replica})
                self._failed("internal error; see the node's log")
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        return TICK_S if self._status.state is ReplicaState.STARTING else min(0.25, self.spec.health_check.interval_s)

    async def _step(self) -> None:
        now = asyncio.get_running_loop().time()
        if (self._sidecar is None or not self._sidecar.alive()) and now >= self._next_sidecar:
            self._start_sidecar(now)
        if self._server is None or not self._server.alive():
            if self._server is not None:
                await self._server_ended()
            if now >= self._next_start:
                await self._start_server(now)
            return
        await self._watch(now)

    async def _watch(self, now: float) -> None:
        """Learn the server's ports, then probe it once an interval."""
        if self._status.address is None:
            ready = read_json(self._dir / "ready.json")
            if ready is None or self._server is None or int(ready.get("pid", 0)) != self._server.pid:
                self._check_startup(now)
                return
            host = self._places.host
            address = ReplicaAddress(f"{host}:{int(ready['grpc_port'])}", f"{host}:{int(ready['http_port'])}")
            self._status = replace(self._status, address=address)
            self._channel = grpc.aio.insecure_channel(address.grpc)
            self._next_probe = now
        if now < self._next_probe or self._channel is None:
            return
        check = self.spec.health_check
        waiting = self._status.state is ReplicaState.STARTING
        self._next_probe = now + (TICK_S if waiting else check.interval_s)
        reason = await probe_model(self._channel, self.spec.endpoint, timeout_s=check.timeout_s)
        self._probe = count_probe(self._probe, passed=not reason)
        state = judge(self._status.state, self._probe, check)
        if state is not self._status.state or (state is ReplicaState.UNHEALTHY and reason != self._status.reason):
            self._set(state, reason)
        if state is ReplicaState.READY and self._probe.passed >= 30:
            self._restarts = 0
        if self._probe.failed >= check.failure_threshold * FROZEN_FACTOR and self._server is not None:
            log.warning("model server does not answer; replacing its process", extra={"replica": self.spec.replica})
            await self._server.stop(grace_s=0.5)
        elif waiting and state is ReplicaState.STARTING:
            self._check_startup(now)

    _next_probe = 0.0

    def _check_startup(self, now: float) -> None:
        limit = self.spec.health_check.startup_timeout_s
        if now - self._started > limit:
            self._set(ReplicaState.UNHEALTHY, f"not ready {limit:g} s after its start; see {self._dir / 'server.log'}")

    async def _server_ended(self) -> None:
        assert self._server is not None
        tail = _last_line(self._dir / "server.log")
        self._server.forget()
        self._server = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        self._restarts += 1
        self._next_start = asyncio.get_running_loop().time() + backoff_s(self._restarts - 1)
        self._set(
            ReplicaState.UNHEALTHY,
            f"the model server ended: {tail}" if tail else "the model server ended",
            address=None,
        )

    async def _start_server(self, now: float) -> None:
        directory = await ensure_artifact(self.spec, self._places.cache, self._fetch)
        self._dir.mkdir(parents=True, exist_ok=True)
        (self._dir / "ready.json").unlink(missing_ok=True)
        manifest = write_manifest(self._dir, self.spec.files)
        spec = self.spec
        argv = [
            sys.executable,
            "-m",
            "pilotfish_model_server",
            "--model-dir",
            str(directory),
            "--manifest",
            str(manifest),
        ]
        argv += ["--model-name", spec.endpoint, "--model-version", str(spec.version), "--run-dir", str(self._dir)]
        argv += ["--grpc-host", self._places.host, "--grpc-port", "0", "--http-port", "0"]
        argv += ["--deployment", spec.deployment, "--replica", spec.replica, *self._tap_arguments()]
        argv += ["--threads", str(max(1, int(spec.cpu_cores)))]
        self._server = start(argv, record=self._dir / "server.json", log_path=self._dir / "server.log")
        self._started = now
        self._probe = Probe()
        if self._status.state is not ReplicaState.UNHEALTHY:
            self._set(ReplicaState.STARTING, "", address=None)
        self._changed()

    def _start_sidecar(self, now: float) -> None:
        if self._sidecar is not None:
            self._sidecar.forget()
            self._sidecar_restarts += 1
            self._next_sidecar = now + backoff_s(self._sidecar_restarts)
        spec, places = self.spec, self._places
        self._dir.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "pilotfish_sidecar", "agent", "--run-dir", str(self._dir)]
        argv += ["--replica", spec.replica, "--instance", f"sidecar-{spec.replica}"]
        argv += ["--control-plane", places.control_plane(), "--token-file", str(places.token_file)]
        argv += [*self._tap_arguments(), "--spool-dir", str(places.spool / spec.replica)]
        argv += ["--log-socket", str(places.sockets / f"{spec.replica}.log")]
        argv += ["--deployment", spec.deployment, "--endpoint", spec.endpoint]
        argv += ["--model", spec.model, "--version", str(spec.version)]
        self._sidecar = start(argv, record=self._dir / "sidecar.json", log_path=self._dir / "sidecar.log")
        self._changed()

    def _tap_arguments(self) -> Sequence[str]:
        socket = self._places.sockets / f"{self.spec.replica}.tap"
        return ["--tap-socket", str(socket), "--tap-counters", str(self._dir / "tap.counters")]

    def _failed(self, reason: str) -> None:
        self._restarts += 1
        self._next_start = asyncio.get_running_loop().time() + backoff_s(self._restarts)
        self._set(ReplicaState.UNHEALTHY, reason)

    def _set(self, state: ReplicaState, reason: str, *, address: ReplicaAddress | str | None = "keep") -> None:
        kept = self._status.address if isinstance(address, str) else address
        self._status = replace(
            self._status,
            state=state,
            reason=reason,
            address=kept,
            warmed=self._status.warmed or state is ReplicaState.READY,
        )
        self._changed()


def _last_line(path: Path) -> str:
    """Return the last words of a log, at most 300 characters."""
    try:
        with open(path, "rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - 4096))
            lines = [line for line in handle.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1][-300:] if lines else ""
