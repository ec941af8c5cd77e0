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

class FiringState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIRING_STATE_UNSPECIFIED: _ClassVar[FiringState]
    FIRING_STATE_SUSPECTED: _ClassVar[FiringState]
    FIRING_STATE_CONFIRMED: _ClassVar[FiringState]
    FIRING_STATE_ACTING: _ClassVar[FiringState]
    FIRING_STATE_DONE: _ClassVar[FiringState]
    FIRING_STATE_PARTIAL: _ClassVar[FiringState]
    FIRING_STATE_FAILED: _ClassVar[FiringState]
    FIRING_STATE_LAPSED: _ClassVar[FiringState]
    FIRING_STATE_SUPPRESSED: _ClassVar[FiringState]

class ActionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_STATE_UNSPECIFIED: _ClassVar[ActionState]
    ACTION_STATE_PENDING: _ClassVar[ActionState]
    ACTION_STATE_LEASED: _ClassVar[ActionState]
    ACTION_STATE_SUCCEEDED: _ClassVar[ActionState]
    ACTION_STATE_FAILED: _ClassVar[ActionState]

class RetirementState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RETIREMENT_STATE_UNSPECIFIED: _ClassVar[RetirementState]
    RETIREMENT_STATE_SCHEDULED: _ClassVar[RetirementState]
    RETIREMENT_STATE_DEPRECATION_WARNING: _ClassVar[RetirementState]
    RETIREMENT_STATE_TRAFFIC_REDUCTION: _ClassVar[RetirementState]
    RETIREMENT_STATE_FINAL_MIGRATION: _ClassVar[RetirementState]
    RETIREMENT_STATE_RETIREMENT: _ClassVar[RetirementState]
    RETIREMENT_STATE_COMPLETED: _ClassVar[RetirementState]
    RETIREMENT_STATE_HALTED: _ClassVar[RetirementState]
    RETIREMENT_STATE_CANCELLED: _ClassVar[RetirementState]
FIRING_STATE_UNSPECIFIED: FiringState
FIRING_STATE_SUSPECTED: FiringState
FIRING_STATE_CONFIRMED: FiringState
FIRING_STATE_ACTING: FiringState
FIRING_STATE_DONE: FiringState
FIRING_STATE_PARTIAL: FiringState
FIRING_STATE_FAILED: FiringState
FIRING_STATE_LAPSED: FiringState
FIRING_STATE_SUPPRESSED: FiringState
ACTION_STATE_UNSPECIFIED: ActionState
ACTION_STATE_PENDING: ActionState
ACTION_STATE_LEASED: ActionState
ACTION_STATE_SUCCEEDED: ActionState
ACTION_STATE_FAILED: ActionState
RETIREMENT_STATE_UNSPECIFIED: RetirementState
RETIREMENT_STATE_SCHEDULED: RetirementState
RETIREMENT_STATE_DEPRECATION_WARNING: RetirementState
RETIREMENT_STATE_TRAFFIC_REDUCTION: RetirementState
RETIREMENT_STATE_FINAL_MIGRATION: RetirementState
RETIREMENT_STATE_RETIREMENT: RetirementState
RETIREMENT_STATE_COMPLETED: RetirementState
RETIREMENT_STATE_HALTED: RetirementState
RETIREMENT_STATE_CANCELLED: RetirementState

