"""Windows over a stream of rows: tumbling base windows, sliding sums of them, and a state that outlives a crash.

It owns when a window closes. It keeps whole-number counts only, never rows; it reads no clock (the caller brings the
time) and judges nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from pilotfish.errors import InvalidArgument
from pilotfish.stats.config import DriftConfig, usable_scales, validate_drift_config
from pilotfish.stats.counting import OpenBlock, count_window, known_columns
from pilotfish.stats.counts import BLOCK_ROWS, WindowCounts, merge_counts, sum_counts
from pilotfish.stats.packing import damaged, pack_varints, seal, unseal
from pilotfish.stats.profile import Profile

_MAGIC = b"PFWT"
_FORMAT = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST_US = 250_000_000_000_000_000  # the year 9892, within what datetime can hold


@dataclass(frozen=True, slots=True)
class ClosedWindow:
    """A base window that is complete.

    Attributes:
        id: source and index; unique as long as the source is.
        index: 0, 1, 2, … of this tracker, through restarts.
        rows: rows in it.
        started, ended: when its first and its last row came.
        counts: its own counts.
        sums: scale → counts of so many newest windows with this one; 1 always, others once there are enough windows.
    """

    id: str
    index: int
    rows: int
    started: datetime
    ended: datetime
    counts: WindowCounts
    sums: Mapping[int, WindowCounts]


class WindowTracker:
    """Cuts one stream of rows into windows and counts them.

    A window closes when it has `window_size` rows, exactly, also in the middle of a batch; or `time_limit_s` after its
    first row, if it has `min_rows` by then: if not, its rows stay and it goes on for another time limit.
    """

    def __init__(self, profile: Profile, config: DriftConfig, *, source: str = "window") -> None:
        """Begin without rows.

        Args:
            profile: the reference whose bins are counted.
            config: window size, fewest rows, scales, time limit.
            source: what ids begin with; unique per stream and incarnation.

        Raises:
            InvalidArgument: the configuration is not valid.
        """
        violations = validate_drift_config(config)
        if violations:
            raise InvalidArgument(
                "the drift configuration is not valid", reason="BAD_DRIFT_CONFIG", violations=violations
            )
        self.profile = profile
        self.config = config
        self.source = source
        self.scales = usable_scales(profile.rows, config)
        self._limit = timedelta(seconds=config.time_limit_s)
        self._index = 0
        self._past: deque[WindowCounts] = deque(maxlen=max(self.scales))
        self._begin()

    def _begin(self) -> None:
        self._open: WindowCounts | None = None
        self._block = OpenBlock(len(self.profile.features))
        self._started = self._last = self._due = _EPOCH

    @property
    def rows(self) -> int:
        """Rows in the window that is still open."""
        return self._open.rows if self._open is not None else 0

    @property
    def next_index(self) -> int:
        """The index that the open window will have."""
        return self._index

    @property
    def due(self) -> datetime | None:
        """When `tick` has something to do next; None without rows."""
        return self._due if self._open is not None else None

    @property
    def open_counts(self) -> WindowCounts | None:
        """The counts of the window that is still open; None without rows."""
        return self._open

    def add(
        self, inputs: Mapping[str, npt.ArrayLike], outputs: Mapping[str, npt.ArrayLike] | None, at: datetime
    ) -> list[ClosedWindow]:
        """Return the windows that these rows, or the time, closed; mostly none.

        Args:
            inputs: name → column, shape (rows,).
            outputs: name → column of the answers; None or empty: not known.
            at: when the rows came, with a time zone.

        Raises:
            InvalidArgument: the profile's columns are not one table; nothing has changed then.
            ValueError: the time has no zone.
        """
        in_columns, out_columns, rows = known_columns(self.profile, inputs, outputs or {})
        closed = self.tick(at)
        done = 0
        while done < rows:
            take = min(rows - done, self.config.window_size - self.rows)
            if take > 0:
                part = slice(done, done + take)
                counts = count_window(
                    self.profile,
                    {name: column[part] for name, column in in_columns.items()},
                    {name: column[part] for name, column in out_columns.items()},
                    block=self._block,
                )
                self._keep(counts, at)
                done += take
            if self.rows >= self.config.window_size:
                closed.append(self._close())
        return closed

    def tick(self, at: datetime) -> list[ClosedWindow]:
        """Return the open window if its time is over and it has enough rows; else nothing.

        Args:
            at: now, with a time zone.
        """
        if at.tzinfo is None:
            raise ValueError("the time needs a zone: pass an aware datetime")
        if self._open is None or at < self._due:
            return []
        if self._open.rows >= self.config.min_rows:
            return [self._close()]
        # Too few rows for a verdict: they are carried into the next span of time.
        missed = (at - self._due) // self._limit + 1
        self._due += missed * self._limit
        return []

    def _keep(self, counts: WindowCounts, at: datetime) -> None:
        if self._open is None:
            self._started, self._due = at, at + self._limit
            self._open = counts
        else:
            self._open = merge_counts(self._open, counts)
        self._last = max(self._last, at)

    def _close(self) -> ClosedWindow:
        counts = self._open
        assert counts is not None, "only a window with rows closes"
        self._past.append(counts)
        past = list(self._past)
        sums = {scale: sum_counts(past[-scale:]) for scale in self.scales if scale <= len(past)}
        window = ClosedWindow(
            f"{self.source}-{self._index}", self._index, counts.rows, self._started, self._last, counts, sums
        )
        self._index += 1
        self._begin()
        return window

    def to_bytes(self) -> bytes:
        """Return the whole state, packed and sealed with a checksum: open window, sliding sums, times, index."""
        times = [(moment - _EPOCH) // _MICROSECOND for moment in (self._started, self._last, self._due)]
        parts = [] if self._open is None else [self._open]
        packed = [window.to_bytes() for window in (*parts, *self._past)]
        numbers = [self._index, *times, self._block.rows, *self._block.sums.tolist(), len(parts), len(packed)]
        body = _MAGIC + bytes([_FORMAT]) + self.profile.id.encode("ascii") + pack_varints(numbers)
        return seal(body + b"".join(pack_varints([len(data)]) + data for data in packed))

    @classmethod
    def from_bytes(cls, data: bytes, profile: Profile, config: DriftConfig, *, source: str = "window") -> WindowTracker:
        """Return the tracker of a saved state. The configuration may have changed since; the profile may not.

        Raises:
            InvalidArgument: the bytes are damaged, or of another profile: begin anew then.
        """
        tracker = cls(profile, config, source=source)
        reader = unseal(data, _MAGIC, _FORMAT)
        if reader.take(16) != profile.id.encode("ascii"):
            raise InvalidArgument("this state was counted against another profile", reason="PROFILE_MISMATCH")
        tracker._index, *times = reader.varints(4)
        if max(times) > _LATEST_US:
            raise damaged("a time is beyond the calendar")
        block_rows = reader.varint()
        sums = reader.varints(len(profile.features))
        opened, windows = reader.varints(2)
        if block_rows >= BLOCK_ROWS or opened > 1 or windows > 257 or opened > windows:
            raise damaged("they contradict themselves")
        counts = [WindowCounts.from_bytes(reader.take(reader.varint())) for _ in range(windows)]
        reader.finish()
        if any(c.profile_id != profile.id or not np.array_equal(c.offsets, profile.offsets()) for c in counts):
            raise damaged("a window is of another profile")
        tracker._past.extend(counts[opened:])
        if opened:
            tracker._open = counts[0]
            tracker._block.rows, tracker._block.sums = block_rows, np.array(sums, dtype=np.int64)
            tracker._started, tracker._last, tracker._due = (_EPOCH + t * _MICROSECOND for t in times)
        return tracker
