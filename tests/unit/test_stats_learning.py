"""Learned references: the first n rows, exactly, and no verdict before."""

from __future__ import annotations

import numpy as np
import pytest

from pilotfish.errors import InvalidArgument
from pilotfish.stats import ReferenceLearner, build_profile


def test_a_learned_profile_is_that_of_the_first_n_rows() -> None:
    rng = np.random.default_rng(5)
    x, c, p = rng.normal(size=1000), rng.choice(["a", "bb"], 1000), rng.random(1000)
    learner, done = ReferenceLearner(n=700), 0
    for size in (1, 99, 300, 250, 350):
        piece = slice(done, done + size)
        taken = learner.add({"x": x[piece], "c": c[piece]}, {"p": p[piece]})
        done += size
        assert (learner.profile is not None) == (done >= 700)
    assert taken == 50
    assert learner.remaining == 0
    assert learner.profile is not None
    assert learner.profile.learned
    assert learner.profile == build_profile({"x": x[:700], "c": c[:700]}, {"p": p[:700]}, learned=True)
    assert learner.add({"x": x}) == 0


def test_columns_that_come_and_go_are_missing_in_between() -> None:
    learner = ReferenceLearner(n=100)
    learner.add({"x": np.ones(40), "c": np.array(["a"] * 40)})
    learner.add({"x": np.arange(30)})
    learner.add({"c": np.array(["a"] * 30), "late": np.ones(30)})
    assert learner.profile is not None
    assert {f.name: f.missing for f in learner.profile.features} == {"x": 30, "c": 30, "late": 70}


def test_rows_are_copied_out_of_the_callers_buffer() -> None:
    learner, buffer = ReferenceLearner(n=100), np.zeros(60)
    learner.add({"x": buffer})
    buffer[:] = 7.0
    learner.add({"x": buffer})
    assert learner.profile is not None
    assert learner.profile.features[0].mean == pytest.approx(2.8)


def test_a_reference_too_small_for_any_verdict_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least 100"):
        ReferenceLearner(n=99)
