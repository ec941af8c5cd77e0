"""Pipelines and jobs on the wire, both ways. Owns the conversion; what is right is told by the trainer's own reader."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.v1 import common_pb2, training_pb2
from pilotfish.v1 import training_pb2 as pb
from pilotfish_control_plane.deployments.model import Stage
from pilotfish_control_plane.deployments.rollout_model import plan_from_json, plan_to_json
from pilotfish_control_plane.grpc_server import deployments_wire
from pilotfish_control_plane.names import JobName
from pilotfish_control_plane.trainer.spec import EvaluationConfig
from pilotfish_control_plane.training.model import Delivery, Job, JobState, Pipeline, Progress, Trigger
from pilotfish_control_plane.training.rules import masked_connection

__all__ = ["delivery_from_wire", "job_to_wire", "pipeline_from_wire", "pipeline_to_wire", "progress_to_wire", "struct"]

COMPARISONS = {
    common_pb2.COMPARISON_LESS_THAN: "<",
    common_pb2.COMPARISON_LESS_THAN_OR_EQUAL: "<=",
    common_pb2.COMPARISON_GREATER_THAN: ">",
    common_pb2.COMPARISON_GREATER_THAN_OR_EQUAL: ">=",
}
BY_SYMBOL = {symbol: common_pb2.Comparison.Name(number) for number, symbol in COMPARISONS.items()}
UNSET = "COMPARISON_UNSPECIFIED"
STATES = {s: f"JOB_STATE_{s.name}" for s in JobState}
VERDICTS = {"PASS": common_pb2.VERDICT_PASS, "FAIL": common_pb2.VERDICT_FAIL}
USUAL_MINIMUM_ROWS = EvaluationConfig().minimum_rows
SOURCE_FIELDS = {
    "database": ("connection", "query", "parameters"),
    "file": ("path", "format"),
    "api": ("endpoint", "parameters"),
}


# Any: JSON of any depth, here and below.
def plain(message: Struct) -> dict[str, Any]:
    """Return a Struct as JSON whose whole numbers are integers: a Struct knows doubles only."""
    found: dict[str, Any] = _whole(json_format.MessageToDict(message))
    return found


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {k: _whole(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_whole(v) for v in value]
    return value


def struct(value: Mapping[str, Any]) -> Struct:
    """Return JSON as a Struct."""
    found = Struct()
    found.update(dict(value))
    return found


def _stamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    found = Timestamp()
    found.FromDatetime(at)
    return found


def pipeline_from_wire(message: pb.Pipeline, project: str, pipeline_id: str, now: datetime) -> Pipeline:
    """Return a pipeline as a value; its definition is in the trainer's own grammar, not checked yet."""
    definition: dict[str, Any] = {"data_sources": [_source(s) for s in message.data_sources]}
    definition["feature_config"] = _feature_config(message.feature_config)
    training = message.training_config
    definition["training_config"] = {
        "model_config": plain(training.model_config),
        "hyperparameters": plain(training.hyperparameters),
        "split_config": plain(training.split_config),
    }
    if training.HasField("search"):
        definition["training_config"]["search"] = plain(training.search)
    definition["evaluation_config"] = _evaluation_config(message.evaluation_config)
    if message.HasField("quality_config"):
        definition["quality_config"] = plain(message.quality_config)
    triggers = tuple(Trigger(t.type, t.endpoint, t.cooldown_s or 3600.0) for t in message.triggers)
    return Pipeline(
        project, pipeline_id, message.model, message.description, definition, triggers, message.schedule,
        message.timeout_s or 3600.0, 0, "", now, now,
    )  # fmt: skip


def _source(message: pb.DataSource) -> dict[str, Any]:
    found: dict[str, Any] = {"name": message.name, "type": message.type}
    if message.type == "prediction_log":
        found |= {"endpoint": message.serving_endpoint, "since_days": message.since_days}
        return found
    for name in SOURCE_FIELDS.get(message.type, ()):
        if name == "parameters":
            if message.HasField("parameters"):
                parameters = plain(message.parameters)
                # An API's paging and headers travel in its parameters' own keys.
                for key in ("pagination", "headers", "records_path"):
                    if message.type == "api" and key in parameters:
                        found[key] = parameters.pop(key)
                found["parameters"] = parameters
        elif getattr(message, name):
            found[name] = getattr(message, name)
    return found


