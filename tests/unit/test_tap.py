"""The tap itself: counts exactly, holds its bounds, never disturbs the request path."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from pilotfish_sidecar.tap import Closed, DropReason, Protocol, Role, ShippingLimits, Tap, TapIdentity, TapSettings
from pilotfish_sidecar.tap.counters import find_books, read_books
from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tap.records import Flag

ME = TapIdentity("d", "r", "7")
QUICK = ShippingLimits(flush_interval_s=0.002, idle_interval_s=0.002, backoff_min_s=0.005, backoff_max_s=0.02)


def settings(tmp_path, **changes):
    return TapSettings(tmp_path / "tap.sock", tmp_path / "counters", ME, **{"limits": QUICK, **changes})


def serve(tap, count, request=b"request", response=b"response", **more):
    for index in range(count):
        tap.record("/inference.GRPCInferenceService/ModelInfer", request, response, 0, 1000, 5, f"p{index}", **more)


async def until(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


class Agent:
    """A receiver that keeps what it stored, and can be stopped and started."""

    def __init__(self, path):
        self.path, self.records, self.receiver, self.delay_s = path, [], None, 0.0

    async def store(self, records):
        await asyncio.sleep(self.delay_s)
        self.records += records

    async def start(self):
        marks = {one.incarnation: one.watermark for one in self.receiver.sessions()} if self.receiver else {}
        self.receiver = TapReceiver(self.path, self.store, watermarks=marks)
        await self.receiver.start()

    async def stop(self):
        await self.receiver.close()


@pytest.fixture
async def agent(tmp_path):
    made = Agent(tmp_path / "tap.sock")
    await made.start()
    yield made
    await made.stop()


async def test_a_served_call_reaches_the_agent_as_it_was(tmp_path, agent):
    tap = Tap(settings(tmp_path))
    other = TapIdentity("d2", "r2", "8")
    tap.record("/a", b"q", b"a", 0, 11, 22, "id", (("x-request-id", "id"),))
    tap.record("/v2/models/m/infer", b"", b"", 404, 33, 44, protocol=Protocol.REST, role=Role.SHADOW, identity=other)
    await until(lambda: len(agent.records) == 2)
    first, second = agent.records
    assert (first.method, first.request, first.response, first.code) == ("/a", b"q", b"a", 0)
    assert (first.start_us, first.latency_us, first.prediction_id) == (11, 22, "id")
    assert (first.headers, first.identity, first.role, first.ok) == ((("x-request-id", "id"),), ME, Role.LIVE, True)
    assert (second.protocol, second.role, second.identity, second.code) == (Protocol.REST, Role.SHADOW, other, 404)
    assert not second.ok and second.incarnation == tap.incarnation and second.seq == 1
    await asyncio.to_thread(tap.close)


async def test_served_is_captured_plus_dropped_by_reason_plus_in_flight(tmp_path, agent):
    tap = Tap(settings(tmp_path, max_body_bytes=100))
    serve(tap, 50)
    serve(tap, 3, request=b"x" * 101)
    serve(tap, 4, response=b"x" * 101)
    tap.count_streaming()
    tap.count_too_large()
    await until(lambda: tap.books().in_flight == 0)
    books = read_books(tmp_path / "counters")
    assert (books.served, books.captured) == (59, 50)
    assert books.dropped == dict.fromkeys(DropReason, 0) | {DropReason.TOO_LARGE: 8, DropReason.STREAMING: 1}
    await asyncio.to_thread(tap.close)


async def test_parts_of_a_stream_are_no_calls_and_a_record_without_bodies_is_a_drop_by_its_reason(tmp_path, agent):
    tap = Tap(settings(tmp_path))
    serve(tap, 2, flags=Flag.STREAMING | Flag.CONTINUES, served=0)
    serve(tap, 1, flags=Flag.STREAMING)
    serve(tap, 3, request=b"", response=b"", drop=DropReason.STRIPPED, server_us=77)
    await until(lambda: len(agent.records) == 6 and tap.books().in_flight == 0)
    books = tap.books()
    assert (books.served, books.captured, books.told[DropReason.STRIPPED]) == (4, 1, 3)
    assert books.dropped == dict.fromkeys(DropReason, 0) | {DropReason.STRIPPED: 3}
    assert [record.drop for record in agent.records] == [None] * 3 + [DropReason.STRIPPED] * 3
    assert [record.server_us for record in agent.records] == [-1] * 3 + [77] * 3
    await asyncio.to_thread(tap.close)


def test_what_is_left_at_the_end_keeps_its_reason_and_parts_of_a_stream_count_nothing(tmp_path):
    tap = Tap(settings(tmp_path, max_records=6))
    serve(tap, 2, flags=Flag.CONTINUES, served=0)
    serve(tap, 3)
    serve(tap, 1, drop=DropReason.STRIPPED)
    serve(tap, 1, drop=DropReason.STRIPPED)  # does not fit any more
    serve(tap, 1, flags=Flag.CONTINUES, served=0)
    books = tap.close(0.0)
    assert (books.served, books.in_flight) == (5, 0)
    assert (books.dropped[DropReason.SHUTDOWN], books.dropped[DropReason.STRIPPED]) == (3, 2)


def test_without_an_agent_memory_is_bounded_by_records(tmp_path):
    tap = Tap(settings(tmp_path, max_records=100))
    serve(tap, 250)
    assert tap.held() == (100, 100 * 15)
    assert tap.books().dropped[DropReason.QUEUE_FULL] == 150
    books = tap.close(0.0)
    assert (books.dropped[DropReason.SHUTDOWN], books.in_flight, books.closed) == (100, 0, Closed.BY_TAP)


def test_without_an_agent_memory_is_bounded_by_bytes(tmp_path):
    tap = Tap(settings(tmp_path, max_bytes=1000))
    serve(tap, 30, request=b"x" * 60, response=b"y" * 40)
    assert tap.held() == (10, 1000)
    assert tap.books().dropped[DropReason.QUEUE_FULL] == 20
    tap.close(0.0)


async def test_an_agent_that_comes_late_gets_everything_in_order(tmp_path):
    tap = Tap(settings(tmp_path))
    serve(tap, 1000)
    await asyncio.sleep(0.03)
    agent = Agent(tmp_path / "tap.sock")
    await agent.start()
    await until(lambda: len(agent.records) == 1000)
    assert [record.prediction_id for record in agent.records] == [f"p{i}" for i in range(1000)]
    await until(lambda: tap.held() == (0, 0))
    await asyncio.to_thread(tap.close)
    await agent.stop()


async def test_an_agent_that_comes_and_goes_gets_everything_once(tmp_path, agent):
    tap = Tap(settings(tmp_path))
    agent.delay_s = 0.003
    for _ in range(10):
        serve(tap, 700)
        await asyncio.sleep(0.02)
        await agent.stop()
        await agent.start()
    await until(lambda: tap.books().in_flight == 0)
    assert [record.seq for record in agent.records] == list(range(7000))
    assert tap.books().captured == 7000
    await asyncio.to_thread(tap.close)


async def test_an_agent_that_does_not_answer_delays_nothing_and_loses_nothing(tmp_path, agent):
    tap = Tap(settings(tmp_path, limits=ShippingLimits(flush_interval_s=0.002, window_bytes=20_000)))
    agent.delay_s = 0.3
    begin = time.perf_counter()
    serve(tap, 500, request=b"x" * 1000)
    assert time.perf_counter() - begin < 0.25
    await until(lambda: len(agent.records) > 0)
    agent.delay_s = 0.0
    await until(lambda: tap.books().captured == 500)
    await asyncio.to_thread(tap.close)


class Interruptible:
    """The counters' slots, with another thread let in between reading and writing."""

    def __init__(self, slots):
        self.slots = slots

    def __getitem__(self, index):
        value = self.slots[index]
        time.sleep(0)
        return value

    def __setitem__(self, index, value):
        self.slots[index] = value


