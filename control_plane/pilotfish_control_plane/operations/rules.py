"""How a job, a rollout or a deployment looks as an operation. Pure: rows and times are passed in."""

from __future__ import annotations

from datetime import datetime

from pilotfish.errors import Aborted, Cancelled, DeadlineExceeded, FailedPrecondition, PilotfishError, Violation
from pilotfish_control_plane.deployments.model import Deployment, DeploymentState
from pilotfish_control_plane.deployments.rollout_model import Rollout, RolloutState
from pilotfish_control_plane.operations.model import Operation, OperationKind, Subject
from pilotfish_control_plane.training.model import Job, JobState

__all__ = ["of_deployment", "of_job", "of_rollout"]

_JOB_ERRORS: dict[JobState, type[PilotfishError]] = {
    JobState.REJECTED: FailedPrecondition,
    JobState.FAILED: FailedPrecondition,
    JobState.CANCELLED: Cancelled,
    JobState.TIMED_OUT: DeadlineExceeded,
}


def of_job(job: Job, told: datetime | None = None) -> Operation:
    """Return a job's operation; `told` is when the job last told of its progress."""
    cls = _JOB_ERRORS.get(job.state)
    error = None if cls is None else _error(cls, job, f"JOB_{job.state.name}", _refusals(job))
    return Operation(
        OperationKind.JOB,
        job,
        job.stage or job.state.value,
        job.progress,
        job.started,
        _newest(job.created, job.started, told, job.ended),
        job.state.has_ended,
        error,
        job.cancel_requested or job.state is JobState.CANCELLED,
    )


def _refusals(job: Job) -> tuple[Violation, ...]:
    """Return what the gate had against the job's model."""
    if job.state is not JobState.REJECTED:
        return ()
    gate = [g for g in job.result.get("gate") or () if str(g.get("verdict", "")).upper() != "PASS"]
    return tuple(Violation(str(g.get("metric", "")), str(g.get("reason") or ""), "GATE") for g in gate)


def of_rollout(rollout: Rollout) -> Operation:
    """Return a rollout's operation."""
    succeeded, steps = rollout.state is RolloutState.SUCCEEDED, len(rollout.plan.steps)
    error: PilotfishError | None = None
    if rollout.state is RolloutState.ABORTED and rollout.cancelled:
        error = _error(Cancelled, rollout, "ROLLOUT_CANCELLED")
    elif rollout.state is RolloutState.ABORTED:
        error = _error(Aborted, rollout, "ROLLOUT_ABORTED")
    return Operation(
        OperationKind.ROLLOUT,
        rollout,
        f"step {min(rollout.step + 1, steps)} of {steps}",
        1.0 if succeeded else rollout.step / max(1, steps),
        rollout.step_began,
        _newest(rollout.created, rollout.step_began, rollout.wait_began, rollout.ended),
        not rollout.state.is_open,
        error,
        rollout.cancelled,
    )


def of_deployment(deployment: Deployment) -> Operation:
    """Return the operation of a deployment's way to its first READY."""
    error: PilotfishError | None = None
    if not deployment.state.is_coming and deployment.ready is None:
        if deployment.cancelled:
            error = _error(Cancelled, deployment, "DEPLOYMENT_CANCELLED")
        else:
            error = _error(FailedPrecondition, deployment, "DEPLOYMENT_FAILED")
    if deployment.ready is not None:
        progress = 1.0
    elif deployment.state is DeploymentState.WARMING:
        progress = 2 / 3
    else:
        progress = 0.0 if deployment.starting is None else 1 / 3
    return Operation(
        OperationKind.DEPLOYMENT,
        deployment,
        deployment.state.value,
        progress,
        deployment.starting,
        _newest(deployment.created, deployment.starting, deployment.ready, deployment.ended),
        not deployment.state.is_coming,
        error,
        deployment.cancelled,
    )


def _newest(created: datetime, *later: datetime | None) -> datetime:
    return max([created, *(t for t in later if t is not None)])


def _error(
    cls: type[PilotfishError], subject: Subject, reason: str, violations: tuple[Violation, ...] = ()
) -> PilotfishError:
    why = f": {subject.state_reason}" if subject.state_reason else ""
    metadata = {"resource": subject.name, "state": subject.state.name}
    message = f"{subject.name} is {subject.state.value.upper()}{why}"
    return cls(message, reason=reason, violations=violations, metadata=metadata)
