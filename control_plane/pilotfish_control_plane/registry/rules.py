"""What may happen to models and versions: transitions, metadata, aliases.

Owns the decisions. Plain Python: no SQL, no clock, no wire.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any  # JSON of any depth

from pilotfish.errors import FailedPrecondition, InvalidArgument, Violation
from pilotfish_control_plane.names import check_alias, check_label
from pilotfish_control_plane.registry.model import Mover, VersionStatus

__all__ = [
    "ALIASABLE",
    "DEPLOYABLE",
    "FRAMEWORKS",
    "RESOLVABLE",
    "TRANSITIONS",
    "allowed",
    "check_json",
    "check_key",
    "check_metadata",
    "check_metrics",
    "check_tags",
    "check_text",
    "tag_filters",
    "transition",
]

_S = VersionStatus

TRANSITIONS: Mapping[tuple[VersionStatus, VersionStatus], Mover] = {
    (_S.TRAINING, _S.EVALUATING): Mover.JOB,
    (_S.TRAINING, _S.FAILED): Mover.JOB,
    (_S.EVALUATING, _S.STAGING): Mover.JOB,
    (_S.EVALUATING, _S.FAILED): Mover.JOB,
    (_S.STAGING, _S.PRODUCTION): Mover.DEPLOYMENT,
    (_S.PRODUCTION, _S.STAGING): Mover.DEPLOYMENT,
    (_S.STAGING, _S.DEPRECATED): Mover.HAND,
    (_S.DEPRECATED, _S.STAGING): Mover.HAND,
    (_S.DEPRECATED, _S.ARCHIVED): Mover.HAND,
    # The undelete of a terminal state.
    (_S.ARCHIVED, _S.DEPRECATED): Mover.HAND,
}
"""Every allowed transition and who makes it; all else is refused."""

RESOLVABLE = frozenset({_S.STAGING, _S.PRODUCTION, _S.DEPRECATED})
"""Statuses among which "latest" looks."""

ALIASABLE = RESOLVABLE
"""Statuses of a version that an alias may be pointed at."""

DEPLOYABLE = frozenset({_S.STAGING, _S.PRODUCTION})
"""Statuses of a version that may be deployed; a rollback also takes a deprecated one."""

FRAMEWORKS = ("onnx", "sklearn", "xgboost", "lightgbm", "mlflow", "safetensors", "external")
"""The words of the contract; which of them can be validated is the validators' business."""

MAX_TAGS = 64
MAX_METRICS = 1_000
MAX_DEPENDENCIES = 1_000
MAX_TEXT_CHARS = 4_096
MAX_VALUE_CHARS = 256
MAX_JSON_BYTES = 256 * 1024
MAX_ALIASES = 64

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?(\[[A-Za-z0-9,._-]{1,64}\])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def allowed(status: VersionStatus, mover: Mover | None = None) -> list[VersionStatus]:
    """Return where a version may go from `status`; `mover`: only what that mover may do."""
    return [after for (before, after), who in TRANSITIONS.items() if before is status and mover in (None, who)]


def transition(
    subject: str, before: VersionStatus, after: VersionStatus, mover: Mover, users: Sequence[str] = ()
) -> list[VersionStatus]:
    """Return the statuses to pass through, `after` last; empty when the version is there already.

    Args:
        subject: what moves, for the message: `fraud@7`.
        before: where it stands.
        after: where it is to go.
        mover: who moves it. A deployment may also take a deprecated version (a rollback): by way of staging.
        users: current deployments that use it; they forbid archiving.

    Raises:
        FailedPrecondition: the transition is not allowed; `violations` lists every one that is.
    """
    if before is after:
        return []
    if mover is Mover.DEPLOYMENT and (before, after) == (_S.DEPRECATED, _S.PRODUCTION):
        return [_S.STAGING, _S.PRODUCTION]
    if TRANSITIONS.get((before, after)) is not mover:
        raise _refused(subject, before, after, mover, users)
    if after is _S.ARCHIVED and users:
        raise FailedPrecondition(
            f"{subject} cannot be archived: {len(users)} deployments use it; stop them first",
            reason="VERSION_IN_USE",
            violations=[Violation(name, f"uses {subject}", "IN_USE") for name in users],
            metadata={"from": before.value, "to": after.value},
        )
    return [after]


def _refused(
    subject: str, before: VersionStatus, after: VersionStatus, mover: Mover, users: Sequence[str]
) -> FailedPrecondition:
    mine, all_ = allowed(before, mover), allowed(before)
    says = ", ".join(s.value for s in mine) or "none"
    others = "; ".join(f"{s.value} only {TRANSITIONS[before, s].value}" for s in all_ if s not in mine)
    violations = [
        Violation(s.value, f"allowed from {before.value}, {TRANSITIONS[before, s].value}", "ALLOWED") for s in all_
    ]
    violations += [Violation(name, f"uses {subject}", "IN_USE") for name in users]
    return FailedPrecondition(
        f"{subject} is {before.value} and cannot become {after.value} {mover.value}; "
        f"allowed from {before.value}: {says}" + (f" ({others})" if others else ""),
        reason="STATUS_TRANSITION",
        violations=violations,
        metadata={"from": before.value, "to": after.value, "allowed": ",".join(s.value for s in all_)},
    )


