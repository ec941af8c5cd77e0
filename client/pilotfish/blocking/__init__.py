"""The blocking client, generated from `pilotfish.aio` by `make twin`; never edited."""

from pilotfish.blocking.client import Client

__all__ = ["Client"]
