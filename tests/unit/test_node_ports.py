"""Ports that can be had again after a restart."""

from __future__ import annotations

import socket

from pilotfish_node import ports


def test_a_port_that_is_wanted_and_free_is_kept_and_a_taken_one_is_not() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        taken = held.getsockname()[1]
        assert not ports.is_free("127.0.0.1", taken)
        other = ports.free_port("127.0.0.1", taken)
    assert other != taken
    assert ports.free_port("127.0.0.1", other) == other


def test_a_drawn_port_is_none_that_an_outgoing_connection_may_take() -> None:
    first = ports._first_ephemeral()
    assert first > 10_000
    assert all(10_000 <= ports.free_port("127.0.0.1") < first for _ in range(100))


def test_where_the_system_tells_no_range_any_free_port_will_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(ports, "_EPHEMERAL", tmp_path / "none")
    assert ports.is_free("127.0.0.1", ports.free_port("127.0.0.1"))
