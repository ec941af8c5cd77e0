"""The monitoring report in a terminal. Owns its layout; every figure is the report's own."""

from __future__ import annotations

from typing import Any

from pilotfish.cli.formats import age, bar, escape, number, parse_time, state_glyph, state_style
from pilotfish.cli.output import Column, Output, Record

__all__ = ["show_report"]


def show_report(out: Output, report: Record) -> None:
    """Write the report of an endpoint."""
    _title(out, report)
    _totals(out, report.get("totals", {}))
    _days(out, report.get("predictions_per_day", []))
    _performance(out, report.get("performance_analysis", []))
    _drift(out, report.get("drift_analysis", {}))
    _quality(out, report.get("data_quality", {}))
    _alerts(out, report.get("alerts", []))
    out.heading("What to do")
    for sentence in report.get("recommendations", []):
        quiet = sentence.startswith("Nothing")
        out.line(f"  [{'green' if quiet else 'yellow'}]{'✓' if quiet else '→'}[/] {escape(sentence)}")


def _title(out: Output, report: Record) -> None:
    about = report.get("model_information", {})
    serving = "  ".join(f"{stage} @{version}" for stage, version in about.get("serving", {}).items())
    start, end = parse_time(report.get("start", "")), parse_time(report.get("end", ""))
    span = f"{start:%Y-%m-%d %H:%M} – {end:%Y-%m-%d %H:%M} UTC" if start and end else ""
    out.line(f"[bold]{report.get('endpoint', '')}[/]  [dim]model[/] {about.get('model', '')}  [dim]{span}[/]")
    if serving:
        out.line(f"[dim]serving[/] {serving}")
    versions = about.get("versions", [])
    if versions:
        columns = [
            Column("VERSION", lambda r: f"@{r['version']} {r.get('label', '')}".rstrip(), "bold"),
            Column("STATUS", lambda r: f"{state_glyph(r['status'])} {r['status']}", lambda r: state_style(r["status"])),
            Column(
                "AT REGISTRATION", lambda r: "  ".join(f"{k} {number(v)}" for k, v in list(r["metrics"].items())[:4])
            ),
            Column("BY", lambda r: r.get("author", ""), "dim"),
            Column("AGE", lambda r: age(r.get("created", ""), out.now), "dim", right=True),
        ]
        out.line()
        out.table(versions, columns, indent=2)


# Any: plain JSON.
def _ratio(value: Any) -> str:
    return "–" if value is None else f"{value:.2%}"


def _ms(value: Any) -> str:
    return "–" if value is None else f"{number(value, 3)} ms"


def _totals(out: Output, totals: Record) -> None:
    latency = totals.get("latency", {})
    errors = totals.get("error_ratio")
    style = "red" if errors and errors > 0.01 else "bold"
    out.heading("Totals")
    cells = [
        ("predictions", f"[bold]{number(totals.get('predictions', 0))}[/]"),
        ("errors", f"[{style}]{_ratio(errors)}[/]  [dim]{number(totals.get('errors', 0))}[/]"),
        ("latency mean", f"[bold]{_ms(totals.get('latency_mean_ms'))}[/]"),
    ]
    cells += [(f"latency {k.removesuffix('_ms')}", _ms(v)) for k, v in latency.items()]
    known = f"{number(totals.get('labelled', 0))} known, {_ratio(totals.get('label_coverage'))} of the answers"
    for label, text in [*cells, ("truths", known)]:
        out.line(f"  [dim]{label:<13}[/] {text}")


def _days(out: Output, days: list[Record]) -> None:
    if not days:
        return
    by_day: dict[str, Record] = {}
    for row in days:
        day = by_day.setdefault(row["day"], {"day": row["day"], "predictions": 0, "errors": 0, "versions": {}})
        day["predictions"] += row["predictions"]
        day["errors"] += row["errors"]
        day["versions"][row["version"]] = day["versions"].get(row["version"], 0) + row["predictions"]
    most = max(d["predictions"] for d in by_day.values()) or 1
    out.heading("Predictions per day")
    columns = [
        Column("DAY", lambda r: r["day"]),
        Column("", lambda r: bar(r["predictions"] / most, 30), "cyan"),
        Column("PREDICTIONS", lambda r: number(r["predictions"]), "bold", right=True),
        Column("ERRORS", lambda r: number(r["errors"]), lambda r: "red" if r["errors"] else "dim", right=True),
        Column("BY VERSION", lambda r: "  ".join(f"@{v} {number(n)}" for v, n in r["versions"].items()), "dim"),
    ]
    out.table(sorted(by_day.values(), key=lambda d: str(d["day"])), columns, indent=2)


