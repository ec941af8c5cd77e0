"""What can be done with models and versions, each in the caller's transaction.

Owns the making of versions: at once from an artifact that is in the store, or in steps by a job. It never touches a
file: artifacts are in the store before a version is registered.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound
from pilotfish_control_plane.artifacts.model import artifact_path
from pilotfish_control_plane.experiments.model import RunKind, RunState
from pilotfish_control_plane.experiments.service import ExperimentService
from pilotfish_control_plane.names import check_id
from pilotfish_control_plane.registry import rules
from pilotfish_control_plane.registry.changing import Changing, Users, refuse
from pilotfish_control_plane.registry.model import Mover, NewVersion, Version, VersionStatus
from pilotfish_control_plane.storage import registry as storage
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["NumberTaken", "RegistryService", "Users"]


class NumberTaken(Exception):
    """Another version took the number that the files' path contains; `number` is the next one. Nothing was written."""

    def __init__(self, number: int) -> None:
        """Tell the number that is next now."""
        super().__init__(f"the next number is {number}")
        self.number = number


class RegistryService(Changing):
    """Models, versions, aliases."""

    _experiments = ExperimentService()

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
        refuse(found + taken, f"this version of {new.model[:80]!r} cannot be registered")
        self._check_label(tx, new.project, new.model, new.label)

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
        """Create the version that a job will make, without artifact; its number, id and path are taken now.

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
        refuse(found, f"{before} cannot be completed")
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

    def fail_version(self, tx: Tx, version_id: str, reason: str, metrics: Mapping[str, float] | None = None) -> Version:
        """Mark a job's version as failed and keep its results; return it.

        Raises:
            NotFound: there is no such version.
            FailedPrecondition: it is not being made any more.
        """
        before = self._being_made(tx, version_id)
        after = replace(before, metrics={**before.metrics, **(metrics or {})}, artifact_path="")
        refuse(rules.check_metadata(metrics=after.metrics), f"{before} cannot take these metrics")
        storage.change_version(tx.conn, before, after)
        self._move(tx, after, VersionStatus.FAILED, Mover.JOB, reason)
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
        being_made = status in (VersionStatus.TRAINING, VersionStatus.EVALUATING)
        path = artifact_path(new.model, new.number, new.id) if new.files or being_made else ""
        return Version(
            id=new.id,
            project=new.project,
            model=new.model,
            number=new.number,
            label=new.label,
            status=status,
            author=new.author or tx.actor.name,
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

    def _again(self, tx: Tx, version_id: str) -> Version:
        version = storage.find_version_by_id(tx.conn, version_id)
        assert version is not None
        return version
