import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pilotfish.v1 import common_pb2 as _common_pb2
from pilotfish.v1 import monitoring_pb2 as _monitoring_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_DEVELOPMENT: _ClassVar[Stage]
    STAGE_STAGING: _ClassVar[Stage]
    STAGE_CANARY: _ClassVar[Stage]
    STAGE_PRODUCTION: _ClassVar[Stage]

class DeploymentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEPLOYMENT_STATE_UNSPECIFIED: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_PENDING: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_STARTING: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_WARMING: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_READY: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_DEGRADED: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_DRAINING: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_STOPPED: _ClassVar[DeploymentState]
    DEPLOYMENT_STATE_FAILED: _ClassVar[DeploymentState]

class ReplicaState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLICA_STATE_UNSPECIFIED: _ClassVar[ReplicaState]
    REPLICA_STATE_STARTING: _ClassVar[ReplicaState]
    REPLICA_STATE_READY: _ClassVar[ReplicaState]
    REPLICA_STATE_UNHEALTHY: _ClassVar[ReplicaState]
    REPLICA_STATE_STOPPED: _ClassVar[ReplicaState]

class LinkState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINK_STATE_UNSPECIFIED: _ClassVar[LinkState]
    LINK_STATE_CONNECTED: _ClassVar[LinkState]
    LINK_STATE_UNKNOWN: _ClassVar[LinkState]
    LINK_STATE_LOST: _ClassVar[LinkState]

class RolloutStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STRATEGY_UNSPECIFIED: _ClassVar[RolloutStrategy]
    ROLLOUT_STRATEGY_CANARY: _ClassVar[RolloutStrategy]
    ROLLOUT_STRATEGY_ALL_AT_ONCE: _ClassVar[RolloutStrategy]

