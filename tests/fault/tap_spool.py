"""An agent's process for the fault tests: stores each record as a line, durable before the acknowledgement.

Run as `python tap_spool.py SOCKET FILE`; prints "ready"; with /dev/null nothing is stored. On start it
recovers the watermarks from its file, and cuts off a last line that a kill left unfinished.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from pilotfish_sidecar.tap.receiver import TapReceiver
from pilotfish_sidecar.tap.records import TapRecord


def stored(path: Path) -> list[tuple[bytes, int, str]]:
    """Return (incarnation, seq, prediction id) of every whole line."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    fields = [line.split(b" ") for line in lines]
    return [(bytes.fromhex(run.decode()), int(seq), ident.decode()) for run, seq, ident in fields]


async def main(socket: Path, path: Path) -> None:
    """Serve until killed."""
    raw = path.read_bytes() if path.exists() else b""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    keep = str(path) != os.devnull
    if keep:
        os.ftruncate(file, raw.rfind(b"\n") + 1)
    watermarks: dict[bytes, int] = {}
    for run, seq, _ in stored(path):
        watermarks[run] = max(watermarks.get(run, 0), seq + 1)

    async def store(records: list[TapRecord]) -> None:
        if not keep:
            return
        lines = (f"{one.incarnation.hex()} {one.seq} {one.prediction_id}\n" for one in records)
        os.write(file, "".join(lines).encode())
        await asyncio.to_thread(os.fsync, file)

    receiver = TapReceiver(socket, store, watermarks=watermarks)
    await receiver.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
