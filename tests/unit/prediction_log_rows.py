"""Rows for the tests of the prediction log. It asserts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pilotfish_control_plane.prediction_log import ColumnBatch, Source, TruthBatch

DAY_US = 86_400_000_000
DAY_0 = 20_000 * DAY_US  # 2024-10-04
SOURCE = Source("sidecar-1", 1, "predictions")


def predictions(
    ids: Sequence[str],
    *,
    at: int | Sequence[int] = DAY_0,
    deployment: str = "d-1",
    hashes: Sequence[int] | None = None,
    codes: int | Sequence[int] = 0,
    roles: int | Sequence[int] = 0,
    latency: int | Sequence[int] = 1000,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    metadata: Sequence[str | None] | None = None,
    replica: str = "r-1",
) -> ColumnBatch:
    """Return a batch; one number stands for the same in every row, ids number their own inputs."""
    rows = len(ids)

    def column(value: int | Sequence[int], dtype: Any) -> Any:
        return np.full(rows, value, dtype) if isinstance(value, int) else np.array(value, dtype)

    return ColumnBatch(
        deployment=deployment,
        endpoint="fraud",
        model="fraud-model",
        version=7,
        replica=replica,
        prediction_ids=list(ids),
        times_us=column(at, np.int64),
        latency_us=column(latency, np.int64),
        roles=column(roles, np.uint8),
        codes=column(codes, np.uint16),
        inputs=inputs if inputs is not None else {"amount": np.arange(rows, dtype=np.float64)},
        outputs=outputs if outputs is not None else {"score": np.arange(rows, dtype=np.float32) / 10},
        input_hash=np.array(hashes if hashes is not None else range(1, rows + 1), np.uint64),
        metadata=metadata,
    )


def truths(
    ids: Sequence[str],
    values: Sequence[float | str],
    *,
    at: int | Sequence[int] = DAY_0,
    deployments: Sequence[str] | None = None,
) -> TruthBatch:
    """Return a batch of truths."""
    times = np.full(len(ids), at, np.int64) if isinstance(at, int) else np.array(at, np.int64)
    return TruthBatch(list(ids), list(values), times, deployments)
