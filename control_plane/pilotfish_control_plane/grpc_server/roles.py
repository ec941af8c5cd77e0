"""Which role each rpc needs, and whether a caller has it.

Owns the reading of the method option `pilotfish.v1.required_role` and of the projects that a request names. A
method without the option is refused to everyone; health and reflection, which are not ours, are public.
"""

from __future__ import annotations

from typing import Any, cast

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from pilotfish.errors import PermissionDenied
from pilotfish.v1 import options_pb2
from pilotfish_control_plane.access.model import Principal, Role
from pilotfish_control_plane.names import OPERATIONS
from pilotfish_control_plane.storage.events import project_of

__all__ = ["DEFAULT_PROJECT", "authorize", "authorize_in", "authorize_request", "projects_of", "required_role"]

DEFAULT_PROJECT = "default"

_PUBLIC_SERVICES = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"}
)
# Methods of services that are not ours cannot carry the option: their roles stand here, and one that is missing is
# refused to everyone like any other without a role.
_FOREIGN_METHODS = {
    "/google.longrunning.Operations/GetOperation": Role.VIEWER,
    "/google.longrunning.Operations/ListOperations": Role.VIEWER,
    "/google.longrunning.Operations/WaitOperation": Role.VIEWER,
    # The least that a job needs; the servicer asks for the role of what it really does: `authorize_in`.
    "/google.longrunning.Operations/CancelOperation": Role.EDITOR,
    "/google.longrunning.Operations/DeleteOperation": Role.DEPLOYER,
}


_known: dict[str, Role] = {}


def required_role(method: str) -> Role | None:
    """Return the least role for `/package.Service/Method`; None: nobody may call it."""
    service, _, name = method.lstrip("/").partition("/")
    if service in _PUBLIC_SERVICES:
        return Role.PUBLIC
    known = _FOREIGN_METHODS.get(method) or _known.get(method)
    if known is not None:
        return known
    descriptor = _descriptor(service, name)
    if descriptor is None:
        return None
    # The generated stub types an extension as a plain descriptor.
    number = descriptor.GetOptions().Extensions[cast("Any", options_pb2.required_role)]
    if not number:
        return None
    return _known.setdefault(method, Role(number))


def _descriptor(service: str, name: str) -> MethodDescriptor | None:
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None
    return found.methods_by_name.get(name)


def authorize(principal: Principal, method: str) -> bool:
    """Check what can be known before the request is read; return whether its projects must be checked as well.

    Raises:
        PermissionDenied: no role of the caller, in whatever project, is enough.
    """
    role = required_role(method)
    if role is None:
        raise PermissionDenied(f"{method} declares no role and is refused to everyone", reason="NO_ROLE_DECLARED")
    if principal.may(role):
        return False
    if any(principal.may(role, project) for project in principal.bindings):
        return True
    raise _denied(principal, method, role, "")


def authorize_request(principal: Principal, method: str, request: Message) -> None:
    """Check the caller's role in every project that `request` names; one that names none needs it in all.

    Raises:
        PermissionDenied: the role is missing in one of them.
    """
    role = required_role(method)
    assert role is not None
    named: list[str | None] = [*sorted(projects_of(request))]
    for project in named or [None]:
        if not principal.may(role, project):
            raise _denied(principal, method, role, project or "")


def authorize_in(principal: Principal, method: str, project: str) -> None:
    """Check the caller's role for what another method does in `project`.

    Raises:
        PermissionDenied: the role is missing, or `method` declares none.
    """
    role = required_role(method)
    if role is None:
        raise PermissionDenied(f"{method} declares no role and is refused to everyone", reason="NO_ROLE_DECLARED")
    if not principal.may(role, project):
        raise _denied(principal, method, role, project)


def _denied(principal: Principal, method: str, role: Role, project: str) -> PermissionDenied:
    where = f"project {project}" if project else "all projects"
    return PermissionDenied(
        f"{principal.name} may not call {method.rpartition('/')[2]}: it needs the role {role.name.lower()} in {where}",
        reason="ROLE_TOO_LOW",
        metadata={"required_role": role.name, "project": project, "principal": principal.name},
    )


def projects_of(message: Message) -> set[str]:
    """Return the projects of all full resource names in `message`, at any depth, and of its own field `project`."""
    found: set[str] = set()
    own = message.DESCRIPTOR.fields_by_name.get("project")
    if own is not None and own.type == FieldDescriptor.TYPE_STRING:
        named = str(getattr(message, own.name))
        found.add(project_of(named) or named or DEFAULT_PROJECT)
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in [value] if isinstance(value, str) else value:
                if isinstance(text, str) and (project := project_of(text.removeprefix(f"{OPERATIONS}/"))):
                    found.add(project)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                values = [v for v in value.values() if isinstance(v, Message)]
            else:
                values = [value] if isinstance(value, Message) else list(value)
            for inner in values:
                found |= projects_of(inner)
    return found
