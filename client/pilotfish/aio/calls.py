"""One call to the control plane: token, deadline, request id, and errors as exceptions of `pilotfish.errors`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from pilotfish.connection import CHANNEL_OPTIONS, Connection
from pilotfish.errors import PilotfishError
from pilotfish.wire_errors import from_rpc_error, unreached

__all__ = ["Calls"]


class Calls:
    """A channel to the control plane; the handles of the client share one."""

    def __init__(self, connection: Connection, *, timeout_s: float) -> None:
        """Open nothing yet; `timeout_s` is for each unary call that sets none."""
        self.connection = connection
        self.timeout_s = timeout_s
        self._metadata = (("authorization", f"Bearer {connection.token}"),)
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """Return the channel; the first use opens it."""
        if self._channel is None:
            address, files = self.connection.address, self.connection.certificates()
            if files is None:
                self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            else:
                credentials = grpc.ssl_channel_credentials(*files)
                self._channel = grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        return self._channel

    # Any: generated stubs and their messages.
    async def unary(self, stub: Any, method: str, request: Any, *, timeout_s: float | None = None) -> Any:
        """Return the answer of a unary call; a request id is given to a mutation that has none."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = uuid.uuid4().hex
        call = getattr(stub(self.channel), method)
        try:
            return await call(request, timeout=timeout_s or self.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._told(error) from None

    async def stream(
        self, stub: Any, method: str, request: Any, *, timeout_s: float | None = None
    ) -> AsyncIterator[Any]:
        """Yield the answers of a call that streams; it has no deadline unless one is given."""
        call = getattr(stub(self.channel), method)(request, timeout=timeout_s, metadata=self._metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            raise self._told(error) from None
        finally:
            call.cancel()

    async def upload(self, stub: Any, method: str, requests: Any, *, timeout_s: float | None = None) -> Any:
        """Return the answer of a call that takes a stream."""
        call = getattr(stub(self.channel), method)
        try:
            return await call(requests, timeout=timeout_s or 3600.0, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._told(error) from None

    def _told(self, error: grpc.RpcError) -> PilotfishError:
        return unreached(from_rpc_error(error), f"the control plane at {self.connection.address}")

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
