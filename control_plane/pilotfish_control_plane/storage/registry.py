"""Models, versions, aliases, profiles and their history: single rows, read and written.

Owns the conversion of rows. Tables are in `storage.registry_tables`, lists in `storage.registry_lists`. It decides
nothing: `registry.rules` and `registry.service` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any  # column values of several types

from sqlalchemy import Connection, Row, Table, and_, delete, insert, select, update

from pilotfish_control_plane.artifacts.model import artifact_path
from pilotfish_control_plane.registry.model import ArtifactFile, Lineage, Model, Version, VersionStatus
from pilotfish_control_plane.storage.registry_tables import (
    aliases,
    model_tags,
    models,
    profiles,
    registry_changes,
    version_files,
    version_metrics,
    version_tags,
    versions,
)


def _of_model(table: Table, project: str, model: str) -> Any:
    return and_(table.c.project == project, table.c.model == model)


# --- models


def model_from(row: Row[Any], named: Mapping[str, int]) -> Model:
    """Return the model of a row of `models`, with its aliases."""
    return Model(
        project=row.project,
        model=row.model,
        description=row.description,
        tags=row.tags,
        aliases=named,
        latest_version=row.latest_number,
        author=row.author,
        created_at=row.created,
        updated_at=row.updated,
        revision=row.revision,
    )


def find_model(conn: Connection, project: str, model: str) -> Model | None:
    """Return the model with its aliases, or None."""
    row = conn.execute(select(models).where(_of_model(models, project, model))).first()
    return None if row is None else model_from(row, aliases_of_models(conn, project, [model]).get(model, {}))


def aliases_of_models(conn: Connection, project: str, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return model -> alias -> number; models without aliases are left out."""
    query = select(aliases.c.model, aliases.c.alias, aliases.c.number).where(
        aliases.c.project == project, aliases.c.model.in_(ids)
    )
    found: dict[str, dict[str, int]] = {}
    for row in conn.execute(query.order_by(aliases.c.alias)):
        found.setdefault(row.model, {})[row.alias] = row.number
    return found


def add_model(conn: Connection, model: Model) -> None:
    """Insert a model without versions."""
    conn.execute(
        insert(models).values(
            project=model.project,
            model=model.model,
            description=model.description,
            tags=dict(model.tags),
            author=model.author,
            next_number=1,
            latest_number=0,
            created=model.created_at,
            updated=model.updated_at,
            revision=model.revision,
        )
    )
    _put_model_tags(conn, model.project, model.model, model.tags)


def change_model(conn: Connection, model: Model) -> None:
    """Write description, tags, time and revision."""
    conn.execute(
        update(models)
        .where(_of_model(models, model.project, model.model))
        .values(description=model.description, tags=dict(model.tags), updated=model.updated_at, revision=model.revision)
    )
    conn.execute(delete(model_tags).where(_of_model(model_tags, model.project, model.model)))
    _put_model_tags(conn, model.project, model.model, model.tags)


def touch_model(conn: Connection, project: str, model: str, now: datetime) -> None:
    """Give the model a new revision and time of change."""
    conn.execute(
        update(models).where(_of_model(models, project, model)).values(updated=now, revision=models.c.revision + 1)
    )


def _put_model_tags(conn: Connection, project: str, model: str, tags: Mapping[str, str]) -> None:
    if tags:
        rows = [{"project": project, "model": model, "key": k, "value": v} for k, v in tags.items()]
        conn.execute(insert(model_tags), rows)


def next_number(conn: Connection, project: str, model: str) -> int:
    """Return the number that the next version will get, without taking it; 1 for a model that does not exist."""
    found = conn.execute(select(models.c.next_number).where(_of_model(models, project, model))).scalar()
    return 1 if found is None else int(found)


def take_number(conn: Connection, project: str, model: str) -> int:
    """Return the next version's number and count the model's row up; the model must exist."""
    # The update comes first: on SQLite it is the writer's anyway, on PostgreSQL it is what two takers meet at.
    conn.execute(update(models).where(_of_model(models, project, model)).values(next_number=models.c.next_number + 1))
    return next_number(conn, project, model) - 1


