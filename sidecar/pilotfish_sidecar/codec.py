"""How calls of a foreign model server are read: the setting of one replica.

Owns the check of a `Codec`. It never reads a call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from pilotfish.errors import Violation
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish_sidecar.decode import JsonPointers, parse_pointer
from pilotfish_sidecar.decoder.methods import path_pattern

__all__ = ["Codec", "parse_codec"]

_KINDS: Final = ("oip", "tfserving", "json")


@dataclass(frozen=True, slots=True)
class Codec:
    """How calls are read.

    Attributes:
        kind: oip, tfserving or json.
        path: of the calls, kind json only; matches the path without its query.
        pointers: where things are in the bodies, kind json only.
    """

    kind: str = "oip"
    path: re.Pattern[str] | None = None
    pointers: JsonPointers = field(default_factory=JsonPointers)

    def takes(self, method: str) -> bool:
        """Return whether a call of that path is a JSON call of this codec."""
        return self.path is not None and self.path.fullmatch(method.partition("?")[0]) is not None


def parse_codec(message: fleet.Codec, where: str, found: list[Violation]) -> Codec:
    """Return the codec; of an empty message that of the Open Inference Protocol.

    Args:
        message: as the control plane sent it.
        where: the field's path, for violations.
        found: gets what is wrong.
    """
    kind = message.kind or "oip"
    if kind not in _KINDS:
        found.append(Violation(f"{where}.kind", f"is {kind[:80]!r}, must be one of {', '.join(_KINDS)}", "UNKNOWN"))
        return Codec()
    if kind != "json":
        return Codec(kind)
    settings, pointers, path = message.json, {}, None
    for name in ("inputs", "outputs", "id"):
        try:
            pointers[name] = parse_pointer(getattr(settings, name))
        except ValueError as error:
            found.append(Violation(f"{where}.json.{name}", f"{error}", "BAD_POINTER"))
    try:
        path = re.compile(path_pattern(settings.path))
    except ValueError as error:
        found.append(Violation(f"{where}.json.path", f"{error}", "BAD_PATH"))
    ident = pointers.get("id") or None
    return Codec(kind, path, JsonPointers(pointers.get("inputs", ()), pointers.get("outputs", ()), ident))
