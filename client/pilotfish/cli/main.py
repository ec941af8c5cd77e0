"""`pilotfish`: the commands put together, and how a run of one ends.

Owns the global options, the list of groups, and the step from an exception to what is printed and the exit code.
It loads neither grpc nor protobuf: `pilotfish --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pilotfish.cli import (
    access,
    apply,
    automation,
    browse,
    delivery,
    doctor,
    monitoring,
    registry,
    retirement,
    rollouts,
    status,
    training,
    up,
    watch,
)
from pilotfish.cli.context import Cli, hoist
from pilotfish.cli.failures import ERROR, exit_code, next_steps
from pilotfish.cli.help_page import help_page
from pilotfish.cli.output import FORMATS, Output
from pilotfish.errors import PilotfishError

__all__ = ["app", "main"]

INTERRUPTED = 130


class Root(TyperGroup):
    """The group of all commands; takes the global options wherever they stand."""

    # Any: typer's own context type is not public.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the global options in front, then parse."""
        return super().parse_args(ctx, hoist(args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the overview of all commands."""
        sys.stdout.write(help_page(self, ctx) + "\n")

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error of pilotfish ends it with its exit code."""
        try:
            return super().invoke(ctx)
        except PilotfishError as error:
            raise typer.Exit(_report(error, ctx.obj)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            # A file or directory of the caller's: what the system says of it is all there is to say.
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise typer.Exit(_report(PilotfishError(what), ctx.obj)) from None


app = typer.Typer(
    cls=Root,
    name="pilotfish",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Machine-learning models in production: register, deploy, observe, detect, retrain, promote, retire.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from pilotfish import __version__

        sys.stdout.write(f"pilotfish {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    # These three are looked for in the environment by the client itself, which knows what outdoes what.
    address: Annotated[
        str | None, typer.Option(help="Control plane, host:port. (env PILOTFISH_ADDRESS)", metavar="HOST:PORT")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Bearer token. (env PILOTFISH_TOKEN)", metavar="TEXT")] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="State of the control plane on this machine. (env PILOTFISH_HOME)", metavar="DIRECTORY"),
    ] = None,
    project: Annotated[
        str, typer.Option(help="Of what is named without one.", envvar="PILOTFISH_PROJECT", metavar="NAME")
    ] = "default",
    ca_file: Annotated[
        Path | None, typer.Option(help="Authority of the server's certificate. (env PILOTFISH_CA_FILE)", metavar="FILE")
    ] = None,
    cert_file: Annotated[
        Path | None, typer.Option(help="Your certificate, for mutual TLS. (env PILOTFISH_CERT_FILE)", metavar="FILE")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its key. (env PILOTFISH_KEY_FILE)", metavar="FILE")] = None,
    output: Annotated[
        str,
        typer.Option("-o", "--output", help="table, json, yaml or name.", envvar="PILOTFISH_OUTPUT", metavar="FORM"),
    ] = "table",
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Machine-learning models in production: register, deploy, observe, detect, retrain, promote, retire."""
    if output not in FORMATS:
        raise typer.BadParameter(f"{output!r} is not one of {', '.join(FORMATS)}", param_hint="--output")
    home = home.expanduser() if home else None
    ctx.obj = Cli(address, token, home, project, ca_file, cert_file, key_file, Output(output))


for group in (up, status, doctor, browse, registry, delivery, rollouts, training, monitoring, automation, retirement):
    group.install(app)
for group in (apply, watch, access):
    group.install(app)


@app.command(rich_help_panel="Start here")
def demo(
    seed: Annotated[int, typer.Option(help="Seed of split and order.")] = 0,
    directory: Annotated[Path | None, typer.Option(help="Directory to work in; a temporary one by default.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory behind.")] = False,
) -> None:
    """The whole life of a model, live, on this machine, in a few minutes."""
    # Loaded here: the demo needs scikit-learn, which no other command does.
    from pilotfish.cli.demo.runner import run_demo

    raise typer.Exit(run_demo(seed, base=directory, keep=keep))


def _report(error: PilotfishError, cli: Cli | None) -> int:
    """Write what went wrong, every violation and the next steps; return the exit code."""
    out = Output()
    command = cli.command if cli is not None else ""
    out.stderr.print("✗ ", end="", style="red bold", highlight=False)
    out.stderr.print(error.message, style="bold", markup=False, highlight=False, soft_wrap=True)
    for violation in error.violations:
        field = f"{violation.field}: " if violation.field else ""
        out.stderr.print(f"  • {field}{violation.description}", markup=False, highlight=False, soft_wrap=True)
    steps = list(error.metadata.get("next", "").splitlines()) or next_steps(error, command, _address(cli))
    for step in steps:
        out.hint(step)
    return exit_code(error)


def _address(cli: Cli | None) -> str:
    if cli is None:
        return ""
    from pilotfish.connection import find_connection

    try:
        return find_connection(cli.address, cli.token or "-", home=cli.home).address
    except PilotfishError:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; None: those of this process.
    """
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="pilotfish")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has gone, as `| head` does: nothing more can be written.
        sys.stdout = None  # so that the interpreter does not flush into it
        return ERROR
    return 0
