"""Finding models and versions, each in the caller's transaction.

Owns what a reference means: number, label, alias or "latest". It changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotfish.errors import FailedPrecondition, NotFound
from pilotfish_control_plane.names import DEFAULT_PROJECT, LATEST, ModelName, VersionRef
from pilotfish_control_plane.registry import rules
from pilotfish_control_plane.registry.model import Change, Model, Version, VersionStatus
from pilotfish_control_plane.storage import registry as storage
from pilotfish_control_plane.storage import registry_lists as lists
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Finding"]

_UNUSABLE = (VersionStatus.FAILED, VersionStatus.TRAINING, VersionStatus.EVALUATING)


class Finding:
    """The reading half of the registry."""

    def get_model(self, tx: Tx, project: str, model: str) -> Model:
        """Return a model.

        Raises:
            NotFound: there is none.
        """
        found = storage.find_model(tx.conn, project, model)
        if found is None:
            raise _no_model(project, model)
        return found

    def has_model(self, tx: Tx, project: str, model: str) -> bool:
        """Return whether there is such a model."""
        return storage.find_model(tx.conn, project, model) is not None

    def list_models(self, tx: Tx, project: str, request: PageRequest, any_tags: Sequence[str] = ()) -> Page[Model]:
        """Return a page of models; `any_tags`: "key" or "key=value", one of which a model must have."""
        return lists.list_models(tx.conn, project, request, rules.tag_filters(any_tags))

    def resolve_version(self, tx: Tx, ref: str, project: str = DEFAULT_PROJECT) -> Version:
        """Return what "m@v", "m" (its latest) or a full name means; v is a number, a label, an alias or "latest".

        A failed version is not resolved, whatever names it.

        Raises:
            InvalidArgument: the text names no version.
            NotFound: there is no such version.
            FailedPrecondition: it failed, or is still being made.
        """
        version = self.find(tx, VersionRef.parse(ref, project=project))
        if version.status in _UNUSABLE:
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

    def next_number(self, tx: Tx, project: str, model: str) -> int:
        """Return the number that the model's next version will get, if nobody else comes first."""
        return storage.next_number(tx.conn, project, model)

    def profile(self, tx: Tx, version: Version) -> tuple[str, str] | None:
        """Return id and JSON of the version's profile, None when it has none."""
        text = storage.find_profile(tx.conn, version.profile_id) if version.profile_id else None
        return None if text is None else (version.profile_id, text)

    def list_changes(self, tx: Tx, project: str, model: str, number: int, request: PageRequest) -> Page[Change]:
        """Return a page of the changes of a model (number 0) or a version, newest first.

        Raises:
            NotFound: there is no such model or version.
        """
        if number:
            self.get_version(tx, project, model, number)
        else:
            self.get_model(tx, project, model)
        return lists.list_changes(tx.conn, project, model, number, request)


def _no_model(project: str, model: str) -> NotFound:
    return NotFound(f"there is no model {ModelName(project, model)}", metadata={"model": model})
