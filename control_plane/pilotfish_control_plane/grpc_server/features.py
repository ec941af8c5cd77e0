"""FeatureService on the wire."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import feature_service_pb2 as svc
from pilotfish.v1 import feature_service_pb2_grpc
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.features.model import FeatureSet
from pilotfish_control_plane.features.service import FeatureService
from pilotfish_control_plane.grpc_server.training_wire import plain, struct
from pilotfish_control_plane.names import DEFAULT_PROJECT, FeatureSetName
from pilotfish_control_plane.storage.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["FeatureServicer", "install"]


def _name(text: str) -> FeatureSetName:
    return FeatureSetName.parse(text, "name") if "/" in text else FeatureSetName(DEFAULT_PROJECT, text)


class FeatureServicer(feature_service_pb2_grpc.FeatureServiceServicer):
    """Checks and converts; the work is in `features`."""

    def __init__(self, core: Core, service: FeatureService) -> None:
        """Serve `service`."""
        self._core = core
        self._service = service

    async def PutFeatureSet(self, request: svc.PutFeatureSetRequest, context: Any) -> svc.PutFeatureSetResponse:
        """See the contract."""
        steps = []
        for t in request.feature_set.transformations:
            # Always there, so that what is wrong or missing in them is told with the wire's own path.
            step: dict[str, Any] = {"type": t.type, "method": t.method, "parameters": plain(t.parameters)}
            if t.columns:
                step["columns"] = list(t.columns)
            steps.append(step)
        definition = {"transformations": steps}
        return await self._core.mutations.mutate(
            request,
            lambda tx: svc.PutFeatureSetResponse(
                feature_set=_to_wire(
                    self._service.put(
                        tx,
                        request.project or DEFAULT_PROJECT,
                        request.feature_set_id,
                        definition,
                        request.feature_set.description,
                    )
                )
            ),
        )

    async def GetFeatureSet(self, request: svc.GetFeatureSetRequest, context: Any) -> svc.GetFeatureSetResponse:
        """See the contract."""
        name = _name(request.name)
        return await self._core.mutations.read(
            lambda tx: svc.GetFeatureSetResponse(
                feature_set=_to_wire(self._service.get(tx, name.project, name.feature_set, request.revision))
            )
        )

    async def ListFeatureSets(self, request: svc.ListFeatureSetsRequest, context: Any) -> svc.ListFeatureSetsResponse:
        """See the contract."""
        project = request.project or DEFAULT_PROJECT
        if request.page_size < 0:
            raise InvalidArgument(
                "the page size cannot be used", violations=[Violation("page_size", "must not be negative")]
            )
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)

        def read(tx: Tx) -> svc.ListFeatureSetsResponse:
            found = [f for f in self._service.list_newest(tx, project) if f.id > request.page_token]
            token = found[size - 1].id if len(found) > size else ""
            return svc.ListFeatureSetsResponse(feature_sets=[_to_wire(f) for f in found[:size]], next_page_token=token)

        return await self._core.mutations.read(read)

    async def ListFeatureStatistics(
        self, request: svc.ListFeatureStatisticsRequest, context: Any
    ) -> svc.ListFeatureStatisticsResponse:
        """See the contract."""
        name = _name(request.name)

        def read(tx: Tx) -> svc.ListFeatureStatisticsResponse:
            answer = svc.ListFeatureStatisticsResponse()
            for job, revision, statistics, at in self._service.statistics(tx, name.project, name.feature_set):
                entry = answer.statistics.add(job=job, revision=revision)
                entry.statistics.update(statistics)
                entry.create_time.FromDatetime(at)
            return answer

        return await self._core.mutations.read(read)


def _to_wire(found: FeatureSet) -> svc.FeatureSet:
    created = Timestamp()
    created.FromDatetime(found.created)
    message = svc.FeatureSet(
        name=found.name,
        revision=found.revision,
        description=found.description,
        create_time=created,
        author=found.author,
    )
    for step in found.definition.get("transformations", ()):
        parameters = step.get("parameters")
        message.transformations.add(
            type=step["type"],
            method=step["method"],
            columns=step.get("columns", ()),
            parameters=struct(parameters) if parameters else None,
        )
    return message


def install(core: Core) -> Installed:
    """Offer the feature store to the other areas."""
    service = core.services.add(FeatureService())
    return Installed(
        servicers=[(feature_service_pb2_grpc.add_FeatureServiceServicer_to_server, FeatureServicer(core, service))]
    )
