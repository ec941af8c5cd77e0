"""Deployments between protobuf and the values of `deployments`.

Owns the defaults that unset fields take and the refusal of values without meaning; it reads and writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import common_pb2, deployment_service_pb2, monitoring_pb2
from pilotfish.v1 import deployment_pb2 as pb
from pilotfish_control_plane.deployments.commands import RolloutControl
from pilotfish_control_plane.deployments.configuration import (
    DataQualityMonitoring,
    DeploymentConfig,
    DriftDetection,
    HealthCheck,
    MonitoringConfig,
    PerformanceMonitoring,
    Resources,
    RollbackSettings,
    Scaling,
)
from pilotfish_control_plane.deployments.model import (
    Deployment,
    DeploymentState,
    Endpoint,
    LinkState,
    Quarantine,
    Replica,
    ReplicaState,
    RouteTable,
    Shadow,
    Stage,
)
from pilotfish_control_plane.deployments.rollout_model import (
    DEFAULT_CRITERIA,
    DEFAULT_MIN_SAMPLE,
    Comparison,
    Criterion,
    Decision,
    OnInconclusive,
    Rollout,
    RolloutPlan,
    RolloutState,
    RolloutStep,
    RolloutStrategy,
    Verdict,
)
from pilotfish_control_plane.deployments.rules.readiness import ReadinessCheck
from pilotfish_control_plane.fleet.model import NodeFacts
from pilotfish_control_plane.names import RolloutName

__all__ = [
    "DeploymentView",
    "control_from",
    "criteria_from",
    "decision_to",
    "deployment_config_from",
    "deployment_config_to",
    "deployment_to",
    "endpoint_to",
    "monitoring_config_from",
    "monitoring_config_to",
    "plan_from",
    "readiness_to",
    "replica_to",
    "rollout_to",
    "routes_to",
    "scaling_from",
    "shadows_from",
    "stage_from",
    "timestamp",
    "weights_from",
]

E = TypeVar("E")

_STAGES: Mapping[int, Stage] = {pb.Stage.Value(f"STAGE_{s.name}"): s for s in Stage}
STAGE_TO = {s: f"STAGE_{s.name}" for s in Stage}
_STATE_TO = {s: f"DEPLOYMENT_STATE_{s.name}" for s in DeploymentState}
_REPLICA_STATE_TO = {s: f"REPLICA_STATE_{s.name}" for s in ReplicaState}
REPLICA_STATE_FROM: Mapping[int, ReplicaState] = {pb.ReplicaState.Value(v): s for s, v in _REPLICA_STATE_TO.items()}
LINK_TO = {s: f"LINK_STATE_{'UNSPECIFIED' if s is LinkState.NONE else s.name}" for s in LinkState}
_ROLLOUT_STATE_TO = {s: f"ROLLOUT_STATE_{s.name}" for s in RolloutState}
_COMPARISONS: Mapping[int, Comparison] = {common_pb2.Comparison.Value(f"COMPARISON_{c.name}"): c for c in Comparison}
_COMPARISON_TO = {c: f"COMPARISON_{c.name}" for c in Comparison}
_VERDICT_TO = {v: f"VERDICT_{v.name}" for v in Verdict}
_STRATEGIES: Mapping[int, RolloutStrategy] = {
    pb.RolloutStrategy.Value(f"ROLLOUT_STRATEGY_{s.name}"): s for s in RolloutStrategy
}
_STRATEGY_TO = {s: f"ROLLOUT_STRATEGY_{s.name}" for s in RolloutStrategy}
_INCONCLUSIVE_TO = {o: f"ON_INCONCLUSIVE_{o.name}" for o in OnInconclusive}
_INCONCLUSIVE: Mapping[int, OnInconclusive] = {0: OnInconclusive.PAUSE} | {
    pb.OnInconclusive.Value(name): o for o, name in _INCONCLUSIVE_TO.items()
}
_CONTROLS: Mapping[int, RolloutControl] = {
    deployment_service_pb2.RolloutCommand.Value(f"ROLLOUT_COMMAND_{c.name}"): c for c in RolloutControl
}


def timestamp(time: datetime | None) -> Timestamp | None:
    """Return a time as protobuf has it; None stays unset."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _choice(table: Mapping[int, E], number: int, field: str) -> E:
    if number not in table:
        text = f"{number} is none of the values of {field}" if number else f"{field} is not set"
        raise InvalidArgument(f"{text}: choose one", violations=[Violation(field, text, "ENUM")])
    return table[number]


