"""Attaching between protobuf and the values of `deployments.attachment`.

Owns the conversion of the call and its answer; it reads and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.stats import Profile
from pilotfish.v1 import fleet_service_pb2 as pb
from pilotfish_control_plane.deployments.attachment import AttachCommand, Attached, AttachedModel
from pilotfish_control_plane.grpc_server import deployments_wire as wire
from pilotfish_control_plane.names import project_id

__all__ = ["answer_to", "command_from"]

MAX_CHECKS = 50
MAX_SIGNATURE_CHARS = 1 << 20


def command_from(request: pb.AttachRequest) -> AttachCommand:
    """Return what a sidecar stands beside.

    Raises:
        InvalidArgument: a signature or a profile is none; every problem.
    """
    found: list[Violation] = []
    models = [_model(each, f"models[{i}]", found) for i, each in enumerate(request.models)]
    if found:
        raise InvalidArgument("the sidecar cannot be attached like this", reason="BAD_MAPPING", violations=found[:50])
    return AttachCommand(
        request.instance,
        tuple(models),
        project_id(request.project),
        wire.stage_from(request.stage) if request.stage else None,
        may_register=not request.no_register,
    )


def _model(message: pb.AttachedModel, where: str, found: list[Violation]) -> AttachedModel:
    return AttachedModel(
        endpoint=message.endpoint,
        server_model=message.server_model,
        server_version=message.server_version,
        model=message.model,
        version=message.version,
        signature=_signature(message.signature_json, f"{where}.signature_json", found),
        platform=message.platform[:200],
        checks=tuple(check[:500] for check in message.checks[:MAX_CHECKS]),
        profile_json=_profile(message.profile_json, f"{where}.profile_json", found),
        codec=json_format.MessageToDict(message.codec, preserving_proto_field_name=True),
        grpc_address=message.grpc_address,
        http_address=message.http_address,
    )


def _signature(text: str, where: str, found: list[Violation]) -> Mapping[str, Any]:  # Any: JSON values
    if not text:
        return {}
    try:
        if len(text) > MAX_SIGNATURE_CHARS:
            raise ValueError(f"has {len(text)} characters, at most {MAX_SIGNATURE_CHARS}")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("is not a JSON object")
    except (ValueError, RecursionError) as error:
        found.append(Violation(where, str(error), "BAD_SIGNATURE"))
        return {}
    return document


def _profile(text: str, where: str, found: list[Violation]) -> str:
    if not text:
        return ""
    try:
        return Profile.from_json(text).to_json()
    except InvalidArgument as error:
        found.append(Violation(where, error.message, error.reason))
        return ""


def answer_to(attached: Sequence[Attached]) -> pb.AttachResponse:
    """Return what a sidecar is bound to now."""
    return pb.AttachResponse(
        attachments=[
            pb.Attachment(
                endpoint=each.deployment.endpoint,
                version=each.version.name,
                deployment=each.deployment.name,
                registered=each.registered,
                deployed=each.deployed,
            )
            for each in attached
        ]
    )
