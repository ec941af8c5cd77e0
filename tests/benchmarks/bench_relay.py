"""The relay beside nginx: calls a second at 64 streams, and what a call waits longer at 1000 calls a second.

h2load asks, nghttpd answers (both C, from Debian's nghttp2 packages); nginx is told to `grpc_pass`. The relay tees to
the real decoder, which ships to an agent's end of the tap in another process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilotfish_sidecar.tap.counters import find_books

ROUNDS = 5
CALLS = 60_000
CALM_CALLS = 4_000
BODY = 200
PATH = "/inference.GRPCInferenceService/ModelInfer"
AGENT = """
import asyncio, sys
from pathlib import Path
from pilotfish_sidecar.tap.receiver import TapReceiver
async def main():
    async def store(records): pass
    await TapReceiver(Path(sys.argv[1]), store).start()
    print("ready", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
NGINX = """
daemon off; master_process off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log error;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} http2; http2_max_requests 100000000; keepalive_requests 100000000;
    location / {{ grpc_pass grpc://model; }}
  }}
}}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens on {port}")


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _load(port: int, root: Path, calls: int, streams: int, *more: str) -> str:
    """Return what h2load prints, one connection, `streams` calls at once."""
    command = ["h2load", "-n", str(calls), "-c", "1", "-m", str(streams), "-d", str(root / "question")]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers", *more, f"http://127.0.0.1:{port}{PATH}"]
    output = subprocess.check_output(command, text=True)
    if f"{calls} succeeded" not in output:
        raise RuntimeError(output)
    return output


def _rate(output: str) -> float:
    found = re.search(r"finished in .*?, ([\d.]+) req/s", output)
    assert found is not None, output
    return float(found[1])


def _p50_us(root: Path) -> float:
    """Return the median of the times that h2load logged."""
    rows = [line.split("\t") for line in (root / "times").read_text().splitlines()]
    return statistics.median(float(row[2]) for row in rows)


class _World:
    def __init__(self, root: Path, stack: contextlib.ExitStack) -> None:
        missing = [name for name in ("h2load", "nghttpd", "nginx") if shutil.which(name) is None]
        if missing:
            raise SystemExit(f"install {', '.join(missing)}: Debian's nginx, nghttp2-client and nghttp2-server")
        self._stack = stack
        self.root = root
        (root / "question").write_bytes(b"\0" + (BODY - 5).to_bytes(4, "big") + bytes(BODY - 5))
        page = root / "www" / PATH.lstrip("/")
        page.parent.mkdir(parents=True)
        page.write_bytes((root / "question").read_bytes())
        self.direct = _free_port()
        self._start("nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", str(root / "www"), str(self.direct))
        self.nginx = _free_port()
        (root / "nginx.conf").write_text(NGINX.format(root=root, upstream=self.direct, port=self.nginx))
        self._start("nginx", "-p", str(root), "-c", str(root / "nginx.conf"))
        agent = self._start(sys.executable, "-c", AGENT, str(root / "tap.sock"), pipe=True)
        assert agent.stdout is not None and agent.stdout.readline() == b"ready\n"
        self.decoder = self._start(sys.executable, "-m", "pilotfish_sidecar.decoder", "--run-dir", str(root))
        listen = f"127.0.0.1:0=127.0.0.1:{self.direct}"
        self.relay_process = self._start(
            sys.executable, "-m", "pilotfish_sidecar.relay", "--run-dir", str(root), "--listen", listen
        )
        while not (root / "relay.ready").exists():
            time.sleep(0.02)
        address = json.loads((root / "relay.ready").read_text())["addresses"][0]
        self.relay = int(address.rpartition(":")[2])
        for port in (self.direct, self.nginx, self.relay):
            _await_port(port)

    def _start(self, *command: str, pipe: bool = False) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE if pipe else subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Return served, captured and dropped calls of the relay's decoder sessions, once all are accounted for."""
        deadline = time.monotonic() + 60
        while True:
            books = find_books(self.root / "tap.counters")
            if sum(each.in_flight for each in books) == 0 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        dropped: dict[str, int] = {}
        for each in books:
            for reason, count in each.dropped.items():
                if count:
                    dropped[reason.name.lower()] = dropped.get(reason.name.lower(), 0) + count
        return sum(each.served for each in books), sum(each.captured for each in books), dropped


def _figure(name: str, value: float, unit: str, n: int, peer: tuple[str, float, float] | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"figure": name, "value": round(value, 3), "unit": unit, "n": n}
    if peer is not None:
        row |= {"peer": peer[0], "peer_value": round(peer[1], 3), "ratio": round(peer[2], 3)}
    return row


def _throughput(world: _World) -> Iterator[dict[str, Any]]:
    rates: dict[str, list[float]] = {"relay": [], "nginx": []}
    costs: list[float] = []
    ports = {"relay": world.relay, "nginx": world.nginx}
    for number in range(ROUNDS + 1):
        for name in sorted(ports, reverse=bool(number % 2)):
            before = _cpu_s(world.relay_process.pid)
            rate = _rate(_load(ports[name], world.root, CALLS, 64))
            if number:
                rates[name].append(rate)
                if name == "relay":
                    costs.append((_cpu_s(world.relay_process.pid) - before) / CALLS * 1e6)
    ratio = statistics.median(a / b for a, b in zip(rates["relay"], rates["nginx"], strict=True))
    relay, nginx = (statistics.median(rates[name]) for name in ("relay", "nginx"))
    served, captured, dropped = world.counts()
    yield _figure("relay.throughput_c64", relay, "calls/s", ROUNDS, ("nginx grpc_pass", nginx, ratio))
    yield _figure("relay.cpu_us", statistics.median(costs), "us a call", ROUNDS)
    yield _figure("relay.served", served, "calls", 1)
    yield _figure("relay.captured", captured, "calls", 1)
    yield _figure("relay.dropped", sum(dropped.values()), "calls: " + json.dumps(dropped), 1)


def _added(world: _World) -> Iterator[dict[str, Any]]:
    ports = {"direct": world.direct, "relay": world.relay, "nginx": world.nginx}
    medians: dict[str, list[float]] = {name: [] for name in ports}
    for number in range(ROUNDS + 1):
        for name in sorted(ports, reverse=bool(number % 2)):
            _load(ports[name], world.root, CALM_CALLS, 1, "--log-file", str(world.root / "times"), "--rps", "1000")
            if number:
                medians[name].append(_p50_us(world.root))
            (world.root / "times").unlink()
    rows = list(zip(medians["relay"], medians["nginx"], medians["direct"], strict=True))
    relay, nginx = (statistics.median(row[k] - row[2] for row in rows) for k in (0, 1))
    yield _figure("relay.p50_added_1k", relay, "us", ROUNDS, ("nginx grpc_pass", nginx, nginx / relay))


def _calm(world: _World) -> Iterator[dict[str, Any]]:
    """10,000 calls a second: nothing may be dropped, and what a call costs the decoder."""
    before, (served, captured, _) = _cpu_s(world.decoder.pid), world.counts()
    calls = 50_000
    _load(world.relay, world.root, calls, 64, "--rps", "10000")
    later, all_captured, _ = world.counts()
    yield _figure("relay.dropped_10k", later - served - (all_captured - captured), "calls", later - served)
    yield _figure("relay.decode_us", (_cpu_s(world.decoder.pid) - before) / calls * 1e6, "us a call", calls)
    yield _figure("relay.rss_mb", _rss_mb(world.relay_process.pid), "MB", 1)
    yield _figure("decoder.rss_mb", _rss_mb(world.decoder.pid), "MB", 1)


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory(prefix="pf-") as name, contextlib.ExitStack() as stack:
        world = _World(Path(name), stack)
        yield from _calm(world)
        yield from _added(world)
        yield from _throughput(world)
