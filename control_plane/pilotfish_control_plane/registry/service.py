"""What can be done with models and versions, each in the caller's transaction.

Owns the composition of rules and rows: every change is written together with its history, its event and its audit
row. It never touches a file: artifacts are in the store before a version is registered.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any  # JSON of any depth

from pilotfish.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.artifacts.model import artifact_path
from pilotfish_control_plane.experiments.model import RunKind, RunState
from pilotfish_control_plane.experiments.service import ExperimentService
from pilotfish_control_plane.names import DEFAULT_PROJECT, LATEST, ModelName, VersionRef, check_alias, check_id
from pilotfish_control_plane.registry import rules
from pilotfish_control_plane.registry.model import (
    Change,
    Model,
    Mover,
    NewVersion,
    Version,
    VersionStatus,
)
from pilotfish_control_plane.storage import registry as storage
from pilotfish_control_plane.storage import registry_lists as lists
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["NumberTaken", "RegistryService", "Users"]

Users = Callable[[Tx, Version], Sequence[str]]
"""Returns the names of the current deployments that use a version."""


class NumberTaken(Exception):
    """Another version took the number that the files' path contains; `number` is the next one. Nothing was written."""

    def __init__(self, number: int) -> None:
        """Tell the number that is next now."""
        super().__init__(f"the next number is {number}")
        self.number = number


