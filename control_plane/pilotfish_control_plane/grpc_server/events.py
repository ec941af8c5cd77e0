"""EventService on the wire: the event log as a stream that can be resumed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import json_format

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.v1 import event_service_pb2 as pb
from pilotfish.v1 import event_service_pb2_grpc
from pilotfish_control_plane.core import Core, Installed
from pilotfish_control_plane.events.service import Selection, follow
from pilotfish_control_plane.grpc_server.roles import DEFAULT_PROJECT
from pilotfish_control_plane.storage.events import Event, project_of

__all__ = ["EventServicer", "install"]

ALL_PROJECTS = "-"


class EventServicer(event_service_pb2_grpc.EventServiceServicer):
    """Converts; `events.service` follows the log."""

    def __init__(self, core: Core) -> None:
        """Follow the log of `core`."""
        self._core = core

    # Any: grpc's context of whatever method this is.
    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        """Yield events as they are committed, and a token now and then when there are none."""
        project = project_of(request.project) or request.project or DEFAULT_PROJECT
        selection = Selection(
            tuple(request.kinds), request.subject_prefix, None if project == ALL_PROJECTS else project
        )
        after = _position(request.resume_token)
        async for found in follow(self._core.db, after, selection, sweep_s=self._core.settings.sweep_s):
            for event in found.events:
                yield pb.WatchResponse(event=_event(event), resume_token=str(event.seq))
            if not found.events or found.position > found.events[-1].seq:
                yield pb.WatchResponse(resume_token=str(found.position))


def _position(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) <= 18):
        raise InvalidArgument(
            f"resume_token {token!r} is none of this server: give the last one received, "
            '"0" for the beginning, or none for what happens from now on',
            violations=[Violation("resume_token", "not a token of this server")],
        )
    return int(token)


def _event(event: Event) -> pb.Event:
    message = pb.Event(sequence=event.seq, kind=event.kind, subject=event.subject, actor=event.actor)
    message.time.FromDatetime(event.time)
    json_format.ParseDict(dict(event.payload), message.payload)
    return message


def install(core: Core) -> Installed:
    """Add EventService."""
    return Installed(servicers=[(event_service_pb2_grpc.add_EventServiceServicer_to_server, EventServicer(core))])
