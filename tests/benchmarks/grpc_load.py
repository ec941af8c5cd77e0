"""A gRPC load generator that is never the bottleneck: prepared HTTP/2 frames over plain sockets.

Run as `python grpc_load.py PORT SECONDS CONNECTIONS STREAMS BODYFILE`; prints the number of calls that were
answered with a message. It knows just enough HTTP/2 to keep a server busy with one unary method.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import time
from pathlib import Path

METHOD = b"/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header without indexing, in HPACK; both shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def header_block() -> bytes:
    """Return the headers of a call."""
    block = b"\x83\x86"  # :method POST, :scheme http
    block += b"\x04" + bytes([len(METHOD)]) + METHOD
    return (
        block
        + literal(b":authority", b"localhost")
        + literal(b"content-type", b"application/grpc")
        + literal(b"te", b"trailers")
    )


class Connection:
    """One connection that keeps `streams` calls open."""

    def __init__(self, port: int, body: bytes, streams: int) -> None:
        """Connect and start the calls."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = b"\x00" + struct.pack(">I", len(body)) + body
        self._head, self._data = header_block(), message
        self._next, self._buffer = 1, b""
        self.answered = 0
        hello = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 30))
        hello += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        self.socket.sendall(hello + b"".join(self._call() for _ in range(streams)))

    def _call(self) -> bytes:
        stream, self._next = self._next, self._next + 2
        return frame(HEADERS, 4, stream, self._head) + frame(DATA, 1, stream, self._data)

    def read(self) -> None:
        """Take what came and start a call for each that ended."""
        chunk = self.socket.recv(1 << 18)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data, position, out = self._buffer + chunk, 0, []
        while len(data) - position >= 9:
            length = int.from_bytes(data[position : position + 3], "big")
            if len(data) - position < 9 + length:
                break
            kind, flags = data[position + 3], data[position + 4]
            if kind == DATA and length:
                self.answered += 1
            elif kind == HEADERS and flags & 1:
                out.append(self._call())
            elif kind == SETTINGS and not flags & 1:
                out.append(frame(SETTINGS, 1, 0, b""))
            elif kind == PING and not flags & 1:
                out.append(frame(PING, 1, 0, data[position + 9 : position + 17]))
            elif kind == GOAWAY:
                raise ConnectionError("the server sent GOAWAY")
            position += 9 + length
        self._buffer = data[position:]
        if out:
            self.socket.sendall(b"".join(out))


def load(port: int, seconds: float, connections: int, streams: int, body: bytes) -> int:
    """Return how many calls were answered in `seconds`."""
    selector = selectors.DefaultSelector()
    lanes = [Connection(port, body, streams) for _ in range(connections)]
    for lane in lanes:
        selector.register(lane.socket, selectors.EVENT_READ, lane)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(0.05):
            key.data.read()
    for lane in lanes:
        lane.socket.close()
    return sum(lane.answered for lane in lanes)


if __name__ == "__main__":
    port, seconds, connections, streams, file = sys.argv[1:6]
    sys.stdout.write(f"{load(int(port), float(seconds), int(connections), int(streams), Path(file).read_bytes())}\n")
