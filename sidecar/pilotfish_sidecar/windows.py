"""The windows of one replica: learning a reference, counting rows, closing, and a state that survives a kill.

Owns the state between rows and reports. Everything it does follows from the order of rows, ticks and bindings, so
replaying the spool gives the same windows again. It never reads a clock and opens no file.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pilotfish.errors import InvalidArgument
from pilotfish.stats import ClosedWindow, Profile, ReferenceLearner, WindowTracker
from pilotfish_sidecar.config import Binding
from pilotfish_sidecar.drift import Judged, judge_window
from pilotfish_sidecar.rows import Cells, RowBatch, join_batches, read_batch, to_message

__all__ = ["ReplicaWindows", "pack_blobs", "unpack_blobs"]

log = logging.getLogger(__name__)

_SIZE = struct.Struct("<II")
_COUNT_ROWS = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ReplicaWindows:
    """Counts the rows of one replica and closes its windows.

    Counting 10 rows costs as much as counting 300, so rows wait for a few hundred, or for `tick`. That changes
    nothing else: rows that come after the end of a window's time, or that fill it, never wait beside earlier ones.
    """

    def __init__(self, binding: Binding) -> None:
        """Begin without rows."""
        self.binding = binding
        self._tracker: WindowTracker | None = None
        self._learner: ReferenceLearner | None = None
        self._taken: list[bytes] = []
        self._learned_json = ""
        self._waiting: list[RowBatch] = []
        self._waiting_rows = 0
        self._first_us = 0  # when the oldest waiting rows came
        self._start_us = 0  # when the first row of the open window came
        self._last_us = 0  # when the newest row came
        self._prepare(binding.profile)

    def _prepare(self, profile: Profile | None) -> None:
        self._tracker = self._learner = None
        self._taken = []
        drift = self.binding.drift
        if drift is None:
            return
        if profile is None:
            self._learner = ReferenceLearner(self.binding.learn_rows)
        elif profile.features:
            self._tracker = WindowTracker(profile, drift)

    @property
    def learned_rows(self) -> int:
        """Return the rows of the reference learned so far; 0 when there is a profile."""
        return self._learner.rows if self._learner is not None else 0

    @property
    def open_rows(self) -> int:
        """Return the rows of the window that is still open."""
        return self._waiting_rows + (self._tracker.rows if self._tracker is not None else 0)

    # Rows in

    def feed(self, batch: RowBatch, at_us: int) -> list[Judged]:
        """Count the live rows of a batch that were answered without error, and return the windows they close.

        Args:
            batch: rows of this replica.
            at_us: when they came, microseconds since 1970.
        """
        if self._tracker is None and self._learner is None:
            return []
        rows = batch.watched()
        if len(rows) == 0:
            return []
        fills = self._tracker is None or self.open_rows + len(rows) >= self._tracker.config.window_size
        closed = self._flush() if fills or self._must_not_join(rows, at_us) else []
        if not self._waiting:
            self._first_us = at_us
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        self._last_us = at_us
        return closed + self._flush() if fills else closed

    def _must_not_join(self, rows: RowBatch, at_us: int) -> bool:
        if not self._waiting or self._tracker is None:
            return False
        due = self._tracker.due or _moment(self._first_us) + timedelta(seconds=self._tracker.config.time_limit_s)
        return _moment(at_us) >= due or self._waiting_rows >= _COUNT_ROWS or rows.key != self._waiting[0].key

    def _flush(self) -> list[Judged]:
        """Count the rows that wait, and return the windows that they close."""
        if not self._waiting:
            return []
        batch = join_batches(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        try:
            inputs, outputs = batch.by_name()
            if self._learner is not None:
                taken = self._learn(batch, inputs, outputs)
                if taken == len(batch):
                    return []
                inputs = {name: column[taken:] for name, column in inputs.items()}
                outputs = {name: column[taken:] for name, column in outputs.items()}
            return self._count(inputs, outputs)
        except Exception:
            # The rows are stored already: what they do to the counting must not stop the next ones.
            log.exception("replica %s: %d rows are not counted", self.binding.who.replica, len(batch))
            return []

    def _learn(self, batch: RowBatch, inputs: Mapping[str, Cells], outputs: Mapping[str, Cells]) -> int:
        learner = self._learner
        assert learner is not None  # the caller looked
        taken = learner.add(inputs, outputs)
        self._taken.append(to_message(batch).SerializeToString())
        if learner.profile is not None:
            self._learned_json = learner.profile.to_json()
            self._prepare(learner.profile)
        return taken

    def _count(self, inputs: Mapping[str, Cells], outputs: Mapping[str, Cells]) -> list[Judged]:
        tracker = self._tracker
        if tracker is None:
            return []
        began_empty = tracker.rows == 0
        closed = tracker.add(inputs, outputs, _moment(self._first_us))
        if began_empty or closed:
            self._start_us = self._first_us
        return [self._judge(tracker, window) for window in closed]

    # Windows out

    def tick(self, at_us: int) -> list[Judged]:
        """Return the open window if its time is over and it has enough rows; else nothing."""
        closed = self._flush()
        tracker = self._tracker
        if tracker is not None:
            closed += [self._judge(tracker, window) for window in tracker.tick(_moment(at_us))]
        return closed

    def _judge(self, tracker: WindowTracker, window: ClosedWindow) -> Judged:
        judged = judge_window(tracker.profile, tracker.config, window, self._learned_json)
        self._learned_json = ""
        return judged

    def rebind(self, binding: Binding) -> list[Judged]:
        """Take a new binding; where its counts do not add up with those so far, the open window is closed as it is."""
        closed = self._flush()
        old, self.binding = self.binding, binding
        tracker = self._tracker
        if tracker is None:
            if old.drift != binding.drift or old.learn_rows != binding.learn_rows or binding.profile is not None:
                closed += self._restart_learning(binding)
            return closed
        # A reference learned here stays until a real one comes.
        profile = binding.profile or (tracker.profile if tracker.profile.learned else None)
        if binding.drift is not None and profile is not None and profile.id == tracker.profile.id:
            if binding.drift != tracker.config:
                self._tracker = WindowTracker.from_bytes(tracker.to_bytes(), profile, binding.drift)
            return closed
        closed += self._close_early(tracker)
        self._prepare(profile)
        return closed

    def _restart_learning(self, binding: Binding) -> list[Judged]:
        taken = [read_batch(data) for data in self._taken]
        self._prepare(binding.profile)
        return [judged for batch in taken for judged in self.feed(batch, self._last_us)]

    def _close_early(self, tracker: WindowTracker) -> list[Judged]:
        counts = tracker.open_counts
        if counts is None:
            return []
        window = ClosedWindow(
            "", tracker.next_index, counts.rows, _moment(self._start_us), _moment(self._last_us), counts, {1: counts}
        )
        return [self._judge(tracker, window)]

    # Checkpoints

    def to_bytes(self) -> bytes:
        """Return the whole state for a checkpoint."""
        times = {"first": self._first_us, "start": self._start_us, "last": self._last_us}
        head: dict[str, Any] = {**times, "learned": self._learned_json}
        tracker = b""
        if self._tracker is not None:
            tracker = self._tracker.to_bytes()
            # The profile of the binding is in the configuration; one that was learned here is nowhere else.
            if self._tracker.profile.learned:
                head["profile"] = self._tracker.profile.to_json()
        blobs = {"head": json.dumps(head).encode(), "tracker": tracker}
        blobs |= {f"taken:{i}": data for i, data in enumerate(self._taken)}
        blobs |= {f"waiting:{i}": to_message(rows).SerializeToString() for i, rows in enumerate(self._waiting)}
        return pack_blobs(blobs)

    def restore(self, data: bytes) -> None:
        """Take a saved state; one that does not fit the binding is left, with a line in the log."""
        blobs = unpack_blobs(data)
        head = json.loads(blobs["head"])
        if blobs["tracker"] and self.binding.drift is not None:
            profile = Profile.from_json(head["profile"]) if "profile" in head else self.binding.profile
            try:
                if profile is not None:
                    self._learner = None
                    self._tracker = WindowTracker.from_bytes(blobs["tracker"], profile, self.binding.drift)
            except InvalidArgument as error:
                log.warning("replica %s: its windows begin anew: %s", self.binding.who.replica, error)
        for name, packed in blobs.items():
            if name.startswith("taken:") and self._learner is not None:
                batch = read_batch(packed)
                self._learn(batch, *batch.by_name())
            elif name.startswith("waiting:"):
                self._waiting.append(read_batch(packed))
        self._waiting_rows = sum(len(rows) for rows in self._waiting)
        self._first_us, self._start_us, self._last_us = head["first"], head["start"], head["last"]
        self._learned_json = head["learned"]


def _moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def pack_blobs(blobs: Mapping[str, bytes]) -> bytes:
    """Return named bytes in one piece."""
    parts = []
    for name, data in blobs.items():
        raw = name.encode()
        parts += [_SIZE.pack(len(raw), len(data)), raw, data]
    return b"".join(parts)


def unpack_blobs(data: bytes) -> dict[str, bytes]:
    """Return the named bytes of `pack_blobs`."""
    blobs, position = {}, 0
    while position < len(data):
        name_size, size = _SIZE.unpack_from(data, position)
        position += _SIZE.size
        name = data[position : position + name_size].decode()
        position += name_size
        blobs[name] = data[position : position + size]
        position += size
    return blobs
