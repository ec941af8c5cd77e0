"""The real Envoy between callers and small real servers: weights, flips, stickiness, shadows, names, restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import http.server
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from scipy import stats as scipy_stats

from pilotfish_node.gateway import Gateway
from pilotfish_node.model import DeploymentRoute, EndpointRoute, GatewaySpec, ReplicaAddress, Shadow

PATH = "/v2/models/fraud/infer"


class _Server(http.server.ThreadingHTTPServer):
    """Answers with its own name; notes the roles it was called in."""

    daemon_threads = True

    def __init__(self, tag: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tag = tag
        self.roles: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One write an answer, at once: else every answer waits 40 ms for a delayed acknowledgement.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        server: Any = self.server
        server.roles[self.headers.get("pilotfish-role", "live")] += 1
        body = server.tag.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def servers() -> Iterator[dict[str, _Server]]:
    found = {tag: _Server(tag) for tag in ("a", "b", "c")}
    yield found
    for server in found.values():
        server.shutdown()
        server.server_close()


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    found = Gateway(tmp_path / "gateway")
    yield found
    await found.stop()


def addresses(servers: dict[str, _Server]) -> dict[str, ReplicaAddress]:
    return {
        f"r{t}": ReplicaAddress(f"127.0.0.1:{s.server_port}", f"127.0.0.1:{s.server_port}") for t, s in servers.items()
    }


def spec(generation: int, a: int, b: int, *, shadows: tuple[Shadow, ...] = (), sticky: str = "") -> GatewaySpec:
    deployments = (
        DeploymentRoute("da", "production", 1, ("ra",)),
        DeploymentRoute("db", "canary", 2, ("rb",)),
        DeploymentRoute("dc", "staging", 3, ("rc",)),
    )
    weights = (("da", a), ("db", b))
    return GatewaySpec(generation, 0, (EndpointRoute("fraud", 0, weights, shadows, sticky, deployments),))


class _Caller:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def get(self, path: str = PATH, **headers: str) -> tuple[int, str]:
        self._connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()


async def call(port: int, count: int, **headers: str) -> Counter[str]:
    def work() -> Counter[str]:
        caller = _Caller(port)
        return Counter(caller.get(**headers)[1] for _ in range(count))

    return await asyncio.to_thread(work)


async def test_weights_are_obeyed(gateway: Gateway, servers: dict[str, _Server]) -> None:
    await gateway.apply(spec(1, 9000, 1000), addresses(servers))
    seen = await call(gateway.state.endpoint_ports["fraud"], 3000)
    assert set(seen) == {"a", "b"}
    assert scipy_stats.chisquare([seen["a"], seen["b"]], [2700, 300]).pvalue > 0.001


async def test_live_flips_cost_no_call(gateway: Gateway, servers: dict[str, _Server]) -> None:
    await gateway.apply(spec(1, 10_000, 0), addresses(servers))
    port, stop = gateway.state.endpoint_ports["fraud"], threading.Event()
    results: list[tuple[int, str]] = []

    def load() -> None:
        caller = _Caller(port)
        while not stop.is_set():
            results.append(caller.get())

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for n in range(20):
            a = 10_000 if n % 2 else 0
            await gateway.apply(spec(2 + n, a, 10_000 - a), addresses(servers))
            assert gateway.state.generation == 2 + n
            await asyncio.sleep(0.02)
    finally:
        stop.set()
        thread.join(10)
    assert {status for status, _ in results} == {200}
    assert {tag for _, tag in results} == {"a", "b"}


async def test_a_deployment_is_reached_by_stage_version_and_path(gateway: Gateway, servers: dict[str, _Server]) -> None:
    await gateway.apply(spec(1, 10_000, 0), addresses(servers))
    for port in (gateway.state.shared_port, gateway.state.endpoint_ports["fraud"]):
        caller = _Caller(port)
        assert caller.get()[1] == "a"
        assert caller.get(pilotfish_stage="staging")[1] == "c"
        assert caller.get(pilotfish_version="2")[1] == "b"
        assert caller.get(pilotfish_deployment="dc")[1] == "c"
        assert caller.get("/v2/models/fraud/versions/3/infer")[1] == "c"
    shared = _Caller(gateway.state.shared_port)
    assert shared.get("/anything", pilotfish_endpoint="fraud")[1] == "a"
    status, text = shared.get("/v2/models/other/infer")
    assert status == 503 and "no such endpoint" in text


async def test_a_caller_sticks_to_one_deployment(gateway: Gateway, servers: dict[str, _Server]) -> None:
    await gateway.apply(spec(1, 5000, 5000, sticky="x-user"), addresses(servers))
    port = gateway.state.shared_port
    for user in ("ann", "bob", "cid", "dan"):
        assert len(await call(port, 30, x_user=user)) == 1


async def test_shadows_get_copies_and_answer_nobody(gateway: Gateway, servers: dict[str, _Server]) -> None:
    await gateway.apply(spec(1, 10_000, 0, shadows=(Shadow("dc", 10_000),)), addresses(servers))
    seen = await call(gateway.state.shared_port, 50)
    assert seen == {"a": 50}
    for _ in range(100):
        if servers["c"].roles["shadow"] == 50:
            break
        await asyncio.sleep(0.05)
    assert servers["c"].roles == {"shadow": 50}
    assert servers["a"].roles == {"live": 50}


async def test_a_killed_gateway_comes_back_with_its_ports_and_routes(
    gateway: Gateway, servers: dict[str, _Server], tmp_path: Path
) -> None:
    routes = spec(1, 10_000, 0)
    await gateway.apply(routes, addresses(servers))
    before = gateway.state
    adopted = Gateway(tmp_path / "gateway")
    await adopted.apply(spec(2, 0, 10_000), addresses(servers))
    assert (adopted.state.shared_port, dict(adopted.state.endpoint_ports)) == (
        before.shared_port,
        dict(before.endpoint_ports),
    )
    assert (await call(before.shared_port, 5)) == {"b": 5}, "a new node takes over the running gateway"
    os.kill(json.loads((tmp_path / "gateway" / "envoy.json").read_text())["pid"], signal.SIGKILL)
    for _ in range(100):
        if not adopted.state.running:
            break
        await asyncio.sleep(0.05)
    await adopted.restart_if_dead(spec(2, 0, 10_000), addresses(servers))
    assert adopted.state.shared_port == before.shared_port
    assert (await call(before.shared_port, 5)) == {"b": 5}
    await adopted.stop()


async def test_a_deployment_that_goes_costs_no_call(gateway: Gateway, servers: dict[str, _Server]) -> None:
    """Its cluster stays until no worker routes to it any more."""
    both = spec(1, 0, 10_000)
    await gateway.apply(both, addresses(servers))
    port, stop = gateway.state.endpoint_ports["fraud"], threading.Event()
    results: list[tuple[int, str]] = []

    def load() -> None:
        caller = _Caller(port)
        while not stop.is_set():
            results.append(caller.get())

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in range(10):
            await asyncio.sleep(0.05)
            (endpoint,) = spec(2 + 2 * n, 10_000, 0).endpoints
            alone = dataclasses.replace(endpoint, weights=(("da", 10_000),), deployments=endpoint.deployments[:1])
            await gateway.apply(GatewaySpec(2 + 2 * n, 0, (alone,)), addresses(servers))
            await asyncio.sleep(0.05)
            await gateway.apply(spec(3 + 2 * n, 0, 10_000), addresses(servers))
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert Counter(status for status, _ in results).keys() == {200}


async def test_a_gateway_that_starts_again_waits_for_ports_that_are_let_go_a_moment_later(
    gateway: Gateway, servers: dict[str, _Server]
) -> None:
    await gateway.apply(spec(1, 10_000, 0), addresses(servers))
    before = gateway.state
    await gateway.stop()
    held = socket.socket()
    # As the last thread of a killed process: it still listens when the first one is gone.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", before.shared_port))
    held.listen()
    asyncio.get_running_loop().call_later(0.3, held.close)
    await gateway.apply(spec(2, 10_000, 0), addresses(servers))
    assert gateway.state.shared_port == before.shared_port
    assert (await call(before.shared_port, 5)) == {"a": 5}
