"""The log against a plain-Python account of the same rows, and against itself under many threads."""

from __future__ import annotations

import os
import random
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pilotfish_control_plane.clock import FakeClock, SystemClock
from pilotfish_control_plane.prediction_log import LogOptions, PredictionLog, Source, id_index
from pilotfish_control_plane.prediction_log.columns import hash_ids
from pilotfish_control_plane.prediction_log.repeats import Repeats

from .prediction_log_rows import DAY_0, DAY_US, SOURCE, predictions, truths

OPTIONS = LogOptions(min_free_bytes=0)
PINNED = 0x95DA58FDA43EA24C  # of "a"


@dataclass(frozen=True)
class Row:
    """One call as it was appended; `order` is the order of arrival."""

    order: int
    deployment: str
    id: str
    time: int
    inputs: int
    role: int
    code: int
    value: float


@dataclass(frozen=True)
class Truth:
    """One truth as it was appended."""

    order: int
    id: str
    value: float
    time: int
    deployment: str


def expected(calls: list[Row], facts: list[Truth], start: int, end: int, role: int) -> set[tuple[Any, ...]]:
    """Work out the rows of a query from the rules in words, one row at a time."""
    keys: dict[tuple[Any, ...], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for call in calls:
        if call.role == role:
            key = (call.deployment, call.id) if call.id else (call.deployment, "", call.order)
            keys[key][call.inputs].append(call)
    result = set()
    for by_inputs in keys.values():
        for attempts in by_inputs.values():
            answered = [call for call in attempts if call.code == 0]
            shown = (answered or attempts)[0]
            if not start <= shown.time < end:
                continue
            conflict = len(by_inputs) > 1
            label = None
            if not conflict and shown.id:
                known = [t for t in facts if t.id == shown.id and t.deployment in ("", shown.deployment)]
                if known:
                    label = max(known, key=lambda t: (t.time, t.order)).value
            result.add(
                (shown.deployment, shown.id, shown.time, shown.code, shown.value, len(attempts), conflict, label)
            )
    return result


@pytest.mark.parametrize("round_", range(4))
def test_queries_agree_with_a_plain_account_of_random_rows(
    tmp_path: Path, round_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In every other round the repeats soon are too many to be kept, and are searched in the parts instead.
    monkeypatch.setattr(id_index, "MOST_KEYS", 10**6 if round_ % 2 else 20)
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    calls: list[Row] = []
    facts: list[Truth] = []
    log = PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False)
    offsets: dict[str, int] = defaultdict(int)
    names = [*(f"id-{i}" for i in range(30 + 40 * round_)), ""]
    try:
        for _ in range(25):
            deployment = rng.choice(["d-1", "d-2"])
            batch: list[Row] = []
            for _ in range(rng.randrange(1, 12)):
                name = rng.choice(names)
                # Each row has its own time, so that the account knows rows apart.
                time = DAY_0 + rng.randrange(3) * DAY_US + len(calls) + len(batch)
                order = len(calls) + len(batch)
                role = rng.choice([0, 0, 0, 1, 2])
                row = Row(order, deployment, name, time, rng.randrange(2), role, rng.choice([0, 0, 13]), rng.random())
                batch.append(row)
            source = Source(deployment, 1, "p")
            first = offsets[deployment]
            offsets[deployment] += len(batch)
            columns = predictions(
                [r.id for r in batch],
                deployment=deployment,
                at=[r.time for r in batch],
                hashes=[r.inputs for r in batch],
                roles=[r.role for r in batch],
                codes=[r.code for r in batch],
                outputs={"score": np.array([r.value for r in batch])},
            )
            log.append(source, first, first + len(batch), columns)
            calls += batch
            if rng.random() < 0.5:
                fact = Truth(
                    len(facts), rng.choice(names[:-1]), rng.random(), DAY_0 + rng.randrange(9), rng.choice(["", "d-1"])
                )
                facts.append(fact)
                batch_of_one = truths([fact.id], [fact.value], at=fact.time, deployments=[fact.deployment])
                log.append(Source("t", 1, "t"), fact.order, fact.order + 1, batch_of_one)
            if rng.random() < 0.3:
                log.roll()
            if rng.random() < 0.15:
                log.compact(everything=True)
            if rng.random() < 0.15:
                log.close()
                log = PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False)
            if rng.random() < 0.4:
                day = rng.randrange(3)
                start, end = DAY_0 + day * DAY_US, DAY_0 + rng.randrange(day, 3) * DAY_US + DAY_US
                role = rng.choice([0, 0, 1, 2])
                assert found(log, start, end, role) == expected(calls, facts, start, end, role), f"seed {seed}"
        everything = expected(calls, facts, 0, 2**62, 0)
        assert found(log, 0, 2**52, 0) == everything, f"seed {seed}"
        assert log.count() == len(everything)
        assert sum(d.attempts for d in log.daily_counts()) == sum(call.role == 0 for call in calls)
        assert sum(d.conflicts for d in log.daily_counts()) == sum(row[6] for row in everything)
        labelled = sum(len(log.labelled(d).ids) for d in ("d-1", "d-2"))
        assert labelled == sum(row[7] is not None and row[3] == 0 for row in everything)
    finally:
        log.close()


