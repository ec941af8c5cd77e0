"""Tokens and the audit trail, as transaction scripts.

Owns what may be done with them. A token's text leaves this module once, in the answer to its making; it is
computed from the request, so that the same request gets it again without it being stored anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pilotfish.errors import AlreadyExists, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.access.bootstrap import read_head
from pilotfish_control_plane.access.model import ALL_PROJECTS, Role
from pilotfish_control_plane.storage import access, audit
from pilotfish_control_plane.storage.access import TokenRow
from pilotfish_control_plane.storage.audit import AuditRow, Verification
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["AccessService", "CreateToken", "Token"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MAX_LIFETIME_S = 10 * 366 * 86400.0
_GIVEN_ROLES = (Role.VIEWER, Role.EDITOR, Role.DEPLOYER, Role.ADMIN, Role.SIDECAR)


@dataclass(frozen=True, slots=True)
class CreateToken:
    """A token to make; `lifetime_s` in seconds, 0: for ever; `role` None: none was given."""

    name: str
    role: Role | None
    lifetime_s: float
    request_id: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its text; `role` is the highest of its principal in all projects."""

    name: str
    principal: str
    role: Role | None
    created: datetime
    expires: datetime | None
    revoked: datetime | None


class AccessService:
    """Makes, lists and revokes tokens; shows and checks the audit trail."""

    def __init__(self, token_key: bytes, audit_key: bytes, audit_head: Path) -> None:
        """Derive tokens with `token_key`, check seals with `audit_key` up to what `audit_head` remembers."""
        self._audit_head = audit_head
        self._token_key = token_key
        self._audit_key = audit_key

    def secret_for(self, caller: str, command: CreateToken) -> str:
        """Return the token's text: the same for the same caller, name and request_id, random without a request_id."""
        request_id = command.request_id or secrets.token_hex(16)
        text = "\0".join((caller, command.name, request_id))
        digest = hmac.new(self._token_key, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def create_token(self, tx: Tx, command: CreateToken, secret: str) -> Token:
        """Make a token for a principal of the same name.

        Raises:
            InvalidArgument: the name, role or lifetime is wrong.
            AlreadyExists: there is or was a token or principal of that name.
        """
        violations = _violations(command)
        if violations or command.role is None:
            raise InvalidArgument(f"the token {command.name!r} cannot be made", violations=violations)
        taken = access.token(tx.conn, command.name) is not None
        if taken or access.principal(tx.conn, command.name) is not None:
            raise AlreadyExists(
                f"there is or was a token or principal called {command.name}: choose another name",
                metadata={"token": command.name},
            )
        access.bind(tx, command.name, ALL_PROJECTS, command.role)
        expires = tx.now + timedelta(seconds=command.lifetime_s) if command.lifetime_s else None
        row = access.add_token(tx, command.name, command.name, access.digest(secret), expires)
        facts = {"role": command.role.name, "expires": expires.isoformat() if expires else None}
        tx.audit("CreateToken", f"tokens/{command.name}", None, facts)
        return _token(row, command.role)

    def is_text_of(self, tx: Tx, name: str, secret: str) -> bool:
        """Return whether `secret` is the text of the token `name`."""
        row = access.token(tx.conn, name)
        return row is not None and hmac.compare_digest(row.hash, access.digest(secret))

    def list_tokens(self, tx: Tx) -> list[Token]:
        """Return every token, by name."""
        return [_token(row, _role(tx, row.principal)) for row in access.all_tokens(tx.conn)]

    def revoke_token(self, tx: Tx, name: str) -> Token:
        """End a token; harmless when it is revoked already.

        Raises:
            NotFound: there is no such token.
        """
        if access.revoke_token(tx, name):
            tx.audit("RevokeToken", f"tokens/{name}", {"revoked": None}, {"revoked": tx.now.isoformat()})
        row = access.token(tx.conn, name)
        if row is None:
            raise NotFound(f"there is no token {name}", metadata={"token": name})
        return _token(row, _role(tx, row.principal))

    def list_audit(self, tx: Tx, request: PageRequest) -> Page[AuditRow]:
        """Return a page of the trail, newest first."""
        return audit.page(tx.conn, request)

    def verify_audit(self, tx: Tx) -> Verification:
        """Check every seal."""
        return audit.verify(tx.conn, self._audit_key, known=read_head(self._audit_head))


def _violations(command: CreateToken) -> list[Violation]:
    found = []
    if not _NAME.fullmatch(command.name):
        found.append(Violation("name", f"{command.name!r} does not match ^[a-z0-9][a-z0-9._-]{{0,62}}$"))
    if command.role not in _GIVEN_ROLES:
        found.append(Violation("role", f"give one of {', '.join(r.name.lower() for r in _GIVEN_ROLES)}"))
    if not (math.isfinite(command.lifetime_s) and 0 <= command.lifetime_s <= _MAX_LIFETIME_S):
        found.append(Violation("lifetime_s", f"give 0 to {_MAX_LIFETIME_S:.0f} seconds, 0 for ever"))
    return found


def _role(tx: Tx, principal: str) -> Role | None:
    who = access.principal(tx.conn, principal)
    held = who.bindings.get(ALL_PROJECTS, frozenset()) if who else frozenset()
    return max((r for r in held if r is not Role.SIDECAR), default=Role.SIDECAR if Role.SIDECAR in held else None)


def _token(row: TokenRow, role: Role | None) -> Token:
    return Token(row.name, row.principal, role, row.created, row.expires, row.revoked)