class OnInconclusive(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_INCONCLUSIVE_UNSPECIFIED: _ClassVar[OnInconclusive]
    ON_INCONCLUSIVE_PAUSE: _ClassVar[OnInconclusive]
    ON_INCONCLUSIVE_ABORT: _ClassVar[OnInconclusive]

class RolloutState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STATE_UNSPECIFIED: _ClassVar[RolloutState]
    ROLLOUT_STATE_PENDING: _ClassVar[RolloutState]
    ROLLOUT_STATE_PROGRESSING: _ClassVar[RolloutState]
    ROLLOUT_STATE_PAUSED: _ClassVar[RolloutState]
    ROLLOUT_STATE_SUCCEEDED: _ClassVar[RolloutState]
    ROLLOUT_STATE_ABORTING: _ClassVar[RolloutState]
    ROLLOUT_STATE_ABORTED: _ClassVar[RolloutState]
STAGE_UNSPECIFIED: Stage
STAGE_DEVELOPMENT: Stage
STAGE_STAGING: Stage
STAGE_CANARY: Stage
STAGE_PRODUCTION: Stage
DEPLOYMENT_STATE_UNSPECIFIED: DeploymentState
DEPLOYMENT_STATE_PENDING: DeploymentState
DEPLOYMENT_STATE_STARTING: DeploymentState
DEPLOYMENT_STATE_WARMING: DeploymentState
DEPLOYMENT_STATE_READY: DeploymentState
DEPLOYMENT_STATE_DEGRADED: DeploymentState
DEPLOYMENT_STATE_DRAINING: DeploymentState
DEPLOYMENT_STATE_STOPPED: DeploymentState
DEPLOYMENT_STATE_FAILED: DeploymentState
REPLICA_STATE_UNSPECIFIED: ReplicaState
REPLICA_STATE_STARTING: ReplicaState
REPLICA_STATE_READY: ReplicaState
REPLICA_STATE_UNHEALTHY: ReplicaState
REPLICA_STATE_STOPPED: ReplicaState
LINK_STATE_UNSPECIFIED: LinkState
LINK_STATE_CONNECTED: LinkState
LINK_STATE_UNKNOWN: LinkState
LINK_STATE_LOST: LinkState
ROLLOUT_STRATEGY_UNSPECIFIED: RolloutStrategy
ROLLOUT_STRATEGY_CANARY: RolloutStrategy
ROLLOUT_STRATEGY_ALL_AT_ONCE: RolloutStrategy
ON_INCONCLUSIVE_UNSPECIFIED: OnInconclusive
ON_INCONCLUSIVE_PAUSE: OnInconclusive
ON_INCONCLUSIVE_ABORT: OnInconclusive
ROLLOUT_STATE_UNSPECIFIED: RolloutState
ROLLOUT_STATE_PENDING: RolloutState
ROLLOUT_STATE_PROGRESSING: RolloutState
ROLLOUT_STATE_PAUSED: RolloutState
ROLLOUT_STATE_SUCCEEDED: RolloutState
ROLLOUT_STATE_ABORTING: RolloutState
ROLLOUT_STATE_ABORTED: RolloutState

class Endpoint(_message.Message):
    __slots__ = ("name", "model", "port", "gateway_address", "address", "routes", "deployments", "automation_paused", "quarantines", "create_time", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    AUTOMATION_PAUSED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    port: int
    gateway_address: str
    address: str
    routes: RouteTable
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    automation_paused: bool
    quarantines: _containers.RepeatedCompositeFieldContainer[Quarantine]
    create_time: _timestamp_pb2.Timestamp
    etag: str
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., port: _Optional[int] = ..., gateway_address: _Optional[str] = ..., address: _Optional[str] = ..., routes: _Optional[_Union[RouteTable, _Mapping]] = ..., deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ..., automation_paused: bool = ..., quarantines: _Optional[_Iterable[_Union[Quarantine, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ...) -> None: ...

class RouteTable(_message.Message):
    __slots__ = ("generation", "weights", "shadows", "sticky_header", "etag", "update_time")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    STICKY_HEADER_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    generation: int
    weights: _containers.RepeatedCompositeFieldContainer[RouteWeight]
    shadows: _containers.RepeatedCompositeFieldContainer[ShadowRoute]
    sticky_header: str
    etag: str
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, generation: _Optional[int] = ..., weights: _Optional[_Iterable[_Union[RouteWeight, _Mapping]]] = ..., shadows: _Optional[_Iterable[_Union[ShadowRoute, _Mapping]]] = ..., sticky_header: _Optional[str] = ..., etag: _Optional[str] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RouteWeight(_message.Message):
    __slots__ = ("deployment", "weight_bp")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BP_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    weight_bp: int
    def __init__(self, deployment: _Optional[str] = ..., weight_bp: _Optional[int] = ...) -> None: ...

class ShadowRoute(_message.Message):
    __slots__ = ("deployment", "fraction_bp")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    FRACTION_BP_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    fraction_bp: int
    def __init__(self, deployment: _Optional[str] = ..., fraction_bp: _Optional[int] = ...) -> None: ...

class Quarantine(_message.Message):
    __slots__ = ("version", "reason", "create_time")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    version: int
    reason: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, version: _Optional[int] = ..., reason: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeploymentConfig(_message.Message):
    __slots__ = ("resources", "scaling", "health_check", "rollback", "monitoring")
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    MONITORING_FIELD_NUMBER: _ClassVar[int]
    resources: Resources
    scaling: Scaling
    health_check: HealthCheck
    rollback: RollbackSettings
    monitoring: _monitoring_pb2.MonitoringConfig
    def __init__(self, resources: _Optional[_Union[Resources, _Mapping]] = ..., scaling: _Optional[_Union[Scaling, _Mapping]] = ..., health_check: _Optional[_Union[HealthCheck, _Mapping]] = ..., rollback: _Optional[_Union[RollbackSettings, _Mapping]] = ..., monitoring: _Optional[_Union[_monitoring_pb2.MonitoringConfig, _Mapping]] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("cpu_cores", "memory_mib")
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    cpu_cores: float
    memory_mib: int
    def __init__(self, cpu_cores: _Optional[float] = ..., memory_mib: _Optional[int] = ...) -> None: ...

class Scaling(_message.Message):
    __slots__ = ("replicas", "min_replicas", "max_replicas", "target_in_flight")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MIN_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    TARGET_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    min_replicas: int
    max_replicas: int
    target_in_flight: float
    def __init__(self, replicas: _Optional[int] = ..., min_replicas: _Optional[int] = ..., max_replicas: _Optional[int] = ..., target_in_flight: _Optional[float] = ...) -> None: ...

class HealthCheck(_message.Message):
    __slots__ = ("interval_s", "timeout_s", "failure_threshold", "success_threshold", "startup_timeout_s")
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    FAILURE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    STARTUP_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    interval_s: float
    timeout_s: float
    failure_threshold: int
    success_threshold: int
    startup_timeout_s: float
    def __init__(self, interval_s: _Optional[float] = ..., timeout_s: _Optional[float] = ..., failure_threshold: _Optional[int] = ..., success_threshold: _Optional[int] = ..., startup_timeout_s: _Optional[float] = ...) -> None: ...

class RollbackSettings(_message.Message):
    __slots__ = ("automatic", "keep_previous_s")
    AUTOMATIC_FIELD_NUMBER: _ClassVar[int]
    KEEP_PREVIOUS_S_FIELD_NUMBER: _ClassVar[int]
    automatic: bool
    keep_previous_s: int
    def __init__(self, automatic: bool = ..., keep_previous_s: _Optional[int] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("name", "id", "endpoint", "model", "version", "stage", "state", "state_reason", "revision", "config", "traffic_bp", "ready_replicas", "replicas", "create_time", "ready_time", "end_time", "author", "rollout", "previous", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_BP_FIELD_NUMBER: _ClassVar[int]
    READY_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    READY_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    endpoint: str
    model: str
    version: int
    stage: Stage
    state: DeploymentState
    state_reason: str
    revision: int
    config: DeploymentConfig
    traffic_bp: int
    ready_replicas: int
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    create_time: _timestamp_pb2.Timestamp
    ready_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    author: str
    rollout: str
    previous: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., stage: _Optional[_Union[Stage, str]] = ..., state: _Optional[_Union[DeploymentState, str]] = ..., state_reason: _Optional[str] = ..., revision: _Optional[int] = ..., config: _Optional[_Union[DeploymentConfig, _Mapping]] = ..., traffic_bp: _Optional[int] = ..., ready_replicas: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ready_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., rollout: _Optional[str] = ..., previous: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("name", "id", "deployment", "state", "state_reason", "revision", "node", "grpc_address", "http_address", "link", "server_pid", "sidecar_pid", "restarts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    SERVER_PID_FIELD_NUMBER: _ClassVar[int]
    SIDECAR_PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    deployment: str
    state: ReplicaState
    state_reason: str
    revision: int
    node: str
    grpc_address: str
    http_address: str
    link: LinkState
    server_pid: int
    sidecar_pid: int
    restarts: int
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ..., deployment: _Optional[str] = ..., state: _Optional[_Union[ReplicaState, str]] = ..., state_reason: _Optional[str] = ..., revision: _Optional[int] = ..., node: _Optional[str] = ..., grpc_address: _Optional[str] = ..., http_address: _Optional[str] = ..., link: _Optional[_Union[LinkState, str]] = ..., server_pid: _Optional[int] = ..., sidecar_pid: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...

class RolloutPlan(_message.Message):
    __slots__ = ("strategy", "steps", "criteria", "max_wait_s", "on_inconclusive", "auto_promote")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    CRITERIA_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    ON_INCONCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    AUTO_PROMOTE_FIELD_NUMBER: _ClassVar[int]
    strategy: RolloutStrategy
    steps: _containers.RepeatedCompositeFieldContainer[RolloutStep]
    criteria: _containers.RepeatedCompositeFieldContainer[_common_pb2.Criterion]
    max_wait_s: float
    on_inconclusive: OnInconclusive
    auto_promote: bool
    def __init__(self, strategy: _Optional[_Union[RolloutStrategy, str]] = ..., steps: _Optional[_Iterable[_Union[RolloutStep, _Mapping]]] = ..., criteria: _Optional[_Iterable[_Union[_common_pb2.Criterion, _Mapping]]] = ..., max_wait_s: _Optional[float] = ..., on_inconclusive: _Optional[_Union[OnInconclusive, str]] = ..., auto_promote: bool = ...) -> None: ...

class RolloutStep(_message.Message):
    __slots__ = ("weight_bp", "min_duration_s", "pause")
    WEIGHT_BP_FIELD_NUMBER: _ClassVar[int]
    MIN_DURATION_S_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    weight_bp: int
    min_duration_s: float
    pause: bool
    def __init__(self, weight_bp: _Optional[int] = ..., min_duration_s: _Optional[float] = ..., pause: bool = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("name", "deployment", "stage", "state", "state_reason", "plan", "step", "step_time", "decisions", "create_time", "end_time", "author", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    deployment: str
    stage: Stage
    state: RolloutState
    state_reason: str
    plan: RolloutPlan
    step: int
    step_time: _timestamp_pb2.Timestamp
    decisions: _containers.RepeatedCompositeFieldContainer[_common_pb2.Decision]
    create_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    author: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., deployment: _Optional[str] = ..., stage: _Optional[_Union[Stage, str]] = ..., state: _Optional[_Union[RolloutState, str]] = ..., state_reason: _Optional[str] = ..., plan: _Optional[_Union[RolloutPlan, _Mapping]] = ..., step: _Optional[int] = ..., step_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[_common_pb2.Decision, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class ReadinessCheck(_message.Message):
    __slots__ = ("check", "passed", "explanation")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    check: str
    passed: bool
    explanation: str
    def __init__(self, check: _Optional[str] = ..., passed: bool = ..., explanation: _Optional[str] = ...) -> None: ...
