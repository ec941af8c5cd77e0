"""The names of resources: how each is written, read and checked.

Owns the one grammar of ids and every pattern such as `projects/{project}/models/{model}`. It never looks anything
up: that a name can be read does not mean that the resource exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar, Self

from pilotfish.errors import InvalidArgument, Violation

__all__ = [
    "DEFAULT_PROJECT",
    "LATEST",
    "OPERATED",
    "OPERATIONS",
    "STAGES",
    "AlertName",
    "DecisionName",
    "DeploymentName",
    "DeploymentRef",
    "EndpointName",
    "FeatureSetName",
    "FiringName",
    "JobName",
    "ModelName",
    "OperationRef",
    "PipelineName",
    "ProjectName",
    "ReplicaName",
    "ResourceName",
    "RetirementPlanName",
    "RolloutName",
    "RuleName",
    "RunName",
    "VersionName",
    "VersionRef",
    "check_alias",
    "check_id",
    "check_label",
    "is_id",
    "project_id",
]

DEFAULT_PROJECT = "default"
LATEST = "latest"
STAGES = ("development", "staging", "canary", "production")

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def is_id(text: str) -> bool:
    """Return whether `text` is an id: ^[a-z0-9][a-z0-9._-]{0,62}$."""
    return _ID.fullmatch(text) is not None


def check_id(text: str, field: str) -> str:
    """Return `text`, an id.

    Args:
        text: what the caller gave.
        field: the request's field, for the violation.

    Raises:
        InvalidArgument: it is not an id.
    """
    if not is_id(text):
        raise _bad(
            field,
            f"{_shown(text)} is not an id: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        )
    return text


def project_id(text: str, field: str = "project") -> str:
    """Return the project's id; "" is the default project, and `projects/{p}` is read as well.

    Raises:
        InvalidArgument: it is not an id.
    """
    return check_id(text.removeprefix("projects/"), field) if text else DEFAULT_PROJECT


def check_alias(text: str, field: str = "alias") -> str:
    """Return `text`, an alias: ^[a-z][a-z0-9._-]{0,62}$ and not "latest".

    Raises:
        InvalidArgument: it is not an alias.
    """
    if text == LATEST or _ALIAS.fullmatch(text) is None:
        raise _bad(
            field,
            f"{_shown(text)} is not an alias: use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            f"beginning with a letter, and not {LATEST!r}",
        )
    return text


def check_label(text: str, field: str = "label") -> str:
    """Return `text`, a version's label such as "2.1.0": never a whole number, never "latest".

    Raises:
        InvalidArgument: it is not a label.
    """
    if text == LATEST or text.isdigit() or _LABEL.fullmatch(text) is None:
        raise _bad(
            field,
            f"{_shown(text)} is not a label: use 1 to 63 letters, digits, '.', '_', '+' and '-', "
            f"beginning with a letter or digit, not a whole number (those are version numbers) and not {LATEST!r}",
        )
    return text


@dataclass(frozen=True, slots=True)
class ResourceName:
    """The base of all names; `str(name)` is the full name, `parse` reads it back."""

    PATTERN: ClassVar[str] = ""

    def __str__(self) -> str:
        """Return the full name."""
        return self.PATTERN.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """Return the parts of a full name.

        Args:
            text: the full name.
            field: the request's field, for the violation.

        Raises:
            InvalidArgument: it does not have this resource's pattern.
        """
        found = _regex(cls.PATTERN).fullmatch(text)
        if found is None:
            raise _bad(field, f"{_shown(text)} is not {cls.PATTERN}")
        values = found.groupdict()
        return cls(**{k: int(v) if k == "number" else v for k, v in values.items()})

    @classmethod
    def read(cls, text: str, field: str = "name", project: str = DEFAULT_PROJECT) -> Self:
        """Return the parts of a full name, or of the same name without `projects/{project}/`.

        A resource directly below its project may also be named by its bare id.

        Raises:
            InvalidArgument: it is none of these.
        """
        if text.startswith("projects/"):
            return cls.parse(text, field)
        relative = cls.PATTERN.split("/", 2)[2]
        collection = relative.split("/", 1)[0]
        if relative.count("/") == 1 and not text.startswith(collection + "/"):
            text = f"{collection}/{check_id(text, field)}"
        return cls.parse(f"projects/{project}/{text}", field)


@dataclass(frozen=True, slots=True)
class ProjectName(ResourceName):
    """A project."""

    PATTERN: ClassVar[str] = "projects/{project}"
    project: str

    @classmethod
    def read(cls, text: str, field: str = "name", project: str = DEFAULT_PROJECT) -> Self:
        """Return the project of a full name or a bare id; "" is `project`."""
        return cls(project_id(text or project, field))


@dataclass(frozen=True, slots=True)
class ModelName(ResourceName):
    """A model."""

    PATTERN: ClassVar[str] = "projects/{project}/models/{model}"
    project: str
    model: str


@dataclass(frozen=True, slots=True)
class VersionName(ResourceName):
    """A version by its number; what callers write may be more: see `VersionRef`."""

    PATTERN: ClassVar[str] = "projects/{project}/models/{model}/versions/{number}"
    project: str
    model: str
    number: int


@dataclass(frozen=True, slots=True)
class EndpointName(ResourceName):
    """An endpoint."""

    PATTERN: ClassVar[str] = "projects/{project}/endpoints/{endpoint}"
    project: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class DeploymentName(ResourceName):
    """A deployment; what callers write may also be `{endpoint}/{stage}`: see `DeploymentRef`."""

    PATTERN: ClassVar[str] = "projects/{project}/endpoints/{endpoint}/deployments/{deployment}"
    project: str
    endpoint: str
    deployment: str


@dataclass(frozen=True, slots=True)
class ReplicaName(ResourceName):
    """A replica."""

    PATTERN: ClassVar[str] = "projects/{project}/endpoints/{endpoint}/deployments/{deployment}/replicas/{replica}"
    project: str
    endpoint: str
    deployment: str
    replica: str


@dataclass(frozen=True, slots=True)
class RolloutName(ResourceName):
    """A rollout."""

    PATTERN: ClassVar[str] = "projects/{project}/endpoints/{endpoint}/rollouts/{rollout}"
    project: str
    endpoint: str
    rollout: str


@dataclass(frozen=True, slots=True)
class DecisionName(ResourceName):
    """A decision."""

    PATTERN: ClassVar[str] = "projects/{project}/decisions/{decision}"
    project: str
    decision: str


@dataclass(frozen=True, slots=True)
class RunName(ResourceName):
    """A run of an experiment."""

    PATTERN: ClassVar[str] = "projects/{project}/runs/{run}"
    project: str
    run: str


@dataclass(frozen=True, slots=True)
class PipelineName(ResourceName):
    """A pipeline."""

    PATTERN: ClassVar[str] = "projects/{project}/pipelines/{pipeline}"
    project: str
    pipeline: str


@dataclass(frozen=True, slots=True)
class JobName(ResourceName):
    """A training job."""

    PATTERN: ClassVar[str] = "projects/{project}/pipelines/{pipeline}/jobs/{job}"
    project: str
    pipeline: str
    job: str


@dataclass(frozen=True, slots=True)
class FeatureSetName(ResourceName):
    """A feature set."""

    PATTERN: ClassVar[str] = "projects/{project}/featureSets/{feature_set}"
    project: str
    feature_set: str


@dataclass(frozen=True, slots=True)
class RuleName(ResourceName):
    """A rule."""

    PATTERN: ClassVar[str] = "projects/{project}/rules/{rule}"
    project: str
    rule: str


@dataclass(frozen=True, slots=True)
class FiringName(ResourceName):
    """A firing of a rule."""

    PATTERN: ClassVar[str] = "projects/{project}/rules/{rule}/firings/{firing}"
    project: str
    rule: str
    firing: str


@dataclass(frozen=True, slots=True)
class RetirementPlanName(ResourceName):
    """A retirement plan."""

    PATTERN: ClassVar[str] = "projects/{project}/retirementPlans/{plan}"
    project: str
    plan: str


@dataclass(frozen=True, slots=True)
class AlertName(ResourceName):
    """An alert."""

    PATTERN: ClassVar[str] = "projects/{project}/alerts/{alert}"
    project: str
    alert: str


@dataclass(frozen=True, slots=True)
class VersionRef:
    """What a caller wrote to name a version: `which` is a number, a label, an alias or "latest"."""

    project: str
    model: str
    which: str

    @property
    def number(self) -> int | None:
        """The number, when `which` is one."""
        return int(self.which) if _NUMBER.fullmatch(self.which) else None

    def __str__(self) -> str:
        """Return `model@which`, with the project's full name before it unless it is the default one."""
        short = f"{self.model}@{self.which}"
        return short if self.project == DEFAULT_PROJECT else f"projects/{self.project}/models/{short}"

    @classmethod
    def parse(cls, text: str, field: str = "version", project: str = DEFAULT_PROJECT) -> Self:
        """Return the parts of `projects/{p}/models/{m}/versions/{v}`, `{m}@{v}` or `{m}` (the latest).

        `projects/{p}/models/{m}` means the latest as well, and `projects/{p}/models/{m}@{v}` is read too.

        Raises:
            InvalidArgument: it is none of these.
        """
        rest = text
        if text.startswith("projects/"):
            parts = text.split("/", 3)
            if len(parts) != 4 or parts[2] != "models" or not is_id(parts[1]):
                raise _not_a_version(text, field)
            project, rest = parts[1], parts[3]
            if "/" in rest:
                model, _, which = rest.partition("/versions/")
                rest = f"{model}@{which}" if which else rest
        model, at, which = rest.partition("@")
        which = which if at else LATEST
        if not is_id(model) or _LABEL.fullmatch(which) is None:
            raise _not_a_version(text, field)
        if which.isdigit() and _NUMBER.fullmatch(which) is None:
            raise _bad(field, f"{_shown(text)} names version {which}: numbers begin at 1 and have no leading zero")
        return cls(project, model, which)


