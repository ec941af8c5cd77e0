"""Pipelines and jobs in one transaction each: defined, triggered, cancelled, retried, ended.

Owns their life in the database. Processes and files are `training.runner`'s.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pilotfish.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PilotfishError,
    Violation,
)
from pilotfish_control_plane.features.service import FeatureService
from pilotfish_control_plane.names import JobName, PipelineName, VersionName, check_id
from pilotfish_control_plane.registry.model import Lineage, NewVersion, Version
from pilotfish_control_plane.storage import training as rows
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.trainer.spec_reader import read_spec
from pilotfish_control_plane.training.model import Delivery, Job, JobState, Pipeline, Progress, TriggerCommand
from pilotfish_control_plane.training.rules import TRIGGER_TYPES, masked_connection, next_slot, schedule_problem

__all__ = ["Neighbours", "TrainingService"]


class Neighbours(Protocol):
    """What training needs of the other areas."""

    def begin_version(self, tx: Tx, new: NewVersion) -> Version:
        """Create the version that a job will make."""
        ...

    def complete_version(self, tx: Tx, version_id: str, new: NewVersion) -> Version:
        """Give a job's version its artifact."""
        ...

    def fail_version(self, tx: Tx, version_id: str, reason: str, metrics: Mapping[str, float]) -> None:
        """Keep the results of a job whose gate refused."""
        ...

    def deliver(self, tx: Tx, project: str, version_name: str, delivery: Delivery) -> str:
        """Deploy the version; return the deployment's resource name."""
        ...

    def record(self, tx: Tx, job: Job, parameters: Mapping[str, Any], metrics: Mapping[str, float], ok: bool) -> None:
        """Record the run in the experiment tracker."""
        ...

    @property
    def features(self) -> FeatureService:
        """The feature store."""
        ...


