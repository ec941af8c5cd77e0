"""Figures of the sidecar agent as a process: how soon it listens, and how much memory it takes under load.

The peer of both is a bare Python process that imports numpy and grpc.aio and does nothing: what no agent in Python
with those two can undercut. Start and memory are measured on real processes with a control plane that speaks the
real wire; the load is 1000 calls/s of 30 features through a real tap.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pilotfish.stats import Profile, build_profile
from tests.sidecar_fleet import METHOD, AgentProcess, Caller, FakeFleet, call_bytes, eventually, sidecar_config

STARTS = 7
LOAD_S = 10.0
CALLS_PER_S = 1000
FEATURES = 30
BARE = "import numpy, grpc.aio, sys, time; open(sys.argv[1], 'w').close(); time.sleep(30)"


def run() -> Iterator[dict[str, Any]]:
    """Yield the figures."""
    with tempfile.TemporaryDirectory(prefix="pf") as directory:
        yield from asyncio.run(_measure(Path(directory)))


async def _measure(directory: Path) -> list[dict[str, Any]]:
    fleet = FakeFleet(config=_config())
    await fleet.start()
    starts, bare_starts, bare_rss = [], [], 0.0
    for i in range(STARTS):
        home = directory / str(i)
        home.mkdir()
        agent = AgentProcess(home, fleet.address)
        begun = time.monotonic()
        agent.start()
        await asyncio.to_thread(agent.wait_ready)
        starts.append(time.monotonic() - begun)
        agent.kill()
        seconds, bare_rss = await asyncio.to_thread(_bare, home / "bare")
        bare_starts.append(seconds)
    rss, rows = await _under_load(directory / "load", fleet)
    await fleet.stop()
    value, peer = statistics.median(starts), statistics.median(bare_starts)
    name = "python importing numpy and grpc.aio"
    return [
        _figure("sidecar.start_s", value, "s", name, peer, STARTS, limit=1.0),
        _figure("sidecar.rss_mb", rss, "MiB", name, bare_rss, rows, limit=60.0, process="agent"),
    ]


def _config() -> Any:
    names = [f"f{i}" for i in range(FEATURES)]
    signature = {"inputs": [{"name": "input"}], "feature_names": names}
    return sidecar_config(profile=_reference(names), window_size=1000, signature=json.dumps(signature))


def _reference(names: list[str]) -> Profile:
    rng = np.random.default_rng(1)
    rows = {name: rng.normal(size=20_000).astype(np.float32) for name in names}
    return build_profile(rows, {"prediction": rng.normal(size=20_000).astype(np.float32)})


def _bare(marker: Path) -> tuple[float, float]:
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(marker)])
    while not marker.exists():
        time.sleep(0.005)
    seconds, rss = time.monotonic() - begun, _rss_mib(process.pid)
    process.kill()
    process.wait()
    return seconds, rss


async def _under_load(home: Path, fleet: FakeFleet) -> tuple[float, int]:
    home.mkdir()
    agent = AgentProcess(home, fleet.address)
    agent.start()
    await asyncio.to_thread(agent.wait_ready)
    caller = Caller(home)
    bodies = [call_bytes("", row) for row in np.random.default_rng(2).normal(size=(500, FEATURES))]
    begun, sent, seen = time.monotonic(), 0, []
    while time.monotonic() - begun < LOAD_S:
        while sent < (time.monotonic() - begun) * CALLS_PER_S:
            request, response = bodies[sent % len(bodies)]
            caller.tap.record(METHOD, request, response, 0, time.time_ns() // 1000, 1500, f"p{sent}")
            sent += 1
        await asyncio.sleep(0.01)
        assert agent.process is not None
        seen.append(_rss_mib(agent.process.pid))
    await eventually(lambda: len(fleet.ids()) == sent, 30, "every row")
    await agent.terminate()
    caller.tap.close()
    return statistics.median(seen[len(seen) // 2 :]), sent


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def _figure(name: str, value: float, unit: str, peer: str, peer_value: float, n: int, **more: Any) -> dict[str, Any]:
    row = {"figure": name, "value": round(value, 3), "unit": unit, "peer": peer, "peer_value": round(peer_value, 3)}
    return row | {"ratio": round(peer_value / value, 3), "n": n} | more


if __name__ == "__main__":
    for line in run():
        print(json.dumps(line))
