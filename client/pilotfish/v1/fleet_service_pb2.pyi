import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pilotfish.v1 import deployment_pb2 as _deployment_pb2
from pilotfish.v1 import monitoring_pb2 as _monitoring_pb2
from pilotfish.v1 import options_pb2 as _options_pb2
from pilotfish.v1 import registry_pb2 as _registry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemberKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEMBER_KIND_UNSPECIFIED: _ClassVar[MemberKind]
    MEMBER_KIND_SIDECAR: _ClassVar[MemberKind]
    MEMBER_KIND_NODE: _ClassVar[MemberKind]
MEMBER_KIND_UNSPECIFIED: MemberKind
MEMBER_KIND_SIDECAR: MemberKind
MEMBER_KIND_NODE: MemberKind

class ConnectRequest(_message.Message):
    __slots__ = ("hello", "heartbeat", "config_ack", "command_result", "node_state", "sidecar_state")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_ACK_FIELD_NUMBER: _ClassVar[int]
    COMMAND_RESULT_FIELD_NUMBER: _ClassVar[int]
    NODE_STATE_FIELD_NUMBER: _ClassVar[int]
    SIDECAR_STATE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    config_ack: ConfigAck
    command_result: CommandResult
    node_state: NodeState
    sidecar_state: SidecarState
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., config_ack: _Optional[_Union[ConfigAck, _Mapping]] = ..., command_result: _Optional[_Union[CommandResult, _Mapping]] = ..., node_state: _Optional[_Union[NodeState, _Mapping]] = ..., sidecar_state: _Optional[_Union[SidecarState, _Mapping]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("welcome", "heartbeat", "config", "command", "goodbye")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    heartbeat: Heartbeat
    config: MemberConfig
    command: Command
    goodbye: Goodbye
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., config: _Optional[_Union[MemberConfig, _Mapping]] = ..., command: _Optional[_Union[Command, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("kind", "instance", "incarnation", "program_version", "replicas", "config_version", "spool_heads", "open_commands", "host")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    SPOOL_HEADS_FIELD_NUMBER: _ClassVar[int]
    OPEN_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    kind: MemberKind
    instance: str
    incarnation: int
    program_version: str
    replicas: _containers.RepeatedScalarFieldContainer[str]
    config_version: int
    spool_heads: _containers.RepeatedCompositeFieldContainer[StreamOffset]
    open_commands: _containers.RepeatedScalarFieldContainer[str]
    host: str
    def __init__(self, kind: _Optional[_Union[MemberKind, str]] = ..., instance: _Optional[str] = ..., incarnation: _Optional[int] = ..., program_version: _Optional[str] = ..., replicas: _Optional[_Iterable[str]] = ..., config_version: _Optional[int] = ..., spool_heads: _Optional[_Iterable[_Union[StreamOffset, _Mapping]]] = ..., open_commands: _Optional[_Iterable[str]] = ..., host: _Optional[str] = ...) -> None: ...

class StreamOffset(_message.Message):
    __slots__ = ("stream", "incarnation", "offset")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    stream: str
    incarnation: int
    offset: int
    def __init__(self, stream: _Optional[str] = ..., incarnation: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("epoch", "heartbeat_interval_s", "lease_s", "watermarks", "max_publish_bytes", "time")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    MAX_PUBLISH_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    heartbeat_interval_s: float
    lease_s: float
    watermarks: _containers.RepeatedCompositeFieldContainer[StreamOffset]
    max_publish_bytes: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, epoch: _Optional[int] = ..., heartbeat_interval_s: _Optional[float] = ..., lease_s: _Optional[float] = ..., watermarks: _Optional[_Iterable[_Union[StreamOffset, _Mapping]]] = ..., max_publish_bytes: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence", "time")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class MemberConfig(_message.Message):
    __slots__ = ("version", "nonce", "sidecar", "node")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIDECAR_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    version: int
    nonce: str
    sidecar: SidecarConfig
    node: NodeConfig
    def __init__(self, version: _Optional[int] = ..., nonce: _Optional[str] = ..., sidecar: _Optional[_Union[SidecarConfig, _Mapping]] = ..., node: _Optional[_Union[NodeConfig, _Mapping]] = ...) -> None: ...

class ConfigAck(_message.Message):
    __slots__ = ("version", "nonce", "error")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    version: int
    nonce: str
    error: str
    def __init__(self, version: _Optional[int] = ..., nonce: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class SidecarConfig(_message.Message):
    __slots__ = ("bindings",)
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    bindings: _containers.RepeatedCompositeFieldContainer[ReplicaBinding]
    def __init__(self, bindings: _Optional[_Iterable[_Union[ReplicaBinding, _Mapping]]] = ...) -> None: ...

class ReplicaBinding(_message.Message):
    __slots__ = ("replica", "deployment", "endpoint", "model", "version", "monitoring", "profile_json", "signature_json", "server_model", "server_version", "codec", "retired")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MONITORING_FIELD_NUMBER: _ClassVar[int]
    PROFILE_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_JSON_FIELD_NUMBER: _ClassVar[int]
    SERVER_MODEL_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    replica: str
    deployment: str
    endpoint: str
    model: str
    version: int
    monitoring: _monitoring_pb2.MonitoringConfig
    profile_json: str
    signature_json: str
    server_model: str
    server_version: str
    codec: Codec
    retired: bool
    def __init__(self, replica: _Optional[str] = ..., deployment: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., monitoring: _Optional[_Union[_monitoring_pb2.MonitoringConfig, _Mapping]] = ..., profile_json: _Optional[str] = ..., signature_json: _Optional[str] = ..., server_model: _Optional[str] = ..., server_version: _Optional[str] = ..., codec: _Optional[_Union[Codec, _Mapping]] = ..., retired: bool = ...) -> None: ...

class Codec(_message.Message):
    __slots__ = ("kind", "json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    json: JsonCodec
    def __init__(self, kind: _Optional[str] = ..., json: _Optional[_Union[JsonCodec, _Mapping]] = ...) -> None: ...

class JsonCodec(_message.Message):
    __slots__ = ("path", "inputs", "outputs", "id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    path: str
    inputs: str
    outputs: str
    id: str
    def __init__(self, path: _Optional[str] = ..., inputs: _Optional[str] = ..., outputs: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("project", "instance", "models", "no_register", "stage", "request_id")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NO_REGISTER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    project: str
    instance: str
    models: _containers.RepeatedCompositeFieldContainer[AttachedModel]
    no_register: bool
    stage: _deployment_pb2.Stage
    request_id: str
    def __init__(self, project: _Optional[str] = ..., instance: _Optional[str] = ..., models: _Optional[_Iterable[_Union[AttachedModel, _Mapping]]] = ..., no_register: bool = ..., stage: _Optional[_Union[_deployment_pb2.Stage, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class AttachedModel(_message.Message):
    __slots__ = ("server_model", "server_version", "endpoint", "model", "version", "signature_json", "platform", "checks", "profile_json", "codec", "grpc_address", "http_address")
    SERVER_MODEL_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_JSON_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_JSON_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    server_model: str
    server_version: str
    endpoint: str
    model: str
    version: str
    signature_json: str
    platform: str
    checks: _containers.RepeatedScalarFieldContainer[str]
    profile_json: str
    codec: Codec
    grpc_address: str
    http_address: str
    def __init__(self, server_model: _Optional[str] = ..., server_version: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., signature_json: _Optional[str] = ..., platform: _Optional[str] = ..., checks: _Optional[_Iterable[str]] = ..., profile_json: _Optional[str] = ..., codec: _Optional[_Union[Codec, _Mapping]] = ..., grpc_address: _Optional[str] = ..., http_address: _Optional[str] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("attachments",)
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    def __init__(self, attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ...) -> None: ...

class Attachment(_message.Message):
    __slots__ = ("endpoint", "version", "deployment", "registered", "deployed")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    DEPLOYED_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    version: str
    deployment: str
    registered: bool
    deployed: bool
    def __init__(self, endpoint: _Optional[str] = ..., version: _Optional[str] = ..., deployment: _Optional[str] = ..., registered: bool = ..., deployed: bool = ...) -> None: ...

class NodeConfig(_message.Message):
    __slots__ = ("replicas", "gateway")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaSpec]
    gateway: GatewayConfig
    def __init__(self, replicas: _Optional[_Iterable[_Union[ReplicaSpec, _Mapping]]] = ..., gateway: _Optional[_Union[GatewayConfig, _Mapping]] = ...) -> None: ...

class ReplicaSpec(_message.Message):
    __slots__ = ("replica", "deployment", "endpoint", "model", "version", "revision", "version_name", "files", "artifact_dir", "resources", "health_check", "draining", "framework")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_NAME_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_DIR_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    replica: str
    deployment: str
    endpoint: str
    model: str
    version: int
    revision: int
    version_name: str
    files: _containers.RepeatedCompositeFieldContainer[_registry_pb2.ArtifactFile]
    artifact_dir: str
    resources: _deployment_pb2.Resources
    health_check: _deployment_pb2.HealthCheck
    draining: bool
    framework: str
    def __init__(self, replica: _Optional[str] = ..., deployment: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., revision: _Optional[int] = ..., version_name: _Optional[str] = ..., files: _Optional[_Iterable[_Union[_registry_pb2.ArtifactFile, _Mapping]]] = ..., artifact_dir: _Optional[str] = ..., resources: _Optional[_Union[_deployment_pb2.Resources, _Mapping]] = ..., health_check: _Optional[_Union[_deployment_pb2.HealthCheck, _Mapping]] = ..., draining: bool = ..., framework: _Optional[str] = ...) -> None: ...

class GatewayConfig(_message.Message):
    __slots__ = ("shared_port", "endpoints", "generation")
    SHARED_PORT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    shared_port: int
    endpoints: _containers.RepeatedCompositeFieldContainer[GatewayEndpoint]
    generation: int
    def __init__(self, shared_port: _Optional[int] = ..., endpoints: _Optional[_Iterable[_Union[GatewayEndpoint, _Mapping]]] = ..., generation: _Optional[int] = ...) -> None: ...

class GatewayEndpoint(_message.Message):
    __slots__ = ("endpoint", "port", "weights", "shadows", "sticky_header", "deployments")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    STICKY_HEADER_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    port: int
    weights: _containers.RepeatedCompositeFieldContainer[_deployment_pb2.RouteWeight]
    shadows: _containers.RepeatedCompositeFieldContainer[_deployment_pb2.ShadowRoute]
    sticky_header: str
    deployments: _containers.RepeatedCompositeFieldContainer[GatewayDeployment]
    def __init__(self, endpoint: _Optional[str] = ..., port: _Optional[int] = ..., weights: _Optional[_Iterable[_Union[_deployment_pb2.RouteWeight, _Mapping]]] = ..., shadows: _Optional[_Iterable[_Union[_deployment_pb2.ShadowRoute, _Mapping]]] = ..., sticky_header: _Optional[str] = ..., deployments: _Optional[_Iterable[_Union[GatewayDeployment, _Mapping]]] = ...) -> None: ...

class GatewayDeployment(_message.Message):
    __slots__ = ("deployment", "stage", "version", "replicas")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    stage: _deployment_pb2.Stage
    version: int
    replicas: _containers.RepeatedCompositeFieldContainer[GatewayReplica]
    def __init__(self, deployment: _Optional[str] = ..., stage: _Optional[_Union[_deployment_pb2.Stage, str]] = ..., version: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[GatewayReplica, _Mapping]]] = ...) -> None: ...

class GatewayReplica(_message.Message):
    __slots__ = ("replica", "grpc_address", "http_address")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    grpc_address: str
    http_address: str
    def __init__(self, replica: _Optional[str] = ..., grpc_address: _Optional[str] = ..., http_address: _Optional[str] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("id", "generation", "expire_time", "type", "subject")
    ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    generation: int
    expire_time: _timestamp_pb2.Timestamp
    type: str
    subject: str
    def __init__(self, id: _Optional[str] = ..., generation: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., type: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class CommandResult(_message.Message):
    __slots__ = ("id", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    error: str
    def __init__(self, id: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reconnect_after_s",)
    RECONNECT_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    reconnect_after_s: float
    def __init__(self, reconnect_after_s: _Optional[float] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("replicas", "gateway", "cpu_cores", "memory_mib")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MIB_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaStatus]
    gateway: GatewayStatus
    cpu_cores: float
    memory_mib: int
    def __init__(self, replicas: _Optional[_Iterable[_Union[ReplicaStatus, _Mapping]]] = ..., gateway: _Optional[_Union[GatewayStatus, _Mapping]] = ..., cpu_cores: _Optional[float] = ..., memory_mib: _Optional[int] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("replica", "deployment", "state", "reason", "revision", "grpc_address", "http_address", "server_pid", "sidecar_pid", "restarts", "rss_bytes", "cpu_seconds", "warmed")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVER_PID_FIELD_NUMBER: _ClassVar[int]
    SIDECAR_PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WARMED_FIELD_NUMBER: _ClassVar[int]
    replica: str
    deployment: str
    state: _deployment_pb2.ReplicaState
    reason: str
    revision: int
    grpc_address: str
    http_address: str
    server_pid: int
    sidecar_pid: int
    restarts: int
    rss_bytes: int
    cpu_seconds: float
    warmed: bool
    def __init__(self, replica: _Optional[str] = ..., deployment: _Optional[str] = ..., state: _Optional[_Union[_deployment_pb2.ReplicaState, str]] = ..., reason: _Optional[str] = ..., revision: _Optional[int] = ..., grpc_address: _Optional[str] = ..., http_address: _Optional[str] = ..., server_pid: _Optional[int] = ..., sidecar_pid: _Optional[int] = ..., restarts: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., cpu_seconds: _Optional[float] = ..., warmed: bool = ...) -> None: ...

class GatewayStatus(_message.Message):
    __slots__ = ("running", "shared_port", "generation", "reason", "endpoint_ports")
    class EndpointPortsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SHARED_PORT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_PORTS_FIELD_NUMBER: _ClassVar[int]
    running: bool
    shared_port: int
    generation: int
    reason: str
    endpoint_ports: _containers.ScalarMap[str, int]
    def __init__(self, running: bool = ..., shared_port: _Optional[int] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ..., endpoint_ports: _Optional[_Mapping[str, int]] = ...) -> None: ...

class SidecarState(_message.Message):
    __slots__ = ("replicas", "spool_bytes", "spool_dropped", "rss_bytes")
    class SpoolDroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    SPOOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPOOL_DROPPED_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[SidecarReplicaState]
    spool_bytes: int
    spool_dropped: _containers.ScalarMap[str, int]
    rss_bytes: int
    def __init__(self, replicas: _Optional[_Iterable[_Union[SidecarReplicaState, _Mapping]]] = ..., spool_bytes: _Optional[int] = ..., spool_dropped: _Optional[_Mapping[str, int]] = ..., rss_bytes: _Optional[int] = ...) -> None: ...

class SidecarReplicaState(_message.Message):
    __slots__ = ("replica", "healthy", "capture", "learned_rows")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    LEARNED_ROWS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    healthy: bool
    capture: _monitoring_pb2.CaptureCounts
    learned_rows: int
    def __init__(self, replica: _Optional[str] = ..., healthy: bool = ..., capture: _Optional[_Union[_monitoring_pb2.CaptureCounts, _Mapping]] = ..., learned_rows: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("instance", "incarnation", "stream", "first_offset", "end_offset", "predictions", "truths", "window", "outcomes")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FIRST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    END_OFFSET_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    TRUTHS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    instance: str
    incarnation: int
    stream: str
    first_offset: int
    end_offset: int
    predictions: _monitoring_pb2.PredictionBatch
    truths: _monitoring_pb2.GroundTruthBatch
    window: WindowReport
    outcomes: OutcomeReport
    def __init__(self, instance: _Optional[str] = ..., incarnation: _Optional[int] = ..., stream: _Optional[str] = ..., first_offset: _Optional[int] = ..., end_offset: _Optional[int] = ..., predictions: _Optional[_Union[_monitoring_pb2.PredictionBatch, _Mapping]] = ..., truths: _Optional[_Union[_monitoring_pb2.GroundTruthBatch, _Mapping]] = ..., window: _Optional[_Union[WindowReport, _Mapping]] = ..., outcomes: _Optional[_Union[OutcomeReport, _Mapping]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("incarnation", "stream", "watermark")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    stream: str
    watermark: int
    def __init__(self, incarnation: _Optional[int] = ..., stream: _Optional[str] = ..., watermark: _Optional[int] = ...) -> None: ...

class WindowReport(_message.Message):
    __slots__ = ("window", "replica", "deployment", "index", "rows", "start_time", "end_time", "profile_id", "counts", "verdict", "learned_profile_json")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    LEARNED_PROFILE_JSON_FIELD_NUMBER: _ClassVar[int]
    window: str
    replica: str
    deployment: str
    index: int
    rows: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    profile_id: str
    counts: _containers.RepeatedCompositeFieldContainer[ScaledCounts]
    verdict: _monitoring_pb2.DriftVerdict
    learned_profile_json: str
    def __init__(self, window: _Optional[str] = ..., replica: _Optional[str] = ..., deployment: _Optional[str] = ..., index: _Optional[int] = ..., rows: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., profile_id: _Optional[str] = ..., counts: _Optional[_Iterable[_Union[ScaledCounts, _Mapping]]] = ..., verdict: _Optional[_Union[_monitoring_pb2.DriftVerdict, _Mapping]] = ..., learned_profile_json: _Optional[str] = ...) -> None: ...

class ScaledCounts(_message.Message):
    __slots__ = ("scale", "counts")
    SCALE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    scale: int
    counts: bytes
    def __init__(self, scale: _Optional[int] = ..., counts: _Optional[bytes] = ...) -> None: ...

class OutcomeReport(_message.Message):
    __slots__ = ("replica", "deployment", "start_time", "end_time", "calls", "errors", "latency_bounds_us", "latency_counts", "latency_sum_us")
    class ErrorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_BOUNDS_US_FIELD_NUMBER: _ClassVar[int]
    LATENCY_COUNTS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_SUM_US_FIELD_NUMBER: _ClassVar[int]
    replica: str
    deployment: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    calls: int
    errors: _containers.ScalarMap[str, int]
    latency_bounds_us: _containers.RepeatedScalarFieldContainer[int]
    latency_counts: _containers.RepeatedScalarFieldContainer[int]
    latency_sum_us: int
    def __init__(self, replica: _Optional[str] = ..., deployment: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., calls: _Optional[int] = ..., errors: _Optional[_Mapping[str, int]] = ..., latency_bounds_us: _Optional[_Iterable[int]] = ..., latency_counts: _Optional[_Iterable[int]] = ..., latency_sum_us: _Optional[int] = ...) -> None: ...

class FetchArtifactRequest(_message.Message):
    __slots__ = ("version", "path", "offset")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    version: str
    path: str
    offset: int
    def __init__(self, version: _Optional[str] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchArtifactResponse(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: MemberKind
    def __init__(self, kind: _Optional[_Union[MemberKind, str]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("instance", "kind", "link", "incarnation", "program_version", "seen_time", "config_version", "config_error", "replicas", "host")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_ERROR_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    instance: str
    kind: MemberKind
    link: _deployment_pb2.LinkState
    incarnation: int
    program_version: str
    seen_time: _timestamp_pb2.Timestamp
    config_version: int
    config_error: str
    replicas: _containers.RepeatedScalarFieldContainer[str]
    host: str
    def __init__(self, instance: _Optional[str] = ..., kind: _Optional[_Union[MemberKind, str]] = ..., link: _Optional[_Union[_deployment_pb2.LinkState, str]] = ..., incarnation: _Optional[int] = ..., program_version: _Optional[str] = ..., seen_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., config_version: _Optional[int] = ..., config_error: _Optional[str] = ..., replicas: _Optional[_Iterable[str]] = ..., host: _Optional[str] = ...) -> None: ...

class ListMembersResponse(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...
