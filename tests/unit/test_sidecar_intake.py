"""The agent's state follows from its spool: killed anywhere, it goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pilotfish.stats import Profile, WindowCounts, count_window
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish_sidecar.capture import Captured
from pilotfish_sidecar.config import Binding, parse_config
from pilotfish_sidecar.frames import Draft, Kind
from pilotfish_sidecar.intake import Intake
from pilotfish_sidecar.outcomes import Call
from pilotfish_sidecar.rows import INPUT, LIVE, OUTPUT, RowBatch, Who, hash_rows, pack_column
from pilotfish_sidecar.spool import Spool, SpoolLimits
from pilotfish_sidecar.tap import Protocol, Role, TapIdentity, TapRecord
from pilotfish_sidecar.tapping import TapIntake
from pilotfish_sidecar.windows import ReplicaWindows
from tests.sidecar_fleet import FEATURES, METHOD, call_bytes, reference, sidecar_config

WHO = Who("d1", "r1", "fraud", "fraud", 7)


class StillClock:
    """A clock that stands until it is moved."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def time_s(self) -> float:
        return self.now_s

    def monotonic_s(self) -> float:
        return self.now_s


def batch_of(rng: np.random.Generator, rows: int, *, code: int = 0, shift: float = 0.0) -> RowBatch:
    columns = [pack_column(name, INPUT, (rng.normal(size=rows) + shift).astype(np.float32)) for name in FEATURES]
    if code == 0:
        columns.append(pack_column("prediction", OUTPUT, rng.normal(size=rows).astype(np.float32)))
    return RowBatch(
        who=WHO,
        ids=[f"p{rng.integers(1 << 60)}" for _ in range(rows)],
        times_us=np.full(rows, 1, dtype=np.int64),
        latencies_us=np.full(rows, 1000, dtype=np.int64),
        roles=np.full(rows, LIVE, dtype=np.uint8),
        codes=np.full(rows, code, dtype=np.uint32),
        hashes=hash_rows(columns, rows),
        columns=tuple(columns),
    )


class Sidecar:
    """An intake in a directory that can be killed: what it had in memory is gone, its files stay."""

    def __init__(self, root: Path, *, limits: SpoolLimits | None = None) -> None:
        self.root, self.life, self.clock = root, 0, StillClock()
        self.limits = limits or SpoolLimits(segment_bytes=24 << 10)
        self.intake = self._open()

    def _open(self) -> Intake:
        spool = Spool(self.root / str(self.life), "sidecar-r1", self.limits, self.clock)
        return Intake(spool, self.clock, Binding(WHO))

    def kill(self, cut: int = 0) -> None:
        """Go on with a copy of the files, the last `cut` bytes of the log missing."""
        self.life += 1
        shutil.copytree(self.root / str(self.life - 1), self.root / str(self.life))
        last = max((self.root / str(self.life)).glob("*.seg"))
        if cut:
            last.write_bytes(last.read_bytes()[:-cut])
        self.intake.spool.close()
        self.intake = self._open()

    def store(self, batch: RowBatch) -> None:
        calls = [Call(0, int(code), 1000, 5) for code in batch.codes]
        self.intake.store_captured(Captured(batches=[batch], calls=calls, replicas=["r1"]), {})

    def reports(self, kind: Kind = Kind.WINDOWS) -> list[bytes]:
        """Return the payloads of every record of a kind on the disk."""
        return [
            record.payload
            for segment in self.intake.spool.segments()
            for _, record in segment.records()
            if record.kind is kind
        ]

    def windows(self) -> list[fleet.WindowReport]:
        return [fleet.WindowReport.FromString(payload) for payload in self.reports()]

    def outcomes(self) -> list[fleet.OutcomeReport]:
        return [fleet.OutcomeReport.FromString(payload) for payload in self.reports(Kind.OUTCOMES)]


def total_bins(reports: list[fleet.WindowReport], intake: Intake) -> np.ndarray[Any, Any]:
    """Return the bins of all closed windows and the open one, added up."""
    counts = [WindowCounts.from_bytes(report.counts[0].counts).bins for report in reports]
    assert intake.windows["r1"].tick(0) == []  # counts the rows that wait
    tracker = intake.windows["r1"]._tracker
    if tracker is not None and tracker.open_counts is not None:
        counts.append(tracker.open_counts.bins)
    return np.asarray(np.sum(counts, axis=0))


