"""The agent's end of the tap's socket: decode, drop what is known, store, acknowledge.

Owns the Unix socket and, per incarnation, the watermark: the sequence number below which everything is
stored. The order is fixed: a batch is handed to `on_batch`, which makes it durable, and only then is it
acknowledged; a crash in between makes the tap send it again, and the watermark that the agent recovered
from its own store drops the second copy. Hostile bytes end their connection and are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pilotfish.errors import FailedPrecondition, InvalidArgument
from pilotfish_sidecar.tap.records import TapIdentity, TapRecord
from pilotfish_sidecar.tap.wire import Ack, Batch, FrameReader, Hello, WireError, encode_ack

__all__ = ["OnBatch", "ReceiverStats", "TapReceiver", "TapSession"]

log = logging.getLogger(__name__)

OnBatch: TypeAlias = Callable[[list[TapRecord]], Awaitable[None]]

_READ_BYTES: Final = 1 << 18
_MAX_SESSIONS: Final = 4096
_MAX_PATH_BYTES: Final = 107


@dataclass(slots=True)
class ReceiverStats:
    """What the receiver has seen since it started.

    Attributes:
        connections: accepted so far.
        batches: stored.
        records: stored.
        duplicates: records dropped because they were stored before.
        gaps: batches that began beyond the watermark: this agent lost its own store.
        refused: connections closed for bytes that are not of the protocol.
        failed: connections closed because `on_batch` failed; the tap sends the batch again.
    """

    connections: int = 0
    batches: int = 0
    records: int = 0
    duplicates: int = 0
    gaps: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(slots=True)
class TapSession:
    """One incarnation of a tap, connected or not.

    Attributes:
        incarnation: its 16 bytes.
        watermark: every record below this sequence number is stored.
        identity: as the tap's HELLO gave it.
        pid: process of the tap.
        started_us: when the tap started, microseconds since the Unix epoch.
        counters_path: file of its books; empty when it keeps none.
        connections: how many connections it has now.
    """

    incarnation: bytes
    watermark: int = 0
    identity: TapIdentity = field(default_factory=TapIdentity)
    pid: int = 0
    started_us: int = 0
    counters_path: str = ""
    connections: int = 0
    known: bool = False
    storing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


class _StoreError(Exception):
    """`on_batch` failed: its own OSError (disk full) is not the connection's."""


class TapReceiver:
    """An asyncio server for taps on a Unix socket that only its owner may open.

    Args:
        path: of the socket; a stale one is replaced, a living one is refused.
        on_batch: makes the records durable. It gets new records only, in order within an incarnation,
            and never two batches of one incarnation at a time. When it raises, nothing counts as stored.
        watermarks: incarnation → next sequence number, as recovered from the agent's store.
    """

    def __init__(self, path: Path, on_batch: OnBatch, *, watermarks: Mapping[bytes, int] | None = None) -> None:
        """Prepare; nothing is opened before `start`."""
        self.path = path
        self.stats = ReceiverStats()
        self._on_batch = on_batch
        self._sessions: OrderedDict[bytes, TapSession] = OrderedDict()
        for incarnation, next_seq in (watermarks or {}).items():
            self._sessions[incarnation] = TapSession(incarnation, next_seq, known=True)
        self._server: asyncio.Server | None = None
        self._conversations: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._inode = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            InvalidArgument: the path is too long for a Unix socket.
            FailedPrecondition: another agent listens there, or something that is no socket is there.
            OSError: no permission.
        """
        listener = _listen(self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=_READ_BYTES)

    async def close(self) -> None:
        """Stop listening, let batches that are being stored finish, close the connections."""
        if self._server is None:
            return
        self._server.close()
        # Not cancelled: a batch that is being stored is stored, and its watermark moves.
        for writer in self._conversations.values():
            writer.transport.abort()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        self._server = None
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def sessions(self) -> list[TapSession]:
        """Return every incarnation seen or recovered, oldest first."""
        return list(self._sessions.values())

    def watermark(self, incarnation: bytes) -> int:
        """Return the next sequence number expected of an incarnation; 0 when it is unknown."""
        session = self._sessions.get(incarnation)
        return session.watermark if session else 0

    def forget(self, incarnation: bytes) -> None:
        """Drop an incarnation whose books are closed."""
        self._sessions.pop(incarnation, None)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # asyncio runs every connection in a task
        self._conversations[task] = writer
        task.add_done_callback(lambda done: self._conversations.pop(done, None))
        self.stats.connections += 1
        session: list[TapSession] = []
        try:
            await self._converse(reader, writer, session)
        except WireError as error:
            self.stats.refused += 1
            log.warning("closed a connection to %s: %s", self.path, error)
        except OSError as error:
            log.info("a tap's connection ended: %s", error)
        except _StoreError:
            self.stats.failed += 1
            log.exception("storing a batch failed; the tap keeps it and sends it again")
        finally:
            for each in session:
                each.connections -= 1
            writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, current: list[TapSession]
    ) -> None:
        frames = FrameReader()
        while chunk := await reader.read(_READ_BYTES):
            batches: list[Batch] = []
            for message in frames.feed(chunk):
                if isinstance(message, Hello) and not current:
                    current.append(self._welcome(message))
                    writer.write(encode_ack(Ack(message.incarnation, current[0].watermark)))
                elif isinstance(message, Batch) and current and message.incarnation == current[0].incarnation:
                    batches.append(message)
                else:
                    raise WireError("expected one HELLO, then batches of its incarnation")
            if batches:
                await self._store(current[0], batches)
                writer.write(encode_ack(Ack(current[0].incarnation, current[0].watermark)))
            await writer.drain()

    def _welcome(self, hello: Hello) -> TapSession:
        session = self._sessions.setdefault(hello.incarnation, TapSession(hello.incarnation))
        if not session.known:
            session.watermark = hello.first_seq
        session.known = True
        session.identity, session.pid = hello.identity, hello.pid
        session.started_us, session.counters_path = hello.started_us, hello.counters_path
        session.connections += 1
        self._shrink()
        return session

    def _shrink(self) -> None:
        while len(self._sessions) > _MAX_SESSIONS:
            oldest = next((key for key, one in self._sessions.items() if not one.connections), None)
            if oldest is None:
                return
            del self._sessions[oldest]

    async def _store(self, session: TapSession, batches: list[Batch]) -> None:
        async with session.storing:
            fresh: list[TapRecord] = []
            watermark = session.watermark
            for batch in batches:
                if batch.first_seq > watermark:
                    self.stats.gaps += 1
                    watermark = batch.first_seq
                skip = min(watermark - batch.first_seq, len(batch.records))
                self.stats.duplicates += skip
                fresh.extend(batch.records[skip:])
                watermark += len(batch.records) - skip
            if fresh:
                try:
                    await self._on_batch(fresh)
                except Exception as error:
                    raise _StoreError from error
                self.stats.batches += len(batches)
                self.stats.records += len(fresh)
            session.watermark = watermark


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise InvalidArgument(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, Unix sockets allow {_MAX_PATH_BYTES}: "
            "choose a shorter PILOTFISH_HOME"
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind: the file is created with this mode, there is no moment in which others may connect.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        os.chmod(path, 0o600)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition(f"{path} exists and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError:
            pass
    raise FailedPrecondition(f"another agent listens on {path}; stop it first, or give this one another path")
