"""Who calls: roles and principals.

Owns the values; it never looks anything up. The numbers of `Role` are those of pilotfish.v1.Role.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ALL_PROJECTS", "ANONYMOUS", "SYSTEM", "Principal", "Role"]

ALL_PROJECTS = "*"
"""The project of a binding that holds in every project."""


class Role(enum.IntEnum):
    """A role; VIEWER < EDITOR < DEPLOYER < ADMIN, and SIDECAR beside them."""

    PUBLIC = 1
    VIEWER = 2
    EDITOR = 3
    DEPLOYER = 4
    ADMIN = 5
    SIDECAR = 6

    def covers(self, needed: Role) -> bool:
        """Return whether a holder of this role may do what `needed` may."""
        if needed is Role.PUBLIC or self is needed or self is Role.ADMIN:
            return True
        if Role.SIDECAR in (self, needed):
            return False
        return self >= needed


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody or something that calls.

    Args:
        name: unique, shown in the audit trail.
        bindings: project (or `ALL_PROJECTS`) -> the roles held there.
    """

    name: str
    bindings: Mapping[str, frozenset[Role]] = field(default_factory=dict, hash=False)

    def may(self, needed: Role, project: str | None = None) -> bool:
        """Return whether this principal holds `needed`, or more, in `project`; None: in all projects."""
        held = self.bindings.get(ALL_PROJECTS, frozenset())
        if project is not None:
            held = held | self.bindings.get(project, frozenset())
        return needed is Role.PUBLIC or any(role.covers(needed) for role in held)


SYSTEM = Principal("system", {ALL_PROJECTS: frozenset({Role.ADMIN})})
"""The control plane itself: reconcilers, executors, migrations."""

ANONYMOUS = Principal("anonymous")
"""A caller of a public method."""
