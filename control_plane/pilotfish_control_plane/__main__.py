"""`python -m pilotfish_control_plane`: runs one control plane until SIGTERM or SIGINT.

Exit codes: 0 drained; 1 a bug; 2 the settings are wrong; 3 the home is in use or a port is taken; 4 the store
does not answer or is full.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from pilotfish.errors import FailedPrecondition, InvalidArgument, PilotfishError, ResourceExhausted, Unavailable
from pilotfish_control_plane import settings as settings_module
from pilotfish_control_plane.app import ControlPlane
from pilotfish_control_plane.log_output import configure_logging
from pilotfish_control_plane.settings import Settings

log = logging.getLogger("pilotfish_control_plane")

_EXIT_CODES: tuple[tuple[type[PilotfishError], int], ...] = (
    (InvalidArgument, 2),
    (FailedPrecondition, 3),
    (Unavailable, 4),
    (ResourceExhausted, 4),
)


async def serve(settings: Settings) -> None:
    """Run a control plane until a signal; the second signal does not wait for running calls."""
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    plane = ControlPlane(settings)
    await plane.start()
    await stop.wait()
    log.info("draining, at most %.0f s", settings.drain_s)
    draining = asyncio.create_task(plane.stop())
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not draining.done():
        log.warning("a second signal: not waiting for running calls")
        draining.cancel()
        return
    await draining


def main(argv: Sequence[str]) -> int:
    """Load the settings, run, and return the exit code."""
    try:
        settings = settings_module.load(argv)
        configure_logging(settings.log_level, settings.log_format)
        asyncio.run(serve(settings))
    except PilotfishError as error:
        sys.stderr.write(f"pilotfish: {error}\n")
        return next((code for cls, code in _EXIT_CODES if isinstance(error, cls)), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
