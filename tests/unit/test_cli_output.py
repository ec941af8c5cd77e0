"""What is written: columns in a pipe, tables on a terminal, one document for programs, words for values."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from pilotfish.cli.formats import age, bar, bytes_text, duration, number, parse_time, percent, ref, time_text
from pilotfish.cli.kinds import KINDS, find_kind
from pilotfish.cli.output import Column, Output, state_column
from pilotfish.cli.report_view import show_report
from pilotfish.cli.verdicts import show_decision
from pilotfish.errors import InvalidArgument

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def terminal(width: int = 100) -> tuple[Output, Callable[[], str]]:
    """Return an output whose stdout is a terminal of a width, and what was written to it."""
    sink = io.StringIO()
    out = Output()
    out.__dict__["stdout"] = Console(file=sink, force_terminal=True, width=width, color_system=None, emoji=False)
    out.__dict__["now"] = NOW
    return out, sink.getvalue


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.9, "9.9 s"), (12, "12 s"), (180, "3 min"), (7200, "2 h"), (5 * 86400, "5 d")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages_tell_past_and_future() -> None:
    assert age((NOW - timedelta(minutes=3)).isoformat(), NOW) == "3 min"
    assert age("2026-11-25T12:00:00Z", NOW) == "in 48 h" or age("2026-11-25T12:00:00Z", NOW) == "in 2 d"
    assert age("", NOW) == ""
    assert time_text("2026-11-23T11:59:00.123456789Z", NOW) == "2026-11-23 11:59:00 UTC  (60 s ago)"
    at = parse_time("2026-11-23T11:59:00.123456789Z")
    assert at is not None and at.microsecond == 123456
    assert parse_time("2026-11-23T13:59:00+02:00") == datetime(2026, 11, 23, 11, 59, tzinfo=UTC)


def test_numbers_sizes_shares_and_bars() -> None:
    assert [number(v) for v in (0, 1234567, 0.123456, None, float("nan"), 12345.678, "x")] == [
        "0", "1,234,567", "0.1235", "–", "–", "12,346", "x"]  # fmt: skip
    assert [bytes_text(v) for v in (0, 1023, 1024, 5 * 2**20, 2**50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "1024.0 TiB",
    ]
    assert [percent(v) for v in (0, 25, 1000, 10_000, 3333)] == ["0 %", "0.25 %", "10 %", "100 %", "33.33 %"]
    assert bar(0.5, 4) == "██  " and bar(1.7, 2) == "██" and bar(0, 2) == "  " and bar(0.0625, 2) == "▏ "
    assert ref("projects/default/models/m/versions/3") == "m@3" and ref("projects/p/rules/r") == "r"


def test_a_pipe_gets_plain_columns_that_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    rows = [{"a": "1", "state": "ready", "w": long}, {"a": "22", "state": "", "w": ""}]
    columns = [Column("A", lambda r: r["a"], right=True), state_column(), Column("W", lambda r: r["w"], wide=True)]
    Output().records(rows, columns, lambda r: r["a"], none="nothing")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [" A  STATE    W", f" 1  ● ready  {long}", "22  ○ –      –"]


def test_nothing_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output().records([], [], str, none="no models")
    said = capsys.readouterr()
    assert said.out == "" and "no models" in said.err


def test_json_is_one_document_without_nan_and_with_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").records([{"a": 1.0, "b": float("nan"), "c": [float("inf"), 0.5]}], [], str, none="")
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "b": None, "c": [None, 0.5]}]
    out = Output("json")
    out.line("words")
    out.done("done")
    out.hint("hint")
    assert capsys.readouterr().out == ""


def test_names_are_one_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    Output("name").records([{"n": "a"}, {"n": "b"}], [], lambda r: r["n"], none="")
    assert capsys.readouterr().out == "a\nb\n"


def test_a_narrow_terminal_loses_extra_columns_before_it_cuts_others() -> None:
    columns = [
        Column("NAME", lambda r: "n" * 30),
        Column("SILENT", lambda r: ""),
        Column("ONE", lambda r: "1" * 30, extra=True),
        Column("TWO", lambda r: "2" * 30, extra=True),
        Column("WHY", lambda r: "why " * 20, wide=True),
    ]
    for width, gone, kept in ((200, (), ("ONE", "TWO")), (110, ("TWO",), ("ONE",)), (70, ("ONE", "TWO"), ())):
        out, text = terminal(width)
        out.table([{}], columns)
        written = text()
        assert "SILENT" not in written and "n" * 30 in written
        assert all(name not in written for name in gone) and all(name in written for name in kept)
        assert all(len(line) <= width for line in written.splitlines())


def test_markup_in_data_is_shown_and_not_obeyed() -> None:
    out, text = terminal()
    out.table([{"a": "[red]x[/red]"}], [Column("A", lambda r: r["a"])])
    out.pairs({"note": "[bold]y"})
    show_decision(
        out, {"verdict": "inconclusive", "verdicts": [{"verdict": "inconclusive", "explanation": "[b]z[/b]"}]}
    )
    for shown in ("[red]x[/red]", "[bold]y", "[b]z[/b]"):
        assert shown in text()


def test_every_kind_is_found_by_singular_plural_and_beginning() -> None:
    assert len(KINDS) == 17
    for kind in KINDS:
        assert find_kind(kind.singular) is kind and find_kind(kind.plural) is kind
        kind.columns(NOW)
    assert find_kind("pipe").plural == "pipelines"
    for bad in ("frob", "r", ""):
        with pytest.raises(InvalidArgument):
            find_kind(bad)


@pytest.mark.parametrize("report", [{}, {"totals": {"error_ratio": None}}, {"drift_analysis": {"windows": 0}}])
def test_an_empty_report_can_be_shown(report: dict[str, Any]) -> None:
    out, text = terminal()
    show_report(out, report)
    assert "Totals" in text()


def test_a_report_shows_days_versions_drift_and_advice() -> None:
    out, text = terminal()
    show_report(out, REPORT)
    written = text()
    for wanted in ("fraud", "1,500", "2026-11-22", "@2 500", "2 of 9 windows drifted", "amount", "→ Retrain.", "0.913"):
        assert wanted in written, wanted
    assert all(len(line) <= 100 for line in written.splitlines())


REPORT: dict[str, Any] = {
    "endpoint": "fraud",
    "start": "2026-11-16T12:00:00+00:00",
    "end": "2026-11-23T12:00:00+00:00",
    "model_information": {"model": "fraud", "versions": [], "serving": {"production": 2}},
    "totals": {"predictions": 1500, "errors": 3, "error_ratio": 0.002, "latency": {"p99_ms": 12.5}, "labelled": 9},
    "predictions_per_day": [
        {"day": "2026-11-22", "deployment": "a", "version": 1, "predictions": 1000, "errors": 3},
        {"day": "2026-11-22", "deployment": "b", "version": 2, "predictions": 500, "errors": 0},
    ],
    "performance_analysis": [{"deployment": "b", "version": 2, "calls": 500, "quality": {"accuracy": 0.9132}}],
    "drift_analysis": {
        "windows": 9,
        "windows_drifted": 2,
        "episodes": ["e1"],
        "most_drifted_features": [{"feature": "amount", "windows": 2}],
        "newest": {"method": "calibrated", "score": 0.2, "threshold": 0.03, "n": 1000},
    },
    "data_quality": {"served": 1500, "captured": 1499, "dropped": {"queue": 1}},
    "alerts": [
        {"state": "firing", "kind": "data_drift", "summary": "amount drifted", "started": "2026-11-23T11:00:00Z"}
    ],
    "recommendations": ["Retrain."],
}
