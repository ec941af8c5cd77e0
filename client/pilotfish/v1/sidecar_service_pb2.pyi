from pilotfish.v1 import monitoring_pb2 as _monitoring_pb2
from pilotfish.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SidecarServiceLogPredictionsRequest(_message.Message):
    __slots__ = ("batch", "request_id")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    batch: _monitoring_pb2.PredictionBatch
    request_id: str
    def __init__(self, batch: _Optional[_Union[_monitoring_pb2.PredictionBatch, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SidecarServiceLogPredictionsResponse(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: int
    def __init__(self, stored: _Optional[int] = ...) -> None: ...

class SidecarServiceLogGroundTruthRequest(_message.Message):
    __slots__ = ("batch", "request_id")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    batch: _monitoring_pb2.GroundTruthBatch
    request_id: str
    def __init__(self, batch: _Optional[_Union[_monitoring_pb2.GroundTruthBatch, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SidecarServiceLogGroundTruthResponse(_message.Message):
    __slots__ = ("stored",)
    STORED_FIELD_NUMBER: _ClassVar[int]
    stored: int
    def __init__(self, stored: _Optional[int] = ...) -> None: ...

class SidecarServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SidecarServiceGetStatusResponse(_message.Message):
    __slots__ = ("instance", "incarnation", "connected", "config_version", "spool_bytes", "spool_rows", "capture", "verdicts")
    class CaptureEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _monitoring_pb2.CaptureCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_monitoring_pb2.CaptureCounts, _Mapping]] = ...) -> None: ...
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    SPOOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPOOL_ROWS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    incarnation: int
    connected: bool
    config_version: int
    spool_bytes: int
    spool_rows: int
    capture: _containers.MessageMap[str, _monitoring_pb2.CaptureCounts]
    verdicts: _containers.RepeatedCompositeFieldContainer[_monitoring_pb2.DriftVerdict]
    def __init__(self, instance: _Optional[str] = ..., incarnation: _Optional[int] = ..., connected: bool = ..., config_version: _Optional[int] = ..., spool_bytes: _Optional[int] = ..., spool_rows: _Optional[int] = ..., capture: _Optional[_Mapping[str, _monitoring_pb2.CaptureCounts]] = ..., verdicts: _Optional[_Iterable[_Union[_monitoring_pb2.DriftVerdict, _Mapping]]] = ...) -> None: ...
