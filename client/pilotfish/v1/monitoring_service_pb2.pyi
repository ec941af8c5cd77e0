import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pilotfish.v1 import common_pb2 as _common_pb2
from pilotfish.v1 import monitoring_pb2 as _monitoring_pb2
from pilotfish.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogPredictionsRequest(_message.Message):
    __slots__ = ("deployment", "batch", "request_id")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    batch: _monitoring_pb2.PredictionBatch
    request_id: str
    def __init__(self, deployment: _Optional[str] = ..., batch: _Optional[_Union[_monitoring_pb2.PredictionBatch, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class LogPredictionsResponse(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: int
    def __init__(self, stored: _Optional[int] = ...) -> None: ...

class LogGroundTruthRequest(_message.Message):
    __slots__ = ("scope", "batch", "request_id")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    scope: str
    batch: _monitoring_pb2.GroundTruthBatch
    request_id: str
    def __init__(self, scope: _Optional[str] = ..., batch: _Optional[_Union[_monitoring_pb2.GroundTruthBatch, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class LogGroundTruthResponse(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: int
    def __init__(self, stored: _Optional[int] = ...) -> None: ...

class GetMetricsRequest(_message.Message):
    __slots__ = ("name", "range")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    range: _common_pb2.TimeRange
    def __init__(self, name: _Optional[str] = ..., range: _Optional[_Union[_common_pb2.TimeRange, _Mapping]] = ...) -> None: ...

class GetMetricsResponse(_message.Message):
    __slots__ = ("metrics",)
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedCompositeFieldContainer[_monitoring_pb2.DeploymentMetrics]
    def __init__(self, metrics: _Optional[_Iterable[_Union[_monitoring_pb2.DeploymentMetrics, _Mapping]]] = ...) -> None: ...

class ListDriftVerdictsRequest(_message.Message):
    __slots__ = ("name", "drifted_only", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRIFTED_ONLY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    drifted_only: bool
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., drifted_only: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDriftVerdictsResponse(_message.Message):
    __slots__ = ("verdicts", "next_page_token")
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[_monitoring_pb2.DriftVerdict]
    next_page_token: str
    def __init__(self, verdicts: _Optional[_Iterable[_Union[_monitoring_pb2.DriftVerdict, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("endpoint", "range")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    range: _common_pb2.TimeRange
    def __init__(self, endpoint: _Optional[str] = ..., range: _Optional[_Union[_common_pb2.TimeRange, _Mapping]] = ...) -> None: ...

class GetReportResponse(_message.Message):
    __slots__ = ("report", "report_json")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    report: _monitoring_pb2.MonitoringReport
    report_json: str
    def __init__(self, report: _Optional[_Union[_monitoring_pb2.MonitoringReport, _Mapping]] = ..., report_json: _Optional[str] = ...) -> None: ...

class ExportPredictionsRequest(_message.Message):
    __slots__ = ("name", "range", "roles", "labelled_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    LABELLED_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    range: _common_pb2.TimeRange
    roles: _containers.RepeatedScalarFieldContainer[_monitoring_pb2.PredictionRole]
    labelled_only: bool
    def __init__(self, name: _Optional[str] = ..., range: _Optional[_Union[_common_pb2.TimeRange, _Mapping]] = ..., roles: _Optional[_Iterable[_Union[_monitoring_pb2.PredictionRole, str]]] = ..., labelled_only: bool = ...) -> None: ...

class ExportPredictionsResponse(_message.Message):
    __slots__ = ("batch", "truths", "attempts", "conflicts")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    TRUTHS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    batch: _monitoring_pb2.PredictionBatch
    truths: _containers.RepeatedScalarFieldContainer[str]
    attempts: _containers.RepeatedScalarFieldContainer[int]
    conflicts: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, batch: _Optional[_Union[_monitoring_pb2.PredictionBatch, _Mapping]] = ..., truths: _Optional[_Iterable[str]] = ..., attempts: _Optional[_Iterable[int]] = ..., conflicts: _Optional[_Iterable[bool]] = ...) -> None: ...

class ListAlertsRequest(_message.Message):
    __slots__ = ("project", "filter", "page_size", "page_token")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    project: str
    filter: str
    page_size: int
    page_token: str
    def __init__(self, project: _Optional[str] = ..., filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAlertsResponse(_message.Message):
    __slots__ = ("alerts", "next_page_token")
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    alerts: _containers.RepeatedCompositeFieldContainer[_monitoring_pb2.Alert]
    next_page_token: str
    def __init__(self, alerts: _Optional[_Iterable[_Union[_monitoring_pb2.Alert, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AcknowledgeAlertRequest(_message.Message):
    __slots__ = ("name", "note", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    note: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., note: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class AcknowledgeAlertResponse(_message.Message):
    __slots__ = ("alert",)
    ALERT_FIELD_NUMBER: _ClassVar[int]
    alert: _monitoring_pb2.Alert
    def __init__(self, alert: _Optional[_Union[_monitoring_pb2.Alert, _Mapping]] = ...) -> None: ...

class SilenceAlertRequest(_message.Message):
    __slots__ = ("name", "until", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    until: _timestamp_pb2.Timestamp
    request_id: str
    def __init__(self, name: _Optional[str] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SilenceAlertResponse(_message.Message):
    __slots__ = ("alert",)
    ALERT_FIELD_NUMBER: _ClassVar[int]
    alert: _monitoring_pb2.Alert
    def __init__(self, alert: _Optional[_Union[_monitoring_pb2.Alert, _Mapping]] = ...) -> None: ...