def direct_bins(profile: Profile, batches: list[RowBatch]) -> np.ndarray[Any, Any]:
    """Return the bins of all rows, counted at once."""
    inputs = {name: np.concatenate([b.columns[i].values for b in batches]) for i, name in enumerate(FEATURES)}
    outputs = {"prediction": np.concatenate([b.columns[3].values for b in batches])}
    return count_window(profile, inputs, outputs).bins


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_windows_and_calls_are_the_same_however_often_it_is_killed(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    profile = reference()
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=profile))
    ok: list[RowBatch] = []
    calls = 0
    for _ in range(150):
        action = choose.random()
        if action < 0.75:
            batch = batch_of(rng, choose.randint(1, 130), code=choose.choice([0, 0, 0, 13]))
            sidecar.store(batch)
            calls += len(batch)
            if batch.codes[0] == 0:
                ok.append(batch)
        elif action < 0.85:
            sidecar.clock.now_s += 1
            sidecar.intake.tick()
        elif action < 0.9:
            sidecar.clock.now_s += 301
            sidecar.intake.tick()
        else:
            sidecar.kill()
    sidecar.intake.close_spans()
    reports = sidecar.windows()
    rows = sum(len(batch) for batch in ok)
    assert sum(report.rows for report in reports) + sidecar.intake.windows["r1"].open_rows == rows
    assert np.array_equal(total_bins(reports, sidecar.intake), direct_bins(profile, ok))
    assert len({report.window for report in reports}) == len(reports)
    assert all(report.rows <= 100 for report in reports)
    assert sum(report.calls for report in sidecar.outcomes()) == calls
    assert sum(report.errors["INTERNAL"] for report in sidecar.outcomes()) == calls - rows


def test_a_kill_between_rows_and_their_window_report_makes_the_report_good(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path, limits=SpoolLimits())
    sidecar.intake.store_config(sidecar_config(profile=reference()))
    rng = np.random.default_rng(4)
    sidecar.store(batch_of(rng, 60))
    before = sidecar.intake.spool.segments()[-1].size
    sidecar.store(batch_of(rng, 60))
    (report,) = sidecar.windows()
    written = sidecar.intake.spool.segments()[-1].size - before
    # Cut the report off, but not the rows that closed the window: it stands behind them.
    sidecar.kill(cut=len(report.SerializeToString()) // 2)
    (again,) = sidecar.windows()
    assert written > 0
    assert (again.rows, again.counts[0].counts) == (100, report.counts[0].counts)
    assert again.window != report.window and again.window.endswith("/0")
    # And once more, while it is being made good.
    sidecar.kill(cut=len(again.SerializeToString()) // 2)
    (third,) = sidecar.windows()
    assert (third.rows, third.counts[0].counts) == (100, report.counts[0].counts)
    assert sidecar.intake.windows["r1"].open_rows == 20


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_when_the_clock_is_looked_at_changes_no_window(tmp_path: Path, seed: int) -> None:
    """Replaying sees no clock: windows must come out the same without the ticks that closed nothing."""
    print(f"seed {seed}")
    choose = random.Random(seed)
    steps = [(choose.randint(1, 130), choose.choice([0.01, 0.2, 0.9, 4.0, 12.0])) for _ in range(300)]
    found = []
    for ticks in (True, False):
        rng = np.random.default_rng(seed)
        config = sidecar_config(profile=reference(), window_size=300, window_time_s=10.0)
        windows = ReplicaWindows(parse_config(config.sidecar)[0])
        now, closed = 1_000_000, []
        for rows, wait_s in steps:
            closed += windows.feed(batch_of(rng, rows), now)
            due = now + int(wait_s * 1e6)
            while ticks and now < due:
                now = min(now + 500_000, due)
                closed += windows.tick(now)
            now = due
        # Whole numbers are exact; sums of floats depend on the order of adding.
        found.append([(j.window.rows, j.window.counts.bins.tolist(), j.window.counts.whole.tolist()) for j in closed])
    with_ticks, without = found
    # The last window may be closed by a tick alone.
    assert without == with_ticks[: len(without)] and len(with_ticks) - len(without) <= 1
    assert {rows for rows, _, _ in without} > {300} and len(without) > 20


def test_windows_close_at_exactly_the_boundary_inside_a_batch(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference(), window_size=100))
    sidecar.store(batch_of(np.random.default_rng(5), 730))
    assert [report.rows for report in sidecar.windows()] == [100] * 7
    assert sidecar.intake.windows["r1"].open_rows == 30
    assert [report.index for report in sidecar.windows()] == list(range(7))


def test_rows_that_failed_or_are_not_live_are_not_counted_in_windows(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference()))
    rng = np.random.default_rng(6)
    shadow = batch_of(rng, 50)
    shadow.roles[:] = LIVE + 1
    sidecar.store(shadow)
    sidecar.store(batch_of(rng, 40, code=14))
    sidecar.store(batch_of(rng, 30))
    assert sidecar.intake.windows["r1"].open_rows == 30