# From the wire


def stage_from(number: int, field: str = "stage") -> Stage:
    """Return the stage; unset and unknown ones are refused."""
    return _choice(_STAGES, number, field)


def control_from(number: int) -> RolloutControl:
    """Return what is to be done with a rollout; unset is refused."""
    return _choice(_CONTROLS, number, "command")


def _resources_from(message: pb.Resources) -> Resources:
    unset = Resources()
    return Resources(message.cpu_cores or unset.cpu_cores, message.memory_mib or unset.memory_mib)


def scaling_from(message: pb.Scaling) -> Scaling:
    """Return the scaling; least and most follow `replicas` where they are unset."""
    replicas = message.replicas if message.HasField("replicas") else max(1, message.min_replicas)
    return Scaling(
        replicas,
        message.min_replicas or min(replicas, message.max_replicas or replicas),
        message.max_replicas or max(replicas, message.min_replicas),
        message.target_in_flight,
    )


def _health_from(message: pb.HealthCheck) -> HealthCheck:
    unset = HealthCheck()
    return HealthCheck(
        message.interval_s or unset.interval_s,
        message.timeout_s or unset.timeout_s,
        message.failure_threshold or unset.failure_threshold,
        message.success_threshold or unset.success_threshold,
        message.startup_timeout_s or unset.startup_timeout_s,
    )


def _drift_from(message: monitoring_pb2.DriftDetection) -> DriftDetection:
    unset = DriftDetection()
    return DriftDetection(
        message.enabled if message.HasField("enabled") else True,
        message.method or unset.method,
        message.threshold if message.HasField("threshold") else None,
        message.window_size or unset.window_size,
        message.window_time_s or unset.window_time_s,
        message.min_sample or unset.min_sample,
        tuple(message.scales) or unset.scales,
        message.learn_rows or unset.learn_rows,
    )


def monitoring_config_from(message: monitoring_pb2.MonitoringConfig) -> MonitoringConfig:
    """Return what is watched, defaults filled in."""
    performance, quality = message.performance_monitoring, message.data_quality
    unset = PerformanceMonitoring()
    return MonitoringConfig(
        _drift_from(message.drift_detection),
        PerformanceMonitoring(
            performance.enabled if performance.HasField("enabled") else True,
            performance.max_error_ratio if performance.HasField("max_error_ratio") else unset.max_error_ratio,
            performance.max_latency_p99_ms,
            performance.min_accuracy,
            performance.min_sample or unset.min_sample,
        ),
        DataQualityMonitoring(
            quality.enabled if quality.HasField("enabled") else True,
            quality.max_missing_ratio if quality.HasField("max_missing_ratio") else None,
        ),
        message.sample_bp if message.HasField("sample_bp") else MonitoringConfig().sample_bp,
    )


def deployment_config_from(message: pb.DeploymentConfig) -> DeploymentConfig:
    """Return the configuration, defaults filled in."""
    rollback = message.rollback
    return DeploymentConfig(
        _resources_from(message.resources),
        scaling_from(message.scaling),
        _health_from(message.health_check),
        RollbackSettings(rollback.automatic if rollback.HasField("automatic") else True, rollback.keep_previous_s),
        monitoring_config_from(message.monitoring),
    )


def resources_from(message: pb.Resources, before: Resources | None = None) -> Resources:
    """Return the resources; what is unset stays as `before`."""
    unset = before or Resources()
    return Resources(message.cpu_cores or unset.cpu_cores, message.memory_mib or unset.memory_mib)


def criteria_from(messages: Sequence[common_pb2.Criterion], field: str = "criteria") -> tuple[Criterion, ...]:
    """Return the criteria; none at all means the default ones."""
    return (
        tuple(
            Criterion(
                m.metric,
                _choice(_COMPARISONS, m.comparison, f"{field}[{i}].comparison"),
                m.bound,
                m.min_sample or DEFAULT_MIN_SAMPLE,
                m.against_baseline,
            )
            for i, m in enumerate(messages)
        )
        or DEFAULT_CRITERIA
    )


