"""Episodes: a run of drifted verdicts is one episode, and one alert, however many windows it lasts.

It owns when an episode begins and ends. It is pure: the caller keeps the state and brings the time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import datetime

CLEAN_TO_CLOSE = 2
"""Clean verdicts in a row that end an episode, unless the caller says otherwise."""


class EpisodeEvent(enum.Enum):
    """What a verdict did to the episode."""

    STARTED = "started"
    CONTINUED = "continued"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """Where the run of verdicts stands; the default value is "no episode, none ever".

    Attributes:
        open: whether an episode is going on.
        number: episodes begun so far; the open or last one's number.
        first_window, last_window: ids of its first and latest drifted window; empty before the first episode.
        started, ended: when; ended is None while open.
        drifted_windows: drifted verdicts in it.
        clean_windows: clean verdicts since the latest drifted one.
        latest: the window of the latest verdict; repeating it changes nothing.
    """

    open: bool = False
    number: int = 0
    first_window: str = ""
    last_window: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    drifted_windows: int = 0
    clean_windows: int = 0
    latest: str = ""


def advance(
    state: EpisodeState, drifted: bool, window_id: str, at: datetime, *, clean_to_close: int = CLEAN_TO_CLOSE
) -> tuple[EpisodeState, EpisodeEvent | None]:
    """Return the state after one verdict, and what happened; None where no episode is concerned.

    A clean verdict inside an episode that does not end it yet is CONTINUED. The verdict of the latest window, seen
    again, changes nothing (reports may come twice).

    Args:
        state: before.
        drifted: the deployment's verdict on the window.
        window_id: the window's id.
        at: when the window ended.
        clean_to_close: clean verdicts in a row that end an episode, >= 1.

    Raises:
        ValueError: clean_to_close < 1.
    """
    if clean_to_close < 1:
        raise ValueError(f"clean_to_close is {clean_to_close}, it must be at least 1")
    if window_id and window_id == state.latest:
        return state, None
    if not state.open:
        if not drifted:
            return replace(state, latest=window_id), None
        begun = EpisodeState(
            open=True,
            number=state.number + 1,
            first_window=window_id,
            last_window=window_id,
            started=at,
            drifted_windows=1,
            latest=window_id,
        )
        return begun, EpisodeEvent.STARTED
    if drifted:
        going = replace(
            state,
            last_window=window_id,
            drifted_windows=state.drifted_windows + 1,
            clean_windows=0,
            latest=window_id,
        )
        return going, EpisodeEvent.CONTINUED
    clean = state.clean_windows + 1
    if clean < clean_to_close:
        return replace(state, clean_windows=clean, latest=window_id), EpisodeEvent.CONTINUED
    return replace(state, open=False, ended=at, clean_windows=clean, latest=window_id), EpisodeEvent.ENDED
