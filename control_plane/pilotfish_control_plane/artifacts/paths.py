"""Which paths a file of an artifact may have, and which lists of files are accepted.

Owns the rules. It never touches a disk: on disk, uploads are named by position, and only a path that has passed
here becomes a file name.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from pilotfish.errors import Violation
from pilotfish_control_plane.artifacts.model import MAX_FILES, ArtifactFile

__all__ = ["MAX_FILE_BYTES", "MAX_PATH_BYTES", "MAX_SEGMENTS", "check_files", "path_problem"]

MAX_PATH_BYTES = 255
MAX_SEGMENTS = 16
MAX_FILE_BYTES = 1 << 40
MAX_SHOWN = 50
"""Violations shown in one refusal; their number is always given."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
# Device names of Windows: an artifact that is fetched there must not open one.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))})
_FORBIDDEN = frozenset('\\:*?"<>|')
# Control, format (also text direction), surrogate, private and unassigned characters; line and paragraph separators.
_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def path_problem(path: str) -> str:
    """Return why `path` may not be a file's path in an artifact; "" when it may."""
    if not path:
        return "is empty"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if size > MAX_PATH_BYTES:
        return f"has {size} bytes, at most {MAX_PATH_BYTES} are allowed"
    if "\x00" in path:
        return "contains NUL"
    bad = sorted({c for c in path if c in _FORBIDDEN or unicodedata.category(c) in _CATEGORIES})
    if bad:
        return "contains " + ", ".join(f"U+{ord(c):04X}" for c in bad[:5])
    if path.startswith("/"):
        return "is absolute"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode's composed form (NFC)"
    segments = path.split("/")
    if len(segments) > MAX_SEGMENTS:
        return f"is {len(segments)} levels deep, at most {MAX_SEGMENTS} are allowed"
    return next((problem for s in segments if (problem := _segment_problem(s))), "")


def _segment_problem(segment: str) -> str:
    if not segment:
        return "has an empty part"
    if segment in (".", ".."):
        return f"contains {segment!r}"
    if segment != segment.strip(" ") or segment.endswith("."):
        return f"has a part that begins or ends with a space or ends with a dot: {segment!r}"
    # NFKC turns look-alikes such as U+2024 or full-width letters into what some file systems make of them.
    folded = unicodedata.normalize("NFKC", segment)
    if folded in (".", "..") or "/" in folded or "\\" in folded or ":" in folded:
        return f"has a part that some file systems read as another one: {segment!r}"
    if folded.casefold().partition(".")[0].strip(" ") in _DEVICES:
        return f"uses the reserved name {segment!r}"
    return ""


def check_files(files: Sequence[ArtifactFile], field: str = "files") -> list[Violation]:
    """Return everything that is wrong with the announced files: paths, sizes, hashes, duplicates.

    Args:
        files: as announced, 1 to 10,000.
        field: the request's field, for the violations.
    """
    if not 1 <= len(files) <= MAX_FILES:
        return [Violation(field, f"{len(files)} files; 1 to {MAX_FILES} are allowed", "FILE_COUNT")]
    found: list[Violation] = []
    for i, file in enumerate(files):
        where = f"{field}[{i}]"
        if problem := path_problem(file.path):
            found.append(Violation(f"{where}.path", f"{_shown(file.path)} {problem}", "BAD_PATH"))
        if not 0 <= file.size_bytes <= MAX_FILE_BYTES:
            text = f"is {file.size_bytes}; 0 to {MAX_FILE_BYTES} bytes are allowed"
            found.append(Violation(f"{where}.size_bytes", text, "BAD_SIZE"))
        if not _SHA256.fullmatch(file.sha256):
            text = "must be the 64 lower-case hex digits of a SHA-256"
            found.append(Violation(f"{where}.sha256", text, "BAD_HASH"))
        elif file.size_bytes == 0 and file.sha256 != _EMPTY_SHA256:
            text = f"{_shown(file.path)} is empty, and this is not the SHA-256 of nothing"
            found.append(Violation(f"{where}.sha256", text, "BAD_HASH"))
    found += [Violation(field, text, "PATH_CONFLICT") for text in _conflicts(f.path for f in files)]
    return found


def _conflicts(paths: Iterable[str]) -> list[str]:
    """Return every pair that cannot lie side by side on some file system."""
    seen: dict[str, str] = {}
    directories: dict[str, str] = {}
    found = []
    for path in paths:
        folded = unicodedata.normalize("NFKC", path).casefold()
        if folded in seen:
            same = seen[folded] == path
            how = "comes twice" if same else f"and {_shown(seen[folded])} are one file where case does not count"
            found.append(f"{_shown(path)} {how}")
        seen[folded] = path
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            directories.setdefault("/".join(parts[:depth]), path)
    found += [
        f"{_shown(path)} is a file, and {_shown(directories[folded])} needs it to be a directory"
        for folded, path in seen.items()
        if folded in directories
    ]
    return found


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")
