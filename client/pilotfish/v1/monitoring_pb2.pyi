import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pilotfish.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PredictionRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PREDICTION_ROLE_UNSPECIFIED: _ClassVar[PredictionRole]
    PREDICTION_ROLE_LIVE: _ClassVar[PredictionRole]
    PREDICTION_ROLE_SHADOW: _ClassVar[PredictionRole]
    PREDICTION_ROLE_REPLAY: _ClassVar[PredictionRole]

class ColumnGroup(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLUMN_GROUP_UNSPECIFIED: _ClassVar[ColumnGroup]
    COLUMN_GROUP_INPUT: _ClassVar[ColumnGroup]
    COLUMN_GROUP_OUTPUT: _ClassVar[ColumnGroup]

class AlertKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALERT_KIND_UNSPECIFIED: _ClassVar[AlertKind]
    ALERT_KIND_DATA_DRIFT: _ClassVar[AlertKind]
    ALERT_KIND_PREDICTION_DRIFT: _ClassVar[AlertKind]
    ALERT_KIND_PERFORMANCE: _ClassVar[AlertKind]
    ALERT_KIND_ERROR_RATE: _ClassVar[AlertKind]
    ALERT_KIND_DATA_QUALITY: _ClassVar[AlertKind]
    ALERT_KIND_ANOMALY: _ClassVar[AlertKind]
    ALERT_KIND_RULE: _ClassVar[AlertKind]

class AlertState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALERT_STATE_UNSPECIFIED: _ClassVar[AlertState]
    ALERT_STATE_PENDING: _ClassVar[AlertState]
    ALERT_STATE_FIRING: _ClassVar[AlertState]
    ALERT_STATE_RESOLVED: _ClassVar[AlertState]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_INFO: _ClassVar[Severity]
    SEVERITY_WARNING: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]
PREDICTION_ROLE_UNSPECIFIED: PredictionRole
PREDICTION_ROLE_LIVE: PredictionRole
PREDICTION_ROLE_SHADOW: PredictionRole
PREDICTION_ROLE_REPLAY: PredictionRole
COLUMN_GROUP_UNSPECIFIED: ColumnGroup
COLUMN_GROUP_INPUT: ColumnGroup
COLUMN_GROUP_OUTPUT: ColumnGroup
ALERT_KIND_UNSPECIFIED: AlertKind
ALERT_KIND_DATA_DRIFT: AlertKind
ALERT_KIND_PREDICTION_DRIFT: AlertKind
ALERT_KIND_PERFORMANCE: AlertKind
ALERT_KIND_ERROR_RATE: AlertKind
ALERT_KIND_DATA_QUALITY: AlertKind
ALERT_KIND_ANOMALY: AlertKind
ALERT_KIND_RULE: AlertKind
ALERT_STATE_UNSPECIFIED: AlertState
ALERT_STATE_PENDING: AlertState
ALERT_STATE_FIRING: AlertState
ALERT_STATE_RESOLVED: AlertState
SEVERITY_UNSPECIFIED: Severity
SEVERITY_INFO: Severity
SEVERITY_WARNING: Severity
SEVERITY_CRITICAL: Severity

class MonitoringConfig(_message.Message):
    __slots__ = ("drift_detection", "performance_monitoring", "data_quality", "sample_bp", "masked_columns", "hashed_columns")
    DRIFT_DETECTION_FIELD_NUMBER: _ClassVar[int]
    PERFORMANCE_MONITORING_FIELD_NUMBER: _ClassVar[int]
    DATA_QUALITY_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_BP_FIELD_NUMBER: _ClassVar[int]
    MASKED_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    HASHED_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    drift_detection: DriftDetection
    performance_monitoring: PerformanceMonitoring
    data_quality: DataQualityMonitoring
    sample_bp: int
    masked_columns: _containers.RepeatedScalarFieldContainer[str]
    hashed_columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, drift_detection: _Optional[_Union[DriftDetection, _Mapping]] = ..., performance_monitoring: _Optional[_Union[PerformanceMonitoring, _Mapping]] = ..., data_quality: _Optional[_Union[DataQualityMonitoring, _Mapping]] = ..., sample_bp: _Optional[int] = ..., masked_columns: _Optional[_Iterable[str]] = ..., hashed_columns: _Optional[_Iterable[str]] = ...) -> None: ...

class DriftDetection(_message.Message):
    __slots__ = ("enabled", "method", "threshold", "window_size", "window_time_s", "min_sample", "scales", "learn_rows")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TIME_S_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    LEARN_ROWS_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    method: str
    threshold: float
    window_size: int
    window_time_s: float
    min_sample: int
    scales: _containers.RepeatedScalarFieldContainer[int]
    learn_rows: int
    def __init__(self, enabled: bool = ..., method: _Optional[str] = ..., threshold: _Optional[float] = ..., window_size: _Optional[int] = ..., window_time_s: _Optional[float] = ..., min_sample: _Optional[int] = ..., scales: _Optional[_Iterable[int]] = ..., learn_rows: _Optional[int] = ...) -> None: ...

