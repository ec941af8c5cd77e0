"""The filter grammar: what it takes, and what its refusals say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.storage.filters import (
    All,
    AnyOf,
    Comparison,
    Filter,
    Not,
    Operator,
    parse,
)


def compare(field: str, operator: Operator, *values: str | float | bool, column: int = 1) -> Comparison:
    return Comparison(tuple(field.split(".")), operator, values, column)


def test_the_documented_example_parses_as_documented() -> None:
    text = 'status IN ("staging", "production") AND tags.team = "risk" AND metrics.auc > 0.9'
    assert parse(text) == All(
        (
            compare("status", Operator.IN, "staging", "production"),
            compare("tags.team", Operator.EQUAL, "risk", column=41),
            compare("metrics.auc", Operator.GREATER, 0.9, column=64),
        )
    )


def test_an_empty_filter_is_no_filter() -> None:
    assert parse("") is None
    assert parse(" \n\t ") is None


def test_and_binds_closer_than_or_and_not_closest() -> None:
    tree = parse("a = 1 OR NOT b = 2 AND c = 3")
    assert tree == AnyOf(
        (
            compare("a", Operator.EQUAL, 1),
            All((Not(compare("b", Operator.EQUAL, 2, column=14)), compare("c", Operator.EQUAL, 3, column=24))),
        )
    )
    assert parse("(a = 1 OR b = 2) AND c = 3") == All(
        (
            AnyOf((compare("a", Operator.EQUAL, 1, column=2), compare("b", Operator.EQUAL, 2, column=11))),
            compare("c", Operator.EQUAL, 3, column=22),
        )
    )


def test_quotes_keep_keys_and_texts_whole() -> None:
    assert parse(r'tags."my.key \"x\"" : "a\\b"') == Comparison(
        ("tags", 'my.key "x"'), Operator.BEGINS_OR_HAS, ("a\\b",), 1
    )
    assert parse('tags.not = "x"') == compare("tags.not", Operator.EQUAL, "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-7", -7), ("0.5", 0.5), (".5", 0.5), ("1e3", 1000.0), ("true", True), ("FALSE", False)],
)
def test_values_have_the_type_that_they_look_like(text: str, value: object) -> None:
    tree = parse(f"x = {text}")
    assert isinstance(tree, Comparison)
    assert tree.values == (value,) and type(tree.values[0]) is type(value)


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("name", "expected one of = != < <= > >= : IN, found the end", 5),
        ("name =", "expected a value: text in double quotes, a number, true or false, found the end", 7),
        ("name = staging", "found staging", 8),
        ('name = "x', "no closing quote", 8),
        ('name = "x" name', "expected AND, OR or the end, found name", 12),
        ("= 3", "expected a field, found =", 1),
        ("a = 1 AND", "expected a field, found the end", 10),
        ("(a = 1", 'expected AND, OR or ")", found the end', 7),
        ("a = 1)", "expected AND, OR or the end, found )", 6),
        ("a IN 3", 'expected "(", found 3', 6),
        ("a IN ()", "expected a value", 7),
        ("a IN (1 2)", 'expected "," or ")", found 2', 9),
        ("a NOT = 1", "expected IN, found =", 7),
        ("a. = 1", "expected a key after the dot", 4),
        ("a = 1; DROP TABLE models", "';' means nothing here", 6),
        ("a = 'x'", '"\'" means nothing here', 5),
        ("a = 1e999", "too large", 5),
        ("a = 12abc", "'1' means nothing here", 5),
    ],
)
def test_a_refusal_names_the_problem_and_its_column(text: str, message: str, column: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text)
    (violation,) = refused.value.violations
    assert violation.field == "filter"
    assert message in violation.description
    assert violation.description.endswith(f"(column {column})")


def test_size_depth_and_number_are_limited() -> None:
    for text, message in [
        ("a = 1 AND " * 500 + "a = 1", "at most 4096"),
        ("(" * 30 + "a = 1" + ")" * 30, "nested"),
        ("NOT " * 30 + "a = 1", "nested"),
        (" OR ".join(["a = 1"] * 101), "more than 100 comparisons"),
        (f"a IN ({','.join(['1'] * 102)})", "more than 100 values"),
    ]:
        with pytest.raises(InvalidArgument, match=message):
            parse(text)


def write(tree: Filter) -> str:
    """Return a filter's text: the grammar from the other side."""

    def value(v: str | float | bool) -> str:
        if isinstance(v, bool):
            return "true" if v else "false"
        return '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(v, str) else repr(v)

    match tree:
        case All(inner):
            return " AND ".join(f"({write(i)})" for i in inner)
        case AnyOf(inner):
            return " OR ".join(f"({write(i)})" for i in inner)
        case Not(inner):
            return f"NOT ({write(inner)})"
        case Comparison(field, operator, values, _):
            name = ".".join([field[0], *(value(f) for f in field[1:])])
            if operator is Operator.IN:
                return f"{name} IN ({', '.join(map(value, values))})"
            return f"{name} {operator.value} {value(values[0])}"


def without_columns(tree: Filter) -> Filter:
    match tree:
        case All(inner):
            return All(tuple(map(without_columns, inner)))
        case AnyOf(inner):
            return AnyOf(tuple(map(without_columns, inner)))
        case Not(inner):
            return Not(without_columns(inner))
        case Comparison(field, operator, values, _):
            return Comparison(field, operator, values, 0)


words = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True).filter(
    lambda w: w.upper() not in {"AND", "OR", "NOT", "IN", "TRUE", "FALSE"}
)
numbers = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
values = st.text(max_size=8) | numbers | st.booleans()
comparisons = st.builds(
    lambda word, keys, operator, many: Comparison(
        (word, *keys), operator, tuple(many) if operator is Operator.IN else (many[0],), 0
    ),
    words,
    st.lists(st.text(max_size=5), max_size=2),
    st.sampled_from(Operator),
    st.lists(values, min_size=1, max_size=3),
)
trees: st.SearchStrategy[Filter] = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(lambda parts: All(tuple(parts)), st.lists(inner, min_size=2, max_size=3))
        | st.builds(lambda parts: AnyOf(tuple(parts)), st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=8,
)


@given(trees)
def test_every_tree_survives_writing_and_parsing(tree: Filter) -> None:
    parsed = parse(write(tree))
    assert parsed is not None
    assert without_columns(parsed) == tree


@given(st.text(max_size=60) | st.text('ab.=<>!:()" \\,0e-ANDORINTtrue', max_size=40))
def test_any_text_is_parsed_or_refused_and_never_crashes(text: str) -> None:
    try:
        parse(text)
    except InvalidArgument as refused:
        assert "(column " in refused.message
