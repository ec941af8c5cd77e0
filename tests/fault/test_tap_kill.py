"""Kill -9 of either end of the tap under load: nothing lost, nothing double, and the books close."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest

from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish.oip import grpc_predict_v2_pb2_grpc as oip
from pilotfish_sidecar.tap import ShippingLimits, Tap, TapIdentity, TapSettings
from pilotfish_sidecar.tap.counters import DropReason, close_books, find_books, read_books
from tests.digits_model import ServerProcess, digits, write_digits_model
from tests.fault.tap_spool import stored

SEEDS = range(int(os.environ.get("PILOTFISH_SEEDS", "2")))
SPOOL = Path(__file__).with_name("tap_spool.py")
ME = TapIdentity("d", "r", "7")


class Spool:
    """The agent's process."""

    def __init__(self, root: Path) -> None:
        self.socket, self.file = root / "tap.sock", root / "spool"
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(SPOOL), str(self.socket), str(self.file)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def ids(self) -> list[str]:
        return [ident for _, _, ident in stored(self.file)]


def assert_once(ids: list[str]) -> None:
    assert [ident for ident, times in Counter(ids).items() if times > 1] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_an_agent_killed_again_and_again_under_load_has_every_row_once(tmp_path, seed):
    rng = random.Random(seed)
    spool = Spool(tmp_path)
    limits = ShippingLimits(flush_interval_s=0.005, backoff_min_s=0.01, backoff_max_s=0.05, window_bytes=200_000)
    tap = Tap(TapSettings(spool.socket, tmp_path / "counters", ME, limits=limits), rng=random.Random(seed))
    stop = threading.Event()
    served = [0, 0]

    def load(lane: int) -> None:
        while not stop.is_set():
            for _ in range(40):
                tap.record("/m", b"x" * 300, b"y" * 100, 0, 0, 0, f"{lane}-{served[lane]}")
                served[lane] += 1
            time.sleep(0.01)

    lanes = [threading.Thread(target=load, args=(lane,)) for lane in range(2)]
    for lane in lanes:
        lane.start()
    for _ in range(5):
        time.sleep(rng.uniform(0.02, 0.3))
        spool.kill()
        time.sleep(rng.uniform(0.0, 0.1))
        spool.start()
    stop.set()
    for lane in lanes:
        lane.join()
    books = tap.close(10.0)
    spool.kill()
    ids = spool.ids()
    assert_once(ids)
    assert set(ids) == {f"{lane}-{index}" for lane in (0, 1) for index in range(served[lane])}
    assert (books.served, books.captured, books.in_flight) == (sum(served), sum(served), 0)
    for lane in (0, 1):
        assert [ident for ident in ids if ident.startswith(f"{lane}-")] == [f"{lane}-{n}" for n in range(served[lane])]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits")
    write_digits_model(directory)
    return directory


async def call_until_it_dies(target: str, answered: list[str], lane: int) -> None:
    rows = digits()[0][:1]
    async with grpc.aio.insecure_channel(target) as channel:
        stub = oip.GRPCInferenceServiceStub(channel)
        for index in range(10**9):
            request = pb.ModelInferRequest(model_name="digits", id=f"{lane}-{index}")
            request.inputs.add(name="X", datatype="FP32", shape=[1, 64])
            request.raw_input_contents.append(rows.tobytes())
            try:
                answered.append((await stub.ModelInfer(request)).id)
            except grpc.aio.AioRpcError:
                return


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("agent_too", [False, True])
async def test_a_killed_server_s_books_close_with_what_it_held_as_crash(model_dir, tmp_path, seed, agent_too):
    rng = random.Random(seed)
    spool = Spool(tmp_path)
    counters = tmp_path / "counters"
    flags = ("--tap-socket", str(spool.socket), "--tap-counters", str(counters))
    server = ServerProcess(model_dir, tmp_path / "run", *flags)
    answered: list[str] = []
    lanes = [asyncio.create_task(call_until_it_dies(server.target, answered, lane)) for lane in range(4)]
    await asyncio.sleep(rng.uniform(0.3, 0.8))
    if agent_too:
        spool.kill()
        await asyncio.sleep(rng.uniform(0.02, 0.2))
    server.kill()
    await asyncio.gather(*lanes)
    await asyncio.sleep(0.3)  # the agent reads what is still in the socket
    ids = spool.ids()
    books = close_books(counters, captured=len(ids))
    assert_once(ids)
    assert books.served == books.captured + sum(books.dropped.values()) and books.in_flight == 0
    # Every answer that a client got was counted before it was sent; at most one per lane was counted and not got.
    assert len(answered) <= books.served <= len(answered) + 4
    assert books.captured == len(ids)
    lost = set(answered) - set(ids)
    crashed = books.dropped[DropReason.CRASH]
    assert len(lost) <= crashed <= len(lost) + 4
    assert len(lost) < books.served, "the agent stored nothing at all"
    if not agent_too:
        spool.kill()


async def test_a_restarted_server_and_its_dead_forerunner_both_have_their_books(model_dir, tmp_path):
    spool = Spool(tmp_path)
    counters = tmp_path / "counters"
    flags = ("--tap-socket", str(spool.socket), "--tap-counters", str(counters))
    totals = []
    for _ in range(2):
        server = ServerProcess(model_dir, tmp_path / "run", *flags)
        answered: list[str] = []
        lane = asyncio.create_task(call_until_it_dies(server.target, answered, 0))
        await asyncio.sleep(0.2)
        server.kill()
        await lane
        totals.append(len(answered))
    await asyncio.sleep(0.3)
    rows = stored(spool.file)
    found = find_books(counters)
    assert len(found) == 2 and found[1].path == counters
    for books, total in zip(found, totals, strict=True):
        captured = sum(run == books.incarnation for run, _, _ in rows)
        closed = close_books(books.path, captured)
        assert total <= closed.served <= total + 1 and closed.in_flight == 0 and closed.captured == captured
    assert read_books(counters).served == found[1].served
    spool.kill()
