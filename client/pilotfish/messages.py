"""Requests from plain values: dicts in the contract's own names become messages, with friendly enums.

`{"stage": "canary", "criteria": [{"metric": "accuracy", "comparison": ">=", "bound": 0.9}]}` is read as the contract
means it. Owns the conversion; an unknown field or word is refused with its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.errors import InvalidArgument, Violation

__all__ = ["build", "enum_text", "enum_value", "plain", "timestamp"]

M = TypeVar("M", bound=Message)

SYMBOLS = {
    "<": "COMPARISON_LESS_THAN",
    "<=": "COMPARISON_LESS_THAN_OR_EQUAL",
    ">": "COMPARISON_GREATER_THAN",
    ">=": "COMPARISON_GREATER_THAN_OR_EQUAL",
}


def timestamp(at: datetime | None) -> Timestamp | None:
    """Return a time as protobuf has it; None stays unset, a time without zone counts as UTC."""
    if at is None:
        return None
    found = Timestamp()
    found.FromDatetime(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    return found


def enum_value(kind: EnumDescriptor, word: str | int, path: str = "value") -> int:
    """Return the number of an enum's word: its full name, the name without prefix, or a symbol; "" is unset.

    Raises:
        InvalidArgument: there is no such word; the message lists them.
    """
    if isinstance(word, int):
        return word
    if not word:
        return 0
    names = {v.name: v.number for v in kind.values}
    prefix = next(n for n, number in names.items() if number == 0).removesuffix("UNSPECIFIED")
    text = SYMBOLS.get(word, word).upper().replace("-", "_")
    for candidate in (text, prefix + text):
        if candidate in names:
            return names[candidate]
    allowed = ", ".join(n.removeprefix(prefix).lower() for n, number in names.items() if number)
    raise InvalidArgument(f"{word!r} is not known", violations=[Violation(path, f"{word!r} is not one of {allowed}")])


def enum_text(kind: EnumDescriptor, number: int) -> str:
    """Return an enum's word as people write it: lower case, without prefix; empty for unset."""
    if number == 0:
        return ""
    names = {v.number: v.name for v in kind.values}
    prefix = names[0].removesuffix("UNSPECIFIED")
    return names[number].removeprefix(prefix).lower() if number in names else str(number)


# Any: plain values of any depth, here and below.
def build(cls: type[M], value: Mapping[str, Any] | M | None, path: str = "") -> M:
    """Return a message made of a mapping in the contract's names; a message is returned as it is, None is empty.

    Raises:
        InvalidArgument: an unknown field or word, or a value of the wrong kind, with its path.
    """
    if value is None:
        return cls()
    if isinstance(value, cls):
        return value
    found = cls()
    if not isinstance(value, Mapping):
        raise InvalidArgument(
            f"{path or cls.DESCRIPTOR.name} must be a mapping",
            violations=[Violation(path, f"is {type(value).__name__}")],
        )
    _fill(found, value, path or cls.DESCRIPTOR.name)
    return found


def _fill(message: Message, value: Mapping[str, Any], path: str) -> None:
    for key, item in value.items():
        field = message.DESCRIPTOR.fields_by_name.get(key)
        where = f"{path}.{key}"
        if field is None:
            allowed = ", ".join(sorted(message.DESCRIPTOR.fields_by_name))
            raise InvalidArgument(f"{where} is not known", violations=[Violation(where, f"is not one of {allowed}")])
        if item is None:
            continue
        try:
            _set(message, field, item, where)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{where} cannot be used", violations=[Violation(where, str(error))]) from error


def _set(message: Message, field: Any, item: Any, where: str) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(item, Mapping):
            raise TypeError(f"is {item!r}, and must be a mapping")
        getattr(message, field.name).update(dict(item))
    elif field.is_repeated:
        items = [item] if isinstance(item, str) or not isinstance(item, Sequence) else item
        into = getattr(message, field.name)
        for i, each in enumerate(items):
            if field.message_type is not None:
                _merge(into.add(), each, f"{where}[{i}]")
            else:
                into.append(_scalar(field, each, f"{where}[{i}]"))
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.SetInParent()
        _merge(target, item, where)
    else:
        setattr(message, field.name, _scalar(field, item, where))


def _merge(target: Message, item: Any, where: str) -> None:
    if isinstance(item, Message):
        target.MergeFrom(item)
    elif isinstance(target, Timestamp) and isinstance(item, datetime):
        target.FromDatetime(item if item.tzinfo is not None else item.replace(tzinfo=UTC))
    elif isinstance(target, Timestamp) and isinstance(item, str):
        at = datetime.fromisoformat(item)
        target.FromDatetime(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    elif not isinstance(item, Mapping):
        raise TypeError(f"is {item!r}, and must be a mapping")
    elif target.DESCRIPTOR.full_name == "google.protobuf.Struct":
        try:
            json_format.ParseDict(dict(item), target)
        except json_format.ParseError as error:
            raise ValueError(str(error)) from error
    else:
        _fill(target, item, where)


def _scalar(field: Any, item: Any, where: str) -> Any:
    if field.enum_type is not None:
        return enum_value(field.enum_type, item, where)
    return item


def plain(message: Message, *, complete: bool = False) -> dict[str, Any]:
    """Return a message as JSON in the contract's names, enums as words.

    Args:
        message: any message.
        complete: name fields that stand at their default as well: 0, "", [], {}; messages and optional fields that
            are unset are left out either way.
    """
    if not complete:
        return {field.name: _plain_field(field, value, complete) for field, value in message.ListFields()}
    found = {}
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            found[field.name] = _plain_field(field, getattr(message, field.name), complete)
    return found


def _plain_field(field: Any, value: Any, complete: bool) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {k: _plain_one(inner, v, complete) for k, v in sorted(value.items())}
    if field.is_repeated:
        return [_plain_one(field, v, complete) for v in value]
    return _plain_one(field, value, complete)


def _plain_one(field: Any, value: Any, complete: bool) -> Any:
    if field.enum_type is not None:
        return enum_text(field.enum_type, value)
    if field.message_type is None:
        return value.hex() if isinstance(value, bytes) else value
    if field.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Struct"):
        return json_format.MessageToDict(value)
    return plain(value, complete=complete)
