"""The bytes of uploads on disk: `uploads/{id}/{position}`, resumable, durable before they are acknowledged.

Owns those files. Which of their bytes are durable is told by rows (`storage.artifacts`): a file may be longer than
its row says, and what is beyond is written again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pilotfish.errors import FailedPrecondition, InvalidArgument, PilotfishError, Violation
from pilotfish_control_plane.artifacts.durable import disk_fault, fsync_directory, hash_file
from pilotfish_control_plane.artifacts.model import CHUNK_BYTES, Upload, UploadFile

__all__ = ["Progress", "UploadDirectory", "UploadWriter"]

_ID = re.compile(r"[0-9a-f]{32}")
_OPEN_FILES = 64


@dataclass(frozen=True, slots=True)
class Progress:
    """What of one file is durable now."""

    position: int
    committed_bytes: int
    complete: bool


class UploadDirectory:
    """All uploads below `root / "uploads"`."""

    def __init__(self, root: Path) -> None:
        """Make the directory."""
        self._root = root / "uploads"
        self._root.mkdir(parents=True, exist_ok=True)

    def path(self, upload_id: str) -> Path:
        """Return the directory of one upload."""
        if not _ID.fullmatch(upload_id):
            raise InvalidArgument(f"{upload_id[:80]!r} is not the id of an upload")
        return self._root / upload_id

    def file(self, upload_id: str, position: int) -> Path:
        """Return where the file with this position lies."""
        return self.path(upload_id) / str(position)

    def prepare(self, upload_id: str) -> None:
        """Make the directory; harmless when it is there."""
        self.path(upload_id).mkdir(exist_ok=True)
        fsync_directory(self._root)

    def remove(self, upload_id: str) -> None:
        """Remove the upload's files; harmless when there are none."""
        shutil.rmtree(self.path(upload_id), ignore_errors=True)

    def ids(self) -> Iterator[str]:
        """Yield the id of every upload that has a directory."""
        for path in self._root.iterdir():
            if _ID.fullmatch(path.name):
                yield path.name

    def free_bytes(self) -> int:
        """Return how much the disk can still take."""
        return shutil.disk_usage(self._root).free


class UploadWriter:
    """Writes chunks of one upload; one writer at a time, in one thread at a time.

    Args:
        directory: where uploads lie.
        upload: as its rows tell; what they call durable is where writing goes on.
    """

    def __init__(self, directory: UploadDirectory, upload: Upload) -> None:
        """Open nothing yet."""
        self._directory = directory
        self._upload = upload
        self._by_path = {f.file.path: f for f in upload.files}
        self._written = {f.position: f.committed_bytes for f in upload.files}
        self._streams: dict[int, BinaryIO] = {}
        self._dirty: set[int] = set()
        self.unsaved_bytes = 0

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write one chunk; bytes before the durable end are skipped: the hash decides in the end.

        Raises:
            InvalidArgument: the upload has no such file, or the chunk is too large or reaches beyond the file's end.
            FailedPrecondition: there is a gap; `expected_offset` in the metadata tells where to go on.
            ResourceExhausted: the disk is full.
        """
        file = self._by_path.get(path)
        if file is None:
            raise _invalid("path", f"the upload has no file {path[:200]!r}")
        if len(data) > CHUNK_BYTES:
            raise _invalid("data", f"has {len(data)} bytes, at most {CHUNK_BYTES} are allowed")
        size, end = file.file.size_bytes, offset + len(data)
        if offset < 0 or end > size:
            raise _invalid("offset", f"bytes {offset} to {end} are not within {path} of {size} bytes")
        written = self._written[file.position]
        if offset > written:
            raise FailedPrecondition(
                f"{path} is durable up to byte {written}, and this chunk begins at {offset}: go on at {written}",
                reason="UPLOAD_GAP",
                violations=[Violation(path, f"expected offset {written}", "UPLOAD_GAP")],
                metadata={"expected_offset": str(written), "path": path},
            )
        fresh = data[written - offset :]
        if not fresh:
            return
        with _shown(path):
            stream = self._stream(file.position, written)
            rest = memoryview(fresh)
            while rest:  # a disk that is nearly full takes a part and fails the next time
                rest = rest[stream.write(rest) :]
        self._written[file.position] = end
        self._dirty.add(file.position)
        self.unsaved_bytes += len(fresh)

    def _stream(self, position: int, at: int) -> BinaryIO:
        if position in self._streams:
            return self._streams[position]
        if len(self._streams) >= _OPEN_FILES:
            self._close_one()
        path = self._directory.file(self._upload.id, position)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        # Unbuffered: a full disk must fail this chunk, and not a later one.
        stream = os.fdopen(descriptor, "wb", buffering=0)
        stream.truncate(at)
        stream.seek(at)
        self._streams[position] = stream
        return stream

    def _close_one(self) -> None:
        position, stream = next(iter(self._streams.items()))
        os.fsync(stream.fileno())
        stream.close()
        del self._streams[position]

    def save(self) -> tuple[list[Progress], list[Violation]]:
        """Force everything written to the disk and check the hash of every file that is whole now.

        Returns:
            what is durable of each file written since the last call, to be recorded before it is acknowledged; and a
            violation for each file whose hash differs: those begin again at 0.

        Raises:
            ResourceExhausted: the disk is full; nothing new may be acknowledged.
        """
        progress, wrong = [], []
        with _shown("saving"):
            for stream in self._streams.values():
                os.fsync(stream.fileno())
            if self._dirty:
                fsync_directory(self._directory.path(self._upload.id))
        for position in sorted(self._dirty):
            file = self._upload.files[position]
            whole = self._written[position] == file.file.size_bytes
            if whole and (text := self._mismatch(file)):
                wrong.append(Violation(file.file.path, text, "HASH_MISMATCH"))
                self._written[position] = 0
                self._drop(position)
                whole = False
            progress.append(Progress(position, self._written[position], whole))
        self._dirty.clear()
        self.unsaved_bytes = 0
        return progress, wrong

    def _mismatch(self, file: UploadFile) -> str:
        sha256, size = hash_file(self._directory.file(self._upload.id, file.position))
        if (sha256, size) == (file.file.sha256, file.file.size_bytes):
            return ""
        return f"its SHA-256 is {sha256}, {file.file.sha256} was announced: send it again from byte 0"

    def _drop(self, position: int) -> None:
        stream = self._streams.pop(position, None)
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """Close every file; what was not saved may be lost."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()


class _shown:
    """Turns a full disk into the error that the caller is shown."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        fault: PilotfishError | None = disk_fault(error, self._what) if isinstance(error, OSError) else None
        if fault is not None:
            raise fault from error


def _invalid(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", violations=[Violation(field, description)])
