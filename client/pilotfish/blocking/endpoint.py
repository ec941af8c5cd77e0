"""Predictions at an endpoint, through the gateway, by the Open Inference Protocol."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from pilotfish.blocking.calls import Calls
from pilotfish.blocking.delivery import Endpoints
from pilotfish.blocking.monitoring import Monitoring
from pilotfish.connection import CHANNEL_OPTIONS
from pilotfish.errors import Unavailable
from pilotfish.inference import Predictions, infer_request, read_answer, rows_of
from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from pilotfish.wire_errors import from_rpc_error, unreached

__all__ = ["Endpoint"]


class Endpoint:
    """A stable callable name."""

    def __init__(
        self, calls: Calls, name: str, endpoints: Endpoints, monitoring: Monitoring, stage: str, version: int
    ) -> None:
        """Use `client.endpoint(name)`."""
        self.name = name
        self._calls = calls
        self._endpoints = endpoints
        self._monitoring = monitoring
        self._channel: grpc.Channel | None = None
        self._metadata: oip.ModelMetadataResponse | None = None
        headers = [("pilotfish-endpoint", name)]
        headers += [("pilotfish-stage", stage)] if stage else []
        headers += [("pilotfish-version", str(version))] if version else []
        self._headers = tuple(headers)

    # Any: the generated stub's asynchronous type exists for type checkers only.
    def _stub(self) -> Any:
        if self._channel is None:
            endpoint = self._endpoints.get(self.name)
            address = endpoint.gateway_address or endpoint.address or self._calls.connection.gateway
            if not address:
                raise Unavailable(
                    f"no gateway serves {self.name}: is the node running, with `pilotfish[gateway]` installed?"
                )
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        return oip_grpc.GRPCInferenceServiceStub(self._channel)

    def metadata(self) -> oip.ModelMetadataResponse:
        """Return the model's tensors as its server tells them."""
        if self._metadata is not None:
            return self._metadata
        stub = self._stub()
        request = oip.ModelMetadataRequest(name=self.name)
        try:
            found: oip.ModelMetadataResponse = stub.ModelMetadata(
                request, metadata=self._headers, timeout=self._calls.timeout_s
            )
        except grpc.RpcError as error:
            raise unreached(from_rpc_error(error), f"the gateway of {self.name}") from None
        self._metadata = found
        return found

    # Any: a DataFrame, a mapping of columns, or a matrix.
    def predict(
        self, rows: Any, *, ids: Sequence[str] | None = None, batch_size: int = 1, timeout_s: float = 10.0
    ) -> Predictions:
        """Predict every row; each has an id by which its true value is logged later.

        Args:
            rows: a DataFrame (pandas or polars), a mapping of columns, or a matrix.
            ids: prediction ids, one per row; None: new ones.
            batch_size: rows per call; row i of a larger call has the id "{id of the call}/{i}".
            timeout_s: seconds per call.

        Raises:
            InvalidArgument: the rows do not fit the model.
            Unavailable: nobody serves the endpoint.
        """
        tensors = rows_of(rows, self.metadata())
        count = len(tensors[0][1])
        stub = self._stub()
        known: list[str] = []
        parts: list[dict[str, Any]] = []
        version, deployment = 0, ""
        for first in range(0, count, batch_size):
            last = min(first + batch_size, count)
            call_id = ids[first] if ids is not None else uuid.uuid4().hex
            request = infer_request(self.name, tensors, first, last, call_id)
            try:
                answer, call = stub.ModelInfer.with_call(request, metadata=self._headers, timeout=timeout_s)
                headers = dict(call.trailing_metadata() or ())
            except grpc.RpcError as error:
                raise unreached(from_rpc_error(error), f"the gateway of {self.name}") from None
            parts.append(read_answer(answer))
            version = int(headers.get("pilotfish-version", answer.model_version or 0) or 0)
            deployment = str(headers.get("pilotfish-deployment", ""))
            known += [call_id] if last - first == 1 else [f"{call_id}/{i}" for i in range(last - first)]
        outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} if parts else {}
        return Predictions(known, outputs, version, deployment)

    def log_truth(self, ids: Sequence[str], truths: Sequence[float | str] | Any) -> int:
        """Log true values by prediction id; they may come days later."""
        return self._monitoring.log_truth(ids, truths, scope=self.name)

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
