"""Starts the validating process and makes a report of whatever became of it.

Owns the process: its environment, its time, its end. It trusts nothing that comes back: the answer is bounded,
parsed field by field, and a process that dies is itself a finding.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any  # Any: JSON of any depth

from pilotfish_control_plane.artifacts.confinement import Limits
from pilotfish_control_plane.artifacts.findings import Received
from pilotfish_control_plane.artifacts.model import Problem, ValidationReport

__all__ = ["validate_directory"]

_STDERR_BYTES = 64 * 1024
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ")


def validate_directory(
    directory: Path, framework: str, *, requested: Mapping[str, Any] | None = None, limits: Limits | None = None
) -> ValidationReport:
    """Return what an isolated process finds about the artifact in `directory`; blocks until it ends or is killed.

    Args:
        directory: holds exactly the artifact's files.
        framework: whose validator is used.
        requested: a signature that the artifact must agree with, as in signature.json.
        limits: of the process.
    """
    limits = limits or Limits()
    started = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable, "-P", "-m", "pilotfish_control_plane.artifacts.validator", str(directory.resolve()),
            "--framework", framework, "--cpu-s", str(limits.cpu_s), "--memory-bytes", str(limits.memory_bytes),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env=_environment(),
        start_new_session=True, close_fds=True,
    )  # fmt: skip
    out, err = bytearray(), bytearray()
    readers = [
        threading.Thread(target=_read, args=(process, process.stdout, out, limits.output_bytes), daemon=True),
        threading.Thread(target=_read, args=(process, process.stderr, err, _STDERR_BYTES), daemon=True),
    ]
    for reader in readers:
        reader.start()
    timed_out = False
    try:
        _feed(process, json.dumps(dict(requested or {})).encode())
        process.wait(limits.wall_s)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        _kill(process)
        process.wait()
        for reader in readers:
            reader.join()
    received = Received(bytes(out))
    if received.result is None or process.returncode != 0:
        received.problems.append(_death(process.returncode, timed_out, received.stage, bytes(err), limits))
    return _report(framework, received, time.monotonic() - started)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    # One thread everywhere: pools of native libraries cost address space and CPU time, both of which are limited.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "HOME": "/nonexistent"}


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died before it read: its end is reported
        process.stdin.write(data)
        process.stdin.close()


def _read(process: subprocess.Popen[bytes], stream: IO[bytes] | None, into: bytearray, most: int) -> None:
    assert stream is not None
    while piece := os.read(stream.fileno(), 65536):
        if len(into) + len(piece) > most:
            if stream is process.stdout:
                _kill(process)
                return
            continue
        into += piece


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group too: the process leads its own session, so nothing that it started outlives it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _death(code: int, timed_out: bool, stage: str, err: bytes, limits: Limits) -> Problem:
    if timed_out:
        return Problem("", f"{stage} took more than {limits.wall_s:g} s and was stopped", "TIME_LIMIT")
    if code == -signal.SIGXCPU:
        return Problem("", f"{stage} used more than {limits.cpu_s} s of CPU and was stopped", "CPU_LIMIT")
    last = err.decode(errors="replace").strip().splitlines()[-1:] or [""]
    if b"MemoryError" in err or b"bad_alloc" in err:
        most = limits.memory_bytes // 1024**2
        return Problem("", f"{stage} needed more than {most} MiB of memory", "MEMORY_LIMIT")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Problem("", f"the validating process died while {stage} ({how}) {last[0][:200]}".rstrip(), "CRASHED")


def _report(framework: str, received: Received, seconds: float) -> ValidationReport:
    result = received.result or {}
    signature, dependencies = result.get("signature"), result.get("dependencies")
    profile, example_ok, size = result.get("profile_json"), result.get("example_ok"), result.get("size_bytes")
    return ValidationReport(
        framework=framework,
        errors=tuple(dict.fromkeys(received.problems)),
        checks=tuple(received.checks),
        signature=signature if isinstance(signature, dict) else {},
        example_ok=example_ok if isinstance(example_ok, bool) else None,
        size_bytes=size if isinstance(size, int) and size >= 0 else 0,
        dependencies={str(k): str(v) for k, v in dependencies.items()} if isinstance(dependencies, dict) else {},
        profile_json=profile if isinstance(profile, str) else "",
        seconds=seconds,
    )
