"""The command line of the node: `python -m pilotfish_node`; started by `pilotfish up`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from pilotfish_node.node import Node

__all__ = ["main"]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog="pilotfish_node", description="Start and watch the replicas and the gateway of this machine."
    )
    parser.add_argument("--home", type=Path, required=True, help="PILOTFISH_HOME")
    parser.add_argument("--node", default="local", help="name of this node")
    parser.add_argument(
        "--control-plane", required=True, help="host:port; port 0: read it from HOME/run/control_plane.json"
    )
    parser.add_argument("--token-file", type=Path, required=True, help="file with the node's token")
    parser.add_argument("--gateway-port", type=int, default=0, help="shared port of the gateway; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address that replicas and gateway listen on")
    parser.add_argument("--log-level", default="INFO")
    return parser.parse_args(argv)


async def serve(options: argparse.Namespace) -> None:
    """Run the node until SIGTERM or SIGINT (ends everything it runs) or SIGHUP (leaves it running)."""
    node = Node(
        options.home.resolve(),
        options.node,
        control_plane=options.control_plane,
        token_file=options.token_file,
        gateway_port=options.gateway_port,
        host=options.host,
    )
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(keep_running: bool) -> None:
        if not ended.done():
            ended.set_result(keep_running)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end, False)
    loop.add_signal_handler(signal.SIGINT, end, False)
    loop.add_signal_handler(signal.SIGHUP, end, True)
    work = asyncio.create_task(node.run())
    waited: set[asyncio.Future[None] | asyncio.Future[bool]] = {work, ended}
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await node.stop(keep_running=ended.result())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node; return its exit status."""
    options = parse(argv)
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(options))
    return 0
