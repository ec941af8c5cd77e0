"""Lists of models and versions.

Owns what can be filtered and ordered by. Tables and single rows are in `storage.registry`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast  # Any: SQLAlchemy's expressions

from sqlalchemy import Column, Connection, Row, Select, Table, and_, func, or_, select

from pilotfish_control_plane.registry.model import Change, Model, Version, VersionStatus
from pilotfish_control_plane.storage.filter_sql import Kind, MapField, Scalar
from pilotfish_control_plane.storage.paging import Listing, Page, PageRequest, fetch_page
from pilotfish_control_plane.storage.registry import (
    aliases_of,
    aliases_of_models,
    files_of,
    model_from,
    version_from,
)
from pilotfish_control_plane.storage.registry_tables import (
    model_tags,
    models,
    registry_changes,
    version_metrics,
    version_tags,
    versions,
)

__all__ = ["MAX_FILES_PER_PAGE", "list_changes", "list_models", "list_versions"]

MAX_FILES_PER_PAGE = 10_000
"""Files over all versions of a page; a page that would have more ends earlier."""

FEW = 1_000
"""Versions up to which a tag counts as rare."""

# Below every metric: versions without it come last in a falling order.
_LOWEST = -1.7976931348623157e308
_METRIC = re.compile(r"metrics\.([A-Za-z0-9_./-]{1,128})")

_MODELS = Listing(
    key=Scalar(models.c.model),
    fields={
        "name": Scalar(models.c.model),
        "author": Scalar(models.c.author),
        "description": Scalar(models.c.description),
        "create_time": Scalar(models.c.created, Kind.TIME),
        "update_time": Scalar(models.c.updated, Kind.TIME),
    },
    orders={
        "name": Scalar(models.c.model),
        "create_time": Scalar(models.c.created, Kind.TIME),
        "update_time": Scalar(models.c.updated, Kind.TIME),
    },
    default_order="name",
)


def list_models(
    conn: Connection, project: str, request: PageRequest, any_tags: Sequence[tuple[str, str | None]] = ()
) -> Page[Model]:
    """Return a page of the project's models.

    Args:
        conn: a connection in a transaction.
        project: its id.
        request: page, filter and order.
        any_tags: key and value (None: any) of tags, one of which a model must have; empty: all models.

    Raises:
        InvalidArgument: filter, order or token cannot be used.
    """
    query = select(models).where(models.c.project == project)
    if any_tags:
        tagged = select(model_tags.c.model).where(model_tags.c.project == project, _any_tag(model_tags, any_tags))
        query = query.where(models.c.model.in_(tagged))
    listing = Listing(
        _MODELS.key,
        {**_MODELS.fields, "tags": _tags_of_project(project)},
        _MODELS.orders,
        _MODELS.default_order,
    )
    page = fetch_page(conn, query, listing, request, lambda row: row)
    named = aliases_of_models(conn, project, [row.model for row in page.items])
    return Page([model_from(row, named.get(row.model, {})) for row in page.items], page.next_page_token)


def _tags_of_project(project: str) -> MapField:
    """Return the field `tags` of the models of one project: two projects may have models with equal ids."""
    own = select(model_tags).where(model_tags.c.project == project).subquery()
    # A subquery's columns are columns, though its collection is typed more widely.
    model, key, value = (cast("Column[Any]", own.c[name]) for name in ("model", "key", "value"))
    return MapField(models.c.model, model, key, value)


def list_versions(
    conn: Connection,
    project: str,
    model: str,
    request: PageRequest,
    any_tags: Sequence[tuple[str, str | None]] = (),
    statuses: Sequence[VersionStatus] = (),
) -> Page[Version]:
    """Return a page of versions.

    Args:
        conn: a connection in a transaction.
        project: its id.
        model: the model's id; "": of all models.
        request: page, filter and order.
        any_tags: key and value (None: any) of tags, one of which a version must have; empty: all.
        statuses: one of which a version must have; empty: all.

    Raises:
        InvalidArgument: filter, order or token cannot be used.
    """
    # Ids only: what is searched and sorted then fits into an index. The rows come for the page alone.
    query = select(versions.c.id).where(*_scope(conn, project, model, any_tags))
    if statuses:
        query = query.where(versions.c.status.in_([s.value for s in statuses]))
    query, listing = _versions_listing(query, request.order_by)
    page: Page[str] = fetch_page(conn, query, listing, request, lambda row: str(row.id))
    rows = _rows(conn, page.items)
    total = 0
    for count, version_id in enumerate(page.items):
        total += rows[version_id].file_count
        if count and total > MAX_FILES_PER_PAGE:
            shorter = PageRequest(count, request.page_token, request.filter, request.order_by, request.scope)
            page = fetch_page(conn, query, listing, shorter, lambda row: str(row.id))
            break
    named, files = aliases_of(conn, page.items), files_of(conn, page.items)
    items = [version_from(rows[key], named.get(key, ()), files.get(key, ())) for key in page.items]
    return Page(items, page.next_page_token)


def _rows(conn: Connection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    return {row.id: row for row in conn.execute(select(versions).where(versions.c.id.in_(ids)))}


def _scope(conn: Connection, project: str, model: str, any_tags: Sequence[tuple[str, str | None]]) -> list[Any]:
    """Return the conditions "in this project, of this model ("": any), with one of these tags (none: any)".

    They come in the form that is quick for as many versions as have the tags. Few: their ids and nothing else, or a
    planner without statistics would rather read the whole project. Many: a look at the tags of each version in the
    order of the list, which fills a page soon.
    """
    conditions: list[Any] = [versions.c.project == project]
    if model:
        conditions.append(versions.c.model == model)
    if not any_tags:
        return conditions
    ids: dict[str, None] = {}
    for tag in any_tags:
        wanted = [version_tags.c.project == project, _any_tag(version_tags, [tag])]
        if model:
            wanted.append(version_tags.c.model == model)
        few = select(version_tags.c.version).where(*wanted).limit(FEW + 1)
        ids.update(dict.fromkeys(conn.execute(few).scalars()))
        if len(ids) > FEW:
            has_one = select(version_tags.c.version).where(
                version_tags.c.version == versions.c.id, _any_tag(version_tags, any_tags)
            )
            # Not EXISTS: PostgreSQL would turn that into a join over all tags before it looks for a page's rows.
            return [*conditions, has_one.limit(1).scalar_subquery().is_not(None)]
    return [versions.c.id.in_(list(ids))]


def _versions_listing(query: Select[Any], order_by: str) -> tuple[Select[Any], Listing]:
    """Return how versions are listed, and the query with a join for every metric that `order_by` names."""
    orders = {
        "number": Scalar(versions.c.number, Kind.NUMBER),
        "create_time": Scalar(versions.c.created, Kind.TIME),
        "update_time": Scalar(versions.c.updated, Kind.TIME),
        "model": Scalar(versions.c.model),
    }
    for name in dict.fromkeys(match.group(1) for match in _METRIC.finditer(order_by)):
        metric = version_metrics.alias()
        query = query.outerjoin(metric, and_(metric.c.version == versions.c.id, metric.c.key == name))
        orders[f"metrics.{name}"] = Scalar(func.coalesce(metric.c.value, _LOWEST), Kind.NUMBER)
    return query, _listing(orders)


def _listing(orders: Mapping[str, Scalar]) -> Listing:
    return Listing(
        key=Scalar(versions.c.id),
        fields={
            "model": Scalar(versions.c.model),
            "number": Scalar(versions.c.number, Kind.NUMBER),
            "label": Scalar(versions.c.label),
            "status": Scalar(versions.c.status, choices={s.value: s.value for s in VersionStatus}),
            "framework": Scalar(versions.c.framework),
            "author": Scalar(versions.c.author),
            "description": Scalar(versions.c.description),
            "training_data_hash": Scalar(versions.c.training_data_hash),
            "create_time": Scalar(versions.c.created, Kind.TIME),
            "update_time": Scalar(versions.c.updated, Kind.TIME),
            "tags": MapField(versions.c.id, version_tags.c.version, version_tags.c.key, version_tags.c.value),
            "metrics": MapField(
                versions.c.id,
                version_metrics.c.version,
                version_metrics.c.key,
                version_metrics.c.value,
                Kind.NUMBER,
            ),
        },
        orders=orders,
        default_order="number desc",
    )


_CHANGES = Listing(
    key=Scalar(registry_changes.c.id, Kind.NUMBER),
    fields={},
    orders={"id": Scalar(registry_changes.c.id, Kind.NUMBER)},
    default_order="id desc",
)


def list_changes(conn: Connection, project: str, model: str, number: int, request: PageRequest) -> Page[Change]:
    """Return a page of the history of a model (number 0) or a version, newest first."""
    query = select(registry_changes).where(
        registry_changes.c.project == project,
        registry_changes.c.model == model,
        registry_changes.c.number == number,
    )
    return fetch_page(
        conn,
        query,
        _CHANGES,
        request,
        lambda r: Change(r.id, r.time, r.actor, r.action, r.before, r.after, r.reason),
    )


def _any_tag(table: Table, wanted: Sequence[tuple[str, str | None]]) -> Any:
    """Return the condition "is one of these tags"."""
    one = [
        table.c.key == key if value is None else and_(table.c.key == key, table.c.value == value)
        for key, value in wanted
    ]
    return or_(*one)