def plan_from(message: pb.RolloutPlan, stage: Stage) -> RolloutPlan:
    """Return the plan, defaults of the stage filled in."""
    unset = RolloutPlan.default(stage)
    strategy = _STRATEGIES.get(message.strategy, unset.strategy)
    steps = tuple(RolloutStep(s.weight_bp, s.min_duration_s, s.pause) for s in message.steps)
    if not steps:
        steps = RolloutPlan.default(Stage.CANARY if strategy is RolloutStrategy.CANARY else Stage.PRODUCTION).steps
    return RolloutPlan(
        strategy,
        steps,
        criteria_from(message.criteria, "plan.criteria"),
        message.max_wait_s or unset.max_wait_s,
        _choice(_INCONCLUSIVE, message.on_inconclusive, "plan.on_inconclusive"),
        message.auto_promote,
    )


def weights_from(messages: Iterable[pb.RouteWeight]) -> tuple[tuple[str, int], ...]:
    """Return weights as they were written: an id or a stage's name, and basis points."""
    return tuple((m.deployment, m.weight_bp) for m in messages)


def shadows_from(messages: Iterable[pb.ShadowRoute]) -> tuple[Shadow, ...]:
    """Return shadows as they were written."""
    return tuple(Shadow(m.deployment, m.fraction_bp) for m in messages)


# To the wire


def monitoring_config_to(config: MonitoringConfig) -> monitoring_pb2.MonitoringConfig:
    """Return what is watched, every field set."""
    drift, performance, quality = config.drift_detection, config.performance_monitoring, config.data_quality
    return monitoring_pb2.MonitoringConfig(
        drift_detection=monitoring_pb2.DriftDetection(**dataclasses.asdict(drift)),
        performance_monitoring=monitoring_pb2.PerformanceMonitoring(**dataclasses.asdict(performance)),
        data_quality=monitoring_pb2.DataQualityMonitoring(**dataclasses.asdict(quality)),
        sample_bp=config.sample_bp,
    )


def resources_to(resources: Resources) -> pb.Resources:
    """Return the resources."""
    return pb.Resources(**dataclasses.asdict(resources))


def health_to(health: HealthCheck) -> pb.HealthCheck:
    """Return how replicas are probed."""
    return pb.HealthCheck(**dataclasses.asdict(health))


def deployment_config_to(config: DeploymentConfig) -> pb.DeploymentConfig:
    """Return the configuration, every field set."""
    return pb.DeploymentConfig(
        resources=resources_to(config.resources),
        scaling=pb.Scaling(**dataclasses.asdict(config.scaling)),
        health_check=health_to(config.health_check),
        rollback=pb.RollbackSettings(**dataclasses.asdict(config.rollback)),
        monitoring=monitoring_config_to(config.monitoring),
    )


