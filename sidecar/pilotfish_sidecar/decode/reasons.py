"""Why a call could not be decoded, as values that can be counted.

Owns the reasons; never raises on behalf of the decoder's callers: they get an `Undecodable`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Reason", "TensorError", "Undecodable"]


class Reason(enum.StrEnum):
    """What was wrong with a body; stable, used as a label of counters."""

    BAD_PROTOBUF = "bad_protobuf"
    """The bytes are not the protobuf message."""
    BAD_JSON = "bad_json"
    """The body is not JSON, or not an object of the protocol's form."""
    BAD_SHAPE = "bad_shape"
    """A dimension is negative or zero, the tensors disagree in rows, or shape and data do."""
    BAD_VALUE = "bad_value"
    """A value does not fit its datatype."""
    UNKNOWN_DTYPE = "unknown_dtype"
    """The datatype is not one of the protocol's."""
    UNKNOWN_TENSOR = "unknown_tensor"
    """No tensor of the call is one that the model's signature names."""
    WRONG_CONTENTS = "wrong_contents"
    """The contents are in a field that the datatype does not use, or typed and raw are mixed."""
    TRUNCATED = "truncated"
    """The data end before the shape is filled."""
    NO_INPUTS = "no_inputs"
    """The call carries no tensor."""
    TOO_MANY_COLUMNS = "too_many_columns"
    """More columns than a row may have."""
    NOT_FOUND = "not_found"
    """A pointer of the codec leads nowhere in the body."""
    UNPAIRED = "unpaired"
    """An answer of a streaming call that belongs to no question, or not to the one in its place."""
    UNKNOWN_METHOD = "unknown_method"
    """No codec knows the path of the call."""


class TensorError(ValueError):
    """One tensor is wrong; `reason` says how, the text says where."""

    def __init__(self, reason: Reason, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A call that holds no rows: why, and a text for people."""

    reason: Reason
    detail: str