def _performance(out: Output, rows: list[Record] | Record) -> None:
    served = [r for r in rows if isinstance(r, dict) and r.get("calls")] if isinstance(rows, list) else []
    if not served:
        return
    quality = list(dict.fromkeys(k for r in served for k in r.get("quality", {})))[:5]

    def measure(name: str) -> Column:
        return Column(name.upper(), lambda r: number(r.get("quality", {}).get(name), 3), "bold", right=True)

    columns = [
        Column("VERSION", lambda r: f"@{r['version']}", "bold"),
        Column("DEPLOYMENT", lambda r: r["deployment"], "dim"),
        Column("CALLS", lambda r: number(r["calls"]), right=True),
        Column("ERRORS", lambda r: _ratio(r.get("error_ratio")), right=True),
        Column("P50", lambda r: _ms(r.get("latency", {}).get("p50_ms")), right=True),
        Column("P99", lambda r: _ms(r.get("latency", {}).get("p99_ms")), right=True),
        Column("TRUTHS", lambda r: number(r.get("labelled", 0)), right=True),
        *(measure(q) for q in quality),
    ]
    out.heading("Performance")
    out.table(served, columns, indent=2)


def _drift(out: Output, drift: Record) -> None:
    windows, drifted = drift.get("windows", 0), drift.get("windows_drifted", 0)
    out.heading("Drift")
    if not windows:
        out.line("  [dim]no window was judged in this span[/]")
        return
    style = "red" if drifted else "green"
    episodes = len(drift.get("episodes", []))
    out.line(f"  [{style}]{drifted} of {windows} windows drifted[/]  [dim]in {episodes} episodes[/]")
    for label in ("newest", "worst"):
        one = drift.get(label)
        if one:
            facts = f"score {number(one['score'], 3)}, threshold {number(one['threshold'], 3)}, {number(one['n'])} rows"
            out.line(f"  [dim]{label:<7}[/] {one['method']}: {facts}")
    most = drift.get("most_drifted_features", [])
    if most:
        top = most[0]["windows"] or 1
        columns = [
            Column("FEATURE", lambda r: r["feature"], "bold"),
            Column("", lambda r: bar(r["windows"] / top, 20), "red"),
            Column("WINDOWS", lambda r: number(r["windows"]), right=True),
        ]
        out.line()
        out.table(most, columns, indent=2)


def _quality(out: Output, quality: Record) -> None:
    if not quality.get("served") and not quality.get("conflicting_ids"):
        return
    out.heading("Data quality")
    served, captured = quality.get("served", 0), quality.get("captured", 0)
    out.line(f"  [dim]served[/] {number(served)}   [dim]captured[/] {number(captured)}")
    for label in ("dropped", "undecodable"):
        for reason, count in quality.get(label, {}).items():
            out.line(f"  [yellow]▲ {number(count)} {label}[/] [dim]{reason}[/]")
    if quality.get("conflicting_ids"):
        out.line(f"  [yellow]▲ {number(quality['conflicting_ids'])} ids[/] [dim]were sent again with other inputs[/]")
    for feature in quality.get("features_with_more_missing_values", []):
        out.line(f"  [yellow]▲ {escape(feature)}[/] [dim]has more missing values than in training[/]")


def _alerts(out: Output, alerts: list[Record]) -> None:
    if not alerts:
        return
    out.heading("Alerts")
    columns = [
        Column("STATE", lambda r: f"{state_glyph(r['state'])} {r['state']}", lambda r: state_style(r["state"])),
        Column("KIND", lambda r: r["kind"]),
        Column("SUMMARY", lambda r: r["summary"], wide=True),
        Column("BEGAN", lambda r: age(r.get("started", ""), out.now), "dim", right=True),
    ]
    out.table(alerts, columns, indent=2)
