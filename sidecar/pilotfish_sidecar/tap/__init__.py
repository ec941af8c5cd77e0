"""The tap: what a Python model server calls on its request path, and the agent's end of its socket.

Public here: `Tap`, `TapSettings`, the record types and the books. The interceptors live in modules of
their own (`aio_interceptor`, `sync_interceptor`, `asgi`), so that importing the tap imports no grpc.
"""

from pilotfish_sidecar.tap.counters import Books, Closed, close_books, find_books, read_books
from pilotfish_sidecar.tap.records import DropReason, Headers, Protocol, Role, TapIdentity, TapRecord
from pilotfish_sidecar.tap.shipping import ShippingLimits
from pilotfish_sidecar.tap.tap import Tap, TapSettings

__all__ = [
    "Books",
    "Closed",
    "DropReason",
    "Headers",
    "Protocol",
    "Role",
    "ShippingLimits",
    "Tap",
    "TapIdentity",
    "TapRecord",
    "TapSettings",
    "close_books",
    "find_books",
    "read_books",
]
