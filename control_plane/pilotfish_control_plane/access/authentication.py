"""Who calls: from a call's metadata to a principal.

Owns the reading of bearer tokens and a short cache of their holders. A revoked token ends at once in the control
plane that revoked it (and, over PostgreSQL, in its peers at their next notification), at the latest after
`CACHE_S` seconds everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pilotfish.errors import Unauthenticated
from pilotfish_control_plane.access.model import ALL_PROJECTS, Principal, Role
from pilotfish_control_plane.storage import access
from pilotfish_control_plane.storage.database import Database

__all__ = ["CACHE_S", "Authenticator", "Credential", "OpenAuthenticator", "TokenAuthenticator"]

CACHE_S = 5.0
_MAX_CACHED = 10_000

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Credential:
    """An authenticated caller, and under which credential, so that a stream can be checked again."""

    principal: Principal
    key: str


class Authenticator(Protocol):
    """Tells who calls."""

    async def authenticate(self, metadata: Metadata) -> Credential:
        """Return the caller.

        Raises:
            Unauthenticated: no credential, or one that is not valid.
        """
        ...

    async def is_valid(self, key: str) -> bool:
        """Return whether the credential still holds; asked again and again for open streams."""
        ...


class OpenAuthenticator:
    """Everybody is administrator; only ever used on loopback with authentication switched off."""

    async def authenticate(self, metadata: Metadata) -> Credential:
        """Return the one local administrator."""
        return Credential(Principal("local", {ALL_PROJECTS: frozenset({Role.ADMIN})}), "")

    async def is_valid(self, key: str) -> bool:
        """Return True."""
        return True


class TokenAuthenticator:
    """Bearer tokens in the metadata key `authorization`."""

    def __init__(self, db: Database) -> None:
        """Look tokens up in `db`."""
        self._db = db
        self._cache: dict[str, tuple[float, Credential]] = {}
        # The time a lookup began must be later than the last wake, or its answer may be the one before the change.
        self._changes = 0
        db.wakes.listen(access.TOPIC, self._forget)

    def _forget(self) -> None:
        self._changes += 1
        self._cache.clear()

    async def authenticate(self, metadata: Metadata) -> Credential:
        """Return the token's holder.

        Raises:
            Unauthenticated: no token, or an unknown, expired or revoked one.
            Unavailable: the store is down and the token is not in the cache.
        """
        value = next((v for k, v in metadata if k == "authorization"), "")
        scheme, _, token = (value if isinstance(value, str) else "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated(
                "the call carries no token: send the metadata `authorization: Bearer TOKEN` "
                "(PILOTFISH_TOKEN, or the file `token` in PILOTFISH_HOME)",
                reason="TOKEN_MISSING",
            )
        found = await self._find(access.digest(token.strip()))
        if found is None:
            raise Unauthenticated("the token is unknown, expired or revoked: get a new one", reason="TOKEN_INVALID")
        return found

    async def is_valid(self, key: str) -> bool:
        """Return whether the token's holder may still call, past the cache."""
        self._cache.pop(key, None)
        return await self._find(key) is not None

    async def _find(self, key: str) -> Credential | None:
        now = self._db.clock.monotonic()
        cached = self._cache.get(key)
        if cached is not None and now < cached[0]:
            return cached[1]
        changes = self._changes
        holder = await self._db.read(lambda tx: access.holder(tx.conn, key, tx.now))
        if holder is None:
            self._cache.pop(key, None)
            return None
        credential = Credential(holder.principal, key)
        lasts_s = CACHE_S
        if holder.expires is not None:
            lasts_s = min(lasts_s, (holder.expires - self._db.clock.now()).total_seconds())
        if changes == self._changes:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[key] = (now + lasts_s, credential)
        return credential
