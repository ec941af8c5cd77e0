"""What the demo shows: numbered steps, facts, tables, and one JSON line at the end. Owns the looks, no facts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

__all__ = ["Show", "StepFailed"]


class StepFailed(Exception):
    """A step of the demo did not do what it must; `step` names it."""

    def __init__(self, step: str, why: str) -> None:
        """Keep both."""
        super().__init__(f"{step}: {why}")
        self.step = step
        self.why = why


class Show:
    """Writes the demo's story."""

    def __init__(self, total: int) -> None:
        """Tell a story of so many steps."""
        self.console = Console(highlight=False)
        self._total = total
        self._number = 0
        self._begin = time.monotonic()
        self.step_name = "start"

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Announce a step, and say how long it took."""
        self._number += 1
        self.step_name = name
        at = time.monotonic()
        self.console.print(f"\n[bold cyan]{self._number:>2}/{self._total}[/] [bold]{what}[/]")
        yield
        took = time.monotonic() - at
        total = time.monotonic() - self._begin
        self.console.print(f"      [green]done[/] in {took:.1f} s [dim](since the start {total:.0f} s)[/]")

    def fact(self, text: str) -> None:
        """Write a line below the step."""
        self.console.print(f"      {text}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a small table below the step."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in columns:
            table.add_column(name)
        for row in rows:
            table.add_row(*row)
        from rich.padding import Padding

        self.console.print(Padding(table, (0, 0, 0, 6)))

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Any]:
        """Show a bar while something is counted; yields a function that takes the count."""
        columns = (
            TextColumn("     "),
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(28),
            MofNCompleteColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done, text=None: progress.update(
                task, completed=done, **({"description": text} if text else {})
            )

    def panel(self, title: str, lines: Sequence[str]) -> None:
        """Write a framed block."""
        self.console.print(Panel("\n".join(lines), title=title, title_align="left", border_style="cyan", width=110))

    def last_line(self, facts: Mapping[str, Any]) -> None:
        """Write the last line: one JSON object, plain, unwrapped."""
        self.console.file.write(json.dumps(facts) + "\n")
        self.console.file.flush()
