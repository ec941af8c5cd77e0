"""Where results and progress go: tables on a terminal, plain columns in a pipe, one document for programs.

Owns stdout and stderr. Results go to stdout, everything else to stderr; with json, yaml or name nothing but the
document reaches stdout.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pilotfish.cli.formats import state_glyph, state_style
from pilotfish.errors import FailedPrecondition

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["FORMATS", "Column", "Output", "Record", "state_column"]

LEAST_WIDE = 32
FORMATS = ("table", "json", "yaml", "name")

# Any: a message of the contract as plain values.
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        header: its title.
        text: what it shows of a record; no markup.
        style: its colour, fixed or by record.
        right: aligned to the right, as numbers are.
        wide: takes the room that is left, folded.
        extra: left out where the terminal is too narrow for all.
    """

    header: str
    text: Callable[[Record], str]
    style: str | Callable[[Record], str] = ""
    right: bool = False
    wide: bool = False
    extra: bool = False

    def style_of(self, record: Record) -> str:
        """Return the colour of the cell of a record."""
        return self.style if isinstance(self.style, str) else self.style(record)


def state_column(header: str = "STATE", field: str = "state") -> Column:
    """Return a column that shows a state by sign, word and colour."""
    return Column(
        header,
        lambda r: f"{state_glyph(r.get(field, ''))} {r.get(field, '') or '–'}",
        lambda r: state_style(r.get(field, "")),
    )


def _clean(value: Any) -> Any:
    """Return a value as JSON has it: no NaN, whole numbers without a point."""
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


class Output:
    """The two streams of one command, in the form that was asked for."""

    def __init__(self, form: str = "table") -> None:
        """Write tables unless json, yaml or name was asked for."""
        self.form = form

    @property
    def for_people(self) -> bool:
        """Whether a person reads stdout."""
        return self.form == "table"

    @cached_property
    def now(self) -> datetime:
        """The time that ages are counted from."""
        return datetime.now(UTC)

    @cached_property
    def stdout(self) -> Console:
        """Results."""
        return _console(stderr=False)

    @cached_property
    def stderr(self) -> Console:
        """Progress, warnings, errors."""
        return _console(stderr=True)

    @property
    def is_live(self) -> bool:
        """Whether progress can be drawn over itself."""
        return self.stderr.is_terminal

    def document(self, value: Any) -> None:
        """Write one JSON or YAML document."""
        clean = _clean(value)
        if self.form == "yaml":
            sys.stdout.write(_yaml(clean))
        else:
            sys.stdout.write(json.dumps(clean, indent=2, ensure_ascii=False) + "\n")

    def records(
        self, records: Sequence[Record], columns: Sequence[Column], name: Callable[[Record], str], *, none: str
    ) -> None:
        """Write a list.

        Args:
            records: what to show.
            columns: how a table shows it.
            name: what `-o name` writes for each.
            none: what people read when there is nothing.
        """
        if self.form == "name":
            sys.stdout.write("".join(f"{name(r)}\n" for r in records))
        elif not self.for_people:
            self.document(list(records))
        elif not records:
            self.note(none)
        else:
            self.table(records, columns)

    def one(self, record: Any, show: Callable[[], None], name: str = "") -> None:
        """Write one thing: `show` for people, else the document, or its name."""
        if self.form == "name":
            sys.stdout.write(f"{name}\n")
        elif self.for_people:
            show()
        else:
            self.document(record)

    def table(self, records: Sequence[Record], columns: Sequence[Column], *, indent: int = 0) -> None:
        """Write a table: ruled and coloured on a terminal, plain columns without cuts elsewhere."""
        if self.stdout.is_terminal:
            self.show(_rich_table(records, _fitting(records, columns, self.stdout.width - indent), indent))
        else:
            sys.stdout.write(_plain_table(records, columns, indent))

    def pairs(self, pairs: Mapping[str, str], *, indent: int = 2) -> None:
        """Write labels and values in two columns; long values are folded below themselves."""
        if not self.for_people:
            return
        width = max((len(label) for label in pairs), default=0)
        if not self.stdout.is_terminal:
            sys.stdout.write("".join(f"{' ' * indent}{label:<{width}}  {text}\n" for label, text in pairs.items()))
            return
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, text in pairs.items():
            grid.add_row(label, Text(text))
        self.show(Padding(grid, (0, 0, 0, indent)))

    def show(self, *what: RenderableType, end: str = "\n") -> None:
        """Write something that rich can draw."""
        self.stdout.print(*what, end=end, highlight=False, soft_wrap=not self.stdout.is_terminal)

    def line(self, markup: str = "") -> None:
        """Write a line of rich markup for people; nothing when a document was asked for."""
        if self.for_people:
            self.show(markup)

    def heading(self, markup: str) -> None:
        """Write a heading with a line of room above it."""
        self.line(f"\n[bold]{markup}[/]")

    def done(self, markup: str) -> None:
        """Write that something was done."""
        self.line(f"[green]✓[/] {markup}")

    def hint(self, text: str) -> None:
        """Write a next step, on stderr."""
        if self.for_people:
            self.stderr.print("→ ", end="", style="cyan", highlight=False)
            self.stderr.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Write a remark, on stderr."""
        self.stderr.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Write a warning, on stderr."""
        self.stderr.print("! ", end="", style="yellow", highlight=False)
        self.stderr.print(text, markup=False, highlight=False, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, emoji=False)


def _yaml(value: Any) -> str:
    try:
        import yaml
    except ImportError:
        raise FailedPrecondition(
            "YAML needs PyYAML, which is not installed: pip install pyyaml, or use -o json"
        ) from None
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _fitting(records: Sequence[Record], columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that a terminal of a width has room for: silent ones go, then extra ones from the end."""
    texts = {id(c): [c.text(r) for r in records] for c in columns}
    kept = [c for c in columns if any(texts[id(c)])]

    def needs(column: Column) -> int:
        longest = max([len(column.header), *(len(t) for t in texts[id(column)])])
        return (min(longest, LEAST_WIDE) if column.wide else longest) + 3

    for column in [c for c in reversed(kept) if c.extra]:
        if sum(needs(c) for c in kept) > width:
            kept.remove(column)
    return kept


def _rich_table(records: Sequence[Record], columns: Sequence[Column], indent: int) -> RenderableType:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold dim", pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(
            column.header,
            justify="right" if column.right else "left",
            no_wrap=not column.wide,
            overflow="fold" if column.wide else "ellipsis",
            ratio=None,
        )
    for record in records:
        table.add_row(*(Text(c.text(record), style=c.style_of(record)) for c in columns))
    return Padding(table, (0, 0, 0, indent))


def _plain_table(records: Sequence[Record], columns: Sequence[Column], indent: int) -> str:
    rows = [[c.header for c in columns]] + [[c.text(r).replace("\n", " ") or "–" for c in columns] for r in records]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = []
    for row in rows:
        cells = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        )
        lines.append(" " * indent + "  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
