"""The acts of the demo's story, in their order. Each act is a function of the story; what fails raises `StepFailed`."""

from pilotfish.cli.demo.acts.beginning import stage_and_promote, train_first
from pilotfish.cli.demo.acts.delivering import bad_version, successor_promoted
from pilotfish.cli.demo.acts.ending import kill_control_plane, retire_and_report, settle
from pilotfish.cli.demo.acts.watching import clean_traffic, shift, write_rules

__all__ = ["ACTS"]

ACTS = (
    train_first,
    stage_and_promote,
    clean_traffic,
    write_rules,
    shift,
    successor_promoted,
    bad_version,
    kill_control_plane,
    settle,
    retire_and_report,
)
