"""One prediction call, whatever it came in by: check the address, run the model, name the answer.

Owns the prediction id, the choice between running on the event loop and in a thread, and what goes to
the tap. It never parses or builds a message.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pilotfish.errors import NotFound
from pilotfish_model_server.assembly import Tensor, assemble, choose_outputs
from pilotfish_model_server.model import Model
from pilotfish_sidecar.decode.datatypes import DATATYPES
from pilotfish_sidecar.tap import Tap, TapIdentity
from pilotfish_sidecar.tap.headers import CallHeaders, new_prediction_id

__all__ = ["Address", "Predictor", "Stopwatch"]

# Longer than this on the event loop and other calls wait for it; the way through a thread costs 40 µs of processor.
_INLINE_LIMIT_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Address:
    """What this server answers to.

    Attributes:
        model: name of the model (the endpoint, for servers that the engine starts).
        version: its version.
        identity: deployment, replica and version, for the tap and the response headers.
    """

    model: str
    version: str
    identity: TapIdentity


class Predictor:
    """Runs calls against one model.

    Args:
        model: loaded.
        address: names it answers to.
        tap: takes every served call; None when there is no agent.
        threads: of the pool for calls too long for the event loop.
        new_id: makes a prediction id when the caller gave none.
    """

    def __init__(
        self,
        model: Model,
        address: Address,
        tap: Tap | None,
        *,
        threads: int = 1,
        new_id: Callable[[], str] = new_prediction_id,
    ) -> None:
        """Make the pool; its threads start when they are needed."""
        self.model = model
        self.address = address
        self.tap = tap
        self.ready = True
        self._new_id = new_id
        self._pool = ThreadPoolExecutor(max_workers=max(threads, 1), thread_name_prefix="inference")

    def prediction_id(self, given: str, headers: CallHeaders) -> str:
        """Return the call's id: its own, else that of its headers, else a new one."""
        return given or headers.request_id or self._new_id()

    def check_address(self, name: str, version: str) -> None:
        """Refuse a call for another model.

        Raises:
            NotFound: the name or the version (when given) is not this server's.
        """
        mine = self.address
        if name != mine.model:
            raise NotFound(f"no model {name[:80]!r} here; this server answers to {mine.model!r}", "MODEL_NOT_FOUND")
        if version and version != mine.version:
            text = f"no version {version[:80]!r} of {mine.model!r} here; this server has {mine.version!r}"
            raise NotFound(text, "VERSION_NOT_FOUND")

    async def predict(self, tensors: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """Return the outputs asked for, or all.

        Raises:
            InvalidArgument: the tensors do not fit the model.
        """
        model = self.model
        names = choose_outputs(model.signature, outputs)
        feeds = assemble(model.signature, tensors)
        if model.estimate_s(feeds.rows) <= _INLINE_LIMIT_S:
            values = model.run(feeds.arrays, names)
        else:
            loop = asyncio.get_running_loop()
            values = await loop.run_in_executor(self._pool, functools.partial(model.run, feeds.arrays, names))
        datatypes = {spec.name: DATATYPES[spec.datatype] for spec in model.signature.outputs}
        return [Tensor(name, datatypes[name], array.shape, array) for name, array in zip(names, values, strict=True)]

    def close(self) -> None:
        """Stop the pool; calls in it finish."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Stopwatch:
    """When a call came in and how long it took, in microseconds."""

    __slots__ = ("_begin", "start_us")

    def __init__(self) -> None:
        """Start."""
        self.start_us = time.time_ns() // 1000
        self._begin = time.perf_counter_ns()

    def latency_us(self) -> int:
        """Return the microseconds since it was made."""
        return (time.perf_counter_ns() - self._begin) // 1000