@dataclass(frozen=True, slots=True)
class DeploymentRef:
    """What a caller wrote to name a deployment: exactly one of `deployment` and `stage` is set."""

    project: str
    endpoint: str
    deployment: str = ""
    stage: str = ""

    def __str__(self) -> str:
        """Return the full name, or `endpoint/stage`."""
        if self.deployment:
            return str(DeploymentName(self.project, self.endpoint, self.deployment))
        return f"{self.endpoint}/{self.stage}"

    @classmethod
    def parse(cls, text: str, field: str = "deployment", project: str = DEFAULT_PROJECT) -> Self:
        """Return the parts of `projects/{p}/endpoints/{e}/deployments/{d}` or `{endpoint}/{stage}`.

        Raises:
            InvalidArgument: it is neither.
        """
        if text.startswith("projects/"):
            name = DeploymentName.parse(text, field)
            return cls(name.project, name.endpoint, deployment=name.deployment)
        endpoint, _, stage = text.partition("/")
        if not is_id(endpoint) or stage not in STAGES:
            raise _bad(
                field,
                f"{_shown(text)} is neither {DeploymentName.PATTERN} nor endpoint/stage with one of the stages "
                + ", ".join(STAGES),
            )
        return cls(project, endpoint, stage=stage)


OPERATIONS = "operations"
OPERATED: dict[str, type[ResourceName]] = {"jobs": JobName, "rollouts": RolloutName, "deployments": DeploymentName}
"""Collection -> the name of what an operation may be a view of."""


