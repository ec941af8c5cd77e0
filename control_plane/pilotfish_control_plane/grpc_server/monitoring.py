"""MonitoringService on the wire, and the installation of monitoring: prediction log, ingest, quality watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from pilotfish.errors import InvalidArgument, NotFound, Violation
from pilotfish.v1 import common_pb2, monitoring_service_pb2_grpc
from pilotfish.v1 import monitoring_pb2 as pb
from pilotfish.v1 import monitoring_service_pb2 as svc
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.grpc_server import monitoring_wire as wire
from pilotfish_control_plane.grpc_server.prediction_columns import batch_from_wire, columns_to_wire, truths_from_wire
from pilotfish_control_plane.grpc_server.publish import Ingest
from pilotfish_control_plane.monitoring.direct import DirectLog
from pilotfish_control_plane.monitoring.model import AlertKind, AlertState, Severity
from pilotfish_control_plane.monitoring.quality import QualityWatch, Subject
from pilotfish_control_plane.monitoring.report import Facts, read_log, report_json
from pilotfish_control_plane.monitoring.service import DEFAULT_SPAN, MonitoringService
from pilotfish_control_plane.names import DEFAULT_PROJECT, EndpointName
from pilotfish_control_plane.prediction_log import PredictionLog
from pilotfish_control_plane.prediction_log.batches import TruthBatch
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import alerts as alert_rows
from pilotfish_control_plane.storage import monitoring as rows
from pilotfish_control_plane.storage.filter_sql import Kind, Scalar
from pilotfish_control_plane.storage.paging import Listing, PageRequest, fetch_page
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["MonitoringServicer", "install"]

REPORT_SPAN = timedelta(days=7)
EXPORT_ROWS = 2000

_ALERTS = alert_rows.alerts.c
ALERT_LISTING = Listing(
    key=Scalar(_ALERTS.number, Kind.NUMBER),
    fields={
        "endpoint": Scalar(_ALERTS.endpoint),
        "deployment": Scalar(_ALERTS.deployment),
        "kind": Scalar(_ALERTS.kind, choices={k.value: k.value for k in AlertKind}),
        "state": Scalar(_ALERTS.state, choices={s.value: s.value for s in AlertState}),
        "severity": Scalar(_ALERTS.severity, choices={s.value: s.value for s in Severity}),
    },
    orders={"number": Scalar(_ALERTS.number, Kind.NUMBER)},
    default_order="number desc",
)
_VERDICTS = rows.drift_verdicts.c
VERDICT_LISTING = Listing(
    key=Scalar(_VERDICTS.id, Kind.NUMBER),
    fields={},
    orders={"id": Scalar(_VERDICTS.id, Kind.NUMBER)},
    default_order="id desc",
)


def _span(request: common_pb2.TimeRange, now: datetime, default: timedelta) -> tuple[datetime, datetime]:
    end = request.end.ToDatetime(tzinfo=UTC) if request.HasField("end") else now
    start = request.start.ToDatetime(tzinfo=UTC) if request.HasField("start") else end - default
    if start >= end:
        raise InvalidArgument(
            f"the span is empty: {start.isoformat()} is not before {end.isoformat()}",
            violations=[Violation("range.start", "must be before range.end")],
        )
    return start, end


class MonitoringServicer(monitoring_service_pb2_grpc.MonitoringServiceServicer):
    """Checks and converts; the work is in `monitoring`."""

    def __init__(
        self,
        core: Core,
        service: MonitoringService,
        predictions: PredictionLog,
        direct: DirectLog,
        quality: QualityWatch,
    ) -> None:
        """Serve what these know."""
        self._core = core
        self._service = service
        self._predictions = predictions
        self._direct = direct
        self._quality = quality

    # The deployments that a name means, newest first.
    def _deployments(self, tx: Tx, name: str) -> list[Deployment]:
        deployments = self._core.services.get(DeploymentService)
        if "/deployments/" in name or ("/" in name and not name.startswith("projects/")):
            return [deployments.find(tx, name)]
        endpoint = (
            EndpointName.parse(name, "name") if name.startswith("projects/") else EndpointName(DEFAULT_PROJECT, name)
        )
        deployments.endpoint(tx, endpoint.project, endpoint.endpoint)
        return deployments.of_endpoint(tx, endpoint.project, endpoint.endpoint)

    async def LogPredictions(self, request: svc.LogPredictionsRequest, context: object) -> svc.LogPredictionsResponse:
        """See the contract."""
        deployment = await self._core.mutations.read(
            lambda tx: self._core.services.get(DeploymentService).find(tx, request.deployment)
        )
        now_us = int(self._core.clock.now().timestamp() * 1e6)
        batch = batch_from_wire(request.batch, now_us=now_us)
        stored = await self._direct.log_predictions(deployment, batch, request.request_id)
        return svc.LogPredictionsResponse(stored=stored)

    async def LogGroundTruth(self, request: svc.LogGroundTruthRequest, context: object) -> svc.LogGroundTruthResponse:
        """See the contract."""
        now_us = int(self._core.clock.now().timestamp() * 1e6)
        batch = truths_from_wire(request.batch, now_us=now_us)
        if request.scope:
            found = await self._core.mutations.read(lambda tx: self._deployments(tx, request.scope))
            batch = _within(batch, [d.id for d in found], request)
        await self._direct.log_truths(batch, request.request_id)
        return svc.LogGroundTruthResponse(stored=len(request.batch.prediction_ids))

    async def GetMetrics(self, request: svc.GetMetricsRequest, context: object) -> svc.GetMetricsResponse:
        """See the contract."""

        def read(tx: Tx) -> svc.GetMetricsResponse:
            start, end = _span(request.range, tx.now, DEFAULT_SPAN)
            found = [self._service.metrics(tx, d, start, end) for d in self._deployments(tx, request.name)]
            return svc.GetMetricsResponse(metrics=[wire.metrics_to_wire(m) for m in found])

        return await self._core.mutations.read(read)

    async def ListDriftVerdicts(
        self, request: svc.ListDriftVerdictsRequest, context: object
    ) -> svc.ListDriftVerdictsResponse:
        """See the contract."""

        def read(tx: Tx) -> svc.ListDriftVerdictsResponse:
            ids = [d.id for d in self._deployments(tx, request.name)]
            query = select(rows.drift_verdicts).where(_VERDICTS.deployment.in_(ids))
            if request.drifted_only:
                query = query.where(_VERDICTS.drifted.is_(True))
            asked = PageRequest(request.page_size, request.page_token, scope=f"{request.name}/{request.drifted_only}")
            page = fetch_page(tx.conn, query, VERDICT_LISTING, asked, rows.verdict_of)
            return svc.ListDriftVerdictsResponse(
                verdicts=[wire.verdict_to_wire(v) for v in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(read)

    async def GetReport(self, request: svc.GetReportRequest, context: object) -> svc.GetReportResponse:
        """See the contract."""
        facts = await self._core.mutations.read(lambda tx: self._facts(tx, request))
        ids = [d.id for d in facts.deployments]
        log = await asyncio.to_thread(read_log, self._predictions, ids, facts.start, facts.end)
        report = report_json(facts, log)
        message = wire.report_to_wire(report, list(facts.metrics), list(facts.alerts))
        return svc.GetReportResponse(report=message, report_json=json.dumps(report))

    def _facts(self, tx: Tx, request: svc.GetReportRequest) -> Facts:
        start, end = _span(request.range, tx.now, REPORT_SPAN)
        deployments = self._deployments(tx, request.endpoint)
        ids = [d.id for d in deployments]
        name = (
            EndpointName.parse(request.endpoint, "endpoint").endpoint if "/" in request.endpoint else request.endpoint
        )
        return Facts(
            endpoint=name,
            start=start,
            end=end,
            created=tx.now,
            model_information=self._model_information(tx, deployments),
            deployments=deployments,
            metrics=[self._service.metrics(tx, d, start, end) for d in deployments],
            verdicts=rows.verdicts_between(tx.conn, ids, start, end),
            alerts=alert_rows.alerts_between(tx.conn, ids, start, end),
        )

    # Any: plain JSON.
    def _model_information(self, tx: Tx, deployments: Sequence[Deployment]) -> dict[str, Any]:
        registry = self._core.services.get(RegistryService)
        versions: list[dict[str, Any]] = []
        for number in sorted({d.version for d in deployments}, reverse=True):
            try:
                v = registry.get_version(tx, deployments[0].project, deployments[0].model, number)
            except NotFound:
                continue
            versions.append(
                {
                    "version": v.number,
                    "label": v.label,
                    "status": v.status.value,
                    "framework": v.framework,
                    "metrics": dict(v.metrics),
                    "created": v.created_at.isoformat(),
                    "author": v.author,
                }
            )
        current = {d.stage.value: d.version for d in reversed(deployments) if not d.state.has_ended}
        return {"model": deployments[0].model if deployments else "", "versions": versions, "serving": current}

    async def ExportPredictions(
        self, request: svc.ExportPredictionsRequest, context: object
    ) -> AsyncIterator[svc.ExportPredictionsResponse]:
        """See the contract."""
        found = await self._core.mutations.read(lambda tx: self._deployments(tx, request.name))
        start = (
            int(request.range.start.ToDatetime(tzinfo=UTC).timestamp() * 1e6)
            if request.range.HasField("start")
            else None
        )
        end = int(request.range.end.ToDatetime(tzinfo=UTC).timestamp() * 1e6) if request.range.HasField("end") else None
        roles = tuple(sorted({max(0, r - 1) for r in request.roles})) or (0,)
        batches = self._predictions.query_batches([d.id for d in found], start, end, roles=roles, rows=EXPORT_ROWS)
        try:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                table = pa.Table.from_batches([batch])
                for deployment in dict.fromkeys(table["deployment"].to_pylist()):
                    part = table.filter(pc.equal(table["deployment"], deployment))
                    answer = _export_part(part, labelled_only=request.labelled_only)
                    if answer.batch.prediction_ids:
                        yield answer
        finally:
            await asyncio.to_thread(batches.close)  # type: ignore[attr-defined]  # it is a generator

    async def ListAlerts(self, request: svc.ListAlertsRequest, context: object) -> svc.ListAlertsResponse:
        """See the contract."""

        def read(tx: Tx) -> svc.ListAlertsResponse:
            query = select(alert_rows.alerts).where(_ALERTS.project == (request.project or DEFAULT_PROJECT))
            asked = PageRequest(request.page_size, request.page_token, request.filter, scope=request.project)
            page = fetch_page(tx.conn, query, ALERT_LISTING, asked, alert_rows.alert_from)
            return svc.ListAlertsResponse(
                alerts=[wire.alert_to_wire(a) for a in page.items], next_page_token=page.next_page_token
            )

        return await self._core.mutations.read(read)

    async def AcknowledgeAlert(
        self, request: svc.AcknowledgeAlertRequest, context: object
    ) -> svc.AcknowledgeAlertResponse:
        """See the contract."""
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.AcknowledgeAlertResponse(
                alert=wire.alert_to_wire(self._service.alerts.acknowledge(tx, request.name, request.note))
            ),
        )

    async def SilenceAlert(self, request: svc.SilenceAlertRequest, context: object) -> svc.SilenceAlertResponse:
        """See the contract."""
        until = request.until.ToDatetime(tzinfo=UTC)
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.SilenceAlertResponse(
                alert=wire.alert_to_wire(self._service.alerts.silence(tx, request.name, until))
            ),
        )


def _within(batch: TruthBatch, deployments: Sequence[str], request: svc.LogGroundTruthRequest) -> TruthBatch:
    """Return truths that can only meet predictions of these deployments: the scope is what the role was checked for.

    Raises:
        InvalidArgument: the batch names a deployment outside them.
    """
    named = request.batch.deployment
    if named and named not in deployments:
        text = f"{named} is not within {request.scope}"
        raise InvalidArgument(text, violations=[Violation("batch.deployment", text)])
    if named:
        return batch
    each = len(deployments)
    return TruthBatch(
        [ident for ident in batch.prediction_ids for _ in range(each)],
        [value for value in batch.values for _ in range(each)],
        np.repeat(batch.times_us, each),
        [*deployments] * len(batch),
    )


def _export_part(table: pa.Table, *, labelled_only: bool) -> svc.ExportPredictionsResponse:
    """Return rows of one deployment in the wire's form."""
    if labelled_only:
        known = pc.or_(pc.is_valid(table["truth"]), pc.is_valid(table["truth_text"]))
        table = table.filter(known)
    if not table.num_rows:
        return svc.ExportPredictionsResponse()
    inputs = {n.removeprefix("input."): table[n].to_numpy() for n in table.column_names if n.startswith("input.")}
    outputs = {n.removeprefix("output."): table[n].to_numpy() for n in table.column_names if n.startswith("output.")}
    latency = pc.fill_null(table["latency_us"], -1).to_numpy()
    first = table.slice(0, 1).to_pylist()[0]
    batch = pb.PredictionBatch(
        deployment=first["deployment"],
        replica=first["replica"],
        endpoint=first["endpoint"],
        model=first["model"],
        version=first["version"],
        prediction_ids=table["prediction_id"].to_pylist(),
        times_us=table["time"].to_numpy().astype("datetime64[us]").astype(np.int64),
        latencies_us=latency.astype(np.int64),
        roles=[r + 1 for r in table["role"].to_pylist()],
        codes=table["code"].to_pylist(),
        columns=columns_to_wire(pb.COLUMN_GROUP_INPUT, inputs) + columns_to_wire(pb.COLUMN_GROUP_OUTPUT, outputs),
    )
    pairs = zip(table["truth"].to_pylist(), table["truth_text"].to_pylist(), strict=True)
    truths = [text if text is not None else "" if number is None else f"{number:.17g}" for number, text in pairs]
    return svc.ExportPredictionsResponse(
        batch=batch, truths=truths, attempts=table["attempts"].to_pylist(), conflicts=table["conflict"].to_pylist()
    )


