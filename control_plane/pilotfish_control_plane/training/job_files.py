"""The files of a job: its specification with everything resolved, and the rows exported for it.

Owns what is written into a job's directory before its process starts. Reads the prediction log outside any
transaction; writing the same attempt again changes nothing that a running trainer has read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.prediction_log import PredictionLog
from pilotfish_control_plane.training.model import Job, Pipeline

__all__ = ["Champion", "JobInputs", "read_given", "write_job"]


@dataclass(frozen=True, slots=True)
class Champion:
    """The version to beat: its number, where its artifact lies, its profile as JSON and its features."""

    version: int
    directory: str
    profile_json: str
    feature_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobInputs:
    """Everything that a job needs of the database, read in one transaction."""

    job: Job
    pipeline: Pipeline
    feature_set: Mapping[str, Any] | None  # plain JSON
    champion: Champion | None
    deployments: Mapping[str, Sequence[str]]  # endpoint → ids of its deployments
    now: datetime


def write_job(
    directory: Path, inputs: JobInputs, predictions: PredictionLog, *, roots: Sequence[str], private: Sequence[str]
) -> None:
    """Write spec.json and what it refers to; do nothing when it is there already."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "spec.json"
    if target.exists():
        return
    spec = _spec(directory, inputs, predictions)
    spec["allowed_roots"] = [*roots, str(directory)]
    spec["allow_private"] = list(private)
    given = {
        "champion_version": inputs.champion.version if inputs.champion else 0,
        "feature_set_revision": int((inputs.feature_set or {}).get("version", 0)),
    }
    _write(directory / "given.json", given)
    _write(target, spec)


def read_given(directory: Path) -> dict[str, int]:
    """Return what the job was started with that its result does not tell: champion's number, feature set's revision."""
    try:
        found: dict[str, int] = json.loads((directory / "given.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _write(target: Path, document: Mapping[str, Any]) -> None:
    scratch = target.with_name(f".{target.name}.tmp")
    with open(scratch, "w") as out:
        json.dump(document, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, target)


# Any: the specification's JSON; `trainer.spec_reader` checks it.
def _spec(directory: Path, inputs: JobInputs, predictions: PredictionLog) -> dict[str, Any]:
    job, definition = inputs.job, json.loads(json.dumps(inputs.pipeline.definition))
    feature_config = definition["feature_config"]
    if inputs.feature_set is not None:
        feature_config["feature_set"] = dict(inputs.feature_set)
    definition["data_sources"] = _sources(directory, inputs, definition, predictions)
    names = {s["name"] for s in definition["data_sources"]}
    join = feature_config.get("join_config") or {}
    if "union" in join:
        join["union"] = [name for name in join["union"] if name in names]
    if len(names) == 1:
        feature_config.pop("join_config", None)
    spec = {
        **definition,
        "job_id": job.id,
        "pipeline": job.pipeline,
        "pipeline_revision": job.revision,
        "reason": job.trigger_reason,
        "seed": int(definition.get("training_config", {}).get("split_config", {}).get("seed", 0)),
        "champion_dir": None,
        "previous_profile": None,
    }
    champion = inputs.champion
    if champion is not None and "champion" in (definition.get("evaluation_config") or {}):
        spec["champion_dir"] = champion.directory
    if champion is not None and champion.profile_json:
        path = directory / "previous_profile.json"
        path.write_text(champion.profile_json)
        spec["previous_profile"] = str(path)
    return spec


def _sources(
    directory: Path, inputs: JobInputs, definition: Mapping[str, Any], predictions: PredictionLog
) -> list[dict[str, Any]]:
    """Return the sources with exports of the prediction log in place; one without rows is left out."""
    found = []
    for source in definition["data_sources"]:
        if source["type"] != "prediction_log":
            found.append(source)
            continue
        path = directory / f"{source['name']}.parquet"
        if _export(path, inputs, definition["feature_config"], source, predictions):
            found.append({"name": source["name"], "type": "prediction_log", "path": str(path)})
    return found


def _export(
    path: Path,
    inputs: JobInputs,
    feature_config: Mapping[str, Any],
    source: Mapping[str, Any],
    predictions: PredictionLog,
) -> int:
    """Write the labelled live rows of an endpoint; return their number."""
    deployments = inputs.deployments.get(source["endpoint"], ())
    features = list(feature_config.get("features") or ())
    if not features and inputs.champion is not None:
        features = list(inputs.champion.feature_names)
    if not deployments or not features:
        return 0
    start = None
    if source.get("since_days"):
        start = int((inputs.now - timedelta(days=float(source["since_days"]))).timestamp() * 1e6)
    try:
        table: pa.Table = predictions.training_frame(deployments, start, None, features, feature_config["label"])
    except InvalidArgument:
        # No prediction has these features yet: there is nothing to add to the other sources.
        return 0
    if table.num_rows:
        pq.write_table(table, path)
    return int(table.num_rows)
