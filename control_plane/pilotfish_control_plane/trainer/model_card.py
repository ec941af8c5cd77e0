"""What a reader of a version should know: where it comes from, what it is good at, and what was found on the way.

Owns the contents of `model_card.json`. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pilotfish_control_plane.clock import Clock
from pilotfish_control_plane.trainer.evaluate import Evaluation
from pilotfish_control_plane.trainer.fit import FittedModel
from pilotfish_control_plane.trainer.importance import Importance
from pilotfish_control_plane.trainer.outcome import Issue, Severity
from pilotfish_control_plane.trainer.parity import Parity
from pilotfish_control_plane.trainer.spec import JobSpec

__all__ = ["model_card"]


def model_card(
    spec: JobSpec,
    model: FittedModel,
    parity: Parity,
    evaluation: Evaluation,
    shares: Importance | None,
    known: Mapping[str, Any],
    issues: Sequence[Issue],
    clock: Clock,
) -> dict[str, Any]:
    """Return the card.

    Args:
        spec: the job.
        model: what was trained.
        parity: how close the graph is to it.
        evaluation: on the test split.
        shares: importance of the features; None: not measured.
        known: what the result tells too: data hash, rows, gate.
        issues: everything that was found; its warnings are listed.
        clock: the time of creation.
    """
    config = spec.training.model
    return {
        "created_at": clock.now(),
        "pipeline": spec.pipeline,
        "pipeline_revision": spec.pipeline_revision,
        "job_id": spec.job_id,
        "reason": spec.trigger,
        "seed": spec.seed,
        "model": {"framework": config.framework, "type": config.type, "task": str(config.task)},
        "hyperparameters": model.hyperparameters,
        "label": spec.features.label,
        "data": {
            "hash": known["data_hash"],
            "rows": known["rows"],
            "sources": [source.name for source in spec.sources],
            "split": spec.training.split.method,
        },
        "metrics": evaluation.metrics,
        "confusion_matrix": evaluation.confusion,
        "gate": known["gate"],
        "feature_importance": None if shares is None else {"metric": shares.metric, "values": shares.values},
        "parity": asdict(parity),
        "warnings": [issue.message for issue in issues if issue.severity is Severity.WARNING],
    }
