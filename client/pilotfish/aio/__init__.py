"""The asynchronous client; its blocking twin in `pilotfish.blocking` is generated from it by `make twin`."""

from pilotfish.aio.client import AsyncClient

__all__ = ["AsyncClient"]
