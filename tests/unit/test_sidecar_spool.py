"""The spool: whole groups or nothing, exact offsets, bounds that are kept and counted."""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotfish.errors import FailedPrecondition, ResourceExhausted
from pilotfish_sidecar.cursors import Cursor
from pilotfish_sidecar.frames import SEGMENT_HEAD, Draft, Kind, Record, encode_record, read_record
from pilotfish_sidecar.spool import Checkpoint, Spool, SpoolLimits, StreamKey


class StillClock:
    """A clock that stands until it is moved."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def time_s(self) -> float:
        return self.now_s

    def monotonic_s(self) -> float:
        return self.now_s


def opened(directory: Path, *, limits: SpoolLimits | None = None, clock: StillClock | None = None) -> Spool:
    """Return a spool that is ready for appends."""
    spool = Spool(directory, "sidecar-r1", limits or SpoolLimits(), clock or StillClock())
    spool.begin(Checkpoint)
    return spool


def rows(count: int, payload: bytes = b"x") -> Draft:
    return Draft(Kind.PREDICTIONS, count, payload)


def read_all(spool: Spool, kind: Kind = Kind.PREDICTIONS) -> list[Record]:
    """Return every record of a kind that is durable and not acknowledged."""
    asyncio.run(spool.sync())
    cursor = Cursor(spool, kind)
    return list(iter(cursor.take, None))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "spool"


def test_records_come_back_as_they_were_appended_with_offsets_per_stream(directory: Path) -> None:
    spool = opened(directory)
    firsts = spool.append([rows(3, b"a"), Draft(Kind.WINDOWS, 1, b"w", {"k": [1, "ü"]}, b"extra"), rows(2, b"b")])
    assert firsts == [0, 0, 3]
    assert spool.append([rows(1, b"c")]) == [5]
    found = read_all(spool)
    assert [(r.first, r.end, r.payload) for r in found] == [(0, 3, b"a"), (3, 5, b"b"), (5, 6, b"c")]
    (window,) = read_all(spool, Kind.WINDOWS)
    assert (window.meta, window.extra, window.payload) == ({"k": [1, "ü"]}, b"extra", b"w")
    spool.close()


def test_a_segment_cut_at_any_byte_gives_back_exactly_its_whole_groups(directory: Path, tmp_path: Path) -> None:
    spool = opened(directory)
    groups, ends = [], []
    for i in range(6):
        group = [rows(i + 1, bytes([i]) * 40), Draft(Kind.MARK, 0, meta={"group": i})]
        spool.append(group)
        groups.append(i)
        ends.append(spool.segments()[-1].size)
    spool.close()
    (segment,) = directory.glob("*.seg")
    whole = segment.read_bytes()
    first_group = ends[0] - (ends[1] - ends[0])
    near = {end + delta for end in (first_group, *ends) for delta in (-9, -1, 0, 1, 8, 9)}
    cuts = near | set(range(first_group - 60, len(whole), 13))
    for cut in sorted(cut for cut in cuts if cut <= len(whole)):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        (copy / segment.name).write_bytes(whole[:cut])
        again = Spool(copy, "sidecar-r1", SpoolLimits(), StillClock())
        kept = [record.meta["group"] for record in again.replay() if "group" in record.meta]
        expected = [i for i, end in zip(groups, ends, strict=True) if end <= cut]
        assert kept == expected, f"cut at byte {cut}"
        again.begin(Checkpoint)
        assert sum(r.end - r.first for r in read_all(again)) == sum(i + 1 for i in expected)
        again.close()


def test_a_flipped_bit_anywhere_is_noticed(directory: Path) -> None:
    frame = encode_record(Draft(Kind.TRUTHS, 2, b"payload", {"a": 1}, b"xx"), lsn=7, first=5, more=False)
    assert read_record(frame, 0, 1) is not None
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            record = read_record(bytes(damaged), 0, 1)
        except ValueError:
            continue
        assert record is None, f"bit {bit} went unnoticed"


def test_damage_inside_a_kept_segment_loses_its_rest_and_is_counted(directory: Path) -> None:
    spool = opened(directory, limits=SpoolLimits(segment_bytes=4096))
    for i in range(40):
        spool.append([rows(1, bytes([i]) * 500)])
    asyncio.run(spool.sync())
    first = spool.segments()[0].path
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 0xFF
    first.write_bytes(data)
    found = read_all(spool)
    offsets = [record.first for record in found]
    assert spool.dropped["damaged_segments"] == 1
    assert 0 < len(offsets) < 40 and offsets[-1] == 39
    assert offsets == sorted(set(offsets))
    spool.close()


def test_a_new_start_has_a_higher_incarnation_and_keeps_what_is_not_acknowledged(directory: Path) -> None:
    spool = opened(directory)
    spool.append([rows(5)])
    first = spool.incarnation
    spool.close()
    again = opened(directory)
    assert again.incarnation > first
    again.append([rows(2)])
    assert [(r.incarnation, r.first, r.end) for r in read_all(again)] == [(first, 0, 5), (again.incarnation, 0, 2)]
    assert again.heads()[StreamKey(first, Kind.PREDICTIONS)] == 5
    again.acknowledge(StreamKey(first, Kind.PREDICTIONS), 5)
    assert [r.incarnation for r in read_all(again)] == [again.incarnation]
    again.close()


def test_a_wiped_spool_never_uses_an_incarnation_again(directory: Path) -> None:
    clock = StillClock(5_000.0)
    spool = opened(directory, clock=clock)
    first = spool.incarnation
    spool.close()
    shutil.rmtree(directory)
    clock.now_s += 1
    again = opened(directory, clock=clock)
    assert again.incarnation > first
    again.close()


def test_only_one_process_and_one_instance_may_use_a_spool(directory: Path) -> None:
    spool = opened(directory)
    with pytest.raises(FailedPrecondition, match="another sidecar uses the spool"):
        Spool(directory, "sidecar-r1", SpoolLimits(), StillClock())
    spool.close()
    with pytest.raises(FailedPrecondition, match="belongs to sidecar-r1, not to sidecar-r2"):
        Spool(directory, "sidecar-r2", SpoolLimits(), StillClock())
    opened(directory).close()


def test_acknowledged_segments_are_deleted_from_the_front(directory: Path) -> None:
    spool = opened(directory, limits=SpoolLimits(segment_bytes=4096))
    for _ in range(50):
        spool.append([rows(10, b"y" * 400)])
    before = len(spool.segments())
    key = StreamKey(spool.incarnation, Kind.PREDICTIONS)
    spool.acknowledge(key, 250)
    assert 1 < len(spool.segments()) < before
    assert read_all(spool)[0].first == 250
    spool.acknowledge(key, 500)
    assert len(spool.segments()) == 1
    assert spool.unacknowledged()[0] == 0
    spool.close()


def test_a_segment_stays_while_any_stream_of_it_is_not_acknowledged(directory: Path) -> None:
    spool = opened(directory, limits=SpoolLimits(segment_bytes=4096))
    spool.append([Draft(Kind.TRUTHS, 1, b"t")])
    for _ in range(30):
        spool.append([rows(1, b"y" * 400)])
    spool.acknowledge(StreamKey(spool.incarnation, Kind.PREDICTIONS), 30)
    assert [record.payload for record in read_all(spool, Kind.TRUTHS)] == [b"t"]
    spool.acknowledge(StreamKey(spool.incarnation, Kind.TRUTHS), 1)
    assert len(spool.segments()) == 1
    spool.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_full_spool_drops_the_oldest_and_counts_every_row(directory: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    limits = SpoolLimits(max_bytes=64 << 10)
    spool = opened(directory, limits=limits)
    appended = {Kind.PREDICTIONS: 0, Kind.TRUTHS: 0}
    for _ in range(400):
        kind = rng.choice(list(appended))
        count = rng.randint(1, 20)
        spool.append([Draft(kind, count, b"z" * rng.randint(10, 1500))])
        appended[kind] += count
        assert spool.size_bytes <= limits.max_bytes
        if rng.random() < 0.05:
            key = StreamKey(spool.incarnation, Kind.PREDICTIONS)
            spool.acknowledge(key, rng.randint(0, appended[Kind.PREDICTIONS]))
    for kind, reason in ((Kind.PREDICTIONS, "spool_full"), (Kind.TRUTHS, "spool_full_truths")):
        held = sum(r.end - max(r.first, spool.watermark(StreamKey(r.incarnation, kind))) for r in read_all(spool, kind))
        known = spool.watermark(StreamKey(spool.incarnation, kind))
        first_held = min((r.first for r in read_all(spool, kind)), default=appended[kind])
        assert spool.dropped[reason] > 0
        assert held == appended[kind] - max(first_held, known)
    # Acknowledged + dropped + held = appended, for the stream that is never acknowledged.
    held = sum(r.end - r.first for r in read_all(spool, Kind.TRUTHS))
    assert held + spool.dropped["spool_full_truths"] == appended[Kind.TRUTHS]
    spool.close()


def test_drops_are_remembered_through_a_restart(directory: Path) -> None:
    spool = opened(directory, limits=SpoolLimits(max_bytes=32 << 10))
    for _ in range(100):
        spool.append([rows(1, b"z" * 1000)])
    dropped = spool.dropped["spool_full"]
    assert dropped > 0
    spool.append([spool.mark()])
    spool.close()
    again = opened(directory, limits=SpoolLimits(max_bytes=32 << 10))
    assert again.dropped["spool_full"] == dropped
    again.close()


def test_a_full_spool_refuses_who_asks_for_it_and_stores_again_once_acknowledged(directory: Path) -> None:
    spool = opened(directory, limits=SpoolLimits(max_bytes=32 << 10))
    stored = 0
    with pytest.raises(ResourceExhausted) as caught:
        for _ in range(100):
            spool.append([rows(1, b"z" * 1000)], refuse_when_full=True)
            stored += 1
    assert caught.value.reason == "SPOOL_FULL" and caught.value.retry_after_s
    assert sum(r.end - r.first for r in read_all(spool)) == stored
    spool.acknowledge(StreamKey(spool.incarnation, Kind.PREDICTIONS), stored)
    spool.append([rows(1, b"z" * 1000)], refuse_when_full=True)
    assert spool.dropped == {}
    spool.close()


def test_segments_beyond_the_age_go_and_are_counted(directory: Path) -> None:
    clock = StillClock()
    spool = opened(directory, limits=SpoolLimits(max_age_s=100.0, segment_bytes=4096), clock=clock)
    spool.append([rows(7, b"z" * 5000)])
    clock.now_s += 60
    spool.append([rows(1, b"z" * 5000)])
    clock.now_s += 60
    spool.expire()
    assert spool.dropped == {"spool_age": 7}
    assert [r.first for r in read_all(spool)] == [7]
    spool.close()


def test_a_limit_of_the_file_size_begins_a_new_segment_and_loses_nothing(directory: Path) -> None:
    spool = opened(directory)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        for i in range(60):
            spool.append([rows(1, bytes([i]) * 1000)])
        with pytest.raises(ResourceExhausted, match="no space"):
            spool.append([rows(1, b"z" * 30_000)])
        spool.append([rows(1, b"last")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [r.first for r in read_all(spool)] == list(range(61))
    assert spool.dropped == {}
    spool.close()


def test_nothing_is_read_before_it_is_durable(directory: Path) -> None:
    async def scenario() -> None:
        spool = opened(directory)
        cursor = Cursor(spool, Kind.PREDICTIONS)
        spool.append([rows(1)])
        assert cursor.take() is None
        await spool.sync()
        assert cursor.take() is not None
        spool.close()

    asyncio.run(scenario())


def test_an_older_watermark_rewinds_to_what_is_still_held(directory: Path) -> None:
    spool = opened(directory, limits=SpoolLimits(segment_bytes=4096))
    for _ in range(30):
        spool.append([rows(1, b"y" * 500)])
    key = StreamKey(spool.incarnation, Kind.PREDICTIONS)
    spool.acknowledge(key, 29)
    held = read_all(spool)
    spool.acknowledge(key, 3, rewind=True)
    again = read_all(spool)
    assert [r.first for r in held] == [29]
    assert len(again) > 1 and again[-1].first == 29
    assert spool.watermark(key) == again[0].first
    spool.close()


def test_a_newer_watermark_than_our_head_moves_the_next_offsets_behind_it(directory: Path) -> None:
    spool = opened(directory)
    spool.append([rows(5)])
    key = StreamKey(spool.incarnation, Kind.PREDICTIONS)
    spool.acknowledge(key, 40, rewind=True)
    assert spool.append([rows(1)]) == [40]
    assert [r.first for r in read_all(spool)] == [40]
    spool.close()


def test_acknowledgements_are_remembered_by_the_next_segment(directory: Path) -> None:
    spool = opened(directory)
    spool.append([rows(10)])
    spool.acknowledge(StreamKey(spool.incarnation, Kind.PREDICTIONS), 4)
    first = spool.incarnation
    spool.append([spool.mark()])
    spool.close()
    opened(directory).close()
    again = opened(directory)
    assert again.watermark(StreamKey(first, Kind.PREDICTIONS)) == 4
    again.close()


def test_every_segment_begins_with_the_state_of_its_moment(directory: Path) -> None:
    spool = Spool(directory, "sidecar-r1", SpoolLimits(segment_bytes=4096), StillClock())
    state = {"n": 0}
    spool.begin(lambda: Checkpoint({"n": state["n"]}, b"payload"))
    for i in range(30):
        spool.append([rows(1, b"y" * 500)])
        state["n"] = i + 1
    spool.close()
    again = Spool(directory, "sidecar-r1", SpoolLimits(segment_bytes=4096), StillClock())
    records = list(again.replay())
    assert records[0].kind is Kind.CHECKPOINT and records[0].payload == b"payload"
    assert records[0].meta["n"] + len(records) - 1 == 30
    again.close()


def test_a_segment_whose_creation_was_killed_is_set_aside(directory: Path) -> None:
    spool = opened(directory)
    spool.append([rows(4)])
    spool.close()
    (segment,) = directory.glob("*.seg")
    (directory / "0000000002.seg").write_bytes(segment.read_bytes()[: SEGMENT_HEAD + 5])
    (directory / "0000000003.seg").write_bytes(b"garbage")
    again = opened(directory)
    assert sum(r.end - r.first for r in read_all(again)) == 4
    again.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_any_mix_of_appends_acknowledgements_and_restarts_yields_each_row_once(directory: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    limits = SpoolLimits(segment_bytes=4096)
    spool = opened(directory, limits=limits)
    expected: list[bytes] = []
    received: list[bytes] = []
    for step in range(300):
        action = rng.random()
        if action < 0.7:
            payload = f"{step}".encode() * rng.randint(1, 200)
            spool.append([rows(rng.randint(1, 3), payload), Draft(Kind.MARK, 0)])
            expected.append(payload)
        elif action < 0.9:
            for record in read_all(spool)[: rng.randint(0, 20)]:
                received.append(record.payload)
                spool.acknowledge(StreamKey(record.incarnation, Kind.PREDICTIONS), record.end)
        else:
            spool.append([spool.mark()])
            spool.close()
            spool = opened(directory, limits=limits)
    received += [record.payload for record in read_all(spool)]
    assert received == expected
    spool.close()