def replica_to(replica: Replica) -> pb.Replica:
    """Return a replica."""
    return pb.Replica(
        name=replica.name,
        id=replica.id,
        deployment=replica.deployment,
        state=_REPLICA_STATE_TO[replica.state],
        state_reason=replica.state_reason,
        revision=replica.revision,
        node=replica.node,
        grpc_address=replica.grpc_address,
        http_address=replica.http_address,
        link=LINK_TO[replica.link],
        server_pid=replica.server_pid,
        sidecar_pid=replica.sidecar_pid,
        restarts=replica.restarts,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class DeploymentView:
    """A deployment with what is shown beside it."""

    deployment: Deployment
    replicas: Sequence[Replica] = ()
    traffic_bp: int = 0


def deployment_to(view: DeploymentView, *, anonymous: bool = False) -> pb.Deployment:
    """Return a deployment; `anonymous`: it was not really made and has no name."""
    d = view.deployment
    return pb.Deployment(
        name="" if anonymous else d.name,
        id="" if anonymous else d.id,
        endpoint=d.endpoint,
        model=d.model,
        version=d.version,
        stage=STAGE_TO[d.stage],
        state=_STATE_TO[d.state],
        state_reason=d.state_reason,
        revision=d.revision,
        config=deployment_config_to(d.config),
        traffic_bp=view.traffic_bp,
        ready_replicas=sum(r.serves for r in view.replicas),
        replicas=[replica_to(r) for r in view.replicas if r.ended is None],
        create_time=timestamp(d.created),
        ready_time=timestamp(d.ready),
        end_time=timestamp(d.ended),
        author=d.author,
        rollout="" if anonymous or not d.rollout else str(RolloutName(d.project, d.endpoint, d.rollout)),
        previous=d.previous,
        etag="" if anonymous else d.etag,
    )


def shadows_to(routes: RouteTable) -> list[pb.ShadowRoute]:
    """Return the shadows of a route table."""
    return [pb.ShadowRoute(deployment=s.deployment, fraction_bp=s.fraction_bp) for s in routes.shadows]


def routes_to(routes: RouteTable) -> pb.RouteTable:
    """Return a route table."""
    return pb.RouteTable(
        generation=routes.generation,
        weights=[pb.RouteWeight(deployment=d, weight_bp=w) for d, w in routes.weights],
        shadows=shadows_to(routes),
        sticky_header=routes.sticky_header,
        etag=routes.etag,
        update_time=timestamp(routes.updated),
    )


def endpoint_to(
    endpoint: Endpoint,
    deployments: Sequence[DeploymentView],
    quarantines: Sequence[Quarantine],
    node: NodeFacts | None,
    host: str = "127.0.0.1",
) -> pb.Endpoint:
    """Return an endpoint with its current deployments; its addresses are those that the gateway really has."""
    running = node is not None and node.gateway_running
    port = int(node.endpoint_ports.get(endpoint.id, 0)) if node is not None and running else 0
    shared = node.shared_port if node is not None and running else 0
    return pb.Endpoint(
        name=endpoint.name,
        model=endpoint.model,
        port=port or endpoint.port,
        gateway_address=f"{host}:{shared}" if shared else "",
        address=f"{host}:{port}" if port else "",
        routes=routes_to(endpoint.routes),
        deployments=[deployment_to(d) for d in deployments],
        automation_paused=endpoint.automation_paused,
        quarantines=[
            pb.Quarantine(version=q.version, reason=q.reason, create_time=timestamp(q.created)) for q in quarantines
        ],
        create_time=timestamp(endpoint.created),
        etag=endpoint.etag,
    )


def _criterion_to(criterion: Criterion) -> common_pb2.Criterion:
    return common_pb2.Criterion(
        metric=criterion.metric,
        comparison=_COMPARISON_TO[criterion.comparison],
        bound=criterion.bound,
        min_sample=criterion.min_sample,
        against_baseline=criterion.against_baseline,
    )


def decision_to(decision: Decision) -> common_pb2.Decision:
    """Return a decision."""
    return common_pb2.Decision(
        name=decision.name,
        verdict=_VERDICT_TO[decision.verdict],
        verdicts=[
            common_pb2.CriterionVerdict(
                criterion=_criterion_to(v.criterion),
                verdict=_VERDICT_TO[v.verdict],
                value=v.value,
                bound=v.bound,
                n=v.n,
                baseline_value=v.baseline_value,
                explanation=v.explanation,
            )
            for v in decision.verdicts
        ],
        subject=decision.subject,
        actor=decision.actor,
        create_time=timestamp(decision.created),
        evidence=decision.evidence,
    )


def plan_to(plan: RolloutPlan) -> pb.RolloutPlan:
    """Return a plan."""
    return pb.RolloutPlan(
        strategy=_STRATEGY_TO[plan.strategy],
        steps=[pb.RolloutStep(**dataclasses.asdict(s)) for s in plan.steps],
        criteria=[_criterion_to(c) for c in plan.criteria],
        max_wait_s=plan.max_wait_s,
        on_inconclusive=_INCONCLUSIVE_TO[plan.on_inconclusive],
        auto_promote=plan.auto_promote,
    )


def rollout_to(rollout: Rollout, decisions: Sequence[Decision]) -> pb.Rollout:
    """Return a rollout with its decisions, newest first."""
    return pb.Rollout(
        name=rollout.name,
        deployment=rollout.deployment,
        stage=STAGE_TO[rollout.stage],
        state=_ROLLOUT_STATE_TO[rollout.state],
        state_reason=rollout.state_reason,
        plan=plan_to(rollout.plan),
        step=rollout.step,
        step_time=timestamp(rollout.step_began),
        decisions=[decision_to(d) for d in decisions],
        create_time=timestamp(rollout.created),
        end_time=timestamp(rollout.ended),
        author=rollout.author,
        etag=rollout.etag,
    )


def readiness_to(checks: Iterable[ReadinessCheck]) -> list[pb.ReadinessCheck]:
    """Return readiness checks."""
    return [pb.ReadinessCheck(check=c.check, passed=c.passed, explanation=c.explanation) for c in checks]
