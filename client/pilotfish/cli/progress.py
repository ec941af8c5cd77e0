"""Live progress on stderr: a deployment on its way to READY, a job through its stages, a rollout through its steps.

On a terminal one line is drawn over itself; elsewhere each change is a line of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pilotfish.cli.context import plain
from pilotfish.cli.formats import escape, state_glyph, state_style
from pilotfish.cli.output import Output, Record
from pilotfish.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from pilotfish import Client

__all__ = ["Ticker", "follow_deployment", "ticker"]


class Ticker:
    """A line that tells what goes on, and lines that stay."""

    def __init__(self, out: Output, label: str) -> None:
        """Begin with nothing said; `label` stands before everything."""
        self._out = out
        self._label = label
        self._said = ""
        self._started = time.monotonic()
        self._status = out.stderr.status("", spinner="dots") if out.is_live else None

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    def now(self, markup: str) -> None:
        """Draw what goes on now, over what was drawn before; only on a terminal."""
        if self._status is not None:
            self._status.update(f"[bold]{escape(self._label)}[/]  {markup}  [dim]{self.seconds:.0f} s[/]")

    def step(self, markup: str) -> None:
        """Write a line that stays; the same one twice is written once."""
        if markup != self._said:
            self._said = markup
            self._out.stderr.print(f"  {markup}  [dim]{self.seconds:5.1f} s[/]", highlight=False, soft_wrap=True)

    def __enter__(self) -> Ticker:
        """Start to draw."""
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()


@contextlib.contextmanager
def ticker(out: Output, label: str) -> Iterator[Ticker]:
    """Draw progress as long as the block lasts."""
    with Ticker(out, label) as drawn:
        yield drawn


def follow_deployment(out: Output, client: Client, record: Record, timeout_s: float) -> tuple[Record, float]:
    """Show a deployment's way to READY; return it and the seconds it took.

    Raises:
        Unavailable: it failed or ended; says why.
        DeadlineExceeded: it does not serve yet; it goes on.
    """
    version, place = f"{record['model']}@{record['version']}", f"{record['endpoint']}/{record['stage']}"
    with ticker(out, f"{version} → {place}") as shown, contextlib.suppress(DeadlineExceeded):
        for message in client.deployments.watch(record["name"], timeout_s=timeout_s):
            record = plain(message)
            state, why = record["state"], _why(record)
            reason = f"  [dim]{escape(why)}[/]" if why else ""
            shown.step(f"[{state_style(state)}]{state_glyph(state)} {state:<9}[/]{reason}")
            shown.now(f"[{state_style(state)}]{state}[/]  [dim]{record['ready_replicas']}/{len(record['replicas'])}[/]")
            if state in ("ready", "degraded"):
                return record, shown.seconds
            if state in ("failed", "stopped", "draining"):
                break
    name = record["name"]
    if record["state"] in ("failed", "stopped", "draining"):
        raise Unavailable(
            f"{version} did not come up at {place}: it is {record['state']}: {_why(record) or 'no reason was given'}",
            metadata={"next": f"pilotfish describe deployment {name}"},
        )
    raise DeadlineExceeded(
        f"{version} is {record['state']} at {place} after {timeout_s:g} s: {_why(record) or 'no reason was given'}",
        metadata={"next": f"it goes on: pilotfish describe deployment {place}"},
    )


def _why(record: Record) -> str:
    """Return why a deployment stands as it does: its own words, else its replicas'."""
    reasons = [r["state_reason"] for r in record.get("replicas", []) if r.get("state_reason")]
    return str(record.get("state_reason") or "; ".join(dict.fromkeys(reasons)))
