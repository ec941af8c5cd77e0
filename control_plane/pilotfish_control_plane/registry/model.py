"""The values of the registry: models, versions, where a version stands, what changed.

Owns their shape. It never decides anything: `rules` does.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any  # JSON of any depth

from pilotfish_control_plane.artifacts.model import ArtifactFile
from pilotfish_control_plane.names import ModelName, VersionName

__all__ = [
    "ArtifactFile",
    "Change",
    "Lineage",
    "Model",
    "Mover",
    "NewVersion",
    "Version",
    "VersionStatus",
    "etag_of",
]


class VersionStatus(enum.StrEnum):
    """Where a version stands in its life."""

    TRAINING = "training"
    EVALUATING = "evaluating"
    STAGING = "staging"
    PRODUCTION = "production"
    DEPRECATED = "deprecated"
    FAILED = "failed"
    ARCHIVED = "archived"


class Mover(enum.StrEnum):
    """Who moves a version; each transition belongs to one of them."""

    HAND = "by hand"
    DEPLOYMENT = "by a deployment"
    JOB = "by a job"


def etag_of(revision: int) -> str:
    """Return the etag of a row's revision."""
    return f"r{revision:x}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version came from.

    Attributes:
        job: resource name of the job that made it; "": uploaded.
        parent_version: number of the version it was meant to better; 0: none.
        data_hash: SHA-256 of the training data, hex.
        code: revision of the code or pipeline.
        trigger_reason: why it was trained.
    """

    job: str = ""
    parent_version: int = 0
    data_hash: str = ""
    code: str = ""
    trigger_reason: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A named problem that versions solve; `latest_version` is 0 while there is no resolvable one."""

    project: str
    model: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    latest_version: int
    author: str
    created_at: datetime
    updated_at: datetime
    revision: int

    @property
    def name(self) -> str:
        """The full resource name."""
        return str(ModelName(self.project, self.model))

    @property
    def etag(self) -> str:
        """Changes with every change of the model itself; a new version alone does not change it."""
        return etag_of(self.revision)


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable artifact with its metadata.

    Attributes:
        id: opaque, unique over all models.
        number: counts from 1 within the model, never used again.
        label: free label, unique within the model; "": none.
        signature: as in signature.json: inputs, outputs, feature_names, classes.
        files: of the artifact; lists leave them out when they were asked to.
        artifact_path: models/{model}/{number}/{id}; "": no artifact. While a job makes it: where it will lie.
        profile_id: of the training data's profile; "": none.
    """

    id: str
    project: str
    model: str
    number: int
    label: str
    status: VersionStatus
    author: str
    description: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    hyperparameters: Mapping[str, Any]
    training_data_hash: str
    artifact_size_bytes: int
    framework: str
    dependencies: Mapping[str, str]
    signature: Mapping[str, Any]
    files: tuple[ArtifactFile, ...]
    artifact_path: str
    profile_id: str
    lineage: Lineage
    created_at: datetime
    updated_at: datetime
    revision: int
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The full resource name."""
        return str(VersionName(self.project, self.model, self.number))

    @property
    def etag(self) -> str:
        """Changes with every write."""
        return etag_of(self.revision)

    def __str__(self) -> str:
        """Return `model@number`, for messages."""
        return f"{self.model}@{self.number}"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is given to register a version.

    Attributes:
        id: chosen by whoever placed the files, because their path contains it; "": the registry chooses.
        number: the number that the files' path contains; 0: whatever comes next. When another version took it in
            between, nothing is written and `NumberTaken` is raised.
        profile_json: canonical JSON of the training data's profile; "": none.
        aliases: to point at it in the same transaction.
        author: "": whoever calls.
    """

    project: str
    model: str
    framework: str
    id: str = ""
    number: int = 0
    label: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    training_data_hash: str = ""
    dependencies: Mapping[str, str] = field(default_factory=dict)
    signature: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[ArtifactFile] = ()
    profile_json: str = ""
    lineage: Lineage = field(default_factory=Lineage)
    aliases: Sequence[str] = ()
    author: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a model (`number` 0) or version; `before` and `after` hold only what changed, None: nothing."""

    id: int
    time: datetime
    actor: str
    action: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    reason: str
