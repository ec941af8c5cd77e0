"""A Node client made from the protos registers, deploys and promotes against a real control plane and node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotfish import Client
from pilotfish.errors import PilotfishError
from tests.digits_model import write_digits_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A running `pilotfish up`."""
    argv = [sys.executable, "-m", "pilotfish", "up", "--home", str(tmp_path / "home"), "--port", "0"]
    argv += ["--http-port", "0", "--gateway-port", "0"]
    with open(tmp_path / "up.log", "wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        until = time.monotonic() + 90
        while True:
            assert process.poll() is None, (tmp_path / "up.log").read_text()
            try:
                with Client(home=tmp_path / "home", timeout_s=2.0) as client:
                    if client.fleet.members():
                        break
            except PilotfishError:
                assert time.monotonic() < until, (tmp_path / "up.log").read_text()
            time.sleep(0.2)
        yield tmp_path / "home"
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.timeout(400)
@pytest.mark.ledger("G4")
def test_a_client_from_the_protos_runs_register_deploy_promote(home: Path, tmp_path: Path) -> None:
    for program in ("node", "npm"):
        assert shutil.which(program), f"{program} is missing: install Debian's nodejs and npm"
    write_digits_model(tmp_path / "model")
    work = tmp_path / "client"
    shutil.copytree(ROOT / "tests" / "peers" / "node_client", work)
    install = subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=work, capture_output=True, text=True)
    assert install.returncode == 0, install.stderr
    client = Client(home=home)
    argv = ["node", "client.mjs", client.connection.address, client.connection.token, str(ROOT / "protos")]
    run = subprocess.run(
        [*argv, str(tmp_path / "model" / "model.onnx")], cwd=work, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout.strip().splitlines()[-1]) == {
        "model": "projects/default/models/digits",
        "version": 1,
        "status": "VERSION_STATUS_STAGING",
        "promoted": True,
        "verdict": "VERDICT_PASS",
        "stage": "STAGE_PRODUCTION",
        "refused": "INVALID_ARGUMENT",
    }
