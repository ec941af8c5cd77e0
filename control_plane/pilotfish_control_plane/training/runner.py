"""The local executor of jobs: starts a process per job, follows it, ends it; survives the control plane's restarts.

Owns processes and files. A job's process runs in a session of its own and shares only its directory with us, so a new
control plane finds it by that directory and goes on reading where the last one stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from pilotfish.errors import PilotfishError, Unavailable
from pilotfish_control_plane.artifacts.model import artifact_path
from pilotfish_control_plane.artifacts.service import ArtifactService
from pilotfish_control_plane.prediction_log import PredictionLog
from pilotfish_control_plane.registry.model import NewVersion
from pilotfish_control_plane.storage.database import Database
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.job_files import JobInputs, read_given, write_job
from pilotfish_control_plane.training.model import Job, JobState, Progress
from pilotfish_control_plane.training.rules import MAX_ATTEMPTS, outcome_state
from pilotfish_control_plane.training.service import TrainingService

__all__ = ["JobRunner"]

log = logging.getLogger(__name__)

BUSY_S = 0.15
# The trainer ends by itself within 5 s of SIGTERM; a process that does not is stopped or stuck.
GRACE_S = 20.0
IDLE_S = 2.0


class JobRunner:
    """Runs the jobs that this control plane claimed."""

    def __init__(
        self,
        db: Database,
        service: TrainingService,
        artifacts: Callable[[], ArtifactService],
        predictions: Callable[[], PredictionLog],
        inputs_of: Callable[[Tx, Job], JobInputs],
        *,
        name: str,
        directory: Path,
        slots: int,
        roots: list[str],
        private: list[str],
    ) -> None:
        """Keep job directories below `directory`; run at most `slots` at once."""
        self._db = db
        self._service = service
        self._artifacts = artifacts
        self._predictions = predictions
        self._inputs_of = inputs_of
        self._name = name
        self._directory = directory
        self._slots = slots
        self._roots = roots
        self._private = private
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._told: dict[Path, float] = {}  # when a job's process was told to end, on the clock's monotonic

    async def run(self) -> None:
        """Claim, start and follow jobs for ever."""
        with self._db.wakes.subscribe("training") as wake:
            while True:
                running = await self._db.read(lambda tx: self._service.running(tx, self._name))
                free = self._slots - len(running)
                if free > 0:
                    running += await self._db.write(lambda tx, n=free: self._service.claim(tx, self._name, n))  # type: ignore[misc]
                for job in running:
                    try:
                        await self._follow(job)
                    except Unavailable as error:
                        # The store is away, not the job: the next look goes on.
                        log.warning("job %s waits: %s", job.id, error)
                    except PilotfishError as error:
                        log.warning("job %s: %s", job.id, error)
                        await self._end(job, JobState.FAILED, str(error), {}, 0)
                    except Exception:
                        log.exception("job %s cannot be followed", job.id)
                        await self._end(job, JobState.FAILED, "internal error; see the control plane's log", {}, 0)
                await wake.wait(BUSY_S if running else IDLE_S)

    def _path(self, job: Job) -> Path:
        return self._directory / job.id / str(job.attempt)

    async def _follow(self, job: Job) -> None:
        path = self._path(job)
        await self._take_progress(job, path)
        result = await asyncio.to_thread(_read_result, path)
        if result is not None:
            await self._take_progress(job, path)
            await self._finish(job, path, result)
            return
        if await asyncio.to_thread(_is_running, path):
            await self._limit(job, path)
            return
        child = self._children.get(job.id)
        if child is not None and child.poll() is None:
            return  # it was started just now
        if (path / "pid").exists():
            # The result may have come between the two looks.
            if await asyncio.to_thread(_read_result, path) is None:
                await self._vanished(job, path)
            return
        if job.cancel_requested:
            await self._end(job, JobState.CANCELLED, job.state_reason, {}, 0)
            return
        await self._start(job, path)

    async def _start(self, job: Job, path: Path) -> None:
        inputs = await self._db.read(lambda tx: self._inputs_of(tx, job))
        await asyncio.to_thread(write_job, path, inputs, self._predictions(), roots=self._roots, private=self._private)
        argv = [sys.executable, "-m", "pilotfish_control_plane.trainer", "--job-dir", str(path)]
        with open(path / "start.log", "ab") as out:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        (path / "pid").write_text(str(child.pid))
        self._children[job.id] = child

    async def _limit(self, job: Job, path: Path) -> None:
        """Tell a job's process to end when it was cancelled or its time is over."""
        pipeline = await self._db.read(lambda tx: self._service.get(tx, job.project, job.pipeline, job.revision))
        now = self._db.clock.now()
        late = job.started is not None and (now - job.started).total_seconds() > pipeline.timeout_s
        if not (job.cancel_requested or late):
            return
        sign = signal.SIGTERM
        if (path / "told_to_end").exists():
            told = self._told.setdefault(path, self._db.clock.monotonic())
            if self._db.clock.monotonic() - told < GRACE_S:
                return
            sign = signal.SIGKILL
        else:
            (path / "told_to_end").write_text("timeout" if late and not job.cancel_requested else "cancel")
        with suppress(OSError, ValueError):
            os.kill(int((path / "pid").read_text()), sign)

    async def _late(self, job: Job) -> str:
        pipeline = await self._db.read(lambda tx: self._service.get(tx, job.project, job.pipeline, job.revision))
        return f"it ran longer than the {pipeline.timeout_s:g} s that its pipeline gives"

    async def _vanished(self, job: Job, path: Path) -> None:
        """Begin a job again whose process ended without a result, once; then give up."""
        self._children.pop(job.id, None)
        words = "its process ended without a result (killed, or the machine stopped)"
        if _told_to_end(path) == "timeout" and not job.cancel_requested:
            # It was told to end before it could answer, such as while it was starting.
            await self._end(job, JobState.TIMED_OUT, await self._late(job), {}, 0)
            return
        if job.attempt < MAX_ATTEMPTS and not job.cancel_requested:
            log.warning("job %s: %s; it is begun again", job.id, words)

            def again(tx: Tx) -> None:
                self._service.end(tx, job.id, job.attempt, JobState.FAILED, words, {}, 0)
                self._service.requeue(tx, self._service.job(tx, job.id), words)

            await self._db.write(again)
            return
        state = JobState.CANCELLED if job.cancel_requested else JobState.FAILED
        await self._end(job, state, words, {}, 0)

    async def _take_progress(self, job: Job, path: Path) -> None:
        lines = await asyncio.to_thread(_read_events, path)
        if lines:
            await self._db.write(lambda tx: self._service.take_progress(tx, job.id, job.attempt, lines))

    # Any: the trainer's result as JSON.
    async def _finish(self, job: Job, path: Path, result: Mapping[str, Any]) -> None:
        self._reap(job)
        state = outcome_state(result, timed_out=_told_to_end(path) == "timeout", cancelled=job.cancel_requested)
        given = await asyncio.to_thread(read_given, path)
        champion = given.get("champion_version", 0)
        result = {**result, "feature_set_revision": given.get("feature_set_revision", 0)}
        if state is not JobState.SUCCEEDED:
            why = await self._late(job) if state is JobState.TIMED_OUT else _why(state, result)
            await self._end(job, state, why, result, champion)
            return
        artifacts = self._artifacts()
        with artifacts.placing(job.version_id):
            new = await asyncio.to_thread(self._place, job, path, result)
            await self._db.write(lambda tx: self._service.succeed(tx, job.id, job.attempt, result, champion, new))

    def _place(self, job: Job, path: Path, result: Mapping[str, Any]) -> NewVersion:
        """Validate the artifact that the job made, as anybody's, and put it into the store."""
        artifacts = self._artifacts()
        files = artifacts.import_directory(path / "artifact")
        report = artifacts.validate(files)
        if not report.ok:
            problems = "; ".join(str(p) for p in report.errors[:5])
            raise PilotfishError(f"the artifact that the job made is not valid: {problems}")
        artifacts.commit(files, artifact_path(job.model, job.version, job.version_id))
        metrics = {k: float(v) for k, v in dict(result.get("metrics") or {}).items() if v is not None}
        return NewVersion(
            job.project, job.model, report.framework, files=files, signature=report.signature, metrics=metrics,
            hyperparameters=dict(result.get("hyperparameters") or {}),
            training_data_hash=str(result.get("data_hash", "")),
            dependencies=report.dependencies, profile_json=report.profile_json,
        )  # fmt: skip

    async def _end(self, job: Job, state: JobState, reason: str, result: Mapping[str, Any], champion: int) -> None:
        self._reap(job)
        await self._db.write(lambda tx: self._service.end(tx, job.id, job.attempt, state, reason, result, champion))

    def _reap(self, job: Job) -> None:
        self._told.pop(self._path(job), None)
        child = self._children.pop(job.id, None)
        if child is not None:
            child.poll()


