"""One training job, stage by stage.

Owns the order of the stages, what is reported of each, and the result. Every decision is made in the module of its
stage; this one only carries values from one to the next.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.trainer.artifact import (
    build_training_profile,
    example_document,
    feature_set_document,
    write_artifact,
)
from pilotfish_control_plane.trainer.crossfit import cross_fitted
from pilotfish_control_plane.trainer.evaluate import ChampionResult, Evaluation, evaluate, evaluate_champion
from pilotfish_control_plane.trainer.export import Exported, export_model
from pilotfish_control_plane.trainer.features import FittedFeatures, feature_statistics, fit_features
from pilotfish_control_plane.trainer.fit import FitData, FittedModel, fit_model
from pilotfish_control_plane.trainer.gate import GateEntry, gate_passed, judge_champion, judge_thresholds
from pilotfish_control_plane.trainer.importance import Importance, importance
from pilotfish_control_plane.trainer.job_directory import EventLog, JobDirectory
from pilotfish_control_plane.trainer.joins import join_sources
from pilotfish_control_plane.trainer.metric_names import default_metric
from pilotfish_control_plane.trainer.model_card import model_card
from pilotfish_control_plane.trainer.outcome import (
    Issue,
    JobResult,
    Outcome,
    Reason,
    Severity,
    TrainingFailed,
)
from pilotfish_control_plane.trainer.parity import Parity, check_parity
from pilotfish_control_plane.trainer.quality import check_quality, repeated_rows
from pilotfish_control_plane.trainer.quality_drift import check_drift
from pilotfish_control_plane.trainer.scorer import Answers
from pilotfish_control_plane.trainer.sources import load_sources
from pilotfish_control_plane.trainer.spec import JobSpec, Task
from pilotfish_control_plane.trainer.splits import Split, split_rows
from pilotfish_control_plane.trainer.table import Table, data_hash, prepare_table, resolve_roles

__all__ = ["STAGES", "run_job"]

logger = logging.getLogger(__name__)

# The stage's name and the fraction of the job that is done when it begins; train is most of the work.
STAGES: dict[str, float] = {
    "start": 0.0,
    "load": 0.05,
    "quality": 0.15,
    "split": 0.25,
    "features": 0.28,
    "train": 0.32,
    "export": 0.72,
    "evaluate": 0.82,
    "gate": 0.94,
    "save": 0.96,
    "end": 1.0,
}
_MAX_PARITY_ROWS = 20_000
_CROSS_FIT_SECONDS = 15.0


@dataclass(slots=True)
class _State:
    """What is known of the job so far; whatever happens, the result tells as much of it as there is."""

    issues: list[Issue] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)


def run_job(spec: JobSpec, directory: JobDirectory, events: EventLog, clock: Clock) -> JobResult:
    """Run a job in `directory` and return its result; the caller writes it.

    Every failure of the job becomes a result. What is raised is `JobCancelled`, and bugs.
    """
    begin = clock.monotonic()
    state = _State()
    job = _Job(spec, directory, events, clock, state)
    try:
        outcome, reason, message = job.run()
    except TrainingFailed as failure:
        state.issues += [issue for issue in failure.issues if issue not in state.issues]
        outcome, reason, message = Outcome.FAILED, str(failure.reason), failure.message
    except MemoryError:
        message = "the job ran out of memory; use fewer rows, or give it more"
        state.issues.append(Issue("memory", Severity.ERROR, "", message))
        outcome, reason = Outcome.FAILED, str(Reason.OUT_OF_MEMORY)
    if outcome is not Outcome.SUCCEEDED:
        _remove(directory.artifact)
    ordered = sorted(state.issues, key=lambda issue: issue.severity is not Severity.ERROR)
    return JobResult(
        outcome=outcome,
        reason=reason,
        message=message,
        issues=tuple(ordered),
        artifact_dir="artifact" if outcome is Outcome.SUCCEEDED else None,
        completed_at=clock.now(),
        seconds=round(clock.monotonic() - begin, 3),
        **state.known,
    )


def _remove(artifact: Path) -> None:
    """Remove what an earlier attempt, or a model that did not pass, has left."""
    if artifact.exists():
        shutil.rmtree(artifact)


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    """A model with everything it was made from."""

    parts: tuple[Table, Table, Table]
    fitted: FittedFeatures
    model: FittedModel
    exported: Exported
    parity: Parity
    outputs: Answers
    statistics: Mapping[str, Any]


class _Job:
    """The stages, in order; each reports itself and leaves what it found in the state."""

    def __init__(self, spec: JobSpec, directory: JobDirectory, events: EventLog, clock: Clock, state: _State) -> None:
        self.spec = spec
        self.directory = directory
        self.events = events
        self.clock = clock
        self.state = state

    def run(self) -> tuple[Outcome, str, str]:
        """Return outcome, reason and message."""
        spec = self.spec
        _remove(self.directory.artifact)
        raw = self.load(spec)
        table = self.checked(spec, raw)
        trained = self.train(spec, table)
        evaluation, champion, shares = self.measure(spec, trained)
        self.begin("gate", "judging")
        entries = _gate(spec, evaluation, champion, len(trained.parts[2]))
        self.state.known["gate"] = [_entry_document(entry) for entry in entries]
        for entry in entries:
            self.events.append("gate", STAGES["gate"], f"{entry.verdict}: {entry.reason}")
        if not gate_passed(entries):
            failed = [entry for entry in entries if str(entry.verdict) != "PASS"]
            said = "; ".join(f"{entry.verdict} {entry.reason}" for entry in failed)
            self.end(f"rejected by {len(failed)} of {len(entries)} criteria", evaluation.metrics)
            return Outcome.REJECTED, str(Reason.GATE_FAILED), f"the quality gate is not passed: {said}"
        self.save(spec, trained, evaluation, shares)
        self.end("the model passed the gate", evaluation.metrics)
        return Outcome.SUCCEEDED, "", ""

    def begin(self, stage: str, message: str) -> None:
        """Report that a stage begins; the one before has ended, so the log is forced to the disk."""
        logger.info("%s: %s", stage, message)
        self.events.append(stage, STAGES[stage], message, durable=True)

    def end(self, message: str, metrics: Mapping[str, float | None]) -> None:
        """Report the end."""
        self.events.append("end", STAGES["end"], message, metrics, durable=True)

    def report(self, stage: str, until: str, share: float, message: str, metrics: Mapping[str, Any]) -> None:
        """Report progress within a stage: `share` 0..1 of the way to the next one."""
        fraction = STAGES[stage] + share * (STAGES[until] - STAGES[stage])
        self.events.append(stage, fraction, message, metrics)

    def load(self, spec: JobSpec) -> Any:
        """Return the joined rows of all sources."""
        self.begin("load", f"reading {len(spec.sources)} source(s)")
        read: list[str] = []

        def progress(name: str, rows: int) -> None:
            read.append(name)
            self.report("load", "quality", len(read) / len(spec.sources), f"{name}: {rows} rows", {"rows": rows})

        frames = load_sources(spec.sources, spec.allowed_roots, spec.allow_private, progress)
        features = spec.features
        named = features.features or features.feature_set.features
        wanted = None if named is None else [*named, features.label]
        raw, warnings = join_sources(frames, features.join, wanted)
        self.state.issues += warnings
        return raw

    def checked(self, spec: JobSpec, raw: Any) -> Table:
        """Return the rows to learn from, after every check of quality."""
        self.begin("quality", f"checking {len(raw)} rows")
        task, quality = spec.training.model.task, spec.quality
        roles, issues = resolve_roles(raw, spec.features)
        others = (roles.label, roles.id_column, roles.time_column, roles.group_column)
        if not roles.features or any(name is not None and name not in raw.columns for name in others):
            raise TrainingFailed(Reason.DATA_QUALITY, "columns are missing from the data", issues)
        table, type_issues = prepare_table(raw, roles, task)
        unlabelled = len(raw) - len(table)
        issues += check_quality(table, unlabelled, quality, task, type_issues)
        issues += check_drift(table, spec.previous_profile, quality.checks["drift"])
        self.state.issues += issues
        if unlabelled:
            message = f"{unlabelled} of {len(raw)} rows have no label and were left out"
            self.state.issues.append(Issue("label", Severity.WARNING, roles.label, message, float(unlabelled)))
        errors = sum(issue.severity is Severity.ERROR for issue in issues)
        if errors:
            raise TrainingFailed(Reason.DATA_QUALITY, f"the data has {errors} problem(s)", issues)
        if quality.checks["duplicates"].enabled and quality.checks["duplicates"].flags["drop"]:
            table = table.take(np.flatnonzero(~repeated_rows(table)))
        self.state.known["data_hash"] = data_hash(table)
        return table

    def train(self, spec: JobSpec, table: Table) -> _Trained:
        """Return the trained and exported model."""
        task, seed = spec.training.model.task, spec.seed
        self.begin("split", f"dividing {len(table)} rows by the {spec.training.split.method} method")
        split = split_rows(table, spec.training.split, task)
        parts = (table.take(split.train), table.take(split.validation), table.take(split.test))
        self.state.known["rows"] = _row_counts(table, split)
        self.begin("features", f"fitting the features on {len(parts[0])} rows")
        fitted, matrix = fit_features(spec.features.feature_set, parts[0], task, seed)
        statistics = feature_statistics(parts[0], fitted)
        self.state.known["feature_statistics"] = statistics
        self.begin("train", f"training {spec.training.model.type} on {len(fitted.names)} features")
        data = FitData(matrix, parts[0].label, fitted.transform(parts[1].features), parts[1].label)
        model = fit_model(
            data,
            spec.training,
            seed,
            self.clock,
            lambda share, message, metrics: self.report("train", "export", share, message, metrics),
        )
        self.state.issues += model.issues
        self.state.known |= {"hyperparameters": model.hyperparameters, "search": model.search}
        self.begin("export", "writing the model as one ONNX graph")
        exported = export_model(model.estimator, fitted, parts[0].label, table.roles.label, task)
        spread = float(np.std(table.label)) if task is Task.REGRESSION else 1.0
        step = max(1, len(table) // _MAX_PARITY_ROWS)
        shown = table.features.iloc[::step]
        parity = check_parity(exported, model.estimator, fitted, shown, task, spread)
        self.report("export", "evaluate", 0.5, f"{parity.rows} rows agree within {parity.worst:.2g}", {})
        outputs = self.outputs(spec, model, exported, parts[0], matrix)
        return _Trained(parts, fitted, model, exported, parity, outputs, statistics)

    def outputs(self, spec: JobSpec, model: FittedModel, exported: Exported, train: Table, matrix: Any) -> Answers:
        """Return the model's outputs for the training rows, each as if it had not been learned from."""
        task = spec.training.model.task
        found: Answers | None = None
        if model.seconds * 5 <= _CROSS_FIT_SECONDS:
            generator = np.random.default_rng(spec.seed)
            found = cross_fitted(
                model.estimator, matrix, train.label, train.hashes, exported.scorer.classes, task, generator
            )
        if found is not None:
            return found
        message = (
            "the reference for prediction drift is made of the model's answers to its own training rows, which are "
            "surer than its answers to new ones"
        )
        self.state.issues.append(Issue("profile", Severity.WARNING, "", message))
        return exported.scorer.answer(train.features)

    def measure(self, spec: JobSpec, trained: _Trained) -> tuple[Evaluation, ChampionResult | None, Importance | None]:
        """Return the metrics on the test split, the champion's, and the importance of the features."""
        config, task, test = spec.evaluation, spec.training.model.task, trained.parts[2]
        self.begin("evaluate", f"evaluating on {len(test)} test rows")
        scorer = trained.exported.scorer
        evaluation = evaluate(scorer, test, config, task)
        self.state.known |= {"metrics": evaluation.metrics, "confusion_matrix": evaluation.confusion}
        self.report("evaluate", "gate", 0.3, "test metrics", evaluation.metrics)
        champion: ChampionResult | None = None
        if config.champion is not None and spec.champion_dir is not None:
            champion = evaluate_champion(
                Path(spec.champion_dir),
                evaluation,
                scorer.classes,
                test,
                config,
                task,
                np.random.default_rng(spec.seed + 1),
            )
            self.state.known["champion_metrics"] = champion.metrics
            self.report("evaluate", "gate", 0.6, "the champion's test metrics", champion.metrics or {})
        shares: Importance | None = None
        if config.importance_seconds > 0:
            generator = np.random.default_rng(spec.seed + 2)
            shares = importance(scorer, test, task, generator, self.clock, config.importance_seconds)
            self.state.known["feature_importance"] = shares.values
        return evaluation, champion, shares

    def save(self, spec: JobSpec, trained: _Trained, evaluation: Evaluation, shares: Importance | None) -> None:
        """Write the files of the version."""
        self.begin("save", "writing the files of the version")
        train, test = trained.parts[0], trained.parts[2]
        classes = trained.exported.scorer.classes
        profile = build_training_profile(train, trained.outputs, classes)
        documents = {
            "example": example_document(trained.exported, test.features),
            "feature_set": feature_set_document(spec.features, trained.fitted, trained.statistics),
            "model_card": model_card(
                spec, trained.model, trained.parity, evaluation, shares, self.state.known, self.state.issues, self.clock
            ),
        }
        write_artifact(self.directory.artifact, trained.exported, train, profile, documents)
        self.state.known["details"] = {"parity": asdict(trained.parity), "profile_id": profile.id}


def _row_counts(table: Table, split: Split) -> dict[str, int]:
    parts = {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)}
    return {"total": len(table), **parts}


def _gate(spec: JobSpec, evaluation: Evaluation, champion: ChampionResult | None, rows: int) -> list[GateEntry]:
    config = spec.evaluation
    entries = judge_thresholds(evaluation.metrics, config.thresholds, rows, config.minimum_rows)
    if config.champion is not None and champion is not None:
        metric = config.champion.metric or default_metric(spec.training.model.task)
        entries.append(
            judge_champion(
                config.champion, metric, champion.comparison, champion.why_not, config.minimum_rows, champion.note
            )
        )
    return entries


def _entry_document(entry: GateEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}
