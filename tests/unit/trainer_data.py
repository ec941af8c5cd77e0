"""Data and specifications that the trainer's tests share. Every draw is seeded."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pilotfish_control_plane.clock import SystemClock
from pilotfish_control_plane.trainer.job_directory import EventLog, JobDirectory
from pilotfish_control_plane.trainer.main import run_job
from pilotfish_control_plane.trainer.opening import open_job
from pilotfish_control_plane.trainer.outcome import JobResult, Outcome, TrainingFailed

SEED = 20260711


def people(rows: int = 400, seed: int = SEED) -> pd.DataFrame:
    """Return rows with numbers, categories, a flag, missing values, and three labels that depend on them."""
    sys.stdout.write(f"seed {seed}\n")  # shown when the test fails
    draw = np.random.default_rng(seed)
    age = draw.integers(18, 90, rows).astype(float)
    city = draw.choice(np.asarray(["Oslo", "Rom", "Žilina"], dtype=object), rows)
    flag = draw.random(rows) < 0.3
    income = np.round(draw.lognormal(10, 1, rows), 2)
    score = (age - 50) / 20 + (city == "Oslo") * 1.5 + flag + np.log(income) - 10 + draw.normal(0, 0.4, rows)
    age[draw.random(rows) < 0.1] = np.nan
    city[draw.random(rows) < 0.1] = None
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "age": age,
            "city": city,
            "flag": flag,
            "income": income,
            "bought": (score > 0.8).astype(int),
            "level": np.where(score > 1.5, "high", np.where(score > 0, "mid", "low")),
            "amount": score * 10 + 100,
        }
    )


def spec(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a small valid specification that reads `people.csv` below `root`; `changes` replace whole sections."""
    document: dict[str, Any] = {
        "job_id": "j1",
        "pipeline": "churn",
        "pipeline_revision": 2,
        "reason": "manual",
        "seed": 3,
        "data_sources": [{"name": "people", "type": "file", "path": "people.csv"}],
        "feature_config": {
            "label": "bought",
            "id_column": "id",
            "features": ["age", "city", "flag", "income"],
            "feature_set": {"name": "f", "version": 1, "scaling": "standard", "encoding": "onehot"},
        },
        "training_config": {
            "model_config": {"framework": "sklearn", "type": "logistic_regression", "task": "classification"},
            "split_config": {"method": "stratified", "train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "evaluation_config": {"importance_seconds": 0},
        "quality_config": {},
        "allowed_roots": [str(root)],
    }
    return {**document, **changes}


def run(directory: Path, document: Any) -> tuple[JobResult, dict[str, Any]]:
    """Run a job in this process and return its result and the result's document."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spec.json").write_text(json.dumps(document))
    job = JobDirectory(directory)
    events = EventLog(directory / "events.jsonl", SystemClock())
    try:
        try:
            result = run_job(open_job(job), job, events, SystemClock())
        except TrainingFailed as failure:  # a wrong specification
            result = JobResult(
                Outcome.FAILED, SystemClock().now(), 0.0, str(failure.reason), failure.message, failure.issues
            )
    finally:
        events.close()
        job.close()
    return result, json.loads(json.dumps(result.to_document(), allow_nan=False))


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Return as soon as `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
