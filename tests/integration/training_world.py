"""What tests of training calls share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pilotfish import AsyncClient
from pilotfish.v1 import experiment_pb2, training_service_pb2_grpc
from pilotfish.v1 import training_pb2 as pb

SEED = 20261123
LIMIT_S = 90.0


# A search that goes on until its time is over: a job that is still running when a test looks at it.
SEARCH = {"method": "random", "space": {"C": {"low": 0.01, "high": 10.0}}, "trials": 10_000, "metric": "accuracy"}


def frame(n: int = 150, noise: float = 0.3) -> pd.DataFrame:
    rng = np.random.default_rng(SEED)
    x, y = rng.normal(size=n), rng.normal(size=n)
    label = (x + y + noise * rng.normal(size=n) > 0).astype(int)
    return pd.DataFrame({"id": np.arange(n), "x": x, "y": y, "label": label})


# Any: plain values in the contract's names.
def definition(**changes: Any) -> dict[str, Any]:
    """Return a small pipeline over rows.csv, with changes."""
    found: dict[str, Any] = {
        "model": "fraud",
        "data_sources": [{"name": "rows", "type": "file", "path": "rows.csv"}],
        "feature_config": {"label": "label", "id_column": "id"},
        "training_config": {
            "model_config": {"framework": "sklearn", "type": "logistic_regression", "task": "classification"},
            "split_config": {"method": "stratified", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 3},
        },
        "evaluation_config": {"thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.7}]},
    }
    return found | changes


def searching(seconds: float) -> dict[str, Any]:
    """Return a pipeline whose jobs train for about so many seconds."""
    found = definition()
    found["training_config"]["search"] = SEARCH | {"max_seconds": seconds}
    return found


@dataclass
class Workshop:
    """A control plane with a directory of training data, and a client."""

    plane: Any
    client: AsyncClient
    data: Path

    @property
    def stub(self) -> Any:
        return training_service_pb2_grpc.TrainingServiceStub(self.plane.channel)

    def directory(self, job: pb.Job, attempt: int = 1) -> Path:
        return Path(self.plane.home / "jobs" / job.name.rpartition("/")[2] / str(attempt))

    async def run(self, pipeline: str, **options: Any) -> pb.Job:
        return await self.client.pipelines.trigger(pipeline, wait=True, timeout_s=LIMIT_S, **options)

    async def reached(self, job: pb.Job, stage: str, attempt: int = 1) -> None:
        """Wait until a job's own progress shows a stage."""
        async with asyncio.timeout(LIMIT_S):
            async for seen in self.client.pipelines.watch(job.name):
                if seen.job.attempt == attempt and seen.progress.stage == stage:
                    return
                assert seen.job.state in (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING), seen.job.state_reason


async def trainings(client: AsyncClient) -> list[experiment_pb2.Run]:
    """Return the recorded runs of jobs; a version that is registered is recorded as well."""
    return [r for r in await client.experiments.runs() if r.kind == experiment_pb2.RUN_KIND_TRAINING]


async def eventually(check: Callable[[], Awaitable[Any]], limit_s: float = 20.0) -> Any:
    async with asyncio.timeout(limit_s):
        while not (found := await check()):
            await asyncio.sleep(0.02)
    return found