def test_a_drifted_window_says_so_and_a_clean_one_does_not(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference(), window_size=500))
    rng = np.random.default_rng(7)
    sidecar.store(batch_of(rng, 500))
    sidecar.store(batch_of(rng, 500, shift=1.0))
    clean, drifted = sidecar.windows()
    assert not clean.verdict.drifted
    assert drifted.verdict.drifted and drifted.verdict.features[0].drifted
    assert {f.feature for f in drifted.verdict.features if f.drifted} == set(FEATURES)
    assert {f.reason for f in drifted.verdict.features if f.drifted} == {"distribution"}
    assert drifted.verdict.profile_id == reference().id


def test_a_reference_is_learned_from_exactly_the_first_rows_through_kills(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(learn_rows=500, window_size=100))
    rng = np.random.default_rng(8)
    for i in range(12):
        sidecar.store(batch_of(rng, 60))
        if i < 8:
            assert sidecar.intake.windows["r1"].learned_rows == 60 * (i + 1)
        sidecar.kill()
    reports = sidecar.windows()
    learned = [report for report in reports if report.learned_profile_json]
    assert len(learned) == 1 and learned[0] == reports[0]
    profile = Profile.from_json(learned[0].learned_profile_json)
    assert (profile.rows, profile.learned) == (500, True)
    assert {report.profile_id for report in reports} == {profile.id}
    assert sum(r.rows for r in reports) + sidecar.intake.windows["r1"].open_rows == 720 - 500


def test_the_learned_reference_stays_when_the_control_plane_sends_it_back(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(learn_rows=100, window_size=100))
    rng = np.random.default_rng(9)
    sidecar.store(batch_of(rng, 250))
    profile = Profile.from_json(sidecar.windows()[0].learned_profile_json)
    sidecar.intake.store_config(sidecar_config(2, profile=profile, window_size=100))
    assert sidecar.intake.windows["r1"].open_rows == 50
    sidecar.store(batch_of(rng, 50))
    assert [report.rows for report in sidecar.windows()] == [100, 100]


def test_another_reference_closes_the_open_window_under_the_old_one(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    first, second = reference(1), reference(2)
    sidecar.intake.store_config(sidecar_config(profile=first))
    rng = np.random.default_rng(10)
    sidecar.store(batch_of(rng, 70))
    sidecar.intake.store_config(sidecar_config(2, profile=second))
    sidecar.kill()
    sidecar.store(batch_of(rng, 100))
    assert [(r.rows, r.profile_id) for r in sidecar.windows()] == [(70, first.id), (100, second.id)]


def test_a_changed_method_keeps_the_rows_of_the_open_window(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference()))
    rng = np.random.default_rng(11)
    sidecar.store(batch_of(rng, 70))
    sidecar.intake.store_config(sidecar_config(2, profile=reference(), method="psi"))
    sidecar.kill()
    sidecar.store(batch_of(rng, 30))
    (report,) = sidecar.windows()
    assert (report.rows, report.verdict.method) == (100, "psi")


def test_the_last_good_configuration_survives_a_kill(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(3, profile=reference()))
    sidecar.kill()
    assert sidecar.intake.config.version == 3
    assert sidecar.intake.bindings["r1"].who == WHO


