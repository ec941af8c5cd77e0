"""Probes of a model server and the rule that turns them into a verdict. The rule is pure; the probe is one call."""

from __future__ import annotations

import grpc

from pilotfish.oip import grpc_predict_v2_pb2 as oip
from pilotfish.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from pilotfish_node.model import HealthCheck, Probe, ReplicaState

__all__ = ["count_probe", "judge", "probe_model"]


def count_probe(probe: Probe, *, passed: bool) -> Probe:
    """Return the probes in a row after one more; a change of sign starts again."""
    return Probe(probe.passed + 1, 0) if passed else Probe(0, probe.failed + 1)


def judge(state: ReplicaState, probe: Probe, check: HealthCheck) -> ReplicaState:
    """Return how the replica stands after its newest probe."""
    if probe.failed >= check.failure_threshold and state is ReplicaState.READY:
        return ReplicaState.UNHEALTHY
    if probe.passed >= check.success_threshold and state in (ReplicaState.STARTING, ReplicaState.UNHEALTHY):
        return ReplicaState.READY
    return state


async def probe_model(channel: grpc.aio.Channel, model: str, *, timeout_s: float) -> str:
    """Ask the server whether the model is ready; return why it is not, or an empty text."""
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    try:
        answer = await stub.ModelReady(oip.ModelReadyRequest(name=model), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "" if answer.ready else "the model server says that the model is not ready"
