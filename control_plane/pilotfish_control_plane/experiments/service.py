"""What can be done with runs, each in the caller's transaction.

Owns the composition of rules and rows. It has no state of its own: any area may hold one.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any  # JSON of any depth

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from pilotfish_control_plane.experiments import rules
from pilotfish_control_plane.experiments.model import Comparison, Point, Run, RunKind, RunState
from pilotfish_control_plane.names import DEFAULT_PROJECT, RunName, is_id
from pilotfish_control_plane.storage import experiments as storage
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["MAX_SERIES_POINTS", "TOPIC", "ExperimentService"]

TOPIC = "run"
"""Woken by every change of a run."""

MAX_SERIES_POINTS = 50_000
"""Points that one call gives back; a longer series is cut at its end."""


class ExperimentService:
    """Runs, their metrics and series."""

    def record(
        self,
        tx: Tx,
        kind: RunKind | str,
        state: RunState | str,
        experiment: str,
        subject: str,
        parameters: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        project: str = DEFAULT_PROJECT,
    ) -> str:
        """Record a run and return its id; one that is not RUNNING has ended already.

        Args:
            tx: the transaction of what is recorded.
            kind: what it records.
            state: how it stands.
            experiment: usually the model's id.
            subject: resource name of what it is about.
            parameters: JSON object.
            metrics: name -> finite number, kept as step 0.
            tags: free labels.
            project: its id.

        Raises:
            InvalidArgument: parameters, metrics or tags; names every problem.
        """
        found = rules.check_run(parameters or {}, tags or {}, metrics)
        _refuse(found, "the run cannot be recorded")
        standing = RunState(state)
        run = Run(
            project=project,
            id=uuid.uuid4().hex,
            kind=RunKind(kind),
            state=standing,
            experiment=experiment,
            subject=subject,
            parameters=dict(parameters or {}),
            metrics=dict(metrics or {}),
            tags=dict(tags or {}),
            started_at=tx.now,
            ended_at=None if standing is RunState.RUNNING else tx.now,
            author=tx.actor.name,
        )
        storage.add(tx.conn, run)
        self._put(tx, run.id, [Point(name, 0, value) for name, value in run.metrics.items()])
        tx.emit("run.recorded", run.name, {"kind": run.kind.value, "state": run.state.value, "subject": subject})
        return run.id

    def create_run(
        self,
        tx: Tx,
        project: str,
        experiment: str,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        """Begin a run that a user records; return it.

        Raises:
            InvalidArgument: experiment, parameters or tags; names every problem.
        """
        found = rules.check_run(parameters or {}, tags or {})
        if not is_id(experiment):
            text = "must be an id: 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
            found.append(Violation("experiment", text, "BAD_NAME"))
        _refuse(found, "the run cannot be begun")
        run_id = self.record(
            tx, RunKind.CUSTOM, RunState.RUNNING, experiment, "", parameters, None, tags, project=project
        )
        run = self.get_run(tx, project, run_id)
        tx.audit("create", run.name, None, {"experiment": experiment})
        return run

    def get_run(self, tx: Tx, project: str, run_id: str) -> Run:
        """Return a run.

        Raises:
            NotFound: there is none.
        """
        run = storage.find(tx.conn, project, run_id)
        if run is None:
            raise NotFound(f"there is no run {RunName(project, run_id)}")
        return run

    def points(self, tx: Tx, run_id: str) -> list[Point]:
        """Return the run's series by metric and step."""
        return storage.points_of(tx.conn, run_id, MAX_SERIES_POINTS)

    def log_points(self, tx: Tx, run_id: str, points: Sequence[Point]) -> None:
        """Add points to a run, whatever its state; one with the metric and step of an earlier one replaces it.

        Raises:
            InvalidArgument: a point is not allowed; names each.
        """
        _refuse(rules.check_points(points), "the points cannot be logged")
        self._put(tx, run_id, points)
        tx.wake(TOPIC)

    def finish(
        self, tx: Tx, run_id: str, state: RunState | str, *, project: str = DEFAULT_PROJECT, subject: str = ""
    ) -> Run:
        """End a run that the platform began; `subject`: what came of it. Return the run."""
        return self.log_run(tx, project, run_id, state=RunState(state), subject=subject)

    def log_run(
        self,
        tx: Tx,
        project: str,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        state: RunState | None = None,
        subject: str = "",
    ) -> Run:
        """Add points, parameters or tags, and end the run when `state` says so; return the run.

        Raises:
            InvalidArgument: something is not allowed; names every problem.
            NotFound: there is no such run.
            FailedPrecondition: it has ended.
        """
        run = self.get_run(tx, project, run_id)
        after = replace(
            run,
            parameters={**run.parameters, **(parameters or {})},
            tags={**run.tags, **(tags or {})},
            state=state or run.state,
            ended_at=tx.now if state not in (None, RunState.RUNNING) else None,
            subject=subject or run.subject,
        )
        _refuse(rules.check_points(points) + rules.check_run(after.parameters, after.tags), f"{run.name}")
        if run.state is not RunState.RUNNING:
            raise FailedPrecondition(
                f"{run.name} has {run.state.value} and takes nothing more: begin another run",
                reason="RUN_ENDED",
                metadata={"state": run.state.value},
            )
        if after != run:
            storage.change(tx.conn, after)
            storage.touch(tx.conn, run_id)
        self._put(tx, run_id, points)
        tx.wake(TOPIC)
        if after.state is not run.state:
            tx.emit(f"run.{after.state.value}", run.name, {"experiment": run.experiment})
        return self.get_run(tx, project, run_id)

    def _put(self, tx: Tx, run_id: str, points: Sequence[Point]) -> None:
        if not points:
            return
        storage.touch(tx.conn, run_id)
        storage.put_points(tx.conn, run_id, points, tx.now)
        storage.put_newest(tx.conn, run_id, rules.newest(storage.newest_of(tx.conn, run_id), points))

    def list_runs(self, tx: Tx, project: str, request: PageRequest) -> Page[Run]:
        """Return a page of runs, newest first."""
        return storage.list_runs(tx.conn, project, request)

    def compare(self, tx: Tx, names: Sequence[RunName]) -> list[Comparison]:
        """Return one row per parameter and metric of 2 to 100 runs.

        Raises:
            InvalidArgument: too few or too many.
            NotFound: a run does not exist.
        """
        if not 2 <= len(names) <= 100:
            text = f"{len(names)} runs; 2 to 100 can be compared"
            raise InvalidArgument(text, violations=[Violation("names", text)])
        return rules.compare([self.get_run(tx, name.project, name.run) for name in names])


def _refuse(violations: Sequence[Violation], message: str) -> None:
    if violations:
        raise InvalidArgument(f"{message}: {len(violations)} problems", violations=violations)