class RegistryService:
    """Models, versions, aliases.

    Args:
        users: who uses a version; asked before it is archived.
    """

    def __init__(self, users: Users = lambda _tx, _version: ()) -> None:
        """Use `users` for every call."""
        self._users = users
        self._experiments = ExperimentService()

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
        _refuse(found, f"model {model[:80]!r} cannot be created")
        if storage.find_model(tx.conn, project, model) is not None:
            raise AlreadyExists(f"project {project} has a model {model} already", metadata={"model": model})
        return self._add_model(tx, project, model, description, tags or {})

    def _add_model(self, tx: Tx, project: str, model: str, description: str, tags: Mapping[str, str]) -> Model:
        made = Model(project, model, description, dict(tags), {}, 0, tx.actor.name, tx.now, tx.now, 1)
        storage.add_model(tx.conn, made)
        self._changed(tx, made, "create", None, {"description": description, "tags": dict(tags)})
        tx.emit("model.created", made.name, {"author": made.author})
        return made

    def get_model(self, tx: Tx, project: str, model: str) -> Model:
        """Return a model.

        Raises:
            NotFound: there is none.
        """
        found = storage.find_model(tx.conn, project, model)
        if found is None:
            raise _no_model(project, model)
        return found

    def list_models(self, tx: Tx, project: str, request: PageRequest, any_tags: Sequence[str] = ()) -> Page[Model]:
        """Return a page of models; `any_tags`: "key" or "key=value", one of which a model must have."""
        return lists.list_models(tx.conn, project, request, rules.tag_filters(any_tags))

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
        _refuse(rules.check_metadata(description=after.description, tags=after.tags), f"{before.name} cannot be changed")
        old, new = _difference(before, after, ("description", "tags"))
        if not new:
            return before
        after = replace(after, updated_at=tx.now, revision=before.revision + 1)
        storage.change_model(tx.conn, after)
        self._changed(tx, after, "update", old, new)
        tx.emit("model.updated", after.name, {"changed": sorted(new)})
        return after

    # --- versions: finding

    def resolve_version(self, tx: Tx, ref: str, project: str = DEFAULT_PROJECT) -> Version:
        """Return what "m@v", "m" (its latest) or a full name means; v is a number, a label, an alias or "latest".

        A failed version is not resolved, whatever names it.

        Raises:
            InvalidArgument: the text names no version.
            NotFound: there is no such version.
            FailedPrecondition: it failed, or is still being made.
        """
        version = self.find(tx, VersionRef.parse(ref, project=project))
        unfinished = (VersionStatus.FAILED, VersionStatus.TRAINING, VersionStatus.EVALUATING)
        if version.status in unfinished:
            raise FailedPrecondition(
                f"{version} is {version.status.value} and has no artifact: name one that is staging or production",
                reason="VERSION_NOT_USABLE",
                metadata={"status": version.status.value},
            )
        return version

    def find(self, tx: Tx, ref: VersionRef) -> Version:
        """Return the version that `ref` means, whatever its status.

        Raises:
            NotFound: there is none; says what the model has.
        """
        conn, project, model = tx.conn, ref.project, ref.model
        if ref.number is not None:
            version = storage.find_version(conn, project, model, ref.number)
        elif ref.which == LATEST:
            version = storage.find_latest_version(conn, project, model)
        else:
            version = storage.find_version_by_label(conn, project, model, ref.which)
            version = version or storage.find_version_by_alias(conn, project, model, ref.which)
        if version is None:
            raise self._no_version(tx, ref)
        return version

    def _no_version(self, tx: Tx, ref: VersionRef) -> NotFound:
        found = storage.find_model(tx.conn, ref.project, ref.model)
        if found is None:
            return _no_model(ref.project, ref.model)
        if ref.which == LATEST:
            return NotFound(f"model {ref.model} has no version that can be used yet: register one")
        named = ", ".join(found.aliases) or "none"
        return NotFound(
            f"model {ref.model} has no version {ref.which!r}: its latest is {found.latest_version or 'none'}, "
            f"its aliases are {named}",
            metadata={"version": ref.which},
        )

    def get_version(self, tx: Tx, project: str, model: str, number: int) -> Version:
        """Return a version by number, whatever its status.

        Raises:
            NotFound: there is none.
        """
        return self.find(tx, VersionRef(project, model, str(number)))

    def version_by_id(self, tx: Tx, version_id: str) -> Version | None:
        """Return the version with this id, or None."""
        return storage.find_version_by_id(tx.conn, version_id)

    def list_versions(
        self,
        tx: Tx,
        project: str,
        model: str,
        request: PageRequest,
        any_tags: Sequence[str] = (),
        statuses: Sequence[VersionStatus] = (),
    ) -> Page[Version]:
        """Return a page of versions of one model; model "": of all."""
        return lists.list_versions(tx.conn, project, model, request, rules.tag_filters(any_tags), statuses)

    # --- versions: making

    def next_number(self, tx: Tx, project: str, model: str) -> int:
        """Return the number that the model's next version will get, if nobody else comes first."""
        return storage.next_number(tx.conn, project, model)

    def check_new(self, tx: Tx, new: NewVersion) -> None:
        """Refuse what could not be registered, before the work of validating it is done.

        Raises:
            InvalidArgument: metadata or names; names every problem.
            AlreadyExists: the label is in use.
        """
        found = rules.check_metadata(
            description=new.description,
            tags=new.tags,
            metrics=new.metrics,
            hyperparameters=new.hyperparameters,
            dependencies=new.dependencies,
            training_data_hash=new.training_data_hash,
            framework=new.framework,
            label=new.label,
            aliases=new.aliases,
        )
        try:
            check_id(new.model, "model")
        except InvalidArgument as error:
            found += error.violations
        taken = self._label_conflicts(tx, new.project, new.model, new.aliases, "aliases")
        _refuse(found + taken, f"this version of {new.model[:80]!r} cannot be registered")
        self._check_label(tx, new.project, new.model, new.label)

    def _label_conflicts(
        self, tx: Tx, project: str, model: str, names: Sequence[str], field: str
    ) -> list[Violation]:
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

    def register(self, tx: Tx, new: NewVersion) -> Version:
        """Register a version whose files are validated and in the store; return it, with status staging.

        The model is created when it does not exist. With `new.number` set the number is a promise: see `NewVersion`.

        Raises:
            InvalidArgument: metadata or names.
            AlreadyExists: the label is in use.
            NumberTaken: another version took `new.number`.
        """
        self.check_new(tx, new)
        version = self._begin(tx, new, VersionStatus.STAGING)
        self._registered(tx, version, new)
        return self._again(tx, version.id)

    def begin_version(self, tx: Tx, new: NewVersion, status: VersionStatus = VersionStatus.TRAINING) -> Version:
        """Create the version that a job will make, without artifact; its number is taken now.

        Raises:
            InvalidArgument: metadata or names.
            AlreadyExists: the label is in use.
        """
        if status not in (VersionStatus.TRAINING, VersionStatus.EVALUATING):
            raise ValueError(f"a job's version begins as training or evaluating, not {status.value}")
        self.check_new(tx, new)
        return self._begin(tx, replace(new, files=()), status)

    def complete_version(self, tx: Tx, version_id: str, new: NewVersion) -> Version:
        """Give a job's version its artifact and results, and status staging; return it.

        What `new` leaves empty stays as it was begun; project, model, number and id stay anyway.

        Raises:
            NotFound: there is no such version.
            FailedPrecondition: it is not being made any more.
        """
        before = self._being_made(tx, version_id)
        merged = replace(
            new,
            id=before.id,
            project=before.project,
            model=before.model,
            number=before.number,
            label=new.label or before.label,
            description=new.description or before.description,
            tags={**before.tags, **new.tags},
            metrics={**before.metrics, **new.metrics},
            hyperparameters=new.hyperparameters or before.hyperparameters,
            training_data_hash=new.training_data_hash or before.training_data_hash,
            framework=new.framework or before.framework,
            lineage=new.lineage if new.lineage.job else before.lineage,
        )
        found = rules.check_metadata(tags=merged.tags, metrics=merged.metrics, aliases=merged.aliases)
        _refuse(found, f"{before} cannot be completed")
        self._check_label(tx, before.project, before.model, merged.label, own=before.id)
        if before.status is VersionStatus.TRAINING:
            before = self._move(tx, before, VersionStatus.EVALUATING, Mover.JOB, "the job evaluates it")
        filled = self._filled(tx, merged, before.status)
        kept = replace(
            filled,
            author=before.author,
            created_at=before.created_at,
            revision=before.revision + 1,
            aliases=before.aliases,
        )
        storage.change_version(tx.conn, before, kept)
        staged = self._move(tx, kept, VersionStatus.STAGING, Mover.JOB, "the job passed its gate")
        self._registered(tx, staged, merged)
        return self._again(tx, version_id)

    def fail_version(
        self, tx: Tx, version_id: str, reason: str, metrics: Mapping[str, float] | None = None
    ) -> Version:
        """Mark a job's version as failed and keep its results; return it.

        Raises:
            NotFound: there is no such version.
            FailedPrecondition: it is not being made any more.
        """
        before = self._being_made(tx, version_id)
        if metrics:
            _refuse(rules.check_metadata(metrics=metrics), f"{before} cannot take these metrics")
            after = replace(before, metrics={**before.metrics, **metrics})
            storage.change_version(tx.conn, before, after)
            before = after
        self._move(tx, before, VersionStatus.FAILED, Mover.JOB, reason)
        return self._again(tx, version_id)

    def _being_made(self, tx: Tx, version_id: str) -> Version:
        version = storage.find_version_by_id(tx.conn, version_id)
        if version is None:
            raise NotFound(f"there is no version with the id {version_id}")
        if version.status not in (VersionStatus.TRAINING, VersionStatus.EVALUATING):
            raise FailedPrecondition(
                f"{version} is {version.status.value} and no job makes it any more", reason="VERSION_NOT_IN_MAKING"
            )
        return version

    def _begin(self, tx: Tx, new: NewVersion, status: VersionStatus) -> Version:
        expected = storage.next_number(tx.conn, new.project, new.model)
        if new.number not in (0, expected):
            raise NumberTaken(expected)
        if storage.find_model(tx.conn, new.project, new.model) is None:
            self._add_model(tx, new.project, new.model, "", {})
        number = storage.take_number(tx.conn, new.project, new.model)
        version = self._filled(tx, replace(new, number=number, id=new.id or uuid.uuid4().hex), status)
        storage.add_version(tx.conn, version)
        after = {"status": status.value, "label": version.label, "tags": dict(version.tags)}
        self._changed(tx, version, "create", None, {**after, "metrics": dict(version.metrics)})
        return version

    def _filled(self, tx: Tx, new: NewVersion, status: VersionStatus) -> Version:
        """Return the version as its row will be, its profile kept."""
        path = artifact_path(new.model, new.number, new.id) if new.files else ""
        return Version(
            id=new.id,
            project=new.project,
            model=new.model,
            number=new.number,
            label=new.label,
            status=status,
            author=tx.actor.name,
            description=new.description,
            tags=dict(new.tags),
            metrics=dict(new.metrics),
            hyperparameters=dict(new.hyperparameters),
            training_data_hash=new.training_data_hash,
            artifact_size_bytes=sum(f.size_bytes for f in new.files),
            framework=new.framework,
            dependencies=dict(new.dependencies),
            signature=dict(new.signature),
            files=tuple(new.files),
            artifact_path=path,
            profile_id=self._keep_profile(tx, new.profile_json),
            lineage=replace(new.lineage, data_hash=new.lineage.data_hash or new.training_data_hash),
            created_at=tx.now,
            updated_at=tx.now,
            revision=1,
        )

    def _registered(self, tx: Tx, version: Version, new: NewVersion) -> None:
        """Tell everybody that a version can be used now."""
        storage.set_latest(tx.conn, version.project, version.model, rules.RESOLVABLE)
        for alias in dict.fromkeys(new.aliases):
            self.set_alias(tx, version.project, version.model, alias, str(version.number))
        tx.emit(
            "version.registered",
            version.name,
            {"id": version.id, "framework": version.framework, "job": version.lineage.job},
        )
        self._experiments.record(
            tx,
            RunKind.REGISTRATION,
            RunState.FINISHED,
            experiment=version.model,
            project=version.project,
            subject=version.name,
            parameters=version.hyperparameters,
            metrics=version.metrics,
            tags=version.tags,
        )

    def _keep_profile(self, tx: Tx, text: str) -> str:
        if not text:
            return ""
        # The id that pilotfish.stats gives a profile: a function of its canonical JSON.
        profile_id = hashlib.sha256(text.encode()).hexdigest()[:16]
        storage.add_profile(tx.conn, profile_id, text, tx.now)
        return profile_id

    # --- versions: changing

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
        _refuse(found, f"{before} cannot be changed")
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

    def profile(self, tx: Tx, version: Version) -> tuple[str, str] | None:
        """Return id and JSON of the version's profile, None when it has none."""
        text = storage.find_profile(tx.conn, version.profile_id) if version.profile_id else None
        return None if text is None else (version.profile_id, text)

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

        Args:
            reason: why; kept in the history.
            by_deployment: a deployment does it, in its own transaction: production is set in no other way.
            etag: guards the write; "": not guarded.

        Raises:
            InvalidArgument: the reason is too long.
            NotFound: there is no such version.
            FailedPrecondition: the transition is not allowed (lists those that are), or deployments use the version.
            Aborted: somebody else has written since the etag was read.
        """
        _refuse(rules.check_text(reason, "reason"), "the status cannot be changed")
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
        _refuse(self._label_conflicts(tx, project, model, [alias], "alias"), f"{alias!r} cannot be an alias")
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
        old = None if before is None else {alias: before.number}
        new = None if after is None else {alias: after.number}
        self._changed(tx, changed, action, old, new)
        payload = {"alias": alias, "version": after.number if after else 0, "before": before.number if before else 0}
        tx.emit("alias.set" if after is not None else "alias.deleted", changed.name, payload)
        return changed

    # --- history

    def list_changes(
        self, tx: Tx, project: str, model: str, number: int, *, before_id: int = 0, limit: int = 50
    ) -> list[Change]:
        """Return changes of a model (number 0) or a version, newest first, older than `before_id` (0: from now).

        Raises:
            NotFound: there is no such model or version.
        """
        if number:
            self.get_version(tx, project, model, number)
        else:
            self.get_model(tx, project, model)
        return storage.changes_of(tx.conn, project, model, number, before_id=before_id, limit=limit)

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

    def _again(self, tx: Tx, version_id: str) -> Version:
        version = storage.find_version_by_id(tx.conn, version_id)
        assert version is not None
        return version


def _refuse(violations: Sequence[Violation], message: str) -> None:
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


def _no_model(project: str, model: str) -> NotFound:
    return NotFound(f"there is no model {ModelName(project, model)}", metadata={"model": model})
