"""The validating process: `python -m pilotfish_control_plane.artifacts.validator DIR --framework F`.

Owns the order: confine, check the files, hand over to the framework's validator. It reads a JSON object with the
request's signature on standard input and writes `findings` lines on standard output. It is started once per artifact,
by `artifacts.sandbox`, and imports nothing that it does not need.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any  # JSON of any depth

from pilotfish_control_plane.artifacts.confinement import Limits, confine
from pilotfish_control_plane.artifacts.findings import Findings, Validator
from pilotfish_control_plane.artifacts.onnx_validator import FILES as ONNX_FILES
from pilotfish_control_plane.artifacts.onnx_validator import validate_onnx

__all__ = ["ENTRY_POINTS", "VALIDATORS", "known_frameworks", "main"]

ENTRY_POINTS = "pilotfish.validators"
"""Group of entry points: framework -> a `findings.Validator`."""

VALIDATORS: Mapping[str, Validator] = {"onnx": validate_onnx}
"""The validators that come with the control plane, by framework."""

_ACCEPTED: Mapping[str, Mapping[str, int]] = {"onnx": ONNX_FILES}

# Hashes may begin with any two bytes, also with those of a pickle.
_ANY_BYTES = frozenset({"training_rows.bin"})
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".dill", ".cloudpickle", ".sav")
# Protocol 2 to 5; older protocols have no header, and are caught by their names or as unknown files.
_PICKLE_HEADS = tuple(b"\x80" + bytes([n]) for n in (2, 3, 4, 5))


def known_frameworks() -> list[str]:
    """Return the frameworks that can be validated here."""
    return sorted({*VALIDATORS, *(e.name for e in entry_points(group=ENTRY_POINTS))})


def _validator(framework: str) -> Validator | None:
    if framework in VALIDATORS:
        return VALIDATORS[framework]
    for entry in entry_points(group=ENTRY_POINTS, name=framework):
        loaded: Validator = entry.load()
        return loaded
    return None


def _check_files(directory: Path, framework: str, findings: Findings) -> int:
    """Report whatever is not a plain, accepted file; return the bytes over all files."""
    findings.stage("checking the files")
    accepted = _ACCEPTED.get(framework)
    total = 0
    for root, directories, names in os.walk(directory):
        for name in sorted(directories):
            if os.path.islink(os.path.join(root, name)):
                findings.problem(_relative(root, name, directory), "is a link", "NOT_A_FILE")
        for name in sorted(names):
            full, path = os.path.join(root, name), _relative(root, name, directory)
            facts = os.lstat(full)
            if not stat.S_ISREG(facts.st_mode):
                findings.problem(path, "is not a plain file", "NOT_A_FILE")
                continue
            total += facts.st_size
            if path not in _ANY_BYTES and _is_pickle(full, name):
                text = "is a pickle: loading it would run whatever code its author wrote; export the model to ONNX"
                findings.problem(path, text, "PICKLE")
            elif accepted is not None and path not in accepted:
                text = f"is not a file of an {framework} artifact; those are {', '.join(accepted)}"
                findings.problem(path, text, "UNKNOWN_FILE")
    return total


def _relative(root: str, name: str, directory: Path) -> str:
    return os.path.relpath(os.path.join(root, name), directory).replace(os.sep, "/")


def _is_pickle(full: str, name: str) -> bool:
    if name.casefold().endswith(_PICKLE_SUFFIXES):
        return True
    with open(full, "rb") as stream:
        head = stream.read(2)
    return head in _PICKLE_HEADS


def _run(directory: Path, framework: str, requested: Mapping[str, Any], findings: Findings) -> None:
    size = _check_files(directory, framework, findings)
    validate = _validator(framework)
    learned: Mapping[str, Any] = {}
    if validate is None:
        text = f"there is no validator for framework {framework!r}; there are: {', '.join(known_frameworks())}"
        findings.problem("", text, "NO_VALIDATOR")
    else:
        try:
            learned = validate(directory, requested, findings)
        except MemoryError:
            findings.problem("", "needs more memory than a validation may use", "MEMORY_LIMIT")
    findings.result(size_bytes=size, **learned)


def main(argv: list[str] | None = None) -> int:
    """Validate; return 0 whenever the findings are whole, whatever they say."""
    parser = argparse.ArgumentParser(prog="pilotfish-validator")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--framework", required=True)
    parser.add_argument("--cpu-s", type=int, default=Limits().cpu_s)
    parser.add_argument("--memory-bytes", type=int, default=Limits().memory_bytes)
    args = parser.parse_args(argv)
    requested = json.loads(sys.stdin.buffer.read() or b"{}")
    # Native code prints where it likes: keep the line for findings to ourselves.
    findings = Findings(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    for line in confine(Limits(cpu_s=args.cpu_s, memory_bytes=args.memory_bytes)):
        findings.check(line)
    _run(args.directory, args.framework, requested, findings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
