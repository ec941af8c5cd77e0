r"""The filter grammar of all list calls: text to a tree.

Owns the grammar, its limits and its error messages. It knows no column: `storage.filter_sql` turns the tree
into a condition with bound parameters.

    filter      = [ any ]
    any         = all { OR all }
    all         = one { AND one }
    one         = [ NOT ] ( comparison | "(" any ")" )
    comparison  = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | ":" ) value
                | field [ NOT ] IN "(" value { "," value } ")"
    field       = word { "." ( word | text ) }
    value       = text | number | true | false

Text stands in double quotes, with \" and \\ inside. AND, OR, NOT, IN, true and false may be written in any case.
`name : "pre"`: the text begins with "pre". `tags : "team"`: the map has that key. `tags.team != "risk"` holds only
where the key is set; `NOT tags.team = "risk"` also where it is not. Times are text in RFC 3339.

    status IN ("staging", "production") AND tags.team = "risk" AND metrics.auc > 0.9
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NoReturn

from pilotfish.errors import InvalidArgument, Violation

__all__ = ["All", "AnyOf", "Comparison", "Filter", "Not", "Operator", "Value", "parse", "refuse"]

MAX_CHARS = 4096
MAX_COMPARISONS = 100
MAX_DEPTH = 20

Value = str | float | int | bool


class Operator(enum.StrEnum):
    """How a field is compared."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    BEGINS_OR_HAS = ":"
    IN = "IN"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison; `values` has one value but for IN; `column` is where the field begins, from 1."""

    field: tuple[str, ...]
    operator: Operator
    values: tuple[Value, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    inner: Filter


@dataclass(frozen=True, slots=True)
class All:
    """All of them."""

    inner: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of them."""

    inner: tuple[Filter, ...]


Filter = Comparison | Not | All | AnyOf

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<word>[A-Za-z_][A-Za-z0-9_-]*)
      | (?P<sign><=|>=|!=|=|<|>|:|\(|\)|,|\.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = {"AND", "OR", "NOT", "IN", "TRUE", "FALSE"}
_SIGNS = {operator.value: operator for operator in Operator if operator is not Operator.IN}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # text, number, word, sign, keyword, end
    value: str
    column: int


def refuse(problem: str, column: int, field: str = "filter") -> NoReturn:
    """Raise InvalidArgument for a filter, with the place of the problem.

    Raises:
        InvalidArgument: always.
    """
    text = f"{problem} (column {column})"
    raise InvalidArgument(
        f"the {field} cannot be used: {text}", reason="FILTER", violations=[Violation(field, text, "FILTER")]
    )


def parse(text: str) -> Filter | None:
    """Return the tree of a filter, None for an empty one.

    Raises:
        InvalidArgument: it does not follow the grammar or is too large; says at which column.
    """
    if len(text) > MAX_CHARS:
        refuse(f"it has {len(text)} characters, at most {MAX_CHARS} are allowed", MAX_CHARS)
    if not text.strip():
        return None
    parser = _Parser(_tokens(text))
    tree = parser.any_of(0)
    parser.expect_end()
    return tree


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
            if text[column - 1] == '"':
                refuse("this text has no closing quote", column)
            refuse(f"{text[column - 1]!r} means nothing here", column)
        kind, value = match.lastgroup, match.group(match.lastgroup)
        if kind == "word" and value.upper() in _KEYWORDS:
            kind = "keyword"
        tokens.append(_Token(kind, value, match.start(match.lastgroup) + 1))
        at = match.end()
    tokens.append(_Token("end", "", end + 1))
    return tokens


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._comparisons = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _accept(self, kind: str, value: str) -> bool:
        found = (
            self._next.kind == kind and (self._next.value.upper() if kind == "keyword" else self._next.value) == value
        )
        if found:
            self._take()
        return found

    def _wrong(self, expected: str) -> NoReturn:
        found = "the end" if self._next.kind == "end" else self._next.value
        refuse(f"expected {expected}, found {found}", self._next.column)

    def expect_end(self) -> None:
        if self._next.kind != "end":
            self._wrong("AND, OR or the end")

    def any_of(self, depth: int) -> Filter:
        parts = [self.all_of(depth)]
        while self._accept("keyword", "OR"):
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def all_of(self, depth: int) -> Filter:
        parts = [self.one(depth)]
        while self._accept("keyword", "AND"):
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def one(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            refuse(f"it is nested more than {MAX_DEPTH} deep", self._next.column)
        if self._accept("keyword", "NOT"):
            return Not(self.one(depth + 1))
        if self._accept("sign", "("):
            inner = self.any_of(depth + 1)
            if not self._accept("sign", ")"):
                self._wrong('AND, OR or ")"')
            return inner
        return self.comparison()

    def comparison(self) -> Filter:
        column = self._next.column
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            refuse(f"it has more than {MAX_COMPARISONS} comparisons", column)
        field = self.field()
        if self._accept("keyword", "NOT"):
            if not self._accept("keyword", "IN"):
                self._wrong("IN")
            return Not(Comparison(field, Operator.IN, self.values(), column))
        if self._accept("keyword", "IN"):
            return Comparison(field, Operator.IN, self.values(), column)
        if self._next.kind != "sign" or self._next.value not in _SIGNS:
            self._wrong("one of = != < <= > >= : IN")
        return Comparison(field, _SIGNS[self._take().value], (self.value(),), column)

    def field(self) -> tuple[str, ...]:
        if self._next.kind != "word":
            self._wrong("a field")
        parts = [self._take().value]
        while self._accept("sign", "."):
            if self._next.kind not in ("word", "text", "keyword"):
                self._wrong("a key after the dot (quote it when it is not a plain word)")
            token = self._take()
            parts.append(_unquote(token.value) if token.kind == "text" else token.value)
        return tuple(parts)

    def values(self) -> tuple[Value, ...]:
        if not self._accept("sign", "("):
            self._wrong('"("')
        found = [self.value()]
        while self._accept("sign", ","):
            found.append(self.value())
            if len(found) > MAX_COMPARISONS:
                refuse(f"IN has more than {MAX_COMPARISONS} values", self._next.column)
        if not self._accept("sign", ")"):
            self._wrong('"," or ")"')
        return tuple(found)

    def value(self) -> Value:
        token = self._next
        if token.kind == "text":
            self._take()
            return _unquote(token.value)
        if token.kind == "number":
            self._take()
            return _number(token)
        if token.kind == "keyword" and token.value.upper() in ("TRUE", "FALSE"):
            self._take()
            return token.value.upper() == "TRUE"
        self._wrong("a value: text in double quotes, a number, true or false")


def _unquote(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)


def _number(token: _Token) -> int | float:
    if re.fullmatch(r"[+-]?\d{1,18}", token.value):
        return int(token.value)
    number = float(token.value)
    if number in (float("inf"), float("-inf")):
        refuse(f"{token.value} is too large", token.column)
    return number
