"""Judgements: criteria as they are written, verdicts as they are shown.

`error_ratio<=0.01:100` reads: the ratio of errors is at most 0.01, over at least 100 predictions.
"""

from __future__ import annotations

import math
import re

from pilotfish.cli.formats import criterion, escape, number, state_glyph, state_style
from pilotfish.cli.output import Column, Output, Record
from pilotfish.errors import InvalidArgument, Violation

__all__ = ["parse_criteria", "parse_criterion", "show_checks", "show_decision"]

PATTERN = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_.]*)\s*(?P<sign><=|>=|<|>)\s*(?P<base>baseline\s*(?P<plus>[+-])?\s*)?"
    r"(?P<bound>[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)?\s*(?::\s*(?P<n>[0-9]+))?\s*",
    re.IGNORECASE,
)


def parse_criterion(text: str) -> Record:
    """Return a criterion of the form METRIC SIGN BOUND[:MIN_SAMPLE], the bound perhaps `baseline+0.01`.

    Raises:
        InvalidArgument: it has another form; the message shows the right one.
    """
    found = PATTERN.fullmatch(text)
    bound = _bound(found) if found is not None else None
    if found is None or bound is None:
        raise InvalidArgument(
            f"{text!r} is no criterion",
            violations=[
                Violation("criterion", "write METRIC<=BOUND[:MIN_SAMPLE], such as 'error_ratio<=0.01:100'"),
                Violation(
                    "criterion", "relative to production: 'latency_p99_ms<=baseline+5' or 'accuracy>=baseline-0.01'"
                ),
            ],
        )
    made: Record = {"metric": found["metric"].lower(), "comparison": found["sign"], "bound": bound}
    if found["base"]:
        made["against_baseline"] = True
    if found["n"]:
        made["min_sample"] = int(found["n"])
    return made


def _bound(found: re.Match[str]) -> float | None:
    text, base, plus = found["bound"], found["base"], found["plus"]
    if text is None:
        return 0.0 if base and not plus else None
    if base and not plus:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return -value if plus == "-" else value


def parse_criteria(texts: list[str]) -> list[Record]:
    """Return every criterion.

    Raises:
        InvalidArgument: one or more cannot be read; names each.
    """
    made, wrong = [], []
    for text in texts:
        try:
            made.append(parse_criterion(text))
        except InvalidArgument as error:
            wrong.append((error, text))
    if wrong:
        names = ", ".join(repr(text) for _, text in wrong)
        raise InvalidArgument(f"no criterion: {names}", violations=wrong[0][0].violations)
    return made


def show_decision(out: Output, decision: Record, *, indent: int = 2) -> None:
    """Write a judgement: one line per criterion with value, bound, observations and why."""
    verdict = decision.get("verdict", "")
    pad = " " * indent
    out.line(f"{pad}[{state_style(verdict)} bold]{state_glyph(verdict)} {verdict.upper() or 'NOT JUDGED'}[/]")
    rows = [{**v, "state": v.get("verdict", "")} for v in decision.get("verdicts", [])]
    if not rows:
        return
    columns = [
        Column("", lambda r: f"{state_glyph(r['state'])} {r['state']}", lambda r: state_style(r["state"])),
        Column("CRITERION", lambda r: criterion(r.get("criterion", {})), "bold"),
        Column("VALUE", lambda r: number(r.get("value")), lambda r: state_style(r["state"]), right=True),
        Column("BOUND", lambda r: number(r.get("bound")), right=True),
        Column("N", lambda r: number(r.get("n", 0)), right=True),
        Column("NEEDS", lambda r: number(r.get("criterion", {}).get("min_sample", 0)), "dim", right=True),
    ]
    out.table(rows, columns, indent=indent)
    for row in rows:
        # Of the others the table itself says everything.
        if row["state"] == "inconclusive" or row.get("baseline_value") is not None:
            out.line(f"{pad}[dim]{escape(row.get('explanation', ''))}[/]")


def show_checks(out: Output, checks: list[Record]) -> None:
    """Write what was checked before deploying."""
    for check in checks:
        sign = "[green]✓[/]" if check.get("passed") else "[red]✗[/]"
        out.line(f"  {sign} {check['check'].replace('_', ' '):<20} [dim]{escape(check.get('explanation', ''))}[/]")
