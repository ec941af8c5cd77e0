"""The life of the model server's process: load, listen, say so, serve, drain.

Owns sockets, signals and `ready.json`. It never answers a call itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import uvicorn

from pilotfish.errors import InvalidArgument, Unavailable
from pilotfish_model_server.grpc_service import Health, inference_handlers
from pilotfish_model_server.manifest import load_files
from pilotfish_model_server.model import Model
from pilotfish_model_server.prediction import Address, Predictor
from pilotfish_model_server.rest import MAX_BODY_BYTES, RestApp
from pilotfish_sidecar.tap import Tap, TapIdentity, TapSettings

__all__ = ["Options", "run"]

log = logging.getLogger(__name__)

DRAIN_S: Final = 5.0
_TAP_CLOSE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Attributes:
        model_dir: directory with `model.onnx` and perhaps `signature.json`.
        model_name: name that the server answers to.
        model_version: version that it answers to.
        grpc_host: address for both faces; a loopback one unless `trusted_network`.
        grpc_port: 0 = any free one.
        http_port: 0 = any free one.
        deployment: id, returned in `pilotfish-deployment` and sent with every record.
        replica: id, sent with every record.
        run_dir: where `ready.json` appears.
        tap_socket: the agent's socket; None serves without a tap.
        tap_counters: the tap's books.
        manifest: what the files must be; None checks nothing.
        threads: onnxruntime's threads within one operator.
        trusted_network: the network itself keeps others out, so any address may be bound.
    """

    model_dir: Path
    model_name: str
    model_version: str
    grpc_host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int = 0
    deployment: str = ""
    replica: str = ""
    run_dir: Path | None = None
    tap_socket: Path | None = None
    tap_counters: Path | None = None
    manifest: Path | None = None
    threads: int = 1
    trusted_network: bool = False


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has one owner of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ManifestError: the files are not those of the manifest.
        InvalidArgument: the model does not load, or the address is not allowed.
        Unavailable: a port is taken.
    """
    _check_host(options)
    _remove_ready(options)
    files = load_files(options.model_dir, options.manifest)
    model = Model(files.model, files.signature, directory=options.model_dir, threads=options.threads)
    identity = TapIdentity(options.deployment, options.replica, options.model_version)
    tap = None
    if options.tap_socket is not None:
        tap = Tap(TapSettings(options.tap_socket, options.tap_counters, identity))
    address = Address(options.model_name, options.model_version, identity)
    predictor = Predictor(model, address, tap, threads=max(2, options.threads))
    try:
        asyncio.run(_serve(options, predictor, files.digests))
    finally:
        predictor.close()
        if tap is not None:
            tap.close(_TAP_CLOSE_S)


async def _serve(options: Options, predictor: Predictor, digests: Mapping[str, str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = Health()
    grpc_server, grpc_port = await _start_grpc(options, predictor, health)
    listener = _bind(options.grpc_host, options.http_port)
    http_server = _QuietServer(_http_config(predictor))
    http_task = asyncio.create_task(http_server.serve(sockets=[listener]))
    while not http_server.started and not http_task.done():
        await asyncio.sleep(0.005)
    if not http_server.started:
        await http_task
        raise Unavailable("the HTTP face did not start; the log above says why")
    http_port = listener.getsockname()[1]
    if options.run_dir is not None:
        _write_ready(options, grpc_port, http_port, digests)
    log.info("serving %s version %s, gRPC %d, HTTP %d", options.model_name, options.model_version, grpc_port, http_port)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, http_task}, return_when=asyncio.FIRST_COMPLETED)
    log.info("draining for up to %.0f s", DRAIN_S)
    predictor.ready = False
    _remove_ready(options)
    health.stop_serving()
    http_server.should_exit = True
    await asyncio.gather(grpc_server.stop(DRAIN_S), http_task)


async def _start_grpc(options: Options, predictor: Predictor, health: Health) -> tuple[Any, int]:
    # Any: grpc.aio.Server, grpcio ships no types
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # two servers on one port would share the calls silently
            ("grpc.max_receive_message_length", MAX_BODY_BYTES),
            ("grpc.max_send_message_length", MAX_BODY_BYTES),
        ]
    )
    server.add_generic_rpc_handlers((inference_handlers(predictor), health.handlers()))
    where = f"{_bracketed(options.grpc_host)}:{options.grpc_port}"
    try:
        port = server.add_insecure_port(where)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {where}: {error}") from error
    await server.start()
    return server, port


def _http_config(predictor: Predictor) -> uvicorn.Config:
    return uvicorn.Config(
        RestApp(predictor),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(DRAIN_S),
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {_bracketed(host)}:{port}: {error.strerror}") from error
    return listener


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_host(options: Options) -> None:
    host = options.grpc_host
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if not loopback and not options.trusted_network:
        raise InvalidArgument(
            f"{host} is no loopback address, and the model server has neither TLS nor authentication: "
            "bind 127.0.0.1, or say --trusted-network where the network itself keeps others out"
        )


def _remove_ready(options: Options) -> None:
    """Remove `ready.json`, an older process's included: it is there while this server takes calls."""
    if options.run_dir is not None:
        (options.run_dir / "ready.json").unlink(missing_ok=True)


def _write_ready(options: Options, grpc_port: int, http_port: int, digests: Mapping[str, str]) -> None:
    """Write `ready.json` in one step: a reader sees all of it or none."""
    assert options.run_dir is not None
    options.run_dir.mkdir(parents=True, exist_ok=True)
    document = {
        "pid": os.getpid(),
        "host": options.grpc_host,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "model_name": options.model_name,
        "model_version": options.model_version,
        "deployment": options.deployment,
        "replica": options.replica,
        "sha256": dict(digests),
    }
    handle, temporary = tempfile.mkstemp(prefix=".ready.", dir=options.run_dir)
    with os.fdopen(handle, "w") as file:
        json.dump(document, file)
    os.rename(temporary, options.run_dir / "ready.json")
