"""The tap's books: exact, readable from outside, closed once and by the right one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilotfish_sidecar.tap.counters import (
    DROPPED,
    SERVED,
    Closed,
    Counters,
    close_books,
    find_books,
    process_start,
    read_books,
)
from pilotfish_sidecar.tap.records import DropReason, TapIdentity

ME = TapIdentity("d", "r", "7")
CHILD = """
import os, sys, signal
from pathlib import Path
from pilotfish_sidecar.tap.counters import *
from pilotfish_sidecar.tap.counters import CAPTURED, DROPPED, SERVED, TOLD
from pilotfish_sidecar.tap.records import DropReason, TapIdentity
books = Counters.create(Path(sys.argv[1]), TapIdentity("d", "r", "7"), started_us=int(sys.argv[2]))
books.slots[SERVED] = 100
books.slots[CAPTURED] = 60
books.slots[DROPPED + DropReason.TOO_LARGE] = 3
books.slots[TOLD + DropReason.STRIPPED] = 5
print("counted", flush=True)
if sys.argv[3] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def child(path, started_us, what):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(started_us), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "counted\n"
    if what == "die":
        process.wait(10)
    return process


def end(process):
    process.communicate(timeout=10)


def test_what_was_counted_is_read_back_from_the_file(tmp_path):
    counters = Counters.create(tmp_path / "c", ME, started_us=5)
    counters.slots[SERVED] = 7
    counters.slots[DROPPED + DropReason.QUEUE_FULL] = 2
    books = read_books(tmp_path / "c")
    assert (books.served, books.captured, books.dropped[DropReason.QUEUE_FULL], books.in_flight) == (7, 0, 2, 5)
    assert (books.identity, books.incarnation, books.pid) == (ME, counters.incarnation, os.getpid())
    assert books.closed is Closed.OPEN and books.owner_alive


def test_counts_survive_kill_9_and_the_agent_books_the_rest_as_crash_once(tmp_path):
    path = tmp_path / "c"
    child(path, 1, "die")
    assert not read_books(path).owner_alive
    closed = close_books(path, captured=64)  # 4 acknowledgements were on their way
    assert (closed.served, closed.captured, closed.dropped[DropReason.CRASH], closed.in_flight) == (100, 64, 28, 0)
    assert closed.closed is Closed.BY_AGENT
    assert close_books(path, captured=90) == closed


def test_drops_whose_records_the_agent_stored_are_made_good_like_captured_calls(tmp_path):
    path = tmp_path / "c"
    child(path, 1, "die")
    closed = close_books(path, captured=64, told={DropReason.STRIPPED: 9})
    assert (closed.told[DropReason.STRIPPED], closed.dropped[DropReason.STRIPPED]) == (9, 9)
    assert (closed.dropped[DropReason.CRASH], closed.in_flight) == (24, 0)


def test_another_process_counts_beside_the_owner_until_the_books_are_closed(tmp_path):
    path = tmp_path / "c"
    process = child(path, 1, "live")
    beside = Counters.open(path)
    beside.slots[SERVED] += 11
    assert (beside.pid, beside.closed, read_books(path).served) == (process.pid, False, 111)
    end(process)
    close_books(path, captured=60)
    assert beside.closed
    with pytest.raises(ValueError):
        Counters.open(Path(__file__))


def test_an_agent_that_claims_more_than_was_served_cannot_unbalance_the_books(tmp_path):
    path = tmp_path / "c"
    child(path, 1, "die")
    closed = close_books(path, captured=10**9)
    assert (closed.captured, closed.dropped[DropReason.CRASH], closed.in_flight) == (92, 0, 0)


def test_the_books_of_a_living_process_cannot_be_closed(tmp_path):
    path = tmp_path / "c"
    process = child(path, 1, "live")
    with pytest.raises(ValueError, match="still runs"):
        close_books(path, captured=0)
    end(process)


def test_a_restarted_server_does_not_overwrite_books_that_are_still_open(tmp_path):
    path = tmp_path / "c"
    child(path, 1, "die")
    old = read_books(path)
    child(path, 2, "die")
    found = find_books(path)
    assert [books.started_us for books in found] == [1, 2]
    assert found[0].incarnation == old.incarnation and found[0].path != path and found[1].path == path


def test_closed_books_are_replaced(tmp_path):
    path = tmp_path / "c"
    child(path, 1, "die")
    close_books(path, captured=0)
    child(path, 2, "die")
    assert [books.started_us for books in find_books(path)] == [2]


def test_a_second_living_process_counts_beside_the_first(tmp_path):
    path = tmp_path / "c"
    first = child(path, 1, "live")
    second = child(path, 2, "live")
    found = find_books(path)
    assert [books.pid for books in found] == [first.pid, second.pid]
    assert found[0].path == path and found[1].path.name == f"c.{second.pid}"
    end(first)
    end(second)


@pytest.mark.parametrize(
    "junk", [b"", b"x" * 4096, b"PFTAPCN1" + b"\xff" * 4088, b"PFTAPCN1\x01\0\0\0" + b"\xff" * 4084]
)
def test_a_file_that_is_no_counters_file_is_named_as_such_and_replaced(tmp_path, junk):
    path = tmp_path / "c"
    path.write_bytes(junk)
    with pytest.raises(ValueError):
        read_books(path)
    assert find_books(path) == []
    Counters.create(path, ME, started_us=1)
    assert read_books(path).served == 0


def test_a_directory_that_does_not_exist_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        Counters.create(tmp_path / "no" / "c", ME, started_us=1)


def test_the_start_of_a_process_tells_a_reused_pid_apart():
    assert process_start(os.getpid()) > 0
    assert process_start(2**22 + 5) == 0
