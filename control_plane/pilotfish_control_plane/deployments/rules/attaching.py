"""What a sidecar may say of a foreign model server, and which replica a call of it belongs to.

Owns the checks of a mapping, the comparison of signatures, and the choice among replicas that are one server.
"""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pilotfish.errors import InvalidArgument, Violation
from pilotfish_control_plane.deployments.attachment import AttachCommand, AttachedModel
from pilotfish_control_plane.names import check_id

__all__ = ["MAX_MODELS", "governing", "mapping_problems", "same_signature"]

MAX_MODELS = 256
MAX_NAME = 255
CODECS = ("", "oip", "tfserving", "json")

T = TypeVar("T")


def mapping_problems(command: AttachCommand) -> list[Violation]:
    """Return everything that is wrong with what a sidecar says it stands beside."""
    found: list[Violation] = []
    if not 0 < len(command.instance) <= 127 or not command.instance.isprintable():
        found.append(Violation("instance", "must have 1 to 127 printable characters", "INSTANCE"))
    if len(command.models) > MAX_MODELS:
        found.append(Violation("models", f"{len(command.models)} are too many, at most {MAX_MODELS}", "OUT_OF_RANGE"))
    for i, model in enumerate(command.models[:MAX_MODELS]):
        found += _model_problems(model, f"models[{i}]")
    served = Counter((m.server_model, m.server_version) for m in command.models)
    for names, times in served.items():
        if times > 1:
            shown = ":".join(filter(None, names)) or "the server's model"
            text = f"{shown} is mapped {times} times: the calls of one model belong to one endpoint"
            found.append(Violation("models", text, "DUPLICATE_NAME"))
    for (endpoint, version), times in Counter((m.endpoint, m.version) for m in command.models).items():
        if times > 1:
            what = f"{endpoint}@{version}" if version else endpoint
            text = f"{times} models are mapped to {what}: give each a version, as in {endpoint}@VERSION"
            found.append(Violation("models", text, "DUPLICATE_NAME"))
    return found


def _model_problems(model: AttachedModel, where: str) -> list[Violation]:
    found: list[Violation] = []
    for name in ("endpoint", "model"):
        value = getattr(model, name)
        if name == "endpoint" or value:
            try:
                check_id(value, f"{where}.{name}")
            except InvalidArgument as error:
                found += error.violations
    for name in ("server_model", "server_version", "grpc_address", "http_address"):
        value = getattr(model, name)
        if len(value) > MAX_NAME or (value and not value.isprintable()):
            found.append(Violation(f"{where}.{name}", f"must have at most {MAX_NAME} printable characters", "NAME"))
    for name in ("grpc_address", "http_address"):
        value = getattr(model, name)
        if value and not _is_address(value):
            text = f"{value[:80]!r} is not IP:port: the gateway resolves no names"
            found.append(Violation(f"{where}.{name}", text, "ADDRESS"))
    kind = str(model.codec.get("kind", ""))
    if kind not in CODECS:
        text = f"{kind[:40]!r} is no codec; use one of {', '.join(filter(None, CODECS))}"
        found.append(Violation(f"{where}.codec.kind", text, "UNKNOWN_CODEC"))
    return found


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return port.isascii() and port.isdigit() and 0 < int(port) < 65536


def same_signature(known: Mapping[str, Any], told: Mapping[str, Any]) -> bool:  # Any: JSON values
    """Return whether a server still tells the signature that a version was registered with; unknown ones agree."""
    if not known or not told:
        return True
    return json.dumps(known, sort_keys=True) == json.dumps(told, sort_keys=True)


def governing(
    found: Iterable[T], key: Callable[[T], tuple[str, str] | None], rank: Callable[[T], tuple[int, int]]
) -> list[T]:
    """Return, of the replicas that are one server, the one that each of its models' calls belong to.

    A version that is promoted has a replica in either stage for a while; its calls are those of the later one.

    Args:
        found: what is bound to one sidecar.
        key: the server's name and version of the model; None: it is not such a replica and always stays.
        rank: stage and number, compared in this order.
    """
    kept: list[T] = []
    best: dict[tuple[str, str], T] = {}
    for each in found:
        names = key(each)
        if names is None:
            kept.append(each)
        elif names not in best or rank(each) > rank(best[names]):
            best[names] = each
    return [*kept, *best.values()]
