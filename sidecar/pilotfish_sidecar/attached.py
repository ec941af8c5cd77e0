"""The sidecar beside a server that somebody else runs: relay, decoder and agent, kept running.

Owns which of the three processes there are and that one which ends is started again. Killing any of them stops no
other, killing this one stops none: they live in sessions of their own, and the next one takes them over.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pilotfish.child_process import TICK_S, Child
from pilotfish.errors import FailedPrecondition, Unavailable

__all__ = ["AttachedSettings", "AttachedSidecar"]

log = logging.getLogger(__name__)

_START_S: Final = 20.0
_GRACE_S: Final = {"relay": 30.0, "decoder": 10.0, "agent": 10.0}


@dataclass(frozen=True, slots=True)
class AttachedSettings:
    """How an attached sidecar is set up.

    Attributes:
        run_dir: its own; runtime files, logs and the spool are there.
        listeners: HOST:PORT=UPSTREAM_HOST:PORT each.
        agent: flags of the agent beside the run directory.
        relay: further flags of the relay.
        decoder: further flags of the decoder.
    """

    run_dir: Path
    listeners: Sequence[str]
    agent: Sequence[str]
    relay: Sequence[str] = ()
    decoder: Sequence[str] = ()


class AttachedSidecar:
    """Keeps the three processes running until it is told to end."""

    def __init__(self, settings: AttachedSettings) -> None:
        """Look for processes that an earlier one left running."""
        self._settings = settings
        self._ending = False
        # In this order they start; traffic is served last, when everything behind it is there.
        self._children = [Child(name, settings.run_dir) for name in ("agent", "decoder", "relay")]
        self.restarts = dict.fromkeys(("agent", "decoder", "relay"), 0)

    def _command(self, name: str) -> list[str]:
        settings = self._settings
        base = ["--run-dir", str(settings.run_dir)]
        if name == "relay":
            flags = [flag for listener in self._listeners() for flag in ("--listen", listener)]
            return [sys.executable, "-m", "pilotfish_sidecar.relay", *base, *flags, *settings.relay]
        if name == "decoder":
            return [sys.executable, "-m", "pilotfish_sidecar.decoder", *base, *settings.decoder]
        return [sys.executable, "-m", "pilotfish_sidecar", "agent", *base, *settings.agent]

    def _listeners(self) -> Sequence[str]:
        """Return the listeners with the ports that an earlier start found free: callers know those."""
        try:
            known = json.loads((self._settings.run_dir / "listeners.json").read_text())
        except (OSError, ValueError):
            return self._settings.listeners
        if known.get("asked") != list(self._settings.listeners):
            return self._settings.listeners
        return [
            f"{'tls://' if asked.startswith('tls://') else ''}{address}={asked.partition('=')[2]}"
            for address, asked in zip(known["addresses"], self._settings.listeners, strict=True)
        ]

    def addresses(self) -> list[str]:
        """Return where calls come in, one address per listener; empty while the relay is not there."""
        try:
            ready = json.loads((self._settings.run_dir / "relay.ready").read_text())
        except (OSError, ValueError):
            return []
        relay = self._children[-1]
        return list(ready["addresses"]) if ready.get("pid") == relay.pid and relay.alive() else []

    def start(self) -> None:
        """Start what does not run, and wait until calls come in.

        Raises:
            Unavailable: the relay did not come up; the message ends with its last words.
        """
        self._settings.run_dir.mkdir(parents=True, exist_ok=True)
        for child in self._children:
            if not child.alive():
                child.start(self._command(child.name))
        until = time.monotonic() + _START_S
        while not self.addresses() and not self._ending:
            ended = [child for child in self._children if not child.alive()]
            if ended or time.monotonic() > until:
                words = "\n".join(f"{each.name}: {each.last_words()}" for each in ended or self._children[-1:])
                self.stop()
                raise Unavailable(f"the sidecar did not come up\n{words}")
            time.sleep(TICK_S)
        record = {"asked": list(self._settings.listeners), "addresses": self.addresses()}
        (self._settings.run_dir / "listeners.json").write_text(json.dumps(record))

    def watch(self) -> None:
        """Start again what ended, each with a pause of its own that grows."""
        now = time.monotonic()
        for child in self._children:
            if child.alive():
                child.due_at = 0.0
            elif not child.due_at:
                child.due_at = now + child.next_pause_s()
                log.warning("the %s ended; it is started again; %s tells why", child.name, child.log_path)
            elif now >= child.due_at:
                child.due_at = 0.0
                self.restarts[child.name] += 1
                child.start(self._command(child.name))

    def run(self) -> None:
        """Start, watch, and stop everything at SIGINT or SIGTERM.

        Raises:
            FailedPrecondition: no listener was given.
            Unavailable: the relay did not come up.
        """
        if not self._settings.listeners:
            raise FailedPrecondition("a relay needs at least one listener")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "_ending", True))
        self.start()
        if not self._ending:
            log.info("attached; calls come in at %s", ", ".join(self.addresses()))
        while not self._ending:
            self.watch()
            time.sleep(TICK_S)
        self.stop()

    def stop(self) -> None:
        """End the three, callers first: what the relay still hands over is decoded, and then stored."""
        for child in reversed(self._children):
            child.signal(signal.SIGTERM)
            if not child.wait(_GRACE_S[child.name]):
                log.warning("the %s does not end; it is killed", child.name)
                child.signal(signal.SIGKILL)
                child.wait(5.0)
