"""The store of registered artifacts: whole directories at `models/{model}/{number}/{id}`.

Owns the protocol of stores, and the local one. A directory appears in one step, complete and durable, and never
changes; it is a version only when a committed row claims it. The order of a registration is therefore:

    1. the files' contents are durable (uploads, staging);
    2. the directory is built under `tmp/`, forced to the disk, and renamed to its path (`put`);
    3. the row that claims it is committed.

A crash before 3 leaves at most a directory that no row claims: `paths` finds it, garbage collection removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from pilotfish.errors import InvalidArgument, NotFound, Violation
from pilotfish_control_plane.artifacts.durable import fsync_directory, hash_file, make_directories
from pilotfish_control_plane.artifacts.model import ArtifactFile
from pilotfish_control_plane.artifacts.paths import path_problem

__all__ = ["ArtifactStore", "LocalStore", "Place"]

Place = Callable[[Sequence[ArtifactFile], Path], None]
"""Gives files their paths below a directory: `Staging.place`."""

_PATH = re.compile(r"models/[a-z0-9][a-z0-9._-]{0,62}/[1-9][0-9]{0,17}/[a-z0-9][a-z0-9._-]{0,62}")


class ArtifactStore(Protocol):
    """Where registered artifacts lie. Every method blocks and is called outside of transactions."""

    def put(self, path: str, files: Sequence[ArtifactFile], place: Place) -> None:
        """Make the directory `path` with `files`, complete and durable in one step; harmless when it is there."""
        ...

    def move(self, old: str, new: str) -> None:
        """Give a directory that no row claims another path, in one step."""
        ...

    def open(self, path: str, file: str) -> BinaryIO:
        """Return a file for reading.

        Raises:
            NotFound: it is not there.
        """
        ...

    def local_path(self, path: str) -> Path | None:
        """Return the directory where this machine can read it, None when it cannot."""
        ...

    def verify(self, path: str, files: Sequence[ArtifactFile]) -> list[str]:
        """Return every difference between what lies there and `files`, contents included."""
        ...

    def remove(self, path: str) -> None:
        """Remove the directory; harmless when there is none."""
        ...

    def paths(self) -> Iterator[str]:
        """Yield the path of every directory, claimed or not."""
        ...

    def sweep(self) -> None:
        """Remove what interrupted calls have left."""
        ...


class LocalStore:
    """A store in a local directory; one control plane at a time.

    Args:
        root: the directory; below it `models/` and `tmp/`.
    """

    def __init__(self, root: Path) -> None:
        """Make the directories."""
        self._root = root
        self._tmp = root / "tmp"
        for path in (root / "models", self._tmp):
            path.mkdir(parents=True, exist_ok=True)

    def _at(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise InvalidArgument(f"{path[:200]!r} is not a path in the artifact store", reason="BAD_PATH")
        return self._root / path

    def put(self, path: str, files: Sequence[ArtifactFile], place: Place) -> None:
        """Make the directory `path` with `files`, complete and durable in one step; harmless when it is there."""
        target = self._at(path)
        if target.is_dir():
            if not self.verify(path, files):
                return
            # An earlier attempt of the same job made something else, and no row claims it yet.
            self.remove(path)
        draft = self._tmp / uuid.uuid4().hex
        draft.mkdir()
        try:
            place(files, draft)
            for root, _, _ in os.walk(draft, topdown=False):
                fsync_directory(Path(root))
            self._rename(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def move(self, old: str, new: str) -> None:
        """Give a directory that no row claims another path, in one step."""
        source = self._at(old)
        self._rename(source, self._at(new))
        fsync_directory(source.parent)
        self._prune(source.parent)

    def _rename(self, source: Path, target: Path) -> None:
        # A neighbour's `_prune` may take the empty parent away between our two steps.
        for attempt in range(5):
            make_directories(target.parent, self._root)
            try:
                os.rename(source, target)
                break
            except FileNotFoundError:
                if attempt == 4 or not source.is_dir():
                    raise
        fsync_directory(target.parent)

    def open(self, path: str, file: str) -> BinaryIO:
        """Return a file for reading.

        Raises:
            NotFound: it is not there.
        """
        if problem := path_problem(file):
            raise InvalidArgument(f"{file[:200]!r} {problem}", violations=[Violation("path", problem, "BAD_PATH")])
        try:
            return os.fdopen(os.open(self._at(path) / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise NotFound(f"the artifact store has no file {file} at {path}: {error.strerror}") from error

    def local_path(self, path: str) -> Path | None:
        """Return the directory; None when it is not there."""
        at = self._at(path)
        return at if at.is_dir() else None

    def verify(self, path: str, files: Sequence[ArtifactFile]) -> list[str]:
        """Return every difference between what lies there and `files`, contents included."""
        at = self._at(path)
        if not at.is_dir():
            return [f"{path} is missing"]
        found = []
        for file in files:
            full = at / file.path
            if full.is_symlink() or not full.is_file():
                found.append(f"{file.path} is missing")
                continue
            sha256, size = hash_file(full)
            if size != file.size_bytes:
                found.append(f"{file.path} has {size} bytes, {file.size_bytes} were registered")
            elif sha256 != file.sha256:
                found.append(f"{file.path} has the SHA-256 {sha256}, {file.sha256} was registered")
        known = {file.path for file in files}
        for root, _, names in os.walk(at):
            there = [Path(root, name).relative_to(at).as_posix() for name in names]
            found += [f"{name} was never registered" for name in sorted(there) if name not in known]
        return found

    def remove(self, path: str) -> None:
        """Remove the directory; harmless when there is none."""
        at = self._at(path)
        # Away in one step first: a half-removed artifact must not be found under its path.
        draft = self._tmp / uuid.uuid4().hex
        try:
            os.rename(at, draft)
        except FileNotFoundError:
            return
        fsync_directory(at.parent)
        shutil.rmtree(draft, ignore_errors=True)
        self._prune(at.parent)

    def _prune(self, directory: Path) -> None:
        """Remove parents that have become empty."""
        with contextlib.suppress(OSError):
            for _ in range(2):
                directory.rmdir()
                directory = directory.parent

    def paths(self) -> Iterator[str]:
        """Yield the path of every directory, claimed or not."""
        for found in sorted(self._root.glob("models/*/*/*")):
            path = found.relative_to(self._root).as_posix()
            if _PATH.fullmatch(path):
                yield path

    def sweep(self) -> None:
        """Remove what interrupted calls have left; call it before the first `put`."""
        for draft in self._tmp.iterdir():
            shutil.rmtree(draft, ignore_errors=True)
