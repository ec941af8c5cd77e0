"""What the tap costs: `tap.hot_us` on the request path, `tap.served` as calls a second of a whole server.

`tap.hot_us` is one `Tap.record` of a 64-feature call while the agent takes everything; its peer is the same
call handed to a bounded `queue.Queue`, the usual way. `tap.served` is the bundled model server with a tap
over the same server without one, both running, loaded in turns by prepared HTTP/2 frames; `tap.cpu_us` is
the server's processor time per call in the same rounds. The servers have one core, load and agent another:
what the agent does with a record is not the tap's cost.
"""

from __future__ import annotations

import contextlib
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilotfish.oip import grpc_predict_v2_pb2 as pb
from pilotfish_sidecar.tap import Tap, TapIdentity, TapSettings
from pilotfish_sidecar.tap.counters import read_books
from tests.digits_model import ServerProcess, digits, write_digits_model

ROOT = Path(__file__).resolve().parents[1]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
BLOCK = 500
BLOCKS = 60
ROUNDS = 21
SECONDS = 0.5


def _body() -> bytes:
    request = pb.ModelInferRequest(model_name="digits", id="bench")
    tensor = request.inputs.add(name="X", datatype="FP32", shape=[1, 64])
    tensor.contents.fp32_contents.extend(digits()[0][0].tolist())
    return request.SerializeToString()


@contextlib.contextmanager
def _agent(root: Path) -> Iterator[Path]:
    """Run an agent that takes, checks and acknowledges every record; yield its socket."""
    command = [sys.executable, str(ROOT / "fault" / "tap_spool.py"), str(root / "tap.sock"), os.devnull]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield root / "tap.sock"
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _on_core(index: int) -> Iterator[None]:
    """Run, and start processes, on one of the cores that this process may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[index % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _hot(root: Path) -> Iterator[dict[str, Any]]:
    body, answer = _body(), bytes(120)
    tapped: list[float] = []
    queued: list[float] = []
    with _agent(root) as socket:
        tap = Tap(TapSettings(socket, root / "counters", TapIdentity("d", "r", "1")))
        line: queue.Queue[Any] = queue.Queue(BLOCK)
        for _ in range(BLOCKS):
            begin = time.perf_counter()
            for index in range(BLOCK):
                tap.record(METHOD, body, answer, 0, index, 250, "bench")
            tapped.append((time.perf_counter() - begin) / BLOCK * 1e6)
            begin = time.perf_counter()
            for index in range(BLOCK):
                line.put_nowait((METHOD, body, answer, 0, index, 250, "bench"))
            queued.append((time.perf_counter() - begin) / BLOCK * 1e6)
            while not line.empty():
                line.get_nowait()
            time.sleep(0.03)
        books = tap.close()
    if books.captured != books.served:
        raise AssertionError(f"the tap lost records: {books}")
    value, peer = statistics.median(tapped), statistics.median(queued)
    yield _figure("tap.hot_us", value, "us", "queue.Queue.put_nowait", peer, peer / value, BLOCK * BLOCKS)


def _figure(
    figure: str, value: float, unit: str, peer: str, peer_value: float, ratio: float, n: int, **more: Any
) -> dict[str, Any]:
    row = {"figure": figure, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value, "ratio": ratio}
    return {key: round(one, 3) if isinstance(one, float) else one for key, one in row.items()} | {"n": n, **more}


def _cpu_s(pid: int) -> float:
    """Return the seconds that all threads of a process have run, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _round(server: ServerProcess, body: Path) -> tuple[float, float]:
    """Return calls a second and processor microseconds a call."""
    before = _cpu_s(server.process.pid)
    command = [sys.executable, str(ROOT / "benchmarks" / "grpc_load.py"), str(server.ready["grpc_port"])]
    output = subprocess.check_output([*command, str(SECONDS), "4", "8", str(body)], text=True)
    calls = int(output)
    return calls / SECONDS, (_cpu_s(server.process.pid) - before) / calls * 1e6


def _served(root: Path) -> Iterator[dict[str, Any]]:
    write_digits_model(root / "model")
    (root / "body").write_bytes(_body())
    rows: dict[str, list[tuple[float, float]]] = {"tapped": [], "untapped": []}
    with contextlib.ExitStack() as stack:
        with _on_core(0):
            flags = ("--tap-socket", str(root / "tap.sock"), "--tap-counters", str(root / "books"))
            servers = {
                "tapped": ServerProcess(root / "model", root / "a", *flags),
                "untapped": ServerProcess(root / "model", root / "b"),
            }
        stack.enter_context(_on_core(1))
        stack.enter_context(_agent(root))
        for number in range(ROUNDS + 1):
            for name in sorted(servers, reverse=bool(number % 2)):
                one = _round(servers[name], root / "body")
                if number:  # the first round warms up
                    rows[name].append(one)
        for server in servers.values():
            server.terminate()
    books = read_books(root / "books")
    tapped, untapped = rows["tapped"], rows["untapped"]
    counts = {"captured": books.captured, "dropped": sum(books.dropped.values())}
    ratio = statistics.median(a[0] / b[0] for a, b in zip(tapped, untapped, strict=True))
    speed, plain = (statistics.median(one[0] for one in side) for side in (tapped, untapped))
    yield _figure("tap.served", speed, "calls/s", "the same server untapped", plain, ratio, ROUNDS, **counts)
    cost, plain_cost = (statistics.median(one[1] for one in side) for side in (tapped, untapped))
    ratio = statistics.median(b[1] / a[1] for a, b in zip(tapped, untapped, strict=True))
    yield _figure("tap.cpu_us", cost, "us", "the same server untapped", plain_cost, ratio, ROUNDS)


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    for part in (_hot, _served):
        with tempfile.TemporaryDirectory() as name:
            yield from part(Path(name))
