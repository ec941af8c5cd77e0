"""How much rows that depend on their neighbours inflate the variance of counts, estimated from the counts themselves.

Rows of one user, one batch or one hour resemble each other; tests that take them for independent see drift where there
is none (AR 0.5 turns a nominal 0.1 % into more than half of all windows). It owns this estimate and nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pilotfish.stats.counts import BLOCK_ROWS, BLOCK_SQUARES, BLOCK_SUM, MISSING, UNSEEN, WindowCounts
from pilotfish.stats.profile import Profile

Floats = npt.NDArray[np.float64]

_NOISE_DEVIATIONS = 4.0
_FEWEST_BLOCKS = 8.0


def _ar1_inflation() -> tuple[Floats, Floats]:
    """Return how much AR(1) series of rising dependence inflate the variance of sums of a block, of many rows."""
    rho = np.linspace(0.0, 0.97, 98)
    long = (1.0 + rho) / (1.0 - rho)
    return long - 2.0 * rho * (1.0 - rho**BLOCK_ROWS) / (BLOCK_ROWS * (1.0 - rho) ** 2), long


_BLOCK_INFLATION, _LONG_INFLATION = _ar1_inflation()


def estimate_overdispersion(profile: Profile, windows: list[WindowCounts]) -> Floats:
    """Return by how much dependence between neighbouring rows inflates the variance of counts, >= 1, per row.

    The variance of sums of bin numbers over blocks of 10 rows, over what independent rows would have, carried on to
    long sums as if the dependence faded by the same factor from row to row (an AR(1) series). An estimate within the
    noise of independent rows (4 standard deviations, by their kurtosis) counts as 1.

    Args:
        profile: the reference, with at least one feature.
        windows: counts against it; rows of the result are ordered by window and then by feature.
    """
    bins = np.stack([window.bins for window in windows]).astype(np.float64)
    whole = np.concatenate([window.whole for window in windows]).astype(np.float64)
    blocks = np.repeat([float(window.blocks) for window in windows], len(profile.features))
    starts = profile.offsets()[:-1]
    widths = np.diff(profile.offsets())
    codes = np.arange(bins.shape[1]) - np.repeat(starts, widths)
    sizes = np.tile(widths.astype(np.float64), bins.shape[0])
    missing, unseen = whole[:, MISSING], whole[:, UNSEEN]

    def power_sum(centre: Floats, power: int) -> Floats:
        per_bin = np.repeat(centre.reshape(bins.shape[0], -1), widths, axis=1)
        spread = bins * (codes - per_bin) ** power
        sums = np.add.reduceat(spread, starts, axis=1).ravel()
        return np.asarray(sums + missing * (sizes - centre) ** power + unseen * (sizes + 1.0 - centre) ** power)

    zero = np.zeros(sizes.size)
    rows = np.maximum(power_sum(zero, 0), 1.0)
    mean = power_sum(zero, 1) / rows
    variance = power_sum(mean, 2) / rows
    usable = (variance > 0.0) & (blocks >= _FEWEST_BLOCKS)
    variance = np.where(usable, variance, 1.0)
    count = np.where(usable, blocks, _FEWEST_BLOCKS)
    between = (whole[:, BLOCK_SQUARES] - whole[:, BLOCK_SUM] ** 2 / count) / (count - 1.0)
    estimate = between / (BLOCK_ROWS * variance)
    excess = np.maximum(power_sum(mean, 4) / rows / variance**2 - 3.0, 0.0) / BLOCK_ROWS
    ninth = (2.0 + excess) / count / 9.0
    noise = (1.0 - ninth + _NOISE_DEVIATIONS * np.sqrt(ninth)) ** 3
    carried_on = np.interp(estimate, _BLOCK_INFLATION, _LONG_INFLATION)
    return np.where(usable & (estimate > noise), carried_on, 1.0)
