import datetime

from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from pilotfish.v1 import lifecycle_pb2 as _lifecycle_pb2
from pilotfish.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateRuleRequest(_message.Message):
    __slots__ = ("project", "rule_id", "rule", "validate_only", "request_id")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    project: str
    rule_id: str
    rule: _lifecycle_pb2.Rule
    validate_only: bool
    request_id: str
    def __init__(self, project: _Optional[str] = ..., rule_id: _Optional[str] = ..., rule: _Optional[_Union[_lifecycle_pb2.Rule, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateRuleResponse(_message.Message):
    __slots__ = ("rule",)
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: _lifecycle_pb2.Rule
    def __init__(self, rule: _Optional[_Union[_lifecycle_pb2.Rule, _Mapping]] = ...) -> None: ...

class GetRuleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRuleResponse(_message.Message):
    __slots__ = ("rule",)
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: _lifecycle_pb2.Rule
    def __init__(self, rule: _Optional[_Union[_lifecycle_pb2.Rule, _Mapping]] = ...) -> None: ...

class ListRulesRequest(_message.Message):
    __slots__ = ("project", "page_size", "page_token")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    project: str
    page_size: int
    page_token: str
    def __init__(self, project: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRulesResponse(_message.Message):
    __slots__ = ("rules", "next_page_token")
    RULES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rules: _containers.RepeatedCompositeFieldContainer[_lifecycle_pb2.Rule]
    next_page_token: str
    def __init__(self, rules: _Optional[_Iterable[_Union[_lifecycle_pb2.Rule, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateRuleRequest(_message.Message):
    __slots__ = ("rule", "update_mask", "request_id")
    RULE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    rule: _lifecycle_pb2.Rule
    update_mask: _field_mask_pb2.FieldMask
    request_id: str
    def __init__(self, rule: _Optional[_Union[_lifecycle_pb2.Rule, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateRuleResponse(_message.Message):
    __slots__ = ("rule",)
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: _lifecycle_pb2.Rule
    def __init__(self, rule: _Optional[_Union[_lifecycle_pb2.Rule, _Mapping]] = ...) -> None: ...

class DeleteRuleRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteRuleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListFiringsRequest(_message.Message):
    __slots__ = ("parent", "filter", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    filter: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFiringsResponse(_message.Message):
    __slots__ = ("firings", "next_page_token")
    FIRINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    firings: _containers.RepeatedCompositeFieldContainer[_lifecycle_pb2.Firing]
    next_page_token: str
    def __init__(self, firings: _Optional[_Iterable[_Union[_lifecycle_pb2.Firing, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SetAutomationRequest(_message.Message):
    __slots__ = ("project", "endpoint", "paused", "reason", "request_id")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    project: str
    endpoint: str
    paused: bool
    reason: str
    request_id: str
    def __init__(self, project: _Optional[str] = ..., endpoint: _Optional[str] = ..., paused: bool = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetAutomationResponse(_message.Message):
    __slots__ = ("paused", "paused_endpoints")
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    paused: bool
    paused_endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paused: bool = ..., paused_endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class GetAutomationRequest(_message.Message):
    __slots__ = ("project",)
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    project: str
    def __init__(self, project: _Optional[str] = ...) -> None: ...

class GetAutomationResponse(_message.Message):
    __slots__ = ("paused", "paused_endpoints", "reason")
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    paused: bool
    paused_endpoints: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, paused: bool = ..., paused_endpoints: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class CreateRetirementPlanRequest(_message.Message):
    __slots__ = ("subject", "retirement_time", "migration_plan", "validate_only", "request_id")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    RETIREMENT_TIME_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_PLAN_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    subject: str
    retirement_time: _timestamp_pb2.Timestamp
    migration_plan: _lifecycle_pb2.MigrationPlan
    validate_only: bool
    request_id: str
    def __init__(self, subject: _Optional[str] = ..., retirement_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., migration_plan: _Optional[_Union[_lifecycle_pb2.MigrationPlan, _Mapping]] = ..., validate_only: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateRetirementPlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: _lifecycle_pb2.RetirementPlan
    def __init__(self, plan: _Optional[_Union[_lifecycle_pb2.RetirementPlan, _Mapping]] = ...) -> None: ...

class GetRetirementPlanRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRetirementPlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: _lifecycle_pb2.RetirementPlan
    def __init__(self, plan: _Optional[_Union[_lifecycle_pb2.RetirementPlan, _Mapping]] = ...) -> None: ...

class ListRetirementPlansRequest(_message.Message):
    __slots__ = ("project", "page_size", "page_token")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    project: str
    page_size: int
    page_token: str
    def __init__(self, project: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRetirementPlansResponse(_message.Message):
    __slots__ = ("plans", "next_page_token")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[_lifecycle_pb2.RetirementPlan]
    next_page_token: str
    def __init__(self, plans: _Optional[_Iterable[_Union[_lifecycle_pb2.RetirementPlan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateRetirementPlanRequest(_message.Message):
    __slots__ = ("plan", "update_mask", "request_id")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    plan: _lifecycle_pb2.RetirementPlan
    update_mask: _field_mask_pb2.FieldMask
    request_id: str
    def __init__(self, plan: _Optional[_Union[_lifecycle_pb2.RetirementPlan, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateRetirementPlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: _lifecycle_pb2.RetirementPlan
    def __init__(self, plan: _Optional[_Union[_lifecycle_pb2.RetirementPlan, _Mapping]] = ...) -> None: ...

class CancelRetirementPlanRequest(_message.Message):
    __slots__ = ("name", "reason", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CancelRetirementPlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: _lifecycle_pb2.RetirementPlan
    def __init__(self, plan: _Optional[_Union[_lifecycle_pb2.RetirementPlan, _Mapping]] = ...) -> None: ...