def test_rows_outside_of_the_sample_are_counted_in_windows_and_not_kept(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference(), sample_bp=2000))
    rng = np.random.default_rng(12)
    for _ in range(10):
        sidecar.store(batch_of(rng, 95))
        sidecar.kill()
    kept = sidecar.intake.spool.segments()
    assert sum(report.rows for report in sidecar.windows()) + sidecar.intake.windows["r1"].open_rows == 950
    payloads = sidecar.reports(Kind.PREDICTIONS)
    rows = sum(len(monitoring.PredictionBatch.FromString(payload).prediction_ids) for payload in payloads)
    assert kept and 130 <= rows <= 250


def test_a_window_that_the_time_closed_is_not_closed_again_by_replaying(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference(), window_size=1000, window_time_s=10.0))
    rng = np.random.default_rng(13)
    sidecar.store(batch_of(rng, 150))
    sidecar.clock.now_s += 11
    sidecar.intake.tick()
    sidecar.store(batch_of(rng, 40))
    sidecar.clock.now_s += 11
    sidecar.intake.tick()
    sidecar.kill()
    assert [report.rows for report in sidecar.windows()] == [150]
    # 40 rows are too few for a verdict: they were carried into the next window.
    assert sidecar.intake.windows["r1"].open_rows == 40


@pytest.mark.parametrize("kill_after", [0, 1, 2, 3])
def test_calls_that_waited_for_a_configuration_are_decoded_once_through_a_kill(tmp_path: Path, kill_after: int) -> None:
    sidecar = Sidecar(tmp_path, limits=SpoolLimits())
    records = [
        TapRecord(
            b"t" * 16, seq, Protocol.GRPC, Role.LIVE, TapIdentity("d1", "r1"), 0, 1, 900, METHOD, "", (),
            *call_bytes(f"p{seq}", [[seq, 0, 0]]),
        )
        for seq in range(1200)
    ]  # fmt: skip
    for start in range(0, 1200, 300):
        asyncio.run(TapIntake(sidecar.intake).on_batch(records[start : start + 300]))
    sidecar.kill()
    sidecar.intake.store_config(sidecar_config(profile=reference()))
    converted, store = 0, sidecar.intake.store_captured

    def failing(captured: Captured, meta: dict[str, object]) -> None:
        nonlocal converted
        if converted == kill_after:
            raise OSError(5, "killed here")
        converted += 1
        store(captured, meta)

    sidecar.intake.store_captured = failing  # type: ignore[method-assign, assignment]  # the kill
    with pytest.raises(OSError):
        asyncio.run(TapIntake(sidecar.intake).convert_waiting())
    sidecar.kill()
    assert TapIntake(sidecar.intake).watermarks() == {b"t" * 16: 1200}
    asyncio.run(TapIntake(sidecar.intake).on_batch(records[600:]))
    assert asyncio.run(TapIntake(sidecar.intake).convert_waiting()) == 300 * (4 - kill_after)
    assert not TapIntake(sidecar.intake).waiting()
    batches = [monitoring.PredictionBatch.FromString(data) for data in sidecar.reports(Kind.PREDICTIONS)]
    assert sorted(i for batch in batches for i in batch.prediction_ids) == sorted(f"p{i}" for i in range(1200))
    sidecar.intake.close_spans()
    assert sum(report.calls for report in sidecar.outcomes()) == 1200
    assert [report.rows for report in sidecar.windows()] == [100] * 12


def test_a_window_report_that_the_disk_refused_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.intake.store_config(sidecar_config(profile=reference()))
    append = sidecar.intake.spool.append
    broken = Counter[str]()

    def failing(group: list[Draft], **flags: bool) -> list[int]:
        if group[0].kind is Kind.WINDOWS and broken["windows"] < 2:
            broken["windows"] += 1
            raise OSError(5, "input/output error")
        return append(group, **flags)

    monkeypatch.setattr(sidecar.intake.spool, "append", failing)
    sidecar.store(batch_of(np.random.default_rng(14), 150))
    assert sidecar.windows() == []
    sidecar.intake.tick()
    sidecar.intake.tick()
    assert [report.rows for report in sidecar.windows()] == [100]
