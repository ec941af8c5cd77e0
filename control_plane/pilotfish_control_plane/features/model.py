"""Feature sets as frozen values. A definition is plain JSON as the trainer reads it; see `trainer.spec_features`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pilotfish_control_plane.names import FeatureSetName

__all__ = ["FeatureSet"]


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A revision of a feature set."""

    project: str
    id: str
    revision: int
    description: str
    definition: Mapping[str, Any]  # {"transformations": [{"type", "method", "columns", …}]}
    created: datetime
    author: str

    @property
    def name(self) -> str:
        """The resource name."""
        return str(FeatureSetName(self.project, self.id))
