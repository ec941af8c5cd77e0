"""Filters to SQL conditions.

Owns which comparisons a field of each kind takes, and how each is written. Values are always bound parameters;
a field that the list call does not name is refused.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from sqlalchemy import Column, ColumnElement, and_, false, func, literal, not_, or_, select, type_coerce

from pilotfish_control_plane.storage.filters import All, AnyOf, Comparison, Filter, Not, Operator, Value, refuse
from pilotfish_control_plane.storage.types import UtcDateTime

__all__ = ["Field", "Kind", "MapField", "Scalar", "condition"]


class Kind(enum.StrEnum):
    """What a field holds."""

    TEXT = "text"
    NUMBER = "a number"
    BOOL = "true or false"
    TIME = "a time"


# Any: SQLAlchemy's expressions carry the Python type of their column.
@dataclass(frozen=True, slots=True)
class Scalar:
    """A field with one value.

    Args:
        expression: the column, or an expression over it.
        kind: what it holds.
        choices: for words from a fixed set: word on the wire -> value in the column; case does not matter.
    """

    expression: ColumnElement[Any]
    kind: Kind = Kind.TEXT
    choices: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MapField:
    """A field with keys (`tags.team`), kept as rows of another table: index that by (key, value, owner).

    Args:
        owner: the listed table's own key.
        owner_column: the other table's reference to it.
        key_column: the key.
        value_column: the value.
        kind: what the value holds.
    """

    owner: ColumnElement[Any]
    owner_column: Column[Any]
    key_column: Column[Any]
    value_column: Column[Any]
    kind: Kind = Kind.TEXT


Field = Scalar | MapField

_COMPARE: Mapping[Operator, Callable[[Any, Any], ColumnElement[bool]]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def condition(tree: Filter, fields: Mapping[str, Field]) -> ColumnElement[bool]:
    """Return the condition of a filter.

    Args:
        tree: from `filters.parse`.
        fields: what may be filtered, by the name on the wire.

    Raises:
        InvalidArgument: an unknown field, or a comparison or value that its kind does not take.
    """
    match tree:
        case All(inner):
            return and_(*(condition(part, fields) for part in inner))
        case AnyOf(inner):
            return or_(*(condition(part, fields) for part in inner))
        case Not(inner):
            # A comparison with NULL is neither true nor false; its opposite is meant to be true.
            return not_(func.coalesce(condition(inner, fields), false()))
        case Comparison():
            return _comparison(tree, fields)


def _comparison(tree: Comparison, fields: Mapping[str, Field]) -> ColumnElement[bool]:
    name, keys = tree.field[0], tree.field[1:]
    field = fields.get(name)
    if field is None:
        known = ", ".join(f"{n}.KEY" if isinstance(f, MapField) else n for n, f in sorted(fields.items()))
        refuse(f"there is no field {name}; there are {known}", tree.column)
    if isinstance(field, Scalar):
        if keys:
            refuse(f"{name} has no keys", tree.column)
        return _compare(tree, field.expression, field.kind, field.choices)
    owners = select(field.owner_column)
    if not keys:
        if tree.operator is not Operator.BEGINS_OR_HAS or not isinstance(tree.values[0], str):
            refuse(f'{name} is a map: compare {name}.KEY, or ask {name} : "KEY"', tree.column)
        return field.owner.in_(owners.where(field.key_column == tree.values[0]))
    matching = _compare(tree, field.value_column, field.kind, None)
    return field.owner.in_(owners.where(field.key_column == ".".join(keys), matching))


def _compare(
    tree: Comparison, expression: ColumnElement[Any], kind: Kind, choices: Mapping[str, Any] | None
) -> ColumnElement[bool]:
    name = ".".join(tree.field)
    if tree.operator is Operator.BEGINS_OR_HAS:
        if kind is not Kind.TEXT or choices is not None or not isinstance(tree.values[0], str):
            refuse(f"{name} : … is for text only", tree.column)
        return expression.startswith(tree.values[0], autoescape=True)
    ordered = tree.operator not in (Operator.EQUAL, Operator.NOT_EQUAL, Operator.IN)
    if ordered and (choices is not None or kind is Kind.BOOL):
        refuse(f"{name} has no order: use =, != or IN", tree.column)
    values = [_value(tree, name, value, kind, choices) for value in tree.values]
    if tree.operator is Operator.IN:
        return expression.in_(values)
    return _COMPARE[tree.operator](expression, values[0])


def _value(tree: Comparison, name: str, value: Value, kind: Kind, choices: Mapping[str, Any] | None) -> Any:
    """Return the value as its column takes it."""
    if choices is not None:
        words = {word.lower(): stored for word, stored in choices.items()}
        if not isinstance(value, str) or value.lower() not in words:
            refuse(f"{name} is one of {', '.join(sorted(choices))}, not {_shown(value)}", tree.column)
        return words[value.lower()]
    match kind:
        case Kind.TEXT:
            good = isinstance(value, str) and "\0" not in value  # PostgreSQL's text holds no NUL
        case Kind.BOOL:
            good = isinstance(value, bool)
        case Kind.NUMBER:
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
        case Kind.TIME:
            return type_coerce(literal(_time(tree, name, value), UtcDateTime), UtcDateTime)
    if not good:
        refuse(f"{name} is {kind}, not {_shown(value)}", tree.column)
    return value


def _time(tree: Comparison, name: str, value: Value) -> datetime:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else _not_a_time()
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        refuse(f'{name} is a time such as "2030-01-31T12:00:00Z", not {_shown(value)}', tree.column)


def _not_a_time() -> NoReturn:
    raise ValueError


def _shown(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
