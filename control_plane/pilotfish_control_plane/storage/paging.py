"""Pages of lists, by keyset.

Owns order, page tokens and the defaults. A page begins after the last row's keys, never at an offset, so rows
that come or go meanwhile neither repeat nor hide others. A token is opaque, and good only for the list call,
filter and order that it came from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, or_, tuple_

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_control_plane.storage.filter_sql import Field, Kind, Scalar, condition
from pilotfish_control_plane.storage.filters import parse

__all__ = ["DEFAULT_PAGE_SIZE", "MAX_PAGE_SIZE", "Listing", "Page", "PageRequest", "fetch_page"]

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a list call asks for, as on the wire.

    Args:
        page_size: largest number of items; 0: 50; more than 1000 means 1000.
        page_token: where to go on; "": the first page.
        filter: see `storage.filters`.
        order_by: `field [asc|desc], …`; "": the listing's default.
        scope: what else the list depends on, such as the parent; binds the token to it.
    """

    page_size: int = 0
    page_token: str = ""
    filter: str = ""
    order_by: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items in order; `next_page_token` is "" on the last page."""

    items: Sequence[T]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Listing:
    """How a table is listed.

    Args:
        key: a unique column that is never NULL; it decides between equals.
        fields: what may be filtered.
        orders: what may be ordered by; expressions that are never NULL.
        default_order: used when the call gives none.
    """

    key: Scalar
    fields: Mapping[str, Field]
    orders: Mapping[str, Scalar]
    default_order: str = ""


@dataclass(frozen=True, slots=True)
class _Order:
    field: Scalar
    descending: bool


def fetch_page(
    conn: Connection,
    query: Select[Any],
    listing: Listing,
    request: PageRequest,
    make: Callable[[Row[Any]], T],
) -> Page[T]:
    """Return one page of `query`, its rows turned into items by `make`.

    Args:
        conn: a connection in a transaction.
        query: what is listed, without order or limit; further columns are added to it.
        listing: how it is listed.
        request: what is asked for.
        make: a row to an item.

    Raises:
        InvalidArgument: the page size is negative, or the filter, order or token cannot be used.
    """
    size = _size(request.page_size)
    order = _parse_order(request.order_by or listing.default_order, listing)
    if (tree := parse(request.filter)) is not None:
        query = query.where(condition(tree, listing.fields))
    fingerprint = _fingerprint(request, listing)
    if request.page_token:
        query = query.where(_after(order, _read_token(request.page_token, fingerprint, order)))
    query = query.add_columns(*(o.field.expression.label(f"page_key_{i}") for i, o in enumerate(order)))
    query = query.order_by(
        *(o.field.expression.desc() if o.descending else o.field.expression.asc() for o in order)
    ).limit(size + 1)
    rows = conn.execute(query).all()
    token = ""
    if len(rows) > size:
        token = _write_token(fingerprint, [getattr(rows[size - 1], f"page_key_{i}") for i in range(len(order))])
    return Page([make(row) for row in rows[:size]], token)


def _refuse(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field} cannot be used: {problem}", violations=[Violation(field, problem)])


def _size(asked: int) -> int:
    if asked < 0:
        raise _refuse("page_size", f"{asked} is negative; give 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return min(asked or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _parse_order(text: str, listing: Listing) -> list[_Order]:
    order: list[_Order] = []
    seen: set[str] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, *direction = part.split()
        word = " ".join(direction).lower()
        if name not in listing.orders:
            raise _refuse("order_by", f"there is no order by {name}; there is {', '.join(sorted(listing.orders))}")
        if word not in ("", "asc", "desc") or name in seen:
            raise _refuse("order_by", f"{part!r} is not `field`, `field asc` or `field desc`, each field once")
        seen.add(name)
        order.append(_Order(listing.orders[name], word == "desc"))
    # The key goes the way of the last field, so that one index serves both.
    return [*order, _Order(listing.key, order[-1].descending if order else False)]


def _after(order: Sequence[_Order], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition "comes after the row with these keys"."""
    expressions = [o.field.expression for o in order]
    if len({o.descending for o in order}) == 1:
        here, there = tuple_(*expressions), tuple_(*values)
        return here < there if order[0].descending else here > there
    steps = []
    for i, o in enumerate(order):
        equal = [e == v for e, v in zip(expressions[:i], values[:i], strict=True)]
        beyond = expressions[i] < values[i] if o.descending else expressions[i] > values[i]
        steps.append(and_(*equal, beyond))
    return or_(*steps)


def _fingerprint(request: PageRequest, listing: Listing) -> str:
    parts = [request.scope, request.filter.strip(), request.order_by.strip() or listing.default_order]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _write_token(fingerprint: str, keys: Sequence[object]) -> str:
    plain = [k.isoformat() if isinstance(k, datetime) else k for k in keys]
    text = json.dumps([fingerprint, plain], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str, fingerprint: str, order: Sequence[_Order]) -> list[Any]:
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        made_for, keys = json.loads(text)
        values = [_key(o.field.kind, k) for o, k in zip(order, keys, strict=True)]
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise _refuse("page_token", "this is no token of this server: leave it empty for the first page") from None
    if made_for != fingerprint:
        raise _refuse("page_token", "it belongs to another list, filter or order: leave it empty for the first page")
    return values


def _key(kind: Kind, value: object) -> Any:
    """Return a token's key as its column takes it.

    Raises:
        ValueError: it has another type: the token was not made here.
    """
    if kind is Kind.TIME and isinstance(value, str):
        time = datetime.fromisoformat(value)
        if time.tzinfo is not None:
            return time
        raise ValueError
    good = {
        Kind.TEXT: isinstance(value, str) and "\0" not in value,
        Kind.BOOL: isinstance(value, bool),
        Kind.NUMBER: isinstance(value, float) or (type(value) is int and abs(value) < 2**63),
        Kind.TIME: False,
    }
    if not good[kind]:
        raise ValueError
    return value
