"""Reads and checks the specification of a job's directory.

Owns what a wrong one becomes: a failed job that names every field. Imports no numerical package, so that the answer to
a wrong specification does not wait for them.
"""

from __future__ import annotations

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.trainer.job_directory import JobDirectory
from pilotfish_control_plane.trainer.outcome import Issue, Reason, Severity, TrainingFailed
from pilotfish_control_plane.trainer.spec import JobSpec
from pilotfish_control_plane.trainer.spec_reader import read_spec

__all__ = ["open_job"]


def open_job(directory: JobDirectory) -> JobSpec:
    """Return the checked specification.

    Raises:
        TrainingFailed: SPEC_INVALID, with one issue for each field that is wrong.
    """
    try:
        return read_spec(directory.read_spec())
    except InvalidArgument as error:
        issues = [Issue("spec", Severity.ERROR, item.field, item.description) for item in error.violations]
        raise TrainingFailed(Reason.SPEC_INVALID, error.message, issues) from error
    except (OSError, ValueError) as error:
        raise TrainingFailed(Reason.SPEC_INVALID, f"spec.json cannot be read: {error}") from error
