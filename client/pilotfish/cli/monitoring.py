"""`pilotfish predict`, `truth`, `metrics`, `drift`, `report`, `alerts`, `alert`: what is served, and how well."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotfish.cli.columns import COLUMNS
from pilotfish.cli.context import Cli, plain
from pilotfish.cli.formats import age, escape, number, short_name, state_glyph, state_style
from pilotfish.cli.kinds import name_of
from pilotfish.cli.output import Column, Output, Record
from pilotfish.cli.rows import choose, read_columns, split_truths
from pilotfish.cli.spans import parse_span, parse_when
from pilotfish.errors import InvalidArgument

if TYPE_CHECKING:
    from pilotfish.inference import Predictions

__all__ = ["install"]

PANEL = "Observe"
SHOWN_ROWS = 20
alert = typer.Typer(no_args_is_help=True, help="Take care of an alert, or silence it.")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (predict, truth, metrics, drift, report, alerts):
        app.command(rich_help_panel=PANEL)(command)
    app.add_typer(alert, name="alert", rich_help_panel=PANEL)


def predict(
    ctx: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="CSV with a header, or JSON; - is standard input.")],
    stage: Annotated[str, typer.Option(help="Past the weights, to the deployment of a stage.")] = "",
    version: Annotated[int, typer.Option(help="Past the weights, to the deployment of a version.")] = 0,
    id_column: Annotated[str, typer.Option(help="Column with prediction ids; unset: new ones.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="Feature column, in order; repeatable.")] = None,
    batch: Annotated[int, typer.Option(help="Rows per call.", min=1)] = 1,
) -> None:
    """Predict every row of a file through the gateway."""
    cli = Cli.of(ctx)
    columns = read_columns(file)
    ids = [str(i) for i in choose(columns, [id_column])[id_column]] if id_column else None
    columns.pop(id_column, None)
    with cli.client() as client:
        names = column or _feature_names(client, endpoint, stage, version)
        if column or (names and set(names) <= set(columns)):
            columns = choose(columns, names)
        answer = client.endpoint(endpoint, stage=stage, version=version).predict(columns, ids=ids, batch_size=batch)
    record = _answer(answer)
    cli.out.one(record, lambda: _show_answer(cli.out, record), "\n".join(answer.ids))
    cli.out.hint(f"pilotfish truth {endpoint} --file truths.csv     when the true values are known")


# Any: the client, which is imported late.
def _feature_names(client: Any, endpoint: str, stage: str, version: int) -> list[str]:
    """Return the columns of the matrix that a model takes; empty: each input has a name of its own."""
    deployments = [plain(d) for d in client.endpoints.get(endpoint).deployments]
    if stage or version:
        deployments = [d for d in deployments if stage in ("", d["stage"]) and version in (0, d["version"])]
    if not deployments:
        return []
    aimed = max(deployments, key=lambda d: d["traffic_bp"])
    found = plain(client.models.version(f"{aimed['model']}@{aimed['version']}"))
    return list(found.get("signature", {}).get("feature_names", []))


def _answer(answer: Predictions) -> Record:
    outputs = {name: values.tolist() for name, values in answer.outputs.items()}
    rows = [{"id": pid, **{n: v[i] for n, v in outputs.items()}} for i, pid in enumerate(answer.ids)]
    return {"version": answer.version, "deployment": answer.deployment, "predictions": rows}


def _show_answer(out: Output, record: Record) -> None:
    rows = record["predictions"]
    names = [n for n in rows[0] if n != "id"] if rows else []

    def cell(name: str) -> Column:
        def text(row: Record) -> str:
            value = row[name]
            return "  ".join(number(v) for v in value) if isinstance(value, list) else number(value)

        return Column(name.upper(), text, right=True)

    shown = rows[:SHOWN_ROWS] if out.stdout.is_terminal else rows
    out.table(shown, [Column("PREDICTION ID", lambda r: r["id"], "dim"), *(cell(n) for n in names)])
    more = f", the first {len(shown)} shown" if len(shown) < len(rows) else ""
    out.line(f"[dim]{len(rows)} rows{more}; the last was answered by version @{record['version']}[/]")


def truth(
    ctx: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="The endpoint, or ENDPOINT/STAGE.")],
    values: Annotated[list[str] | None, typer.Argument(help="ID=VALUE pairs.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="CSV or JSON with ids and true values.")] = None,
    id_column: Annotated[str, typer.Option(help="Unset: the first column.")] = "",
    truth_column: Annotated[str, typer.Option(help="Unset: the second column.")] = "",
) -> None:
    """Log true values by prediction id; they may come days after the predictions."""
    cli = Cli.of(ctx)
    if bool(values) == (file is not None):
        raise typer.BadParameter("give ID=VALUE pairs, or --file")
    if file is not None:
        ids, truths = split_truths(read_columns(file), id_column, truth_column)
    else:
        pairs = [v.rpartition("=") for v in values or []]
        if not all(key for key, _, _ in pairs):
            raise InvalidArgument("true values are given as ID=VALUE")
        columns: dict[str, list[Any]] = {
            "id": [k for k, _, _ in pairs],
            "truth": [_number_or_text(v) for _, _, v in pairs],
        }
        ids, truths = split_truths(columns, "", "")
    with cli.client() as client:
        stored = client.monitoring.log_truth(ids, truths, scope=endpoint)
    cli.out.one(
        {"stored": stored}, lambda: cli.out.done(f"{stored} true values are stored for {endpoint}"), str(stored)
    )


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def metrics(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="An endpoint, or ENDPOINT/STAGE.")],
    last: Annotated[str, typer.Option(help="How far back, such as 15m, 6h or 7d.")] = "1h",
) -> None:
    """Show live numbers: calls, errors, latency, quality where truth is known, drift."""
    cli = Cli.of(ctx)
    start = cli.out.now - timedelta(seconds=parse_span(last))
    with cli.client() as client:
        rows = [plain(m) for m in client.monitoring.metrics(name, start=start)]

    columns = COLUMNS["metrics"](cli.out.now)
    cli.out.records(rows, columns, lambda r: str(r["deployment"]), none=f"nothing was measured of {name} in {last}")


def drift(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="An endpoint, or ENDPOINT/STAGE.")],
    drifted: Annotated[bool, typer.Option("--drifted", help="Only windows that drifted.")] = False,
    limit: Annotated[int, typer.Option(help="How many windows.")] = 20,
) -> None:
    """Show the newest drift verdicts, window by window."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        rows = [plain(v) for v in client.monitoring.drift(name, drifted_only=drifted, limit=limit)]

    def worst(record: Record) -> str:
        found = [f for f in record["features"] if f["drifted"]] or record["features"][:1]
        return ", ".join(f"{f['feature']} {number(f['score'], 3)}" for f in found[:3])

    columns = [
        Column("CLOSED", lambda r: age(r.get("end_time", ""), cli.out.now), "dim", right=True),
        Column(
            "VERDICT",
            lambda r: "✗ drifted" if r["drifted"] else ("– " + r["reason"] if r["reason"] else "● none"),
            lambda r: "red" if r["drifted"] else ("dim" if r["reason"] else "green"),
        ),
        Column("METHOD", lambda r: r["method"], "dim"),
        Column("SCORE", lambda r: number(r["score"], 3), right=True),
        Column("THRESHOLD", lambda r: number(r["threshold"], 3), "dim", right=True),
        Column("ROWS", lambda r: number(r["n"]), right=True),
        Column("FEATURES", worst, wide=True),
        Column("EPISODE", lambda r: r["episode"], "dim"),
    ]
    cli.out.records(rows, columns, lambda r: str(r["window"]), none=f"no window of {name} has closed yet")