class PerformanceMonitoring(_message.Message):
    __slots__ = ("enabled", "max_error_ratio", "max_latency_p99_ms", "min_accuracy", "min_sample")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_P99_MS_FIELD_NUMBER: _ClassVar[int]
    MIN_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    max_error_ratio: float
    max_latency_p99_ms: float
    min_accuracy: float
    min_sample: int
    def __init__(self, enabled: bool = ..., max_error_ratio: _Optional[float] = ..., max_latency_p99_ms: _Optional[float] = ..., min_accuracy: _Optional[float] = ..., min_sample: _Optional[int] = ...) -> None: ...

class DataQualityMonitoring(_message.Message):
    __slots__ = ("enabled", "max_missing_ratio")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    MAX_MISSING_RATIO_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    max_missing_ratio: float
    def __init__(self, enabled: bool = ..., max_missing_ratio: _Optional[float] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "group", "datatype", "data", "strings", "missing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    group: ColumnGroup
    datatype: str
    data: bytes
    strings: _containers.RepeatedScalarFieldContainer[str]
    missing: bytes
    def __init__(self, name: _Optional[str] = ..., group: _Optional[_Union[ColumnGroup, str]] = ..., datatype: _Optional[str] = ..., data: _Optional[bytes] = ..., strings: _Optional[_Iterable[str]] = ..., missing: _Optional[bytes] = ...) -> None: ...

class PredictionBatch(_message.Message):
    __slots__ = ("deployment", "replica", "endpoint", "model", "version", "prediction_ids", "times_us", "latencies_us", "roles", "codes", "input_hashes", "columns", "metadata_json")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    TIMES_US_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_US_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    INPUT_HASHES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    replica: str
    endpoint: str
    model: str
    version: int
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    times_us: _containers.RepeatedScalarFieldContainer[int]
    latencies_us: _containers.RepeatedScalarFieldContainer[int]
    roles: _containers.RepeatedScalarFieldContainer[PredictionRole]
    codes: _containers.RepeatedScalarFieldContainer[int]
    input_hashes: _containers.RepeatedScalarFieldContainer[int]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    metadata_json: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, deployment: _Optional[str] = ..., replica: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., prediction_ids: _Optional[_Iterable[str]] = ..., times_us: _Optional[_Iterable[int]] = ..., latencies_us: _Optional[_Iterable[int]] = ..., roles: _Optional[_Iterable[_Union[PredictionRole, str]]] = ..., codes: _Optional[_Iterable[int]] = ..., input_hashes: _Optional[_Iterable[int]] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., metadata_json: _Optional[_Iterable[str]] = ...) -> None: ...

class GroundTruthBatch(_message.Message):
    __slots__ = ("deployment", "prediction_ids", "values", "labels", "times_us")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TIMES_US_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[float]
    labels: _containers.RepeatedScalarFieldContainer[str]
    times_us: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, deployment: _Optional[str] = ..., prediction_ids: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[float]] = ..., labels: _Optional[_Iterable[str]] = ..., times_us: _Optional[_Iterable[int]] = ...) -> None: ...

class FeatureDrift(_message.Message):
    __slots__ = ("feature", "group", "score", "p_value", "threshold", "n", "drifted", "reason")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    DRIFTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    feature: str
    group: ColumnGroup
    score: float
    p_value: float
    threshold: float
    n: int
    drifted: bool
    reason: str
    def __init__(self, feature: _Optional[str] = ..., group: _Optional[_Union[ColumnGroup, str]] = ..., score: _Optional[float] = ..., p_value: _Optional[float] = ..., threshold: _Optional[float] = ..., n: _Optional[int] = ..., drifted: bool = ..., reason: _Optional[str] = ...) -> None: ...

