"""Hands every run that changed to the exporter, through the outbox.

Owns which revision of a run was handed over. It calls nobody: the action's executor does.
"""

from __future__ import annotations

from pilotfish_control_plane.experiments.service import TOPIC
from pilotfish_control_plane.storage import actions
from pilotfish_control_plane.storage import experiments as storage
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["EXPORT_RUN", "RunExports"]

EXPORT_RUN = "export_run"
"""The action's kind; payload: project, run."""

BATCH = 100
RETRIES = 1_000
"""Attempts, with growing pauses between them: the server may be away for days."""


class RunExports:
    """Enqueues an export for every run whose newest revision was not handed over yet."""

    name = "run_exports"
    topics = (TOPIC,)

    def reconcile(self, tx: Tx) -> float | None:
        """Hand over what changed; at once again when there is more."""
        waiting = storage.unexported(tx.conn, BATCH)
        for project, run_id, revision in waiting:
            actions.enqueue(
                tx,
                key=f"mlflow/{run_id}/{revision}",
                kind=EXPORT_RUN,
                payload={"project": project, "run": run_id},
                max_attempts=RETRIES,
            )
            storage.set_exported(tx.conn, run_id)
        return 0.0 if len(waiting) == BATCH else None
