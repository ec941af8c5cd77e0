"""`pilotfish traffic` and `pilotfish rollout`: who gets which share of the calls, and the way there."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.failures import ERROR
from pilotfish.cli.formats import (
    age,
    bar,
    criterion,
    duration,
    escape,
    number,
    percent,
    short_name,
    state_glyph,
    state_style,
)
from pilotfish.cli.output import Column, Output, Record
from pilotfish.cli.progress import ticker
from pilotfish.cli.verdicts import show_decision
from pilotfish.errors import InvalidArgument, Violation

__all__ = ["install", "parse_weights"]

ENDED = ("succeeded", "aborted")
rollout = typer.Typer(no_args_is_help=True, help="Follow and steer the rollout of an endpoint.")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Deliver")(traffic)
    app.add_typer(rollout, name="rollout", rich_help_panel="Deliver")


def parse_weights(texts: list[str]) -> dict[str, int]:
    """Return WHO=PERCENT pairs in basis points; they must make 100 %.

    Raises:
        InvalidArgument: names every share that is no percentage, and the wrong sum.
    """
    found: dict[str, int] = {}
    wrong = []
    for text in texts:
        who, equals, share = text.partition("=")
        try:
            exact = float(share.strip().removesuffix("%")) * 100
            good = bool(equals and who.strip()) and 0 <= exact <= 10_000 and abs(exact - round(exact)) < 1e-6
        except ValueError:
            exact, good = 0.0, False
        if good:
            found[who.strip()] = round(exact)
        else:
            wrong.append(Violation(who or text, f"{text!r}: write WHO=PERCENT, 0 to 100 with at most two decimals"))
    if not wrong and found and sum(found.values()) != 10_000:
        wrong.append(Violation("weights", f"they make {percent(sum(found.values()))}, and must make 100 %"))
    if wrong:
        raise InvalidArgument("these weights cannot be used", violations=wrong)
    return found


def traffic(
    ctx: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="The endpoint.")],
    weights: Annotated[
        list[str] | None, typer.Argument(help="WHO=PERCENT by stage or deployment, such as canary=10 production=90.")
    ] = None,
    shadow: Annotated[
        list[str] | None, typer.Option(help="DEPLOYMENT=PERCENT of the calls that it gets a copy of; repeatable.")
    ] = None,
    sticky: Annotated[str, typer.Option(help="Header whose value keeps a caller on one deployment.")] = "",
) -> None:
    """Show who gets which share of an endpoint's calls, or set it."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        found = client.endpoints.get(endpoint)
        if weights or shadow:
            shares = parse_weights(weights or [])
            if not shares:
                shares = {w.deployment: w.weight_bp for w in found.routes.weights}
            routes = client.endpoints.set_traffic(
                endpoint,
                shares,
                shadows={k: round(float(v) * 100) for k, v in _shadows(shadow).items()},
                sticky_header=sticky,
                etag=found.routes.etag,
            )
            found.routes.CopyFrom(routes)
        record = plain(found)
    cli.out.one(record, lambda: _show_traffic(cli.out, record), endpoint)


def _shadows(texts: list[str] | None) -> dict[str, str]:
    wrong = [t for t in texts or [] if not t.partition("=")[2].removesuffix("%").replace(".", "", 1).isdigit()]
    if wrong:
        raise InvalidArgument(
            "--shadow takes DEPLOYMENT=PERCENT", violations=[Violation("--shadow", f"{t!r}") for t in wrong]
        )
    return {t.partition("=")[0]: t.partition("=")[2].removesuffix("%") for t in texts or []}


def _show_traffic(out: Output, endpoint: Record) -> None:
    routes = endpoint.get("routes", {})
    by_id = {d["id"]: d for d in endpoint["deployments"]}
    shares = {w["deployment"]: w["weight_bp"] for w in routes.get("weights", [])}
    copies = {s["deployment"]: s["fraction_bp"] for s in routes.get("shadows", [])}
    title = f"[bold]{short_name(endpoint['name'])}[/]"
    out.line(f"{title}  [dim]generation {routes.get('generation', 0)}, changed {_ago(out, routes)}[/]")
    rows = []
    for name in dict.fromkeys([*shares, *by_id]):
        known = by_id.get(name, {})
        rows.append({**known, "id": name, "share": shares.get(name, 0), "copies": copies.get(name, 0)})
    columns = [
        Column("STAGE", lambda r: r.get("stage", ""), lambda r: state_style(r.get("stage", ""))),
        Column("VERSION", lambda r: f"{r.get('model', '')}@{r.get('version', '')}" if r.get("version") else "", "bold"),
        Column("SHARE", lambda r: percent(r["share"]), right=True),
        Column("", lambda r: bar(r["share"] / 10_000, 30), lambda r: state_style(r.get("stage", ""))),
        Column("COPIES", lambda r: percent(r["copies"]) if r["copies"] else "", "dim", right=True),
        Column("DEPLOYMENT", lambda r: r["id"], "dim"),
    ]
    out.table(sorted(rows, key=lambda r: -r["share"]), columns, indent=2)
    if routes.get("sticky_header"):
        out.line(f"  [dim]a caller stays with the deployment that the header {routes['sticky_header']} draws[/]")


