"""The blocking client is what the generator makes of the asynchronous one, and has the same names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from pilotfish.aio.client import AsyncClient
from pilotfish.blocking.client import Client

ROOT = Path(__file__).resolve().parents[2]


def test_the_blocking_client_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_twin.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    asynchronous = AsyncClient("127.0.0.1:1", "t")
    blocking = Client("127.0.0.1:1", "t")
    areas = [n for n in vars(asynchronous) if not n.startswith("_") and n not in ("connection", "project")]
    assert {"models", "deployments", "monitoring", "lifecycle", "pipelines"} <= set(areas)
    for area in areas:
        first, second = type(getattr(asynchronous, area)), type(getattr(blocking, area))
        methods = [n for n, _ in inspect.getmembers(first, inspect.isfunction) if not n.startswith("_")]
        assert methods == [n for n, _ in inspect.getmembers(second, inspect.isfunction) if not n.startswith("_")]
        for name in methods:
            one, other = (inspect.signature(getattr(cls, name)) for cls in (first, second))
            assert list(one.parameters.items()) == list(other.parameters.items()), f"{area}.{name}"
            assert not inspect.iscoroutinefunction(getattr(second, name)), f"{area}.{name}"
            assert not inspect.isasyncgenfunction(getattr(second, name)), f"{area}.{name}"
