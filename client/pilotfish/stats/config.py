"""How drift is judged: the options, their ranges and defaults.

It owns the configuration and its check. It never computes a statistic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pilotfish.errors import Violation

METHODS: Mapping[str, float] = MappingProxyType(
    {
        "calibrated": 0.001,
        "ks_test": 0.05,
        "psi": 0.2,
        "js_distance": 0.1,
        "wasserstein": 0.1,
        "hellinger": 0.1,
        "chi_square": 0.05,
    }
)
"""Every method by name, with its default threshold."""

_LARGEST_THRESHOLD = {"calibrated": 0.5, "ks_test": 1.0, "chi_square": 1.0, "js_distance": 1.0, "hellinger": 1.0}

P_VALUE_METHODS = frozenset({"calibrated", "ks_test", "chi_square"})
"""Methods whose threshold is a probability: drift when p is below it."""

ROWS_FOR_A_VERDICT = 100
"""No window of fewer rows gets a verdict, whatever is configured."""

REFERENCE_TO_WINDOW = 5
"""A sum of several windows is judged only against a reference this many times as large."""


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """How windows are cut and judged.

    Attributes:
        method: a name in `METHODS`.
        threshold: None: the method's default. calibrated: chance of a false alarm per window, over all features and
            scales, instead of `alpha`; ks_test, chi_square: drift when p is below, per feature; psi (nats), js_distance
            (base 2), hellinger, wasserstein (in standard deviations of the reference): drift when the score is above.
        window_size: rows of a base window, >= 100.
        min_rows: fewest rows of a window that is closed by time, 100..window_size.
        scales: sliding sums of so many base windows that are judged too; 1 is always among them. calibrated only.
        alpha: calibrated: chance of a false alarm per window, over all features and scales.
        effect_floor: calibrated: smallest effect that counts as drift, however certain: the KS distance of a number,
            the total variation distance of a category, the difference of a share of missing or unseen values.
        overdispersion: calibrated: None: estimated from how neighbouring rows vary together, shown, and corrected for
            up to a factor of 8; a number >= 1: used as it is (1 = rows are independent).
        time_limit_s: seconds after which a window with `min_rows` rows is closed before it is full.
    """

    method: str = "calibrated"
    threshold: float | None = None
    window_size: int = 1000
    min_rows: int = 100
    scales: tuple[int, ...] = (1, 4, 16)
    alpha: float = 0.001
    effect_floor: float = 0.03
    overdispersion: float | None = None
    time_limit_s: float = 300.0

    @property
    def effective_threshold(self) -> float:
        """The threshold given, else the method's default (calibrated: alpha)."""
        if self.threshold is not None:
            return self.threshold
        return self.alpha if self.method == "calibrated" else METHODS[self.method]


def validate_drift_config(config: DriftConfig) -> list[Violation]:
    """Return everything that is wrong with a configuration; empty: it can be used."""
    found: list[Violation] = []

    def check(ok: bool, field: str, text: str, reason: str = "OUT_OF_RANGE") -> None:
        if not ok:
            found.append(Violation(field, text, reason))

    known = config.method in METHODS
    check(known, "method", f"{config.method!r} is unknown; use one of {', '.join(METHODS)}", "UNKNOWN_METHOD")
    if config.threshold is not None and known:
        top = _LARGEST_THRESHOLD.get(config.method)
        bound = f"in 0..{top:g} (0 excluded)" if top else "a finite number > 0"
        ok = _number(config.threshold) and 0.0 < config.threshold <= (top or math.inf)
        check(ok, "threshold", f"is {config.threshold!r}, for {config.method} it must be {bound}")
    sizes_ok = _whole(config.window_size) and ROWS_FOR_A_VERDICT <= config.window_size <= 10_000_000
    check(sizes_ok, "window_size", f"is {config.window_size!r}, it must be a whole number in 100..10000000")
    rows_ok = _whole(config.min_rows) and config.min_rows >= ROWS_FOR_A_VERDICT
    check(rows_ok, "min_rows", f"is {config.min_rows!r}, a verdict needs a whole number >= {ROWS_FOR_A_VERDICT}")
    if sizes_ok and rows_ok:
        text = f"is {config.min_rows}, it must not exceed window_size {config.window_size}"
        check(config.min_rows <= config.window_size, "min_rows", text)
    scales = config.scales
    scales_ok = (
        isinstance(scales, tuple)
        and all(_whole(s) and 1 <= s <= 256 for s in scales)
        and 1 in scales
        and len(set(scales)) == len(scales) <= 8
    )
    check(scales_ok, "scales", f"is {scales!r}, it must be 1 to 8 different whole numbers in 1..256 with 1 among them")
    alpha_ok = _number(config.alpha) and 0.0 < config.alpha <= 0.5
    check(alpha_ok, "alpha", f"is {config.alpha!r}, it must be in 0..0.5 (0 excluded)")
    floor_ok = _number(config.effect_floor) and 0.0 <= config.effect_floor < 1.0
    check(floor_ok, "effect_floor", f"is {config.effect_floor!r}, it must be in 0..1 (1 excluded)")
    factor = config.overdispersion
    factor_ok = factor is None or (_number(factor) and 1.0 <= factor <= 1e6)
    check(factor_ok, "overdispersion", f"is {factor!r}, it must be a number >= 1, or unset to estimate it")
    limit_ok = _number(config.time_limit_s) and 1.0 <= config.time_limit_s <= 7 * 86400.0
    check(limit_ok, "time_limit_s", f"is {config.time_limit_s!r}, it must be in 1..604800 seconds")
    return found


def usable_scales(reference_rows: int, config: DriftConfig) -> tuple[int, ...]:
    """Return the scales that this reference is large enough for, rising; always 1.

    A sum of windows needs a reference five times as large, else its verdicts say more about the reference's luck than
    about the data. One window alone is judged against any reference: the tests know how large it is.
    """
    if config.method != "calibrated":
        return (1,)
    fits = (s for s in config.scales if s == 1 or reference_rows >= REFERENCE_TO_WINDOW * s * config.window_size)
    return tuple(sorted({1, *fits}))


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