@dataclass(frozen=True, slots=True)
class OperationRef:
    """What a caller wrote to name an operation; `resource` is "" when only collection and id were given."""

    collection: str
    id: str
    resource: str = ""

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """Return the parts of `operations/{resource name}` or `operations/{jobs|rollouts|deployments}/{id}`.

        Raises:
            InvalidArgument: it is neither.
        """
        rest = text.removeprefix(OPERATIONS + "/")
        parts = rest.split("/")
        if rest != text and len(parts) > 1 and parts[-2] in OPERATED and is_id(parts[-1]):
            if len(parts) == 2:
                return cls(parts[0], parts[1])
            if _regex(OPERATED[parts[-2]].PATTERN).fullmatch(rest):
                return cls(parts[-2], parts[-1], rest)
        known = ", ".join(f"{OPERATIONS}/{name.PATTERN}" for name in OPERATED.values())
        raise _bad(field, f"{_shown(text)} names no operation: write {known}, or {OPERATIONS}/{{collection}}/{{id}}")


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    def group(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"(?P<{name}>{_NUMBER.pattern if name == 'number' else _ID.pattern})"

    return re.compile(_PLACEHOLDER.sub(group, pattern))


def _not_a_version(text: str, field: str) -> InvalidArgument:
    return _bad(
        field,
        f"{_shown(text)} names no version: write projects/{{p}}/models/{{m}}/versions/{{v}} or {{m}}@{{v}}, "
        "v a number, a label, an alias or 'latest'",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _bad(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(description, reason="BAD_NAME", violations=[Violation(field, description, "BAD_NAME")])