def report(
    ctx: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
    days: Annotated[float, typer.Option(help="How far back.", min=0.01)] = 7.0,
) -> None:
    """Show how an endpoint did over days, and what to do."""
    from pilotfish.cli.report_view import show_report

    cli = Cli.of(ctx)
    end = cli.out.now
    with cli.client() as client:
        found = client.monitoring.report(endpoint, start=end - timedelta(days=days), end=end)
    cli.out.one(found, lambda: show_report(cli.out, found), endpoint)


def alerts(
    ctx: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="Of one endpoint only.")] = "",
    everything: Annotated[bool, typer.Option("--all", "-a", help="Resolved ones too.")] = False,
) -> None:
    """List alerts, newest first."""
    cli = Cli.of(ctx)
    parts = [] if everything else ['state != "resolved"']
    parts += [f'endpoint = "{endpoint}"'] if endpoint else []
    with cli.client() as client:
        rows = [plain(a) for a in client.monitoring.alerts(filter=" AND ".join(parts))]
    none = "no alert" if everything else "no alert is open (--all shows resolved ones)"
    cli.out.records(rows, COLUMNS["alerts"](cli.out.now), name_of, none=none)


def _full(cli: Cli, name: str) -> str:
    return name if "/" in name else f"projects/{cli.project}/alerts/{name}"


def _say(cli: Cli, record: Record, done: str) -> None:
    state = record["state"]
    line = f"alert [bold]{short_name(record['name'])}[/] {done}: {escape(record['summary'])}"
    mark = f"  [{state_style(state)}]{state_glyph(state)} {state}[/]"
    cli.out.one(record, lambda: cli.out.done(line + mark), short_name(record["name"]))


@alert.command()
def ack(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The alert.")],
    note: Annotated[str, typer.Option(help="What you know or do.")] = "",
) -> None:
    """Say that you take care of an alert."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.monitoring.acknowledge(_full(cli, name), note=note))
    _say(cli, record, f"is taken by {record['acknowledged_by']}")


@alert.command()
def silence(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The alert.")],
    until: Annotated[str, typer.Option(help="A time, or a span such as 2h or 1d.")] = "1h",
) -> None:
    """Tell nobody about an alert again before a time."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.monitoring.silence(_full(cli, name), parse_when(until, cli.out.now)))
    _say(cli, record, f"is silent until {record.get('silenced_until', '')[:16].replace('T', ' ')} UTC")