def check_text(text: str, field: str, limit: int = MAX_TEXT_CHARS) -> list[Violation]:
    """Return what is wrong with a free text: its length, or NUL (which PostgreSQL cannot keep)."""
    if len(text) > limit:
        return [Violation(field, f"has {len(text)} characters, at most {limit} are allowed", "TOO_LONG")]
    return [Violation(field, "contains NUL", "BAD_TEXT")] if "\x00" in text else []


def check_tags(tags: Mapping[str, str], field: str = "tags") -> list[Violation]:
    """Return everything that is wrong with tags."""
    found = []
    if len(tags) > MAX_TAGS:
        found.append(Violation(field, f"{len(tags)} tags, at most {MAX_TAGS} are allowed", "TOO_MANY"))
    for key, value in tags.items():
        found += check_key(key, f"{field}[{key[:64]}]")
        found += check_text(value, f"{field}[{key[:64]}]", MAX_VALUE_CHARS)
    return found


def check_metrics(metrics: Mapping[str, float], field: str = "metrics") -> list[Violation]:
    """Return everything that is wrong with metrics; every value must be finite."""
    found = []
    if len(metrics) > MAX_METRICS:
        found.append(Violation(field, f"{len(metrics)} metrics, at most {MAX_METRICS} are allowed", "TOO_MANY"))
    for key, value in metrics.items():
        found += check_key(key, f"{field}[{key[:64]}]")
        if not math.isfinite(value):
            found.append(Violation(f"{field}[{key[:64]}]", f"is {value}, must be finite", "NOT_FINITE"))
    return found


def check_json(value: Mapping[str, Any], field: str) -> list[Violation]:
    """Return what is wrong with a JSON object: its size, numbers that are not finite, NUL in a text."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        return [Violation(field, f"is not plain JSON: {error}", "BAD_JSON")]
    if len(text) > MAX_JSON_BYTES:
        return [Violation(field, f"has {len(text)} bytes, at most {MAX_JSON_BYTES} are allowed", "TOO_LONG")]
    return [Violation(field, "contains NUL", "BAD_TEXT")] if "\\u0000" in text else []


def check_metadata(
    *,
    description: str = "",
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    dependencies: Mapping[str, str] | None = None,
    training_data_hash: str = "",
    framework: str = "",
    label: str = "",
    aliases: Sequence[str] = (),
) -> list[Violation]:
    """Return everything that is wrong with a version's or model's metadata."""
    found = check_text(description, "description") + check_tags(tags or {}) + check_metrics(metrics or {})
    found += check_json(hyperparameters or {}, "hyperparameters")
    found += check_dependencies(dependencies or {})
    if training_data_hash and not _SHA256.fullmatch(training_data_hash):
        found.append(Violation("training_data_hash", "must be the 64 lower-case hex digits of a SHA-256", "BAD_HASH"))
    if framework and framework not in FRAMEWORKS:
        text = f"{framework[:64]!r} is unknown; known: {', '.join(FRAMEWORKS)}"
        found.append(Violation("framework", text, "UNKNOWN_FRAMEWORK"))
    if len(aliases) > MAX_ALIASES:
        found.append(Violation("aliases", f"{len(aliases)} aliases, at most {MAX_ALIASES} are allowed", "TOO_MANY"))
    try:
        if label:
            check_label(label)
    except InvalidArgument as error:
        found += error.violations
    for i, alias in enumerate(aliases[:MAX_ALIASES]):
        try:
            check_alias(alias, f"aliases[{i}]")
        except InvalidArgument as error:
            found += error.violations
    if label and label in aliases:
        found.append(Violation("aliases", f"{label!r} is the version's label already", "NAME_CONFLICT"))
    return found


def check_dependencies(dependencies: Mapping[str, str], field: str = "dependencies") -> list[Violation]:
    """Return everything that is wrong with dependencies, package -> version."""
    found = []
    if len(dependencies) > MAX_DEPENDENCIES:
        text = f"{len(dependencies)} packages, at most {MAX_DEPENDENCIES} are allowed"
        found.append(Violation(field, text, "TOO_MANY"))
    for key, value in dependencies.items():
        if not _PACKAGE.fullmatch(key):
            found.append(Violation(f"{field}[{key[:64]}]", "is not a package's name", "BAD_KEY"))
        found += check_text(value, f"{field}[{key[:64]}]", MAX_VALUE_CHARS)
    return found


def check_key(key: str, field: str) -> list[Violation]:
    """Return what is wrong with the key of a tag or the name of a metric."""
    if _KEY.fullmatch(key):
        return []
    text = "a key has 1 to 128 letters, digits, '_', '.', '/' and '-', and begins with a letter, digit or '_'"
    return [Violation(field, text, "BAD_KEY")]


def tag_filters(any_tags: Sequence[str], field: str = "any_tags") -> list[tuple[str, str | None]]:
    """Return key and value of each "key" or "key=value"; value None: any.

    Raises:
        InvalidArgument: an entry is neither, or there are too many.
    """
    found: list[Violation] = []
    wanted: list[tuple[str, str | None]] = []
    if len(any_tags) > MAX_TAGS:
        found.append(Violation(field, f"{len(any_tags)} tags, at most {MAX_TAGS} are allowed", "TOO_MANY"))
    for i, text in enumerate(any_tags[:MAX_TAGS]):
        key, equals, value = text.partition("=")
        found += check_key(key, f"{field}[{i}]") + check_text(value, f"{field}[{i}]", MAX_VALUE_CHARS)
        wanted.append((key, value if equals else None))
    if found:
        raise InvalidArgument(f"{field} holds {len(found)} entries that are no tags", violations=found)
    return list(dict.fromkeys(wanted))
