"""Predictions logged straight to the control plane, truths, live metrics, drift, reports, alerts, export."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from pilotfish.aio.calls import Calls
from pilotfish.frames import PredictionRows, batch_from_rows, rows_from_batch
from pilotfish.messages import timestamp
from pilotfish.v1 import common_pb2
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish.v1 import monitoring_service_pb2 as svc
from pilotfish.v1 import monitoring_service_pb2_grpc as svc_grpc

__all__ = ["Monitoring"]

STUB = svc_grpc.MonitoringServiceStub


def _range(start: datetime | None, end: datetime | None) -> common_pb2.TimeRange | None:
    if start is None and end is None:
        return None
    return common_pb2.TimeRange(start=timestamp(start), end=timestamp(end))


class Monitoring:
    """What deployments do, and how well."""

    def __init__(self, calls: Calls, project: str) -> None:
        """Use `client.monitoring`."""
        self._calls = calls
        self._project = project

    # Any: values of features and outputs, as the model has them.
    async def log_prediction(
        self,
        deployment: str,
        inputs: Mapping[str, Any],
        prediction: Mapping[str, Any] | float | int | str,
        *,
        ground_truth: float | str | None = None,
        prediction_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        time: datetime | None = None,
    ) -> str:
        """Log one prediction, durable before the answer; return its id."""
        output = prediction if isinstance(prediction, Mapping) else {"label": prediction}
        ids = await self.log_predictions(
            deployment,
            {k: [v] for k, v in inputs.items()},
            {k: [v] for k, v in output.items()},
            prediction_ids=[prediction_id] if prediction_id else None,
            metadata=[metadata] if metadata is not None else None,
            times=[time] if time is not None else None,
        )
        if ground_truth is not None:
            await self.log_truth(ids, [ground_truth], scope=deployment)
        return ids[0]

    async def log_predictions(
        self,
        deployment: str,
        inputs: Any,
        predictions: Any,
        *,
        prediction_ids: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        times: Sequence[datetime] | None = None,
    ) -> list[str]:
        """Log predictions of a deployment that no sidecar sees, such as batch scoring; return their ids.

        Args:
            deployment: "{endpoint}/{stage}" or a full name.
            inputs: a DataFrame or a mapping of columns.
            predictions: a DataFrame, a mapping of columns, or one column, which is called `label`.
            prediction_ids: one per row; None: new ones.
            metadata: a JSON object per row.
            times: one per row; None: now.

        Raises:
            InvalidArgument: every bad column.
        """
        batch = batch_from_rows(inputs, predictions, prediction_ids, metadata, times)
        request = svc.LogPredictionsRequest(deployment=deployment, batch=batch)
        await self._calls.unary(STUB, "LogPredictions", request)
        return list(batch.prediction_ids)

    async def log_truth(
        self,
        ids: Sequence[str],
        truths: Sequence[float | str] | Any,
        *,
        scope: str = "",
        times: Sequence[datetime] | None = None,
    ) -> int:
        """Log true values by prediction id, durable before the answer; return how many.

        Args:
            ids: prediction ids.
            truths: one per id: numbers or class names.
            scope: an endpoint or deployment; "": any that knows the ids.
            times: when each truth was known; None: now.
        """
        values = np.asarray(truths).tolist()
        batch = pb.GroundTruthBatch(prediction_ids=list(ids))
        if values and isinstance(values[0], str):
            batch.labels.extend(str(v) for v in values)
        else:
            batch.values.extend(float(v) for v in values)
        if times is not None:
            batch.times_us.extend(int(t.timestamp() * 1e6) for t in times)
        request = svc.LogGroundTruthRequest(scope=scope, batch=batch)
        answer: svc.LogGroundTruthResponse = await self._calls.unary(STUB, "LogGroundTruth", request)
        return answer.stored

    async def metrics(
        self, name: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> list[pb.DeploymentMetrics]:
        """Return live numbers of a deployment, or of all of an endpoint; the last hour by default."""
        request = svc.GetMetricsRequest(name=name, range=_range(start, end))
        answer: svc.GetMetricsResponse = await self._calls.unary(STUB, "GetMetrics", request)
        return list(answer.metrics)

    async def drift(self, name: str, *, drifted_only: bool = False, limit: int = 50) -> list[pb.DriftVerdict]:
        """Return the newest drift verdicts, newest first."""
        request = svc.ListDriftVerdictsRequest(name=name, drifted_only=drifted_only, page_size=limit)
        answer: svc.ListDriftVerdictsResponse = await self._calls.unary(STUB, "ListDriftVerdicts", request)
        return list(answer.verdicts)

    async def report(
        self, endpoint: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> dict[str, Any]:
        """Return the monitoring report of an endpoint as JSON; the last 7 days by default."""
        request = svc.GetReportRequest(endpoint=endpoint, range=_range(start, end))
        answer: svc.GetReportResponse = await self._calls.unary(STUB, "GetReport", request)
        found: dict[str, Any] = json.loads(answer.report_json)
        return found

    async def export(
        self,
        name: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        labelled_only: bool = False,
    ) -> AsyncIterator[PredictionRows]:
        """Yield the prediction log in parts; `pilotfish.frames.to_pandas` joins them."""
        request = svc.ExportPredictionsRequest(name=name, range=_range(start, end), labelled_only=labelled_only)
        async for answer in self._calls.stream(STUB, "ExportPredictions", request):
            yield rows_from_batch(answer)

    async def alerts(self, *, filter: str = "", limit: int = 1000) -> list[pb.Alert]:
        """Return alerts, newest first."""
        request = svc.ListAlertsRequest(project=self._project, filter=filter, page_size=limit)
        answer: svc.ListAlertsResponse = await self._calls.unary(STUB, "ListAlerts", request)
        return list(answer.alerts)

    async def acknowledge(self, alert: str, *, note: str = "") -> pb.Alert:
        """Note that somebody takes care of an alert."""
        request = svc.AcknowledgeAlertRequest(name=alert, note=note)
        answer: svc.AcknowledgeAlertResponse = await self._calls.unary(STUB, "AcknowledgeAlert", request)
        return answer.alert

    async def silence(self, alert: str, until: datetime) -> pb.Alert:
        """Tell nobody about an alert again before a time."""
        request = svc.SilenceAlertRequest(name=alert, until=timestamp(until))
        answer: svc.SilenceAlertResponse = await self._calls.unary(STUB, "SilenceAlert", request)
        return answer.alert
