"""The page of `pilotfish --help`, written without rich: loading it would take longer than all the rest."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

__all__ = ["help_page"]

EXIT_CODES = "0 done · 1 error · 2 wrong usage · 3 criteria failed · 4 inconclusive · 5 refused"


# Any: typer's own command and context types are not public.
def help_page(group: Any, ctx: Any) -> str:
    """Return the overview of all commands by panel, one line each, and the global options."""
    from pilotfish import __version__

    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    paint = _painter()
    lines = [f"{paint('1', 'pilotfish')} {__version__}  {group.help}", "", "Usage: pilotfish COMMAND …", ""]
    commands = [(name, group.get_command(ctx, name)) for name in group.list_commands(ctx)]
    shown = [(name, c) for name, c in commands if c is not None and not c.hidden]
    longest = max(len(name) for name, _ in shown)
    panels: dict[str, list[str]] = {}
    for name, command in shown:
        first = (command.help or "").strip().split("\n\n")[0].replace("\n", " ")
        text = _cut(first, width - longest - 6)
        panel = command.rich_help_panel if isinstance(command.rich_help_panel, str) else "More"
        panels.setdefault(panel, []).append(f"  {paint('36', name.ljust(longest))}  {text}")
    for panel, rows in panels.items():
        lines += [paint("1", panel), *rows, ""]
    lines += [paint("1", "Options, anywhere on the line"), *_options(group, paint, width), ""]
    lines += [paint("2", f"Exit codes  {EXIT_CODES}"), paint("2", "Help        pilotfish COMMAND --help")]
    return "\n".join(lines)


def _options(group: Any, paint: Any, width: int) -> list[str]:
    rows = []
    for option in group.params:
        if option.name in ("install_completion", "show_completion") or getattr(option, "hidden", False):
            continue
        names = ", ".join(sorted(option.opts, key=len))
        value = "" if getattr(option, "is_flag", False) else f" {option.metavar or ''}"
        env = f"  (env {option.envvar})" if option.envvar else ""
        rows.append((names + value, f"{option.help or ''}{env}"))
    rows.append(("-h, --help", "Show this page, or that of a command."))
    longest = max(len(left) for left, _ in rows)
    return [f"  {paint('36', left.ljust(longest))}  {_cut(right, width - longest - 6)}" for left, right in rows]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(1, width - 1)].rstrip() + "…"


def _painter() -> Any:
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def paint(code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colours else text

    return paint
