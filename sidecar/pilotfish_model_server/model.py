"""One ONNX model in memory: load, describe, run.

Owns the onnxruntime session and the estimate of what a run costs. It never sees the protocol's messages:
arrays in, arrays out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from pilotfish.errors import InvalidArgument
from pilotfish_model_server.signature import Signature, TensorSpec, check_against_graph, parse_signature
from pilotfish_sidecar.decode.datatypes import DATATYPES, Array

__all__ = ["Model"]

log = logging.getLogger(__name__)

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    # scikit-learn's classifiers converted with ZipMap: given as a matrix, one column a class.
    "seq(map(int64,tensor(float)))": "FP32",
    "seq(map(string,tensor(float)))": "FP32",
}
_PROBE_ROWS: Final = (1, 64)
_PROBE_RUNS: Final = 5


class Model:
    """A loaded model.

    Args:
        graph: bytes of `model.onnx`.
        signature: bytes of `signature.json`; None derives it from the graph.
        directory: where tensors stored outside the graph's file are found.
        threads: onnxruntime's threads within one operator.

    Raises:
        InvalidArgument: the graph does not load, holds types outside the protocol, or disagrees with the
            signature.
    """

    def __init__(self, graph: bytes, signature: bytes | None, *, directory: Path, threads: int = 1) -> None:
        """Load and warm up."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(directory))
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InvalidArgument(f"model.onnx does not load: {error}") from error
        inputs = tuple(_spec(node) for node in self._session.get_inputs())
        outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._maps = frozenset(node.name for node in self._session.get_outputs() if node.type.startswith("seq("))
        self.signature = Signature(inputs, outputs)
        if signature is not None:
            said = parse_signature(signature)
            check_against_graph(said, inputs, outputs)
            self.signature = said
        self._base_s = 0.0
        self._row_s = 0.0
        self._warm_up()

    @property
    def input_names(self) -> list[str]:
        """Return the names of the graph's inputs."""
        return [spec.name for spec in self.signature.inputs]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs in the order asked for; thread-safe.

        Args:
            feeds: one array per input, of the graph's dtype.
            outputs: names of outputs.

        Raises:
            InvalidArgument: the graph refuses the arrays.
        """
        try:
            # Any: arrays, or lists of dicts for a ZipMap.
            values: Sequence[Any] = self._session.run(list(outputs), dict(feeds))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InvalidArgument(f"the model refused the inputs: {error}") from error
        return [
            self._matrix(value) if name in self._maps else np.asarray(value)
            for name, value in zip(outputs, values, strict=True)
        ]

    def estimate_s(self, rows: int) -> float:
        """Return about how long a run of that many rows takes, measured when the model was loaded."""
        return self._base_s + rows * self._row_s

    def _matrix(self, maps: list[dict[Any, float]]) -> Array:
        """Return ZipMap's list of {class: probability} as a matrix; the graph gives every class, in one order."""
        return np.array([list(row.values()) for row in maps], dtype=np.float32)

    def _warm_up(self) -> None:
        """Run made-up rows: sizes the arenas, learns the classes of a ZipMap, measures the cost."""
        names = [spec.name for spec in self.signature.outputs]
        costs: list[float] = []
        for rows in _PROBE_ROWS:
            feeds = {spec.name: _made_up(spec, rows) for spec in self.signature.inputs}
            try:
                values = self._session.run(names, feeds)
                runs = [self._timed(names, feeds) for _ in range(_PROBE_RUNS)]
            except Exception as error:  # a graph may refuse zeros: no reason to refuse the model
                log.info("no warm-up with %d rows of zeros: %s", rows, error)
                continue
            costs.append(sorted(runs)[len(runs) // 2])
            self._learn_classes(names, values)
        if len(costs) == len(_PROBE_ROWS):
            self._row_s = max(costs[1] - costs[0], 0.0) / (_PROBE_ROWS[1] - _PROBE_ROWS[0])
        # Unknown costs count as large: such a model runs in a thread.
        self._base_s = max(costs[0] - self._row_s, 0.0) if costs else 1.0

    def _timed(self, names: list[str], feeds: Mapping[str, Array]) -> float:
        begin = time.perf_counter()
        self._session.run(names, dict(feeds))
        return time.perf_counter() - begin

    def _learn_classes(self, names: list[str], values: Sequence[Any]) -> None:
        if self.signature.classes or not self._maps:
            return
        maps = next(value for name, value in zip(names, values, strict=True) if name in self._maps)
        classes = tuple(str(key) for key in maps[0])
        said = self.signature
        self.signature = Signature(said.inputs, said.outputs, said.feature_names, classes)


def _spec(node: Any) -> TensorSpec:  # Any: onnxruntime ships no types
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise InvalidArgument(f"the graph's tensor {node.name!r} is a {node.type}, which the protocol does not know")
    if node.type.startswith("seq("):
        return TensorSpec(node.name, datatype, (-1, -1))
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _made_up(spec: TensorSpec, rows: int) -> Array:
    shape = [size if size >= 0 else 1 for size in spec.shape]
    if spec.shape and spec.shape[0] == -1:
        shape[0] = rows
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, DATATYPES[spec.datatype].dtype)
