"""The relay's flags, for its own process and for whoever starts it.

Owns their names, their meaning, and the check of all of them at once. It imports the relay only to check: whoever shows
its flags need not load it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pilotfish_sidecar.relay.relay import Listener, RelaySettings

__all__ = ["add_flags", "parse_listener", "settings_of", "words_of"]

_MIB: Final = 1 << 20
_ALPN: Final = "h2,http/1.1"
_TLS: Final = "tls://"
_FLAGS: Final = (
    "listen_certificate",
    "listen_key",
    "listen_client_ca",
    "listen_alpn",
    "upstream_ca",
    "upstream_name",
    "upstream_certificate",
    "upstream_key",
    "tee_soft_mib",
    "tee_hard_mib",
    "buffer_mib",
    "wait_s",
    "drain_s",
)


def parse_listener(text: str) -> Listener:
    """Return the listener of [tls://]HOST:PORT=[tls://]UPSTREAM_HOST:PORT.

    Raises:
        ValueError: it is none.
    """
    from pilotfish_sidecar.relay.relay import Listener

    here, _, there = text.partition("=")
    tls, upstream_tls = here.startswith(_TLS), there.startswith(_TLS)
    host, _, port = here.removeprefix(_TLS).rpartition(":")
    upstream_host, _, upstream_port = there.removeprefix(_TLS).rpartition(":")
    if (
        not host
        or not upstream_host
        or not port.isdecimal()
        or not upstream_port.isdecimal()
        or "/" in host + upstream_host
    ):
        raise ValueError(f"{text!r} is not [tls://]HOST:PORT=[tls://]UPSTREAM_HOST:PORT")
    if int(port) > 65535 or not 0 < int(upstream_port) <= 65535:
        raise ValueError(f"{text!r}: a port is at most 65535, and the upstream's at least 1")
    return Listener(host.strip("[]"), int(port), upstream_host.strip("[]"), int(upstream_port), tls, upstream_tls)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the relay but --listen and --run-dir."""
    tls = parser.add_argument_group(
        "TLS of callers and model servers",
        "tls:// before the address that is listened on: TLS ends here; before the upstream's: it is made anew. "
        "Without both, TLS passes through unread; its connections are counted, its calls cannot be.",
    )
    tls.add_argument("--listen-certificate", type=Path, metavar="PEM", help="chain that callers are shown")
    tls.add_argument("--listen-key", type=Path, metavar="PEM", help="its key")
    tls.add_argument("--listen-client-ca", type=Path, metavar="PEM", help="callers must show a certificate of these")
    tls.add_argument(
        "--listen-alpn",
        default=_ALPN,
        metavar="NAMES",
        help=f"protocols offered to callers, the preferred first; default: {_ALPN}, "
        "and only what the upstream speaks where that is reached by TLS too",
    )
    tls.add_argument("--upstream-ca", type=Path, metavar="PEM", help="authorities of upstreams; default: the system's")
    tls.add_argument("--upstream-name", default="", metavar="NAME", help="name in its certificate; default: its host")
    tls.add_argument("--upstream-certificate", type=Path, metavar="PEM", help="chain that upstreams are shown")
    tls.add_argument("--upstream-key", type=Path, metavar="PEM", help="its key")
    bounds = parser.add_argument_group("bounds of the relay")
    bounds.add_argument("--tee-soft-mib", type=float, default=8.0, help="above it bodies are left out; default: 8")
    bounds.add_argument("--tee-hard-mib", type=float, default=24.0, help="above it connections go blind; default: 24")
    bounds.add_argument(
        "--buffer-mib",
        type=float,
        default=64.0,
        help="held back for slow readers on all connections; default: 64",
    )
    bounds.add_argument("--wait-s", type=float, default=2.0, help="wait for a decoder before serving; default: 2")
    bounds.add_argument("--drain-s", type=float, default=10.0, help="longest drain when stopped; default: 10")


def settings_of(args: argparse.Namespace, run_dir: Path, listeners: Iterable[str]) -> RelaySettings:
    """Return the settings.

    Raises:
        ValueError: they make no sense; every problem, one a line.
    """
    from pilotfish_sidecar.relay.relay import RelaySettings
    from pilotfish_sidecar.relay.tee import TeeLimits
    from pilotfish_sidecar.relay.tls import TlsSettings, tls_problems

    found: list[Listener] = []
    problems: list[str] = []
    for text in listeners:
        try:
            found.append(parse_listener(text))
        except ValueError as error:
            problems.append(str(error))
    tls = TlsSettings(
        args.listen_certificate,
        args.listen_key,
        args.listen_client_ca,
        args.upstream_ca,
        args.upstream_name,
        args.upstream_certificate,
        args.upstream_key,
        tuple(name for name in args.listen_alpn.split(",") if name),
    )
    problems += tls_problems(tls, listens=any(e.tls for e in found), connects=any(e.upstream_tls for e in found))
    for name in ("tee_soft_mib", "tee_hard_mib", "buffer_mib", "wait_s", "drain_s"):
        if not getattr(args, name) >= 0:
            problems.append(f"--{name.replace('_', '-')} must not be negative")
    if args.tee_soft_mib > args.tee_hard_mib:
        problems.append("--tee-soft-mib must not be above --tee-hard-mib")
    if problems:
        raise ValueError("\n".join(problems))
    limits = TeeLimits(int(args.tee_soft_mib * _MIB), int(args.tee_hard_mib * _MIB))
    return RelaySettings(run_dir, tuple(found), limits, args.wait_s, args.drain_s, tls, int(args.buffer_mib * _MIB))


def words_of(args: argparse.Namespace) -> list[str]:
    """Return the command line words that give another process the same flags."""
    found = []
    for name in _FLAGS:
        value = getattr(args, name)
        if value not in (None, ""):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found
