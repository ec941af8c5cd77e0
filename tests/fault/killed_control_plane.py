"""A control plane that kills itself at a chosen point: `python killed_control_plane.py HOME DATABASE`.

A point is the moment just before a system call that changes a name or forces something to the disk, or before a
commit. It counts them from the moment when HOME/armed exists; that file says at which one to die (kill -9).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from pilotfish_control_plane.app import ControlPlane
from pilotfish_control_plane.settings import Settings

HOME = Path(sys.argv[1])
ARMED = HOME / "armed"
passed: list[str] = []


def point(name: str) -> None:
    """Die here if this is the point."""
    try:
        wanted = int(ARMED.read_text() or "-1")
    except (FileNotFoundError, ValueError):
        return
    passed.append(name)
    (HOME / "passed").write_text("\n".join(passed))
    if len(passed) == wanted:
        os.kill(os.getpid(), signal.SIGKILL)


def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def watching(*args: Any, **kwargs: Any) -> Any:
        point(name)
        return call(*args, **kwargs)

    return watching


for module, names in ((os, ("link", "rename", "fsync", "mkdir", "rmdir", "utime")), (shutil, ("rmtree",))):
    for name in names:
        setattr(module, name, watched(name, getattr(module, name)))


@event.listens_for(Engine, "commit")
def before_commit(connection: Any) -> None:
    if WROTE.pop(id(connection), None):
        point("commit")


WROTE: dict[int, bool] = {}


@event.listens_for(Engine, "after_cursor_execute")
def after_execute(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
    # Only commits of the registration count: those of the loops come when they like.
    if statement.startswith(("INSERT INTO versions", "INSERT INTO runs")):
        WROTE[id(connection)] = True


async def main() -> None:
    settings = Settings(home=HOME, port=0, http_port=0, database=sys.argv[2], log_level="warning")
    app = ControlPlane(settings, areas=["registry", "artifacts", "experiments"])
    await app.start()
    await asyncio.Event().wait()


asyncio.run(main())
