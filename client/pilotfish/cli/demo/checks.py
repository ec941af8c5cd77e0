"""The demo's own judges: ids compared as sets, accuracy by onnxruntime, a model that is wrong on purpose.

They share no code with what they judge.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotfish.blocking.client import Client
from pilotfish.cli.demo.data import PIXELS, DigitRows

__all__ = ["compare_ids", "held_out_accuracy", "write_bad_model"]


def compare_ids(answered: Sequence[str], stored: Sequence[str]) -> tuple[int, int]:
    """Return (answers that are not stored, rows that are stored more than once)."""
    counts = Counter(stored)
    lost = sum(1 for i in answered if i not in counts)
    return lost, sum(n - 1 for n in counts.values())


def held_out_accuracy(client: Client, model: str, versions: tuple[int, int], rows: DigitRows) -> tuple[float, float]:
    """Return the accuracy of two versions on the same rows, each run from its own downloaded artifact."""
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    found = []
    for number in versions:
        directory = client.models.download(f"{model}@{number}")
        session: Any = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
        label = session.run(["label"], {session.get_inputs()[0].name: rows.images})[0]
        found.append(round(float(np.mean(np.asarray(label).ravel() == rows.odd)), 4))
    return found[0], found[1]


def write_bad_model(rows: DigitRows, directory: Path) -> Path:
    """Write an artifact that is valid in every way and wrong in nearly every answer: trained on inverted labels."""
    from skl2onnx import to_onnx  # type: ignore[import-untyped,unused-ignore]
    from skl2onnx.common.data_types import FloatTensorType  # type: ignore[import-untyped,unused-ignore]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped,unused-ignore]

    from pilotfish.stats import build_profile

    fitted: Any = LogisticRegression(max_iter=2000).fit(rows.images, 1 - rows.odd)
    graph = to_onnx(fitted, initial_types=[("input", FloatTensorType([None, 64]))], options={"zipmap": False})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(graph.SerializeToString())
    signature = {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ],
        "feature_names": list(PIXELS),
        "classes": ["0", "1"],
    }
    (directory / "signature.json").write_text(json.dumps(signature))
    chances = fitted.predict_proba(rows.images).astype(np.float32)
    outputs = {"label": fitted.predict(rows.images), "probability_0": chances[:, 0], "probability_1": chances[:, 1]}
    profile = build_profile({name: rows.images[:, i] for i, name in enumerate(PIXELS)}, outputs)
    (directory / "profile.json").write_text(profile.to_json())
    return directory