class TrainingService:
    """Pipelines and their jobs."""

    def __init__(self, neighbours: Neighbours) -> None:
        """Reach other areas through `neighbours`."""
        self._neighbours = neighbours

    # Pipelines -------------------------------------------------------------------------------------------

    def create(self, tx: Tx, pipeline: Pipeline) -> Pipeline:
        """Store a new pipeline.

        Raises:
            InvalidArgument: every bad field.
            NotFound: its feature set.
            AlreadyExists: the id is taken.
        """
        check_id(pipeline.id, "pipeline_id")
        if rows.pipeline(tx.conn, pipeline.project, pipeline.id) is not None:
            raise AlreadyExists(f"there is a pipeline {pipeline.id} already: change it with UpdatePipeline")
        return self._put(tx, dataclasses.replace(pipeline, revision=1, created=tx.now, author=tx.actor.name), None)

    def update(self, tx: Tx, pipeline: Pipeline, fields: Sequence[str], etag: str = "") -> Pipeline:
        """Change the fields named (all, if none is) as a new revision.

        Raises:
            Aborted: the etag is not the newest.
        """
        before = self.get(tx, pipeline.project, pipeline.id)
        if etag and etag != before.etag:
            raise Aborted(f"pipeline {pipeline.id} was changed meanwhile: read it again and repeat")
        after = _merged(before, pipeline, fields)
        return self._put(tx, dataclasses.replace(after, revision=before.revision + 1), before)

    def _put(self, tx: Tx, pipeline: Pipeline, before: Pipeline | None) -> Pipeline:
        self._check(tx, pipeline)
        due = next_slot(pipeline.schedule, tx.now) if pipeline.schedule else None
        found = dataclasses.replace(pipeline, updated=tx.now, due=due)
        rows.put_pipeline(tx.conn, found, tx.actor.name)
        tx.audit(
            "PutPipeline", found.name, {"revision": before.revision} if before else None, {"revision": found.revision}
        )
        tx.emit("pipeline.revised", found.name, {"revision": found.revision})
        tx.wake("training")
        return found

    def _check(self, tx: Tx, pipeline: Pipeline) -> None:
        problems: list[Violation] = []
        try:
            check_id(pipeline.model, "pipeline.model")
        except InvalidArgument as error:
            problems += error.violations
        try:
            read_spec(_checkable(pipeline.definition))
        except InvalidArgument as error:
            problems += [dataclasses.replace(v, field=f"pipeline.{v.field}") for v in error.violations]
        if pipeline.schedule and (problem := schedule_problem(pipeline.schedule)):
            problems.append(Violation("pipeline.schedule", problem))
        if not (math.isfinite(pipeline.timeout_s) and pipeline.timeout_s > 0):
            problems.append(Violation("pipeline.timeout_s", f"{pipeline.timeout_s:g} is no positive number of seconds"))
        for i, trigger in enumerate(pipeline.triggers):
            if not (math.isfinite(trigger.cooldown_s) and trigger.cooldown_s >= 0):
                text = f"{trigger.cooldown_s:g} is no number of seconds, 0 or more"
                problems.append(Violation(f"pipeline.triggers[{i}].cooldown_s", text))
            if trigger.type not in TRIGGER_TYPES:
                text = f"{trigger.type!r} is not one of {', '.join(TRIGGER_TYPES)}"
                problems.append(Violation(f"pipeline.triggers[{i}].type", text))
            elif trigger.type != "schedule" and not trigger.endpoint:
                problems.append(
                    Violation(f"pipeline.triggers[{i}].endpoint", f"{trigger.type} needs the endpoint to watch")
                )
            elif trigger.type == "schedule" and not pipeline.schedule:
                problems.append(Violation("pipeline.schedule", "the trigger `schedule` needs a cron expression here"))
        if problems:
            raise InvalidArgument(f"pipeline {pipeline.id} cannot be used", violations=problems)
        feature_set = str(pipeline.definition.get("feature_config", {}).get("feature_set_id", ""))
        if feature_set:
            self._neighbours.features.get(tx, pipeline.project, feature_set)

    def get(self, tx: Tx, project: str, pipeline_id: str, revision: int = 0) -> Pipeline:
        """Return a revision of a pipeline, 0: its newest.

        Raises:
            NotFound: there is none.
        """
        found = rows.pipeline(tx.conn, project, pipeline_id, revision)
        if found is None:
            which = f" revision {revision}" if revision else ""
            raise NotFound(f"there is no pipeline {PipelineName(project, pipeline_id)}{which}")
        return found

    def list_all(self, tx: Tx, project: str) -> list[Pipeline]:
        """Return every pipeline of a project, by id."""
        return rows.all_pipelines(tx.conn, project)

    # Jobs ------------------------------------------------------------------------------------------------

    def trigger(self, tx: Tx, command: TriggerCommand) -> Job:
        """Start a pipeline: a job that is durable and waits for its process."""
        pipeline = self.get(tx, command.project, command.pipeline)
        if command.delivery is not None and command.delivery.stage not in ("development", "staging", "canary"):
            raise InvalidArgument(
                "a job delivers to development, staging or canary",
                violations=[Violation("delivery.stage", f"{command.delivery.stage!r}: promotion does the rest")],
            )
        job = Job(
            id=f"job-{secrets.token_hex(6)}",
            number=rows.next_job_number(tx.conn),
            project=pipeline.project,
            pipeline=pipeline.id,
            revision=pipeline.revision,
            model=pipeline.model,
            state=JobState.QUEUED,
            author=tx.actor.name,
            created=tx.now,
            trigger=command.trigger,
            trigger_reason=command.reason or command.trigger,
            delivery=command.delivery,
        )
        rows.add_job(tx.conn, job)
        tx.audit("TriggerPipeline", job.name, None, {"reason": job.trigger_reason, "trigger": job.trigger})
        self._tell(tx, job)
        return job

    def job(self, tx: Tx, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none.
        """
        found = rows.job(tx.conn, job_id)
        if found is None:
            raise NotFound(f"there is no job {job_id}")
        return found

    def named(self, tx: Tx, name: JobName | str) -> Job:
        """Return a job by its full name, or by its id alone.

        Raises:
            NotFound: there is none, or it is in another project or of another pipeline than the name says: the name is
                what the caller's role was looked at for.
        """
        if isinstance(name, str):
            return self.job(tx, name)
        found = rows.job(tx.conn, name.job)
        if found is None or (found.project, found.pipeline) != (name.project, name.pipeline):
            raise NotFound(f"there is no job {name}")
        return found

    def cancel(self, tx: Tx, job_id: str, reason: str) -> Job:
        """Cancel a job: at once while it waits, else its process is told to end.

        Raises:
            FailedPrecondition: it has ended.
        """
        job = self.job(tx, job_id)
        if job.state.has_ended:
            raise FailedPrecondition(f"job {job_id} has ended already ({job.state.value})")
        words = f"cancelled by {tx.actor.name}" + (f": {reason}" if reason else "")
        changed = dataclasses.replace(job, cancel_requested=True, state_reason=words)
        if job.state is JobState.QUEUED:
            changed = dataclasses.replace(changed, state=JobState.CANCELLED, ended=tx.now)
            self._fail_version(tx, changed, words, {})
        rows.set_job(tx.conn, changed)
        tx.audit("CancelJob", job.name, {"state": job.state.value}, {"state": changed.state.value, "reason": reason})
        self._tell(tx, changed)
        return changed

    def retry(self, tx: Tx, job_id: str) -> Job:
        """Run a failed, cancelled or timed-out job again under the same id.

        Raises:
            FailedPrecondition: it runs, succeeded, or its gate refused.
        """
        job = self.job(tx, job_id)
        if job.state not in (JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT):
            raise FailedPrecondition(
                f"job {job_id} is {job.state.value}; only failed, cancelled and timed-out jobs are retried"
            )
        return self.requeue(tx, job, f"retried by {tx.actor.name}")

    def requeue(self, tx: Tx, job: Job, why: str) -> Job:
        """Put a job back into the queue as its next attempt, with a version number of its own."""
        again = dataclasses.replace(
            job, state=JobState.QUEUED, state_reason=why, attempt=job.attempt + 1, stage="", progress=0.0, runner="",
            cancel_requested=False, ended=None, version=0, version_id="", result={},
        )  # fmt: skip
        rows.set_job(tx.conn, again)
        tx.audit("RetryJob", job.name, {"attempt": job.attempt}, {"attempt": again.attempt, "why": why})
        self._tell(tx, again)
        return again

    # What the runner does --------------------------------------------------------------------------------

    def claim(self, tx: Tx, runner: str, free: int) -> list[Job]:
        """Take up to `free` waiting jobs: each is RUNNING from now on and has its version's number."""
        taken = []
        for job in rows.jobs_in(tx.conn, [JobState.QUEUED])[: max(0, free)]:
            code = f"{PipelineName(job.project, job.pipeline)}@{job.revision}"
            new = NewVersion(
                job.project, job.model, "onnx", description=f"made by {job.name}", tags={"pipeline": job.pipeline},
                lineage=Lineage(job.name, 0, "", code, job.trigger_reason),
            )  # fmt: skip
            try:
                with tx.savepoint():
                    version = self._neighbours.begin_version(tx, new)
            except (InvalidArgument, FailedPrecondition, NotFound, AlreadyExists) as error:
                # One job that cannot begin must not keep those behind it from beginning.
                self._ended(tx, job, JobState.FAILED, f"its version cannot be begun: {error}", {}, 0)
                continue
            running = dataclasses.replace(
                job, state=JobState.RUNNING, runner=runner, started=tx.now, version_id=version.id,
                version=version.number, state_reason="",
            )  # fmt: skip
            rows.set_job(tx.conn, running)
            self._tell(tx, running)
            taken.append(running)
        return taken

    def running(self, tx: Tx, runner: str) -> list[Job]:
        """Return the jobs that a runner looks after."""
        return rows.jobs_in(tx.conn, [JobState.RUNNING], runner)

    def take_progress(self, tx: Tx, job_id: str, attempt: int, lines: Sequence[tuple[int, Progress]]) -> None:
        """Store lines of the trainer's progress that are not stored yet."""
        job = self.job(tx, job_id)
        newest, source = rows.last_progress(tx.conn, job_id, attempt)
        fresh = [(own, line) for own, line in lines if own > source]
        if not fresh or job.state is not JobState.RUNNING or job.attempt != attempt:
            return
        for own, line in fresh:
            newest += 1
            rows.add_progress(tx.conn, job_id, attempt, own, dataclasses.replace(line, sequence=newest))
        last = fresh[-1][1]
        rows.set_job(tx.conn, dataclasses.replace(job, stage=last.stage, progress=last.fraction))
        tx.wake(f"job.{job_id}")

    def progress(self, tx: Tx, job_id: str, after: int) -> list[Progress]:
        """Return the lines of progress after a sequence number."""
        return rows.progress_after(tx.conn, job_id, after)

    def succeed(
        self, tx: Tx, job_id: str, attempt: int, result: Mapping[str, Any], champion: int, new: NewVersion
    ) -> Job | None:
        """End a job well: register its version and deliver it, all in this transaction; None: it has ended before."""
        job = self._open(tx, job_id, attempt)
        if job is None:
            return None
        lineage = Lineage(
            job.name, champion, str(result.get("data_hash", "")),
            f"{PipelineName(job.project, job.pipeline)}@{job.revision}", job.trigger_reason,
        )  # fmt: skip
        new = dataclasses.replace(new, lineage=lineage)
        version = self._neighbours.complete_version(tx, job.version_id, new)
        done = self._ended(tx, job, JobState.SUCCEEDED, f"made {version.model}@{version.number}", result, champion)
        if job.delivery is not None and job.delivery.endpoint:
            name = str(VersionName(job.project, job.model, version.number))
            try:
                with tx.savepoint():
                    deployed = self._neighbours.deliver(tx, job.project, name, job.delivery)
                words = f"made {version.model}@{version.number}, delivered as {deployed}"
            except PilotfishError as error:
                # The version stands; what kept it from being deployed is said where people look.
                words = f"made {version.model}@{version.number}; not delivered: {error}"
            done = dataclasses.replace(done, state_reason=words)
            rows.set_job(tx.conn, done)
        return done

    def end(
        self, tx: Tx, job_id: str, attempt: int, state: JobState, reason: str, result: Mapping[str, Any], champion: int
    ) -> Job | None:
        """End a job without a version; None: it has ended before."""
        job = self._open(tx, job_id, attempt)
        if job is None:
            return None
        metrics = {k: v for k, v in dict(result.get("metrics") or {}).items() if v is not None}
        if state is JobState.CANCELLED and job.cancel_requested:
            reason = job.state_reason  # who cancelled it and why says more than that its process ended
        self._fail_version(tx, job, reason, metrics)
        return self._ended(tx, job, state, reason, result, champion)

    def _open(self, tx: Tx, job_id: str, attempt: int) -> Job | None:
        job = self.job(tx, job_id)
        return job if job.state is JobState.RUNNING and job.attempt == attempt else None

    def _ended(self, tx: Tx, job: Job, state: JobState, reason: str, result: Mapping[str, Any], champion: int) -> Job:
        progress = 1.0 if state is JobState.SUCCEEDED else job.progress
        done = dataclasses.replace(
            job, state=state, state_reason=reason, result=dict(result), ended=tx.now, progress=progress,
            champion_version=champion,
        )  # fmt: skip
        rows.set_job(tx.conn, done)
        metrics = {k: float(v) for k, v in dict(result.get("metrics") or {}).items() if v is not None}
        ok = state is JobState.SUCCEEDED
        self._neighbours.record(tx, done, dict(result.get("hyperparameters") or {}), metrics, ok)
        pipeline = self.get(tx, job.project, job.pipeline, job.revision)
        feature_set = str(pipeline.definition.get("feature_config", {}).get("feature_set_id", ""))
        if feature_set and result.get("feature_statistics"):
            # The set may have been revised while the job ran: what counts is the revision that it was given.
            revision = int(result.get("feature_set_revision") or 0)
            if not revision:
                revision = self._neighbours.features.get(tx, job.project, feature_set).revision
            self._neighbours.features.keep_statistics(
                tx, job.project, feature_set, revision, job.name, result["feature_statistics"]
            )
        self._tell(tx, done)
        return done

    def _fail_version(self, tx: Tx, job: Job, reason: str, metrics: Mapping[str, float]) -> None:
        if job.version_id:
            self._neighbours.fail_version(tx, job.version_id, reason[:1000], metrics)

    def _tell(self, tx: Tx, job: Job) -> None:
        payload = {"pipeline": job.pipeline, "reason": job.state_reason, "version": job.version, "attempt": job.attempt}
        tx.emit(f"job.{job.state.value}", job.name, payload)
        tx.wake("training")
        tx.wake(f"job.{job.id}")


def _merged(before: Pipeline, after: Pipeline, fields: Sequence[str]) -> Pipeline:
    """Return `before` with the fields named taken from `after`; parts of the definition are named by themselves."""
    own = {"description", "triggers", "schedule", "timeout_s"}
    parts = {"data_sources", "feature_config", "training_config", "evaluation_config", "quality_config"}
    unknown = [f for f in fields if f not in own | parts]
    if unknown:
        raise InvalidArgument(
            f"these fields cannot be changed: {', '.join(unknown)}",
            violations=[
                Violation("update_mask", f"{f} is not one of {', '.join(sorted(own | parts))}") for f in unknown
            ],
        )
    chosen = set(fields) or own | parts
    definition = dict(before.definition)
    for part in parts & chosen:
        definition.pop(part, None)
        if part in after.definition:
            definition[part] = after.definition[part]
    if "data_sources" in chosen:
        definition["data_sources"] = _unmasked(before.definition, definition["data_sources"])
    changed: dict[str, Any] = {name: getattr(after, name) for name in own & chosen}
    return dataclasses.replace(before, definition=definition, **changed)


# Any: the definition's JSON, here and below.
def _unmasked(before: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return sources whose connection was read with its password masked with the password they have had."""
    known = {s.get("name"): str(s.get("connection", "")) for s in before.get("data_sources", ())}
    found = []
    for source in sources:
        old = known.get(source.get("name"), "")
        same = old and source.get("connection") == masked_connection(old)
        found.append({**source, "connection": old} if same else source)
    return found


def _checkable(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition as the trainer would read it: exports of the prediction log get their path at the start."""
    sources = []
    for source in definition.get("data_sources", ()):
        if source.get("type") == "prediction_log":
            sources.append({"name": source.get("name", ""), "type": "prediction_log", "path": "rows.parquet"})
        else:
            sources.append(source)
    return {**definition, "data_sources": sources}
