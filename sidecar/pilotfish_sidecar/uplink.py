"""The state stream: who we are, what we hold and how it stands, configuration and commands back.

Owns the Connect call, heartbeats with a deadline, the acknowledgement of configurations and the result of commands.
It never gives up and never makes anything local wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from pilotfish.errors import Aborted, InvalidArgument, PilotfishError
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import fleet_service_pb2_grpc as fleet_grpc
from pilotfish.wire_errors import from_rpc_error
from pilotfish_sidecar.backoff import Backoff
from pilotfish_sidecar.clock import Clock
from pilotfish_sidecar.ending import end_tasks
from pilotfish_sidecar.frames import Kind
from pilotfish_sidecar.intake import Intake
from pilotfish_sidecar.publish import Publisher
from pilotfish_sidecar.spool import StreamKey

__all__ = ["Uplink", "UplinkSettings", "open_channel"]

log = logging.getLogger(__name__)

PROGRAM_VERSION: Final = "0.1.0"
"""Told in the hello; a constant, because reading the package's metadata costs 2 MB of memory."""
_WELCOME_S: Final = 10.0
_STATE_S: Final = 1.0
_FLUSH_S: Final = 60.0
_KEPT_RESULTS: Final = 64
_TAKEN_OVER_S: Final = 5.0
_KIND_OF: Final = {kind.stream: kind for kind in Kind if kind.stream}
_OPTIONS: Final = (
    # With the ping timeout a frozen peer is noticed in seconds; keepalive alone takes a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The delays between tries are ours (backoff.py): the channel must not add its own.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 80 << 20),
)


@dataclass(frozen=True, slots=True)
class UplinkSettings:
    """Where the control plane is and how to get in.

    Attributes:
        address: host:port.
        token_file: holds the token; read at every connection, so it may be replaced. None: no token.
        ca_file: PEM of the authority to trust; None: no TLS.
        certificate_file, key_file: PEM of our own identity; None: none.
        also: further replicas that this sidecar serves, beside its own.
    """

    address: str
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    also: tuple[str, ...] = ()

    def metadata(self) -> list[tuple[str, str]]:
        """Return the metadata of a call.

        Raises:
            OSError: the token file cannot be read.
        """
        if self.token_file is None:
            return []
        return [("authorization", f"Bearer {self.token_file.read_text().strip()}")]


def open_channel(settings: UplinkSettings) -> Any:  # Any: grpcio ships no types
    """Return a channel to the control plane; it connects by itself.

    Raises:
        OSError: a certificate cannot be read.
    """
    if settings.ca_file is None:
        return grpc.aio.insecure_channel(settings.address, options=_OPTIONS)
    key = settings.key_file.read_bytes() if settings.key_file else None
    own = settings.certificate_file.read_bytes() if settings.certificate_file else None
    credentials = grpc.ssl_channel_credentials(settings.ca_file.read_bytes(), key, own)
    return grpc.aio.secure_channel(settings.address, credentials, options=_OPTIONS)


class _Lost(Exception):
    """The stream is over for a reason that is no status: say it and connect again."""


