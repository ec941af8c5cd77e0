"""`python -m pilotfish_sidecar.decoder`: the process that reads what the relay teed.

Owns the flags, the connection to the relay and the order in which a session ends.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from pilotfish_sidecar.decoder.methods import Methods
from pilotfish_sidecar.decoder.session import Session
from pilotfish_sidecar.relay.tee_wire import PieceReader, TeeError, encode_hello
from pilotfish_sidecar.tap.records import DropReason
from pilotfish_sidecar.tap.tap import Tap, TapSettings

__all__ = ["main"]

log = logging.getLogger(__name__)

_READ_BYTES: Final = 1 << 20
_NICE: Final = 5
_CLOSE_S: Final = 5.0
_LAST_COUNT_S: Final = 0.1


class _Stop(Exception):
    """SIGTERM came."""


def _serve(tee: Path, tap_settings: TapSettings, methods: Methods) -> None:
    """Decode one relay session; return when the relay closed it.

    Raises:
        OSError: there is no relay.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(tee))
        tap = Tap(tap_settings)
        lost = DropReason.CRASH
        try:
            session, reader = Session(tap, methods), PieceReader()
            connection.sendall(encode_hello(str(tap.counters_path or "")))
            log.info("decoding what %s tells", tee)
            while chunk := connection.recv(_READ_BYTES):
                for piece in reader.feed(chunk):
                    session.take(piece)
        except TeeError as error:
            log.error("the relay says what is not of this protocol: %s", error)
        except _Stop:
            lost = DropReason.SHUTDOWN
            raise
        finally:
            connection.close()
            time.sleep(_LAST_COUNT_S)  # a relay that lives notices, and counts no more in these books
            # What the relay counted and told nobody, or told too late, is booked as lost.
            tap.close(_CLOSE_S, lost=lost)


def _run(tee: Path, tap_settings: TapSettings, methods: Methods) -> None:
    rng = random.Random()
    wait_s = 0.05
    while True:
        try:
            _serve(tee, tap_settings, methods)
            wait_s = 0.05
        except OSError as error:
            log.debug("no relay at %s: %s", tee, error)
            wait_s = min(wait_s * 2, 1.0)
        time.sleep(rng.uniform(wait_s / 2, wait_s))


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stop


def _yield_to_the_server() -> None:
    """Never take the processor from relay and model server: what cannot be read in time is counted instead."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the decoder until SIGTERM; return 0."""
    parser = argparse.ArgumentParser(prog="pilotfish-decoder", description="Reads what the relay teed.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of the sidecar's runtime files")
    parser.add_argument("--tee-socket", type=Path, help="Unix socket of the relay; default: tee.sock there")
    parser.add_argument("--tap-socket", type=Path, help="Unix socket of the agent; default: tap.sock there")
    parser.add_argument("--counters", type=Path, help="file of the books; default: tap.counters there")
    parser.add_argument(
        "--json-path",
        action="append",
        default=[],
        metavar="PATH",
        help="path of JSON calls that are inference too, such as /predict or /score/*; may be repeated",
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    args = parser.parse_args(argv)
    try:
        methods = Methods(args.json_path)
    except ValueError as error:
        parser.error(str(error))
    level = getattr(logging, args.log_level.upper())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    _yield_to_the_server()
    run_dir: Path = args.run_dir
    try:
        tap = TapSettings(args.tap_socket or run_dir / "tap.sock", args.counters or run_dir / "tap.counters")
        _run(args.tee_socket or run_dir / "tee.sock", tap, methods)
    except _Stop:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
