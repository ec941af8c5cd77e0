"""The REST face of the Open Inference Protocol v2, as a bare ASGI application.

Owns paths, JSON and HTTP status codes. Missing values travel as `null` both ways: JSON has no NaN. It
never runs a model itself.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from pilotfish.errors import InvalidArgument, PilotfishError, Violation
from pilotfish_model_server.assembly import Tensor
from pilotfish_model_server.grpc_service import EXTENSIONS, PLATFORM, SERVER_NAME
from pilotfish_model_server.prediction import Predictor, Stopwatch
from pilotfish_sidecar.decode.json_tensors import array_to_json, json_to_array
from pilotfish_sidecar.decode.reasons import TensorError
from pilotfish_sidecar.tap import Protocol
from pilotfish_sidecar.tap.headers import CallHeaders, answer_headers, read_headers

__all__ = ["MAX_BODY_BYTES", "RestApp"]

log = logging.getLogger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES: Final = 64 << 20
_MODEL_PATH: Final = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<verb>/ready|/infer)?")
_HTTP_STATUS: Final = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503}


class _HttpError(Exception):
    def __init__(self, status: int, text: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class RestApp:
    """The ASGI application.

    Args:
        predictor: runs the calls.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Keep it."""
        self._predictor = predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        try:
            path, method = scope["path"], scope["method"]
            match = _MODEL_PATH.fullmatch(path)
            if match and match["verb"] == "/infer":
                _expect(method, "POST")
                await self._infer(scope, receive, send, match["model"], match["version"] or "")
                return
            _expect(method, "GET")
            status, document = self._describe(path, match)
            await _reply(send, status, json.dumps(document).encode())
        except _HttpError as error:
            await _reply(send, error.status, _error_body(str(error)), error.headers)
        except PilotfishError as error:
            await _reply(send, _HTTP_STATUS.get(error.code, 500), _error_body(str(error)))

    def _describe(self, path: str, match: re.Match[str] | None) -> tuple[int, Any]:
        predictor = self._predictor
        if match:
            predictor.check_address(match["model"], match["version"] or "")
            if match["verb"] == "/ready":
                ready = {"name": predictor.address.model, "ready": predictor.ready}
                return (200 if predictor.ready else 503), ready
            return 200, self._metadata()
        if path in ("/v2", "/v2/"):
            version = predictor.address.version
            return 200, {"name": SERVER_NAME, "version": version, "extensions": list(EXTENSIONS)}
        if path == "/v2/health/live":
            return 200, {"live": True}
        if path == "/v2/health/ready":
            return (200 if predictor.ready else 503), {"ready": predictor.ready}
        raise _HttpError(404, f"no such path {path[:80]!r}; the protocol's paths begin with /v2")

    def _metadata(self) -> Mapping[str, Any]:
        mine, signature = self._predictor.address, self._predictor.model.signature
        return {
            "name": mine.model,
            "versions": [mine.version],
            "platform": PLATFORM,
            "inputs": [{"name": s.name, "datatype": s.datatype, "shape": s.shape} for s in signature.inputs],
            "outputs": [{"name": s.name, "datatype": s.datatype, "shape": s.shape} for s in signature.outputs],
        }

    async def _infer(self, scope: Scope, receive: Receive, send: Send, model: str, version: str) -> None:
        watch = Stopwatch()
        headers = read_headers([(name.decode("latin-1"), value) for name, value in scope["headers"]])
        tap = self._predictor.tap
        try:
            body = await _read_body(receive)
        except _HttpError:
            if tap is not None:
                tap.count_too_large()
            raise
        if body is None:
            return
        status, answer, ident = 499, b"", ""
        try:
            status, answer, ident = await self._answer(body, headers, model, version)
        finally:
            if tap is not None:
                tap.record(
                    scope["path"],
                    body,
                    answer,
                    status,
                    watch.start_us,
                    watch.latency_us(),
                    ident,
                    headers.kept,
                    protocol=Protocol.REST,
                    role=headers.role,
                )
        named = answer_headers(ident, self._predictor.address.identity)
        extra = [(name.encode(), value.encode("ascii")) for name, value in named]
        await _reply(send, status, answer, extra)

    async def _answer(self, body: bytes, headers: CallHeaders, model: str, version: str) -> tuple[int, bytes, str]:
        """Return status, body and prediction id; an error is an answer too."""
        predictor, ident = self._predictor, ""
        try:
            document = _parse(body)
            given = document.get("id")
            ident = predictor.prediction_id(given if isinstance(given, str) else "", headers)
            predictor.check_address(model, version)
            tensors, outputs = _read(document)
            results = await predictor.predict(tensors, outputs)
            return 200, _write(predictor, ident, results), ident
        except PilotfishError as error:
            return (
                _HTTP_STATUS.get(error.code, 500),
                _error_body(str(error)),
                ident or predictor.prediction_id("", headers),
            )
        except Exception:
            log.exception("prediction %s failed", ident)
            return 500, _error_body(f"the prediction failed; the server's log has it under {ident}"), ident


def _expect(method: str, allowed: str) -> None:
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise _HttpError(405, f"this path takes {allowed}, not {method[:20]}", ((b"allow", allowed.encode()),))


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body; None when the caller left before its end."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _HttpError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument("the body is not a JSON object")
    return document


def _read(document: Mapping[str, Any]) -> tuple[list[Tensor], list[str]]:
    problems: list[Violation] = []
    tensors = []
    inputs, outputs = document.get("inputs"), document.get("outputs", [])
    if not isinstance(inputs, list):
        raise InvalidArgument("the body has no list `inputs`")
    for index, entry in enumerate(inputs):
        try:
            name, kind, shape, values = json_to_array(entry)
        except TensorError as error:
            where = str(entry.get("name", index) if isinstance(entry, dict) else index)
            problems.append(Violation(f"inputs[{where[:80]}]", str(error)))
        else:
            tensors.append(Tensor(name, kind, shape, values))
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        problems.append(Violation("outputs", "must be a list of objects with a name"))
    if problems:
        raise InvalidArgument("the request's tensors cannot be read", violations=problems)
    return tensors, [output["name"] for output in outputs]


def _write(predictor: Predictor, ident: str, tensors: Sequence[Tensor]) -> bytes:
    mine = predictor.address
    outputs = [
        {"name": t.name, "datatype": t.datatype.name, "shape": t.shape, "data": array_to_json(t.values)}
        for t in tensors
    ]
    document = {"model_name": mine.model, "model_version": mine.version, "id": ident, "outputs": outputs}
    return json.dumps(document, allow_nan=False).encode()


def _error_body(text: str) -> bytes:
    return json.dumps({"error": text}).encode()


async def _reply(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
