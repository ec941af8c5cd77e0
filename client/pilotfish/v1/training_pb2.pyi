import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pilotfish.v1 import common_pb2 as _common_pb2
from pilotfish.v1 import deployment_pb2 as _deployment_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_REJECTED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_TIMED_OUT: _ClassVar[JobState]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_REJECTED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_TIMED_OUT: JobState

class Pipeline(_message.Message):
    __slots__ = ("name", "model", "description", "data_sources", "feature_config", "training_config", "evaluation_config", "triggers", "schedule", "quality_config", "revision", "create_time", "update_time", "author", "etag", "timeout_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DATA_SOURCES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    TRAINING_CONFIG_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_CONFIG_FIELD_NUMBER: _ClassVar[int]
    TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_CONFIG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    description: str
    data_sources: _containers.RepeatedCompositeFieldContainer[DataSource]
    feature_config: FeatureConfig
    training_config: TrainingConfig
    evaluation_config: EvaluationConfig
    triggers: _containers.RepeatedCompositeFieldContainer[PipelineTrigger]
    schedule: str
    quality_config: _struct_pb2.Struct
    revision: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    author: str
    etag: str
    timeout_s: float
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., description: _Optional[str] = ..., data_sources: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., feature_config: _Optional[_Union[FeatureConfig, _Mapping]] = ..., training_config: _Optional[_Union[TrainingConfig, _Mapping]] = ..., evaluation_config: _Optional[_Union[EvaluationConfig, _Mapping]] = ..., triggers: _Optional[_Iterable[_Union[PipelineTrigger, _Mapping]]] = ..., schedule: _Optional[str] = ..., quality_config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., etag: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class DataSource(_message.Message):
    __slots__ = ("name", "type", "connection", "query", "path", "format", "endpoint", "parameters", "serving_endpoint", "since_days")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SERVING_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SINCE_DAYS_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    connection: str
    query: str
    path: str
    format: str
    endpoint: str
    parameters: _struct_pb2.Struct
    serving_endpoint: str
    since_days: float
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., connection: _Optional[str] = ..., query: _Optional[str] = ..., path: _Optional[str] = ..., format: _Optional[str] = ..., endpoint: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., serving_endpoint: _Optional[str] = ..., since_days: _Optional[float] = ...) -> None: ...

class FeatureConfig(_message.Message):
    __slots__ = ("feature_set_id", "join_config", "label", "features", "id_column", "time_column", "group_column")
    FEATURE_SET_ID_FIELD_NUMBER: _ClassVar[int]
    JOIN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ID_COLUMN_FIELD_NUMBER: _ClassVar[int]
    TIME_COLUMN_FIELD_NUMBER: _ClassVar[int]
    GROUP_COLUMN_FIELD_NUMBER: _ClassVar[int]
    feature_set_id: str
    join_config: _struct_pb2.Struct
    label: str
    features: _containers.RepeatedScalarFieldContainer[str]
    id_column: str
    time_column: str
    group_column: str
    def __init__(self, feature_set_id: _Optional[str] = ..., join_config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., label: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., id_column: _Optional[str] = ..., time_column: _Optional[str] = ..., group_column: _Optional[str] = ...) -> None: ...

class TrainingConfig(_message.Message):
    __slots__ = ("model_config", "hyperparameters", "split_config", "search")
    MODEL_CONFIG_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    model_config: _struct_pb2.Struct
    hyperparameters: _struct_pb2.Struct
    split_config: _struct_pb2.Struct
    search: _struct_pb2.Struct
    def __init__(self, model_config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., hyperparameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., split_config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., search: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class EvaluationConfig(_message.Message):
    __slots__ = ("metrics", "thresholds", "compare_champion", "champion_metric", "champion_margin")
    METRICS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    COMPARE_CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_METRIC_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_MARGIN_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedScalarFieldContainer[str]
    thresholds: _containers.RepeatedCompositeFieldContainer[_common_pb2.Criterion]
    compare_champion: bool
    champion_metric: str
    champion_margin: float
    def __init__(self, metrics: _Optional[_Iterable[str]] = ..., thresholds: _Optional[_Iterable[_Union[_common_pb2.Criterion, _Mapping]]] = ..., compare_champion: bool = ..., champion_metric: _Optional[str] = ..., champion_margin: _Optional[float] = ...) -> None: ...

class PipelineTrigger(_message.Message):
    __slots__ = ("type", "endpoint", "cooldown_s")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    COOLDOWN_S_FIELD_NUMBER: _ClassVar[int]
    type: str
    endpoint: str
    cooldown_s: float
    def __init__(self, type: _Optional[str] = ..., endpoint: _Optional[str] = ..., cooldown_s: _Optional[float] = ...) -> None: ...

class DeliveryPlan(_message.Message):
    __slots__ = ("endpoint", "stage", "plan")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    stage: _deployment_pb2.Stage
    plan: _deployment_pb2.RolloutPlan
    def __init__(self, endpoint: _Optional[str] = ..., stage: _Optional[_Union[_deployment_pb2.Stage, str]] = ..., plan: _Optional[_Union[_deployment_pb2.RolloutPlan, _Mapping]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("name", "pipeline", "pipeline_revision", "state", "state_reason", "stage", "progress", "trigger", "trigger_reason", "attempt", "version", "metrics", "champion_metrics", "champion_version", "gate", "issues", "result", "delivery", "create_time", "start_time", "end_time", "author", "operation")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ChampionMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_REVISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_METRICS_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_VERSION_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    ISSUES_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    pipeline: str
    pipeline_revision: int
    state: JobState
    state_reason: str
    stage: str
    progress: float
    trigger: str
    trigger_reason: str
    attempt: int
    version: int
    metrics: _containers.ScalarMap[str, float]
    champion_metrics: _containers.ScalarMap[str, float]
    champion_version: int
    gate: _common_pb2.Decision
    issues: _containers.RepeatedCompositeFieldContainer[QualityIssue]
    result: _struct_pb2.Struct
    delivery: DeliveryPlan
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    author: str
    operation: str
    def __init__(self, name: _Optional[str] = ..., pipeline: _Optional[str] = ..., pipeline_revision: _Optional[int] = ..., state: _Optional[_Union[JobState, str]] = ..., state_reason: _Optional[str] = ..., stage: _Optional[str] = ..., progress: _Optional[float] = ..., trigger: _Optional[str] = ..., trigger_reason: _Optional[str] = ..., attempt: _Optional[int] = ..., version: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., champion_metrics: _Optional[_Mapping[str, float]] = ..., champion_version: _Optional[int] = ..., gate: _Optional[_Union[_common_pb2.Decision, _Mapping]] = ..., issues: _Optional[_Iterable[_Union[QualityIssue, _Mapping]]] = ..., result: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., delivery: _Optional[_Union[DeliveryPlan, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., operation: _Optional[str] = ...) -> None: ...

class QualityIssue(_message.Message):
    __slots__ = ("check", "severity", "column", "message")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    check: str
    severity: str
    column: str
    message: str
    def __init__(self, check: _Optional[str] = ..., severity: _Optional[str] = ..., column: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class JobProgress(_message.Message):
    __slots__ = ("sequence", "stage", "progress", "message", "metrics", "time")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    stage: str
    progress: float
    message: str
    metrics: _containers.ScalarMap[str, float]
    time: _timestamp_pb2.Timestamp
    def __init__(self, sequence: _Optional[int] = ..., stage: _Optional[str] = ..., progress: _Optional[float] = ..., message: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
