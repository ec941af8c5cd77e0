"""Runs a model's artifact inside this process and answers with labels, probabilities or numbers.

Owns how rows become the tensors that a signature asks for. Works for the job's own model and for the champion, which
may have other features. Needs no scikit-learn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd

from pilotfish_control_plane.trainer.table import as_numbers, category_series

__all__ = ["Answers", "ModelUnusable", "Scorer", "input_table", "load_artifact", "load_scorer"]

_BATCH_ROWS = 8192


class ModelUnusable(Exception):
    """An artifact cannot be run on these rows; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model says: labels and probabilities [rows, classes], or the numbers of a regression as labels."""

    label: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """A loaded model; one thread."""

    session: Any
    signature: Mapping[str, Any]

    @property
    def classes(self) -> list[Any]:
        """What the columns of the probabilities stand for; empty for a regression."""
        return list(self.signature.get("classes") or [])

    @property
    def feature_names(self) -> list[str]:
        """The columns that the model reads, in order."""
        return list(self.signature["feature_names"])

    def answer(self, features: pd.DataFrame) -> Answers:
        """Return the answers for rows whose columns are already float32 or text (`input_table`)."""
        names = [output["name"] for output in self.signature["outputs"]]
        parts: list[list[npt.NDArray[Any]]] = []
        for start in range(0, len(features), _BATCH_ROWS):
            feeds = self.feeds(features.iloc[start : start + _BATCH_ROWS])
            parts.append(self.session.run(names, feeds))
        columns = [np.concatenate(items) for items in zip(*parts, strict=True)] if parts else []
        found = dict(zip(names, columns, strict=False))
        if "probabilities" in found:
            return Answers(found["label"].ravel(), found["probabilities"])
        return Answers(found["prediction"].ravel(), None)

    def feeds(self, features: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
        """Return the input tensors for some rows."""
        inputs = self.signature["inputs"]
        if self.is_matrix:
            return {inputs[0]["name"]: np.ascontiguousarray(features[self.feature_names].to_numpy(dtype=np.float32))}
        return {
            item["name"]: features[item["name"]].to_numpy(dtype=object if item["datatype"] == "BYTES" else np.float32)[
                :, None
            ]
            for item in inputs
        }

    @property
    def is_matrix(self) -> bool:
        """Whether there is one input that holds all features."""
        inputs = self.signature["inputs"]
        return (
            len(inputs) == 1
            and list(inputs[0]["shape"])[1:] == [len(self.feature_names)]
            and (inputs[0]["name"] not in self.feature_names or len(self.feature_names) > 1)
        )


def load_scorer(model: bytes | Path, signature: Mapping[str, Any]) -> Scorer:
    """Return a scorer for an ONNX model.

    Raises:
        ModelUnusable: it does not load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = model if isinstance(model, bytes) else model.read_bytes()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
        raise ModelUnusable(f"the model does not load: {str(error).strip()[:300]}") from error
    return Scorer(session, signature)


def load_artifact(directory: Path) -> Scorer:
    """Return a scorer for a version's files.

    Raises:
        ModelUnusable: a file is missing or unreadable.
    """
    try:
        signature = json.loads((directory / "signature.json").read_bytes())
        content = (directory / "model.onnx").read_bytes()
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"its files cannot be read: {error}") from error
    missing = [key for key in ("inputs", "outputs", "feature_names") if not isinstance(signature.get(key), list)]
    if missing:
        raise ModelUnusable(f"its signature has no {', '.join(missing)}")
    return load_scorer(content, signature)


def input_table(raw: pd.DataFrame, signature: Mapping[str, Any]) -> pd.DataFrame:
    """Return the columns that a signature asks for, as float32 and text.

    Raises:
        ModelUnusable: the data lacks a column that the model reads.
    """
    names: Sequence[str] = signature["feature_names"]
    missing = [name for name in names if name not in raw.columns]
    if missing:
        listed = ", ".join(missing[:5])
        raise ModelUnusable(f"it reads {len(missing)} columns that this data does not have: {listed}")
    texts = {item["name"] for item in signature["inputs"] if item["datatype"] == "BYTES"}
    columns: dict[str, pd.Series[Any]] = {}
    for name in names:
        if name in texts:
            columns[name] = category_series(raw[name])
        else:
            with np.errstate(over="ignore"):
                columns[name] = pd.Series(as_numbers(raw[name])[0].astype(np.float32), index=raw.index)
    return pd.DataFrame(columns, index=raw.index)
