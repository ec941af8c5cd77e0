"""Whether an attached model server is ready, asked over the network.

Owns the probe of a server that no node watches. It never starts, stops or moves anything.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from pilotfish.errors import InvalidArgument
from pilotfish.oip import grpc_predict_v2_pb2 as oip

__all__ = ["HealthProbe", "Target", "parse_target"]

log = logging.getLogger(__name__)

_INTERVAL_S: Final = 2.0
_TIMEOUT_S: Final = 1.0
_FAILURES: Final = 3
_READY: Final = "/inference.GRPCInferenceService/ServerReady"
_MAX_LINE: Final = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: `grpc` calls ServerReady of the Open Inference Protocol, `http` gets the path."""

    scheme: str
    host: str
    port: int
    path: str = "/"


def parse_target(url: str) -> Target:
    """Return the target of a URL such as grpc://127.0.0.1:8001 or http://127.0.0.1:8000/v2/health/ready.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urllib.parse.urlsplit(""), None
    if parts.scheme not in ("grpc", "http") or not parts.hostname or not port:
        raise InvalidArgument(f"{url!r} cannot be probed: give grpc://HOST:PORT or http://HOST:PORT/PATH")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port, path)


class HealthProbe:
    """Asks every two seconds; three failures in a row make the server unhealthy, one success healthy."""

    def __init__(self, target: Target, *, interval_s: float = _INTERVAL_S) -> None:
        """Begin as unhealthy: nothing was asked yet."""
        self.healthy = False
        self._target = target
        self._interval_s = interval_s
        self._failed = _FAILURES
        self._channel: Any = None  # Any: grpcio ships no types

    async def run(self) -> None:
        """Ask for ever; ends by being cancelled."""
        try:
            while True:
                self._take(await self._ask())
                await asyncio.sleep(self._interval_s)
        finally:
            if self._channel is not None:
                await self._channel.close()

    def _take(self, ready: bool) -> None:
        before = self.healthy
        self._failed = 0 if ready else self._failed + 1
        self.healthy = ready or (self.healthy and self._failed < _FAILURES)
        if before != self.healthy:
            log.info("the model server at %s:%d is %s", self._target.host, self._target.port, _word(self.healthy))

    async def _ask(self) -> bool:
        try:
            return await asyncio.wait_for(self._grpc() if self._target.scheme == "grpc" else self._http(), _TIMEOUT_S)
        except (TimeoutError, OSError, grpc.aio.AioRpcError, ValueError):
            return False

    async def _grpc(self) -> bool:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(f"{self._target.host}:{self._target.port}")
        call = self._channel.unary_unary(
            _READY,
            request_serializer=oip.ServerReadyRequest.SerializeToString,
            response_deserializer=oip.ServerReadyResponse.FromString,
        )
        answer: oip.ServerReadyResponse = await call(oip.ServerReadyRequest())
        return answer.ready

    async def _http(self) -> bool:
        target = self._target
        reader, writer = await asyncio.open_connection(target.host, target.port, limit=_MAX_LINE)
        try:
            head = f"GET {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode("ascii"))
            status = (await reader.readline()).split(b" ", 2)
            return len(status) >= 2 and status[1].startswith(b"2")
        finally:
            writer.close()


def _word(healthy: bool) -> str:
    return "ready" if healthy else "not ready"
