"""The agent: one process beside a model server, wired together, started and stopped.

Owns the order of start and stop and the work that is due every second. It never decides anything about rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import sidecar_service_pb2 as pb
from pilotfish_sidecar.clock import Clock, SystemClock
from pilotfish_sidecar.config import Binding
from pilotfish_sidecar.ending import end_tasks
from pilotfish_sidecar.health import HealthProbe, Target
from pilotfish_sidecar.intake import Intake
from pilotfish_sidecar.log_api import LogServer, SidecarServicer
from pilotfish_sidecar.rows import Who
from pilotfish_sidecar.spool import Spool, SpoolLimits
from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tapping import TapBooks, TapIntake
from pilotfish_sidecar.uplink import Uplink, UplinkSettings

__all__ = ["Agent", "AgentSettings"]

log = logging.getLogger(__name__)

_TICK_S: Final = 0.5
_DRAIN_S: Final = 2.0
_FLUSH_S: Final = 3.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How one agent is set up.

    Attributes:
        run_dir: of the replica; `sidecar.ready` is written there.
        instance: stable id of this sidecar.
        uplink: where the control plane is.
        tap_socket: Unix socket on which taps deliver.
        tap_counters: the taps' counters file.
        spool_dir: of the spool.
        log_socket: Unix socket of the log API.
        who: the replica, and what is known of it before a configuration comes.
        limits: bounds of the spool.
        refuse_when_full: whether a full spool refuses the log API rather than dropping the oldest rows.
        probe: how an attached model server is asked whether it is ready; None: the tap's process tells.
    """

    run_dir: Path
    instance: str
    uplink: UplinkSettings
    tap_socket: Path
    tap_counters: Path
    spool_dir: Path
    log_socket: Path
    who: Who
    limits: SpoolLimits = field(default_factory=SpoolLimits)
    refuse_when_full: bool = True
    probe: Target | None = None


