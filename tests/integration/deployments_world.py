"""What tests of deployment calls share."""

from __future__ import annotations

from typing import Any

from pilotfish.v1 import deployment_pb2 as pb

DEV, STAGING = pb.STAGE_DEVELOPMENT, pb.STAGE_STAGING
CANARY, PRODUCTION = pb.STAGE_CANARY, pb.STAGE_PRODUCTION
READY, STOPPED = pb.DEPLOYMENT_STATE_READY, pb.DEPLOYMENT_STATE_STOPPED


def fields(error: Any) -> list[str]:
    return [v.field for v in error.violations]
