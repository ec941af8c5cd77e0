"""The client: one handle per area, over one channel."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from pilotfish.blocking.automation import Lifecycle
from pilotfish.blocking.calls import Calls
from pilotfish.blocking.delivery import Deployments, Endpoints
from pilotfish.blocking.endpoint import Endpoint
from pilotfish.blocking.monitoring import Monitoring
from pilotfish.blocking.operations import Access, Events, Fleet, Operations
from pilotfish.blocking.registry import Models
from pilotfish.blocking.training import Experiments, Features, Pipelines
from pilotfish.connection import find_connection

__all__ = ["Client"]


class Client:
    """pilotfish from Python.

        with Client() as client:
            version = client.models.register("model.onnx", model="fraud")
            client.deployments.deploy("fraud@1", stage="staging")
            answer = client.endpoint("fraud").predict(rows)

    Args:
        address: host:port of the control plane; None: PILOTFISH_ADDRESS, then what `pilotfish up` started here.
        token: bearer token; None: PILOTFISH_TOKEN, then the token file that `pilotfish up` wrote.
        home: PILOTFISH_HOME of a control plane on this machine.
        project: project of everything that is named without one.
        timeout_s: seconds for each call that sets none.
        ca_file: PEM file of the authority that signed the server's certificate; None: PILOTFISH_CA_FILE, then no TLS.
        cert_file: PEM file of the caller's own certificate, for mutual TLS; None: PILOTFISH_CERT_FILE.
        key_file: PEM file of its key; None: PILOTFISH_KEY_FILE.

    Errors are the exceptions of `pilotfish.errors`; grpc's never reach the caller.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        home: str | Path | None = None,
        project: str = "default",
        timeout_s: float = 30.0,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
    ) -> None:
        """Find the control plane; nothing is opened before the first call."""
        self.connection = find_connection(
            address, token, home=home, ca_file=ca_file, cert_file=cert_file, key_file=key_file
        )
        self.project = project
        self._home = home
        self._calls = Calls(self.connection, timeout_s=timeout_s)
        self._endpoints: dict[str, Endpoint] = {}
        self.models = Models(self._calls, project)
        self.endpoints = Endpoints(self._calls, project)
        self.deployments = Deployments(self._calls, project)
        self.pipelines = Pipelines(self._calls, project)
        self.features = Features(self._calls, project)
        self.experiments = Experiments(self._calls, project)
        self.monitoring = Monitoring(self._calls, project)
        self.lifecycle = Lifecycle(self._calls, project)
        self.access = Access(self._calls, project)
        self.events = Events(self._calls, project)
        self.fleet = Fleet(self._calls, project)
        self.operations = Operations(self._calls, project)

    def endpoint(self, name: str, *, stage: str = "", version: int = 0) -> Endpoint:
        """Return a handle that predicts at an endpoint through the gateway.

        Args:
            name: the endpoint's id.
            stage: past the weights, to the deployment of a stage: how staging gets its trial traffic.
            version: past the weights, to the deployment of a version.
        """
        key = f"{name}/{stage}/{version}"
        if key not in self._endpoints:
            self._endpoints[key] = Endpoint(self._calls, name, self.endpoints, self.monitoring, stage, version)
        return self._endpoints[key]

    def close(self) -> None:
        """Close every channel."""
        for endpoint in self._endpoints.values():
            endpoint.close()
        self._calls.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