class DriftVerdict(_message.Message):
    __slots__ = ("window", "deployment", "method", "score", "threshold", "n", "drifted", "data_score", "prediction_score", "features", "start_time", "end_time", "scale", "reason", "episode", "profile_id")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    DRIFTED_FIELD_NUMBER: _ClassVar[int]
    DATA_SCORE_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    window: str
    deployment: str
    method: str
    score: float
    threshold: float
    n: int
    drifted: bool
    data_score: float
    prediction_score: float
    features: _containers.RepeatedCompositeFieldContainer[FeatureDrift]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    scale: int
    reason: str
    episode: str
    profile_id: str
    def __init__(self, window: _Optional[str] = ..., deployment: _Optional[str] = ..., method: _Optional[str] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., n: _Optional[int] = ..., drifted: bool = ..., data_score: _Optional[float] = ..., prediction_score: _Optional[float] = ..., features: _Optional[_Iterable[_Union[FeatureDrift, _Mapping]]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scale: _Optional[int] = ..., reason: _Optional[str] = ..., episode: _Optional[str] = ..., profile_id: _Optional[str] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("name", "kind", "state", "severity", "endpoint", "deployment", "summary", "details", "episode", "start_time", "end_time", "acknowledged_by", "acknowledge_time", "silenced_until")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BY_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_TIME_FIELD_NUMBER: _ClassVar[int]
    SILENCED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: AlertKind
    state: AlertState
    severity: Severity
    endpoint: str
    deployment: str
    summary: str
    details: _struct_pb2.Struct
    episode: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    acknowledged_by: str
    acknowledge_time: _timestamp_pb2.Timestamp
    silenced_until: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[AlertKind, str]] = ..., state: _Optional[_Union[AlertState, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., endpoint: _Optional[str] = ..., deployment: _Optional[str] = ..., summary: _Optional[str] = ..., details: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., episode: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., acknowledged_by: _Optional[str] = ..., acknowledge_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., silenced_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DeploymentMetrics(_message.Message):
    __slots__ = ("deployment", "endpoint", "version", "range", "prediction_count", "error_count", "error_ratio", "latency_mean_ms", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "labelled_count", "label_coverage", "quality", "drift", "capture")
    class QualityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MEAN_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P95_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_MS_FIELD_NUMBER: _ClassVar[int]
    LABELLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    LABEL_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    endpoint: str
    version: int
    range: _common_pb2.TimeRange
    prediction_count: int
    error_count: int
    error_ratio: float
    latency_mean_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    labelled_count: int
    label_coverage: float
    quality: _containers.ScalarMap[str, float]
    drift: DriftVerdict
    capture: CaptureCounts
    def __init__(self, deployment: _Optional[str] = ..., endpoint: _Optional[str] = ..., version: _Optional[int] = ..., range: _Optional[_Union[_common_pb2.TimeRange, _Mapping]] = ..., prediction_count: _Optional[int] = ..., error_count: _Optional[int] = ..., error_ratio: _Optional[float] = ..., latency_mean_ms: _Optional[float] = ..., latency_p50_ms: _Optional[float] = ..., latency_p95_ms: _Optional[float] = ..., latency_p99_ms: _Optional[float] = ..., labelled_count: _Optional[int] = ..., label_coverage: _Optional[float] = ..., quality: _Optional[_Mapping[str, float]] = ..., drift: _Optional[_Union[DriftVerdict, _Mapping]] = ..., capture: _Optional[_Union[CaptureCounts, _Mapping]] = ...) -> None: ...

class CaptureCounts(_message.Message):
    __slots__ = ("served", "captured", "dropped", "in_flight", "undecodable")
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class UndecodableEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SERVED_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    UNDECODABLE_FIELD_NUMBER: _ClassVar[int]
    served: int
    captured: int
    dropped: _containers.ScalarMap[str, int]
    in_flight: int
    undecodable: _containers.ScalarMap[str, int]
    def __init__(self, served: _Optional[int] = ..., captured: _Optional[int] = ..., dropped: _Optional[_Mapping[str, int]] = ..., in_flight: _Optional[int] = ..., undecodable: _Optional[_Mapping[str, int]] = ...) -> None: ...

class MonitoringReport(_message.Message):
    __slots__ = ("endpoint", "range", "create_time", "model_information", "totals", "deployments", "daily", "performance_analysis", "drift_analysis", "data_quality", "recommendations", "alerts")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_INFORMATION_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    DAILY_FIELD_NUMBER: _ClassVar[int]
    PERFORMANCE_ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    DATA_QUALITY_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    range: _common_pb2.TimeRange
    create_time: _timestamp_pb2.Timestamp
    model_information: _struct_pb2.Struct
    totals: DeploymentMetrics
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentMetrics]
    daily: _containers.RepeatedCompositeFieldContainer[DailyCount]
    performance_analysis: _struct_pb2.Struct
    drift_analysis: _struct_pb2.Struct
    data_quality: _struct_pb2.Struct
    recommendations: _containers.RepeatedScalarFieldContainer[str]
    alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    def __init__(self, endpoint: _Optional[str] = ..., range: _Optional[_Union[_common_pb2.TimeRange, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model_information: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., totals: _Optional[_Union[DeploymentMetrics, _Mapping]] = ..., deployments: _Optional[_Iterable[_Union[DeploymentMetrics, _Mapping]]] = ..., daily: _Optional[_Iterable[_Union[DailyCount, _Mapping]]] = ..., performance_analysis: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., drift_analysis: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., data_quality: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., recommendations: _Optional[_Iterable[str]] = ..., alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ...) -> None: ...

class DailyCount(_message.Message):
    __slots__ = ("day", "version", "predictions", "errors")
    DAY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    day: str
    version: int
    predictions: int
    errors: int
    def __init__(self, day: _Optional[str] = ..., version: _Optional[int] = ..., predictions: _Optional[int] = ..., errors: _Optional[int] = ...) -> None: ...
