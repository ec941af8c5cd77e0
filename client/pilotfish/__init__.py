"""pilotfish: machine-learning models in production as products with a whole life.

    from pilotfish import Client

    with Client() as client:
        client.models.register("model.onnx", model="fraud")
        client.deployments.deploy("fraud@1", stage="staging")
        answer = client.endpoint("fraud", stage="staging").predict(rows)
        client.endpoint("fraud").log_truth(answer.ids, truths)

Names are loaded when they are used, so that `import pilotfish.stats` needs numpy alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotfish.aio.client import AsyncClient
    from pilotfish.blocking.client import Client
    from pilotfish.errors import PilotfishError
    from pilotfish.inference import Predictions

__all__ = ["AsyncClient", "Client", "PilotfishError", "Predictions", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "pilotfish.aio.client",
    "Client": "pilotfish.blocking.client",
    "PilotfishError": "pilotfish.errors",
    "Predictions": "pilotfish.inference",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pilotfish' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
