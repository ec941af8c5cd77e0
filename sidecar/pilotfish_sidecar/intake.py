"""Where everything that the sidecar keeps comes in: one order of events, on disk and in memory alike.

Owns the state that follows from the spool (bindings, windows, open spans, books) and the one rule that keeps it
right: first the records are appended, then the same `_apply` that recovery uses changes the state. A kill between the
two is made good by replaying. It never waits for the network.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pilotfish.errors import InvalidArgument, PilotfishError
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish_sidecar.accounts import Accounts
from pilotfish_sidecar.capture import Captured, split_sample
from pilotfish_sidecar.clock import Clock
from pilotfish_sidecar.config import Binding, parse_config
from pilotfish_sidecar.drift import Judged, report_window
from pilotfish_sidecar.frames import Draft, Kind, Record
from pilotfish_sidecar.outcomes import OutcomeSpan, pack_calls, unpack_calls
from pilotfish_sidecar.rows import RowBatch, Who, read_batch, to_message
from pilotfish_sidecar.spool import Checkpoint, Spool
from pilotfish_sidecar.windows import ReplicaWindows, pack_blobs, unpack_blobs

__all__ = ["Intake"]

log = logging.getLogger(__name__)

MAX_RETIRED = 32
_MICROSECONDS = 1_000_000
_TRUTH_ROWS = 1000
Meta = Mapping[str, Any]  # Any: JSON values


class Intake:
    """The state of one sidecar and the only way to change it.

    Args:
        spool: opened, not begun.
        clock: stamps what comes.
        fallback: who is served while no configuration has come.
    """

    def __init__(self, spool: Spool, clock: Clock, fallback: Binding) -> None:
        """Recover the state from the spool and begin a new incarnation in it."""
        self.spool = spool
        self.accounts = Accounts()
        self.config = fleet.MemberConfig()
        self.bindings: dict[str, Binding] = {}
        self.fallback = fallback
        self.windows = {fallback.who.replica: ReplicaWindows(fallback)}
        self.verdicts: dict[str, fleet.WindowReport] = {}
        self._clock = clock
        self._spans: dict[str, OutcomeSpan] = {}
        self._closed: list[tuple[Who, Judged]] = []
        self._unreported: list[Draft] = []
        self._window_index = 0
        self.recovered_records = self._recover()
        self._draft_reports()
        spool.begin(self._checkpoint)
        self._report_windows()

    # Recovery

    def _recover(self) -> int:
        count = 0
        for record in self.spool.replay():
            count += 1
            try:
                if record.kind is Kind.CHECKPOINT:
                    self._restore(record)
                else:
                    self._apply(record.kind, record.meta, record.extra, record.payload, None)
            except Exception:
                # Written by another release: what is to be sent is still there, only this piece of state is not.
                log.exception("record %d (%s) cannot be used for recovery", record.lsn, record.kind.name)
        return count

    def _restore(self, record: Record) -> None:
        self.accounts = Accounts.from_json(record.meta.get("accounts", {}))
        blobs = unpack_blobs(record.payload)
        if blobs.get("config"):
            self._take_config(fleet.MemberConfig.FromString(blobs["config"]), 0)
        for name, data in blobs.items():
            kind, _, replica = name.partition(":")
            if kind == "windows" and replica in self.windows:
                self.windows[replica].restore(data)
            elif kind == "calls":
                self._spans.setdefault(replica, OutcomeSpan()).restore(data)
            elif kind == "unreported":
                meta = {"replica": replica.partition("/")[0]}
                self._unreported.append(Draft(Kind.WINDOWS, 1, data, meta))

    def _checkpoint(self) -> Checkpoint:
        blobs = {"config": self.config.SerializeToString()}
        blobs |= {f"windows:{name}": windows.to_bytes() for name, windows in self.windows.items()}
        blobs |= {f"calls:{name}": span.to_bytes() for name, span in self._spans.items() if span.calls}
        for i, draft in enumerate(self._unreported):
            blobs[f"unreported:{draft.meta['replica']}/{i}"] = draft.payload
        return Checkpoint({"accounts": self.accounts.to_json()}, pack_blobs(blobs))

    # The one way in

    def _append(self, drafts: Sequence[Draft], batches: Sequence[RowBatch | None], *, refuse: bool = False) -> None:
        """Append a group and let it take effect.

        Args:
            drafts: the group.
            batches: the rows of each draft, None where it has none.
            refuse: rather fail than drop what is not acknowledged.

        Raises:
            ResourceExhausted: the disk has no room.
            OSError: the disk is broken.
        """
        self.spool.append(drafts, refuse_when_full=refuse)
        for draft, batch in zip(drafts, batches, strict=True):
            self._apply(draft.kind, draft.meta, draft.extra, draft.payload, batch)
        self._report_windows()

    def _apply(self, kind: Kind, meta: Meta, extra: bytes, payload: bytes, batch: RowBatch | None) -> None:
        """Change the state as a record says; the same live and at recovery."""
        self.accounts.apply(meta)
        if kind in (Kind.PREDICTIONS, Kind.UNSAMPLED):
            rows = batch if batch is not None else read_batch(payload)
            windows = self.windows.get(rows.who.replica)
            if windows is not None:
                at_us = int(meta["at"])
                self._closed += ((windows.binding.who, judged) for judged in windows.feed(rows, at_us))
        elif kind is Kind.OUTCOMES:
            self._spans.pop(meta["replica"], None)
        elif kind is Kind.WINDOWS:
            self._forget_reported(meta["replica"], meta)
            self.verdicts[meta["replica"]] = fleet.WindowReport.FromString(payload)
        if "config" in meta:
            self._take_config(fleet.MemberConfig.FromString(payload), int(meta["at"]))
        if extra:
            self._count_calls(meta, extra)

    def _count_calls(self, meta: Meta, extra: bytes) -> None:
        replicas = meta["replicas"]
        calls = unpack_calls(extra)
        for i, replica in enumerate(replicas):
            own = [call for call in calls if call.replica == i] if len(replicas) > 1 else calls
            self._spans.setdefault(replica, OutcomeSpan()).add(own)

    def _forget_reported(self, replica: str, meta: Meta) -> None:
        """At recovery: the window that replaying closed was reported before the kill."""
        windows = self.windows.get(replica)
        if "tick" in meta and windows is not None:
            self._closed += ((windows.binding.who, judged) for judged in windows.tick(int(meta["tick"])))
        for i, draft in enumerate(self._unreported):
            if draft.meta["replica"] == replica:
                del self._unreported[i]
                return
        for i, (who, judged) in enumerate(self._closed):
            if who.replica == replica:
                if judged.window.rows != meta.get("rows"):
                    log.warning("replica %s: a replayed window has %d rows", replica, judged.window.rows)
                del self._closed[i]
                return

    # What comes in

    def store_captured(self, captured: Captured, meta: Meta, *, refuse: bool = False) -> None:
        """Append the rows and calls of captured calls as one group.

        Args:
            captured: what was read.
            meta: further facts, such as the tap's watermark.
            refuse: rather fail than drop what is not acknowledged.

        Raises:
            ResourceExhausted: the disk has no room.
            OSError: the disk is broken.
        """
        at_us = self._now_us()
        drafts: list[Draft] = []
        batches: list[RowBatch | None] = []
        for batch in captured.batches:
            for kind, part in self._sampled(batch):
                payload = to_message(part).SerializeToString()
                drafts.append(Draft(kind, len(part) if kind is Kind.PREDICTIONS else 0, payload, {"at": at_us}))
                batches.append(part)
        facts = dict(meta)
        if captured.undecodable:
            facts["undecodable"] = captured.undecodable
        if captured.calls:
            facts["replicas"] = captured.replicas
        drafts.append(Draft(Kind.MARK, 0, meta=facts, extra=pack_calls(captured.calls)))
        self._append(drafts, [*batches, None], refuse=refuse)

    def _sampled(self, batch: RowBatch) -> list[tuple[Kind, RowBatch]]:
        binding = self.bindings.get(batch.who.replica)
        kept, rest = split_sample(batch, binding.sample_bp) if binding is not None else (batch, None)
        parts = ((Kind.PREDICTIONS, kept), (Kind.UNSAMPLED, rest))
        return [(kind, part) for kind, part in parts if part is not None]

    def store_raw(self, payload: bytes, calls: int, meta: Meta) -> None:
        """Append captured calls that wait for a configuration."""
        self._append([Draft(Kind.RAW, 0, payload, {**meta, "calls": calls})], [None])

    def store_truths(self, batch: monitoring.GroundTruthBatch, meta: Meta, *, refuse: bool) -> None:
        """Append true values in pieces that fit one message, as one group.

        Raises:
            ResourceExhausted: the disk has no room.
            OSError: the disk is broken.
        """
        drafts = []
        rows = len(batch.prediction_ids)
        for start in range(0, rows, _TRUTH_ROWS):
            part = slice(start, start + _TRUTH_ROWS)
            piece = monitoring.GroundTruthBatch(
                deployment=batch.deployment,
                prediction_ids=batch.prediction_ids[part],
                values=batch.values[part],
                labels=batch.labels[part],
                times_us=batch.times_us[part],
            )
            drafts.append(Draft(Kind.TRUTHS, len(piece.prediction_ids), piece.SerializeToString()))
        drafts.append(Draft(Kind.MARK, 0, meta=meta))
        self._append(drafts, [None] * len(drafts), refuse=refuse)

    def store_mark(self, meta: Meta) -> None:
        """Append facts without rows."""
        self._append([Draft(Kind.MARK, 0, meta=meta)], [None])

    # Configuration

    def store_config(self, config: fleet.MemberConfig) -> None:
        """Take a configuration, durably once the spool is synced.

        A replica that it does not name any more keeps its binding: what a draining server still answers, and what
        waits in the spool, must be read as before.

        Raises:
            InvalidArgument: it is refused; the last good one stays in force.
        """
        parse_config(config.sidecar)
        merged = fleet.MemberConfig.FromString(config.SerializeToString())
        named = {binding.replica for binding in config.sidecar.bindings}
        kept = merged.sidecar.bindings
        kept.extend(each for each in self.config.sidecar.bindings if each.replica not in named)
        for each in kept:
            each.retired = each.replica not in named
        # Of those, the newest: a server whose models come and go must not fill the list for ever.
        del kept[len(named) + MAX_RETIRED :]
        meta = {"config": config.version, "at": self._now_us()}
        self._append([Draft(Kind.MARK, 0, merged.SerializeToString(), meta)], [None])

    def _take_config(self, config: fleet.MemberConfig, at_us: int) -> None:
        try:
            bindings = {binding.who.replica: binding for binding in parse_config(config.sidecar)}
        except InvalidArgument as error:  # written by another release
            log.error("the kept configuration %d cannot be used: %s", config.version, error)
            return
        for replica, binding in bindings.items():
            if replica in self.windows:
                # The window that is closed by this was served under the old binding.
                who = self.windows[replica].binding.who
                self._closed += ((who, judged) for judged in self.windows[replica].rebind(binding))
            else:
                self.windows[replica] = ReplicaWindows(binding)
        self.config, self.bindings = config, bindings

    # What goes out

    def tick(self, *, spans: bool = True) -> None:
        """Close windows whose time is over and, about once a second, spans of calls.

        Args:
            spans: whether spans are closed too.
        """
        now_us = self._now_us()
        for windows in self.windows.values():
            for judged in windows.tick(now_us):
                draft = self._draft(windows.binding.who, judged)
                self._unreported.append(Draft(Kind.WINDOWS, 1, draft.payload, {**draft.meta, "tick": now_us}))
        self._report_windows()
        if spans:
            self.close_spans()

    def close_spans(self) -> None:
        """Append the outcome of every replica that answered calls since the last time."""
        for replica, span in list(self._spans.items()):
            binding = self.bindings.get(replica, self.fallback if replica == self.fallback.who.replica else None)
            if span.calls == 0 or binding is None or not binding.who.deployment:
                continue
            payload = span.report(binding.who).SerializeToString()
            try:
                self.spool.append([Draft(Kind.OUTCOMES, 1, payload, {"replica": replica})])
            except (PilotfishError, OSError) as error:
                log.warning("the counts of %d calls wait for the disk: %s", span.calls, error)
                return
            del self._spans[replica]

    def _draft_reports(self) -> None:
        self._unreported += (self._draft(who, judged) for who, judged in self._closed)
        self._closed = []

    def _report_windows(self) -> None:
        """Append reports of closed windows; what cannot be written now is tried again."""
        self._draft_reports()
        while self._unreported:
            try:
                self.spool.append([self._unreported[0]])
            except (PilotfishError, OSError) as error:
                log.warning("%d window reports wait for the disk: %s", len(self._unreported), error)
                return
            self._unreported.pop(0)

    def _draft(self, who: Who, judged: Judged) -> Draft:
        report = report_window(judged, who, incarnation=self.spool.incarnation, index=self._window_index)
        self._window_index += 1
        self.verdicts[who.replica] = report
        meta = {"replica": who.replica, "rows": judged.window.rows}
        return Draft(Kind.WINDOWS, 1, report.SerializeToString(), meta)

    def _now_us(self) -> int:
        return int(self._clock.time_s() * _MICROSECONDS)
