"""The tap's books: served, captured and dropped calls, in a file that outlives a killed process.

Owns the layout of the counters file (4 KiB, mapped shared, so the kernel keeps every increment when the
process dies) and who may close it. Invariant at any moment:

    served = captured + sum(dropped by reason) + in flight

Drops stand in two places, so that a crash can be booked exactly: `dropped` are calls that were only counted, `told`
those whose records, without bodies, the agent acknowledged. Behind a relay the served calls are counted by the relay's
process and all else by the decoder's, which owns the books; every slot has one writer.

It never ships anything. A machine crash may lose the file: the promise covers processes, not power.

    0     magic "PFTAPCN1" | layout u32 | pid u32 | process start u64 (ticks since boot) | incarnation 16
          | started_us u64 | closed u64 (0 open, 1 by the tap, 2 by the agent)
    256   u64 x 64: served, captured, dropped[reason 0..] from 2 on, told[reason 0..] from 32 on
    1024  deployment, replica, version (each u16 length + UTF-8)
"""

from __future__ import annotations

import contextlib
import enum
import logging
import mmap
import os
import secrets
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilotfish_sidecar.tap.records import DropReason, TapIdentity

__all__ = ["Books", "Closed", "Counters", "close_books", "find_books", "process_start", "read_books"]

log = logging.getLogger(__name__)

FILE_BYTES: Final = 4096
_MAGIC: Final = b"PFTAPCN1"
_LAYOUT: Final = 1
_HEAD = struct.Struct("<8sIIQ16sQ")
_CLOSED_AT: Final = _HEAD.size
_U64 = struct.Struct("<Q")
_U16 = struct.Struct("<H")
_SLOTS_AT: Final = 256
_SLOTS: Final = 64
_TEXT_AT: Final = 1024
_TEXT_LIMIT: Final = 1000
SERVED: Final = 0
CAPTURED: Final = 1
DROPPED: Final = 2
TOLD: Final = 32


class Closed(enum.IntEnum):
    """Whether the books are closed, and by whom."""

    OPEN = 0
    BY_TAP = 1
    BY_AGENT = 2


@dataclass(frozen=True, slots=True)
class Books:
    """One reading of a counters file.

    Attributes:
        path: the file.
        pid: process that counts.
        process_start: its start time in ticks since boot, 0 where unknown; tells a reused pid apart.
        incarnation: 16 bytes, as in the tap's frames.
        started_us: microseconds since the Unix epoch.
        identity: deployment, replica and version as the tap was started with.
        closed: whether nothing more will be counted.
        served: calls answered.
        captured: calls that the agent acknowledged.
        dropped: calls not captured, by reason; every reason is present.
        told: those of them whose records the agent acknowledged.
    """

    path: Path
    pid: int
    process_start: int
    incarnation: bytes
    started_us: int
    identity: TapIdentity
    closed: Closed
    served: int
    captured: int
    dropped: Mapping[DropReason, int]
    told: Mapping[DropReason, int]

    @property
    def in_flight(self) -> int:
        """Return the calls that are neither captured nor dropped yet."""
        return self.served - self.captured - sum(self.dropped.values())

    @property
    def owner_alive(self) -> bool:
        """Return whether the process that counts here still runs."""
        return process_start(self.pid) == self.process_start != 0


