"""What the control plane tells a sidecar, checked and turned into settings.

Owns the check of a `SidecarConfig`: taken whole, or refused with everything that is wrong. It never applies one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.stats import DriftConfig, Profile, validate_drift_config
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish_sidecar.codec import Codec, parse_codec
from pilotfish_sidecar.decode import DecodeSignature
from pilotfish_sidecar.rows import Who

__all__ = ["ALL_ROWS_BP", "Binding", "parse_config", "parse_signature"]

ALL_ROWS_BP: Final = 10_000
_LEAST_ROWS: Final = 100
_LEARN_ROWS: Final = 5000
_MAX_BINDINGS: Final = 256


@dataclass(frozen=True, slots=True)
class Binding:
    """One replica and what is watched on it.

    Attributes:
        who: ids of deployment, replica, endpoint, model; the version's number.
        drift: how windows are cut and judged; None: drift is not watched.
        learn_rows: rows from which a missing reference is learned.
        sample_bp: share of rows kept as predictions, basis points.
        profile: the reference; None: learn one.
        signature: what the decoder knows of the model.
        signature_text: as it came.
        server_model: name under which the model server knows the model; empty: the endpoint's or the model's id.
        server_version: version under which it does; empty: any.
        codec: how its calls are read.
        retired: an earlier configuration named it: only calls that no other binding claims are its.
    """

    who: Who
    drift: DriftConfig | None = field(default_factory=DriftConfig)
    learn_rows: int = _LEARN_ROWS
    sample_bp: int = ALL_ROWS_BP
    profile: Profile | None = None
    signature: DecodeSignature = field(default_factory=DecodeSignature)
    signature_text: str = ""
    server_model: str = ""
    server_version: str = ""
    codec: Codec = field(default_factory=Codec)
    retired: bool = False

    def serves(self, model: str, version: str = "") -> bool:
        """Return whether a call that names a model, and perhaps a version, is one of this replica."""
        names = (self.server_model,) if self.server_model else (self.who.endpoint, self.who.model)
        return model in names and (not version or not self.server_version or version == self.server_version)


def parse_config(config: fleet.SidecarConfig) -> tuple[Binding, ...]:
    """Return one binding per replica.

    Raises:
        InvalidArgument: something is wrong; `violations` names every field.
    """
    found: list[Violation] = []
    bindings = [_binding(each, f"bindings[{i}]", found) for i, each in enumerate(config.bindings)]
    names = [binding.who.replica for binding in bindings]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(Violation("bindings", f"replica {name!r} comes twice", "DUPLICATE_NAME"))
    standing = sum(not binding.retired for binding in bindings)
    if standing > _MAX_BINDINGS:
        found.append(Violation("bindings", f"are {standing}, at most {_MAX_BINDINGS}", "OUT_OF_RANGE"))
    if found:
        raise InvalidArgument("the configuration is refused", reason="BAD_CONFIG", violations=found[:50])
    return tuple(bindings)


def _binding(message: fleet.ReplicaBinding, where: str, found: list[Violation]) -> Binding:
    for name in ("replica", "deployment"):
        if not getattr(message, name):
            found.append(Violation(f"{where}.{name}", "must not be empty", "MISSING"))
    watch = message.monitoring
    sample = watch.sample_bp if watch.HasField("sample_bp") else ALL_ROWS_BP
    if not 0 <= sample <= ALL_ROWS_BP:
        text = f"is {sample}, must be in 0..{ALL_ROWS_BP}"
        found.append(Violation(f"{where}.monitoring.sample_bp", text, "OUT_OF_RANGE"))
    drift = watch.drift_detection
    learn = drift.learn_rows or _LEARN_ROWS
    if learn < _LEAST_ROWS:
        text = f"is {learn}, a reference needs at least {_LEAST_ROWS}"
        found.append(Violation(f"{where}.monitoring.drift_detection.learn_rows", text, "OUT_OF_RANGE"))
    return Binding(
        who=Who(message.deployment, message.replica, message.endpoint, message.model, message.version),
        drift=_drift(drift, f"{where}.monitoring.drift_detection", found),
        learn_rows=learn,
        sample_bp=sample,
        profile=_profile(message.profile_json, f"{where}.profile_json", found),
        signature=_signature(message.signature_json, f"{where}.signature_json", found),
        signature_text=message.signature_json,
        server_model=message.server_model,
        server_version=message.server_version,
        codec=parse_codec(message.codec, f"{where}.codec", found),
        retired=message.retired,
    )


def _drift(drift: monitoring.DriftDetection, where: str, found: list[Violation]) -> DriftConfig | None:
    if drift.HasField("enabled") and not drift.enabled:
        return None
    size = drift.window_size or 1000
    config = DriftConfig(
        method=drift.method or "calibrated",
        threshold=drift.threshold if drift.HasField("threshold") else None,
        window_size=size,
        # No verdict rests on fewer than 100 rows, whatever is configured; and a full window always gets one.
        min_rows=min(max(drift.min_sample, _LEAST_ROWS), max(size, _LEAST_ROWS)),
        # 1, the base window, is always judged.
        scales=tuple(sorted({1, *drift.scales})) if drift.scales else (1, 4, 16),
        time_limit_s=drift.window_time_s or 300.0,
    )
    if drift.min_sample < 0:
        found.append(Violation(f"{where}.min_sample", f"is {drift.min_sample}, must be at least 2", "OUT_OF_RANGE"))
    names = {"time_limit_s": "window_time_s", "min_rows": "min_sample"}
    for violation in validate_drift_config(config):
        name = names.get(violation.field, violation.field)
        found.append(Violation(f"{where}.{name}", violation.description, violation.reason))
    return config


def _profile(text: str, where: str, found: list[Violation]) -> Profile | None:
    if not text:
        return None
    try:
        return Profile.from_json(text)
    except InvalidArgument as error:
        inner = "; ".join(f"{v.field}: {v.description}" for v in list(error.violations)[:5])
        found.append(Violation(where, f"{error.message} {inner}".strip(), error.reason))
        return None


def _signature(text: str, where: str, found: list[Violation]) -> DecodeSignature:
    try:
        return parse_signature(text)
    except InvalidArgument as error:
        found.append(Violation(where, error.message, error.reason))
        return DecodeSignature()


def parse_signature(text: str) -> DecodeSignature:
    """Return what the decoder needs of a signature.json; of an empty text: nothing, any tensor is accepted.

    Raises:
        InvalidArgument: it is no signature.
    """
    if not text:
        return DecodeSignature()
    try:
        document: Any = json.loads(text)  # Any: JSON before it is checked
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the signature is not JSON: {error}", reason="BAD_SIGNATURE") from error
    if not isinstance(document, dict):
        raise InvalidArgument("the signature is not a JSON object", reason="BAD_SIGNATURE")
    tensors = _list(document, "inputs")
    names = [tensor.get("name") if isinstance(tensor, dict) else None for tensor in tensors]
    return DecodeSignature(
        inputs=_texts(names, "inputs"),
        feature_names=_texts(_list(document, "feature_names"), "feature_names"),
        classes=tuple(str(each) for each in _list(document, "classes")),
    )


def _list(document: Mapping[str, Any], name: str) -> Sequence[object]:
    value = document.get(name)
    if value is not None and not isinstance(value, list):
        raise InvalidArgument(f"the signature's {name} is no list", reason="BAD_SIGNATURE")
    return value or ()


def _texts(values: Sequence[object], name: str) -> tuple[str, ...]:
    if not all(isinstance(value, str) and value for value in values):
        raise InvalidArgument(f"the signature's {name} must all have names", reason="BAD_SIGNATURE")
    return tuple(str(value) for value in values)
