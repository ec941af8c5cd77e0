"""What a training job ends with: the outcome, the issues found on the way, and the result document.

Owns the shape of `result.json`. Never reads or writes files.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Issue", "JobCancelled", "JobResult", "Outcome", "Reason", "Severity", "TrainingFailed", "plain"]


class Outcome(enum.StrEnum):
    """How a job ended."""

    SUCCEEDED = "SUCCEEDED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Severity(enum.StrEnum):
    """Whether an issue stops the job."""

    ERROR = "error"
    WARNING = "warning"


class Reason(enum.StrEnum):
    """Why a job did not succeed; stable, for programs."""

    SPEC_INVALID = "SPEC_INVALID"
    SOURCE_FAILED = "SOURCE_FAILED"
    JOIN_FAILED = "JOIN_FAILED"
    DATA_QUALITY = "DATA_QUALITY"
    SPLIT_FAILED = "SPLIT_FAILED"
    FEATURES_FAILED = "FEATURES_FAILED"
    FIT_FAILED = "FIT_FAILED"
    EXPORT_FAILED = "EXPORT_FAILED"
    EVALUATION_FAILED = "EVALUATION_FAILED"
    GATE_FAILED = "GATE_FAILED"
    CANCELLED = "CANCELLED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing found wrong, or suspicious, with the job's specification, data or model.

    Attributes:
        check: the check that found it, such as `missing`.
        severity: `error` stops the job, `warning` is recorded.
        column: the column or the field path it is about; empty when it is about the whole.
        message: what, which one, what to do.
        value: what was measured; None when there is no single number.
        limit: what was allowed, in the same unit.
    """

    check: str
    severity: Severity
    column: str
    message: str
    value: float | None = None
    limit: float | None = None


class TrainingFailed(Exception):
    """A stage cannot go on; `issues` holds every cause that was found."""

    def __init__(self, reason: Reason, message: str, issues: Iterable[Issue] = ()) -> None:
        """Keep the reason and all issues; without issues the message becomes one."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.issues = tuple(issues) or (Issue(str(reason).lower(), Severity.ERROR, "", message),)


class JobCancelled(BaseException):
    """SIGTERM arrived. Not an Exception, so that no `except Exception` swallows it."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """Everything that the control plane learns about a finished job; the fields of `result.json`."""

    outcome: Outcome
    completed_at: datetime
    seconds: float
    reason: str = ""
    message: str = ""
    issues: Sequence[Issue] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    champion_metrics: Mapping[str, float | None] | None = None
    gate: Sequence[Mapping[str, Any]] = ()
    confusion_matrix: Mapping[str, Any] | None = None
    feature_importance: Mapping[str, float] = field(default_factory=dict)
    feature_statistics: Mapping[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    search: Sequence[Mapping[str, Any]] = ()
    artifact_dir: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document: plain values only, no NaN and no infinity (they become null)."""
        document: dict[str, Any] = plain({name: getattr(self, name) for name in self.__dataclass_fields__})
        return document


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: NumPy scalars unpacked, dataclasses and times resolved, NaN as null."""
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, enum.Enum) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Issue):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a NumPy scalar or array; NumPy itself is not imported here
        return plain(value.tolist())
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)
