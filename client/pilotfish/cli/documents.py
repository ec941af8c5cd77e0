"""Definitions in files: YAML or JSON, one or many in a file. Owns the reading; it knows no kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pilotfish.errors import FailedPrecondition, InvalidArgument, Violation

__all__ = ["read_documents"]


# Any: plain values of any depth.
def read_documents(path: Path) -> list[dict[str, Any]]:
    """Return every document of a file; "-" is standard input.

    Raises:
        InvalidArgument: it cannot be read, or holds something that is no mapping.
        FailedPrecondition: it is YAML and PyYAML is not installed.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read", violations=[Violation("file", str(error))]) from error
    found = _parse(text, path)
    documents = [d for item in found for d in (item if isinstance(item, list) else [item]) if d is not None]
    wrong = [i for i, d in enumerate(documents, 1) if not isinstance(d, dict)]
    if wrong or not documents:
        what = f"document {wrong[0]} is no mapping" if wrong else "is empty"
        raise InvalidArgument(f"{path} holds no definition", violations=[Violation("file", what)])
    return documents


def _parse(text: str, path: Path) -> list[Any]:
    try:
        return [json.loads(text)]
    except ValueError as error:
        if path.suffix.lower() == ".json":
            raise InvalidArgument(f"{path} is no JSON", violations=[Violation("file", str(error))]) from error
    try:
        import yaml
    except ImportError:
        raise FailedPrecondition(
            f"{path} is YAML, and PyYAML is not installed: pip install pyyaml, or write it as JSON"
        ) from None
    try:
        return list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{path} is no YAML", violations=[Violation("file", str(error))]) from error
