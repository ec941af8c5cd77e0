"""Figures of the drift statistics: time of a verdict, false alarms, delay; peers are scipy's KS test by the textbook.

BENCH_WINDOWS sets the clean windows of the simulation (default 4000, about 40 s on two cores).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any  # Any: figures hold texts and numbers

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

from pilotfish.stats import (
    DriftConfig,
    Profile,
    WindowCounts,
    build_profile,
    columns_from_matrix,
    count_window,
    sum_counts,
    usable_scales,
    verdict,
)

FEATURES = 50
ROWS = 1000
NAMES = [f"f{i:02}" for i in range(FEATURES)]
SHIFTED = 7
CONFIG = DriftConfig()
SEED = 20261101

Matrix = npt.NDArray[np.float64]


def clean_rows(rows: int, rng: np.random.Generator) -> Matrix:
    """Return rows of 50 features: 30 normal, 10 log-normal, 5 counts, 5 with two thirds zeros."""
    matrix = rng.standard_normal((rows, FEATURES))
    np.exp(matrix[:, 30:40], out=matrix[:, 30:40])
    matrix[:, 40:45] = np.floor(np.exp(0.8 * matrix[:, 40:45]) * 2.0)
    matrix[:, 45:50] = np.where(matrix[:, 45:50] < 0.43, 0.0, matrix[:, 45:50])
    return matrix


def counted(profile: Profile, matrix: Matrix) -> WindowCounts:
    """Return the counts of a matrix of rows."""
    return count_window(profile, columns_from_matrix(matrix, NAMES))


def newest_sums(profile: Profile, history: list[WindowCounts]) -> dict[int, WindowCounts]:
    """Return the sums of the newest 1, 4 and 16 windows, as far as there are so many and the reference carries them."""
    scales = usable_scales(profile.rows, CONFIG)
    return {scale: sum_counts(history[-scale:]) for scale in scales if scale <= len(history)}


def ks_p_value(reference: Matrix, window: Matrix, feature: int) -> float:
    """Return scipy's p-value of one feature, in its fastest form."""
    result: Any = scipy_stats.ks_2samp(reference[:, feature], window[:, feature], method="asymp")
    return float(result.pvalue)


def ks_p_values(reference: Matrix, window: Matrix) -> list[float]:
    """Return scipy's p-value of each feature."""
    return [ks_p_value(reference, window, i) for i in range(FEATURES)]


def median_ms(*works: Callable[[], object], repeats: int) -> list[float]:
    """Return the median CPU milliseconds of each work, run in turns; CPU, so that a busy machine measures the same."""
    taken: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _, (i, work) in itertools.product(range(repeats), enumerate(works)):
        begin = time.process_time()
        work()
        taken[i].append(1e3 * (time.process_time() - begin))
    return [float(np.median(times)) for times in taken]


def verdict_time() -> dict[str, Any]:
    """Return the time of counting and judging 1000 rows x 50 features, next to a loop over scipy's KS test."""
    rng = np.random.default_rng(SEED)
    reference, repeats = clean_rows(20_000, rng), 15
    profile = build_profile(columns_from_matrix(reference, NAMES))
    history = [counted(profile, clean_rows(ROWS, rng)) for _ in range(16)]
    window = clean_rows(ROWS, rng)
    columns = {name: np.ascontiguousarray(column) for name, column in columns_from_matrix(window, NAMES).items()}

    def ours() -> object:
        counts = count_window(profile, columns)
        return verdict(profile, newest_sums(profile, [*history[1:], counts]), CONFIG)

    value, peer = median_ms(ours, lambda: ks_p_values(reference, window), repeats=repeats)
    return figure("drift.verdict_ms", value, "ms of CPU", "scipy ks_2samp loop", peer, peer / value, repeats)


def simulate(windows: int) -> Iterator[dict[str, Any]]:
    """Yield false alarms per 100 clean windows, and windows until a shift of 0.5 deviations is found."""
    rng = np.random.default_rng(SEED + 1)
    streams = max(4, windows // 250)
    alarms = naive = judged = naive_judged = 0
    delays: list[int] = []
    peer_delays: list[int] = []
    for stream in range(streams):
        # Large enough for sums of 16 windows: the reference has 5 times as many rows.
        reference = clean_rows(80_000, rng)
        profile = build_profile(columns_from_matrix(reference, NAMES))
        history: list[WindowCounts] = []
        for i in range(windows // streams):
            rows = clean_rows(ROWS, rng)
            history = [*history[-15:], counted(profile, rows)]
            alarms += verdict(profile, newest_sums(profile, history), CONFIG).drifted
            judged += 1
            if i % 125 == 0:
                naive += min(ks_p_values(reference, rows)) < 0.05
                naive_judged += 1
        for trial in range(3):
            ours, theirs = delay(profile, reference if trial == stream % 3 else None, history, rng)
            delays.append(ours)
            peer_delays += [theirs] if theirs else []
    value, peer = 100.0 * alarms / judged, 100.0 * naive / naive_judged
    # With no alarm at all the rate is only known to be below one in so many windows.
    ratio = peer / max(value, 100.0 / judged)
    yield figure("drift.false_alarms_per_100", value, "windows", "any scipy KS p < 0.05", peer, ratio, judged)
    value, peer = float(np.quantile(delays, 0.99)), float(np.quantile(peer_delays, 0.99))
    yield figure(
        "drift.delay_windows", value, "windows (p99)", "scipy KS, Bonferroni 0.05", peer, peer / value, len(delays)
    )


def delay(
    profile: Profile, reference: Matrix | None, clean: list[WindowCounts], rng: np.random.Generator
) -> tuple[int, int]:
    """Return windows until the shift is found, by us and (given the reference's rows) by the peer; 0: not run."""
    history, ours, theirs = list(clean), 0, 0
    for window in range(1, 51):
        rows = clean_rows(ROWS, rng)
        rows[:, SHIFTED] += 0.5
        history = [*history[-15:], counted(profile, rows)]
        found = verdict(profile, newest_sums(profile, history), CONFIG)
        ours = ours or (window if found.features[SHIFTED].drifted else 0)
        if reference is not None and not theirs:
            theirs = window if ks_p_value(reference, rows, SHIFTED) < 0.05 / FEATURES else 0
        if ours and (theirs or reference is None):
            break
    return ours or 50, theirs


def figure(name: str, value: float, unit: str, peer: str, peer_value: float, ratio: float, n: int) -> dict[str, Any]:
    """Return one line of the report; a ratio above 1 means that we are better."""
    return {
        "figure": name,
        "value": round(value, 4),
        "unit": unit,
        "peer": peer,
        "peer_value": round(peer_value, 4),
        "ratio": round(ratio, 2),
        "n": n,
    }


def run() -> Iterator[dict[str, Any]]:
    """Yield every figure of this benchmark."""
    yield verdict_time()
    yield from simulate(int(os.environ.get("BENCH_WINDOWS", "4000")))
