"""Files between their arrival and the store: kept by their SHA-256, each once.

Owns `staging/{2 digits}/{sha256}` and the short-lived directories that the validator looks at. A blob is complete
and durable as soon as it has its name, and never changes. Blobs that nothing has used for a day are removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pilotfish.errors import FailedPrecondition, InvalidArgument, Violation
from pilotfish_control_plane.artifacts.durable import copy_hashed, fsync_directory, link_or_copy, make_directories
from pilotfish_control_plane.artifacts.model import ArtifactFile
from pilotfish_control_plane.artifacts.paths import check_files

__all__ = ["Staging"]

KEEP_S = 24 * 3600.0


class Staging:
    """The blobs below `root`.

    Args:
        root: a directory on the same file system as uploads and store, so that files move by name and not by byte.
    """

    def __init__(self, root: Path) -> None:
        """Make the directories."""
        self._blobs = root / "staging"
        self._views = root / "views"
        for path in (self._blobs, self._views):
            path.mkdir(parents=True, exist_ok=True)

    def blob(self, file: ArtifactFile) -> Path:
        """Return where the file's content lies, or would lie."""
        return self._blobs / file.sha256[:2] / file.sha256

    def holds(self, file: ArtifactFile) -> bool:
        """Return whether the content is here, by size."""
        try:
            return self.blob(file).stat().st_size == file.size_bytes
        except FileNotFoundError:
            return False

    def keep(self, source: Path, file: ArtifactFile) -> None:
        """Keep a durable file of ours whose hash was just checked; its content is shared, not copied."""
        target = self.blob(file)
        make_directories(target.parent, self._blobs)
        if self.holds(file):
            os.utime(target)
            return
        draft = target.with_name(f"{file.sha256}.{uuid.uuid4().hex}")
        link_or_copy(source, draft)
        self._publish(draft, target)

    def import_directory(self, directory: Path) -> tuple[ArtifactFile, ...]:
        """Copy every file below `directory`, which stays as it is; return the list of files.

        Raises:
            InvalidArgument: a path is not allowed, or something is not a plain file; names each.
        """
        found: list[ArtifactFile] = []
        wrong: list[Violation] = []
        for root, directories, names in os.walk(directory):
            directories.sort()
            for name in directories:
                if os.path.islink(os.path.join(root, name)):
                    wrong.append(Violation(os.path.relpath(os.path.join(root, name), directory), "is a link"))
            for name in sorted(names):
                full = Path(root, name)
                path = full.relative_to(directory).as_posix()
                if file := self._import_file(full, path):
                    found.append(file)
                else:
                    wrong.append(Violation(path, "is not a plain file", "NOT_A_FILE"))
        wrong += check_files(found)
        if wrong:
            raise InvalidArgument(f"{directory.name} is no artifact: {len(wrong)} problems", violations=wrong)
        return tuple(found)

    def _import_file(self, full: Path, path: str) -> ArtifactFile | None:
        draft = self._blobs / f"import.{uuid.uuid4().hex}"
        # O_NONBLOCK: a named pipe would otherwise hold us until somebody writes to it.
        try:
            descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            try:
                sha256, size = copy_hashed(stream, draft)
                file = ArtifactFile(path, size, sha256)
                make_directories(self.blob(file).parent, self._blobs)
                self._publish(draft, self.blob(file))
            finally:
                draft.unlink(missing_ok=True)
        return file

    def _publish(self, draft: Path, target: Path) -> None:
        os.chmod(draft, 0o444)
        os.utime(draft)
        os.rename(draft, target)
        fsync_directory(target.parent)

    @contextlib.contextmanager
    def view(self, files: Sequence[ArtifactFile]) -> Iterator[Path]:
        """Give a directory with the files under their paths; it is gone at the end of the block.

        Raises:
            FailedPrecondition: the content of a file is not here any more.
        """
        directory = self._views / uuid.uuid4().hex
        directory.mkdir()
        try:
            self.place(files, directory)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def place(self, files: Sequence[ArtifactFile], directory: Path) -> None:
        """Give the files their paths below an existing directory; does not force the names to the disk."""
        missing = []
        for file in files:
            target = directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                link_or_copy(self.blob(file), target)
            except FileNotFoundError:
                missing.append(Violation(file.path, "its content is not staged any more", "NOT_STAGED"))
        if missing:
            raise FailedPrecondition(
                f"{len(missing)} files are not staged any more: send them again",
                reason="NOT_STAGED",
                violations=missing,
            )

    def forget_interrupted(self) -> None:
        """Remove what a killed process was in the middle of; call it before anything is staged."""
        for view in self._views.iterdir():
            shutil.rmtree(view, ignore_errors=True)
        for draft in [*self._blobs.glob("import.*"), *self._blobs.glob("*/*.*")]:
            draft.unlink(missing_ok=True)

    def sweep(self, now_s: float | None = None) -> int:
        """Remove blobs that nothing else shares and nothing used for a day; return how many.

        Args:
            now_s: seconds since the epoch; None: now. File times are the kernel's, so this is not the Clock's.
        """
        oldest = (time.time() if now_s is None else now_s) - KEEP_S
        removed = 0
        for path in self._blobs.glob("*/*"):
            with contextlib.suppress(OSError):
                facts = path.lstat()
                # Its change time moves with every new name, its modification time with every use.
                if facts.st_nlink == 1 and max(facts.st_ctime, facts.st_mtime) < oldest:
                    path.unlink()
                    removed += 1
        return removed
