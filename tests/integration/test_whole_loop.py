"""The whole life of a model by the demo's own command: real processes, real gRPC, real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = int(os.environ.get("PILOTFISH_DEMO_SEED", "7"))


@pytest.mark.timeout(420)
@pytest.mark.ledger(
    "A1", "A2", "A3", "A4", "B1", "B3", "B4", "B5", "C1", "C2", "C3", "C5", "C6", "C7", "D1", "D2", "D3", "D4", "D5",
    "D6", "D7", "D8", "E1", "E2", "E3", "E4", "E5", "E6", "F1", "F2", "F3", "F4", "F5", "G1", "G2", "G4",
)  # fmt: skip
def test_a_model_is_trained_watched_retrained_promoted_rolled_back_and_retired(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    argv = [sys.executable, "-m", "pilotfish", "demo", "--seed", str(SEED), "--directory", str(tmp_path)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=400, env={**os.environ, "COLUMNS": "120"})
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    facts = json.loads(run.stdout.strip().splitlines()[-1])
    assert facts["predictions_failed"] == facts["lost"] == facts["duplicated"] == 0
    assert facts["predictions_stored"] == facts["predictions_sent"]
    assert facts["clean_predictions_before_shift"] >= 400
    assert facts["alerts_before_shift"] == 0
    assert 0 < facts["drift_detected_after_predictions"] <= 400
    assert facts["retrained_version"] == facts["promoted_version"] == 2
    # The rule may have begun to retrain for the new deployment before it is switched off: that takes a number too.
    assert facts["rolled_back_version"] > facts["promoted_version"]
    assert facts["rollback_verdict"]["value"] < facts["rollback_verdict"]["bound"]
    assert facts["actions_duplicated"] == 0 and facts["actions_executed"] >= 2
    assert facts["control_plane_restarts"] == 1
    assert facts["predictions_during_downtime"] > 0
    assert facts["champion_accuracy_after"] > facts["champion_accuracy_before"]
    assert facts["label_coverage"] > 0.9
    assert not _left_running(tmp_path), "the demo left processes running"


def _left_running(directory: Path) -> list[str]:
    """Return the command lines of processes that still work in the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line and str(os.getpid()) != entry.name:
            found.append(line)
    return found
