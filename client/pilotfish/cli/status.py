"""`pilotfish status`: what runs, what serves, and what wants attention, on one screen."""

from __future__ import annotations

from typing import Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.failures import ERROR
from pilotfish.cli.formats import age, bar, escape, percent, short_name, state_glyph, state_style
from pilotfish.cli.local import processes, up_note
from pilotfish.cli.output import Column, Output, state_column
from pilotfish.errors import PilotfishError

__all__ = ["install"]


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Start here")(status)


def status(ctx: typer.Context) -> None:
    """Show what runs, what serves, and what wants attention.

    Exit code 1: the control plane does not answer.
    """
    cli = Cli.of(ctx)
    home = cli.home_directory.absolute()
    found: dict[str, Any] = {"home": str(home), "processes": processes(home), "listens": up_note(home)}
    problem: PilotfishError | None = None
    try:
        with cli.client(timeout_s=5.0) as client:
            found["address"] = client.connection.address
            found |= _ask(client)
    except PilotfishError as error:
        problem = error
        found["error"] = str(error)
    cli.out.one(found, lambda: _show(cli.out, found))
    if problem is not None:
        cli.out.warn(f"the control plane does not answer: {problem.message}")
        cli.out.hint("pilotfish up" if not found["processes"][0]["pid"] else f"see {found['processes'][1]['log']}")
        raise typer.Exit(ERROR)


# Any: the client, which is imported late; and documents.
def _ask(client: Any) -> dict[str, Any]:
    me = client.access.whoami()
    automation = client.lifecycle.automation()
    return {
        "version": me.server_version,
        "principal": me.principal,
        "role": plain(me)["role"],
        "endpoints": [plain(e) for e in client.endpoints.list()],
        "members": [plain(m) for m in client.fleet.members()],
        "jobs": [plain(j) for j in client.pipelines.jobs() if plain(j)["state"] in ("queued", "running")],
        "alerts": [plain(a) for a in client.monitoring.alerts(filter='state = "firing"')],
        "automation": plain(automation),
    }


def _show(out: Output, found: dict[str, Any]) -> None:
    answers = "version" in found
    words = f"control plane {found.get('version')} at {found.get('address')}" if answers else "control plane"
    who = f"   you are {found['principal']} ({found['role']})" if answers else ""
    glyph, style = ("●", "green") if answers else ("✗", "red")
    out.line(f"[{style}]{glyph}[/] [bold]{words}[/][dim]{who}[/]")
    for process in found["processes"]:
        _show_process(out, process)
    if not answers:
        return
    for member in found["members"]:
        if member["kind"] == "node":
            link, seen = member.get("link", ""), age(member.get("seen_time", ""), out.now)
            out.line(
                f"  [{state_style(link)}]{state_glyph(link)}[/] node {member['instance']}  "
                f"[dim]{link}, seen {seen} ago[/]"
            )
    _show_serving(out, found)
    _show_attention(out, found)


def _show_process(out: Output, process: dict[str, Any]) -> None:
    running = bool(process["pid"])
    name = process["name"].replace("_", " ")
    restarts = f", restarted {process['restarts']} ×" if process["restarts"] else ""
    text = f"pid {process['pid']}{restarts}" if running else "not running here"
    glyph = "[green]●[/]" if running else "[dim]○[/]"
    out.line(f"  {glyph} {name:<14} [dim]{text}[/]")


def _show_serving(out: Output, found: dict[str, Any]) -> None:
    rows = [{**d, "address": e.get("address", "")} for e in found["endpoints"] for d in e["deployments"]]
    if not rows:
        out.heading("Nothing is deployed")
        out.hint("pilotfish register model.onnx --model fraud")
        out.hint("pilotfish deploy fraud@1 --stage staging")
        return
    out.heading("Serving")
    columns = [
        Column("ENDPOINT", lambda r: r["endpoint"], "bold"),
        Column("STAGE", lambda r: r["stage"], lambda r: state_style(r["stage"])),
        Column("VERSION", lambda r: f"{r['model']}@{r['version']}"),
        state_column(),
        Column("REPLICAS", lambda r: f"{r['ready_replicas']}/{len(r['replicas'])}", right=True),
        Column("TRAFFIC", lambda r: f"{bar(r['traffic_bp'] / 10000, 8)} {percent(r['traffic_bp'])}"),
        Column("AGE", lambda r: age(r.get("create_time", ""), out.now), "dim", right=True),
    ]
    out.table(rows, columns, indent=2)


def _show_attention(out: Output, found: dict[str, Any]) -> None:
    lines = []
    for alert in found["alerts"]:
        lines.append(f"[red]▲[/] {alert['kind']}  {escape(alert['summary'])}  [dim]{short_name(alert['name'])}[/]")
    for job in found["jobs"]:
        share = f"{job['progress']:.0%}" if job["state"] == "running" else ""
        lines.append(
            f"[cyan]◐[/] job {short_name(job['name'])} of {job['pipeline']}: {job['state']} {job['stage']} {share}"
        )
    for endpoint in found["endpoints"]:
        for mark in endpoint["quarantines"]:
            name = f"{endpoint['model']}@{mark['version']}"
            lines.append(
                f"[yellow]▲[/] {name} is quarantined at {short_name(endpoint['name'])}: {escape(mark['reason'])}"
            )
    lost = [m for m in found["members"] if m.get("link") == "lost"]
    lines += [f"[yellow]▲[/] {m['kind']} {m['instance']} is lost" for m in lost]
    if found["automation"].get("paused"):
        lines.append(f"[yellow]▲[/] automation is paused: {escape(found['automation'].get('reason', ''))}")
    for name in found["automation"].get("paused_endpoints", []):
        lines.append(f"[yellow]▲[/] automation is paused for {name}")
    if lines:
        out.heading("Attention")
        for line in lines:
            out.line(f"  {line}")
