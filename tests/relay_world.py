"""A relay's process, a decoder's process and an agent's end of the tap, as tests use them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pilotfish_sidecar.tap.counters import Books, close_books, find_books
from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tap.records import DropReason, Flag, TapRecord


async def until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Wait for something that must happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s:g} s"
        await asyncio.sleep(0.01)


class RelayWorld:
    """Everything of one relay in a directory of its own (short: the paths of Unix sockets are)."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.directory = Path(tempfile.mkdtemp(prefix="pf-relay-"))
        self.records: list[TapRecord] = []
        self.receiver: TapReceiver | None = None
        self.processes: list[subprocess.Popen[bytes]] = []
        self.relay: subprocess.Popen[bytes] | None = None
        self.decoder: subprocess.Popen[bytes] | None = None
        self.addresses: list[str] = []

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", module, "--run-dir", str(self.directory), *arguments])
        self.processes.append(process)
        return process

    async def start_agent(self) -> None:
        """Listen as the agent does."""
        marks = {each.incarnation: each.watermark for each in self.receiver.sessions()} if self.receiver else {}
        self.receiver = TapReceiver(self.directory / "tap.sock", self._store, watermarks=marks)
        await self.receiver.start()

    async def _store(self, records: list[TapRecord]) -> None:
        self.records += records

    def start_decoder(self) -> None:
        """Start the decoder's process."""
        self.decoder = self._start("pilotfish_sidecar.decoder")

    async def start_relay(self, *listeners: str, options: tuple[str, ...] = ()) -> None:
        """Start the relay's process and wait until it serves."""
        ready = self.directory / "relay.ready"
        ready.unlink(missing_ok=True)
        flags = [flag for listener in listeners for flag in ("--listen", listener)]
        self.relay = self._start("pilotfish_sidecar.relay", *flags, *options)
        await until(ready.exists, "the relay's start")
        self.addresses = json.loads(ready.read_text())["addresses"]

    async def start(self, *listeners: str, options: tuple[str, ...] = ()) -> str:
        """Start agent, decoder and relay; return the first address."""
        await self.start_agent()
        self.start_decoder()
        await self.start_relay(*listeners, options=options)
        return self.addresses[0]

    def books(self) -> list[Books]:
        """Return all books: the relay's own and those of every decoder session."""
        return find_books(self.directory / "tap.counters")

    def served(self) -> int:
        """Return the calls served so far."""
        return sum(books.served for books in self.books())

    def captured(self) -> int:
        """Return the calls captured so far."""
        return sum(books.captured for books in self.books())

    def dropped(self) -> dict[str, int]:
        """Return the calls dropped so far, by reason, without those that are zero."""
        totals = {reason.name.lower(): sum(books.dropped[reason] for books in self.books()) for reason in DropReason}
        return {reason: count for reason, count in totals.items() if count}

    def in_flight(self) -> int:
        """Return the calls that are not accounted for yet."""
        return sum(books.in_flight for books in self.books())

    async def settle(self) -> None:
        """Wait until every call is captured or dropped."""
        await until(lambda: self.in_flight() == 0, "the accounts' closing")

    def close_dead_books(self) -> None:
        """Close the books of decoders that died, as the agent does."""
        for books in find_books(self.directory / "tap.counters"):
            if not books.closed and not books.owner_alive:
                mine = [r for r in self.records if r.incarnation == books.incarnation]
                calls = [r for r in mine if not r.flags & Flag.CONTINUES]
                told = {reason: sum(r.drop is reason for r in calls) for reason in DropReason}
                close_books(books.path, sum(r.drop is None for r in calls), told)

    async def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill -9, and wait until it is gone."""
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)

    async def stop(self) -> None:
        """End everything."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                await asyncio.to_thread(process.wait)
        if self.receiver is not None:
            await self.receiver.close()
