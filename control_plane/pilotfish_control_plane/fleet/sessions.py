"""One open stream of a member, as the rest of the fleet sees it.

Owns what is to be sent next: newest state wins, so there is one place for a configuration and one for a heartbeat, and
never a growing queue. It knows neither grpc nor SQL; everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from pilotfish_control_plane.deployments.node_side import NodeConfig, ReplicaBinding
from pilotfish_control_plane.fleet.model import Hello, NodeReport, SidecarReplica

__all__ = ["Beat", "Command", "Configuration", "Goodbye", "Outgoing", "Session"]

MAX_COMMANDS = 100


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat, with the same number."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """A member's whole configuration: `node` for a node, `bindings` for a sidecar."""

    version: int
    nonce: str
    node: NodeConfig | None = None
    bindings: tuple[ReplicaBinding, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do once: `flush` or `restart_replica`."""

    id: str
    generation: int
    expires: datetime
    type: str
    subject: str


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The control plane is about to restart: connect again after the delay."""

    reconnect_after_s: float


Outgoing = Beat | Configuration | Command | Goodbye


class Session:
    """One stream: filled by the fleet, emptied by the call that serves it."""

    def __init__(self, hello: Hello, connection: int, opened: datetime, heard: float) -> None:
        """Begin with nothing to send.

        Args:
            hello: what the member said of itself.
            connection: counts the streams of this control plane.
            opened: the time of day.
            heard: the same instant on the monotonic clock, in seconds.
        """
        self.hello = hello
        self.connection = connection
        self.opened = opened
        self.heard = heard
        self.seen = opened
        self.adopted: tuple[str, ...] = ()
        self.sent_version = 0
        self.acked_version = 0
        self.config_error = ""
        self.ended: BaseException | None = None
        self.finished = False
        self.commands = 0
        self.node_report: NodeReport | None = None
        self.sidecar_report: tuple[SidecarReplica, ...] | None = None
        self.reported = asyncio.Event()
        self._configuration: Configuration | None = None
        self._beat: Beat | None = None
        self._goodbye: Goodbye | None = None
        self._commands: deque[Command] = deque(maxlen=MAX_COMMANDS)
        self._wake = asyncio.Event()

    @property
    def replicas(self) -> tuple[str, ...]:
        """The replicas that it serves: those that it named, and those that it was attached to."""
        return self.hello.replicas + self.adopted

    @property
    def instance(self) -> str:
        """The member's id."""
        return self.hello.instance

    def configure(self, configuration: Configuration) -> None:
        """Send this configuration next, in place of an older one that has not left."""
        if configuration.version >= self.sent_version:
            self.sent_version = configuration.version
            self._configuration = configuration
            self._wake.set()

    def beat(self, sequence: int) -> None:
        """Answer a heartbeat."""
        self._beat = Beat(sequence)
        self._wake.set()

    def command(self, command: Command) -> None:
        """Send a command after those before it; beyond 100 the oldest is dropped, and comes again."""
        self._commands.append(command)
        self._wake.set()

    def goodbye(self, reconnect_after_s: float) -> None:
        """Ask the member to connect again."""
        self._goodbye = Goodbye(reconnect_after_s)
        self._wake.set()

    def end(self, reason: BaseException) -> None:
        """End the stream with an error; what is ready is dropped."""
        if self.ended is None:
            self.ended = reason
            self._wake.set()

    def finish(self) -> None:
        """End the stream well: the member has ended its side."""
        self.finished = True
        self._wake.set()

    async def next(self) -> Outgoing | None:
        """Wait for the next thing to send and return it; None: the member has ended its side.

        Raises:
            PilotfishError: why the stream ends.
        """
        while True:
            if self.ended is not None:
                raise self.ended
            if self.finished:
                return None
            if (ready := self._take()) is not None:
                return ready
            self._wake.clear()
            await self._wake.wait()

    def _take(self) -> Outgoing | None:
        if (goodbye := self._goodbye) is not None:
            self._goodbye = None
            return goodbye
        if (beat := self._beat) is not None:
            self._beat = None
            return beat
        if (configuration := self._configuration) is not None:
            self._configuration = None
            return configuration
        return self._commands.popleft() if self._commands else None