def install(core: Core) -> Installed:
    """Open the prediction log and offer monitoring, ingest and the log to the other areas."""
    predictions = core.services.add(PredictionLog.open(core.paths.predictions, clock=core.clock))

    def deployment_of(tx: Tx, deployment: str) -> Deployment:
        return core.services.get(DeploymentService).get(tx, deployment)

    def profile_of(tx: Tx, deployment: Deployment) -> tuple[str, str] | None:
        registry = core.services.get(RegistryService)
        version = registry.get_version(tx, deployment.project, deployment.model, deployment.version)
        return registry.profile(tx, version) or rows.learned_profile(tx.conn, deployment.id)

    def on_learned(tx: Tx, deployment: str) -> None:
        core.services.get(DeploymentService).touch_learned(tx, deployment)

    def live(tx: Tx) -> list[Subject]:
        registry = core.services.get(RegistryService)
        found = []
        for deployment in core.services.get(DeploymentService).live_everywhere(tx):
            try:
                version = registry.get_version(tx, deployment.project, deployment.model, deployment.version)
            except NotFound:
                continue
            signature = dict(version.signature)
            classes = tuple(str(c) for c in signature.get("classes", ()))
            found.append(Subject(deployment.id, signature.get("label_output"), classes))
        return found

    service = core.services.add(MonitoringService(deployment_of, profile_of, on_learned))
    quality = QualityWatch(core.db, predictions, service, core.clock, live)
    core.services.add(Ingest(core.db, predictions, service, quality, core.clock))
    direct = core.services.add(DirectLog(core.db, predictions, service, quality, core.clock, profile_of))
    servicer = MonitoringServicer(core, service, predictions, direct, quality)
    return Installed(
        servicers=[(monitoring_service_pb2_grpc.add_MonitoringServiceServicer_to_server, servicer)],
        background=[quality],
        close=predictions.close,
    )
