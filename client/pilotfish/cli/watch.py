"""`pilotfish watch`: what happens, as it happens."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.formats import escape, number, parse_time, ref, state_glyph, state_style
from pilotfish.cli.output import Output, Record
from pilotfish.cli.spans import parse_span
from pilotfish.errors import Unavailable

__all__ = ["install"]

RECONNECTS = 60


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Look")(watch)


def watch(
    ctx: typer.Context,
    kinds: Annotated[
        list[str] | None,
        typer.Argument(help="Kinds or groups of them: deployment, rollout.aborted, alert …; unset: all."),
    ] = None,
    subject: Annotated[str, typer.Option(help="Only subjects whose resource name begins so.")] = "",
    since_start: Annotated[bool, typer.Option("--from-start", help="From the beginning, not from now on.")] = False,
    span: Annotated[str, typer.Option("--for", help="Stop after a span such as 30s; unset: never.")] = "",
    count: Annotated[int, typer.Option(help="Stop after so many; 0: never.")] = 0,
) -> None:
    """Show events as they happen; with -o json one document per line."""
    cli = Cli.of(ctx)
    wanted = [k if "." in k else f"{k.removesuffix('s')}." for k in kinds or []]
    until = time.monotonic() + parse_span(span) if span else None
    with cli.client() as client:
        _follow(cli, client, wanted, subject, "0" if since_start else "", until, count)


# Any: the client, which is imported late.
def _follow(cli: Cli, client: Any, kinds: list[str], subject: str, token: str, until: float | None, count: int) -> None:
    """Write events, and go on where it stopped when the control plane was away."""
    seen = failures = 0
    while True:
        left = None if until is None else max(0.05, until - time.monotonic())
        try:
            for answer in client.events.watch(kinds, subject_prefix=subject, resume_token=token, timeout_s=left):
                token, failures = answer.resume_token, 0
                if not answer.HasField("event"):
                    continue
                _write(cli.out, plain(answer.event))
                seen += 1
                if count and seen >= count:
                    return
        except Unavailable as error:
            failures += 1
            if failures > RECONNECTS:
                raise
            if failures == 1:
                cli.out.note(f"{error.message}; waiting for it")
        if until is not None and time.monotonic() + 0.1 >= until:
            return
        time.sleep(1.0 if failures else 0.1)


def _write(out: Output, event: Record) -> None:
    if not out.for_people:
        text = f"{event['kind']} {event['subject']}" if out.form == "name" else json.dumps(event, ensure_ascii=False)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return
    at = parse_time(event.get("time", ""))
    group, _, word = event["kind"].partition(".")
    style = state_style(word)
    clock = f"{at:%H:%M:%S}" if at else ""
    name = event["subject"]
    subject = ref(name) if "/versions/" in name else "/".join(name.split("/")[2:]) or name
    facts = _facts(event.get("payload", {}))
    kind = f"[{style}]{state_glyph(word)} {group}.[bold]{word}[/][/]" + " " * max(1, 28 - len(event["kind"]))
    line = f"[dim]{clock}[/]  {kind}{escape(subject)}  [dim]{escape(facts)}[/]"
    if out.stdout.is_terminal:
        out.stdout.print(line, highlight=False, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        out.line(line)


# Told by the event itself, or of no use to a reader.
UNTOLD = ("author", "id", "subject", "host", "kind", "severity", "pipeline", "version_id")


def _facts(payload: Record) -> str:
    shown = []
    for key, value in payload.items():
        if value in ("", None, [], {}, 0) or isinstance(value, (dict, list)) or key in UNTOLD:
            continue
        text = number(value) if isinstance(value, (int, float)) else ref(value) if "projects/" in value[:9] else value
        shown.append(f"{key}={text}")
    return "  ".join(shown[:5])
