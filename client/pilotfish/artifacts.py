"""Files of an artifact on the caller's disk: listed, hashed, read in chunks. Owns no connection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import registry_pb2 as pb

__all__ = ["CHUNK_BYTES", "local_files", "read_chunks"]

CHUNK_BYTES = 1024 * 1024


def local_files(path: Path) -> dict[str, tuple[Path, pb.ArtifactFile]]:
    """Return the files of an artifact by their path in it: all below a directory, or one file as `model.onnx`.

    Raises:
        InvalidArgument: there is no such file, or nothing in the directory.
    """
    if path.is_file():
        name = "model.onnx" if path.suffix == ".onnx" else path.name
        found = {name: path}
    elif path.is_dir():
        found = {str(p.relative_to(path).as_posix()): p for p in sorted(path.rglob("*")) if p.is_file()}
    else:
        raise InvalidArgument(f"there is no file or directory {path}", violations=[Violation("path", "does not exist")])
    if not found:
        raise InvalidArgument(f"{path} holds no file", violations=[Violation("path", "is empty")])
    return {name: (p, _describe(name, p)) for name, p in found.items()}


def _describe(name: str, path: Path) -> pb.ArtifactFile:
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return pb.ArtifactFile(path=name, size_bytes=path.stat().st_size, sha256=digest)


def read_chunks(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, at most 1 MiB) from an offset to the end."""
    with open(path, "rb") as handle:
        handle.seek(offset)
        while data := handle.read(CHUNK_BYTES):
            yield offset, data
            offset += len(data)
