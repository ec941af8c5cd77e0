"""Wakes: "look again" signals between a commit and whoever waits for it.

Owns the in-process hub. A wake carries no data and may be lost or doubled without harm: everyone who waits
also sweeps. On PostgreSQL `storage.notifications` carries wakes between control planes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

__all__ = ["Subscription", "Wakes", "matches"]


def matches(pattern: str, topic: str) -> bool:
    """Return whether a subscription to `pattern` hears `topic`: equal, below it (`a` hears `a.b`), or `*`."""
    return pattern in ("*", topic) or topic.startswith(pattern + ".")


class Subscription:
    """A flag that is raised when one of its topics is woken; close it when done."""

    def __init__(self, hub: Wakes, topics: tuple[str, ...], loop: asyncio.AbstractEventLoop) -> None:
        """Use `Wakes.subscribe` instead."""
        self.topics = topics
        self._hub = hub
        self._loop = loop
        self._raised = asyncio.Event()

    def hears(self, topic: str) -> bool:
        """Return whether `topic` wakes this subscription."""
        return any(matches(pattern, topic) for pattern in self.topics)

    def raise_flag(self) -> None:
        """Wake the waiter; callable from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._raised.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.close()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for a wake and lower the flag; return False when `timeout_s` passed without one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._raised.wait()
        except TimeoutError:
            return False
        self._raised.clear()
        return True

    def close(self) -> None:
        """Hear nothing any more."""
        self._hub.remove(self)

    def __enter__(self) -> Subscription:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close it."""
        self.close()


class Wakes:
    """The hub: `notify` from any thread, `subscribe` in an event loop, `listen` with a plain callback."""

    def __init__(self) -> None:
        """Start without subscribers."""
        self._lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def subscribe(self, *topics: str) -> Subscription:
        """Return a new subscription to `topics`, bound to the running event loop."""
        subscription = Subscription(self, topics, asyncio.get_running_loop())
        with self._lock:
            self._subscriptions.add(subscription)
        return subscription

    def listen(self, topic: str, callback: Callable[[], None]) -> None:
        """Call `callback` in the notifying thread at every wake of `topic`; it must be quick and not raise."""
        with self._lock:
            self._listeners.append((topic, callback))

    def notify(self, topics: Iterable[str]) -> None:
        """Wake whoever hears one of `topics`; callable from any thread, returns at once."""
        topics = tuple(topics)
        with self._lock:
            woken = [s for s in self._subscriptions if any(s.hears(t) for t in topics)]
            called = [call for pattern, call in self._listeners if any(matches(pattern, t) for t in topics)]
        for subscription in woken:
            subscription.raise_flag()
        for call in called:
            call()

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        with self._lock:
            self._subscriptions.discard(subscription)
