"""Models, versions, files and signatures between the wire and the registry's values.

Owns the conversion both ways. It decides nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, cast  # Any: JSON of any depth

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import common_pb2, registry_pb2
from pilotfish_control_plane.artifacts.model import ArtifactFile
from pilotfish_control_plane.registry.model import Change, Lineage, Model, Version, VersionStatus

__all__ = [
    "change_to_wire",
    "file_from_wire",
    "file_to_wire",
    "model_to_wire",
    "signature_from_wire",
    "signature_to_wire",
    "status_from_wire",
    "status_to_wire",
    "struct_from_wire",
    "struct_to_wire",
    "time_to_wire",
    "version_to_wire",
]

# The generated enum's numbers are ints to everything but its type.
_STATUS_TO_WIRE = {
    s: cast("registry_pb2.VersionStatus", registry_pb2.VersionStatus.Value(f"VERSION_STATUS_{s.name}"))
    for s in VersionStatus
}
_STATUS_FROM_WIRE: dict[int, VersionStatus] = {number: status for status, number in _STATUS_TO_WIRE.items()}


def time_to_wire(time: datetime) -> Timestamp:
    """Return a time on the wire."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def struct_to_wire(value: Mapping[str, Any]) -> Struct:
    """Return a JSON object on the wire."""
    struct = Struct()
    struct.update(dict(value))
    return struct


def struct_from_wire(struct: Struct, field: str) -> dict[str, Any]:
    """Return a JSON object; whole numbers become int.

    Raises:
        InvalidArgument: a number is not finite.
    """
    return {key: _value(value, f"{field}.{key}") for key, value in struct.fields.items()}


def _value(value: Value, field: str) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise InvalidArgument(
                    f"{field} is {number}: JSON has finite numbers only",
                    violations=[Violation(field, "must be finite", "NOT_FINITE")],
                )
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return struct_from_wire(value.struct_value, field)
        case "list_value":
            return [_value(item, f"{field}[{i}]") for i, item in enumerate(value.list_value.values)]
    return None


def status_to_wire(status: VersionStatus) -> registry_pb2.VersionStatus:
    """Return a status on the wire."""
    return _STATUS_TO_WIRE[status]


def status_from_wire(number: int, field: str = "status") -> VersionStatus:
    """Return a status.

    Raises:
        InvalidArgument: it is unset or unknown.
    """
    if number not in _STATUS_FROM_WIRE:
        known = ", ".join(s.value for s in VersionStatus)
        raise InvalidArgument(
            f"{field} must be one of {known}", violations=[Violation(field, f"is {number}: unset or unknown")]
        )
    return _STATUS_FROM_WIRE[number]


def file_to_wire(file: ArtifactFile) -> registry_pb2.ArtifactFile:
    """Return a file on the wire."""
    return registry_pb2.ArtifactFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)


def file_from_wire(file: registry_pb2.ArtifactFile) -> ArtifactFile:
    """Return a file."""
    return ArtifactFile(file.path, file.size_bytes, file.sha256.lower())


def signature_to_wire(signature: Mapping[str, Any]) -> common_pb2.Signature:
    """Return a signature on the wire."""
    return common_pb2.Signature(
        inputs=[_tensor_to_wire(t) for t in signature.get("inputs", ())],
        outputs=[_tensor_to_wire(t) for t in signature.get("outputs", ())],
        feature_names=signature.get("feature_names", ()),
        classes=[str(c) for c in signature.get("classes", ())],
    )


def _tensor_to_wire(tensor: Mapping[str, Any]) -> common_pb2.Tensor:
    return common_pb2.Tensor(
        name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"], levels=tensor.get("levels", ())
    )


def signature_from_wire(signature: common_pb2.Signature) -> dict[str, Any]:
    """Return a signature as in signature.json; an empty object for an empty message."""
    if not signature.ByteSize():
        return {}
    return {
        "inputs": _tensors_from_wire(signature.inputs),
        "outputs": _tensors_from_wire(signature.outputs),
        "feature_names": list(signature.feature_names),
        "classes": list(signature.classes),
    }


def _tensors_from_wire(tensors: Iterable[common_pb2.Tensor]) -> list[dict[str, Any]]:
    plain = []
    for tensor in tensors:
        known: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        plain.append({**known, "levels": list(tensor.levels)} if tensor.levels else known)
    return plain


def _lineage_to_wire(lineage: Lineage) -> registry_pb2.Lineage:
    return registry_pb2.Lineage(
        job=lineage.job,
        parent_version=lineage.parent_version,
        data_hash=lineage.data_hash,
        code=lineage.code,
        trigger_reason=lineage.trigger_reason,
    )


def model_to_wire(model: Model) -> registry_pb2.Model:
    """Return a model on the wire."""
    return registry_pb2.Model(
        name=model.name,
        description=model.description,
        tags=dict(model.tags),
        aliases=dict(model.aliases),
        latest_version=model.latest_version,
        create_time=time_to_wire(model.created_at),
        update_time=time_to_wire(model.updated_at),
        author=model.author,
        etag=model.etag,
    )


def version_to_wire(version: Version) -> registry_pb2.Version:
    """Return a version on the wire."""
    return registry_pb2.Version(
        name=version.name,
        id=version.id,
        model=version.model,
        number=version.number,
        label=version.label,
        status=status_to_wire(version.status),
        create_time=time_to_wire(version.created_at),
        update_time=time_to_wire(version.updated_at),
        author=version.author,
        description=version.description,
        tags=dict(version.tags),
        metrics=dict(version.metrics),
        hyperparameters=struct_to_wire(version.hyperparameters),
        training_data_hash=version.training_data_hash,
        artifact_size_bytes=version.artifact_size_bytes,
        framework=version.framework,
        dependencies=dict(version.dependencies),
        signature=signature_to_wire(version.signature) if version.signature else None,
        files=[file_to_wire(f) for f in version.files],
        artifact_path=version.artifact_path,
        profile_id=version.profile_id,
        aliases=version.aliases,
        lineage=_lineage_to_wire(version.lineage),
        etag=version.etag,
    )


def change_to_wire(change: Change) -> common_pb2.Change:
    """Return a change on the wire."""
    return common_pb2.Change(
        time=time_to_wire(change.time),
        actor=change.actor,
        action=change.action,
        before_json="" if change.before is None else json.dumps(change.before, sort_keys=True),
        after_json="" if change.after is None else json.dumps(change.after, sort_keys=True),
        reason=change.reason,
    )
