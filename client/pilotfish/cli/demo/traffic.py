"""Callers of the demo's endpoint: gRPC by the protocol's generated stub, and REST. They know nothing of pilotfish.

Owns what the callers saw: every id that was answered, every error. Nothing here shares code with the counters that
it is held against.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from pilotfish.cli.demo.data import DigitRows, Matrix
from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.oip import grpc_predict_v2_pb2_grpc as oip_grpc

__all__ = ["LateLabels", "Ledger", "LiveTraffic", "Sender"]

REST_EVERY = 4
TIMEOUT_S = 10.0


@dataclass(slots=True)
class Ledger:
    """What the callers got: the id and time of every answer, the truth that belongs to it, and every failure."""

    answered: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    truths: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, prediction_id: str, truth: int) -> None:
        """Note an answer."""
        with self.lock:
            self.answered.append(prediction_id)
            self.times.append(time.time())
            self.truths[prediction_id] = truth

    def failed(self, why: str) -> None:
        """Note a failure."""
        with self.lock:
            self.failures.append(why)


class Sender:
    """Sends rows one by one, three by gRPC and one by REST in turn."""

    def __init__(self, address: str, endpoint: str, ledger: Ledger, *, stage: str = "") -> None:
        """Connect to the gateway at host:port."""
        self._endpoint = endpoint
        self._ledger = ledger
        headers = [("pilotfish-endpoint", endpoint)] + ([("pilotfish-stage", stage)] if stage else [])
        self._headers = tuple(headers)
        self._channel = grpc.insecure_channel(address)
        self._stub = oip_grpc.GRPCInferenceServiceStub(self._channel)
        host, _, port = address.rpartition(":")
        self._rest = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        self._turn = 0

    def send(self, image: Matrix, truth: int) -> str:
        """Send one row; return its prediction id, empty when it failed."""
        self._turn += 1
        self._ledger.sent += 1
        wanted = uuid.uuid4().hex
        try:
            got = self._by_rest(wanted, image) if self._turn % REST_EVERY == 0 else self._by_grpc(wanted, image)
        except (grpc.RpcError, OSError, http.client.HTTPException, ValueError) as error:
            self._ledger.failed(f"{type(error).__name__}: {str(error)[:300]}")
            self._rest.close()
            return ""
        self._ledger.note(got, truth)
        return got

    def send_all(self, rows: DigitRows, progress: Callable[[int], None] | None = None) -> list[str]:
        """Send rows in order; return their ids."""
        found = []
        for i, (image, truth) in enumerate(zip(rows.images, rows.odd.tolist(), strict=True)):
            found.append(self.send(image, truth))
            if progress is not None:
                progress(i + 1)
        return found

    def _by_grpc(self, wanted: str, image: Matrix) -> str:
        request = oip.ModelInferRequest(model_name=self._endpoint, id=wanted)
        tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 64])
        tensor.contents.fp32_contents.extend(image.tolist())
        answer = self._stub.ModelInfer(request, timeout=TIMEOUT_S, metadata=self._headers)
        return str(answer.id)

    def _by_rest(self, wanted: str, image: Matrix) -> str:
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 64], "data": image.tolist()}
        body = json.dumps({"id": wanted, "inputs": [tensor]})
        headers = {"content-type": "application/json", **dict(self._headers)}
        self._rest.request("POST", f"/v2/models/{self._endpoint}/infer", body, headers)
        answer = self._rest.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {content[:200]!r}")
        return str(json.loads(content)["id"])

    def close(self) -> None:
        """Close both connections."""
        self._channel.close()
        self._rest.close()


class LiveTraffic:
    """Sends rows of a pool in random order without end, each row once per round, until stopped."""

    def __init__(self, sender: Sender, pool: DigitRows, seed: int, *, pause_s: float, limit: int = 20_000) -> None:
        """Send at most `limit` rows, `pause_s` seconds apart."""
        self._sender = sender
        self._pool = pool
        self._rng = np.random.default_rng(seed)
        self._pause_s = pause_s
        self._limit = limit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self.count = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the row that is being sent."""
        self._stop.set()
        self._thread.join(TIMEOUT_S * 2)

    def _run(self) -> None:
        while not self._stop.is_set():
            for i in self._rng.permutation(len(self._pool)):
                if self._stop.is_set() or self.count >= self._limit:
                    return
                self._sender.send(self._pool.images[i], int(self._pool.odd[i]))
                self.count += 1
                time.sleep(self._pause_s)


class LateLabels:
    """Logs the true values of answered rows, some time after the answers."""

    def __init__(self, log: Callable[[Sequence[str], Sequence[int]], None], ledger: Ledger, *, delay_s: float) -> None:
        """Log through `log(ids, truths)`, each row `delay_s` after its answer."""
        self._log = log
        self._ledger = ledger
        self._delay_s = delay_s
        self._done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Log what is left, then end."""
        self._stop.set()
        self._thread.join(60.0)

    def _run(self) -> None:
        while True:
            ended = self._stop.is_set()
            with self._ledger.lock:
                until = time.time() - (0.0 if ended else self._delay_s)
                ready = [
                    i
                    for i, t in zip(self._ledger.answered[self._done :], self._ledger.times[self._done :], strict=True)
                    if t <= until
                ]
                truths = [self._ledger.truths[i] for i in ready]
            if ready:
                self._send(ready, truths)
                self._done += len(ready)
            if ended:
                return
            time.sleep(0.1)

    def _send(self, ids: Sequence[str], truths: Sequence[int]) -> None:
        for attempt in range(60):
            try:
                self._log(ids, truths)
                return
            except Exception:
                # The control plane may just be away: labels are late anyway.
                if attempt == 59:
                    raise
                time.sleep(0.5)