def found(log: PredictionLog, start: int, end: int, role: int) -> set[tuple[Any, ...]]:
    columns = ["deployment", "prediction_id", "time", "code", "output.score", "attempts", "conflict", "truth"]
    table = log.query(None, start, end, columns, (role,))
    table = table.set_column(2, "time", table["time"].cast(pa.int64()))
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert len(rows) == len(set(rows))
    return set(rows)


def test_a_query_beside_appends_rolls_and_merges_sees_every_acknowledged_row_once(tmp_path: Path) -> None:
    options = LogOptions(min_free_bytes=0, segment_records=3, merge_at_parts=3, segment_age_s=0.05)
    acknowledged = [0]
    failures: list[str] = []
    done = threading.Event()
    with PredictionLog.open(tmp_path, clock=SystemClock(), options=options) as log:

        def read() -> None:
            while not done.is_set():
                before = acknowledged[0]
                seen = log.query(columns=["prediction_id", "attempts"])
                after = acknowledged[0]
                ids = seen["prediction_id"].to_pylist()
                # One append may be durable and not yet counted by the writer's loop.
                if (
                    not before <= len(ids) <= after + 20
                    or len(set(ids)) != len(ids)
                    or set(seen["attempts"].to_pylist()) > {1}
                ):
                    failures.append(f"{before} <= {len(ids)} <= {after}")

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for i in range(120):
            ids = [f"p{n}" for n in range(i * 20, i * 20 + 20)]
            log.append(SOURCE, i * 20, i * 20 + 20, predictions(ids, at=DAY_0 + i * DAY_US // 50))
            acknowledged[0] += 20
        done.set()
        for reader in readers:
            reader.join()
        assert not failures
        assert log.count() == 2400
        log.roll()
        files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")}
        assert len(files) == log.statistics().parts
        assert log.statistics().part_rows == 2400


def test_many_writers_share_one_log(tmp_path: Path) -> None:
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:

        def write(number: int) -> None:
            source = Source(f"s{number}", 1, "p")
            for i in range(20):
                log.append(source, i * 5, i * 5 + 5, predictions([f"{number}-{n}" for n in range(i * 5, i * 5 + 5)]))

        threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.count() == 600
        assert set(log.watermarks().values()) == {100}


def test_a_query_keeps_reading_parts_that_were_merged_and_purged_meanwhile(tmp_path: Path) -> None:
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:
        for i in range(4):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
            log.roll()
        batches = log.query_batches(columns=["prediction_id"], rows=1)
        first = next(batches).column(0).to_pylist()
        log.compact(everything=True)
        log.purge(DAY_0 // DAY_US + 1)
        assert log.count() == 0
        # The four that the query began with are gone for others, and still there for it.
        assert len(list(tmp_path.rglob("*.parquet"))) >= 4
        rest = [i for batch in batches for i in batch.column(0).to_pylist()]
        assert sorted(first + rest) == ["p0", "p1", "p2", "p3"]
        assert not list(tmp_path.rglob("*.parquet"))


def test_the_index_of_repeats_can_be_lost_or_damaged_without_harm(tmp_path: Path) -> None:
    def answers() -> list[tuple[Any, ...]]:
        with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:
            return [tuple(r.values()) for r in log.query(columns=["prediction_id", "attempts", "conflict"]).to_pylist()]

    with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:
        for i in range(5):
            ids = [f"p{n}" for n in range(i * 10, i * 10 + 10)] + ["again"]
            log.append(SOURCE, i * 11, i * 11 + 11, predictions(ids))
            log.roll()
            log.count()
    wanted = answers()
    assert ("again", 5, False) in wanted
    assert len(wanted) == 51
    folder = tmp_path / "ids" / "d-1"
    assert (folder / "index.json").exists()
    for damage in ("{", '{"covered": 3}', '{"covered": 99, "runs": [], "rows": [], "repeated": "", "repeats": 0}'):
        (folder / "index.json").write_text(damage)
        assert answers() == wanted
    for run in folder.glob("*.run"):
        run.write_bytes(b"12345678")
    assert answers() == wanted
    for path in folder.iterdir():
        path.unlink()
    assert answers() == wanted


def test_equal_hashes_of_different_ids_are_no_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilotfish_control_plane.prediction_log import columns

    monkeypatch.setattr(columns, "hash_ids", lambda ids: np.full(len(ids), 42, np.uint64))
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:
        log.append(SOURCE, 0, 3, predictions(["a", "b", "a"], hashes=[1, 2, 1]))
        log.append(Source("t", 1, "t"), 0, 1, truths(["b"], [1.0]))
        for _ in range(2):
            table = log.query(columns=["prediction_id", "attempts", "conflict", "truth"])
            assert [tuple(r.values()) for r in table.to_pylist()] == [("a", 2, False, None), ("b", 1, False, 1.0)]
            log.roll()


def _plain_hash(name: str) -> int:
    """Return the hash by Python's own integers: a word at a time, xor, multiply, fold."""
    data = name.encode()
    state = len(data) * 0x9E3779B97F4A7C15 % 2**64
    for start in range(0, len(data), 8):
        state ^= int.from_bytes(data[start : start + 8], "little")
        state = state * 0x9E3779B97F4A7C15 % 2**64
        state ^= state >> 29
    return state if data else 0


def test_the_hash_of_an_id_never_changes_because_it_is_stored() -> None:
    ids = ["", "a", "prediction-1", "x" * 36, "ü" * 20, "12345678", "b"]
    hashes = hash_ids(pa.array(ids)).tolist()
    assert hashes == [_plain_hash(name) for name in ids]
    assert hashes[1] == PINNED
    assert hash_ids(pa.array(ids).slice(1, 3)).tolist() == hashes[1:4]


def test_hashes_of_a_million_serial_ids_do_not_collide() -> None:
    hashes = hash_ids(pa.array([f"request-{i}" for i in range(1_000_000)]))
    assert len(np.unique(hashes)) == 1_000_000


def test_only_needed_parts_are_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = Repeats._read_hashes

    def read(self: Repeats, part: Any, covered: int) -> Any:
        reads.append(part.path)
        return real(self, part, covered)

    monkeypatch.setattr(Repeats, "_read_hashes", read)
    with PredictionLog.open(tmp_path, clock=FakeClock(), options=OPTIONS, background=False) as log:
        for i in range(3):
            log.append(SOURCE, i, i + 1, predictions([f"p{i}"]))
            log.roll()
            log.count()
        assert len(reads) == 3
        log.compact(everything=True)
        log.count()
        assert len(reads) == 3
