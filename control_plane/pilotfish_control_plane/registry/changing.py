"""Changing models and versions, each in the caller's transaction.

Owns that every change is written together with its history, its event and its audit row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any  # JSON of any depth

from pilotfish.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.names import VersionRef, check_alias, check_id
from pilotfish_control_plane.registry import rules
from pilotfish_control_plane.registry.finding import Finding
from pilotfish_control_plane.registry.model import Model, Mover, Version, VersionStatus
from pilotfish_control_plane.storage import registry as storage
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Changing", "Users", "refuse"]

Users = Callable[[Tx, Version], Sequence[str]]
"""Returns the names of the current deployments that use a version."""


class Changing(Finding):
    """The changing half of the registry.

    Args:
        users: who uses a version; asked before it is archived.
    """

    def __init__(self, users: Users = lambda _tx, _version: ()) -> None:
        """Use `users` for every call."""
        self._users = users

    # --- models

    def create_model(
        self, tx: Tx, project: str, model: str, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> Model:
        """Create a model and return it.

        Raises:
            InvalidArgument: id, description or tags; names every problem.
            AlreadyExists: the project has one with this id.
        """
        found = rules.check_metadata(description=description, tags=tags)
        try:
            check_id(model, "model_id")
        except InvalidArgument as error:
            found += error.violations
        refuse(found, f"model {model[:80]!r} cannot be created")
        if storage.find_model(tx.conn, project, model) is not None:
            raise AlreadyExists(f"project {project} has a model {model} already", metadata={"model": model})
        return self._add_model(tx, project, model, description, tags or {})

    def _add_model(self, tx: Tx, project: str, model: str, description: str, tags: Mapping[str, str]) -> Model:
        made = Model(project, model, description, dict(tags), {}, 0, tx.actor.name, tx.now, tx.now, 1)
        storage.add_model(tx.conn, made)
        self._changed(tx, made, "create", None, {"description": description, "tags": dict(tags)})
        tx.emit("model.created", made.name, {"author": made.author})
        return made

    def update_model(
        self,
        tx: Tx,
        project: str,
        model: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        etag: str = "",
    ) -> Model:
        """Change what is given and return the model.

        Raises:
            InvalidArgument: a value is not allowed.
            NotFound: there is no such model.
            Aborted: somebody else has written since the etag was read.
        """
        before = self.get_model(tx, project, model)
        _check_etag(before.name, before.etag, etag)
        after = replace(
            before,
            description=before.description if description is None else description,
            tags=before.tags if tags is None else dict(tags),
        )
        refuse(rules.check_metadata(description=after.description, tags=after.tags), f"{before.name} cannot be changed")
        old, new = _difference(before, after, ("description", "tags"))
        if not new:
            return before
        after = replace(after, updated_at=tx.now, revision=before.revision + 1)
        storage.change_model(tx.conn, after)
        self._changed(tx, after, "update", old, new)
        tx.emit("model.updated", after.name, {"changed": sorted(new)})
        return after

    # --- versions

    def update_version(
        self,
        tx: Tx,
        project: str,
        model: str,
        number: int,
        *,
        label: str | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        etag: str = "",
    ) -> Version:
        """Change what is given and return the version.

        Raises:
            InvalidArgument: a value is not allowed.
            NotFound: there is no such version.
            AlreadyExists: the label is in use.
            Aborted: somebody else has written since the etag was read.
        """
        before = self.get_version(tx, project, model, number)
        _check_etag(before.name, before.etag, etag)
        after = replace(
            before,
            label=before.label if label is None else label,
            description=before.description if description is None else description,
            tags=before.tags if tags is None else dict(tags),
            metrics=before.metrics if metrics is None else dict(metrics),
        )
        found = rules.check_metadata(
            description=after.description, tags=after.tags, metrics=after.metrics, label=after.label
        )
        refuse(found, f"{before} cannot be changed")
        if after.label != before.label:
            self._check_label(tx, project, model, after.label, own=before.id)
        old, new = _difference(before, after, ("label", "description", "tags", "metrics"))
        if not new:
            return before
        after = replace(after, updated_at=tx.now, revision=before.revision + 1)
        storage.change_version(tx.conn, before, after)
        self._changed(tx, after, "update", old, new)
        tx.emit("version.updated", after.name, {"changed": sorted(new)})
        return after

    def set_profile(self, tx: Tx, project: str, model: str, number: int, profile_json: str, reason: str) -> Version:
        """Give a version the profile of its training data, in canonical JSON; return the version."""
        before = self.get_version(tx, project, model, number)
        after = replace(before, profile_id=self._keep_profile(tx, profile_json))
        old, new = _difference(before, after, ("profile_id",))
        if not new:
            return before
        after = replace(after, updated_at=tx.now, revision=before.revision + 1)
        storage.change_version(tx.conn, before, after)
        self._changed(tx, after, "set_profile", old, new, reason)
        tx.emit("version.updated", after.name, {"changed": ["profile_id"]})
        return after

    def set_status(
        self,
        tx: Tx,
        project: str,
        model: str,
        number: int,
        status: VersionStatus,
        *,
        reason: str,
        by_deployment: bool = False,
        etag: str = "",
    ) -> Version:
        """Move a version and return it.

        `reason` is kept in the history. `by_deployment`: a deployment does it, in its own transaction; production
        is set in no other way. `etag` guards the write; "": not guarded.

        Raises:
            InvalidArgument: the reason is too long.
            NotFound: there is no such version.
            FailedPrecondition: the transition is not allowed (lists those that are), or deployments use the version.
            Aborted: somebody else has written since the etag was read.
        """
        refuse(rules.check_text(reason, "reason"), "the status cannot be changed")
        version = self.get_version(tx, project, model, number)
        _check_etag(version.name, version.etag, etag)
        return self._move(tx, version, status, Mover.DEPLOYMENT if by_deployment else Mover.HAND, reason)

    def _move(self, tx: Tx, version: Version, status: VersionStatus, mover: Mover, reason: str) -> Version:
        users = () if mover is Mover.JOB or status is not VersionStatus.ARCHIVED else self._users(tx, version)
        for step in rules.transition(str(version), version.status, status, mover, users):
            before = version
            version = replace(version, status=step, updated_at=tx.now, revision=version.revision + 1)
            storage.change_version(tx.conn, before, version)
            old, new = {"status": before.status.value}, {"status": step.value}
            self._changed(tx, version, "set_status", old, new, reason)
            tx.emit("version.status", version.name, {**new, "before": old["status"], "reason": reason})
        if (version.status in rules.RESOLVABLE) or status is VersionStatus.ARCHIVED:
            storage.set_latest(tx.conn, version.project, version.model, rules.RESOLVABLE)
        return version

    def _label_conflicts(self, tx: Tx, project: str, model: str, names: Sequence[str], field: str) -> list[Violation]:
        found = []
        for name in dict.fromkeys(names):
            labelled = storage.find_version_by_label(tx.conn, project, model, name)
            if labelled is not None:
                found.append(Violation(field, f"{name!r} is the label of {labelled}", "NAME_CONFLICT"))
        return found

    def _check_label(self, tx: Tx, project: str, model: str, label: str, own: str = "") -> None:
        if not label:
            return
        holder = storage.find_version_by_label(tx.conn, project, model, label)
        if holder is not None and holder.id != own:
            raise AlreadyExists(f"{holder} has the label {label!r} already", metadata={"version": holder.name})
        pointed = storage.find_version_by_alias(tx.conn, project, model, label)
        if pointed is not None:
            raise AlreadyExists(
                f"{label!r} is an alias of model {model} (of {pointed}): a name can only mean one thing",
                metadata={"version": pointed.name},
            )

    def _keep_profile(self, tx: Tx, text: str) -> str:
        if not text:
            return ""
        # The id that pilotfish.stats gives a profile: a function of its canonical JSON.
        profile_id = hashlib.sha256(text.encode()).hexdigest()[:16]
        storage.add_profile(tx.conn, profile_id, text, tx.now)
        return profile_id

    # --- aliases

    def set_alias(self, tx: Tx, project: str, model: str, alias: str, which: str) -> Model:
        """Point an alias at the version with this number or label, moving it if it exists; return the model.

        Raises:
            InvalidArgument: the alias is not one, or is a version's label.
            NotFound: there is no such model or version.
            FailedPrecondition: the version failed, is archived, or is still being made.
        """
        check_alias(alias)
        version = self.find(tx, VersionRef.parse(f"{model}@{which}", "version", project))
        if version.status not in rules.ALIASABLE:
            raise FailedPrecondition(
                f"{version} is {version.status.value}: an alias may point at a version that is "
                + ", ".join(s.value for s in VersionStatus if s in rules.ALIASABLE),
                reason="VERSION_NOT_USABLE",
                metadata={"status": version.status.value},
            )
        refuse(self._label_conflicts(tx, project, model, [alias], "alias"), f"{alias!r} cannot be an alias")
        before = storage.find_version_by_alias(tx.conn, project, model, alias)
        if before is not None and before.id == version.id:
            return self.get_model(tx, project, model)
        storage.put_alias(tx.conn, version, alias)
        return self._pointed(tx, project, model, alias, before, version)

    def delete_alias(self, tx: Tx, project: str, model: str, alias: str) -> Model:
        """Remove an alias; return the model.

        Raises:
            InvalidArgument: the alias is not one.
            NotFound: the model has no such alias.
        """
        check_alias(alias)
        self.get_model(tx, project, model)
        before = storage.find_version_by_alias(tx.conn, project, model, alias)
        if before is None:
            raise NotFound(f"model {model} has no alias {alias!r}")
        storage.drop_alias(tx.conn, project, model, alias)
        return self._pointed(tx, project, model, alias, before, None)

    def _pointed(
        self, tx: Tx, project: str, model: str, alias: str, before: Version | None, after: Version | None
    ) -> Model:
        """Write down that an alias was set, moved or removed, at the model and at both versions."""
        action = "set_alias" if after is not None else "delete_alias"
        for version in (before, after):
            if version is not None:
                storage.touch_version(tx.conn, version.id, tx.now)
                gone = version is before
                old, new = ({"alias": alias}, None) if gone else (None, {"alias": alias})
                self._remember(tx, (project, model, version.number), action, old, new)
        storage.touch_model(tx.conn, project, model, tx.now)
        changed = self.get_model(tx, project, model)
        was = None if before is None else {alias: before.number}
        now = None if after is None else {alias: after.number}
        self._changed(tx, changed, action, was, now)
        payload = {"alias": alias, "version": after.number if after else 0, "before": before.number if before else 0}
        tx.emit("alias.set" if after is not None else "alias.deleted", changed.name, payload)
        return changed

    # --- history

    def _changed(
        self,
        tx: Tx,
        subject: Model | Version,
        action: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        reason: str = "",
    ) -> None:
        number = subject.number if isinstance(subject, Version) else 0
        self._remember(tx, (subject.project, subject.model, number), action, before, after, reason)
        tx.audit(action, subject.name, before, after)

    def _remember(
        self,
        tx: Tx,
        subject: tuple[str, str, int],
        action: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        reason: str = "",
    ) -> None:
        storage.add_change(
            tx.conn, subject, now=tx.now, actor=tx.actor.name, action=action, before=before, after=after, reason=reason
        )


def refuse(violations: Sequence[Violation], message: str) -> None:
    """Refuse when there is anything to refuse.

    Raises:
        InvalidArgument: with all violations.
    """
    if violations:
        raise InvalidArgument(f"{message}: {len(violations)} problems", violations=violations)


def _check_etag(name: str, current: str, given: str) -> None:
    if given and given != current:
        raise Aborted(
            f"{name} was changed since you read it (its etag is {current}, you sent {given[:64]}): read it again",
            reason="ETAG_MISMATCH",
            metadata={"etag": current},
        )


def _difference(before: object, after: object, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the named fields that differ, as they were and as they are."""
    changed = [n for n in names if getattr(before, n) != getattr(after, n)]
    return {n: _plain(getattr(before, n)) for n in changed}, {n: _plain(getattr(after, n)) for n in changed}


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
