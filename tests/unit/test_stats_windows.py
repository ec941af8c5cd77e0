"""Windows over a stream: where they close, what they carry, and that a crash loses nothing of a saved state."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish.stats import (
    ClosedWindow,
    DriftConfig,
    WindowCounts,
    WindowTracker,
    build_profile,
    count_window,
    sum_counts,
)

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CONFIG = DriftConfig(window_size=100, min_rows=100, scales=(1, 2, 4), time_limit_s=300)
RNG = np.random.default_rng(12)
PROFILE = build_profile({"x": RNG.normal(size=5000), "c": RNG.choice(["a", "b"], 5000)}, {"p": RNG.random(5000)})


def rows(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=n), "c": rng.choice(["a", "b", "z"], n)}, {"p": rng.random(n)}


def part(table: tuple[dict, dict], piece: slice) -> tuple[dict, dict]:
    return tuple({name: column[piece] for name, column in group.items()} for group in table)  # type: ignore[return-value]


def counted(table: tuple[dict, dict], piece: slice) -> WindowCounts:
    return count_window(PROFILE, *part(table, piece))


def test_a_batch_is_split_exactly_where_windows_end() -> None:
    tracker, table = WindowTracker(PROFILE, CONFIG), rows(350)
    closed = tracker.add(*table, START)
    assert [(w.index, w.rows) for w in closed] == [(0, 100), (1, 100), (2, 100)]
    assert [w.counts for w in closed] == [counted(table, slice(i * 100, i * 100 + 100)) for i in range(3)]
    assert tracker.rows == 50
    assert tracker.next_index == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 260), max_size=12), st.integers(0, 99))
def test_windows_do_not_depend_on_how_rows_are_batched(sizes: list[int], seed: int) -> None:
    table = rows(sum(sizes), seed)
    whole = WindowTracker(PROFILE, CONFIG).add(*table, START)
    tracker, closed, done = WindowTracker(PROFILE, CONFIG), [], 0
    for size in sizes:
        closed += tracker.add(*part(table, slice(done, done + size)), START)
        done += size
    assert [w.id for w in closed] == [w.id for w in whole]
    for ours, theirs in zip(closed, whole, strict=True):
        assert (ours.counts.rows, ours.counts.blocks) == (theirs.counts.rows, theirs.counts.blocks)
        assert np.array_equal(ours.counts.bins, theirs.counts.bins)
        assert np.array_equal(ours.counts.whole, theirs.counts.whole)
    assert tracker.rows == sum(sizes) % 100


def test_sums_cover_the_newest_windows_once_there_are_enough() -> None:
    table = rows(600)
    closed = WindowTracker(PROFILE, CONFIG).add(*table, START)
    assert [sorted(w.sums) for w in closed] == [[1], [1, 2], [1, 2], [1, 2, 4], [1, 2, 4], [1, 2, 4]]
    last = closed[-1]
    assert last.sums[1] == last.counts
    assert last.sums[4] == sum_counts([counted(table, slice(i, i + 100)) for i in (200, 300, 400, 500)])
    assert last.sums[4].rows == 400


def test_scales_that_the_reference_cannot_carry_are_not_summed() -> None:
    small = build_profile({"x": RNG.normal(size=900)})
    closed = WindowTracker(small, CONFIG).add({"x": RNG.normal(size=900)}, {}, START)
    assert sorted(closed[-1].sums) == [1]


def test_time_closes_a_window_that_has_enough_rows() -> None:
    config = DriftConfig(window_size=1000, min_rows=100, time_limit_s=300)
    tracker = WindowTracker(PROFILE, config)
    assert tracker.due is None
    tracker.add(*rows(60), START)
    tracker.add(*rows(60), START + 100 * SECOND)
    assert tracker.due == START + 300 * SECOND
    assert tracker.tick(START + 299 * SECOND) == []
    (window,) = tracker.tick(START + 300 * SECOND)
    assert (window.rows, window.started, window.ended) == (120, START, START + 100 * SECOND)
    assert tracker.tick(START + 999 * SECOND) == []


def test_rows_that_come_after_the_limit_belong_to_the_next_window() -> None:
    tracker = WindowTracker(PROFILE, DriftConfig(window_size=1000, min_rows=100))
    tracker.add(*rows(150), START)
    (window,) = tracker.add(*rows(30), START + 301 * SECOND)
    assert window.rows == 150
    assert tracker.rows == 30
    assert tracker.due == START + 601 * SECOND


def test_too_few_rows_at_the_limit_are_carried_into_the_next_span() -> None:
    tracker = WindowTracker(PROFILE, DriftConfig(window_size=1000, min_rows=100))
    table = rows(130)
    tracker.add(*part(table, slice(0, 70)), START)
    assert tracker.tick(START + 700 * SECOND) == []
    assert tracker.rows == 70
    assert tracker.due == START + 900 * SECOND
    assert tracker.add(*part(table, slice(70, 130)), START + 800 * SECOND) == []
    (window,) = tracker.tick(START + 900 * SECOND)
    assert np.array_equal(window.counts.bins, counted(table, slice(0, 130)).bins)
    assert window.started == START


def test_a_clock_that_steps_back_breaks_nothing() -> None:
    tracker = WindowTracker(PROFILE, CONFIG)
    tracker.add(*rows(50), START)
    (window,) = tracker.add(*rows(50), START - 3600 * SECOND)
    assert (window.started, window.ended) == (START, START)


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        WindowTracker(PROFILE, CONFIG).add(*rows(5), START.replace(tzinfo=None))


def test_a_wrong_batch_changes_nothing() -> None:
    tracker = WindowTracker(PROFILE, CONFIG)
    tracker.add(*rows(50), START)
    before = tracker.to_bytes()
    with pytest.raises(InvalidArgument, match="not one table"):
        tracker.add({"x": np.zeros(60), "c": np.zeros(61)}, {}, START)
    assert tracker.to_bytes() == before


def test_a_wrong_configuration_is_refused_with_its_violations() -> None:
    with pytest.raises(InvalidArgument) as caught:
        WindowTracker(PROFILE, DriftConfig(window_size=10))
    assert [v.field for v in caught.value.violations] == ["window_size"]


def test_columns_that_the_profile_lacks_may_have_any_shape() -> None:
    tracker = WindowTracker(PROFILE, CONFIG)
    inputs, outputs = rows(100)
    (window,) = tracker.add({"image": np.zeros((100, 8, 8)), **inputs}, outputs, START)
    assert window.counts == count_window(PROFILE, inputs, outputs)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 170), min_size=1, max_size=10), st.data())
def test_a_saved_state_goes_on_as_if_nothing_had_happened(sizes: list[int], data: st.DataObject) -> None:
    table = rows(sum(sizes), seed=3)
    crash_at = data.draw(st.integers(0, len(sizes)))
    straight, crashing = (WindowTracker(PROFILE, CONFIG, source="r1") for _ in range(2))
    expected: list[ClosedWindow] = []
    found: list[ClosedWindow] = []
    done = 0
    for i, size in enumerate(sizes):
        at = START + i * 40 * SECOND
        piece = part(table, slice(done, done + size))
        if i == crash_at:
            crashing = WindowTracker.from_bytes(crashing.to_bytes(), PROFILE, CONFIG, source="r1")
        expected += straight.add(*piece, at)
        found += crashing.add(*piece, at)
        done += size
    assert found == expected
    assert crashing.to_bytes() == straight.to_bytes()


def test_an_empty_state_can_be_saved_too() -> None:
    tracker = WindowTracker.from_bytes(WindowTracker(PROFILE, CONFIG).to_bytes(), PROFILE, CONFIG)
    assert (tracker.rows, tracker.next_index, tracker.due) == (0, 0, None)


def test_a_state_of_another_profile_is_refused() -> None:
    other = build_profile({"x": RNG.normal(size=5000)})
    with pytest.raises(InvalidArgument) as caught:
        WindowTracker.from_bytes(WindowTracker(other, CONFIG).to_bytes(), PROFILE, CONFIG)
    assert caught.value.reason == "PROFILE_MISMATCH"


def test_a_smaller_window_size_takes_effect_on_a_saved_state() -> None:
    tracker = WindowTracker(PROFILE, DriftConfig(window_size=500, scales=(1,)))
    tracker.add(*rows(300), START)
    smaller = WindowTracker.from_bytes(tracker.to_bytes(), PROFILE, CONFIG)
    closed = smaller.add(*rows(150), START)
    assert [w.rows for w in closed] == [300, 100]
    assert smaller.rows == 50


def test_damaged_states_are_refused() -> None:
    tracker = WindowTracker(PROFILE, CONFIG)
    tracker.add(*rows(330), START)
    state = tracker.to_bytes()
    for i in range(0, len(state), 7):
        broken = bytearray(state)
        broken[i] ^= 0x15
        with pytest.raises(InvalidArgument):
            WindowTracker.from_bytes(bytes(broken), PROFILE, CONFIG)
    for size in range(0, len(state) - 4, 11):
        body = state[:size]
        with pytest.raises(InvalidArgument):
            WindowTracker.from_bytes(body + zlib.crc32(body).to_bytes(4, "little"), PROFILE, CONFIG)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=40), st.integers(0, 60))
def test_hostile_states_are_refused_or_usable(patch: bytes, at: int) -> None:
    tracker = WindowTracker(PROFILE, CONFIG)
    tracker.add(*rows(130), START)
    state = tracker.to_bytes()[:-4]
    body = state[: 21 + at] + patch + state[21 + at + len(patch) :]
    try:
        read = WindowTracker.from_bytes(body + zlib.crc32(body).to_bytes(4, "little"), PROFILE, CONFIG)
    except InvalidArgument:
        return
    read.add(*rows(100), START)
    read.to_bytes()
