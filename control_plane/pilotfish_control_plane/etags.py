"""Etags: opaque marks of a resource's state, for optimistic concurrency.

Owns how they are made and compared.
"""

from __future__ import annotations

import hashlib
import json

from pilotfish.errors import Aborted

__all__ = ["check_etag", "etag_of"]


def etag_of(*parts: object) -> str:
    """Return the etag of a state: equal parts give equal etags. Usually `etag_of(id, revision)`."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_etag(given: str, actual: str, resource: str) -> None:
    """Do nothing when `given` is empty or equal to `actual`.

    Raises:
        Aborted: somebody changed the resource since the caller read it.
    """
    if given and given != actual:
        raise Aborted(
            f"{resource} was changed since you read it: read it again and repeat the change",
            reason="ETAG_MISMATCH",
            metadata={"resource": resource, "etag": actual},
        )
