"""`pilotfish demo`: a fresh home, a supervisor, the story, and nothing left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pilotfish.cli.demo.show import Show, StepFailed
from pilotfish.errors import PilotfishError

__all__ = ["run_demo"]

START_TIMEOUT_S = 90.0


def run_demo(seed: int, *, base: Path | None = None, keep: bool = False) -> int:
    """Run the demo and return its exit status.

    Args:
        seed: of split and order.
        base: directory to work in; None: a temporary one.
        keep: leave it behind.
    """
    from pilotfish.cli.demo.acts import ACTS
    from pilotfish.cli.demo.story import Story

    began = time.monotonic()
    temporary = base is None
    base = base.resolve() if base is not None else Path(tempfile.mkdtemp(prefix="pilotfish-demo-"))
    show = Show(len(ACTS))
    show.console.print(f"[bold]pilotfish demo[/], seed {seed}: the whole life of a model on real digits, in {base}")
    supervisor = _start(base)
    try:
        _wait_up(base, supervisor)
        show.console.print(f"      up after {time.monotonic() - began:.1f} s: control plane and node run")
        facts = Story(base / "home", base / "data", seed, show).tell(ACTS)
        facts = {"data_seed": seed, **facts, "seconds": round(time.monotonic() - began, 1)}
    except StepFailed as failed:
        show.console.print(f"\n[red]failed[/] at step {failed.step}: {failed.why}", markup=True)
        keep = True
        return 1
    except PilotfishError as error:
        show.console.print(f"\n[red]failed[/] at step {show.step_name}: {error}")
        keep = True
        return 1
    except KeyboardInterrupt:
        show.console.print("\nended by Ctrl-C; stopping everything")
        return 130
    finally:
        _stop(supervisor)
        if keep or not temporary:
            show.console.print(f"      everything is kept in {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    show.last_line(facts)
    return 0


def _start(base: Path) -> subprocess.Popen[bytes]:
    (base / "data").mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "pilotfish", "up", "--home", str(base / "home"), "--data-root", str(base / "data")]
    argv += ["--port", "0", "--http-port", "0", "--gateway-port", "0"]
    with open(base / "up.log", "ab") as out:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends everything in order.
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def _wait_up(base: Path, supervisor: subprocess.Popen[bytes]) -> None:
    from pilotfish.blocking.client import Client

    until = time.monotonic() + START_TIMEOUT_S
    why = "it does not listen"
    while time.monotonic() < until:
        if supervisor.poll() is not None:
            raise StepFailed("start", f"`pilotfish up` ended:\n{(base / 'up.log').read_text()[-2000:]}")
        if (base / "home" / "run" / "control_plane.json").exists():
            try:
                with Client(home=base / "home", timeout_s=2.0) as client:
                    if any(m.instance == "local" and m.link == 1 for m in client.fleet.members()):
                        return
                why = "the node has not connected"
            except PilotfishError as error:
                why = str(error)
        time.sleep(0.1)
    raise StepFailed("start", f"not up within {START_TIMEOUT_S:g} s: {why}")


def _stop(supervisor: subprocess.Popen[bytes]) -> None:
    """End the supervisor, which ends everything; a second Ctrl-C does not keep it from doing so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if supervisor.poll() is None:
            os.kill(supervisor.pid, signal.SIGTERM)
            try:
                supervisor.wait(60.0)
            except subprocess.TimeoutExpired:
                supervisor.kill()
    finally:
        signal.signal(signal.SIGINT, before)