def set_latest(conn: Connection, project: str, model: str, resolvable: Iterable[VersionStatus]) -> int:
    """Recompute the model's newest resolvable version and return its number; 0: there is none."""
    wanted = [s.value for s in resolvable]
    newest = (
        select(versions.c.number)
        .where(_of_model(versions, project, model), versions.c.status.in_(wanted))
        .order_by(versions.c.number.desc())
        .limit(1)
    )
    number = int(conn.execute(newest).scalar() or 0)
    conn.execute(update(models).where(_of_model(models, project, model)).values(latest_number=number))
    return number


# --- versions


def version_from(row: Row[Any], named: Sequence[str], files: Sequence[ArtifactFile]) -> Version:
    """Return the version of a row of `versions`, with its aliases and files."""
    return Version(
        id=row.id,
        project=row.project,
        model=row.model,
        number=row.number,
        label=row.label or "",
        status=VersionStatus(row.status),
        author=row.author,
        description=row.description,
        tags=row.tags,
        metrics=row.metrics,
        hyperparameters=row.hyperparameters,
        training_data_hash=row.training_data_hash,
        artifact_size_bytes=row.artifact_size_bytes,
        framework=row.framework,
        dependencies=row.dependencies,
        signature=row.signature,
        files=tuple(files),
        artifact_path=row.artifact_path,
        profile_id=row.profile_id,
        lineage=Lineage(**row.lineage),
        created_at=row.created,
        updated_at=row.updated,
        revision=row.revision,
        aliases=tuple(named),
    )


def files_of(conn: Connection, ids: Sequence[str]) -> dict[str, list[ArtifactFile]]:
    """Return version id -> its files; versions without an artifact are left out."""
    query = select(version_files).where(version_files.c.version.in_(ids))
    return {r.version: [ArtifactFile(*entry) for entry in r.files] for r in conn.execute(query)}


