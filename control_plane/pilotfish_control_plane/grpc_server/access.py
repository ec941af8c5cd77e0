"""AccessService on the wire: who am I, tokens, the audit trail."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.errors import AlreadyExists
from pilotfish.v1 import access_service_pb2 as pb
from pilotfish.v1 import access_service_pb2_grpc, options_pb2
from pilotfish_control_plane.access.bootstrap import secret_file
from pilotfish_control_plane.access.model import ALL_PROJECTS, Role
from pilotfish_control_plane.access.service import AccessService, CreateToken, Token
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.grpc_server.context import current
from pilotfish_control_plane.storage.audit import AuditRow
from pilotfish_control_plane.storage.database import Tx
from pilotfish_control_plane.storage.paging import PageRequest

__all__ = ["AccessServicer", "install"]

# Any: grpc's context of whatever method this is.
Context = Any


class AccessServicer(access_service_pb2_grpc.AccessServiceServicer):
    """Converts; `access.service` decides."""

    def __init__(self, core: Core, service: AccessService) -> None:
        """Serve `service`."""
        self._mutations = core.mutations
        self._service = service

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        """Return the caller."""
        caller = current().principal
        held = {role for roles in caller.bindings.values() for role in roles}
        everywhere = caller.bindings.get(ALL_PROJECTS, frozenset())
        return pb.WhoAmIResponse(
            principal=caller.name,
            role=_role_to_wire(max(everywhere or held, default=None)),
            server_version=importlib.metadata.version("pilotfish"),
        )

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """Make a token and show its text."""
        role = Role(request.role) if request.role in Role._value2member_map_ else None
        command = CreateToken(request.name, role, request.lifetime_s, request.request_id)
        secret = self._service.secret_for(current().principal.name, command)
        # The stored answer has no secret: a repeated request computes it again.
        answer = await self._mutations.mutate(
            request,
            lambda tx: pb.CreateTokenResponse(token=_token(self._service.create_token(tx, command, secret))),
        )
        if not await self._mutations.read(lambda tx: self._service.is_text_of(tx, command.name, secret)):
            raise AlreadyExists(
                f"the token {command.name} was made by another control plane, which alone can show its text again"
            )
        answer.secret = secret
        return answer

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """Return every token without its text."""
        found = await self._mutations.read(self._service.list_tokens)
        return pb.ListTokensResponse(tokens=[_token(token) for token in found])

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """End a token."""
        return await self._mutations.mutate(
            request, lambda tx: pb.RevokeTokenResponse(token=_token(self._service.revoke_token(tx, request.name)))
        )

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        """Return a page of the trail."""
        asked = PageRequest(request.page_size, request.page_token, request.filter)

        def look(tx: Tx) -> pb.ListAuditEntriesResponse:
            page = self._service.list_audit(tx, asked)
            return pb.ListAuditEntriesResponse(
                entries=[_entry(row) for row in page.items], next_page_token=page.next_page_token
            )

        return await self._mutations.read(look)

    async def VerifyAudit(self, request: pb.VerifyAuditRequest, context: Context) -> pb.VerifyAuditResponse:
        """Check every seal."""
        found = await self._mutations.read(self._service.verify_audit)
        return pb.VerifyAuditResponse(
            intact=not found.problems, sealed=found.sealed, unsealed=found.unsealed, first_broken=found.first_broken
        )


def _role_to_wire(role: Role | None) -> options_pb2.Role:
    # The stub types the values of an enum as the enum, and Value() as int.
    return cast("options_pb2.Role", 0 if role is None else role.value)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _token(token: Token) -> pb.Token:
    return pb.Token(
        name=token.name,
        principal=token.principal,
        role=_role_to_wire(token.role),
        create_time=_timestamp(token.created),
        expire_time=_timestamp(token.expires),
        revoke_time=_timestamp(token.revoked),
    )


def _entry(row: AuditRow) -> pb.AuditEntry:
    entry = pb.AuditEntry(
        sequence=row.id,
        time=_timestamp(row.time),
        actor=row.principal,
        method=row.method,
        resource=row.resource,
        request_id=row.request_id,
        sealed=row.chain is not None,
    )
    json_format.ParseDict({"before": row.before, "after": row.after}, entry.details)
    return entry


def install(core: Core) -> Installed:
    """Add AccessService."""
    token_key = secret_file(core.paths.home / "token_key").encode()
    service = core.services.add(
        AccessService(token_key, secret_file(core.paths.audit_key).encode(), core.paths.audit_head)
    )
    return Installed(
        servicers=[(access_service_pb2_grpc.add_AccessServiceServicer_to_server, AccessServicer(core, service))]
    )
