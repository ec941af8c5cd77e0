"""The agent's end: stores before it acknowledges, stores once, and lets nobody hurt it."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from pilotfish.errors import FailedPrecondition, InvalidArgument
from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tap.records import TapIdentity
from pilotfish_sidecar.tap.wire import Ack, FrameReader, Hello, encode_ack, encode_batch, encode_entry, encode_hello

ME = TapIdentity("d", "r", "7")
RUN = b"A" * 16


class Client:
    """A tap by hand."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.frames, self.acks = reader, writer, FrameReader(), []

    @classmethod
    async def connect(cls, path, run=RUN, first_seq=0):
        self = cls(*await asyncio.open_unix_connection(path))
        self.writer.write(encode_hello(Hello(run, first_seq, os.getpid(), 1, ME, "/counters")))
        return self

    def batch(self, first_seq, count, run=RUN):
        rows = [
            encode_entry((0, 0, ME, 0, 1, 2, "/m", str(first_seq + i), (), b"q", b"a", 0, 255, -1), 0)
            for i in range(count)
        ]
        self.writer.write(encode_batch(run, first_seq, [ME], rows))

    async def ack(self):
        while not self.acks:
            chunk = await asyncio.wait_for(self.reader.read(65536), 5)
            if not chunk:
                return None
            self.acks += [message.next_seq for message in self.frames.feed(chunk)]
        return self.acks.pop(0)

    async def closed(self):
        while await asyncio.wait_for(self.reader.read(65536), 5):
            pass
        return True


class Store:
    """An agent's spool in memory."""

    def __init__(self):
        self.seqs, self.fail, self.gate = [], False, None

    async def __call__(self, records):
        if self.gate is not None:
            await self.gate.wait()
        if self.fail:
            raise OSError("disk full")
        self.seqs += [record.seq for record in records]


@pytest.fixture
async def running(tmp_path):
    store = Store()
    receiver = TapReceiver(tmp_path / "tap.sock", store)
    await receiver.start()
    yield receiver, store
    await receiver.close()


async def test_a_batch_is_acknowledged_only_after_it_is_stored(running):
    receiver, store = running
    store.gate = asyncio.Event()
    client = await Client.connect(receiver.path)
    assert await client.ack() == 0
    client.batch(0, 3)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.read(1), 0.1)
    store.gate.set()
    assert await client.ack() == 3
    assert store.seqs == [0, 1, 2]


async def test_a_batch_sent_again_on_a_new_connection_is_stored_once(running):
    receiver, store = running
    first = await Client.connect(receiver.path)
    first.batch(0, 3)
    assert [await first.ack(), await first.ack()] == [0, 3]
    second = await Client.connect(receiver.path)
    second.batch(0, 3)
    second.batch(3, 2)
    while await second.ack() != 5:
        pass
    assert store.seqs == [0, 1, 2, 3, 4]
    assert receiver.stats.duplicates == 3


async def test_a_batch_sent_again_while_the_first_copy_is_being_stored_is_stored_once(running):
    receiver, store = running
    store.gate = asyncio.Event()
    first = await Client.connect(receiver.path)
    first.batch(0, 3)
    await first.ack()
    await asyncio.sleep(0.05)
    first.writer.close()
    second = await Client.connect(receiver.path)
    second.batch(0, 4)
    await asyncio.sleep(0.05)
    store.gate.set()
    while await second.ack() != 4:
        pass
    assert store.seqs == [0, 1, 2, 3]


async def test_a_restarted_agent_with_recovered_watermarks_stores_only_what_is_new(tmp_path):
    store = Store()
    receiver = TapReceiver(tmp_path / "s", store, watermarks={RUN: 5})
    await receiver.start()
    client = await Client.connect(receiver.path)
    assert await client.ack() == 5
    client.batch(3, 4)
    assert await client.ack() == 7
    assert store.seqs == [5, 6]
    await receiver.close()


async def test_an_agent_that_lost_its_store_goes_on_where_the_tap_is(running):
    receiver, _ = running
    client = await Client.connect(receiver.path, first_seq=100)
    assert await client.ack() == 100
    client.batch(100, 1)
    assert await client.ack() == 101
    assert receiver.stats.gaps == 0
    client.batch(110, 1)
    assert await client.ack() == 111
    assert receiver.stats.gaps == 1


async def test_a_batch_that_cannot_be_stored_is_not_acknowledged_and_comes_again(running):
    receiver, store = running
    store.fail = True
    client = await Client.connect(receiver.path)
    await client.ack()
    client.batch(0, 2)
    assert await client.closed()
    assert receiver.stats.failed == 1 and receiver.watermark(RUN) == 0
    store.fail = False
    again = await Client.connect(receiver.path)
    again.batch(0, 2)
    while await again.ack() != 2:
        pass
    assert store.seqs == [0, 1]


@pytest.mark.parametrize(
    "noise",
    [
        os.urandom(4096),
        b"GET / HTTP/1.1\r\n\r\n",
        encode_ack(Ack(RUN, 5)),
        encode_batch(RUN, 0, [], []),
        encode_hello(Hello(RUN, 0, 1, 1, ME, "")) + encode_hello(Hello(RUN, 0, 1, 1, ME, "")),
        encode_hello(Hello(RUN, 0, 1, 1, ME, "")) + encode_batch(b"B" * 16, 0, [], []),
    ],
)
async def test_hostile_bytes_end_their_connection_and_no_other(running, noise):
    receiver, store = running
    good = await Client.connect(receiver.path, run=b"G" * 16)
    await good.ack()
    reader, writer = await asyncio.open_unix_connection(receiver.path)
    writer.write(noise)
    while await asyncio.wait_for(reader.read(65536), 5):
        pass
    assert receiver.stats.refused == 1
    good.batch(0, 1, run=b"G" * 16)
    assert await good.ack() == 1
    assert store.seqs == [0]


async def test_only_the_owner_may_open_the_socket(running):
    receiver, _ = running
    assert stat.S_IMODE(receiver.path.stat().st_mode) == 0o600


async def test_a_stale_socket_is_replaced_and_a_living_one_is_refused(tmp_path):
    path = tmp_path / "s"
    first = TapReceiver(path, Store())
    await first.start()
    second = TapReceiver(path, Store())
    with pytest.raises(FailedPrecondition, match="another agent"):
        await second.start()
    first._server.close()  # as if killed: the file stays
    await asyncio.sleep(0)
    await second.start()
    assert await (await Client.connect(path)).ack() == 0
    await second.close()
    assert not path.exists()


async def test_a_file_in_the_socket_s_place_is_not_removed(tmp_path):
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(FailedPrecondition, match="no socket"):
        await TapReceiver(path, Store()).start()
    assert path.read_text() == "mine"


async def test_a_path_too_long_for_a_socket_says_so(tmp_path):
    with pytest.raises(InvalidArgument, match="107"):
        await TapReceiver(tmp_path / ("x" * 120), Store()).start()


async def test_sessions_tell_who_taps_and_where_the_books_are(running):
    receiver, _ = running
    client = await Client.connect(receiver.path)
    await client.ack()
    (session,) = receiver.sessions()
    assert (session.identity, session.pid, session.counters_path) == (ME, os.getpid(), "/counters")
    assert session.connections == 1
    client.writer.close()
    await asyncio.sleep(0.05)
    assert session.connections == 0
    receiver.forget(RUN)
    assert receiver.sessions() == []
