"""The tap for ASGI applications: `app = TapMiddleware(app, tap)`.

Owns the reading along of request and response bodies of inference calls. It changes nothing but the
answer's headers, and holds no more of a body than a record may have. Other paths, WebSockets and the
lifespan pass untouched.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from pilotfish_sidecar.tap.headers import answer_headers, new_prediction_id, read_headers
from pilotfish_sidecar.tap.records import Protocol
from pilotfish_sidecar.tap.tap import Tap
from pilotfish_sidecar.tap.wire import MAX_BODY_BYTES

__all__ = ["TapMiddleware", "is_inference"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_INFER: Final = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer/?")
_CLIENT_LEFT: Final = 499

# Reading the id costs a JSON parse on the request path; beyond this the agent reads it from the record.
_ID_PARSE_BYTES: Final = 1 << 16


def is_inference(method: str, path: str) -> bool:
    """Return whether a request is an inference call of the Open Inference Protocol v2."""
    return method == "POST" and _INFER.fullmatch(path) is not None


class TapMiddleware:
    """Taps inference calls of an ASGI application.

    Args:
        app: the application.
        tap: takes the records.
        matches: (HTTP method, path) → whether the call is tapped.
    """

    def __init__(self, app: App, tap: Tap, matches: Callable[[str, str], bool] = is_inference) -> None:
        """Keep them."""
        self._app = app
        self._tap = tap
        self._matches = matches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or not self._matches(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        call = _Call(self._tap, scope, receive, send)
        try:
            await self._app(scope, call.receive, call.send)
            await call.release()
        except asyncio.CancelledError:
            call.fail(_CLIENT_LEFT)
            raise
        except BaseException:
            call.fail(500)
            raise
        finally:
            call.finish()


class _Body:
    """A body read along, up to the limit."""

    __slots__ = ("chunks", "complete", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.complete = False

    def add(self, message: Message) -> None:
        chunk = message.get("body", b"")
        self.size += len(chunk)
        if self.size > MAX_BODY_BYTES:
            self.chunks.clear()
        else:
            self.chunks.append(chunk)
        self.complete = not message.get("more_body", False)

    @property
    def too_large(self) -> bool:
        return self.size > MAX_BODY_BYTES

    def joined(self) -> bytes:
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


def _id_of(body: _Body) -> str | None:
    """Return the top-level id of a JSON body, "" when it surely has none, None when that is not known."""
    if not body.complete or body.size > _ID_PARSE_BYTES:
        return None
    raw = body.joined()
    if b'"id"' not in raw:
        return ""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    ident = document.get("id") if isinstance(document, dict) else None
    return ident if isinstance(ident, str) else ""


class _Call:
    """One tapped call: stands between the server and the application."""

    def __init__(self, tap: Tap, scope: Scope, receive: Receive, send: Send) -> None:
        self._start_us = time.time_ns() // 1000
        self._begin = time.perf_counter_ns()
        self._tap = tap
        self._path: str = scope["path"]
        self._receive = receive
        self._send = send
        self._headers = read_headers((name.decode("latin-1"), value) for name, value in scope["headers"])
        self._request, self._response = _Body(), _Body()
        self._held: Message | None = None
        self._ident = ""
        self._streaming = False
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._request.add(message)
        elif message["type"] == "http.disconnect":
            self.status = self.status or _CLIENT_LEFT
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # Held until the body begins: the id may be in it. Servers send both together anyway.
            self.status = message["status"]
            self._held = message
            return
        if message["type"] == "http.response.body":
            self._response.add(message)
        await self.release()
        await self._send(message)

    async def release(self) -> None:
        """Send the head of the answer if it is still held."""
        if self._held is not None:
            held, self._held = self._held, None
            await self._send(self._with_headers(held))

    def fail(self, status: int) -> None:
        """Note that the application raised: the client got `status` unless the answer had begun."""
        if self._held is not None or not self.status:
            self.status, self._held = status, None

    def _with_headers(self, start: Message) -> Message:
        headers = list(start.get("headers", ()))
        kinds = [value for name, value in headers if name.lower() == b"content-type"]
        self._streaming = any(value.startswith(b"text/event-stream") for value in kinds)
        self._ident = self._find_id()
        mine = [(k.encode(), v.encode("ascii")) for k, v in answer_headers(self._ident, self._tap.identity)]
        names = {name for name, _ in mine}
        return {**start, "headers": [*(pair for pair in headers if pair[0].lower() not in names), *mine]}

    def _find_id(self) -> str:
        """Return the call's id, or "" when only the agent can find it in the bodies."""
        asked = _id_of(self._request)
        if asked or asked is None:
            return asked or ""
        if self._headers.request_id:
            return self._headers.request_id
        answered = _id_of(self._response)
        return new_prediction_id() if answered == "" else answered or ""

    def finish(self) -> None:
        """Record the call, whatever became of it."""
        if self._streaming:
            self._tap.count_streaming()
        elif self._request.too_large or self._response.too_large:
            self._tap.count_too_large()
        else:
            self._tap.record(
                self._path,
                self._request.joined(),
                self._response.joined(),
                self.status or 500,
                self._start_us,
                (time.perf_counter_ns() - self._begin) // 1000,
                self._ident or self._headers.request_id,
                self._headers.kept,
                protocol=Protocol.REST,
                role=self._headers.role,
            )
