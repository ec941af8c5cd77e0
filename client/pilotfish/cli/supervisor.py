"""The supervisor behind `pilotfish up`: starts the control plane and the node, and starts them again when they end.

It starts processes and imports none of them, so that killing any one stops no other. Both run in sessions of
their own; a new supervisor takes over what the last one left running.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotfish.child_process import TICK_S, Child, read_json, start_ticks, write_json
from pilotfish.errors import FailedPrecondition, Unavailable

__all__ = ["Options", "Supervisor", "running_supervisor"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 25.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `pilotfish up` was asked for; port 0 means any free one, kept over restarts."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 7433
    http_port: int = 7434
    gateway_port: int = 7435
    database: str = ""
    gateway: bool = True
    control_plane_args: Sequence[str] = field(default_factory=tuple)


def running_supervisor(home: Path) -> int:
    """Return the pid of the supervisor of this home; 0: none runs."""
    saved = read_json(home / "run" / "supervisor.json")
    pid = int(saved.get("pid", 0))
    return pid if pid and start_ticks(pid) == str(saved.get("ticks", "-")) else 0


class Supervisor:
    """Keeps the control plane and the node of one home running until it is told to end."""

    def __init__(self, options: Options, tell: Callable[[str], None]) -> None:
        self.options = options
        self._tell = tell
        self._ending = False
        self.control_plane = Child("control_plane", options.home)
        self.node = Child("node", options.home)
        self._ports: dict[str, int] = {}

    def run(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Start both, call ready with the addresses, and watch them until SIGINT or SIGTERM.

        Raises:
            FailedPrecondition: another supervisor has this home, or a port is taken.
            Unavailable: a process did not come up; the message ends with its last words.
        """
        self._claim()
        with self._signals():
            try:
                self._bring_up()
                if not self._ending:
                    ready(self.addresses())
                while not self._ending:
                    self._watch()
                    time.sleep(TICK_S)
            finally:
                self.stop()
                (self.options.home / "run" / "supervisor.json").unlink(missing_ok=True)

    def addresses(self) -> dict[str, Any]:
        """Return where everything listens."""
        found = read_json(self.options.home / "run" / "control_plane.json")
        ports = read_json(self.options.home / "nodes" / "local" / "gateway" / "ports.json")
        return {
            "grpc": f"{self.options.host}:{found.get('grpc_port', 0)}",
            "http": f"http://{self.options.host}:{found.get('http_port', 0)}",
            "gateway": f"{self.options.host}:{ports.get('shared') or self.options.gateway_port}",
            "home": str(self.options.home),
            "token_file": str(self.options.home / "token"),
        }

    def stop(self) -> None:
        """End the node, which drains replicas and gateway, then the control plane."""
        self._ending = True
        for child in (self.node, self.control_plane):
            child.signal(signal.SIGTERM)
            if not child.wait(STOP_TIMEOUT_S):
                self._tell(f"{child.name} did not end within {STOP_TIMEOUT_S:g} s; killed")
                child.signal(signal.SIGKILL)
                child.wait(5.0)

    def _claim(self) -> None:
        home = self.options.home
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        other = running_supervisor(home)
        if other and other != os.getpid():
            raise FailedPrecondition(
                f"pilotfish already runs for {home} (pid {other}): `pilotfish down` ends it, or choose another --home"
            )
        write_json(home / "run" / "supervisor.json", {"pid": os.getpid(), "ticks": start_ticks(os.getpid())})

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def end(_number: int, _frame: object) -> None:
            self._ending = True

        before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _bring_up(self) -> None:
        if self.control_plane.alive():
            self._tell(f"taking over the control plane (pid {self.control_plane.pid})")
        else:
            self._check_ports()
            self._start_control_plane()
        self._wait_listening()
        if self._ending:
            return
        if self.node.alive():
            self._tell(f"taking over the node (pid {self.node.pid})")
        else:
            self._start_node()

    def _check_ports(self) -> None:
        for name, port in (("--port", self.options.port), ("--http-port", self.options.http_port)):
            if not port:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.options.host, port))
                except OSError as error:
                    raise FailedPrecondition(
                        f"{self.options.host}:{port} is taken ({error.strerror}): "
                        f"choose another with {name}, or {name} 0 for any free one"
                    ) from error

    def _start_control_plane(self) -> None:
        options = self.options
        grpc_port = self._ports.get("grpc_port", options.port)
        http_port = self._ports.get("http_port", options.http_port)
        (options.home / "run" / "control_plane.json").unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pilotfish_control_plane", "--home", str(options.home), "--host", options.host]
        argv += ["--port", str(grpc_port), "--http-port", str(http_port)]
        if options.database:
            argv += ["--database", options.database]
        self.control_plane.start([*argv, *options.control_plane_args])

    def _start_node(self) -> None:
        options = self.options
        argv = [sys.executable, "-m", "pilotfish_node", "--home", str(options.home), "--node", "local"]
        argv += ["--control-plane", f"{options.host}:{self._ports['grpc_port']}"]
        argv += ["--token-file", str(options.home / "node_token"), "--gateway-port", str(options.gateway_port)]
        self.node.start([*argv, "--host", options.host])

    def _wait_listening(self) -> None:
        """Wait for the control plane's own note of where it listens, then keep those ports over restarts."""
        until = time.monotonic() + START_TIMEOUT_S
        while not self._ending:
            found = read_json(self.options.home / "run" / "control_plane.json")
            if found.get("pid") == self.control_plane.pid and found.get("grpc_port"):
                self._ports = {k: int(found[k]) for k in ("grpc_port", "http_port") if found.get(k)}
                return
            if not self.control_plane.alive():
                raise Unavailable(f"the control plane ended while starting:\n{self.control_plane.last_words()}")
            if time.monotonic() > until:
                raise Unavailable(
                    f"the control plane did not listen within {START_TIMEOUT_S:g} s; see {self.control_plane.log_path}"
                )
            time.sleep(TICK_S)

    def _watch(self) -> None:
        for child, start in ((self.control_plane, self._start_control_plane), (self.node, self._start_node)):
            if self._ending or child.alive():
                continue
            if not child.due_at:
                pause_s = child.next_pause_s()
                child.due_at = time.monotonic() + pause_s
                self._tell(f"{child.name} ended; starting it again in {pause_s:g} s")
                self._record_restart(child)
            elif time.monotonic() >= child.due_at:
                child.due_at = 0.0
                start()

    def _record_restart(self, child: Child) -> None:
        path = self.options.home / "run" / "restarts.json"
        counts = read_json(path)
        counts[child.name] = int(counts.get(child.name, 0)) + 1
        write_json(path, counts)
