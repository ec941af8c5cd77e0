"""JSON calls of a service of one's own become rows, found by pointers; nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish_sidecar.decode import (
    Decoded,
    DecodeSignature,
    JsonPointers,
    Reason,
    TensorError,
    Undecodable,
    decode_json,
    parse_pointer,
)
from pilotfish_sidecar.decode.json_calls import resolve

# The table of RFC 6901, section 5.
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/e^f", 3),
        ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
    ],
)  # fmt: skip
def test_pointers_lead_where_the_rfc_says(pointer: str, value: Any) -> None:
    assert resolve(DOCUMENT, parse_pointer(pointer)) == value


def test_an_escaped_tilde_before_a_one_is_no_slash() -> None:
    assert parse_pointer("/~01") == ("~1",)


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/00", "/foo/-", "/foo/-1", "/foo/\u0661", "/nope", "/foo/0/x"])
def test_a_pointer_that_leads_nowhere_says_so(pointer: str) -> None:
    with pytest.raises(TensorError) as caught:
        resolve(DOCUMENT, parse_pointer(pointer))
    assert caught.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("text", ["foo", "/a~", "/a~2"])
def test_what_is_no_pointer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|has a ~"):
        parse_pointer(text)


def call(asked: Any, answered: Any, inputs: str = "", outputs: str = "", ident: str = "") -> Decoded | Undecodable:
    pointers = JsonPointers(parse_pointer(inputs), parse_pointer(outputs), parse_pointer(ident) or None)
    return decode_json(json.dumps(asked).encode(), json.dumps(answered).encode(), pointers)


def rows(result: Decoded | Undecodable) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    assert isinstance(result, Decoded), result
    inputs = {name: values.tolist() for name, values in result.inputs.items()}
    return inputs, {name: values.tolist() for name, values in result.outputs.items()}


def test_every_form_of_inputs_is_read() -> None:
    assert rows(call({"data": {"a": 1, "b": "x"}}, 5, "/data")) == ({"a": [1], "b": ["x"]}, {"prediction": [5]})
    assert rows(call([{"a": 1}, {"a": 2}], [5, 6])) == ({"a": [1, 2]}, {"prediction": [5, 6]})
    assert rows(call([1, 2], {"p": 5})) == ({"input_0": [1], "input_1": [2]}, {"p": [5]})
    assert rows(call([[1, 2], [3, 4]], [[5], [6]])) == ({"input_0": [1, 3], "input_1": [2, 4]}, {"prediction": [5, 6]})


def test_outputs_of_one_row_may_be_a_list_of_its_columns() -> None:
    assert rows(call({"a": 1}, [0.25, 0.75]))[1] == {"prediction_0": [0.25], "prediction_1": [0.75]}


def test_the_id_is_taken_from_the_request_or_else_the_response_and_is_no_feature() -> None:
    asked = call({"id": "p1", "a": 1}, {"score": 2}, ident="/id")
    assert isinstance(asked, Decoded) and asked.id == "p1" and rows(asked) == ({"a": [1]}, {"score": [2]})
    answered = call({"a": 1}, {"id": 17, "score": 2}, ident="/id")
    assert isinstance(answered, Decoded) and answered.id == "17" and rows(answered)[1] == {"score": [2]}


def test_features_are_named_by_the_signature() -> None:
    signature = DecodeSignature(("x",), ("age", "income"))
    result = decode_json(b"[[1, 2]]", b"[1]", JsonPointers(), signature)
    assert rows(result)[0] == {"age": [1], "income": [2]}


def test_a_member_that_is_no_value_is_left_out_and_the_rest_is_whole() -> None:
    result = call({"a": 1, "meta": {"b": 2}}, 3)
    assert rows(result)[0] == {"a": [1]}
    assert isinstance(result, Decoded) and result.skipped == (("meta", Reason.BAD_VALUE),)


def test_outputs_that_are_not_there_make_a_failed_call() -> None:
    result = call({"a": 1}, {"error": "no"}, outputs="/score")
    assert (
        rows(result)[1] == {} and isinstance(result, Decoded) and result.skipped == (("prediction", Reason.NOT_FOUND),)
    )
    assert rows(decode_json(b'{"a": 1}', b"Bad Gateway", JsonPointers()))[1] == {}


def test_inputs_that_are_not_there_say_so() -> None:
    result = call({"a": 1}, 1, "/data")
    assert isinstance(result, Undecodable) and result.reason is Reason.NOT_FOUND


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, json_values)
def test_any_json_never_raises(asked: Any, answered: Any) -> None:
    assert isinstance(call(asked, answered, ident="/id"), Decoded | Undecodable)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_random_bytes_never_raise(first: bytes, second: bytes) -> None:
    assert isinstance(decode_json(first, second, JsonPointers()), Decoded | Undecodable)
    assert isinstance(decode_json(b"[" * 100_000, second, JsonPointers()), Undecodable)
