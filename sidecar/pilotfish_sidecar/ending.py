"""Ending tasks for good.

Owns one function. A single `cancel` may be swallowed: grpc.aio turns it into the status CANCELLED when it arrives
inside a read or a write, and `asyncio.wait_for` loses it when its result arrives in the same turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["end_tasks"]

_AGAIN_S: Final = 0.1


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:  # Any: whatever they would have returned
    """Cancel tasks until they are done; their results and errors are dropped."""
    ended = list(tasks)
    pending = {task for task in ended if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
    for task in ended:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain of it
