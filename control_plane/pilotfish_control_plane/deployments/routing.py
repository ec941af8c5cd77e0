"""The live traffic of an endpoint: every change of its route table.

Owns that weights sum to exactly 10000 or to nothing, and that a change raises the table's generation and the
gateway's in the same transaction.
"""

from __future__ import annotations

import dataclasses

from pilotfish.errors import Aborted, FailedPrecondition, InvalidArgument
from pilotfish_control_plane.deployments import changes
from pilotfish_control_plane.deployments.commands import SetTrafficCommand
from pilotfish_control_plane.deployments.model import FULL_WEIGHT_BP, Deployment, Endpoint, Shadow, Stage
from pilotfish_control_plane.deployments.rules import traffic
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.storage.types import JsonObject

__all__ = ["heir_of", "leave_traffic", "put", "routes_json", "set_traffic", "set_weights"]


def routes_json(endpoint: Endpoint) -> JsonObject:
    """Return the route table as plain JSON, for events and audit."""
    routes = endpoint.routes
    return {
        "generation": routes.generation,
        "weights": dict(routes.weights),
        "shadows": {s.deployment: s.fraction_bp for s in routes.shadows},
        "sticky_header": routes.sticky_header,
    }


def put(
    tx: Tx,
    endpoint: Endpoint,
    cause: str,
    *,
    weights: traffic.Weights | None = None,
    shadows: tuple[Shadow, ...] | None = None,
    sticky_header: str | None = None,
) -> Endpoint:
    """Write the given parts of the route table, if they change anything; return the endpoint.

    Raises:
        ValueError: the weights sum to something else than 10000 and are not empty: a bug of the caller.
    """
    routes = endpoint.routes
    weights = routes.weights if weights is None else tuple(sorted((d, w) for d, w in weights if w))
    if weights and sum(w for _, w in weights) != FULL_WEIGHT_BP:
        raise ValueError(f"weights {weights} of {endpoint.name} do not sum to {FULL_WEIGHT_BP}")
    changed = dataclasses.replace(
        routes,
        weights=weights,
        shadows=routes.shadows if shadows is None else shadows,
        sticky_header=routes.sticky_header if sticky_header is None else sticky_header,
    )
    if changed == routes:
        return endpoint
    changed = dataclasses.replace(changed, generation=routes.generation + 1, updated=tx.now)
    moved = changes.save_endpoint(tx, endpoint, routes=changed)
    changes.touch_node(tx)
    for deployment in {d for d, _ in routes.weights + weights}:
        changes.wake_deployment(tx, deployment)
    tx.emit("traffic.changed", endpoint.name, {**routes_json(moved), "cause": cause, "actor": tx.actor.name})
    return moved


def set_weights(tx: Tx, endpoint: Endpoint, weights: traffic.Weights, cause: str) -> Endpoint:
    """Set the live weights; return the endpoint."""
    return put(tx, endpoint, cause, weights=weights)


def heir_of(tx: Tx, endpoint: Endpoint, gone: str) -> str | None:
    """Return who gets the share of a deployment that leaves: production if it serves, else the canary; None: nobody."""
    slots = rows.slots_of(tx.conn, endpoint.project, endpoint.id)
    for stage in (Stage.PRODUCTION, Stage.CANARY):
        held = slots.get(stage)
        if held is not None and held.id != gone and held.state.serves:
            return held.id
    return None


def leave_traffic(tx: Tx, deployment: Deployment, cause: str) -> None:
    """Take a deployment's weight and shadow away; its share goes to whoever serves the endpoint best."""
    endpoint = endpoint_rows.endpoint(tx.conn, deployment.project, deployment.endpoint)
    if endpoint is None:
        return
    weights = endpoint.routes.weights
    if endpoint.routes.weight_bp(deployment.id):
        weights = traffic.without(weights, deployment.id, heir_of(tx, endpoint, deployment.id))
    shadows = tuple(s for s in endpoint.routes.shadows if s.deployment != deployment.id)
    put(tx, endpoint, cause, weights=weights, shadows=shadows)


def set_traffic(tx: Tx, endpoint: Endpoint, command: SetTrafficCommand) -> Endpoint:
    """Write the whole table as a caller asks; return the endpoint.

    Raises:
        InvalidArgument: sum, negatives, unknown or ended targets, a bad header; names every problem.
        Aborted: the etag is not the table's.
        FailedPrecondition: a rollout owns the weights.
    """
    open_ones = rows.open_deployments(tx.conn, endpoint.project, endpoint.id)
    slots = rows.slots_of(tx.conn, endpoint.project, endpoint.id)
    targets = {d.id: d for d in open_ones} | {s.value: d for s, d in slots.items()}
    problems = traffic.weight_problems(command.weights, targets)
    problems += traffic.shadow_problems(command.shadows, targets)
    problems += traffic.sticky_problems(command.sticky_header)
    if problems:
        raise InvalidArgument(
            f"the traffic of {endpoint.id} cannot be set so: {problems[0].description}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""),
            reason="TRAFFIC",
            violations=problems,
        )
    if command.etag and command.etag != endpoint.routes.etag:
        raise Aborted(
            f"the route table of {endpoint.id} changed meanwhile: read it again and repeat",
            reason="ETAG",
            metadata={"etag": endpoint.routes.etag},
        )
    weights = tuple((targets[w].id, bp) for w, bp in command.weights)
    if endpoint.open_rollout and traffic.changed_weights(endpoint.routes, weights):
        raise FailedPrecondition(
            f"rollout {endpoint.open_rollout} owns the weights of {endpoint.id}: abort it first, or wait for its end",
            reason="ROLLOUT_OWNS_WEIGHTS",
            metadata={"rollout": endpoint.open_rollout},
        )
    before = routes_json(endpoint)
    shadows = tuple(Shadow(targets[s.deployment].id, s.fraction_bp) for s in command.shadows)
    changed = put(tx, endpoint, "set by hand", weights=weights, shadows=shadows, sticky_header=command.sticky_header)
    tx.audit("SetTraffic", endpoint.name, before, routes_json(changed))
    return changed
