"""Every module that defines tables, so that `metadata` is complete once this one is imported.

Owns the list; an author of a new area adds the module's name here and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util

from pilotfish_control_plane.storage.metadata import metadata

__all__ = ["TABLE_MODULES", "metadata"]

TABLE_MODULES = (
    # the foundation
    "access",
    "actions",
    "audit",
    "events",
    "idempotency",
    "leases",
    # the areas
    "registry",
    "artifacts",
    "experiments",
    "deployments",
    "attachments",
    "rollouts",
    "monitoring",
    "alerts",
    "watermarks",
    "training",
    "features",
    "lifecycle",
    "fleet",
)

for _module in TABLE_MODULES:
    _name = f"pilotfish_control_plane.storage.{_module}"
    if importlib.util.find_spec(_name) is not None:
        importlib.import_module(_name)
