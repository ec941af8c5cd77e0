"""`pilotfish token`, `whoami`, `audit`, `version`: who may do what, who did what, and what runs."""

from __future__ import annotations

import platform
import sys
from typing import Annotated

import typer

from pilotfish.cli.columns import COLUMNS
from pilotfish.cli.context import Cli, plain
from pilotfish.cli.failures import ERROR
from pilotfish.cli.formats import age, ref, short_name
from pilotfish.cli.output import Column
from pilotfish.cli.spans import parse_span
from pilotfish.errors import PilotfishError

__all__ = ["install"]

PANEL = "Administer"
token = typer.Typer(no_args_is_help=True, help="Make, list and revoke tokens.")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(token, name="token", rich_help_panel=PANEL)
    for command in (audit, version):
        app.command(rich_help_panel=PANEL)(command)


@token.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who it is for, such as ci or alice.")],
    role: Annotated[str, typer.Option(help="viewer, editor, deployer, admin or sidecar.")] = "viewer",
    lifetime: Annotated[str, typer.Option(help="How long it lives, such as 90d; unset: for ever.")] = "",
) -> None:
    """Make a token; its text is written to stdout, this once."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        secret = client.access.create_token(name, role, lifetime_s=parse_span(lifetime) if lifetime else 0.0)
    record = {"name": name, "role": role, "token": secret}
    cli.out.one(record, lambda: _write(secret), secret)
    cli.out.note(f"token {name} has the role {role}; its text cannot be shown again")
    cli.out.hint("export PILOTFISH_TOKEN=…")


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@token.command(name="list")
def list_tokens(ctx: typer.Context) -> None:
    """List tokens, without their text."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        rows = [plain(t) for t in client.access.tokens()]
    cli.out.records(rows, COLUMNS["tokens"](cli.out.now), lambda r: str(r["name"]), none="no token")


@token.command()
def revoke(ctx: typer.Context, name: Annotated[str, typer.Argument(help="The token.")]) -> None:
    """Revoke a token; open streams under it end."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.access.revoke_token(name))
    cli.out.one(record, lambda: cli.out.done(f"token [bold]{name}[/] is revoked"), name)


def audit(
    ctx: typer.Context,
    filter: Annotated[str, typer.Option("--filter", help="Such as 'actor = \"admin\"'.")] = "",
    limit: Annotated[int, typer.Option(help="How many entries.", min=1, max=1000)] = 50,
    verify: Annotated[bool, typer.Option("--verify", help="Check the seals instead.")] = False,
) -> None:
    """Show who changed what, newest first; with --verify check the seals."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        if verify:
            record = plain(client.access.verify_audit())
            words = f"{record['sealed']} entries are sealed, {record['unsealed']} are not yet"
            bad = f"[red]✗[/] the seal of entry {record['first_broken']} does not hold"
            cli.out.one(record, lambda: cli.out.done(words) if record["intact"] else cli.out.line(bad))
            if not record["intact"]:
                raise typer.Exit(ERROR)
            return
        rows = [plain(e) for e in client.access.audit(filter=filter, limit=limit)]
    columns = [
        Column("", lambda r: str(r["sequence"]), "dim", right=True),
        Column("AGO", lambda r: age(r.get("time", ""), cli.out.now), "dim", right=True),
        Column("WHO", lambda r: r["actor"], "bold"),
        Column("WHAT", lambda r: short_name(r["method"])),
        Column("RESOURCE", lambda r: ref(r["resource"]) if r["resource"].startswith("projects/") else r["resource"]),
        Column("SEALED", lambda r: "●" if r["sealed"] else "○", "dim"),
    ]
    cli.out.records(rows, columns, lambda r: str(r["sequence"]), none="nothing was changed yet")


def version(ctx: typer.Context) -> None:
    """Show the versions of this command line and of the control plane."""
    from pilotfish import __version__

    cli = Cli.of(ctx)
    record = {"client": __version__, "python": platform.python_version(), "server": ""}
    try:
        with cli.client(timeout_s=3.0) as client:
            record["server"] = client.access.whoami().server_version
            record["address"] = client.connection.address
    except PilotfishError:
        record["server"] = ""
    server = f"{record['server']}  [dim]at {record.get('address')}[/]" if record["server"] else "[dim]not reachable[/]"

    def show() -> None:
        cli.out.line(f"pilotfish      {record['client']}  [dim]Python {record['python']}[/]")
        cli.out.line(f"control plane  {server}")

    cli.out.one(record, show, __version__)