def _feature_config(message: pb.FeatureConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"label": message.label}
    if message.feature_set_id:
        found["feature_set_id"] = message.feature_set_id
    if message.HasField("join_config"):
        found["join_config"] = plain(message.join_config)
    if message.features:
        found["features"] = list(message.features)
    for name in ("id_column", "time_column", "group_column"):
        if getattr(message, name):
            found[name] = getattr(message, name)
    return found


def _evaluation_config(message: pb.EvaluationConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if message.metrics:
        found["metrics"] = list(message.metrics)
    if message.thresholds:
        found["thresholds"] = [
            {"metric": t.metric, "bound": t.bound}
            | ({"comparison": COMPARISONS[t.comparison]} if t.comparison in COMPARISONS else {})
            | ({"min_sample": t.min_sample} if t.min_sample else {})
            for t in message.thresholds
        ]
        # Each threshold raises the gate's own minimum for itself; it is lowered only where every one says so.
        least = min(t.min_sample for t in message.thresholds)
        if 0 < least < USUAL_MINIMUM_ROWS:
            found["minimum_rows"] = least
    if not message.HasField("compare_champion") or message.compare_champion:
        found["champion"] = {"margin": message.champion_margin}
        if message.champion_metric:
            found["champion"]["metric"] = message.champion_metric
    return found


def pipeline_to_wire(found: Pipeline) -> pb.Pipeline:
    """Return a pipeline in the wire's form; passwords in connections are masked."""
    definition = found.definition
    features, training = definition.get("feature_config", {}), definition.get("training_config", {})
    evaluation = definition.get("evaluation_config", {})
    message = pb.Pipeline(
        name=found.name,
        model=found.model,
        description=found.description,
        data_sources=[_source_to_wire(s) for s in definition.get("data_sources", ())],
        feature_config=pb.FeatureConfig(
            feature_set_id=features.get("feature_set_id", ""),
            label=features.get("label", ""),
            features=features.get("features", ()),
            id_column=features.get("id_column", ""),
            time_column=features.get("time_column", ""),
            group_column=features.get("group_column", ""),
            join_config=struct(features["join_config"]) if "join_config" in features else None,
        ),
        training_config=pb.TrainingConfig(
            model_config=struct(training.get("model_config", {})),
            hyperparameters=struct(training.get("hyperparameters", {})),
            split_config=struct(training.get("split_config", {})),
            search=struct(training["search"]) if "search" in training else None,
        ),
        evaluation_config=pb.EvaluationConfig(
            metrics=evaluation.get("metrics", ()),
            thresholds=[
                common_pb2.Criterion(
                    metric=t["metric"],
                    bound=t["bound"],
                    comparison=BY_SYMBOL.get(t.get("comparison", ""), UNSET),
                    min_sample=t.get("min_sample", 0),
                )
                for t in evaluation.get("thresholds", ())
            ],
            compare_champion="champion" in evaluation,
            champion_metric=evaluation.get("champion", {}).get("metric", ""),
            champion_margin=evaluation.get("champion", {}).get("margin", 0.0),
        ),
        triggers=[
            pb.PipelineTrigger(type=t.type, endpoint=t.endpoint, cooldown_s=t.cooldown_s) for t in found.triggers
        ],
        schedule=found.schedule,
        revision=found.revision,
        create_time=_stamp(found.created),
        update_time=_stamp(found.updated),
        author=found.author,
        etag=found.etag,
        timeout_s=found.timeout_s,
    )
    if "quality_config" in definition:
        message.quality_config.update(definition["quality_config"])
    return message


def _source_to_wire(source: Mapping[str, Any]) -> pb.DataSource:
    is_log = source.get("type") == "prediction_log"
    extra = {k: source[k] for k in ("pagination", "headers", "records_path") if k in source}
    parameters = {**source.get("parameters", {}), **extra}
    return pb.DataSource(
        name=source.get("name", ""),
        type=source.get("type", ""),
        connection=masked_connection(str(source.get("connection", ""))),
        query=source.get("query", ""),
        path=source.get("path", ""),
        format=source.get("format", ""),
        endpoint="" if is_log else source.get("endpoint", ""),
        parameters=struct(parameters) if parameters else None,
        serving_endpoint=source.get("endpoint", "") if is_log else "",
        since_days=source.get("since_days", 0.0),
    )


def delivery_from_wire(message: pb.DeliveryPlan) -> Delivery | None:
    """Return what is done with the version; None: nothing."""
    if not message.endpoint:
        return None
    stage = deployments_wire.stage_from(message.stage, "delivery.stage") if message.stage else Stage.CANARY
    plan = None
    if message.HasField("plan"):
        plan = plan_to_json(deployments_wire.plan_from(message.plan, stage))
    return Delivery(message.endpoint, stage.value, plan)


def delivery_to_wire(found: Delivery | None) -> pb.DeliveryPlan | None:
    """Return it in the wire's form."""
    if found is None:
        return None
    plan = deployments_wire.plan_to(plan_from_json(found.plan)) if found.plan else None
    stage = f"STAGE_{found.stage.upper()}"
    return pb.DeliveryPlan(endpoint=found.endpoint, stage=stage, plan=plan)


def job_to_wire(found: Job) -> pb.Job:
    """Return a job in the wire's form."""
    result = found.result
    message = pb.Job(
        name=found.name,
        pipeline=found.pipeline,
        pipeline_revision=found.revision,
        state=STATES[found.state],
        state_reason=found.state_reason,
        stage=found.stage,
        progress=found.progress,
        trigger=found.trigger,
        trigger_reason=found.trigger_reason,
        attempt=found.attempt,
        version=found.version if found.state in (JobState.SUCCEEDED, JobState.RUNNING) else 0,
        metrics=_numbers(result.get("metrics")),
        champion_metrics=_numbers(result.get("champion_metrics")),
        champion_version=found.champion_version,
        issues=[
            training_pb2.QualityIssue(
                check=i.get("check", ""),
                severity=i.get("severity", ""),
                column=i.get("column") or "",
                message=i.get("message", ""),
            )
            for i in result.get("issues", ())
        ],
        delivery=delivery_to_wire(found.delivery),
        create_time=_stamp(found.created),
        start_time=_stamp(found.started),
        end_time=_stamp(found.ended),
        author=found.author,
        operation=f"operations/{JobName(found.project, found.pipeline, found.id)}",
    )
    if result:
        message.result.update(dict(result))
    if result.get("gate"):
        message.gate.CopyFrom(_gate(found))
    return message


def _numbers(found: Any) -> dict[str, float]:
    return {k: float(v) for k, v in dict(found or {}).items() if v is not None}


def _gate(found: Job) -> common_pb2.Decision:
    entries = []
    for g in found.result.get("gate", ()):
        verdict = VERDICTS.get(str(g.get("verdict", "")).upper(), common_pb2.VERDICT_INCONCLUSIVE)
        entry = common_pb2.CriterionVerdict(
            criterion=common_pb2.Criterion(
                metric=str(g.get("metric", "")),
                comparison=BY_SYMBOL.get(str(g.get("comparison", "")), UNSET),
                bound=float(g.get("bound") or 0.0),
                against_baseline=str(g.get("against", "")) == "champion",
            ),
            verdict=verdict,
            bound=float(g.get("bound") or 0.0),
            n=int(g.get("n") or 0),
            explanation=str(g.get("reason") or ""),
        )
        if g.get("value") is not None:
            entry.value = float(g["value"])
        entries.append(entry)
    verdicts = {e.verdict for e in entries}
    overall = common_pb2.VERDICT_PASS
    if common_pb2.VERDICT_FAIL in verdicts:
        overall = common_pb2.VERDICT_FAIL
    elif common_pb2.VERDICT_INCONCLUSIVE in verdicts:
        overall = common_pb2.VERDICT_INCONCLUSIVE
    return common_pb2.Decision(verdict=overall, verdicts=entries, subject=found.name, create_time=_stamp(found.ended))


def progress_to_wire(line: Progress) -> pb.JobProgress:
    """Return a line of progress in the wire's form."""
    return pb.JobProgress(
        sequence=line.sequence,
        stage=line.stage,
        progress=line.fraction,
        message=line.message,
        metrics=_numbers({k: v for k, v in line.metrics.items() if isinstance(v, int | float)}),
        time=_stamp(line.time),
    )
