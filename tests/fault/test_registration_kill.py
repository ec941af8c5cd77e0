"""Registrations survive kill -9 at every point: nothing half registered, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from pilotfish.v1 import registry_service_pb2 as pb
from tests.conftest import authenticated_channel
from tests.registry_models import Client, whole_files

PROGRAM = Path(__file__).with_name("killed_control_plane.py")
FILES = whole_files()


class Killable:
    """The control plane's process, started again after every kill."""

    def __init__(self, home: Path, database: str) -> None:
        home.mkdir(mode=0o700)
        self.home, self._database = home, database
        self.process: subprocess.Popen[bytes] | None = None

    def arm(self, point: int) -> None:
        (self.home / "armed").write_text(str(point))

    def disarm(self) -> None:
        (self.home / "armed").unlink(missing_ok=True)

    async def start(self) -> grpc.aio.Channel:
        """Start the process; the facts that a killed one left behind tell its own pid."""
        self.disarm()
        (self.home / "passed").unlink(missing_ok=True)
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.home), self._database], env={**os.environ, "PYTHONPATH": root}
        )
        deadline = time.monotonic() + 60
        facts = self.home / "run" / "control_plane.json"
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "it did not start"
            if facts.exists() and (found := json.loads(facts.read_text()))["pid"] == self.process.pid:
                token = (self.home / "token").read_text().strip()
                return authenticated_channel(f"127.0.0.1:{found['grpc_port']}", token)
            await asyncio.sleep(0.02)
        raise AssertionError("it did not start in time")

    def wait_until_dead(self) -> None:
        assert self.process is not None
        assert self.process.wait(30) == -9

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)


@pytest.fixture
def killable(tmp_path: Path, databases: Any, engine_name: str) -> Any:
    home = tmp_path / "home"
    made = Killable(home, "")
    made._database = databases.url(engine_name, home)
    yield made
    made.end()


async def directories(home: Path, expected: set[str]) -> set[str]:
    """Return the artifacts in the store, once they are as expected or after 10 s: collection takes a moment."""
    for _ in range(200):
        found = {p.relative_to(home / "artifacts").as_posix() for p in (home / "artifacts").glob("models/*/*/*")}
        if found == expected:
            break
        await asyncio.sleep(0.05)
    return found


async def check_whole(client: Client, killable: Killable, model: str) -> list[Any]:
    """Check that every version of the model is whole and that the store holds those and nothing else."""
    listed = (await client.registry.ListVersions(pb.ListVersionsRequest(page_size=1000))).versions
    assert await directories(killable.home, {v.artifact_path for v in listed}) == {v.artifact_path for v in listed}
    mine = [v for v in listed if v.model == model]
    for version in mine:
        stored = killable.home / "artifacts" / version.artifact_path
        assert {p.name: p.read_bytes() for p in stored.iterdir()} == FILES
    return mine


def chosen(passed: list[str], engine_name: str) -> list[int]:
    """Return the points to die at, from 1: all with PILOTFISH_KILL_ALL, else the last of each kind and all commits.

    On PostgreSQL those around the commit: what happens to files does not depend on the database.
    """
    if os.environ.get("PILOTFISH_KILL_ALL"):
        return list(range(1, len(passed) + 1))
    last = {name: number for number, name in enumerate(passed, 1)}
    commits = [number for number, name in enumerate(passed, 1) if name == "commit"]
    if engine_name == "postgresql":
        return sorted({last["rename"], *commits, last["rmtree"]})
    return sorted({*last.values(), *commits})


async def killed(killable: Killable, client: Client, point: int) -> tuple[pb.RegisterVersionRequest, str]:
    """Register, to be killed at `point`; return the request and what was about to happen."""
    upload = await client.upload(FILES)
    request = pb.RegisterVersionRequest(model=f"m{point}", upload=upload, request_id=f"r{point}")
    killable.arm(point)
    with contextlib.suppress(grpc.aio.AioRpcError):  # a point behind the answer
        await client.registry.RegisterVersion(request, timeout=60)
    await asyncio.to_thread(killable.wait_until_dead)
    return request, (killable.home / "passed").read_text().splitlines()[-1]


async def check_empty(killable: Killable) -> None:
    """Check that nothing is left of uploads and drafts, once the collector has had its time."""
    for _ in range(200):
        left = [p for d in ("uploads", "tmp", "views") for p in (killable.home / "artifacts" / d).iterdir()]
        if not left:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"left behind: {left}")


@pytest.mark.ledger("G1")
@pytest.mark.timeout(1800)
async def test_a_registration_killed_at_any_point_is_whole_or_absent_and_its_repetition_succeeds(
    killable: Killable, engine_name: str
) -> None:
    channel = await killable.start()
    upload = await Client(channel).upload(FILES)
    killable.arm(10**6)
    await Client(channel).registry.RegisterVersion(pb.RegisterVersionRequest(model="rehearsal", upload=upload))
    passed = (killable.home / "passed").read_text().splitlines()
    assert {"link", "rename", "fsync", "commit", "rmtree"} <= set(passed)
    points = chosen(passed, engine_name)
    for point in points:
        await channel.close()
        killable.end()
        # As in the rehearsal no content is known yet, so that the points are the same ones.
        shutil.rmtree(killable.home / "artifacts" / "staging")
        channel = await killable.start()
        request, at = await killed(killable, Client(channel), point)
        await channel.close()
        channel = await killable.start()
        client = Client(channel)
        found = await check_whole(client, killable, request.model)
        assert at == passed[point - 1], "the points are not those of the rehearsal"
        again = await client.registry.RegisterVersion(request, timeout=60)
        assert again.version.number == 1, f"killed before {at} (point {point}): a number was lost"
        if found:
            assert again.version == found[0], "what was committed is what the repetition answers"
        assert [v.id for v in await check_whole(client, killable, request.model)] == [again.version.id]
        await check_empty(killable)
    await channel.close()
    print(f"{engine_name}: killed before {[f'{p} {passed[p - 1]}' for p in points]} of {len(passed)} points")
