"""`pilotfish get` and `pilotfish describe`: everything there is, as lists and one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.detail import show_record
from pilotfish.cli.kinds import Kind, Question, find_kind, name_of
from pilotfish.cli.output import Output, Record
from pilotfish.cli.retirement import show_plan
from pilotfish.cli.rollouts import show_rollout
from pilotfish.cli.training import show_job
from pilotfish.errors import NotFound

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pilotfish import Client

__all__ = ["install"]

VIEWS = {"rollout": show_rollout, "retirement": show_plan, "job": show_job}
KIND_HELP = (
    "models, versions, endpoints, deployments, replicas, rollouts, pipelines, jobs, operations, features, rules, "
)
KIND_HELP += "firings, alerts, retirements, runs, members or tokens."


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Look")(get)
    app.command(rich_help_panel="Look")(describe)


def get(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help=KIND_HELP)],
    name: Annotated[
        str,
        typer.Argument(help="One of them, or what they belong to: a model for versions, an endpoint for deployments."),
    ] = "",
    filter: Annotated[
        str, typer.Option("--filter", help='Such as \'status = "staging" AND tags.team = "risk"\'.')
    ] = "",
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended and resolved ones too.")] = False,
) -> None:
    """List what there is, or show one in a line."""
    cli = Cli.of(ctx)
    wanted = find_kind(kind)
    with cli.client() as client:
        if name and not (wanted.is_parent(name) and kind != wanted.singular):
            record = plain(wanted.one(client, name))
            record = record.get("run", record)
            cli.out.one(record, lambda: cli.out.table([record], wanted.columns(cli.out.now)), name_of(record))
            return
        try:
            rows = [plain(m) for m in wanted.rows(client, Question(name, filter, everything))]
        except NotFound:
            # No parent is called so; perhaps one of the kind itself is, such as a job by its id.
            if not name:
                raise
            rows = [plain(m) for m in [_one(client, wanted, name)] if m is not None]
            if not rows:
                raise
    within = f" of {name}" if name else ""
    none = f"no {wanted.plural}{within}" + ("" if everything or filter else _also(wanted.plural))
    cli.out.records(rows, wanted.columns(cli.out.now), name_of, none=none)


def _one(client: Client, kind: Kind, name: str) -> Message | None:
    try:
        return kind.one(client, name)
    except NotFound:
        return None


def _also(plural: str) -> str:
    return " (--all shows ended ones)" if plural in ("deployments", "replicas", "alerts", "operations") else ""


def describe(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help=KIND_HELP)],
    name: Annotated[str, typer.Argument(help="Such as fraud, fraud@3, fraud@champion or fraud/staging.")],
) -> None:
    """Show everything about one thing."""
    cli = Cli.of(ctx)
    wanted = find_kind(kind)
    with cli.client() as client:
        record = plain(wanted.one(client, name))
        if wanted.plural == "models":
            record["versions"] = [plain(v) for v in client.models.versions(name)]
        if wanted.plural == "deployments":
            record["metrics"] = _metrics(client, str(record["name"]))
        if wanted.plural in ("models", "versions"):
            record["changes"] = [plain(c) for c in client.models.changes(name)]
    record = {**record.pop("run"), **record} if "run" in record else record
    cli.out.one(record, lambda: _show(cli.out, wanted.singular, record), name_of(record))


def _show(out: Output, kind: str, record: Record) -> None:
    """Write a record by the layout of its kind, else by the one for all."""
    if kind in VIEWS:
        VIEWS[kind](out, record)
    else:
        show_record(out, kind, record)


def _metrics(client: Client, name: str) -> list[Record]:
    try:
        return [plain(m) for m in client.monitoring.metrics(name)]
    except NotFound:
        return []
