"""The values of the artifact area: files, uploads, what validation found.

Owns their shape. It never touches a disk.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any  # JSON of any depth

__all__ = [
    "CHUNK_BYTES",
    "MAX_FILES",
    "ArtifactFile",
    "Problem",
    "Upload",
    "UploadFile",
    "UploadState",
    "ValidationReport",
    "artifact_path",
]

CHUNK_BYTES = 1024 * 1024
"""Largest piece of a file in one message."""

MAX_FILES = 10_000
"""Largest number of files of one artifact."""


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact.

    Attributes:
        path: relative, with forward slashes; see `artifacts.paths` for what is allowed.
        size_bytes: >= 0.
        sha256: of the content, 64 lower-case hex digits.
    """

    path: str
    size_bytes: int
    sha256: str


def artifact_path(model: str, number: int, version_id: str) -> str:
    """Return where a version's files lie in the store; computed, never accepted from a caller."""
    return f"models/{model}/{number}/{version_id}"


class UploadState(enum.StrEnum):
    """Where an upload stands."""

    OPEN = "open"
    REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class UploadFile:
    """A file of an upload.

    Attributes:
        position: its place in the list, 0, 1, …; names it on disk, so that no caller's text becomes a file name there.
        file: what was announced.
        committed_bytes: how much of it is durable.
        complete: all of it is durable and its hash was checked.
    """

    position: int
    file: ArtifactFile
    committed_bytes: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """Files on their way to becoming a version.

    Attributes:
        version_id: the version that it became, when `state` is REGISTERED.
    """

    id: str
    principal: str
    state: UploadState
    files: tuple[UploadFile, ...]
    created_at: datetime
    expires_at: datetime
    version_id: str = ""

    @property
    def complete(self) -> bool:
        """Whether every file is whole and its hash matches."""
        return all(f.complete for f in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes over all files, as announced."""
        return sum(f.file.size_bytes for f in self.files)


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why an artifact is refused: the file it is about ("" for the whole), why, and a stable reason."""

    path: str
    description: str
    reason: str


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What the validator found.

    Attributes:
        errors: every reason to refuse; empty exactly when `ok`.
        checks: one line per thing that was checked, for people.
        signature: as in signature.json, with the graph's shapes; empty when the graph could not be read.
        example_ok: True: the example was answered and reproduced; False: it was not; None: there is none.
        size_bytes: bytes over all files.
        dependencies: package -> version, from requirements.json.
        profile_json: canonical JSON of the profile; "" without one.
        framework: that of the validator.
        seconds: how long it took.
    """

    framework: str
    errors: Sequence[Problem] = ()
    checks: Sequence[str] = ()
    signature: Mapping[str, Any] = field(default_factory=dict)
    example_ok: bool | None = None
    size_bytes: int = 0
    dependencies: Mapping[str, str] = field(default_factory=dict)
    profile_json: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the artifact."""
        return not self.errors
