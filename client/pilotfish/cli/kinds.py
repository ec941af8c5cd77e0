"""The kinds of things that `get` and `describe` know: how each is listed, found, named and laid out in columns.

Owns the table of kinds. It calls the client and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pilotfish.cli.columns import COLUMNS
from pilotfish.cli.formats import ref, short_name
from pilotfish.cli.output import Column, Record
from pilotfish.errors import InvalidArgument, NotFound, Violation

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pilotfish import Client

__all__ = ["KINDS", "Kind", "Question", "find_kind", "name_of"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: within a parent, with a filter, ended ones too."""

    parent: str = ""
    filter: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind.

    Attributes:
        singular: as in `describe model fraud`.
        plural: as in `get models`.
        rows: everything that a question matches.
        one: the one with a name; raises NotFound.
        is_parent: whether a name means the parent whose children are listed, rather than one of them.
    """

    singular: str
    plural: str
    rows: Callable[[Client, Question], Sequence[Message]]
    one: Callable[[Client, str], Message]
    is_parent: Callable[[str], bool] = lambda _: False

    def columns(self, now: datetime) -> list[Column]:
        """Return how a list is laid out."""
        return COLUMNS[self.plural](now)


def name_of(record: Record) -> str:
    """Return what people type to mean a record."""
    if "stage" in record and "endpoint" in record and record.get("id"):
        return f"{record['endpoint']}/{record['stage']}" if not record.get("end_time") else str(record["name"])
    name = str(record.get("name") or record.get("instance") or record.get("id", ""))
    return ref(name) if "/versions/" in name or name.count("/") <= 3 else name


def _named(rows: Callable[[Client, Question], Sequence[Message]], what: str) -> Callable[[Client, str], Message]:
    """Return how to find one where the contract has only a list."""

    def find(client: Client, name: str) -> Message:
        # Any: whatever message the kind has.
        found: list[Any] = [m for m in rows(client, Question(ended=True)) if name in _names(m)]
        if not found:
            raise NotFound(f"there is no {what} {name}")
        return found[0]  # type: ignore[no-any-return]  # as above

    return find


# Any: whatever message the kind has.
def _names(message: Any) -> tuple[str, ...]:
    full = str(getattr(message, "name", "") or getattr(message, "instance", ""))
    return full, short_name(full), str(getattr(message, "id", ""))


def _replicas(client: Client, question: Question) -> Sequence[Message]:
    if question.parent:
        parent = question.parent
        full = parent if parent.count("/") > 1 else ""
        if not full:
            full = client.deployments.get(parent).name if "/" in parent else client.endpoints.get(parent).name
        return client.deployments.replicas(full, show_ended=question.ended)
    return [r for d in client.deployments.list() for r in d.replicas]


def _jobs(client: Client, question: Question) -> Sequence[Message]:
    return client.pipelines.jobs(question.parent, filter=question.filter)


def _firings(client: Client, question: Question) -> Sequence[Message]:
    return client.lifecycle.firings(question.parent, filter=question.filter)


def _alerts(client: Client, question: Question) -> Sequence[Message]:
    return client.monitoring.alerts(filter=question.filter or ("" if question.ended else 'state != "resolved"'))


def _retirements(client: Client, _question: Question) -> Sequence[Message]:
    return client.lifecycle.retirement_plans()


def _operations(client: Client, question: Question) -> Sequence[Message]:
    parts = [p for p in (question.filter, "" if question.ended else "done = false") if p]
    return [o.metadata for o in client.operations.list(filter=" AND ".join(f"({p})" for p in parts))]


def _rollout(client: Client, name: str) -> Message:
    return client.deployments.rollout(name)


def _plain_id(name: str) -> bool:
    return "/" not in name and "@" not in name


KINDS: tuple[Kind, ...] = (
    Kind("model", "models", lambda c, q: c.models.list(filter=q.filter), lambda c, n: c.models.get(n)),
    Kind(
        "version",
        "versions",
        lambda c, q: c.models.versions(q.parent, filter=q.filter),
        lambda c, n: c.models.version(n),
        _plain_id,
    ),
    Kind("endpoint", "endpoints", lambda c, q: c.endpoints.list(filter=q.filter), lambda c, n: c.endpoints.get(n)),
    Kind(
        "deployment",
        "deployments",
        lambda c, q: c.deployments.list(q.parent, filter=q.filter, show_ended=q.ended),
        lambda c, n: c.deployments.get(n),
        _plain_id,
    ),
    Kind("replica", "replicas", _replicas, _named(_replicas, "replica"), lambda n: n.count("/") <= 1),
    Kind("rollout", "rollouts", lambda c, q: c.deployments.rollouts(q.parent), _rollout, _plain_id),
    Kind("pipeline", "pipelines", lambda c, q: c.pipelines.list(filter=q.filter), lambda c, n: c.pipelines.get(n)),
    Kind("job", "jobs", _jobs, lambda c, n: c.pipelines.job(n), _plain_id),
    Kind("operation", "operations", _operations, lambda c, n: c.operations.get(n).metadata),
    Kind("feature", "features", lambda c, _: c.features.list(), lambda c, n: c.features.get(n)),
    Kind("rule", "rules", lambda c, _: c.lifecycle.rules(), lambda c, n: c.lifecycle.rule(n)),
    Kind("firing", "firings", _firings, _named(_firings, "firing"), _plain_id),
    Kind("alert", "alerts", _alerts, _named(_alerts, "alert")),
    Kind("retirement", "retirements", _retirements, _named(_retirements, "retirement plan")),
    Kind("run", "runs", lambda c, q: c.experiments.runs(filter=q.filter), lambda c, n: c.experiments.run(n)),
    Kind("member", "members", lambda c, _: c.fleet.members(), _named(lambda c, _: c.fleet.members(), "member")),
    Kind("token", "tokens", lambda c, _: c.access.tokens(), _named(lambda c, _: c.access.tokens(), "token")),
)


def find_kind(word: str) -> Kind:
    """Return a kind by its singular, plural, or the beginning of either that fits only one.

    Raises:
        InvalidArgument: no kind, or several, are called so.
    """
    wanted = word.lower().replace("_", "").replace("-", "")
    exact = [k for k in KINDS if wanted in (k.singular, k.plural)]
    found = exact or [k for k in KINDS if k.plural.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(k.plural for k in (found or KINDS))
    raise InvalidArgument(
        f"{word!r} is no kind of thing" if not found else f"{word!r} may mean several kinds",
        violations=[Violation("kind", f"is one of {known}")],
    )