class Uplink:
    """Keeps the state stream up for ever, and the data stream while it is.

    Args:
        settings: where the control plane is.
        intake: takes configurations; its spool is published.
        state: returns the state as it is now.
        on_config: called when a configuration was taken.
        clock: monotonic time for deadlines.
        rng: of the jitter.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        intake: Intake,
        *,
        state: Callable[[], fleet.SidecarState],
        on_config: Callable[[], None],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._intake = intake
        self._state = state
        self._on_config = on_config
        self._clock = clock
        self._rng = rng
        self._channel = open_channel(settings)
        self._stub: Any = fleet_grpc.FleetServiceStub(self._channel)
        self._writing = asyncio.Lock()
        self._sequence = 0
        self._answered_s = 0.0
        self._generation = 0
        self._flushes: dict[str, asyncio.Task[None]] = {}
        self._results: list[fleet.CommandResult] = []
        self._done: OrderedDict[str, fleet.CommandResult] = OrderedDict()
        self.connected = False
        self.epoch = 0
        self.publisher = Publisher(self._stub, intake.spool, rng)

    async def run(self) -> None:
        """Connect, and connect again, for ever; ends by being cancelled."""
        backoff = Backoff(self._rng)
        while True:
            wait_s = 0.0
            try:
                wait_s = await self._session(backoff)
            except grpc.aio.AioRpcError as error:
                failed = from_rpc_error(error)
                # Another sidecar of this instance took over: do not throw it out again at once.
                wait_s = failed.retry_after_s or (_TAKEN_OVER_S if isinstance(failed, Aborted) else 0.0)
                log.warning("control plane %s: %s", self._settings.address, failed.message)
            except (_Lost, TimeoutError, OSError) as error:
                log.warning("control plane %s: %s", self._settings.address, error or "no answer")
            except Exception:
                log.exception("the link to the control plane broke; it is opened again")
            finally:
                self.connected = False
            await asyncio.sleep(max(backoff.next_s(), wait_s))

    async def close(self) -> None:
        """Close the channel."""
        await end_tasks(list(self._flushes.values()))
        await self._channel.close()

    async def _session(self, backoff: Backoff) -> float:
        """Hold one stream until it ends, and return the seconds that the control plane wants us to wait."""
        metadata = self._settings.metadata()
        call = self._stub.Connect(metadata=metadata)
        tasks: list[asyncio.Task[Any]] = []
        try:
            await call.write(fleet.ConnectRequest(hello=self._hello()))
            first = await asyncio.wait_for(call.read(), _WELCOME_S)
            if first is grpc.aio.EOF or first.WhichOneof("message") != "welcome":
                raise _Lost("the control plane did not answer the hello with a welcome")
            self._greet(first.welcome)
            backoff.reset()
            tasks = [
                asyncio.ensure_future(self._read(call)),
                asyncio.ensure_future(self._beat(call, first.welcome)),
                asyncio.ensure_future(self._tell(call, first.welcome)),
                asyncio.ensure_future(self.publisher.run(metadata, first.welcome.max_publish_bytes)),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0] not in done:
                # A write that failed says less than the status that the reader is about to get.
                await asyncio.wait(tasks[:1], timeout=0.5)
            ended = tasks[0] if tasks[0].done() else next(iter(done))
            return float(await ended or 0.0)
        finally:
            call.cancel()
            await end_tasks(tasks)

    def _hello(self) -> fleet.Hello:
        spool = self._intake.spool
        return fleet.Hello(
            kind=fleet.MEMBER_KIND_SIDECAR,
            instance=spool.instance,
            incarnation=spool.incarnation,
            program_version=PROGRAM_VERSION,
            replicas=sorted({*self._intake.bindings, self._intake.fallback.who.replica, *self._settings.also}),
            config_version=self._intake.config.version,
            spool_heads=[
                fleet.StreamOffset(stream=key.kind.stream, incarnation=key.incarnation, offset=head)
                for key, head in sorted(spool.heads().items())
            ],
            open_commands=[*self._flushes, *(result.id for result in self._results)],
            host=socket.gethostname(),
        )

    def _greet(self, welcome: fleet.Welcome) -> None:
        spool = self._intake.spool
        known = {
            StreamKey(each.incarnation, _KIND_OF[each.stream]): each.offset
            for each in welcome.watermarks
            if each.stream in _KIND_OF
        }
        # What the control plane does not name it does not have: all that is still held is sent again.
        for key in spool.heads():
            spool.acknowledge(key, known.get(key, 0), rewind=True)
        self.connected, self.epoch = True, welcome.epoch
        self._answered_s = self._clock.monotonic_s()
        log.info("connected to the control plane %s, epoch %d", self._settings.address, welcome.epoch)

    async def _write(self, call: Any, **message: Any) -> None:
        # One write at a time: grpc.aio does not queue them.
        async with self._writing:
            await call.write(fleet.ConnectRequest(**message))

    async def _read(self, call: Any) -> float:
        while (answer := await call.read()) is not grpc.aio.EOF:
            kind = answer.WhichOneof("message")
            if kind == "heartbeat":
                self._answered_s = self._clock.monotonic_s()
            elif kind == "config":
                await self._configure(call, answer.config)
            elif kind == "command":
                await self._begin_command(call, answer.command)
            elif kind == "goodbye":
                log.info("the control plane is about to restart")
                return float(answer.goodbye.reconnect_after_s)
        return 0.0

    async def _beat(self, call: Any, welcome: fleet.Welcome) -> None:
        interval = max(0.05, welcome.heartbeat_interval_s or 5.0)
        patience = max(2.5 * interval, 1.0)
        if welcome.lease_s > interval:
            patience = min(patience, welcome.lease_s)
        while True:
            beat = fleet.Heartbeat(sequence=self._sequence + 1)
            beat.time.FromNanoseconds(int(self._clock.time_s() * 1e9))
            self._sequence += 1
            await self._write(call, heartbeat=beat)
            await asyncio.sleep(interval)
            if self._clock.monotonic_s() - self._answered_s > patience:
                raise _Lost(f"no heartbeat answered for {patience:.1f} s")

    async def _tell(self, call: Any, welcome: fleet.Welcome) -> None:
        """Send the state when it changed, at most once a second; the newest one wins."""
        told = b""
        while True:
            state = self._state()
            packed = state.SerializeToString(deterministic=True)
            if packed != told:
                await self._write(call, sidecar_state=state)
                told = packed
            for result in list(self._results):
                await self._write(call, command_result=result)
                self._results.remove(result)
                self._done[result.id] = result
                while len(self._done) > _KEPT_RESULTS:
                    self._done.popitem(last=False)
            await asyncio.sleep(_STATE_S)

    async def _configure(self, call: Any, config: fleet.MemberConfig) -> None:
        ack = fleet.ConfigAck(version=config.version, nonce=config.nonce)
        try:
            if config.WhichOneof("config") != "sidecar":
                raise InvalidArgument("this member is a sidecar, the configuration is for another kind")
            self._intake.store_config(config)
            await self._intake.spool.sync()
        except (PilotfishError, OSError) as error:
            ack.error = str(error)[:4000]
            log.error("configuration %d is refused, the last good one stays: %s", config.version, error)
        await self._write(call, config_ack=ack)
        if not ack.error:
            log.info("configuration %d is in force", config.version)
            self._on_config()

    async def _begin_command(self, call: Any, command: fleet.Command) -> None:
        if command.id in self._flushes or any(result.id == command.id for result in self._results):
            return
        if command.id in self._done:
            # Told twice because our result was lost: what was done is not done again.
            self._results.append(self._done[command.id])
            return
        error = ""
        if command.generation < self._generation:
            error = f"generation {command.generation} is void, {self._generation} was seen"
        elif command.HasField("expire_time") and command.expire_time.ToNanoseconds() < self._clock.time_s() * 1e9:
            error = "it expired before it was begun"
        elif command.type != "flush":
            error = f"a sidecar knows no command {command.type[:60]!r}; it knows flush"
        self._generation = max(self._generation, command.generation)
        if error:
            self._results.append(fleet.CommandResult(id=command.id, error=error))
        else:
            self._flushes[command.id] = asyncio.ensure_future(self._flush(command.id))

    async def _flush(self, command: str) -> None:
        """Publish everything that is here now; the result waits for the stream, whichever it is."""
        result = fleet.CommandResult(id=command)
        try:
            self._intake.close_spans()
            await self._intake.spool.sync()
            await asyncio.wait_for(self.flushed(), _FLUSH_S)
        except TimeoutError:
            result.error = f"not everything was acknowledged within {_FLUSH_S:.0f} s"
        except (PilotfishError, OSError) as error:
            result.error = str(error)
        self._results.append(result)
        del self._flushes[command]

    async def flushed(self) -> None:
        """Return when everything that was durable at the call is acknowledged."""
        spool = self._intake.spool
        heads = spool.heads()
        while any(spool.watermark(key) < head for key, head in heads.items() if key in spool.heads()):
            await asyncio.sleep(0.02)
