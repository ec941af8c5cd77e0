"""The check that the files about to be loaded are the files that were registered.

Owns reading `--manifest` and comparing. Files are read once: the bytes that were hashed are the bytes
that are loaded, so that nothing can be exchanged in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["LoadedFiles", "ManifestError", "load_files"]

MODEL_FILE: Final = "model.onnx"
SIGNATURE_FILE: Final = "signature.json"


class ManifestError(Exception):
    """The files are not those of the manifest; the text names every difference."""


@dataclass(frozen=True, slots=True)
class LoadedFiles:
    """The bytes to load.

    Attributes:
        model: of `model.onnx`.
        signature: of `signature.json`; None when there is none.
        digests: path → SHA-256 in hex of every file that was read.
    """

    model: bytes
    signature: bytes | None
    digests: Mapping[str, str]


def load_files(model_dir: Path, manifest: Path | None) -> LoadedFiles:
    """Return the bytes of the model's files, after comparing them to the manifest if there is one.

    Args:
        model_dir: directory with `model.onnx` and perhaps `signature.json`.
        manifest: JSON list of `{"path", "size", "sha256"}`, paths relative to `model_dir`.

    Raises:
        ManifestError: a file is missing, differs, or is not listed; or the manifest is not of that form.
        OSError: `model.onnx` cannot be read.
    """
    contents: dict[str, bytes] = {}
    if manifest is not None:
        contents = _checked(model_dir, _listed(manifest))
    else:
        contents[MODEL_FILE] = (model_dir / MODEL_FILE).read_bytes()
        if (model_dir / SIGNATURE_FILE).exists():
            contents[SIGNATURE_FILE] = (model_dir / SIGNATURE_FILE).read_bytes()
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    return LoadedFiles(contents[MODEL_FILE], contents.get(SIGNATURE_FILE), digests)


def _listed(manifest: Path) -> dict[str, tuple[int, str]]:
    try:
        entries = json.loads(manifest.read_bytes())
        listed = {str(entry["path"]): (int(entry["size"]), str(entry["sha256"]).lower()) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ManifestError(f"{manifest} is not a list of path, size and sha256: {error!r}") from error
    for path in listed:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts:
            raise ManifestError(f"{manifest}: the path {path!r} leaves the model's directory")
    return listed


def _checked(model_dir: Path, listed: Mapping[str, tuple[int, str]]) -> dict[str, bytes]:
    problems: list[str] = []
    contents: dict[str, bytes] = {}
    for path, (size, sha256) in listed.items():
        try:
            data = (model_dir / path).read_bytes()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if len(data) != size:
            problems.append(f"{path}: {len(data)} bytes, the manifest says {size}")
        elif hashlib.sha256(data).hexdigest() != sha256:
            problems.append(f"{path}: its SHA-256 is not the manifest's")
        elif path in (MODEL_FILE, SIGNATURE_FILE):
            contents[path] = data
    for path in (MODEL_FILE, SIGNATURE_FILE):
        if path not in listed and (path == MODEL_FILE or (model_dir / path).exists()):
            problems.append(f"{path}: not in the manifest")
    if problems:
        raise ManifestError(f"{model_dir} is not what was registered: " + "; ".join(problems))
    return contents
