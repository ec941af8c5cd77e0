"""The trainer as the process it is: run, cancelled, killed, orphaned."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pandas as pd
import psutil
import pytest
from sklearn.datasets import load_digits

from pilotfish_control_plane.trainer.database_source import read_database
from pilotfish_control_plane.trainer.file_source import SourceError
from pilotfish_control_plane.trainer.spec import DatabaseSource

if TYPE_CHECKING:
    from tests.conftest import DatabaseFactory

pytestmark = pytest.mark.timeout(400)
PIXELS = [f"pixel_{index}" for index in range(64)]
LIMIT_S = 120.0


def command(directory: Path) -> list[str]:
    return [sys.executable, "-m", "pilotfish_control_plane.trainer", "--job-dir", str(directory)]


def start(directory: Path, document: Any) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    (directory / "spec.json").write_text(json.dumps(document))
    return subprocess.Popen(command(directory))


def run(directory: Path, document: Any) -> dict[str, Any]:
    process = start(directory, document)
    assert process.wait(LIMIT_S) == 0
    return result_of(directory)


def result_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return found


def events_of(directory: Path) -> list[dict[str, Any]]:
    path = directory / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_stage(directory: Path, stage: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not any(event["stage"] == stage for event in events_of(directory)):
        assert time.monotonic() < end, f"{stage} was not reached"
        time.sleep(0.05)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a directory with handwritten digits: pixels in a database, labels in a file, later rows in a log."""
    root = tmp_path / "data"
    root.mkdir()
    loaded: Any = load_digits(return_X_y=True)
    pixels, digit = loaded
    frame = pd.DataFrame(pixels.astype(int), columns=PIXELS)
    known = digit <= 5
    connection = sqlite3.connect(root / "digits.db")
    frame[known].assign(id=np.flatnonzero(known)).to_sql("digits", connection, index=False)
    connection.close()
    pd.DataFrame({"id": np.flatnonzero(known), "label": (digit % 2)[known]}).to_csv(root / "labels.csv", index=False)
    later = np.random.default_rng(5).permutation(len(frame))[:900]
    frame.assign(label=digit % 2).iloc[later].to_parquet(root / "log.parquet")
    return root


