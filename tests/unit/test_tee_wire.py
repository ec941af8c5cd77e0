"""What the relay tells the decoder comes back as it was, and strange bytes are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish_sidecar.relay.tee_wire import (
    MAX_PIECE_BYTES,
    PIECE,
    HelloReader,
    Piece,
    PieceReader,
    TeeError,
    encode_hello,
)

pieces = st.builds(
    Piece,
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(0, 0xFFFF),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=60),
)


def encode(piece: Piece) -> bytes:
    kind, direction, listener, connection, time_us, payload = piece
    return PIECE.pack(kind, direction, listener, connection, len(payload), time_us) + payload


@given(st.lists(pieces, max_size=8), st.integers(1, 50))
def test_pieces_come_back_as_they_were_however_the_stream_is_cut(sent, cut):
    stream = b"".join(map(encode, sent))
    reader = PieceReader()
    assert [p for at in range(0, len(stream), cut) for p in reader.feed(stream[at : at + cut])] == sent


@given(st.text(max_size=50), st.integers(1, 20))
def test_the_hello_comes_back_as_it_was(path, cut):
    with contextlib.suppress(UnicodeEncodeError):
        frame = encode_hello(path)
        reader = HelloReader()
        answers = [reader.feed(frame[at : at + cut]) for at in range(0, len(frame), cut)]
        assert answers[:-1] == [None] * (len(answers) - 1) and answers[-1] == path


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n", b"PFTEE\x02\0\0", encode_hello("/a") + b"x", b"PFTEE\x01\1\0\xff"]
)
def test_something_else_than_a_hello_is_refused(noise):
    with pytest.raises(TeeError):
        HelloReader().feed(noise)


def test_a_piece_that_promises_too_much_is_refused_before_its_bytes_are_stored():
    for head in (
        PIECE.pack(1, 0, 0, 1, MAX_PIECE_BYTES + 1, 0),
        PIECE.pack(4, 0, 0, 1, 0, 0),
        PIECE.pack(1, 2, 0, 1, 0, 0),
    ):
        with pytest.raises(TeeError):
            list(PieceReader().feed(head))
