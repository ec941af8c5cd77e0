"""`pilotfish automation` and `pilotfish rule`: the kill switch, and rules switched on and off."""

from __future__ import annotations

from typing import Annotated

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.formats import escape, short_name
from pilotfish.cli.output import Record

__all__ = ["install"]

PANEL = "Automate"
automation = typer.Typer(no_args_is_help=True, help="Pause and resume everything that acts by itself.")
rule = typer.Typer(no_args_is_help=True, help="Switch rules on and off, or delete them.")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(automation, name="automation", rich_help_panel=PANEL)
    app.add_typer(rule, name="rule", rich_help_panel=PANEL)


def _show(cli: Cli) -> None:
    with cli.client() as client:
        record = plain(client.lifecycle.automation())
        rules = [plain(r) for r in client.lifecycle.rules()]
    record["rules"] = [
        {"name": short_name(r["name"]), "enabled": r.get("enabled", True), "actions": [a["type"] for a in r["actions"]]}
        for r in rules
    ]
    cli.out.one(record, lambda: _tell(cli, record), "paused" if record["paused"] else "on")


def _tell(cli: Cli, record: Record) -> None:
    if record["paused"]:
        cli.out.line(f"[yellow]▲[/] automation is [bold]paused[/]  [dim]{escape(record.get('reason', ''))}[/]")
    else:
        cli.out.line("[green]●[/] automation is [bold]on[/]")
    for endpoint in record["paused_endpoints"]:
        cli.out.line(f"  [yellow]▲[/] paused for {endpoint}")
    for one in record["rules"]:
        sign = "[green]●[/]" if one["enabled"] else "[dim]○[/]"
        off = "" if one["enabled"] else "  [dim]off[/]"
        cli.out.line(f"  {sign} rule {one['name']}  [dim]{', '.join(one['actions'])}[/]{off}")


@automation.command()
def status(ctx: typer.Context) -> None:
    """Show whether automation acts, where it is paused, and its rules."""
    _show(Cli.of(ctx))


@automation.command()
def pause(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option(help="Why; shown to everybody who asks.")],
    endpoint: Annotated[str, typer.Option(help="Only for this endpoint.")] = "",
) -> None:
    """Let nothing act by itself until it is resumed: no rule, no rollout, no retirement."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        client.lifecycle.pause(reason, endpoint=endpoint)
    _show(cli)


@automation.command()
def resume(ctx: typer.Context, endpoint: Annotated[str, typer.Option(help="Only for this endpoint.")] = "") -> None:
    """Let automation act again."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        client.lifecycle.resume(endpoint=endpoint)
    _show(cli)


Rule = Annotated[str, typer.Argument(help="The rule.")]


def _switch(ctx: typer.Context, name: str, enabled: bool) -> None:
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.lifecycle.update_rule(name, enabled=enabled))
    cli.out.one(record, lambda: cli.out.done(f"rule [bold]{name}[/] is {'on' if enabled else 'off'}"), name)


@rule.command()
def enable(ctx: typer.Context, name: Rule) -> None:
    """Switch a rule on."""
    _switch(ctx, name, True)


@rule.command()
def disable(ctx: typer.Context, name: Rule) -> None:
    """Switch a rule off."""
    _switch(ctx, name, False)


@rule.command()
def delete(ctx: typer.Context, name: Rule) -> None:
    """Delete a rule; its firings stay."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        client.lifecycle.delete_rule(name)
    cli.out.one({"name": name, "deleted": True}, lambda: cli.out.done(f"rule [bold]{name}[/] is deleted"), name)
