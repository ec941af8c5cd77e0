"""What every command has: where the control plane is, and where the output goes.

Owns the global options and the opening of the client. The client is imported when a command first needs it, so
that `pilotfish --help` loads neither grpc nor protobuf.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotfish.cli.output import FORMATS, Output

if TYPE_CHECKING:
    import typer
    from google.protobuf.message import Message

    from pilotfish import Client

__all__ = ["GLOBAL_OPTIONS", "Cli", "hoist", "plain"]

# Global options that take a value; they may stand anywhere on the command line.
GLOBAL_OPTIONS = (
    "--address",
    "--token",
    "--home",
    "--project",
    "--ca-file",
    "--cert-file",
    "--key-file",
    "--output",
    "-o",
)
SHORT_FORMS = tuple(f"-o{form}" for form in FORMATS)


@dataclass(slots=True)
class Cli:
    """The global options of one command."""

    address: str | None = None
    token: str | None = None
    home: Path | None = None
    project: str = "default"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    out: Output = field(default_factory=Output)
    command: str = ""

    @staticmethod
    def of(ctx: typer.Context) -> Cli:
        """Return the options of the command that runs."""
        found: Cli = ctx.obj
        found.command = " ".join(ctx.command_path.split(" ")[1:])
        return found

    @property
    def home_directory(self) -> Path:
        """The home on this machine, given or by default."""
        from pilotfish.connection import default_home

        return self.home if self.home is not None else default_home()

    @contextlib.contextmanager
    def client(self, *, timeout_s: float = 30.0) -> Iterator[Client]:
        """Open a client for as long as the block lasts.

        Raises:
            Unauthenticated: there is no token anywhere.
        """
        client = connect(self, timeout_s=timeout_s)
        try:
            yield client
        finally:
            client.close()


def connect(cli: Cli, *, timeout_s: float) -> Client:
    """Return a client for the options of a command."""
    from pilotfish.blocking.client import Client

    return Client(
        cli.address,
        cli.token,
        home=cli.home,
        project=cli.project,
        timeout_s=timeout_s,
        ca_file=cli.ca_file,
        cert_file=cli.cert_file,
        key_file=cli.key_file,
    )


# Any: plain values.
def plain(message: Message) -> dict[str, Any]:
    """Return a message as plain values in the contract's names, zeros and empty lists included."""
    from pilotfish import messages

    return messages.plain(message, complete=True)


def hoist(arguments: list[str]) -> list[str]:
    """Return the arguments with the global options in front, wherever they stood."""
    front: list[str] = []
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        if item == "--":
            rest += [item, *items]
        elif item in GLOBAL_OPTIONS:
            front += [item, *(value for value in [next(items, None)] if value is not None)]
        elif item.partition("=")[0] in GLOBAL_OPTIONS or item in SHORT_FORMS:
            front.append(item)
        else:
            rest.append(item)
    return front + rest