class Agent:
    """One sidecar agent.

    Args:
        settings: how it is set up.
        clock: of everything it stamps.
        rng: of the jitter.
    """

    def __init__(
        self, settings: AgentSettings, *, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        """Recover the spool; nothing listens yet.

        Raises:
            FailedPrecondition: another agent uses the spool.
            OSError: the spool cannot be used.
        """
        self.settings = settings
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        self.spool = Spool(settings.spool_dir, settings.instance, settings.limits, self._clock)
        self.intake = Intake(self.spool, self._clock, Binding(settings.who))
        self.taps = TapIntake(self.intake)
        self.books = TapBooks(settings.tap_counters, self.intake, settings.who.replica)
        self.receiver = TapReceiver(settings.tap_socket, self.taps.on_batch, watermarks=self.taps.watermarks())
        servicer = SidecarServicer(
            self.intake, self._clock, refuse_when_full=settings.refuse_when_full, status=self._status
        )
        self.log_server = LogServer(settings.log_socket, servicer)
        self.uplink: Uplink | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._converting: asyncio.Task[None] | None = None
        self._marked: object = None
        self._probe: HealthProbe | None = None

    async def start(self) -> None:
        """Listen, and begin to connect."""
        await self.receiver.start()
        await self.log_server.start()
        self._connect()
        if self.settings.probe is not None:
            self._probe = HealthProbe(self.settings.probe)
            self._tasks.append(asyncio.ensure_future(self._probe.run()))
        _return_memory()
        self._write_ready()
        log.info(
            "sidecar %s, incarnation %d, recovered %d records, %d bytes spooled",
            self.spool.instance,
            self.spool.incarnation,
            self.intake.recovered_records,
            self.spool.size_bytes,
        )

    async def drain(self, timeout_s: float) -> bool:
        """Send what a stopped sidecar left in its spool, and return whether everything is acknowledged.

        Nothing listens: the replica is gone, only its last rows are still here.
        """
        self._connect()
        until = self._clock.monotonic_s() + timeout_s
        while not (empty := self._is_empty()) and self._clock.monotonic_s() < until:
            await asyncio.sleep(0.05)
        await self.stop()
        return empty

    def _is_empty(self) -> bool:
        # Calls that wait for a configuration count too, whether one ever came or not.
        waits = any(segment.raw_end > self.spool.raw_done for segment in self.spool.segments())
        self.intake.close_spans()
        return not waits and self.spool.all_acknowledged()

    def _connect(self) -> None:
        self.uplink = Uplink(
            self.settings.uplink,
            self.intake,
            state=self.state,
            on_config=self._begin_converting,
            clock=self._clock,
            rng=self._rng,
        )
        self._tasks = [asyncio.ensure_future(self.uplink.run()), asyncio.ensure_future(self._tick_forever())]

    async def stop(self) -> None:
        """Take what the taps still hold, make it durable, send what can be sent, and close; the spool stays."""
        await self._drain_taps()
        await self.receiver.close()
        await self.log_server.stop()
        self._tick(settle=True)
        with contextlib.suppress(OSError):
            await self.spool.sync()
        if self.uplink is not None and self.uplink.connected:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.uplink.flushed(), _FLUSH_S)
        tasks = [*self._tasks, *([self._converting] if self._converting is not None else [])]
        await end_tasks(tasks)
        if self.uplink is not None:
            await self.uplink.close()
        self._mark()
        with contextlib.suppress(OSError):
            await self.spool.sync()
        self.books.close()
        self.spool.close()
        (self.settings.run_dir / "sidecar.ready").unlink(missing_ok=True)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then stop cleanly."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        await self.start()
        waiting = asyncio.ensure_future(asked.wait())
        await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            log.error("a part of the sidecar ended; it stops so that it is started again")
        await self.stop()

    def _write_ready(self) -> None:
        ready = {"pid": os.getpid(), "instance": self.spool.instance, "incarnation": self.spool.incarnation}
        temporary = self.settings.run_dir / ".sidecar.ready"
        temporary.write_text(json.dumps(ready))
        temporary.replace(self.settings.run_dir / "sidecar.ready")

    # Every second

    async def _tick_forever(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(_TICK_S)
            turn += 1
            try:
                self._tick(settle=True, spans=turn % 2 == 0)
                if turn % 10 == 0:
                    self._mark()
                if turn % 120 == 0:
                    _return_memory()
                await self.spool.sync()
            except Exception:
                # A disk that fails for a moment must not end the agent: everything is tried again next time.
                log.exception("the work of this second is repeated")

    def _tick(self, *, settle: bool, spans: bool = True) -> None:
        self.intake.tick(spans=spans)
        if settle:
            self.books.settle(self.receiver)
        self.spool.expire()
        self._begin_converting()

    def _mark(self) -> None:
        state = (dict(self.spool.watermarks), dict(self.spool.dropped))
        if state != self._marked:
            with contextlib.suppress(Exception):
                self.spool.append([self.spool.mark()])
                self._marked = state

    def _begin_converting(self) -> None:
        """Decode what waited for a configuration, in the background and never twice at once."""
        if self.taps.waiting() and (self._converting is None or self._converting.done()):
            self._converting = asyncio.ensure_future(self._convert())

    async def _convert(self) -> None:
        try:
            converted = await self.taps.convert_waiting()
        except Exception:
            log.exception("calls that waited for a configuration still wait")
        else:
            log.info("%d calls that waited for a configuration are decoded", converted)

    async def _drain_taps(self) -> None:
        until = self._clock.monotonic_s() + _DRAIN_S
        while self._clock.monotonic_s() < until:
            if not any(books.in_flight > 0 and books.owner_alive for books in self.books.read()):
                return
            await asyncio.sleep(0.02)

    # What it tells

    def state(self) -> fleet.SidecarState:
        """Return the state as the control plane is told it."""
        alive = self.books.alive()
        state = fleet.SidecarState(
            spool_bytes=self.spool.size_bytes, spool_dropped=self.spool.dropped, rss_bytes=_rss_bytes()
        )
        for replica, counts in sorted(self.books.counts().items()):
            windows = self.intake.windows.get(replica)
            state.replicas.add(
                replica=replica,
                healthy=self._healthy(replica, alive),
                capture=counts,
                learned_rows=windows.learned_rows if windows is not None else 0,
            )
        return state

    def _healthy(self, replica: str, alive: set[str]) -> bool:
        if self._probe is not None:
            return self._probe.healthy
        # Without a tap and without a probe, whoever logs predictions lives.
        return replica in alive or (self.intake.accounts.logged[replica] > 0 and not self.books.read())

    def _status(self, answer: pb.SidecarServiceGetStatusResponse) -> None:
        answer.connected = self.uplink is not None and self.uplink.connected
        for replica, counts in self.books.counts().items():
            answer.capture[replica].CopyFrom(counts)


def _return_memory() -> None:
    """Give freed pages back: what the imports leave behind is 5 MB that would count for ever."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return 0
    # In steps of 1 MiB: a state that changes by a page need not be told.
    return (pages * _PAGE_BYTES) >> 20 << 20
