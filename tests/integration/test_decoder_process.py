"""The decoder's process between a relay that replays and the agent's end of the tap: the accounts close, always."""

from __future__ import annotations

import random

from pilotfish_sidecar.relay.tee_wire import Cause
from tests.relay_world import RelayWorld, until
from tests.tee_recording import Asked, Exchange, ReplayingRelay, cut, message, pieces, served


def connection(seed: int, calls: int = 20) -> tuple[list[tuple[int, bytes]], int]:
    rng = random.Random(seed)
    exchange = Exchange()
    exchange.run([Asked(message(b"q%d" % i), message(b"a"), ident=f"{seed}-{i}") for i in range(calls)], rng)
    chunks = cut(exchange.chunks, rng, 8)
    return chunks, sum(served(chunks))


async def test_what_is_replayed_is_captured_and_a_killed_decoders_calls_are_booked() -> None:
    world = RelayWorld()
    relay = ReplayingRelay(world.directory / "tee.sock")
    try:
        await world.start_agent()
        await relay.start()
        world.start_decoder()
        await relay.greeted()
        for number in range(1, 6):
            chunks, count = connection(number)
            await relay.replay(pieces(chunks, number, cause=Cause.BY_CLIENT), count)
        await world.settle()
        assert (world.served(), world.captured(), world.dropped()) == (100, 100, {})
        assert sorted(r.headers[0][1] for r in world.records) == sorted(
            f"{s}-{i}" for s in range(1, 6) for i in range(20)
        )
        # Served, and told only in part: in the decoder's memory when it is killed.
        chunks, count = connection(9)
        await relay.replay(pieces(chunks, 9, cause=None)[: len(chunks) // 2], count)
        assert world.decoder is not None
        await world.kill(world.decoder)
        world.close_dead_books()
        assert world.served() == 120 == world.captured() + sum(world.dropped().values())
        assert set(world.dropped()) == {"crash"}
    finally:
        await relay.close()
        await world.stop()


async def test_a_relay_that_dies_leaves_closed_books_and_the_decoder_comes_back() -> None:
    world = RelayWorld()
    relay = ReplayingRelay(world.directory / "tee.sock")
    try:
        await world.start_agent()
        await relay.start()
        world.start_decoder()
        await relay.greeted()
        chunks, count = connection(1)
        await relay.replay(pieces(chunks, 1, cause=None)[:-5], count + 3)
        await relay.hang_up()
        await until(lambda: any(books.closed for books in world.books()), "the books' closing")
        assert world.served() == 23 == world.captured() + sum(world.dropped().values())
        assert world.dropped()["crash"] >= 3
        await relay.greeted()
        chunks, count = connection(2)
        await relay.replay(pieces(chunks, 1), count)
        await until(lambda: any(r.headers[0][1] == "2-0" for r in world.records), "capture after the return")
    finally:
        await relay.close()
        await world.stop()