class Rule(_message.Message):
    __slots__ = ("name", "description", "triggers", "conditions", "actions", "enabled", "cooldown_s", "revision", "create_time", "update_time", "author", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TRIGGERS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    COOLDOWN_S_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    triggers: _containers.RepeatedCompositeFieldContainer[RuleTrigger]
    conditions: _containers.RepeatedCompositeFieldContainer[RuleCondition]
    actions: _containers.RepeatedCompositeFieldContainer[RuleAction]
    enabled: bool
    cooldown_s: float
    revision: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    author: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., triggers: _Optional[_Iterable[_Union[RuleTrigger, _Mapping]]] = ..., conditions: _Optional[_Iterable[_Union[RuleCondition, _Mapping]]] = ..., actions: _Optional[_Iterable[_Union[RuleAction, _Mapping]]] = ..., enabled: bool = ..., cooldown_s: _Optional[float] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class RuleTrigger(_message.Message):
    __slots__ = ("type", "endpoint", "stages", "metric", "comparison", "threshold", "min_sample", "cron", "confirmations")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATIONS_FIELD_NUMBER: _ClassVar[int]
    type: str
    endpoint: str
    stages: _containers.RepeatedScalarFieldContainer[str]
    metric: str
    comparison: _common_pb2.Comparison
    threshold: float
    min_sample: int
    cron: str
    confirmations: int
    def __init__(self, type: _Optional[str] = ..., endpoint: _Optional[str] = ..., stages: _Optional[_Iterable[str]] = ..., metric: _Optional[str] = ..., comparison: _Optional[_Union[_common_pb2.Comparison, str]] = ..., threshold: _Optional[float] = ..., min_sample: _Optional[int] = ..., cron: _Optional[str] = ..., confirmations: _Optional[int] = ...) -> None: ...

class RuleCondition(_message.Message):
    __slots__ = ("metric", "comparison", "bound", "min_sample")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    MIN_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    metric: str
    comparison: _common_pb2.Comparison
    bound: float
    min_sample: int
    def __init__(self, metric: _Optional[str] = ..., comparison: _Optional[_Union[_common_pb2.Comparison, str]] = ..., bound: _Optional[float] = ..., min_sample: _Optional[int] = ...) -> None: ...

class RuleAction(_message.Message):
    __slots__ = ("type", "parameters", "stop_on_failure")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    STOP_ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    type: str
    parameters: _struct_pb2.Struct
    stop_on_failure: bool
    def __init__(self, type: _Optional[str] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., stop_on_failure: bool = ...) -> None: ...

class Firing(_message.Message):
    __slots__ = ("name", "rule", "rule_revision", "deployment", "endpoint", "evidence", "state", "state_reason", "evidence_details", "evidence_time", "create_time", "act_time", "end_time", "actions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    RULE_REVISION_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_DETAILS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACT_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    rule: str
    rule_revision: int
    deployment: str
    endpoint: str
    evidence: str
    state: FiringState
    state_reason: str
    evidence_details: _struct_pb2.Struct
    evidence_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    act_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    actions: _containers.RepeatedCompositeFieldContainer[ActionExecution]
    def __init__(self, name: _Optional[str] = ..., rule: _Optional[str] = ..., rule_revision: _Optional[int] = ..., deployment: _Optional[str] = ..., endpoint: _Optional[str] = ..., evidence: _Optional[str] = ..., state: _Optional[_Union[FiringState, str]] = ..., state_reason: _Optional[str] = ..., evidence_details: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., evidence_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., act_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actions: _Optional[_Iterable[_Union[ActionExecution, _Mapping]]] = ...) -> None: ...

class ActionExecution(_message.Message):
    __slots__ = ("key", "type", "state", "attempts", "result", "error", "start_time", "end_time")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    key: str
    type: str
    state: ActionState
    attempts: int
    result: _struct_pb2.Struct
    error: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., type: _Optional[str] = ..., state: _Optional[_Union[ActionState, str]] = ..., attempts: _Optional[int] = ..., result: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., error: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RetirementPlan(_message.Message):
    __slots__ = ("name", "subject", "retirement_time", "migration_plan", "state", "state_reason", "blockers", "phases", "create_time", "author", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    RETIREMENT_TIME_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_PLAN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    BLOCKERS_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    subject: str
    retirement_time: _timestamp_pb2.Timestamp
    migration_plan: MigrationPlan
    state: RetirementState
    state_reason: str
    blockers: _containers.RepeatedScalarFieldContainer[str]
    phases: _containers.RepeatedCompositeFieldContainer[RetirementPhase]
    create_time: _timestamp_pb2.Timestamp
    author: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., subject: _Optional[str] = ..., retirement_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., migration_plan: _Optional[_Union[MigrationPlan, _Mapping]] = ..., state: _Optional[_Union[RetirementState, str]] = ..., state_reason: _Optional[str] = ..., blockers: _Optional[_Iterable[str]] = ..., phases: _Optional[_Iterable[_Union[RetirementPhase, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class MigrationPlan(_message.Message):
    __slots__ = ("replacement_version", "replacement_model", "reduction_steps_bp", "notify", "notes")
    REPLACEMENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLACEMENT_MODEL_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_STEPS_BP_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    replacement_version: int
    replacement_model: str
    reduction_steps_bp: _containers.RepeatedScalarFieldContainer[int]
    notify: _containers.RepeatedScalarFieldContainer[str]
    notes: str
    def __init__(self, replacement_version: _Optional[int] = ..., replacement_model: _Optional[str] = ..., reduction_steps_bp: _Optional[_Iterable[int]] = ..., notify: _Optional[_Iterable[str]] = ..., notes: _Optional[str] = ...) -> None: ...

class RetirementPhase(_message.Message):
    __slots__ = ("phase", "due_time", "start_time", "end_time", "steps")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    phase: str
    due_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    steps: _containers.RepeatedCompositeFieldContainer[ActionExecution]
    def __init__(self, phase: _Optional[str] = ..., due_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[ActionExecution, _Mapping]]] = ...) -> None: ...
