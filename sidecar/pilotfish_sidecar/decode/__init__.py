"""From the bytes of an inference call to columns of numpy arrays, or to a reason why not.

Owns the reading of what was on the wire. It keeps no state and never raises for hostile bytes.
"""

from pilotfish_sidecar.decode.columns import NO_SIGNATURE, Block, Decoded, DecodeSignature
from pilotfish_sidecar.decode.oip import decode_oip
from pilotfish_sidecar.decode.reasons import Reason, Undecodable
from pilotfish_sidecar.decode.rest import decode_oip_json, model_of_path

__all__ = [
    "NO_SIGNATURE",
    "Block",
    "DecodeSignature",
    "Decoded",
    "Reason",
    "Undecodable",
    "decode_oip",
    "decode_oip_json",
    "model_of_path",
]
