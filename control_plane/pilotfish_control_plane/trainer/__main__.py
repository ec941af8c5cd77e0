"""The process of one training job.

    python -m pilotfish_control_plane.trainer --job-dir DIR

Owns the process: its own session, its signals, its threads, its log. SIGTERM cancels: the job ends at the next moment
Python code runs, or, when a library keeps the processor for more than five seconds, right away. Whatever happens but a
kill, `result.json` is there when the process ends, and then its exit code is 0. Exit code 2: the directory cannot be
used; 3: another trainer works in it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

# Before NumPy is imported: its libraries read these once.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from pilotfish_control_plane.clock import Clock, SystemClock  # noqa: E402
from pilotfish_control_plane.trainer.job_directory import DirectoryBusy, EventLog, JobDirectory  # noqa: E402
from pilotfish_control_plane.trainer.opening import open_job  # noqa: E402
from pilotfish_control_plane.trainer.outcome import (  # noqa: E402
    Issue,
    JobCancelled,
    JobResult,
    Outcome,
    Reason,
    Severity,
    TrainingFailed,
)

logger = logging.getLogger("pilotfish_control_plane.trainer")

_GRACE_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit code."""
    parser = argparse.ArgumentParser(prog="pilotfish-trainer", description="Runs one training job.")
    parser.add_argument("--job-dir", type=Path, required=True, help="directory that holds spec.json")
    path: Path = parser.parse_args(arguments).job_dir
    try:
        directory = JobDirectory(path)
    except DirectoryBusy as error:
        sys.stderr.write(f"{error}\n")
        return 3
    except OSError as error:
        sys.stderr.write(f"the job directory {path} cannot be used: {error}\n")
        return 2
    if directory.has_result():
        return 0
    _stand_alone(directory.path / "trainer.log")
    clock = SystemClock()
    begin = clock.monotonic()
    cancel = _Cancel(directory, clock, begin)
    cancel.install()
    result: JobResult | None = None
    try:
        events = EventLog(directory.path / "events.jsonl", clock)
        result = _run(directory, events, clock, begin)
        directory.write_result(result.to_document())
    except JobCancelled:
        cancel.finish()
    return 0 if directory.has_result() else 2


def _run(directory: JobDirectory, events: EventLog, clock: Clock, begin: float) -> JobResult:
    """Return the job's result; a bug becomes one too, with its text in the log only."""
    try:
        spec = open_job(directory)
        events.append("start", 0.0, "loading libraries", durable=True)
        # Imported here: it takes seconds, and signals and a broken installation are handled by now.
        from pilotfish_control_plane.trainer.main import run_job

        result = run_job(spec, directory, events, clock)
        logger.info("ended %s %s after %.2f s", result.outcome, result.reason, clock.monotonic() - begin)
        return result
    except TrainingFailed as failure:
        return _failed(clock, begin, failure.reason, failure.message, failure.issues)
    except Exception as error:
        logger.exception("the job ended by an unexpected error")
        message = f"unexpected {type(error).__name__}; trainer.log in the job's directory has the details"
        return _failed(clock, begin, Reason.INTERNAL, message, (Issue("internal", Severity.ERROR, "", message),))


def _failed(clock: Clock, begin: float, reason: Reason, message: str, issues: Sequence[Issue]) -> JobResult:
    seconds = round(clock.monotonic() - begin, 3)
    return JobResult(Outcome.FAILED, clock.now(), seconds, str(reason), message, issues)


def _stand_alone(log: Path) -> None:
    """Cut what ties this process to its parent: session, terminal, and pipes that nobody may read any more."""
    with contextlib.suppress(OSError):
        os.setsid()  # fails when the parent has made this process a session leader already
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(nothing)
    os.close(descriptor)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.captureWarnings(True)


class _Cancel:
    """Turns SIGTERM and SIGINT into a cancelled job.

    The handler raises in the main thread. A library that computes in C for long lets no Python code run, so a second
    thread, woken by the signal itself, ends the process when the main thread has not done so in time.
    """

    def __init__(self, directory: JobDirectory, clock: Clock, begin: float) -> None:
        self._directory = directory
        self._clock = clock
        self._begin = begin
        self._asked = False

    def install(self) -> None:
        """Begin to listen for signals."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, args=(reader,), name="cancel", daemon=True).start()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            raise JobCancelled(signal.Signals(number).name)

    def _watch(self, reader: int) -> None:
        while True:
            received = set(os.read(reader, 64))
            if received & {signal.SIGTERM, signal.SIGINT}:
                break
        threading.Event().wait(_GRACE_S)
        self.finish()
        os._exit(0)

    def finish(self) -> None:
        """Write the result of a cancelled job, unless the job has one."""
        import shutil

        if not self._directory.has_result():
            shutil.rmtree(self._directory.artifact, ignore_errors=True)
        seconds = round(self._clock.monotonic() - self._begin, 3)
        message = "the job was cancelled"
        result = JobResult(Outcome.CANCELLED, self._clock.now(), seconds, str(Reason.CANCELLED), message)
        self._directory.write_result(result.to_document())
        logger.info("cancelled after %.2f s", seconds)


if __name__ == "__main__":
    raise SystemExit(main())
