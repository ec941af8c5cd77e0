"""The open streams of a server, so that they can be ended with a reason.

Owns the set of streaming calls that run. A stream ends when its token is revoked or the server drains; both show
as a cancellation of the handler, which the interceptor turns into the status set here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from pilotfish.errors import PilotfishError, Unauthenticated, Unavailable
from pilotfish_control_plane.access.authentication import Authenticator
from pilotfish_control_plane.storage import access
from pilotfish_control_plane.wakes import Wakes

__all__ = ["OpenStreams", "Stream"]

log = logging.getLogger(__name__)

CHECK_S = 15.0


@dataclass(slots=True, eq=False)
class Stream:
    """One running streaming call; `ended` is why the server ends it, None while it runs."""

    key: str
    task: asyncio.Task[object]
    ends_at_drain: bool
    ended: PilotfishError | None = None

    def end(self, reason: PilotfishError) -> None:
        """Cancel the handler; the caller sees `reason`."""
        if self.ended is None:
            self.ended = reason
            # The reason goes with it, so that a handler can tell a drain from a caller that hung up.
            self.task.cancel(reason.reason)


class OpenStreams:
    """Follows streams; `run` ends those whose credential does not hold any more."""

    def __init__(self, authenticator: Authenticator, wakes: Wakes) -> None:
        """Check credentials with `authenticator` when access changes."""
        self._authenticator = authenticator
        self._wakes = wakes
        self._open: set[Stream] = set()

    @contextlib.contextmanager
    def follow(self, key: str, *, ends_at_drain: bool) -> Iterator[Stream]:
        """Follow the running task as a stream under credential `key` until the block ends."""
        task = asyncio.current_task()
        assert task is not None
        stream = Stream(key, task, ends_at_drain)
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)

    def __len__(self) -> int:
        """Return how many streams are open."""
        return len(self._open)

    async def run(self) -> None:
        """Check the credentials of open streams at every change of access and every 15 s; runs until cancelled."""
        with self._wakes.subscribe(access.TOPIC) as changes:
            while True:
                await changes.wait(CHECK_S)
                try:
                    await self._check()
                except Exception:
                    log.exception("could not check the credentials of open streams; checking again later")

    async def _check(self) -> None:
        for key in {stream.key for stream in self._open if stream.key}:
            if not await self._authenticator.is_valid(key):
                for stream in [s for s in self._open if s.key == key]:
                    stream.end(
                        Unauthenticated("the token was revoked or has expired: get a new one", reason="TOKEN_INVALID")
                    )

    def drain(self) -> None:
        """End the streams that would go on for ever; uploads may finish."""
        for stream in [s for s in self._open if s.ends_at_drain]:
            stream.end(
                Unavailable("the control plane is stopping: connect again", reason="DRAINING", retry_after_s=1.0)
            )
