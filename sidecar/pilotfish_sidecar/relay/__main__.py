"""`python -m pilotfish_sidecar.relay`: one relay process.

Owns the signals and the limits of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pilotfish_sidecar.relay.flags import add_flags, settings_of
from pilotfish_sidecar.relay.relay import Relay, RelaySettings

__all__ = ["main"]

_WANTED_FILES: Final = 1 << 16


def _settings(argv: Sequence[str] | None) -> RelaySettings:
    parser = argparse.ArgumentParser(prog="pilotfish-relay", description="A pass-through in front of a model server.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the sidecar's runtime files")
    parser.add_argument(
        "--listen",
        action="append",
        required=True,
        metavar="HOST:PORT=UPSTREAM_HOST:PORT",
        help="where calls come in and where they go, gRPC or REST; port 0: any free one; repeatable",
    )
    add_flags(parser)
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    args = parser.parse_args(argv)
    level = getattr(logging, args.log_level.upper())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        return settings_of(args, args.run_dir, args.listen)
    except ValueError as error:
        parser.error(str(error))


def _allow_many_files() -> None:
    """Let the process open as many connections as the system lets it: each is two files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(_WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(settings: RelaySettings) -> None:
    relay = Relay(settings)
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await relay.start()
    await asked.wait()
    await relay.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the relay; return 0 after a clean stop, 2 when it cannot start."""
    settings = _settings(argv)
    _allow_many_files()
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    try:
        run(_run(settings))
    except OSError as error:
        logging.getLogger(__name__).error("the relay cannot start: %s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
