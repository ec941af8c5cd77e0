"""From the bytes of an inference call to columns of numpy arrays, or to a reason why not.

Owns the reading of what was on the wire. It keeps no state and never raises for hostile bytes.
"""

from pilotfish_sidecar.decode.columns import NO_SIGNATURE, Block, Decoded, DecodeSignature
from pilotfish_sidecar.decode.json_calls import JsonPointers, decode_json, parse_pointer
from pilotfish_sidecar.decode.models import OIP_INFER, OIP_STREAM, TF_PREDICT, model_of_call
from pilotfish_sidecar.decode.oip import decode_oip, decode_oip_stream
from pilotfish_sidecar.decode.reasons import Reason, TensorError, Undecodable
from pilotfish_sidecar.decode.rest import decode_oip_json, model_of_path
from pilotfish_sidecar.decode.tfserving import decode_tf, decode_tf_json, tf_model_of_path

__all__ = [
    "NO_SIGNATURE",
    "OIP_INFER",
    "OIP_STREAM",
    "TF_PREDICT",
    "Block",
    "DecodeSignature",
    "Decoded",
    "JsonPointers",
    "Reason",
    "TensorError",
    "Undecodable",
    "decode_json",
    "decode_oip",
    "decode_oip_json",
    "decode_oip_stream",
    "decode_tf",
    "decode_tf_json",
    "model_of_call",
    "model_of_path",
    "parse_pointer",
    "tf_model_of_path",
]
