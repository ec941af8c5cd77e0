"""Writes the files of a version beside its graph.

Owns their names and contents: signature, example, profile, feature set, requirements, model card, and the hashes of the
training rows. Computes no metric.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pilotfish.stats import FeatureKind, Profile, build_profile
from pilotfish_control_plane.trainer.evaluate import TRAINING_ROWS
from pilotfish_control_plane.trainer.export import Exported
from pilotfish_control_plane.trainer.features import FittedFeatures
from pilotfish_control_plane.trainer.outcome import plain
from pilotfish_control_plane.trainer.scorer import Answers
from pilotfish_control_plane.trainer.spec import FeatureConfig
from pilotfish_control_plane.trainer.table import CATEGORICAL, Table

__all__ = ["build_training_profile", "example_document", "feature_set_document", "requirements", "write_artifact"]

_SERVING = ("onnxruntime", "numpy")
_TRAINING = ("scikit-learn", "onnx", "skl2onnx", "pandas", "scipy", "pilotfish")
_MAX_HASHED_ROWS = 2_000_000
_EXAMPLE_ROWS = 3


def requirements() -> dict[str, str]:
    """Return the packages that the model was trained with, by version, and Python's."""
    found = {"python": platform.python_version()}
    for name in (*_SERVING, *_TRAINING):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def build_training_profile(train: Table, outputs: Answers, classes: Sequence[Any]) -> Profile:
    """Return the profile of the training rows and of the model's outputs on them.

    Args:
        train: the training split.
        outputs: one answer per training row.
        classes: what the columns of the probabilities stand for.
    """
    inputs: dict[str, npt.NDArray[Any]] = {name: train.features[name].to_numpy() for name in train.features.columns}
    kinds = dict.fromkeys(train.roles.of_kind(CATEGORICAL), FeatureKind.CATEGORICAL)
    if outputs.probabilities is None:
        answers: dict[str, npt.NDArray[Any]] = {"prediction": outputs.label.astype(np.float32)}
        return build_profile(inputs, answers, kinds=kinds)
    answers = {"label": outputs.label}
    for index, name in enumerate(classes):
        answers[f"probability_{name}"] = outputs.probabilities[:, index]
    return build_profile(inputs, answers, kinds=kinds)


def example_document(exported: Exported, rows: pd.DataFrame) -> dict[str, Any]:
    """Return a request with the answer expected for it, as tensors with flat data, and tolerances of the numbers.

    Rows without missing values are taken: JSON has no NaN.
    """
    numeric = [name for name in rows.columns if rows[name].dtype != object]
    finite = np.isfinite(rows[numeric].to_numpy(dtype=np.float64))
    usable = rows.iloc[np.flatnonzero(np.all(finite, axis=1))]
    chosen: pd.DataFrame = (usable if len(usable) else rows.fillna(dict.fromkeys(numeric, 0.0))).head(_EXAMPLE_ROWS)
    chosen = chosen.reset_index(drop=True)
    answers = exported.scorer.answer(chosen)
    feeds = exported.scorer.feeds(chosen)
    found = {"label": answers.label, "prediction": answers.label, "probabilities": answers.probabilities}
    return {
        "inputs": [_tensor(item, feeds[item["name"]]) for item in exported.signature["inputs"]],
        "outputs": [_tensor(item, np.asarray(found[item["name"]])) for item in exported.signature["outputs"]],
        "rtol": 1e-4,
        "atol": 1e-4,
    }


def _tensor(described: Mapping[str, Any], values: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "name": described["name"],
        "datatype": described["datatype"],
        "shape": list(values.shape),
        "data": plain(values.ravel()),
    }


def feature_set_document(
    config: FeatureConfig, fitted: FittedFeatures, statistics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the feature set as it was applied: the definition, what each column got, what was kept, and statistics."""
    plan = fitted.plan
    return {
        "feature_set_id": config.feature_set_id,
        "definition": asdict(config.feature_set),
        "columns": {
            name: {
                "kind": fitted.roles.kinds[name],
                "imputation": plan.imputation[name][0],
                "scaling": plan.scaling.get(name),
                "encoding": plan.encoding.get(name),
            }
            for name in plan.columns
        },
        "outputs": list(fitted.names),
        "statistics": statistics,
    }


def write_artifact(
    directory: Path, exported: Exported, train: Table, profile: Profile, documents: Mapping[str, Any]
) -> None:
    """Write all files of the version into `directory`, which is created.

    Args:
        directory: where to.
        exported: graph and signature.
        train: training split; hashes of its rows are kept, so that a later comparison can leave them out.
        profile: of the training split.
        documents: further JSON files by name without ending.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(exported.content)
    (directory / "profile.json").write_text(profile.to_json(), encoding="utf-8")
    for name, document in {"signature": exported.signature, "requirements": requirements(), **documents}.items():
        text = json.dumps(plain(document), indent=1, allow_nan=False, ensure_ascii=False)
        (directory / f"{name}.json").write_text(text, encoding="utf-8")
    if len(train) <= _MAX_HASHED_ROWS:
        np.unique(train.hashes).astype("<u8").tofile(directory / TRAINING_ROWS)
