"""The frames between tap and agent: they come back whole, and nothing else gets through."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish_sidecar.tap.records import Protocol, Role, TapIdentity
from pilotfish_sidecar.tap.wire import (
    MAX_BATCH_RECORDS,
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    Ack,
    Batch,
    FrameReader,
    Hello,
    WireError,
    encode_ack,
    encode_batch,
    encode_entry,
    encode_hello,
)

RUN = bytes(range(16))
ME = TapIdentity("projects/default/endpoints/e/deployments/d", "r1", "7")
texts = st.text(max_size=40)
entries = st.tuples(
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1, 2]),
    st.just(ME),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**32 - 1),
    texts,
    texts,
    st.lists(st.tuples(texts, texts), max_size=4).map(tuple),
    st.binary(max_size=300),
    st.binary(max_size=300),
    st.integers(0, 3),
    st.sampled_from([255, *range(11)]),
    st.integers(-1, 2**31 - 1),
)


def batch_frame(*rows, first_seq=0):
    return encode_batch(RUN, first_seq, [ME], [encode_entry(row, 0) for row in rows])


def row(request=b"req", response=b"res"):
    return (0, 0, ME, 0, 1, 2, "/m", "id", (("x-request-id", "a"),), request, response, 0, 255, -1)


@given(st.lists(entries, max_size=5), st.integers(0, 2**40), st.integers(1, 97))
def test_records_come_back_as_they_were_however_the_stream_is_cut(rows, first_seq, cut):
    frame = (
        encode_hello(Hello(RUN, 3, 4, 5, ME, "/c")) + batch_frame(*rows, first_seq=first_seq) + encode_ack(Ack(RUN, 9))
    )
    reader = FrameReader()
    got = [message for at in range(0, len(frame), cut) for message in reader.feed(frame[at : at + cut])]
    hello, batch, ack = got
    assert hello == Hello(RUN, 3, 4, 5, ME, "/c")
    assert ack == Ack(RUN, 9)
    assert isinstance(batch, Batch) and batch.first_seq == first_seq
    assert [record.seq for record in batch.records] == list(range(first_seq, first_seq + len(rows)))
    for record, sent in zip(batch.records, rows, strict=True):
        back = (record.protocol, record.role, record.identity, record.code, record.start_us, record.latency_us)
        rest = (record.method, record.prediction_id, record.headers, record.request, record.response)
        cleaned = tuple((k.encode(errors="replace").decode(), v.encode(errors="replace").decode()) for k, v in sent[8])
        assert back == sent[:6]
        assert rest == (*(t.encode(errors="replace").decode() for t in sent[6:8]), cleaned, *sent[9:11])
        drop = 255 if record.drop is None else record.drop
        assert (record.flags, drop, record.server_us) == sent[11:]
        assert isinstance(record.protocol, Protocol) and isinstance(record.role, Role)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused_or_waited_for_but_raise_nothing_else(noise):
    with contextlib.suppress(WireError):
        FrameReader().feed(noise)


@settings(max_examples=300)
@given(st.data())
def test_a_frame_with_a_right_checksum_and_wrong_contents_raises_nothing_but_wire_errors(data):
    payload = bytearray(batch_frame(row(), row(b"", b""))[12:])
    for _ in range(data.draw(st.integers(1, 6))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    kind = data.draw(st.sampled_from([1, 2, 3, 4, 255]))
    tail = struct.pack("<BBH", 2, kind, 0)
    head = struct.pack("<II", len(payload), zlib.crc32(bytes(payload), zlib.crc32(tail)))
    with contextlib.suppress(WireError):
        FrameReader().feed(head + tail + bytes(payload))


@pytest.mark.parametrize("position", [0, 4, 8, 9, 10, 12, 30, -1])
def test_one_flipped_bit_anywhere_is_noticed(position):
    frame = bytearray(batch_frame(row()))
    frame[position] ^= 0x10
    reader = FrameReader()
    if position == 0:
        frame += bytes(16)  # the length grew by 16
    with pytest.raises(WireError):
        reader.feed(bytes(frame))


def test_a_frame_that_promises_too_much_is_refused_before_its_bytes_are_stored():
    head = struct.pack("<IIBBH", MAX_FRAME_BYTES + 1, 0, 2, 2, 0)
    with pytest.raises(WireError, match="not of this protocol"):
        FrameReader().feed(head)


def test_a_batch_that_promises_more_records_than_it_has_bytes_is_refused_without_making_them():
    for count in (2, MAX_BATCH_RECORDS, MAX_BATCH_RECORDS + 1, 2**32 - 1):
        payload = RUN + struct.pack("<QIB", 0, count, 0)
        tail = struct.pack("<BBH", 2, 2, 0)
        head = struct.pack("<II", len(payload), zlib.crc32(payload, zlib.crc32(tail)))
        with pytest.raises(WireError):
            FrameReader().feed(head + tail + payload)


def test_a_body_at_the_limit_is_encoded_and_one_byte_more_is_refused():
    FrameReader().feed(batch_frame(row(request=bytes(MAX_BODY_BYTES))))
    with pytest.raises(WireError):
        encode_entry(row(request=bytes(MAX_BODY_BYTES + 1)), 0)


def test_a_batch_of_more_records_than_the_limit_is_refused_whole():
    FrameReader().feed(batch_frame(*[row()] * MAX_BATCH_RECORDS))
    with pytest.raises(WireError, match="4097 records"):
        FrameReader().feed(batch_frame(*[row()] * (MAX_BATCH_RECORDS + 1)))
