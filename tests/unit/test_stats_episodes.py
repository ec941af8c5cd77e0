"""Episodes: one drift, one episode."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotfish.stats import EpisodeEvent, EpisodeState, advance

START = datetime(2026, 11, 1, tzinfo=UTC)


def run(verdicts: str, **options: int) -> tuple[EpisodeState, list[str]]:
    """Advance through a text of verdicts, D for drifted; return the state and the events' initials."""
    state, events = EpisodeState(), []
    for i, letter in enumerate(verdicts):
        state, event = advance(state, letter == "D", f"w{i}", START + i * timedelta(minutes=1), **options)
        events.append(event.value[0] if event else "-")
    return state, events


@pytest.mark.parametrize(
    ("verdicts", "events"),
    [
        ("cccc", "----"),
        ("ccDcc", "--sce"),
        ("DDDD", "sccc"),
        ("DcDcc", "sccce"),
        ("DccDcc", "scesce"),
        ("DcDcDccc", "sccccce-"),
    ],
)
def test_an_episode_runs_until_two_clean_verdicts(verdicts: str, events: str) -> None:
    assert "".join(run(verdicts)[1]) == events


def test_one_clean_verdict_ends_it_where_one_is_enough() -> None:
    assert "".join(run("DcDc", clean_to_close=1)[1]) == "sese"


def test_the_state_tells_first_and_last_window_and_times() -> None:
    state, _ = run("cDDcDcc")
    assert (state.open, state.number, state.drifted_windows) == (False, 1, 3)
    assert (state.first_window, state.last_window) == ("w1", "w4")
    assert state.started == START + timedelta(minutes=1)
    assert state.ended == START + timedelta(minutes=6)


def test_a_new_episode_has_a_new_number_and_new_beginnings() -> None:
    state, _ = run("DDccD")
    assert (state.open, state.number, state.first_window, state.drifted_windows) == (True, 2, "w4", 1)
    assert state.ended is None


def test_a_report_that_comes_twice_changes_nothing() -> None:
    state, _ = advance(EpisodeState(), True, "w0", START)
    state, _ = advance(state, False, "w1", START)
    again, event = advance(state, False, "w1", START)
    assert (again, event) == (state, None)


def test_zero_clean_verdicts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        advance(EpisodeState(), True, "w", START, clean_to_close=0)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("Dc", max_size=60), st.integers(1, 4))
def test_starts_and_ends_alternate_and_count_the_episodes(verdicts: str, close: int) -> None:
    state, events = run(verdicts, clean_to_close=close)
    edges = [e for e in events if e in "se"]
    assert edges == ["s", "e"] * (len(edges) // 2) + ["s"] * (len(edges) % 2)
    assert state.number == edges.count("s")
    assert state.open == (len(edges) % 2 == 1)
    # Independently: an episode is a D and what follows it, up to the first run of `close` clean ones.
    assert edges.count("s") == len([run for run in verdicts.split("c" * close) if "D" in run.lstrip("c")])
    assert EpisodeEvent("started") is EpisodeEvent.STARTED
