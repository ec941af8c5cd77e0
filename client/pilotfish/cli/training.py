"""`pilotfish train` and `pilotfish job`: how versions are made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.failures import DONE, ERROR, FAILED
from pilotfish.cli.formats import bar, escape, number, short_name, state_glyph, state_style
from pilotfish.cli.output import Column, Output, Record
from pilotfish.cli.progress import ticker
from pilotfish.cli.verdicts import show_decision
from pilotfish.errors import Unavailable

__all__ = ["install"]

ENDED = ("succeeded", "rejected", "failed", "cancelled", "timed_out")
STAGES = ("start", "load", "quality", "split", "features", "train", "export", "evaluate", "gate", "save", "end")
RECONNECTS = 30
job = typer.Typer(no_args_is_help=True, help="Follow, cancel and repeat jobs.")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Train")(train)
    app.add_typer(job, name="job", rich_help_panel="Train")


def train(
    ctx: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="The pipeline.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the job.")] = "",
    deliver: Annotated[
        str, typer.Option(help="ENDPOINT/STAGE that the new version goes to, such as fraud/canary.")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
) -> None:
    """Start a job of a pipeline; with --watch follow it until it ends.

    Exit code with --watch 3: the gate refused the model; 1: the job broke.
    """
    cli = Cli.of(ctx)
    delivery = None
    if deliver:
        endpoint, _, stage = deliver.partition("/")
        delivery = {"endpoint": endpoint, "stage": stage or "staging"}
    with cli.client() as client:
        record = plain(client.pipelines.trigger(pipeline, reason=reason, delivery=delivery))
        if watch:
            record = follow_job(cli.out, client, record)
    _finish(cli, record, watch)


def _finish(cli: Cli, record: Record, watched: bool) -> None:
    name = short_name(record["name"])
    if not watched:
        cli.out.one(
            record, lambda: cli.out.done(f"job [bold]{name}[/] of {record['pipeline']} is {record['state']}"), name
        )
        cli.out.hint(f"pilotfish job watch {name}")
        return
    cli.out.one(record, lambda: show_job(cli.out, record), name)
    if record["state"] in ENDED:
        raise typer.Exit({"succeeded": DONE, "rejected": FAILED}.get(record["state"], ERROR))


# Any: the client, which is imported late.
def follow_job(out: Output, client: Any, record: Record) -> Record:
    """Show a job's progress until it ends, over restarts of the control plane too; return it."""
    seen = 0
    name = record["name"]
    failures = 0
    with ticker(out, f"job {short_name(name)}") as shown:
        while record["state"] not in ENDED:
            try:
                for answer in client.pipelines.watch(name, after_sequence=seen):
                    record, failures = plain(answer.job), 0
                    if answer.HasField("progress"):
                        seen = max(seen, answer.progress.sequence)
                        _tell(shown, plain(answer.progress), record)
            except Unavailable:
                failures += 1
                if failures > RECONNECTS:
                    raise
                shown.now("[yellow]the control plane is away; waiting for it[/]")
                _pause()
    return record


def _pause() -> None:
    import time

    time.sleep(1.0)


def _tell(shown: Any, line: Record, record: Record) -> None:
    done = STAGES.index(line["stage"]) if line["stage"] in STAGES else 0
    share = (done + line["progress"]) / len(STAGES)
    metrics = "  ".join(f"{k} {number(v)}" for k, v in list(line["metrics"].items())[:4])
    shown.now(f"[cyan]{bar(share, 20)}[/] {line['stage']} {line['progress']:.0%}  [dim]{escape(line['message'])}[/]")
    if line["message"] or metrics:
        attempt = f" [yellow](attempt {record['attempt']})[/]" if record["attempt"] > 1 else ""
        shown.step(f"[cyan]{line['stage']:<9}[/]{attempt} {escape(line['message'])}  [dim]{escape(metrics)}[/]")


def show_job(out: Output, record: Record) -> None:
    """Write how a job ended: what it made, its metrics beside the champion's, the gate's judgement, its findings."""
    state, version = record["state"], record["version"]
    made = f"  made version [bold]@{version}[/]" if version and state == "succeeded" else ""
    job_name = f"job {short_name(record['name'])} of {record['pipeline']}"
    out.line(f"[{state_style(state)} bold]{state_glyph(state)} {state}[/]  {job_name}{made}")
    if record["state_reason"]:
        out.line(f"  [dim]{escape(record['state_reason'])}[/]")
    if record["metrics"]:
        champion = record["champion_metrics"]
        rows = [{"metric": k, "value": v, "champion": champion.get(k)} for k, v in sorted(record["metrics"].items())]
        columns = [
            Column("METRIC", lambda r: r["metric"]),
            Column("VALUE", lambda r: number(r["value"]), "bold", right=True),
        ]
        if champion:
            header = f"CHAMPION @{record['champion_version']}"
            columns.append(Column(header, lambda r: number(r["champion"]), "dim", right=True))
        out.heading("On the test split")
        out.table(rows, columns, indent=2)
    if record.get("gate"):
        out.heading("Gate")
        show_decision(out, record["gate"])
    if record["issues"]:
        out.heading("Findings about the data")
        columns = [
            Column("", lambda r: r["severity"], lambda r: "red" if r["severity"] == "error" else "yellow"),
            Column("CHECK", lambda r: r["check"]),
            Column("COLUMN", lambda r: r["column"], "bold"),
            Column("FOUND", lambda r: r["message"], wide=True),
        ]
        out.table(record["issues"], columns, indent=2)


Job = Annotated[str, typer.Argument(help="The job's id or full name.")]


@job.command()
def watch(ctx: typer.Context, name: Job) -> None:
    """Follow a job until it ends.

    Exit code 3: the gate refused the model; 1: the job broke.
    """
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = follow_job(cli.out, client, plain(client.pipelines.job(name)))
    _finish(cli, record, True)


@job.command()
def cancel(ctx: typer.Context, name: Job, reason: Annotated[str, typer.Option(help="Why.")] = "") -> None:
    """Cancel a job."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.pipelines.cancel(name, reason=reason))
    cli.out.one(record, lambda: cli.out.done(f"job {short_name(record['name'])} is {record['state']}"), name)


@job.command()
def retry(
    ctx: typer.Context,
    name: Job,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
) -> None:
    """Run a failed, cancelled or timed-out job again under the same id."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.pipelines.retry(name))
        if watch:
            record = follow_job(cli.out, client, record)
    _finish(cli, record, watch)
