"""A real scikit-learn model as ONNX files, and the model server as a process, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

FEATURES = [f"pixel_{index}" for index in range(64)]
CLASSES = [str(digit) for digit in range(10)]


def digits() -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return the images as rows of 64 floats, and their digits."""
    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), labels


def write_digits_model(directory: Path, *, signature: bool = True, zipmap: bool = False) -> LogisticRegression:
    """Fit a classifier, write model.onnx (and signature.json) into `directory`, return the classifier."""
    images, labels = digits()
    model = LogisticRegression(max_iter=100).fit(images[:600], labels[:600])
    graph = to_onnx(model, images[:1], options={"zipmap": zipmap}, target_opset=17)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(graph.SerializeToString())
    if signature:
        document = {
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            ],
            "feature_names": FEATURES,
            "classes": CLASSES,
        }
        (directory / "signature.json").write_text(json.dumps(document))
    return model


class ServerProcess:
    """`python -m pilotfish_model_server`, started and waited for."""

    def __init__(self, model_dir: Path, run_dir: Path, *flags: str) -> None:
        """Start it and wait until it listens."""
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "ready.json").unlink(missing_ok=True)
        self.log = run_dir / "server.log"
        self.process = start_server(model_dir, run_dir, *flags)
        self.ready = self._wait()

    def _wait(self) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        path = self.run_dir / "ready.json"
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.02)
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    @property
    def target(self) -> str:
        """Return the gRPC address."""
        return f"127.0.0.1:{self.ready['grpc_port']}"

    @property
    def url(self) -> str:
        """Return the HTTP address."""
        return f"http://127.0.0.1:{self.ready['http_port']}"

    def terminate(self) -> int:
        """Send SIGTERM, wait, return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self.process.kill()
        self.process.wait(15)


def start_server(model_dir: Path, run_dir: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start the server's process; its log goes to `run_dir/server.log`."""
    command = [sys.executable, "-m", "pilotfish_model_server", "--model-dir", str(model_dir), "--run-dir", str(run_dir)]
    command += ["--model-name", "digits", "--model-version", "3", *flags]
    with (run_dir / "server.log").open("wb") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=dict(os.environ))
