"""Which calls are inference, told by their paths alone.

Owns the paths of the known protocols and those that a user adds. It never reads a body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["STREAMING", "Methods", "path_pattern"]

STREAMING: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_UNARY: Final = frozenset(
    {"/inference.GRPCInferenceService/ModelInfer", "/tensorflow.serving.PredictionService/Predict"}
)
_REST: Final = r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer/?|/v1/models/[^/:]+(?:/(?:versions|labels)/[^/:]+)?:predict"
_MEMO: Final = 1024


def path_pattern(path: str) -> str:
    """Return the regular expression of a path in which `*` stands for one segment.

    Raises:
        ValueError: it does not begin with a slash.
    """
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} must begin with a slash")
    return "/".join("[^/]+" if part == "*" else re.escape(part) for part in path.split("/"))


class Methods:
    """The paths whose calls are kept.

    Args:
        json_paths: of services of one's own, beside the known protocols; a `*` stands for one segment.

    Raises:
        ValueError: a path does not begin with a slash.
    """

    __slots__ = ("_memo", "_rest")

    def __init__(self, json_paths: Iterable[str] = ()) -> None:
        """Compile them."""
        self._rest = re.compile("|".join([_REST, *map(path_pattern, json_paths)]))
        self._memo: dict[str, bool] = {}

    def is_unary(self, path: str, *, grpc: bool) -> bool:
        """Return whether it is the path of an inference with one answer; a query is ignored."""
        if grpc:
            return path in _UNARY
        known = self._memo.get(path)
        if known is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            known = self._memo[path] = self._rest.fullmatch(path.partition("?")[0]) is not None
        return known