def process_start(pid: int) -> int:
    """Return when the process started, in ticks since boot; 0 when there is none (or no /proc)."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The command name is in parentheses and may hold spaces and parentheses: fields count from its end.
    fields = raw[raw.rfind(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return 0
    return int(fields[19])


class Counters:
    """The books of the running tap; `slots` is written by the tap and its shipper only.

    Each slot has exactly one writer (the recording side, or the shipping thread), so that no lock is
    shared between them.
    """

    __slots__ = ("_map", "incarnation", "path", "pid", "slots", "started_us")

    def __init__(self, mapped: mmap.mmap, path: Path | None) -> None:
        """Take over a map that `create`, `anonymous` or another process laid out."""
        self._map = mapped
        self.path = path
        head = _HEAD.unpack_from(mapped)
        self.pid: int = head[2]
        self.incarnation: bytes = head[4]
        self.started_us: int = head[5]
        self.slots = memoryview(mapped)[_SLOTS_AT : _SLOTS_AT + 8 * _SLOTS].cast("Q")

    @classmethod
    def create(cls, path: Path, identity: TapIdentity, *, started_us: int) -> Counters:
        """Return new books at `path`, readable by others only whole.

        Books that are already there are kept under another name for the agent to close: those of a dead
        process move to `<path>.<incarnation>`, those of a living one stay and ours go to `<path>.<pid>`.

        Raises:
            OSError: no space or no permission.
        """
        path = _free_place(path)
        incarnation = secrets.token_bytes(16)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            # Reserve the blocks now: writing into a sparse map on a full disk would kill the process (SIGBUS).
            os.posix_fallocate(handle, 0, FILE_BYTES)
            mapped = mmap.mmap(handle, FILE_BYTES)
            _lay_out(mapped, incarnation, started_us, identity)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(handle)
        return cls(mapped, path)

    @classmethod
    def open(cls, path: Path) -> Counters:
        """Return the books of another living process, to count beside it in slots that it leaves alone.

        Raises:
            OSError: there are none.
            ValueError: it is not a counters file of this layout.
        """
        read_books(path)
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), FILE_BYTES), path)

    @classmethod
    def anonymous(cls, identity: TapIdentity, *, started_us: int) -> Counters:
        """Return books without a file: exact while the process lives, lost with it."""
        incarnation = secrets.token_bytes(16)
        mapped = mmap.mmap(-1, FILE_BYTES)
        _lay_out(mapped, incarnation, started_us, identity)
        return cls(mapped, None)

    def read(self) -> Books:
        """Return the books as they are now."""
        return _parse(self._map[:], self.path or Path())

    @property
    def closed(self) -> bool:
        """Whether the books are closed: nothing counted from now on would be seen."""
        return bool(self._map[_CLOSED_AT])

    def mark_closed(self) -> None:
        """Tell readers that nothing more will be counted."""
        _U64.pack_into(self._map, _CLOSED_AT, Closed.BY_TAP)


def _free_place(path: Path) -> Path:
    try:
        old = read_books(path)
    except FileNotFoundError:
        return path
    except ValueError:
        log.warning("replacing %s: it is not a counters file", path)
        return path
    if old.owner_alive and old.pid != os.getpid():
        return path.with_name(f"{path.name}.{os.getpid()}")
    if not old.closed:
        os.rename(path, path.with_name(f"{path.name}.{old.incarnation.hex()}"))
    return path


def _lay_out(mapped: mmap.mmap, incarnation: bytes, started_us: int, identity: TapIdentity) -> None:
    pid = os.getpid()
    _HEAD.pack_into(mapped, 0, _MAGIC, _LAYOUT, pid, process_start(pid), incarnation, started_us)
    position = _TEXT_AT
    for text in (identity.deployment, identity.replica, identity.version):
        raw = text.encode("utf-8", "replace")[:_TEXT_LIMIT]
        mapped[position : position + 2 + len(raw)] = _U16.pack(len(raw)) + raw
        position += 2 + len(raw)


def _texts(data: bytes) -> list[str]:
    texts, position = [], _TEXT_AT
    for _ in range(3):
        (size,) = _U16.unpack_from(data, position)
        if size > _TEXT_LIMIT:
            raise ValueError("a text is beyond its limit")
        texts.append(data[position + 2 : position + 2 + size].decode("utf-8", "replace"))
        position += 2 + size
    return texts


def _parse(data: bytes, path: Path) -> Books:
    if len(data) != FILE_BYTES or data[:8] != _MAGIC:
        raise ValueError(f"{path} is not a counters file")
    _, layout, pid, start, incarnation, started_us = _HEAD.unpack_from(data)
    if layout != _LAYOUT:
        raise ValueError(f"{path} has layout {layout}, this program knows {_LAYOUT}")
    (closed,) = _U64.unpack_from(data, _CLOSED_AT)
    slots = struct.unpack_from(f"<{_SLOTS}Q", data, _SLOTS_AT)
    return Books(
        path=path,
        pid=pid,
        process_start=start,
        incarnation=incarnation,
        started_us=started_us,
        identity=TapIdentity(*_texts(data)),
        closed=Closed(closed),
        served=slots[SERVED],
        captured=slots[CAPTURED],
        dropped={reason: slots[DROPPED + reason] + slots[TOLD + reason] for reason in DropReason},
        told={reason: slots[TOLD + reason] for reason in DropReason},
    )


def read_books(path: Path) -> Books:
    """Return the books of any process, alive or dead.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a counters file of this layout.
    """
    with path.open("rb") as file:
        return _parse(file.read(FILE_BYTES + 1), path)


def find_books(path: Path) -> list[Books]:
    """Return all books that taps with the counters path `path` left, oldest first."""
    found = []
    for candidate in (path, *path.parent.glob(f"{path.name}.*")):
        with contextlib.suppress(OSError, ValueError):
            found.append(read_books(candidate))
    return sorted(found, key=lambda books: books.started_us)


def close_books(path: Path, captured: int, told: Mapping[DropReason, int] | None = None) -> Books:
    """Book what a dead process still held as dropped(crash), and return the closed books.

    The agent calls it once the process is gone and its last batch is stored. Doing it twice changes
    nothing.

    Args:
        path: the counters file.
        captured: captured calls of this incarnation that the agent stored; an acknowledgement that was on
            its way when the process died is made good by it.
        told: dropped calls of this incarnation whose records the agent stored, likewise.

    Raises:
        ValueError: the process still runs, or the file is no counters file.
        FileNotFoundError: there is no such file.
    """
    books = read_books(path)
    if books.closed:
        return books
    if books.owner_alive:
        raise ValueError(f"{path}: process {books.pid} still runs; its books stay open")
    known = {reason: max(count, (told or {}).get(reason, 0)) for reason, count in books.told.items()}
    dropped = sum(books.dropped.values()) - sum(books.told.values()) + sum(known.values())
    stored = max(books.captured, min(captured, books.served - dropped))
    lost = max(0, books.served - dropped - stored)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), FILE_BYTES) as mapped:
        crash_at = _SLOTS_AT + 8 * (DROPPED + DropReason.CRASH)
        _U64.pack_into(mapped, _SLOTS_AT + 8 * CAPTURED, stored)
        for reason, count in known.items():
            _U64.pack_into(mapped, _SLOTS_AT + 8 * (TOLD + reason), count)
        _U64.pack_into(mapped, crash_at, books.dropped[DropReason.CRASH] + lost)
        _U64.pack_into(mapped, _CLOSED_AT, Closed.BY_AGENT)
        mapped.flush()
    return read_books(path)
