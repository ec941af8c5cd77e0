"""One scenario for both clients: the asynchronous one behind a blocking face, and the blocking one as it is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from pilotfish import AsyncClient, Client
from pilotfish.errors import PilotfishError
from pilotfish.messages import plain

# Differs from run to run.
CHANGING = {"name", "id", "etag", "deployment", "rollout", "previous", "artifact_path", "create_time", "update_time"}
CHANGING |= {
    "ready_time",
    "end_time",
    "time",
    "step_time",
    "start_time",
    "state_reason",
    "subject",
    "training_data_hash",
}


class Blocking:
    """Any object of the asynchronous client, called from another thread than its loop's."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return Blocking(found, self._loop) if type(found).__module__.startswith("pilotfish.aio") else found

        def call(*arguments: Any, **options: Any) -> Any:
            answer = found(*arguments, **options)
            if inspect.isasyncgen(answer):
                return self._each(answer)
            if inspect.iscoroutine(answer):
                return self._wait(answer)
            return Blocking(answer, self._loop)

        return call

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _each(self, stream: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._wait(anext(stream))
                except StopAsyncIteration:
                    return
        finally:
            self._wait(stream.aclose())


def make_client(kind: str, address: str, token: str, **options: Any) -> Any:
    """Return a client of a kind; call it from a thread, never from the loop's own."""
    if kind == "blocking":
        return Client(address, token, **options)
    return Blocking(AsyncClient(address, token, **options), asyncio.get_running_loop())


class Transcript:
    """What a scenario was answered, without what differs from run to run."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def told(self, value: Any) -> Any:
        """Note an answer and pass it on."""
        self.lines.append(_steady(plain(value) if hasattr(value, "DESCRIPTOR") else value))
        return value

    def refused(self, call: Any, *arguments: Any, **options: Any) -> PilotfishError:
        """Note the error of a call that must fail."""
        try:
            answer = call(*arguments, **options)
            if inspect.isgenerator(answer):
                answer = list(answer)
        except PilotfishError as error:
            self.lines.append((type(error).__name__, error.reason, [v.field for v in error.violations]))
            return error
        raise AssertionError(f"it was not refused but answered {answer}")


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in CHANGING}
    if isinstance(value, list):
        return [_steady(v) for v in value]
    return value
