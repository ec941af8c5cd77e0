"""From one captured call to rows: whose it is, and what it says.

Owns the choice of the replica and of the codec. It never raises for what was on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pilotfish_sidecar.config import Binding
from pilotfish_sidecar.decode import (
    NO_SIGNATURE,
    OIP_STREAM,
    TF_PREDICT,
    Decoded,
    Reason,
    Undecodable,
    decode_json,
    decode_oip,
    decode_oip_json,
    decode_oip_stream,
    decode_tf,
    decode_tf_json,
    model_of_call,
    tf_model_of_path,
)
from pilotfish_sidecar.tap.records import Flag, Protocol, TapRecord

__all__ = ["Read", "find_binding", "read_call"]


@dataclass(frozen=True, slots=True)
class Read:
    """One question with its answer.

    Attributes:
        record: where it was.
        decoded: as rows.
        fallback_id: prediction id where the question carries none.
    """

    record: TapRecord
    decoded: Decoded
    fallback_id: str


def find_binding(record: TapRecord, bindings: Mapping[str, Binding]) -> Binding | None:
    """Return the binding of the replica that served a call; None where neither the tap nor the call tells.

    A tap inside a server knows who it is. A relay does not: there the call's path and the name of the model that it
    asks for decide, and a model that nobody bound belongs to nobody.
    """
    who = record.identity
    if who.replica in bindings:
        return bindings[who.replica]
    standing = {name: binding for name, binding in bindings.items() if not binding.retired}
    if standing and len(standing) < len(bindings):
        found = _among(record, standing)
        retired = {name: binding for name, binding in bindings.items() if binding.retired}
        return found if found is not None else _among(record, retired)
    return _among(record, bindings)


def _among(record: TapRecord, bindings: Mapping[str, Binding]) -> Binding | None:
    who = record.identity
    if len(bindings) == 1:
        (only,) = bindings.values()
        if not only.server_model:
            return only
        model, version = model_of_call(record.method, record.request)
        return only if not model or only.serves(model, version) else None
    for binding in bindings.values():
        if who.deployment and who.deployment == binding.who.deployment:
            return binding
    found = [binding for binding in bindings.values() if binding.codec.takes(record.method)]
    if not found:
        model, version = model_of_call(record.method, record.request)
        # Without a version in the call, only its answer tells versions apart.
        found = [binding for binding in bindings.values() if model and binding.serves(model, version)]
    return found[0] if len(found) == 1 else None


def read_call(
    record: TapRecord, bindings: Mapping[str, Binding]
) -> tuple[Binding | None, list[Read], Undecodable | None]:
    """Return whose call it is, its rows, and why some of it has none.

    Args:
        record: with its bodies.
        bindings: by replica; not empty.
    """
    binding = find_binding(record, bindings)
    decoded = _decode(record, binding)
    if binding is None:
        whole = next((each for each in decoded if isinstance(each, Decoded)), None)
        binding = _by_answer(whole, bindings) if whole is not None else None
        if binding is not None and binding.signature is not NO_SIGNATURE:
            decoded = _decode(record, binding)
    ident = record.prediction_id
    streaming = bool(record.flags & Flag.STREAMING)
    reads = [
        # Parts of a stream share the call's id; with the record's place in the tap's sequence no two rows do.
        Read(record, each, f"{ident}/{record.seq}.{index}" if streaming and ident else ident)
        for index, each in enumerate(decoded)
        if isinstance(each, Decoded)
    ]
    return binding, reads, next((each for each in decoded if isinstance(each, Undecodable)), None)


def _decode(record: TapRecord, binding: Binding | None) -> list[Decoded | Undecodable]:
    signature = binding.signature if binding is not None else NO_SIGNATURE
    request, response = record.request, record.response
    if record.protocol is Protocol.GRPC:
        if record.flags & Flag.STREAMING:
            if record.method != OIP_STREAM:
                return [Undecodable(Reason.UNKNOWN_METHOD, f"no stream of {record.method[:80]!r} is known")]
            return decode_oip_stream(request, response, signature)
        decode = decode_tf if record.method == TF_PREDICT else decode_oip
        return [decode(request, response, signature)]
    if binding is not None and binding.codec.takes(record.method):
        return [decode_json(request, response, binding.codec.pointers, signature)]
    if tf_model_of_path(record.method) is not None:
        return [decode_tf_json(request, response, signature, path=record.method)]
    sizes = [value for key, value in record.headers if key == "inference-header-content-length"]
    json_bytes = int(sizes[0]) if sizes and sizes[0].isdecimal() and len(sizes[0]) < 12 else None
    return [decode_oip_json(request, response, signature, path=record.method, json_bytes=json_bytes)]


def _by_answer(decoded: Decoded, bindings: Mapping[str, Binding]) -> Binding | None:
    model, version = decoded.model_name, decoded.model_version
    found = [binding for binding in bindings.values() if model and binding.serves(model, version)]
    exact = [binding for binding in found if version in (binding.server_version or str(binding.who.version),)]
    return next(iter(exact or found), None)