def test_records_of_many_threads_are_all_counted(tmp_path):
    tap = Tap(settings(tmp_path, max_records=100))
    tap._slots = Interruptible(tap._slots)
    threads = [threading.Thread(target=serve, args=(tap, 100)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    books = tap.books()
    assert (books.served, books.dropped[DropReason.QUEUE_FULL], tap.held()[0]) == (400, 300, 100)
    tap.close(0.0)


@pytest.mark.parametrize("bad", [{"request": None}, {"response": 5}, {"identity": "me"}, {"headers": 3}])
async def test_a_record_of_the_wrong_types_is_counted_and_stops_nothing(tmp_path, agent, bad):
    tap = Tap(settings(tmp_path))
    arguments = {"request": b"", "response": b"", "code": 0, "start_us": 0, "latency_us": 0, **bad}
    tap.record("/m", **arguments)
    tap.record("/m" * 5000, b"", b"", 0, 0, 0)
    serve(tap, 2)
    await until(lambda: tap.books().in_flight == 0)
    assert tap.books().dropped[DropReason.BAD_RECORD] == 2
    assert len(agent.records) == 2
    await asyncio.to_thread(tap.close)


def test_a_call_served_after_closing_is_counted(tmp_path):
    tap = Tap(settings(tmp_path))
    tap.close(0.0)
    serve(tap, 3)
    books = tap.books()
    assert (books.served, books.dropped[DropReason.SHUTDOWN], books.in_flight) == (3, 3, 0)
    assert tap.close() == books


async def test_closing_ships_what_is_held(tmp_path, agent):
    tap = Tap(settings(tmp_path, limits=ShippingLimits(flush_interval_s=5.0)))
    await asyncio.sleep(0.05)
    serve(tap, 5000)
    books = await asyncio.to_thread(tap.close, 3.0)
    assert (books.captured, books.in_flight) == (5000, 0)


def test_a_counters_file_that_cannot_be_made_stops_nothing(tmp_path, caplog):
    tap = Tap(TapSettings(tmp_path / "s", tmp_path / "missing" / "c", ME))
    serve(tap, 3)
    assert tap.books().served == 3
    assert "counting in memory only" in caplog.text
    tap.close(0.0)


async def test_a_forked_child_has_books_and_a_sequence_of_its_own(tmp_path, agent):
    script = """
import os, sys
from pathlib import Path
from pilotfish_sidecar.tap import *
root = Path(sys.argv[1])
tap = Tap(TapSettings(root / "tap.sock", root / "forked", TapIdentity("d", "r", "7")))
tap.record("/m", b"parent", b"", 0, 0, 0)
child = os.fork()
tap.record("/m", b"child" if child == 0 else b"parent", b"", 0, 0, 0)
books = tap.close(5.0)
if child == 0:
    os._exit(0 if (books.served, books.captured) == (1, 1) else 1)
_, status = os.waitpid(child, 0)
assert status == 0 and (books.served, books.captured) == (2, 2), (status, books)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path))
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert sorted(record.request for record in agent.records) == [b"child", b"parent", b"parent"]
    assert len({record.incarnation for record in agent.records}) == 2
    assert {books.closed for books in find_books(tmp_path / "forked")} == {Closed.BY_TAP}


def test_importing_the_tap_imports_neither_grpc_nor_stubs_nor_numpy():
    code = "import sys, pilotfish_sidecar.tap; print({'grpc', 'google.protobuf', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_shipping_thread_never_keeps_a_process_alive(tmp_path):
    code = "import sys, pathlib; from pilotfish_sidecar.tap import *; Tap(TapSettings(pathlib.Path(sys.argv[1])))"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], timeout=10).returncode == 0