def digits(root: Path, *, log: bool = False, **changes: Any) -> dict[str, Any]:
    sources: list[dict[str, Any]] = [
        {
            "name": "pixels",
            "type": "database",
            "connection": f"sqlite:///{root}/digits.db",
            "query": "SELECT * FROM digits WHERE id >= :first",
            "parameters": {"first": 0},
        },
        {"name": "labels", "type": "file", "path": "labels.csv"},
    ]
    join: dict[str, Any] = {"base": "pixels", "joins": [{"source": "labels", "on": ["id"], "how": "inner"}]}
    if log:
        sources.append({"name": "log", "type": "prediction_log", "path": str(root / "log.parquet")})
        join["union"] = ["log"]
    document: dict[str, Any] = {
        "job_id": "j",
        "pipeline": "odd",
        "pipeline_revision": 1,
        "reason": "manual",
        "seed": 7,
        "data_sources": sources,
        "feature_config": {
            "label": "label",
            "features": PIXELS,
            "join_config": join,
            "feature_set": {"name": "pixels", "transformations": [{"type": "scaling", "method": "standard"}]},
        },
        "training_config": {
            "model_config": {"framework": "sklearn", "type": "svm", "task": "classification"},
            "split_config": {"method": "stratified", "train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "evaluation_config": {
            "metrics": ["accuracy", "roc_auc"],
            "thresholds": [{"metric": "accuracy", "comparison": ">=", "bound": 0.9}],
            "champion": {"metric": "accuracy", "margin": 0.0},
        },
        "quality_config": {},
        "allowed_roots": [str(root)],
    }
    return {**document, **changes}


def slow(root: Path) -> dict[str, Any]:
    """Return a job that would train for minutes."""
    training = {
        "model_config": {"type": "random_forest"},
        "search": {
            "method": "random",
            "space": {"n_estimators": {"low": 200, "high": 2000, "integer": True}},
            "trials": 500,
        },
    }
    return digits(root, training_config=training)


@pytest.fixture
def processes() -> Iterator[list[int]]:
    """Return a list of process ids; those still alive at the end are killed."""
    started: list[int] = []
    yield started
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_version_and_its_better_successor_are_trained(data: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "one", digits(data))
    assert first["outcome"] == "SUCCEEDED", first["message"]
    assert first["metrics"]["accuracy"] > 0.95
    artifact = tmp_path / "one" / "artifact"
    again = digits(data, log=True, champion_dir=str(artifact), previous_profile=str(artifact / "profile.json"))
    second = run(tmp_path / "two", again)
    assert second["outcome"] == "SUCCEEDED", second["message"]
    # The first has never seen the digits 6 to 9.
    assert second["metrics"]["accuracy"] > second["champion_metrics"]["accuracy"] + 0.03
    (entry,) = [entry for entry in second["gate"] if entry["against"] == "champion"]
    assert entry["verdict"] == "PASS"
    assert entry["evidence"]["p"] < 0.001
    assert entry["evidence"]["low"] > 0
    session = onnxruntime.InferenceSession((tmp_path / "two/artifact/model.onnx").read_bytes())
    pixels, digit = load_digits(return_X_y=True)
    found: Any = session.run(["label"], {"input": pixels.astype(np.float32)})[0]
    assert (found == digit % 2).mean() > 0.97


def test_a_running_job_shows_its_progress_keeps_its_directory_and_can_be_cancelled(
    data: Path, tmp_path: Path, processes: list[int]
) -> None:
    directory = tmp_path / "job"
    process = start(directory, slow(data))
    processes.append(process.pid)
    wait_for_stage(directory, "start")
    second = subprocess.run(command(directory), capture_output=True, timeout=LIMIT_S)
    assert second.returncode == 3
    assert b"another trainer already works in" in second.stderr
    end = time.monotonic() + LIMIT_S
    while sum("trial" in event["metrics"] for event in events_of(directory)) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert process.poll() is None
    assert not (directory / "result.json").exists()
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 0
    assert time.monotonic() - begin < 10
    found = result_of(directory)
    assert (found["outcome"], found["reason"], found["artifact_dir"]) == ("CANCELLED", "CANCELLED", None)
    assert not (directory / "artifact").exists()


def test_a_library_that_never_returns_cannot_prevent_a_cancel(tmp_path: Path, processes: list[int]) -> None:
    # Stands for minutes inside C code: the handler never gets to run, the second thread does.
    directory = tmp_path / "job"
    directory.mkdir()
    (directory / "spec.json").write_text(json.dumps(digits(tmp_path)))
    code = """
        import ctypes, sys, types
        import pilotfish_control_plane.trainer.__main__ as trainer
        stuck = types.ModuleType("stuck")
        def run_job(spec, directory, events, clock):
            events.append("train", 0.5, "stuck")
            libc = ctypes.CDLL(None)
            while True:
                libc.sleep(1000)
        stuck.run_job = run_job
        sys.modules["pilotfish_control_plane.trainer.main"] = stuck
        trainer._Cancel._on_signal = lambda self, number, frame: None
        sys.exit(trainer.main(sys.argv[1:]))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), "--job-dir", str(directory)])
    processes.append(process.pid)
    wait_for_stage(directory, "train")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert 4 < time.monotonic() - begin < 15
    assert result_of(directory)["outcome"] == "CANCELLED"


def test_a_job_outlives_the_process_that_started_it(data: Path, tmp_path: Path, processes: list[int]) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    (directory / "spec.json").write_text(json.dumps(digits(data)))
    # The parent gives the trainer pipes, as a careless executor would, leads its group, and is killed with it.
    code = """
        import subprocess, sys, time
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        print(child.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *command(directory)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    processes += [parent.pid, child]
    wait_for_stage(directory, "start")
    assert os.getsid(child) == child != os.getsid(parent.pid)
    os.killpg(parent.pid, signal.SIGHUP)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait(LIMIT_S)
    end = time.monotonic() + LIMIT_S
    while not (directory / "result.json").exists():
        assert psutil.pid_exists(child) and time.monotonic() < end
        time.sleep(0.1)
    assert result_of(directory)["outcome"] == "SUCCEEDED"


def test_a_job_killed_again_and_again_still_ends_as_if_it_had_run_once(data: Path, tmp_path: Path) -> None:
    directory = tmp_path / "job"
    for stage in ("load", "export", "evaluate"):
        before = len(events_of(directory))
        process = start(directory, digits(data))
        end = time.monotonic() + LIMIT_S
        while not any(event["stage"] == stage for event in events_of(directory)[before:]):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait(LIMIT_S)
        assert not (directory / "result.json").exists()
    assert run(directory, digits(data))["outcome"] == "SUCCEEDED"
    numbers = [event["seq"] for event in events_of(directory)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_job_that_has_ended_is_not_run_again(data: Path, tmp_path: Path) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    (directory / "result.json").write_text('{"outcome": "CANCELLED"}')
    assert run(directory, digits(data)) == {"outcome": "CANCELLED"}
    assert not (directory / "events.jsonl").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"seed": NaN}', None])
def test_a_broken_specification_is_a_result_too(tmp_path: Path, content: bytes | None) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    if content is not None:
        (directory / "spec.json").write_bytes(content)
    assert subprocess.run(command(directory), timeout=LIMIT_S).returncode == 0
    found = result_of(directory)
    assert (found["outcome"], found["reason"]) == ("FAILED", "SPEC_INVALID")
    assert found["issues"]


def test_a_directory_that_does_not_exist_is_said_on_the_way_out(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path / "nowhere"), capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert b"cannot be used" in done.stderr


def test_a_bug_becomes_a_result_whose_details_are_in_the_log_only(data: Path, tmp_path: Path) -> None:
    directory = tmp_path / "job"
    directory.mkdir()
    (directory / "artifact").write_text("a file where a directory should be")
    found = run(directory, digits(data))
    assert (found["outcome"], found["reason"]) == ("FAILED", "INTERNAL")
    assert "trainer.log" in found["message"]
    assert "Traceback" not in json.dumps(found)
    assert "Traceback" in (directory / "trainer.log").read_text()


def test_no_password_is_left_in_any_file(tmp_path: Path, data: Path) -> None:
    document = digits(data)
    document["data_sources"][0]["connection"] = "postgresql://ann:hunter2@127.0.0.1:1/rows"
    found = run(tmp_path / "job", document)
    assert found["reason"] == "SOURCE_FAILED"
    for name in ("result.json", "events.jsonl", "trainer.log"):
        assert "hunter2" not in (tmp_path / "job" / name).read_text()


# PostgreSQL as a source


def test_rows_are_read_from_postgresql_and_nothing_can_be_changed(databases: DatabaseFactory, tmp_path: Path) -> None:
    import psycopg

    url = databases.empty_url("postgresql", tmp_path)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE items (id int, price numeric(8, 2), name text, at timestamptz)")
        connection.execute("CREATE SEQUENCE numbers")
        connection.execute("INSERT INTO items SELECT i, i / 4.0, 'n' || i, now() FROM generate_series(0, 9) i")
    plain = DatabaseSource("a", url, "SELECT id, price, name FROM items WHERE id < :n ORDER BY id", {"n": 4})
    found = read_database(plain, [])
    assert found["name"].tolist() == ["n0", "n1", "n2", "n3"]
    assert found["price"].astype(float).tolist() == [0.0, 0.25, 0.5, 0.75]
    for query in (
        "WITH gone AS (DELETE FROM items RETURNING id) SELECT * FROM gone",
        "SELECT setval('numbers', 7)",
        "SELECT 1; DROP TABLE items",
        "TABLE items; COMMIT; DROP TABLE items",
    ):
        with pytest.raises(SourceError):
            read_database(DatabaseSource("a", url, query), [])
    assert len(read_database(DatabaseSource("a", url, "TABLE items"), [])) == 10
