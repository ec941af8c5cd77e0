"""Registering an upload: files, processes and transactions in an order that a crash at any point survives.

Owns that order. What is allowed is the registry's business, what is sound the validator's.

    1. Was this request_id answered already? Then that is the answer.
    2. Cheap refusals: metadata, label, upload complete.
    3. Stage the files by hash; validate them in an isolated process. A refusal is recorded as a run, and that is all
       that is left of it.
    4. Guess the version's number, put the files at their final path (complete and durable in one step), and commit
       the row that claims them, on condition that the number is still the model's next one. If it is not, move the
       files and try again. Numbers come from the model's row in that same transaction, so none is lost or doubled.

A crash before the commit leaves a directory that no row claims; the collector removes it, the upload is still there,
and the repeated call registers it. A crash after the commit leaves the upload's bytes, which the collector removes.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from pilotfish.errors import FailedPrecondition, InvalidArgument, PilotfishError, Violation
from pilotfish.v1 import registry_service_pb2 as pb
from pilotfish_control_plane.artifacts.model import ArtifactFile, Problem, Upload, ValidationReport, artifact_path
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.core import Core
from pilotfish_control_plane.experiments.model import RunKind, RunState
from pilotfish_control_plane.experiments.service import ExperimentService
from pilotfish_control_plane.grpc_server.registry_wire import version_to_wire
from pilotfish_control_plane.names import ModelName
from pilotfish_control_plane.registry.model import NewVersion
from pilotfish_control_plane.registry.service import NumberTaken, RegistryService
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Registration"]

log = logging.getLogger(__name__)

VALIDATIONS = 2
"""Validations at once; further ones wait."""

EXTERNAL = "external"


class _NotAnswered(Exception):
    """There is no stored answer to this request_id."""


@dataclass(frozen=True, slots=True)
class _Checked:
    """What step 3 gives to step 4."""

    new: NewVersion
    report: ValidationReport
    upload: Upload | None


class Registration:
    """RegisterVersion, from the request to the answer."""

    def __init__(self, core: Core, registry: RegistryService) -> None:
        """Use the other areas through `core` when a call needs them."""
        self._core = core
        self._registry = registry
        self._experiments = ExperimentService()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._validating = asyncio.Semaphore(VALIDATIONS)

    @property
    def _artifacts(self) -> ArtifactService:
        return self._core.services.get(ArtifactService)

    async def register(self, request: pb.RegisterVersionRequest, new: NewVersion) -> pb.RegisterVersionResponse:
        """Register `request.upload` as the version `new` and return the answer.

        Raises:
            PilotfishError: see RegistryService.RegisterVersion in the contract.
        """
        if request.request_id and not request.validate_only:
            answered = await self._answered(request)
            if answered is not None:
                return answered
        _check_request(request, new)
        if new.framework == EXTERNAL:
            checked = _Checked(new, ValidationReport(EXTERNAL, checks=("external: nothing to validate",)), None)
        else:
            checked = await self._check(request, new)
        if request.validate_only or checked.upload is None:
            return await self._core.mutations.mutate(request, self._write(checked, uuid.uuid4().hex, 0, request))
        # A caller that gives up must not leave it undecided whether the files belong to a version.
        return await asyncio.shield(asyncio.ensure_future(self._place(request, checked)))

    async def _answered(self, request: pb.RegisterVersionRequest) -> pb.RegisterVersionResponse | None:
        def unanswered(tx: Tx) -> pb.RegisterVersionResponse:
            raise _NotAnswered

        try:
            return await self._core.mutations.mutate(request, unanswered)
        except _NotAnswered:
            return None

    # --- step 2 and 3

    async def _check(self, request: pb.RegisterVersionRequest, new: NewVersion) -> _Checked:
        def refusals(tx: Tx) -> Upload:
            self._registry.check_new(tx, new)
            return self._artifacts.usable_upload(tx, request.upload)

        upload = await self._core.mutations.read(refusals)
        files, report = await asyncio.shield(asyncio.ensure_future(self._validate(upload, new)))
        problems = [*report.errors, *_disagreeing(new.dependencies, report.dependencies)]
        if problems:
            if not request.validate_only:
                await self._core.mutations.write(lambda tx: self._record_refusal(tx, new, upload, report, problems))
            raise _refusal(new, problems)
        filled = replace(
            new,
            framework=report.framework,
            dependencies={**report.dependencies, **new.dependencies},
            signature=report.signature,
            files=files,
            profile_json=report.profile_json,
        )
        return _Checked(filled, report, upload)

    async def _validate(self, upload: Upload, new: NewVersion) -> tuple[tuple[ArtifactFile, ...], ValidationReport]:
        async with self._validating:
            files = await asyncio.to_thread(self._artifacts.import_upload, upload)
            report = await asyncio.to_thread(self._artifacts.validate, files, new.framework, new.signature)
        return files, report

    def _record_refusal(
        self, tx: Tx, new: NewVersion, upload: Upload, report: ValidationReport, problems: Sequence[Problem]
    ) -> None:
        self._record_validation(tx, new, f"uploads/{upload.id}", report, problems)
        name = str(ModelName(new.project, new.model))
        tx.emit("version.refused", name, {"upload": upload.id, "problems": len(problems)})

    def _record_validation(
        self, tx: Tx, new: NewVersion, subject: str, report: ValidationReport, problems: Sequence[Problem] = ()
    ) -> None:
        listed = [{"path": p.path, "description": p.description, "reason": p.reason} for p in problems]
        self._experiments.record(
            tx,
            RunKind.VALIDATION,
            RunState.FAILED if problems else RunState.FINISHED,
            experiment=new.model,
            subject=subject,
            parameters={"framework": report.framework, "checks": list(report.checks), "problems": listed},
            metrics={"seconds": report.seconds, "size_bytes": float(report.size_bytes)},
            project=new.project,
        )

    # --- step 4

    def _write(
        self, checked: _Checked, version_id: str, number: int, request: pb.RegisterVersionRequest
    ) -> Callable[[Tx], pb.RegisterVersionResponse]:
        """Return the closure that registers the version and makes the answer."""

        def write(tx: Tx) -> pb.RegisterVersionResponse:
            version = self._registry.register(tx, replace(checked.new, id=version_id, number=number))
            if checked.upload is not None:
                self._artifacts.take_upload(tx, checked.upload.id, version_id)
                self._record_validation(tx, checked.new, version.name, checked.report)
            wire = version_to_wire(version)
            if request.validate_only:
                wire.ClearField("name")
                wire.ClearField("id")
                wire.ClearField("number")
                wire.ClearField("artifact_path")
            return pb.RegisterVersionResponse(version=wire, checks=checked.report.checks)

        return write

    async def _place(self, request: pb.RegisterVersionRequest, checked: _Checked) -> pb.RegisterVersionResponse:
        assert checked.upload is not None
        new, version_id = checked.new, uuid.uuid4().hex
        path = ""
        # In turns per model, or all who register at once would guess the same number.
        turn = self._turns.setdefault((new.project, new.model), asyncio.Lock())
        with self._artifacts.placing(version_id):
            try:
                async with turn:
                    number = await self._core.mutations.read(
                        lambda tx: self._registry.next_number(tx, new.project, new.model)
                    )
                    while True:
                        path = await self._put(new, path, artifact_path(new.model, number, version_id))
                        try:
                            answer = await self._core.mutations.mutate(
                                request, self._write(checked, version_id, number, request)
                            )
                            break
                        except NumberTaken as taken:
                            number = taken.number
            except BaseException:
                await self._take_back(path, version_id)
                raise
            if answer.version.id != version_id:  # the same request_id was answered while this one validated
                await asyncio.to_thread(self._artifacts.remove, path)
        await asyncio.to_thread(self._artifacts.discard_upload, checked.upload.id)
        return answer

    async def _put(self, new: NewVersion, old: str, path: str) -> str:
        if old:
            await asyncio.to_thread(self._artifacts.move, old, path)
        else:
            await asyncio.to_thread(self._artifacts.commit, tuple(new.files), path)
        return path

    async def _take_back(self, path: str, version_id: str) -> None:
        """Remove what was placed, unless the version is there after all: a commit may succeed without an answer."""
        if not path:
            return
        try:
            claimed = await self._core.mutations.read(lambda tx: self._registry.version_by_id(tx, version_id))
            if claimed is None:
                await asyncio.to_thread(self._artifacts.remove, path)
        except (PilotfishError, OSError) as error:
            log.warning("%s is left to the collector: %s", path, error)


def _check_request(request: pb.RegisterVersionRequest, new: NewVersion) -> None:
    found = []
    if new.framework == EXTERNAL and request.upload:
        found.append(Violation("upload", "an external version has no artifact: leave it empty"))
    if new.framework != EXTERNAL and not request.upload:
        found.append(Violation("upload", "is missing: open one with CreateUpload, and send its files"))
    if found:
        raise InvalidArgument(f"this version of {new.model[:80]!r} cannot be registered", violations=found)


def _disagreeing(said: Mapping[str, str], found: Mapping[str, str]) -> list[Problem]:
    return [
        Problem(
            "requirements.json",
            f"needs {package} {version}, the request says {said[package]}",
            "DEPENDENCY_MISMATCH",
        )
        for package, version in found.items()
        if package in said and said[package] != version
    ]


def _refusal(new: NewVersion, problems: Sequence[Problem]) -> FailedPrecondition:
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    first = problems[0]
    return FailedPrecondition(
        f"the artifact for model {new.model} is refused, {count}; first: "
        + " ".join(filter(None, (first.path, first.description))),
        reason="VALIDATION_FAILED",
        violations=[Violation(p.path, p.description, p.reason) for p in problems],
        metadata={"problems": str(len(problems))},
    )
