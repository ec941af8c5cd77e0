"""`pilotfish retire` and `pilotfish retirement`: versions and models out of service, by plan."""

from __future__ import annotations

from typing import Annotated

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.formats import age, escape, percent, ref, short_name, state_glyph, state_style
from pilotfish.cli.output import Column, Output, Record
from pilotfish.cli.spans import parse_when

__all__ = ["install", "show_plan"]

PANEL = "Automate"
retirement = typer.Typer(no_args_is_help=True, help="Look at a plan, move it, or call it off.")


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=PANEL)(retire)
    app.add_typer(retirement, name="retirement", rich_help_panel=PANEL)


def retire(
    ctx: typer.Context,
    subject: Annotated[str, typer.Argument(help="A version such as fraud@3, or a model.")],
    on: Annotated[str, typer.Option(help="The day: 2027-03-31, or a span from now such as 90d.")],
    replacement: Annotated[int, typer.Option(help="Version that takes over; 0: none.")] = 0,
    replacement_model: Annotated[str, typer.Option(help="Model that takes over; unset: the same.")] = "",
    notify: Annotated[list[str] | None, typer.Option(help="Who is told; repeatable.")] = None,
    notes: Annotated[str, typer.Option(help="Words for those who are told.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, change nothing.")] = False,
) -> None:
    """Plan the retirement of a version or a model, in four phases.

    A warning 90 days before the day, less traffic from 30 days before, the rest of it from 7 days before, and the
    end on the day. Phases already past run at once, in order.
    """
    cli = Cli.of(ctx)
    with cli.client() as client:
        plan = client.lifecycle.plan_retirement(
            subject,
            parse_when(on, cli.out.now),
            replacement_version=replacement,
            replacement_model=replacement_model,
            notify=notify or (),
            notes=notes,
            validate_only=dry_run,
        )
        record = plain(plan)
    cli.out.one(record, lambda: show_plan(cli.out, record), short_name(record["name"]))
    if dry_run:
        cli.out.note("nothing was changed")
    else:
        cli.out.hint(f"pilotfish retirement cancel {short_name(record['name'])} --reason …")


def show_plan(out: Output, plan: Record) -> None:
    """Write a plan: its subject, its four phases with their steps, and what stands in the way."""
    state = plan["state"] or "not made"
    line = f"[bold]{ref(plan['subject'])}[/]  [{state_style(state)}]{state_glyph(state)} {state}[/]"
    out.line(f"{line}  [dim]{short_name(plan['name'])}[/]")
    if plan["state_reason"]:
        out.line(f"  [dim]{escape(plan['state_reason'])}[/]")
    migration = plan.get("migration_plan", {})
    to = f"@{migration['replacement_version']}" if migration.get("replacement_version") else ""
    to = f"{migration.get('replacement_model', '')}{to}" or "nobody: calls will fail"
    steps = ", ".join(percent(s) for s in migration.get("reduction_steps_bp", []))
    out.line(f"  [dim]taken over by[/] {to}" + (f"   [dim]traffic falls to[/] {steps}" if steps else ""))
    out.line()
    columns = [
        Column("PHASE", _phase, _phase_style),
        Column("ON", lambda r: r.get("due_time", "")[:10]),
        Column("", lambda r: age(r.get("due_time", ""), out.now), "dim", right=True),
        Column("STEPS", lambda r: "  ".join(f"{_sign(s)} {s['type']}" for s in r["steps"]), wide=True),
    ]
    out.table(plan["phases"], columns, indent=2)
    for blocker in plan["blockers"]:
        out.line(f"  [yellow]▲[/] in the way: {escape(blocker)}")


def _sign(step: Record) -> str:
    return "·" if step["state"] in ("", "pending") else state_glyph(step["state"])


def _phase(phase: Record) -> str:
    sign = "✓" if phase.get("end_time") else ("▶" if phase.get("start_time") else "·")
    return f"{sign} {phase['phase']}"


def _phase_style(phase: Record) -> str:
    return "green" if phase.get("end_time") else ("cyan" if phase.get("start_time") else "")


Plan = Annotated[str, typer.Argument(help="The plan's id or full name.")]


def _full(cli: Cli, name: str) -> str:
    return name if "/" in name else f"projects/{cli.project}/retirementPlans/{name}"


@retirement.command()
def show(ctx: typer.Context, name: Plan) -> None:
    """Show a plan with its phases and steps."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.lifecycle.retirement_plan(_full(cli, name)))
    cli.out.one(record, lambda: show_plan(cli.out, record), short_name(record["name"]))


@retirement.command()
def postpone(
    ctx: typer.Context, name: Plan, on: Annotated[str, typer.Option(help="The new day: 2027-06-30, or a span.")]
) -> None:
    """Move the day; phases that have begun keep their dates."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.lifecycle.postpone_retirement(_full(cli, name), parse_when(on, cli.out.now)))
    cli.out.one(record, lambda: show_plan(cli.out, record), short_name(record["name"]))


@retirement.command()
def cancel(
    ctx: typer.Context, name: Plan, reason: Annotated[str, typer.Option(help="Why; kept with the plan.")]
) -> None:
    """Call a plan off."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.lifecycle.cancel_retirement(_full(cli, name), reason))
    cli.out.one(record, lambda: show_plan(cli.out, record), short_name(record["name"]))
