"""An operation as a frozen value: a view of a job, a rollout or a deployment.

Owns the words. It holds no state of its own: everything is read off the resource that it shows.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from pilotfish.errors import PilotfishError
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.deployments.rollout_model import Rollout
from pilotfish_control_plane.names import OPERATIONS
from pilotfish_control_plane.training.model import Job

__all__ = ["Operation", "OperationKind", "Subject"]

Subject = Job | Rollout | Deployment


class OperationKind(enum.StrEnum):
    """What an operation is a view of."""

    JOB = "job"
    ROLLOUT = "rollout"
    DEPLOYMENT = "deployment"


@dataclass(frozen=True, slots=True)
class Operation:
    """How far a piece of long work is.

    Args:
        stage: what is being done.
        progress: ratio done, 0..1.
        started: when the work began; None: it has not.
        updated: when it last moved.
        done: it will not go on by itself.
        error: what became of one that is done and did not succeed; None: it succeeded, or is not done.
        cancel_requested: somebody asked for its end.
    """

    kind: OperationKind
    subject: Subject
    stage: str
    progress: float
    started: datetime | None
    updated: datetime
    done: bool
    error: PilotfishError | None = None
    cancel_requested: bool = False

    @property
    def name(self) -> str:
        """The operation's name."""
        return f"{OPERATIONS}/{self.subject.name}"
