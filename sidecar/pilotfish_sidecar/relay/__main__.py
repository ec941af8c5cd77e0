"""`python -m pilotfish_sidecar.relay`: one relay process.

Owns the flags and the signals.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pilotfish_sidecar.relay.relay import Listener, Relay, RelaySettings
from pilotfish_sidecar.relay.tee import TeeLimits

__all__ = ["main", "parse_listener"]

_MIB = 1 << 20


def parse_listener(text: str) -> Listener:
    """Return the listener of HOST:PORT=HOST:PORT.

    Raises:
        ValueError: it is none.
    """
    here, _, there = text.partition("=")
    host, _, port = here.rpartition(":")
    upstream_host, _, upstream_port = there.rpartition(":")
    if not host or not upstream_host or not port.isdecimal() or not upstream_port.isdecimal():
        raise ValueError(f"{text!r} is not HOST:PORT=UPSTREAM_HOST:PORT")
    if int(port) > 65535 or not 0 < int(upstream_port) <= 65535:
        raise ValueError(f"{text!r}: a port is at most 65535, and the upstream's at least 1")
    return Listener(host.strip("[]"), int(port), upstream_host.strip("[]"), int(upstream_port))


def _listener(text: str) -> Listener:
    try:
        return parse_listener(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _settings(argv: Sequence[str] | None) -> RelaySettings:
    parser = argparse.ArgumentParser(prog="pilotfish-relay", description="A pass-through in front of a model server.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the sidecar's runtime files")
    parser.add_argument(
        "--listen",
        type=_listener,
        action="append",
        required=True,
        metavar="HOST:PORT=UPSTREAM_HOST:PORT",
        help="where calls come in and where they go, gRPC or REST; port 0: any free one; repeatable",
    )
    parser.add_argument("--tee-soft-mib", type=float, default=8.0, help="above it bodies are left out; default: 8")
    parser.add_argument("--tee-hard-mib", type=float, default=24.0, help="above it connections go blind; default: 24")
    parser.add_argument("--wait-s", type=float, default=2.0, help="wait for a decoder before serving; default: 2")
    parser.add_argument("--drain-s", type=float, default=10.0, help="longest drain when stopped; default: 10")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    args = parser.parse_args(argv)
    level = getattr(logging, args.log_level.upper())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    limits = TeeLimits(int(args.tee_soft_mib * _MIB), int(args.tee_hard_mib * _MIB))
    return RelaySettings(args.run_dir, tuple(args.listen), limits, args.wait_s, args.drain_s)


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