def aliases_of(conn: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """Return version id -> the aliases that point at it."""
    query = select(aliases.c.version, aliases.c.alias).where(aliases.c.version.in_(ids)).order_by(aliases.c.alias)
    found: dict[str, list[str]] = {}
    for row in conn.execute(query):
        found.setdefault(row.version, []).append(row.alias)
    return found


# Any: a SQLAlchemy condition.
def _one_version(conn: Connection, condition: Any) -> Version | None:
    row = conn.execute(select(versions).where(condition)).first()
    if row is None:
        return None
    files = files_of(conn, [row.id]).get(row.id, []) if row.file_count else []
    return version_from(row, aliases_of(conn, [row.id]).get(row.id, []), files)


def find_version(conn: Connection, project: str, model: str, number: int) -> Version | None:
    """Return the version with this number, or None."""
    return _one_version(conn, and_(_of_model(versions, project, model), versions.c.number == number))


def find_version_by_id(conn: Connection, version_id: str) -> Version | None:
    """Return the version with this id, or None."""
    return _one_version(conn, versions.c.id == version_id)


def find_version_by_label(conn: Connection, project: str, model: str, label: str) -> Version | None:
    """Return the version with this label, or None."""
    return _one_version(conn, and_(_of_model(versions, project, model), versions.c.label == label))


def find_version_by_alias(conn: Connection, project: str, model: str, alias: str) -> Version | None:
    """Return the version that the alias points at, or None."""
    pointed = select(aliases.c.version).where(_of_model(aliases, project, model), aliases.c.alias == alias)
    return _one_version(conn, versions.c.id == pointed.scalar_subquery())


def find_latest_version(conn: Connection, project: str, model: str) -> Version | None:
    """Return the model's newest resolvable version, or None."""
    newest = select(models.c.latest_number).where(_of_model(models, project, model)).scalar_subquery()
    return _one_version(conn, and_(_of_model(versions, project, model), versions.c.number == newest))


def add_version(conn: Connection, version: Version) -> None:
    """Insert a version with its tags, metrics and files."""
    conn.execute(insert(versions).values(**_columns(version)))
    _put_version_tags(conn, version)
    _put_version_metrics(conn, version)
    _put_files(conn, version)


def change_version(conn: Connection, before: Version, after: Version) -> None:
    """Write what differs between the two; `id`, project, model and number never change."""
    old = _columns(before)
    changed = {k: v for k, v in _columns(after).items() if v != old[k]}
    if changed:
        conn.execute(update(versions).where(versions.c.id == after.id).values(**changed))
    if before.tags != after.tags:
        conn.execute(delete(version_tags).where(version_tags.c.version == after.id))
        _put_version_tags(conn, after)
    if before.metrics != after.metrics:
        conn.execute(delete(version_metrics).where(version_metrics.c.version == after.id))
        _put_version_metrics(conn, after)
    if before.files != after.files:
        conn.execute(delete(version_files).where(version_files.c.version == after.id))
        _put_files(conn, after)


def touch_version(conn: Connection, version_id: str, now: datetime) -> None:
    """Give the version a new revision and time of change."""
    conn.execute(
        update(versions).where(versions.c.id == version_id).values(updated=now, revision=versions.c.revision + 1)
    )


def _columns(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "project": version.project,
        "model": version.model,
        "number": version.number,
        "label": version.label or None,
        "status": version.status.value,
        "author": version.author,
        "description": version.description,
        "tags": dict(version.tags),
        "metrics": dict(version.metrics),
        "hyperparameters": dict(version.hyperparameters),
        "training_data_hash": version.training_data_hash,
        "artifact_size_bytes": version.artifact_size_bytes,
        "file_count": len(version.files),
        "framework": version.framework,
        "dependencies": dict(version.dependencies),
        "signature": dict(version.signature),
        "artifact_path": version.artifact_path,
        "profile_id": version.profile_id,
        "lineage": asdict(version.lineage),
        "created": version.created_at,
        "updated": version.updated_at,
        "revision": version.revision,
    }


def _put_version_tags(conn: Connection, version: Version) -> None:
    if version.tags:
        same = {"version": version.id, "project": version.project, "model": version.model}
        conn.execute(insert(version_tags), [{**same, "key": k, "value": v} for k, v in version.tags.items()])


def _put_version_metrics(conn: Connection, version: Version) -> None:
    if version.metrics:
        rows = [{"version": version.id, "key": k, "value": v} for k, v in version.metrics.items()]
        conn.execute(insert(version_metrics), rows)


def _put_files(conn: Connection, version: Version) -> None:
    if version.files:
        files = [[f.path, f.size_bytes, f.sha256] for f in version.files]
        conn.execute(insert(version_files).values(version=version.id, files=files))


def claimed_paths(conn: Connection) -> set[str]:
    """Return every path in the store that a version may have: those of failed versions are free."""
    claimed = select(versions.c.model, versions.c.number, versions.c.id).where(
        versions.c.status != VersionStatus.FAILED.value
    )
    return {artifact_path(r.model, r.number, r.id) for r in conn.execute(claimed)}


# --- aliases


def put_alias(conn: Connection, version: Version, alias: str) -> None:
    """Point the alias at the version; an existing one is moved."""
    drop_alias(conn, version.project, version.model, alias)
    conn.execute(
        insert(aliases).values(
            project=version.project, model=version.model, alias=alias, version=version.id, number=version.number
        )
    )


def drop_alias(conn: Connection, project: str, model: str, alias: str) -> bool:
    """Remove the alias; return whether there was one."""
    this = and_(_of_model(aliases, project, model), aliases.c.alias == alias)
    return bool(conn.execute(delete(aliases).where(this)).rowcount)


# --- profiles


def add_profile(conn: Connection, profile_id: str, text: str, now: datetime) -> None:
    """Keep the profile; one with this id has the same content."""
    if conn.execute(select(profiles.c.id).where(profiles.c.id == profile_id)).first() is None:
        conn.execute(insert(profiles).values(id=profile_id, json=text, created=now))


def find_profile(conn: Connection, profile_id: str) -> str | None:
    """Return the profile's JSON, or None."""
    return conn.execute(select(profiles.c.json).where(profiles.c.id == profile_id)).scalar()


# --- history


def add_change(
    conn: Connection,
    subject: tuple[str, str, int],
    *,
    now: datetime,
    actor: str,
    action: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    reason: str = "",
) -> None:
    """Add to the history of (project, model, number); number 0: of the model itself."""
    project, model, number = subject
    conn.execute(
        insert(registry_changes).values(
            project=project,
            model=model,
            number=number,
            time=now,
            actor=actor,
            action=action,
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
            reason=reason,
        )
    )
