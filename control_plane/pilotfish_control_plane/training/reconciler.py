"""Starts pipelines by themselves: schedules that are due, and evidence that their triggers wait for.

Owns when a pipeline's own triggers fire. Rules of lifecycle automation are another area's.
"""

from __future__ import annotations

from collections.abc import Callable

from pilotfish_control_plane.monitoring.model import EvidenceEvent
from pilotfish_control_plane.storage import training as rows
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.model import Pipeline, TriggerCommand
from pilotfish_control_plane.training.rules import cooled_down, next_slot
from pilotfish_control_plane.training.service import TrainingService

__all__ = ["PipelineTriggers"]

CURSOR = "pipeline-triggers"


class PipelineTriggers:
    """Looks at schedules and evidence; each slot and each episode starts a pipeline once."""

    name = "pipeline-triggers"
    topics = ("training", "lifecycle")

    def __init__(
        self, service: TrainingService, evidence_after: Callable[[Tx, int], list[tuple[int, EvidenceEvent]]]
    ) -> None:
        """Read evidence through the function given."""
        self._service = service
        self._evidence_after = evidence_after

    def reconcile(self, tx: Tx) -> float | None:
        """Start what is due; return the seconds until the next slot."""
        waits = [self._schedule(tx, p) for p in rows.scheduled(tx.conn)]
        serial = rows.cursor(tx.conn, CURSOR)
        newest = serial
        for after, event in self._evidence_after(tx, serial):
            self._evidence(tx, event)
            newest = after
        if newest != serial:
            rows.set_cursor(tx.conn, CURSOR, newest)
        return min(waits, default=None)

    def _schedule(self, tx: Tx, pipeline: Pipeline) -> float:
        due = pipeline.due or next_slot(pipeline.schedule, tx.now)
        if due <= tx.now:
            # Slots that passed while nothing ran are made up for once, not one by one.
            command = TriggerCommand(pipeline.id, f"schedule {due.isoformat()}", "schedule", pipeline.project)
            self._service.trigger(tx, command)
            due = next_slot(pipeline.schedule, tx.now)
        if due != pipeline.due:
            rows.set_due(tx.conn, pipeline, due)
        return max(0.0, (due - tx.now).total_seconds())

    def _evidence(self, tx: Tx, event: EvidenceEvent) -> None:
        for pipeline in rows.all_pipelines(tx.conn, event.project):
            for trigger in pipeline.triggers:
                if trigger.type != event.kind.value or trigger.endpoint != event.endpoint:
                    continue
                newest = rows.newest_job(tx.conn, pipeline.project, pipeline.id, [trigger.type])
                if cooled_down(trigger, newest, tx.now):
                    self._service.trigger(tx, TriggerCommand(pipeline.id, event.id, trigger.type, event.project))