def _why(state: JobState, result: Mapping[str, Any]) -> str:
    if state is JobState.REJECTED:
        failed = [
            f"{g.get('metric')} {g.get('value')} {g.get('comparison')} {g.get('bound')}"
            for g in result.get("gate", ())
            if str(g.get("verdict", "")).upper() != "PASS"
        ]
        return "the gate refused: " + ("; ".join(failed) or str(result.get("message", "")))
    issues = [str(i.get("message", "")) for i in result.get("issues", ()) if i.get("severity") == "error"]
    head = str(result.get("message", "") or result.get("reason", ""))
    return head + (": " + "; ".join(issues[:5]) if issues and issues[0] not in head else "")


def _told_to_end(path: Path) -> str:
    """Return why the process was told to end, `timeout` or `cancel`; empty: it was not."""
    try:
        return (path / "told_to_end").read_text()
    except OSError:
        return ""


def _read_result(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / "result.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read_events(path: Path) -> list[tuple[int, Progress]]:
    try:
        content = (path / "events.jsonl").read_bytes()
    except OSError:
        return []
    lines = []
    # A half-written last line is read when it is whole.
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        with suppress(ValueError, KeyError):
            e = json.loads(line)
            at = datetime.fromisoformat(e["time"])
            lines.append((int(e["seq"]), Progress(0, e["stage"], float(e["fraction"]), e["message"], e["metrics"], at)))
    return lines


def _is_running(path: Path) -> bool:
    """Tell whether the process that was started for this directory still lives."""
    try:
        process = psutil.Process(int((path / "pid").read_text()))
        # The pid may belong to somebody else after a restart of the machine: the command line tells.
        return process.status() != psutil.STATUS_ZOMBIE and str(path) in process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return False
