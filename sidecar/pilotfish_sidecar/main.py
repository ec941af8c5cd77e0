"""The command line of the sidecar: `pilotfish-sidecar agent …`, or `python -m pilotfish_sidecar agent …`.

Owns the flags. It imports the agent only when it runs one.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilotfish_sidecar.relay.flags import add_flags as add_relay_flags

if TYPE_CHECKING:
    from pilotfish_sidecar.agent import AgentSettings

__all__ = ["main"]

log = logging.getLogger(__name__)

_LEAST_SPOOL_MIB = 16
_NOT_DRAINED = 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pilotfish-sidecar", description="The sidecar beside a model server.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_flags(commands.add_parser("agent", help="capture predictions, watch drift, report to the control plane"))
    drain = commands.add_parser(
        "drain", help="send what a stopped agent left in its spool, then exit: 0 all sent, 3 not"
    )
    _add_flags(drain)
    drain.add_argument("--timeout-s", type=float, default=30.0, help="how long to try; default: 30")
    attach = commands.add_parser(
        "attach", help="relay the calls of a model server that runs already, and be its sidecar: no change to it"
    )
    attach.add_argument(
        "--listen",
        action="append",
        required=True,
        metavar="[tls://]HOST:PORT=[tls://]UPSTREAM_HOST:PORT",
        help="where callers come and where the model server is, gRPC or REST; port 0: any free one; repeatable",
    )
    add_relay_flags(attach)
    attach.add_argument(
        "--json-path",
        action="append",
        default=[],
        metavar="PATH",
        help="path of JSON calls that are inference too, such as /predict or /score/*; repeatable",
    )
    _add_flags(attach)
    return parser


def _add_flags(agent: argparse.ArgumentParser) -> None:
    need = agent.add_argument_group("who and where")
    need.add_argument("--run-dir", type=Path, required=True, help="directory of the replica's runtime files")
    need.add_argument(
        "--replica", required=True, action="append", help="id of the replica; again for each further one it serves"
    )
    need.add_argument("--instance", help="stable id of this sidecar; default: sidecar-REPLICA of the first")
    need.add_argument("--control-plane", required=True, metavar="HOST:PORT", help="address of the control plane")
    need.add_argument("--token-file", type=Path, help="file with the token")
    need.add_argument("--tls-ca", type=Path, help="PEM of the authority to trust; without it no TLS")
    need.add_argument("--tls-certificate", type=Path, help="PEM of this sidecar's certificate")
    need.add_argument("--tls-key", type=Path, help="PEM of its key")
    need.add_argument(
        "--health", metavar="URL", help="grpc://HOST:PORT or http://HOST:PORT/PATH of an attached model server to probe"
    )
    files = agent.add_argument_group("files (default: in the run directory)")
    files.add_argument("--tap-socket", type=Path, help="Unix socket of the tap; default: tap.sock")
    files.add_argument("--tap-counters", type=Path, help="counters file of the tap; default: tap.counters")
    files.add_argument("--log-socket", type=Path, help="Unix socket of the log API; default: log.sock")
    files.add_argument("--spool-dir", type=Path, help="directory of the spool; default: spool")
    known = agent.add_argument_group("identity, used until a configuration comes")
    known.add_argument("--deployment", default="", help="id of the deployment")
    known.add_argument("--endpoint", default="", help="id of the endpoint")
    known.add_argument("--model", default="", help="id of the model")
    known.add_argument("--version", type=int, default=0, help="number of the version")
    spool = agent.add_argument_group("spool")
    spool.add_argument("--spool-max-mib", type=float, default=512.0, help="most MiB on disk; default: 512")
    spool.add_argument("--spool-max-age-s", type=float, default=7 * 86400.0, help="oldest record; default: 7 days")
    spool.add_argument(
        "--spool-policy",
        choices=("refuse", "drop_oldest"),
        default="refuse",
        help="what the log API does when the spool is full; captured calls always drop the oldest",
    )
    agent.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))


def _settings(args: argparse.Namespace) -> AgentSettings:
    from pilotfish_sidecar.agent import AgentSettings
    from pilotfish_sidecar.health import parse_target
    from pilotfish_sidecar.rows import Who
    from pilotfish_sidecar.spool import SpoolLimits
    from pilotfish_sidecar.uplink import UplinkSettings

    run_dir: Path = args.run_dir
    return AgentSettings(
        run_dir=run_dir,
        instance=args.instance or f"sidecar-{args.replica[0]}",
        uplink=UplinkSettings(
            args.control_plane,
            args.token_file,
            args.tls_ca,
            args.tls_certificate,
            args.tls_key,
            tuple(args.replica[1:]),
        ),
        probe=parse_target(args.health) if args.health else None,
        tap_socket=args.tap_socket or run_dir / "tap.sock",
        tap_counters=args.tap_counters or run_dir / "tap.counters",
        spool_dir=args.spool_dir or run_dir / "spool",
        log_socket=args.log_socket or run_dir / "log.sock",
        who=Who(args.deployment, args.replica[0], args.endpoint, args.model, args.version),
        limits=SpoolLimits(max_bytes=int(args.spool_max_mib * (1 << 20)), max_age_s=args.spool_max_age_s),
        refuse_when_full=args.spool_policy == "refuse",
    )


def _attach(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run an attached sidecar; the agent gets every flag but those of the relay."""
    from pilotfish.errors import PilotfishError
    from pilotfish_sidecar.attached import AttachedSettings, AttachedSidecar
    from pilotfish_sidecar.decoder.methods import path_pattern
    from pilotfish_sidecar.relay.flags import settings_of, words_of

    relay = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    relay.add_argument("--listen", action="append")
    relay.add_argument("--json-path", action="append")
    relay.add_argument("--run-dir")
    add_relay_flags(relay)
    _, agent = relay.parse_known_args([word for word in argv if word != "attach"])
    try:
        settings_of(args, args.run_dir, args.listen)
        for path in args.json_path:
            path_pattern(path)
        decoder = [word for path in args.json_path for word in ("--json-path", path)]
        AttachedSidecar(AttachedSettings(args.run_dir, args.listen, agent, words_of(args), decoder)).run()
    except (PilotfishError, OSError, ValueError) as error:
        log.error("the sidecar cannot start: %s", error)
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sidecar; return 0 after a clean stop, 2 when it cannot start, 3 when a drain left something."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.spool_max_mib < _LEAST_SPOOL_MIB:
        parser.error(f"--spool-max-mib is {args.spool_max_mib:g}, a spool needs at least {_LEAST_SPOOL_MIB}")
    level = getattr(logging, args.log_level.upper())
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if args.command == "attach":
        return _attach(args, list(argv) if argv is not None else sys.argv[1:])
    # Windows are small: threads of a BLAS cost memory and start-up and bring nothing. Before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import asyncio

    from pilotfish.errors import PilotfishError
    from pilotfish_sidecar.agent import Agent

    async def run() -> int:
        agent = Agent(_settings(args))
        if args.command == "drain":
            return 0 if await agent.drain(args.timeout_s) else _NOT_DRAINED
        await agent.run()
        return 0

    try:
        return asyncio.run(run())
    except (PilotfishError, OSError) as error:
        log.error("the sidecar cannot start: %s", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