def _ago(out: Output, routes: Record) -> str:
    return f"{age(routes['update_time'], out.now)} ago" if routes.get("update_time") else "never"


@rollout.command()
def status(
    ctx: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="The endpoint, or a rollout's full name.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
) -> None:
    """Show the newest rollout of an endpoint; with --watch exit code 1 when it is aborted."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.deployments.rollout(endpoint))
        if watch and record["state"] not in ENDED:
            record = _follow(cli, client, record)
    cli.out.one(record, lambda: show_rollout(cli.out, record), record["name"])
    if watch and record["state"] == "aborted":
        raise typer.Exit(ERROR)


# Any: the client, which is imported late.
def _follow(cli: Cli, client: Any, record: Record) -> Record:
    with ticker(cli.out, f"rollout {short_name(record['name'])}") as shown:
        for message in client.deployments.watch_rollout(record["name"]):
            record = plain(message)
            state, steps = record["state"], record["plan"]["steps"]
            at = steps[record["step"]] if record["step"] < len(steps) else {}
            weight = f" at {percent(at['weight_bp'])}" if at and state == "progressing" else ""
            why = f"  [dim]{escape(record['state_reason'])}[/]" if record["state_reason"] else ""
            text = f"[{state_style(state)}]{state_glyph(state)} {state}{weight}[/]{why}"
            shown.step(text)
            shown.now(text)
            if state in ENDED:
                break
    return record


def show_rollout(out: Output, record: Record) -> None:
    """Write a rollout: its steps with the current one marked, and its newest judgement."""
    state, since = record["state"], age(record.get("create_time", ""), out.now)
    endpoint = record["name"].split("/")[3]
    line = f"[{state_style(state)} bold]{state_glyph(state)} {state}[/]  [bold]{endpoint}/{record['stage']}[/]"
    out.line(f"{line}  [dim]{record['deployment']}, by {escape(record['author'])}, {since} ago[/]")
    if record["state_reason"]:
        out.line(f"  [dim]{escape(record['state_reason'])}[/]")
    plan = record.get("plan", {})
    out.line()
    for i, step in enumerate(plan.get("steps", [])):
        _show_step(out, record, i, step)
    if plan.get("criteria"):
        needs = ", ".join(f"{criterion(c)} (n ≥ {number(c.get('min_sample', 30))})" for c in plan["criteria"])
        out.line(f"\n  [dim]judged by[/]  {escape(needs)}")
        waits = f"{duration(plan.get('max_wait_s', 0))}, then {plan.get('on_inconclusive') or 'pause'}"
        out.line(f"  [dim]waits[/]      {waits}")
    if record.get("decisions"):
        out.heading("Newest judgement")
        show_decision(out, record["decisions"][0])
    if state == "paused":
        out.hint(f"pilotfish rollout resume {endpoint}    or abort, or promote-full")


def _show_step(out: Output, record: Record, i: int, step: Record) -> None:
    at, state = record["step"], record["state"]
    over = state == "succeeded" or i < at
    glyph, style = ("✓", "green") if over else (("▶", "cyan") if i == at and state != "aborted" else ("·", "dim"))
    least = f"  at least {duration(step['min_duration_s'])}" if step["min_duration_s"] else ""
    waits = "  then waits for a person" if step["pause"] else ""
    share = f"{bar(step['weight_bp'] / 10_000, 20)} {percent(step['weight_bp']):>6}"
    out.line(f"  [{style}]{glyph} {share}[/][dim]{least}{waits}[/]")


def _steer(ctx: typer.Context, endpoint: str, command: str, reason: str) -> None:
    cli = Cli.of(ctx)
    with cli.client() as client:
        name = client.deployments.rollout(endpoint).name
        record = plain(client.deployments.control_rollout(name, command, reason=reason))
    cli.out.one(record, lambda: show_rollout(cli.out, record), record["name"])


Endpoint = Annotated[str, typer.Argument(help="The endpoint, or a rollout's full name.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the rollout.")]


@rollout.command()
def pause(ctx: typer.Context, endpoint: Endpoint, reason: Reason = "") -> None:
    """Keep the weights as they are until somebody resumes."""
    _steer(ctx, endpoint, "pause", reason)


@rollout.command()
def resume(ctx: typer.Context, endpoint: Endpoint, reason: Reason = "") -> None:
    """Go on with a paused rollout."""
    _steer(ctx, endpoint, "resume", reason)


@rollout.command()
def abort(ctx: typer.Context, endpoint: Endpoint, reason: Reason = "") -> None:
    """Take the weight away and stop what the rollout brought."""
    _steer(ctx, endpoint, "abort", reason)


@rollout.command(name="promote-full")
def promote_full(ctx: typer.Context, endpoint: Endpoint, reason: Reason = "") -> None:
    """Skip the remaining steps."""
    _steer(ctx, endpoint, "promote_full", reason)
