"""What the actions of rules do, each in the transaction that marks it done: the effect comes once.

Owns the five kinds. A target that is not named is taken from what triggered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotfish.errors import FailedPrecondition, InvalidArgument, Violation
from pilotfish_control_plane.deployments.model import Deployment
from pilotfish_control_plane.deployments.service import DeploymentService
from pilotfish_control_plane.monitoring.model import AlertKind, Severity
from pilotfish_control_plane.monitoring.service import MonitoringService
from pilotfish_control_plane.names import AlertName
from pilotfish_control_plane.storage.actions import Action
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.training.model import Delivery, TriggerCommand
from pilotfish_control_plane.training.service import TrainingService

__all__ = ["RuleActions"]

# Any: payloads and parameters are plain JSON.
Payload = Mapping[str, Any]


class RuleActions:
    """The actions that rules take."""

    def __init__(
        self,
        deployments: Callable[[], DeploymentService],
        monitoring: Callable[[], MonitoringService],
        training: Callable[[], TrainingService],
        delivery_from: Callable[[Mapping[str, Any]], Delivery | None],
    ) -> None:
        """Act through the other areas; `delivery_from` reads a delivery plan from JSON as the contract writes it."""
        self._deployments = deployments
        self._monitoring = monitoring
        self._training = training
        self._delivery_from = delivery_from

    def check(self, tx: Tx, project: str, kind: str, parameters: Payload) -> None:
        """Refuse an action whose named targets do not exist or whose parameters mean nothing."""
        if kind == "retrain_model" and parameters.get("pipeline"):
            self._training().get(tx, project, str(parameters["pipeline"]).rpartition("/")[2])
            self._delivery_from(_delivery(parameters))
        if kind == "update_traffic_allocation" and "weights" in parameters:
            _weights(parameters["weights"])
        if kind == "scale_deployment" and "replicas" in parameters:
            _replicas(parameters["replicas"])
        if kind == "send_alert":
            _severity(parameters)

    def retrain_model(self, tx: Tx, action: Action) -> Payload:
        """Start the pipeline named; its version is delivered as the parameters say."""
        payload, parameters = action.payload, action.payload["parameters"]
        kind = payload["kind"] if payload["kind"] in ("data_drift", "performance_degradation", "schedule") else "rule"
        reason = f"{payload['kind']} ({payload['evidence']}) by {payload['firing']}"
        command = TriggerCommand(
            str(parameters["pipeline"]).rpartition("/")[2], reason, kind, payload["project"],
            self._delivery_from(_delivery(parameters)),
        )  # fmt: skip
        return {"job": self._training().trigger(tx, command).name}

    def rollback_deployment(self, tx: Tx, action: Action) -> Payload:
        """Roll back the deployment named, or the one that triggered."""
        payload, parameters = action.payload, action.payload["parameters"]
        deployment = self._deployment(tx, payload)
        if not deployment.config.rollback.automatic:
            raise FailedPrecondition(f"{deployment.name} is rolled back by people only (rollback.automatic is false)")
        reason = str(parameters.get("reason") or f"{payload['kind']} by {payload['firing']}")
        found = self._deployments().rollback(tx, deployment.name, reason, payload["project"])
        restored = found.restored.name if found.restored is not None else ""
        return {"stopped": found.stopped.name, "restored": restored, "version": found.stopped.version}

    def scale_deployment(self, tx: Tx, action: Action) -> Payload:
        """Set the replicas of the deployment named, or of the one that triggered; "+1" and "-1" are relative."""
        payload = action.payload
        deployment = self._deployment(tx, payload)
        wanted, relative = _replicas(payload["parameters"]["replicas"])
        replicas = deployment.config.scaling.replicas + wanted if relative else wanted
        found = self._deployments().scale(tx, deployment.name, replicas, project=payload["project"])
        return {"deployment": found.name, "replicas": found.config.scaling.replicas}

    def send_alert(self, tx: Tx, action: Action) -> Payload:
        """Raise an alert; the firing is its episode."""
        payload, parameters = action.payload, action.payload["parameters"]
        message = str(parameters.get("message") or f"{payload['rule']} fired: {payload['kind']}")
        alert = self._monitoring().alerts.raise_alert(
            tx, AlertKind.RULE, _severity(parameters), project=payload["project"], endpoint=payload["endpoint"],
            deployment=payload["deployment"], summary=message, details={"rule": payload["rule"], **payload["details"]},
            episode=action.key,
        )  # fmt: skip
        return {"alert": str(AlertName(alert.project, alert.id))}

    def update_traffic_allocation(self, tx: Tx, action: Action) -> Payload:
        """Set the weights of the endpoint named, or of the one that triggered."""
        payload, parameters = action.payload, action.payload["parameters"]
        service, project = self._deployments(), payload["project"]
        name = str(parameters.get("endpoint") or payload["endpoint"]).rpartition("/")[2]
        # The table is written whole: shadows and stickiness, which the action does not speak of, stay.
        routes = service.endpoint(tx, project, name).routes
        found = service.set_traffic(
            tx, name, _weights(parameters["weights"]), routes.shadows, routes.sticky_header, project=project
        )
        return {"endpoint": found.name, "weights": dict(found.routes.weights)}

    def _deployment(self, tx: Tx, payload: Payload) -> Deployment:
        named = str(payload["parameters"].get("deployment") or "")
        service = self._deployments()
        if named:
            return service.find(tx, named, payload["project"])
        if not payload["deployment"]:
            raise InvalidArgument(
                "no deployment triggered this rule: name the target",
                violations=[Violation("parameters.deployment", "is not set")],
            )
        return service.get(tx, payload["deployment"])


def _delivery(parameters: Payload) -> Mapping[str, Any]:
    value = parameters.get("delivery") or {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(
            f"delivery is {value!r}", violations=[Violation("parameters.delivery", "must be a delivery plan")]
        )
    return value


def _weights(value: object) -> list[tuple[str, int]]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidArgument(
            "weights must map stages or deployments to basis points",
            violations=[Violation("parameters.weights", 'such as {"production": 9000, "canary": 1000}')],
        )
    found = []
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not float(weight).is_integer():
            raise InvalidArgument(
                f"the weight of {name} is {weight!r}, not a whole number of basis points",
                violations=[Violation(f"parameters.weights.{name}", "whole basis points, 0 to 10000")],
            )
        found.append((str(name), int(weight)))
    if sum(w for _, w in found) != 10_000:
        raise InvalidArgument(
            f"the weights sum to {sum(w for _, w in found)}, not 10000",
            violations=[Violation("parameters.weights", "must sum to 10000 basis points")],
        )
    return found


def _replicas(value: object) -> tuple[int, bool]:
    """Return (number, whether it is relative)."""
    relative = isinstance(value, str) and value[:1] in ("+", "-")
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = 0.5
        if number.is_integer() and (relative or 0 <= number <= 64):
            return int(number), relative
    raise InvalidArgument(
        f"replicas is {value!r}", violations=[Violation("parameters.replicas", 'a number 0 to 64, or "+1", "-1"')]
    )


def _severity(parameters: Payload) -> Severity:
    text = str(parameters.get("severity") or "warning").lower()
    if text not in {s.value for s in Severity}:
        allowed = ", ".join(s.value for s in Severity)
        raise InvalidArgument(
            f"unknown severity {text!r}", violations=[Violation("parameters.severity", f"is one of {allowed}")]
        )
    return Severity(text)
