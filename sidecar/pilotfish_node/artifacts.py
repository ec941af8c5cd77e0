"""The files of a version on this machine: found in the local store, or fetched and checked by hash.

It never loads or interprets a file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath

from pilotfish.errors import FailedPrecondition, Violation
from pilotfish_node.files import write_atomically
from pilotfish_node.model import FileSpec, ReplicaSpec

__all__ = ["Fetch", "ensure_artifact", "manifest_text"]

# fetch(version_name, path) yields the file's bytes in order.
Fetch = Callable[[str, str], AsyncIterator[bytes]]


def manifest_text(files: tuple[FileSpec, ...]) -> str:
    """Return the manifest that the model server checks before it loads, as JSON."""
    return json.dumps([{"path": f.path, "size": f.size_bytes, "sha256": f.sha256} for f in files])


async def ensure_artifact(spec: ReplicaSpec, cache: Path, fetch: Fetch) -> Path:
    """Return a directory that holds the version's files.

    Raises:
        FailedPrecondition: a fetched file does not match its hash, or a path leaves its directory.
        PilotfishError: the control plane could not deliver a file.
    """
    if spec.artifact_dir and Path(spec.artifact_dir).is_dir():
        return Path(spec.artifact_dir)
    key = hashlib.sha256("".join(sorted(f.sha256 + f.path for f in spec.files)).encode()).hexdigest()[:32]
    target = cache / key
    for file in spec.files:
        await _ensure_file(spec, file, target, fetch)
    return target


async def _ensure_file(spec: ReplicaSpec, file: FileSpec, target: Path, fetch: Fetch) -> None:
    parts = PurePosixPath(file.path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in file.path:
        raise FailedPrecondition(f"artifact file {file.path!r} leaves its directory")
    path = target / file.path
    if await asyncio.to_thread(_matches, path, file):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    with open(scratch, "wb") as out:
        async for chunk in fetch(spec.version_name, file.path):
            digest.update(chunk)
            await asyncio.to_thread(out.write, chunk)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != file.sha256:
        scratch.unlink(missing_ok=True)
        raise FailedPrecondition(
            f"{spec.version_name}: {file.path} does not match its hash",
            violations=[Violation(file.path, f"expected {file.sha256}, got {digest.hexdigest()}")],
        )
    os.replace(scratch, path)


def _matches(path: Path, file: FileSpec) -> bool:
    try:
        if path.stat().st_size != file.size_bytes:
            return False
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def write_manifest(directory: Path, files: tuple[FileSpec, ...]) -> Path:
    """Write the manifest beside the replica's records; return its path."""
    path = directory / "manifest.json"
    write_atomically(path, manifest_text(files).encode())
    return path
