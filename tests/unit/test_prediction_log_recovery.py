"""What opening finds after a crash, a torn write, a flipped bit or a full disk."""

from __future__ import annotations

import errno
import logging
import os
import random
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pilotfish.errors import FailedPrecondition, PilotfishError, ResourceExhausted, Unavailable
from pilotfish_control_plane.clock import FakeClock
from pilotfish_control_plane.prediction_log import Append, LogOptions, PredictionLog, Source
from pilotfish_control_plane.prediction_log.frames import scan

from .prediction_log_rows import DAY_0, DAY_US, SOURCE, predictions, truths

OPTIONS = LogOptions(min_free_bytes=0)


def open_log(path: Path) -> PredictionLog:
    return PredictionLog.open(path, clock=FakeClock(), options=OPTIONS, background=False)


def stored(log: PredictionLog) -> list[str]:
    """Return the ids of all rows as appended: two rows of one id would show as two attempts."""
    table = log.query(columns=["prediction_id", "attempts"])
    return [i for i, n in zip(*(c.to_pylist() for c in table.columns), strict=True) for _ in range(n)]


class Crashed(BaseException):
    """The process is gone: nothing after this point happens."""


class Crash:
    """Counts the steps that change the disk and ends the process, so to say, at a chosen one."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    def __call__(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **keywords: Any) -> Any:
            self.steps += 1
            if self.steps >= self.at:
                raise Crashed
            return real(*args, **keywords)

        return step


@contextmanager
def crash_at(step: int) -> Iterator[Crash]:
    crash = Crash(step)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("writev", "fsync", "fdatasync", "replace", "ftruncate"):
            patch.setattr(os, name, crash(getattr(os, name)))
        from pilotfish_control_plane.prediction_log import journal, manifest

        for module in (journal, manifest):
            patch.setattr(module, "sync_file", crash(module.sync_file))
        patch.setattr(Path, "unlink", crash(Path.unlink))
        patch.setattr(pq, "write_table", crash(pq.write_table))
        yield crash


def abandon(log: PredictionLog) -> None:
    """Give up the lock as the death of the process would, and nothing else."""
    os.close(log._lock)


def scenario(log: PredictionLog, acknowledged: list[str]) -> None:
    """Append, roll, append, merge, purge; note each id when its append has returned."""
    for number in range(2):
        for turn in range(2):
            ids = [f"{number}-{turn}-{i}" for i in range(3)]
            first = (2 * number + turn) * 3
            log.append(SOURCE, first, first + 3, predictions(ids, at=[DAY_0 + number, DAY_0, DAY_0 + DAY_US]))
            acknowledged += ids
        log.append(Source("t", 1, "truths"), number, number + 1, truths([f"{number}-0-0"], [float(number)]))
        log.roll()
    log.compact(everything=True)


@pytest.mark.parametrize("share", range(4))
def test_a_crash_between_any_two_steps_neither_loses_nor_doubles_a_row(tmp_path: Path, share: int) -> None:
    template = tmp_path / "template"
    open_log(template).close()
    with open_log(_copy(template, tmp_path / "whole")) as log, crash_at(10**9) as crash:
        scenario(log, [])
    steps = crash.steps
    assert steps > 40
    for step in range(1 + share, steps + 1, 4):
        path = _copy(template, tmp_path / f"step-{step}")
        acknowledged: list[str] = []
        log = open_log(path)
        with crash_at(step), pytest.raises(Crashed):
            scenario(log, acknowledged)
        abandon(log)
        _crash_while_opening(path)
        with open_log(path) as log:
            found = stored(log)
            assert len(found) == len(set(found)), f"doubled at step {step}"
            assert set(acknowledged) <= set(found), f"lost at step {step}"
            assert log.watermark(SOURCE) == len(found), f"watermark at step {step}"
            assert not log.damages() and not log.gaps(), f"step {step}"
            # What was not acknowledged is sent again, and then all is there once.
            scenario(log, [])
            assert log.statistics().part_rows == log.watermark(SOURCE) == 12
            parts = {str(p.relative_to(path)) for p in path.rglob("*.parquet")}
            assert len(parts) == log.statistics().parts + log.statistics().truth_parts, f"strays at step {step}"
        shutil.rmtree(path)


def _crash_while_opening(path: Path) -> None:
    """Let the first three attempts to recover crash too, each one step later."""
    for step in (1, 2, 3):
        with crash_at(step):
            try:
                log = open_log(path)
            except Crashed:
                continue
        abandon(log)


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def _log_file(path: Path) -> Path:
    (found,) = (path / "log").glob("*.seg")
    return found


def test_a_last_record_torn_at_any_byte_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with open_log(base) as log:
        log.append(SOURCE, 0, 2, predictions(["a", "b"]))
        whole = _log_file(base).stat().st_size
        log.append(SOURCE, 2, 3, predictions(["c"]))
        data = _log_file(base).read_bytes()  # as it is before a clean close
    for length in range(whole, len(data)):
        found = scan(memoryview(data)[:length])
        assert (len(found.frames), found.good_end, found.damaged) == (1, whole, []), length
    for length in [*range(whole, len(data), 101), len(data) - 1]:
        target = tmp_path / f"torn-{length}"
        shutil.copytree(base, target)
        _log_file(target).write_bytes(data[:length])
        with open_log(target) as log:
            assert log.watermark(SOURCE) == 2
            assert stored(log) == ["a", "b"]
            assert log.append(SOURCE, 2, 3, predictions(["c"])).stored_rows == 1
            assert not log.damages()
        with open_log(target) as log:
            assert stored(log) == ["a", "b", "c"]


def test_a_torn_group_is_dropped_whole_even_when_its_later_frames_reached_the_disk(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        start = _log_file(tmp_path).stat().st_size
        log.append_many([Append(SOURCE, i, i + 1, predictions([f"p{i}"])) for i in range(1, 4)])
        data = bytearray(_log_file(tmp_path).read_bytes())  # as it is before a clean close
    file = _log_file(tmp_path)
    data[start : start + 200] = bytes(200)
    file.write_bytes(data)
    with open_log(tmp_path) as log:
        assert stored(log) == ["a"]
        assert log.watermark(SOURCE) == 1
        assert not log.gaps()
        assert not log.damages()


@pytest.mark.parametrize("rolled_by_hand", [False, True])
def test_a_flipped_bit_in_an_acknowledged_record_is_found_kept_aside_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rolled_by_hand: bool
) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    base = tmp_path / "base"
    ends = []
    with open_log(base) as log:
        for i in range(4):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
            ends.append(_log_file(base).stat().st_size)
    data = _log_file(base).read_bytes()
    for turn in range(12):
        record = rng.randrange(3)
        start = ends[record - 1] if record else 0
        # The last bytes of a frame are padding, where a flip changes nothing.
        at = rng.randrange(start, ends[record] - 64)
        target = tmp_path / f"{turn}"
        shutil.copytree(base, target)
        broken = bytearray(data)
        if not rolled_by_hand:
            broken[at] ^= 1 << rng.randrange(8)
            _log_file(target).write_bytes(broken)
        caplog.clear()
        with caplog.at_level(logging.ERROR), open_log(target) as log:
            if rolled_by_hand:
                with _log_file(target).open("r+b") as file:
                    file.seek(at)
                    file.write(bytes([data[at] ^ 1 << rng.randrange(8)]))
                log.roll()
            wanted = [f"p{i}" for i in range(4) if i != record]
            assert stored(log) == wanted, (record, at)
            (damage,) = log.damages()
            assert damage.kept_as.exists()
            assert "cannot be read back" in caplog.text
            assert [(g.first_offset, g.last_offset, g.reason) for g in log.gaps()] == [(record, record + 1, "damaged")]
            assert log.watermark(SOURCE) == 4
            log.roll()
        with open_log(target) as log:
            assert stored(log) == wanted
            assert not log.damages()
            assert [(g.first_offset, g.last_offset, g.reason) for g in log.gaps()] == [(record, record + 1, "damaged")]


def test_damage_to_the_last_record_before_a_clean_close_is_no_torn_write_either(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        start = _log_file(tmp_path).stat().st_size
        log.append(SOURCE, 1, 2, predictions(["b"]))
    data = bytearray(_log_file(tmp_path).read_bytes())
    data[start + 300] ^= 4
    _log_file(tmp_path).write_bytes(data)
    with open_log(tmp_path) as log:
        assert stored(log) == ["a"]
        assert len(log.damages()) == 1


def test_damage_at_the_end_of_a_sealed_file_is_no_torn_write(tmp_path: Path) -> None:
    options = LogOptions(min_free_bytes=0, segment_records=2)
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=options, background=False) as log:
        for i in range(4):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
    first = min((tmp_path / "log").glob("*.seg"))
    first.write_bytes(first.read_bytes()[:-300])
    with open_log(tmp_path) as log:
        assert stored(log) == ["p0", "p2", "p3"]
        assert len(log.damages()) == 1
        assert [(g.first_offset, g.last_offset) for g in log.gaps()] == [(1, 2)]


def test_a_torn_manifest_is_cut_and_a_damaged_one_refused(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        log.roll()
        size = (tmp_path / "manifest.log").stat().st_size
        log.append(SOURCE, 1, 2, predictions(["b"]))
        log.roll()
    whole = (tmp_path / "manifest.log").read_bytes()
    (tmp_path / "manifest.log").write_bytes(whole + b"PFL1 half a change")
    with open_log(tmp_path) as log:
        assert stored(log) == ["a", "b"]
    broken = bytearray(whole)
    broken[size - 150] ^= 1
    (tmp_path / "manifest.log").write_bytes(broken)
    with pytest.raises(FailedPrecondition, match="damaged"):
        open_log(tmp_path)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    (tmp_path / "manifest.log").write_bytes(whole)
    with open_log(tmp_path) as log:
        assert stored(log) == ["a", "b"]


def test_a_long_manifest_is_rewritten_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilotfish_control_plane.prediction_log import manifest

    monkeypatch.setattr(manifest, "_REWRITE_BYTES", 3000)
    with open_log(tmp_path) as log:
        sizes = []
        for i in range(20):
            log.append(Source(f"s{i}", 1, "p"), 0, 1, predictions([f"p{i:02}"], at=DAY_0 + i))
            log.roll()
            sizes.append((tmp_path / "manifest.log").stat().st_size)
        assert sizes != sorted(sizes)
        log.append(SOURCE, 5, 6, predictions(["last"], at=DAY_0 + 99), allow_gap=True)
        log.roll()
    with open_log(tmp_path) as log:
        assert stored(log) == [*(f"p{i:02}" for i in range(20)), "last"]
        assert len(log.watermarks()) == 21
        assert len(log.gaps()) == 1


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_the_append_leaves_nothing_half_written_and_heals(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        size = _log_file(tmp_path).stat().st_size
        with file_size_limit(size + 700), pytest.raises(ResourceExhausted) as error:
            log.append(SOURCE, 1, 1001, predictions([f"p{i}" for i in range(1000)]))
        assert error.value.retry_after_s == OPTIONS.retry_after_s
        assert _log_file(tmp_path).stat().st_size == size
        assert log.watermark(SOURCE) == 1
        assert stored(log) == ["a"]
        assert log.append(SOURCE, 1, 2, predictions(["b"])).watermark == 2
    with open_log(tmp_path) as log:
        assert Counter(stored(log)) == Counter(["a", "b"])


def test_a_full_disk_during_a_roll_keeps_the_rows_in_the_log(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 500, predictions([f"p{i}" for i in range(500)]))
        with file_size_limit(2000), pytest.raises(ResourceExhausted):
            log.roll()
        assert log.count() == 500
        assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.parquet"))
        assert log.roll() == 1
        assert log.count() == 500


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failed_sync_is_never_an_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    from pilotfish_control_plane.prediction_log import journal

    def fail(handle: int) -> None:
        del handle
        raise OSError(error, os.strerror(error))

    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        with monkeypatch.context() as patch:
            patch.setattr(journal, "sync_file", fail)
            with pytest.raises(PilotfishError) as raised:
                log.append(SOURCE, 1, 2, predictions(["b"]))
        assert isinstance(raised.value, ResourceExhausted if error == errno.ENOSPC else Unavailable)
        assert log.watermark(SOURCE) == 1
        # The file could not even be cut back, so nothing more may be written behind it.
        with pytest.raises(Unavailable, match="restart"):
            log.append(SOURCE, 1, 2, predictions(["b"]))
        assert stored(log) == ["a"]
    with open_log(tmp_path) as log:
        assert stored(log) == ["a"]
        assert log.append(SOURCE, 1, 2, predictions(["b"])).watermark == 2


def test_a_disk_below_its_reserve_refuses_before_it_is_full(tmp_path: Path) -> None:
    options = LogOptions(min_free_bytes=1 << 60)
    with (
        PredictionLog.open(tmp_path, clock=FakeClock(), options=options, background=False) as log,
        pytest.raises(ResourceExhausted, match="less than"),
    ):
        log.append(SOURCE, 0, 1, predictions(["a"]))
    assert not list((tmp_path / "log").iterdir())


def test_a_part_that_cannot_be_read_fails_the_query_and_not_the_log(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(SOURCE, 0, 1, predictions(["a"]))
        log.roll()
        (part,) = tmp_path.rglob("*.parquet")
        content = part.read_bytes()
        part.write_bytes(b"not parquet at all")
        with pytest.raises(Unavailable):
            log.query()
        assert log.append(SOURCE, 1, 2, predictions(["b"])).watermark == 2
        part.write_bytes(content)
        assert stored(log) == ["a", "b"]
