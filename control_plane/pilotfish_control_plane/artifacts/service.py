"""What can be done with uploads and artifacts.

Owns the composition: rows of uploads in the caller's transaction, and the work with files and processes outside of
any transaction (marked *io*: it blocks, call it in a thread). Which version an artifact belongs to is the registry's
business.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO  # Any: JSON of any depth

from pilotfish.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PilotfishError,
    ResourceExhausted,
    Violation,
)
from pilotfish_control_plane.artifacts.confinement import Limits
from pilotfish_control_plane.artifacts.durable import disk_fault
from pilotfish_control_plane.artifacts.model import ArtifactFile, Upload, UploadFile, UploadState, ValidationReport
from pilotfish_control_plane.artifacts.paths import MAX_SHOWN, check_files
from pilotfish_control_plane.artifacts.sandbox import validate_directory
from pilotfish_control_plane.artifacts.staging import Staging
from pilotfish_control_plane.artifacts.store import ArtifactStore, LocalStore
from pilotfish_control_plane.artifacts.uploads import Progress, UploadDirectory, UploadWriter
from pilotfish_control_plane.storage import artifacts as storage
from pilotfish_control_plane.storage import registry as registry_rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["ArtifactService", "Policy"]

log = logging.getLogger(__name__)


class Policy:
    """How much may be uploaded, and for how long.

    Args:
        artifact_bytes: largest artifact.
        open_uploads: uploads that one principal may have open.
        expiry: how long an upload is kept after it last grew.
        reserve_bytes: what must stay free on the disk.
        limits: of one validation.
    """

    def __init__(
        self,
        *,
        artifact_bytes: int = 50 * 1024**3,
        open_uploads: int = 256,
        expiry: timedelta = timedelta(days=1),
        reserve_bytes: int = 256 * 1024**2,
        limits: Limits | None = None,
    ) -> None:
        """Keep the values."""
        self.artifact_bytes = artifact_bytes
        self.open_uploads = open_uploads
        self.expiry = expiry
        self.reserve_bytes = reserve_bytes
        self.limits = limits or Limits()


class ArtifactService:
    """Uploads, validation, and the store.

    Args:
        root: directory of uploads and staging; must be on this machine.
        store: where registered artifacts lie; None: below `root` as well.
        policy: how much may be uploaded.
    """

    def __init__(self, root: Path, store: ArtifactStore | None = None, policy: Policy | None = None) -> None:
        """Make the directories."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store: ArtifactStore = store or LocalStore(root)
        self.policy = policy or Policy()
        self._staging = Staging(root)
        self._uploads = UploadDirectory(root)
        self._placing: dict[str, int] = {}
        self._placing_lock = threading.Lock()

    # --- uploads: rows

    def create_upload(self, tx: Tx, files: Sequence[ArtifactFile]) -> Upload:
        """Open an upload for a list of files and return it.

        Raises:
            InvalidArgument: a path, size or hash; names every one (at most 50).
            ResourceExhausted: too large, too many open uploads, or the disk has too little room.
        """
        if wrong := check_files(files):
            raise InvalidArgument(
                f"these files cannot be uploaded: {len(wrong)} problems",
                reason="BAD_FILES",
                violations=wrong[:MAX_SHOWN],
                metadata={"violations": str(len(wrong))},
            )
        size = sum(f.size_bytes for f in files)
        self._check_room(tx, size)
        made = Upload(
            id=uuid.uuid4().hex,
            principal=tx.actor.name,
            state=UploadState.OPEN,
            files=tuple(UploadFile(i, f, 0, False) for i, f in enumerate(files)),
            created_at=tx.now,
            expires_at=tx.now + self.policy.expiry,
        )
        # An empty file is whole before anything was sent: its hash was compared with that of nothing.
        made = replace(made, files=tuple(replace(f, complete=f.file.size_bytes == 0) for f in made.files))
        storage.add(tx.conn, made)
        return made

    def _check_room(self, tx: Tx, size: int) -> None:
        policy = self.policy
        if size > policy.artifact_bytes:
            raise ResourceExhausted(
                f"the files have {size} bytes together, an artifact may have {policy.artifact_bytes}",
                reason="ARTIFACT_TOO_LARGE",
            )
        mine, lacking = storage.open_load(tx.conn, tx.actor.name)
        if mine >= policy.open_uploads:
            raise ResourceExhausted(
                f"{tx.actor.name} has {mine} uploads open, {policy.open_uploads} are allowed: register or abort some",
                reason="TOO_MANY_UPLOADS",
                retry_after_s=60.0,
            )
        free = self._uploads.free_bytes() - policy.reserve_bytes - lacking
        if size > free:
            raise ResourceExhausted(
                f"the files have {size} bytes, and the disk has room for {max(free, 0)} (open uploads will need "
                f"{lacking}): free space on it, or abort uploads",
                reason="STORE_FULL",
                retry_after_s=60.0,
            )

    def upload(self, tx: Tx, upload_id: str) -> Upload:
        """Return an upload.

        Raises:
            NotFound: there is none, or it has expired.
        """
        found = storage.find(tx.conn, upload_id)
        if found is None or (found.state is UploadState.OPEN and found.expires_at <= tx.now):
            raise NotFound(f"there is no upload {upload_id[:80]!r}: it never was, was aborted, or has expired")
        return found

    def record_progress(self, tx: Tx, upload_id: str, progress: Sequence[Progress]) -> Upload:
        """Write what is durable now, and put off the expiry; return the upload.

        Raises:
            NotFound: it was aborted meanwhile.
        """
        self.upload(tx, upload_id)
        for one in progress:
            storage.set_progress(tx.conn, upload_id, one.position, one.committed_bytes, one.complete)
        storage.set_expiry(tx.conn, upload_id, tx.now + self.policy.expiry)
        return self.upload(tx, upload_id)

    def abort_upload(self, tx: Tx, upload_id: str) -> None:
        """Give up an upload; `discard_upload` removes its files after the commit.

        Raises:
            NotFound: there is none.
            FailedPrecondition: it is registered.
        """
        found = self.upload(tx, upload_id)
        if found.state is UploadState.REGISTERED:
            raise FailedPrecondition(
                f"upload {upload_id} is registered as the version {found.version_id}", reason="UPLOAD_REGISTERED"
            )
        storage.remove(tx.conn, upload_id)

    def usable_upload(self, tx: Tx, upload_id: str) -> Upload:
        """Return an upload that can be registered.

        Raises:
            NotFound: there is none.
            FailedPrecondition: it is registered already, or incomplete; names each file that lacks something.
        """
        found = self.upload(tx, upload_id)
        if found.state is UploadState.REGISTERED:
            raise FailedPrecondition(
                f"upload {upload_id} is registered already, as the version with id {found.version_id}: "
                "open another upload",
                reason="UPLOAD_REGISTERED",
                metadata={"version_id": found.version_id},
            )
        lacking = [f for f in found.files if not f.complete]
        if lacking:
            raise FailedPrecondition(
                f"upload {upload_id} is not complete: {len(lacking)} of {len(found.files)} files lack bytes",
                reason="UPLOAD_INCOMPLETE",
                violations=[
                    Violation(f.file.path, f"{f.committed_bytes} of {f.file.size_bytes} bytes", "INCOMPLETE")
                    for f in lacking[:MAX_SHOWN]
                ],
            )
        return found

    def take_upload(self, tx: Tx, upload_id: str, version_id: str) -> None:
        """Mark an upload as registered, in the transaction that registers the version; then `discard_upload`.

        Raises:
            NotFound: it is gone.
            FailedPrecondition: somebody else registered it meanwhile.
        """
        self.usable_upload(tx, upload_id)
        storage.set_registered(tx.conn, upload_id, version_id)

    # --- uploads: files

    def writer(self, upload: Upload) -> UploadWriter:
        """Return a writer for an open upload (*io*); at most one at a time per upload.

        Raises:
            FailedPrecondition: the upload is registered.
        """
        if upload.state is UploadState.REGISTERED:
            raise FailedPrecondition(
                f"upload {upload.id} is registered: its files never change", reason="UPLOAD_REGISTERED"
            )
        self._uploads.prepare(upload.id)
        return UploadWriter(self._uploads, upload)

    def discard_upload(self, upload_id: str) -> None:
        """Remove the bytes of an upload that is registered or has no rows (*io*); a crash leaves it to `collect`."""
        self._uploads.remove(upload_id)

    def import_upload(self, upload: Upload) -> tuple[ArtifactFile, ...]:
        """Stage the files of a complete upload and return their list (*io*).

        Raises:
            FailedPrecondition: a file is gone.
            ResourceExhausted: the disk is full.
        """
        self._uploads.prepare(upload.id)
        for file in upload.files:
            path = self._uploads.file(upload.id, file.position)
            if file.file.size_bytes == 0:
                path.touch()
            try:
                self._staging.keep(path, file.file)
            except FileNotFoundError as error:
                raise FailedPrecondition(
                    f"upload {upload.id} has lost the file {file.file.path}: abort it and send the files again",
                    reason="UPLOAD_INCOMPLETE",
                ) from error
            except OSError as error:
                raise _fault(error) from error
        return tuple(f.file for f in upload.files)

    # --- artifacts

    def import_directory(self, path: Path) -> tuple[ArtifactFile, ...]:
        """Stage a copy of every file below a directory and return their list (*io*).

        Raises:
            InvalidArgument: a path is not allowed, or something is not a plain file; names each.
            ResourceExhausted: the disk is full.
        """
        try:
            return self._staging.import_directory(Path(path))
        except OSError as error:
            raise _fault(error) from error

    def validate(
        self, files: Sequence[ArtifactFile], framework: str = "", signature: Mapping[str, Any] | None = None
    ) -> ValidationReport:
        """Return what an isolated process finds about staged files (*io*).

        Args:
            files: staged by `import_upload` or `import_directory`.
            framework: whose validator is used; "": told from the files.
            signature: one that the artifact must agree with, as in signature.json.
        """
        chosen = framework or framework_of(files)
        try:
            with self._staging.view(files) as directory:
                return validate_directory(directory, chosen, requested=signature, limits=self.policy.limits)
        except OSError as error:
            raise _fault(error) from error

    @contextmanager
    def placing(self, version_id: str) -> Iterator[None]:
        """Keep garbage collection away from the artifact with this id until the block ends."""
        with self._placing_lock:
            self._placing[version_id] = self._placing.get(version_id, 0) + 1
        try:
            yield
        finally:
            with self._placing_lock:
                self._placing[version_id] -= 1
                if not self._placing[version_id]:
                    del self._placing[version_id]

    def commit(self, files: Sequence[ArtifactFile], artifact_path: str) -> None:
        """Put staged files into the store, complete and durable (*io*); harmless when repeated.

        A row must claim `artifact_path` within `placing`, or soon; directories that no row claims are collected.

        Raises:
            FailedPrecondition: a file is not staged any more.
            ResourceExhausted: the disk is full.
        """
        try:
            self.store.put(artifact_path, files, self._staging.place)
        except OSError as error:
            raise _fault(error) from error

    def move(self, old: str, new: str) -> None:
        """Give an artifact that no row claims another path (*io*)."""
        self.store.move(old, new)

    def verify(self, artifact_path: str, files: Sequence[ArtifactFile]) -> list[str]:
        """Return every difference between the store and what was registered, contents included (*io*)."""
        return self.store.verify(artifact_path, files)

    def local_path(self, artifact_path: str) -> Path | None:
        """Return the artifact's directory on this machine, None when it is not here."""
        return self.store.local_path(artifact_path) if artifact_path else None

    def open_file(self, artifact_path: str, path: str) -> BinaryIO:
        """Return a file of an artifact for reading (*io*).

        Raises:
            NotFound: it is not there.
        """
        return self.store.open(artifact_path, path)

    def remove(self, artifact_path: str) -> None:
        """Remove an artifact from the store (*io*); harmless when there is none."""
        self.store.remove(artifact_path)

    # --- what crashes leave behind

    def expire_uploads(self, tx: Tx) -> list[str]:
        """Delete the rows of uploads whose time is over and return their ids; then `discard_upload` each."""
        gone = storage.expired(tx.conn, tx.now)
        for upload_id in gone:
            storage.remove(tx.conn, upload_id)
        return gone

    def forget_interrupted(self) -> None:
        """Remove what a killed process was in the middle of (*io*); once, before anything else is called."""
        self.store.sweep()
        self._staging.forget_interrupted()

    def unclaimed(self) -> tuple[list[str], frozenset[str]]:
        """Return the paths in the store and the ids that are being placed, read in this order (*io*).

        What is in neither this set nor, read after it, a row, was left by a crash.
        """
        paths = list(self.store.paths())
        with self._placing_lock:
            return paths, frozenset(self._placing)

    def claimed(self, tx: Tx) -> tuple[set[str], set[str]]:
        """Return the artifact paths that rows claim, and the ids of open uploads."""
        return registry_rows.claimed_paths(tx.conn), storage.open_ids(tx.conn)

    def collect(
        self, found: tuple[list[str], frozenset[str]], uploads: Sequence[str], claimed: tuple[set[str], set[str]]
    ) -> list[str]:
        """Remove what nothing claims (*io*) and return it.

        Args:
            found: from `unclaimed`, taken first.
            uploads: from `upload_directories`, taken first.
            claimed: from `claimed`, taken last.
        """
        paths, placing = found
        rows, open_uploads = claimed
        removed = []
        for path in paths:
            if path not in rows and path.rpartition("/")[2] not in placing:
                log.warning("removing %s: no version claims it, a registration was interrupted", path)
                self.store.remove(path)
                removed.append(path)
        for upload_id in uploads:
            if upload_id not in open_uploads:
                self._uploads.remove(upload_id)
                removed.append(f"uploads/{upload_id}")
        self._staging.sweep()
        return removed

    def upload_directories(self) -> list[str]:
        """Return the ids of uploads that have files (*io*)."""
        return list(self._uploads.ids())


def framework_of(files: Sequence[ArtifactFile]) -> str:
    """Return the framework that the files' names tell; onnx when they tell none."""
    names = {f.path for f in files}
    for marker, framework in (("model.onnx", "onnx"), ("MLmodel", "mlflow"), ("model.safetensors", "safetensors")):
        if marker in names:
            return framework
    return "onnx"


def _fault(error: OSError) -> PilotfishError | OSError:
    return disk_fault(error, "storing files") or error
