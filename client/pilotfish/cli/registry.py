"""`pilotfish register`, `download`, `alias`, `status of a version`: models and versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.formats import bytes_text, number
from pilotfish.cli.output import Output
from pilotfish.errors import InvalidArgument, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install", "pairs"]

PANEL = "Register"


def install(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (register, download, alias, set_status):
        app.command(name=command.__name__.replace("_", "-"), rich_help_panel=PANEL)(command)


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Return NAME=VALUE options as a mapping.

    Raises:
        InvalidArgument: one or more have no "="; names each.
    """
    wrong = [t for t in texts or [] if "=" not in t]
    if wrong:
        raise InvalidArgument(
            f"{option} takes NAME=VALUE", violations=[Violation(option, f"{t!r} has no '='") for t in wrong]
        )
    return {k.strip(): v.strip() for k, _, v in (t.partition("=") for t in texts or [])}


def _numbers(texts: list[str] | None, option: str) -> dict[str, float]:
    found, wrong = {}, []
    for name, text in pairs(texts, option).items():
        try:
            found[name] = float(text)
        except ValueError:
            wrong.append(Violation(option, f"{name}={text!r} is no number"))
    if wrong:
        raise InvalidArgument(f"{option} takes NAME=NUMBER", violations=wrong)
    return found


# Any: hyperparameters are any JSON.
def _json_values(texts: list[str] | None, option: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in pairs(texts, option).items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def register(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a directory with model.onnx and what belongs to it.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model; created when it is new.")],
    label: Annotated[str, typer.Option(help="Free label such as 2.1.0, unique within the model.")] = "",
    description: Annotated[str, typer.Option(help="What is new in it.")] = "",
    alias: Annotated[list[str] | None, typer.Option(help="Point this alias at it; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER, as measured in training; repeatable.")] = None,
    hyperparameter: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    data_hash: Annotated[str, typer.Option(help="SHA-256 of the training data, hex.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Upload and validate, register nothing.")] = False,
) -> None:
    """Upload an artifact, have it validated, and register it as a new version."""
    cli = Cli.of(ctx)
    tags, metrics = pairs(tag, "--tag"), _numbers(metric, "--metric")
    with cli.client() as client, _upload_bar(cli.out, path) as progress:
        version = client.models.register(
            path,
            model=model,
            label=label,
            description=description,
            aliases=alias or (),
            hyperparameters=_json_values(hyperparameter, "--hyperparameter"),
            training_data_hash=data_hash,
            validate_only=dry_run,
            tags=tags,
            metrics=metrics,
            progress=progress,
        )
        record = plain(version)
    ref = f"{record['model']}@{record['number']}"
    if dry_run:
        cli.out.one(record, lambda: cli.out.done(f"{path} is valid; nothing was registered"), model)
        return
    size, inputs = bytes_text(record["artifact_size_bytes"]), _inputs(record)
    text = f"[bold]{ref}[/] is registered  [dim]{record['framework']}, {size}, {inputs}, status {record['status']}[/]"
    cli.out.one(record, lambda: cli.out.done(text), ref)
    cli.out.hint(f"pilotfish deploy {ref} --stage staging")


def _inputs(record: dict[str, Any]) -> str:
    tensors = record.get("signature", {}).get("inputs", [])
    names = record.get("signature", {}).get("feature_names", [])
    count = len(names) if names else len(tensors)
    return f"{number(count)} {'features' if names else 'inputs'}"


@contextmanager
def _upload_bar(out: Output, path: Path) -> Iterator[Callable[[int, int], None] | None]:
    """Draw a bar while bytes go up, and say that validation runs after them."""
    if not out.is_live:
        out.note(f"uploading {path}")
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=out.stderr, transient=True) as drawn:
        task = drawn.add_task(f"uploading {path.name}", total=None)

        def progress(sent: int, total: int) -> None:
            words = f"uploading {path.name}" if sent < total else "validating"
            drawn.update(task, completed=sent, total=total, description=words)

        yield progress


def download(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(help="Version: fraud@3, fraud@champion, or fraud for the latest.")],
    directory: Annotated[Path, typer.Argument(help="Where its files go; created when it is new.")],
) -> None:
    """Write the files of a version into a directory."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        target = client.models.download(ref, directory)
    files = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    cli.out.one({"directory": str(target), "files": files}, lambda: cli.out.done(f"{ref} is in {target}"), str(target))


def alias(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="The model.")],
    name: Annotated[str, typer.Argument(help="The alias, such as champion.")],
    version: Annotated[str, typer.Argument(help="Number or label it points at; unset: it is removed.")] = "",
) -> None:
    """Point an alias at a version, moving it if it exists; without a version remove it."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        if version:
            record = plain(client.models.set_alias(model, name, version.rpartition("@")[2]))
        else:
            record = plain(client.models.delete_alias(model, name))
    number_now = record["aliases"].get(name)
    text = f"{model}@{name} is {model}@{number_now}" if number_now else f"{model} has no alias {name} any more"
    cli.out.one(record, lambda: cli.out.done(text), model)


def set_status(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(help="Version, such as fraud@3.")],
    status: Annotated[str, typer.Argument(help="Such as deprecated or archived.")],
    reason: Annotated[str, typer.Option(help="Why; kept in its history.")] = "",
) -> None:
    """Move a version along an allowed transition, such as to deprecated."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.models.set_status(ref, status, reason=reason))
    name = f"{record['model']}@{record['number']}"
    cli.out.one(record, lambda: cli.out.done(f"{name} is {record['status']}"), name)
