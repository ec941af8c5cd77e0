"""The gateway's routes as Envoy resources, by hand-worked cases."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pilotfish_node import envoy_config
from pilotfish_node.health import count_probe, judge
from pilotfish_node.model import (
    DeploymentRoute,
    EndpointRoute,
    GatewaySpec,
    GatewayView,
    HealthCheck,
    Probe,
    ReplicaAddress,
    ReplicaState,
    Shadow,
)
from pilotfish_node.replicas import backoff_s

ENDPOINT = EndpointRoute(
    "fraud",
    7500,
    (("d1", 9000), ("d2", 1000)),
    (Shadow("d3", 5000),),
    "x-user",
    (
        DeploymentRoute("d1", "production", 1, ("r1",)),
        DeploymentRoute("d2", "canary", 2, ("r2",)),
        DeploymentRoute("d3", "staging", 3, ()),
    ),
)


def view(endpoint: EndpointRoute = ENDPOINT) -> GatewayView:
    addresses = (
        ("r1", ReplicaAddress("127.0.0.1:1", "127.0.0.1:2")),
        ("r2", ReplicaAddress("127.0.0.1:3", "127.0.0.1:4")),
    )
    return GatewayView(GatewaySpec(3, 7435, (endpoint,)), 7435, (("fraud", 7500),), addresses)


def table(name: str, endpoint: EndpointRoute = ENDPOINT) -> list[dict[str, Any]]:
    (found,) = [t for t in envoy_config.routes(view(endpoint)) if t["name"] == name]
    routes: list[dict[str, Any]] = found["virtual_hosts"][0]["routes"]
    return routes


def test_the_same_view_gives_the_same_text() -> None:
    first, second = (json.dumps(envoy_config.files(view(), host="h", files_dir="d")) for _ in range(2))
    assert first == second


def test_members_come_before_clusters_and_clusters_before_routes() -> None:
    names = list(envoy_config.files(view(), host="127.0.0.1", files_dir="d"))
    assert names.index("clusters") > max(i for i, n in enumerate(names) if n.startswith("endpoints-"))
    assert names.index("clusters") < min(i for i, n in enumerate(names) if n.startswith("routes-"))
    assert names[-1] == "listeners"


def test_a_deployment_that_is_named_is_routed_past_the_weights() -> None:
    routes = table("endpoint-fraud")
    weighted = next(i for i, r in enumerate(routes) if "weighted_clusters" in r.get("route", {}))
    named = [
        i
        for i, r in enumerate(routes)
        if r["match"].get("headers") and "cluster" in r.get("route", {}) and "grpc" in r["match"]
    ]
    assert named and max(named) < weighted


def test_weights_sticky_header_and_shadows_are_rendered() -> None:
    route = next(r["route"] for r in table("endpoint-fraud") if "weighted_clusters" in r.get("route", {}))
    assert route["weighted_clusters"]["clusters"] == [
        {"name": "d1-grpc", "weight": 9000},
        {"name": "d2-grpc", "weight": 1000},
    ]
    assert route["weighted_clusters"]["use_hash_policy"] is True
    assert route["hash_policy"] == [{"header": {"header_name": "x-user"}}]
    (mirror,) = route["request_mirror_policies"]
    assert mirror["cluster"] == "d3-grpc"
    assert mirror["runtime_fraction"]["default_value"] == {"numerator": 5000, "denominator": "TEN_THOUSAND"}
    assert mirror["request_headers_mutations"][0]["append"]["header"] == {"key": "pilotfish-role", "value": "shadow"}


def test_an_endpoint_without_weights_says_so() -> None:
    routes = table("endpoint-fraud", dataclasses.replace(ENDPOINT, weights=(), shadows=()))
    refusals = [r["direct_response"] for r in routes if "direct_response" in r]
    assert any("fraud has no live deployment" in r["body"]["inline_string"] for r in refusals)
    assert all(r["status"] == 503 for r in refusals)


def test_a_replica_without_an_address_is_no_member() -> None:
    members = {e["cluster_name"]: e["endpoints"] for e in envoy_config.endpoints(view())}
    assert members["d3-grpc"] == []
    (locality,) = members["d2-rest"]
    socket = locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert socket == {"address": "127.0.0.1", "port_value": 4}


def test_a_weight_of_zero_names_no_cluster() -> None:
    route = next(
        r["route"]
        for r in table("shared", dataclasses.replace(ENDPOINT, weights=(("d1", 10_000), ("d2", 0))))
        if "weighted_clusters" in r.get("route", {})
    )
    assert [c["name"] for c in route["weighted_clusters"]["clusters"]] == ["d1-grpc"]


def test_a_version_served_twice_is_named_once() -> None:
    twice = dataclasses.replace(
        ENDPOINT, deployments=(*ENDPOINT.deployments, DeploymentRoute("d4", "development", 1, ()))
    )
    by_version = [
        r["route"]["cluster"]
        for r in table("endpoint-fraud", twice)
        if any(
            h["name"] == "pilotfish-version" and h["string_match"]["exact"] == "1"
            for h in r["match"].get("headers", ())
        )
    ]
    assert by_version == ["d1-grpc", "d1-rest"]


@pytest.mark.parametrize(
    ("state", "outcomes", "expected"),
    [
        (ReplicaState.STARTING, [True], ReplicaState.READY),
        (ReplicaState.STARTING, [False] * 9, ReplicaState.STARTING),
        (ReplicaState.READY, [False, False], ReplicaState.READY),
        (ReplicaState.READY, [False, False, True, False, False], ReplicaState.READY),
        (ReplicaState.READY, [False, False, False], ReplicaState.UNHEALTHY),
        (ReplicaState.UNHEALTHY, [True], ReplicaState.READY),
        (ReplicaState.STOPPED, [True, True], ReplicaState.STOPPED),
    ],
)
def test_probes_in_a_row_decide(state: ReplicaState, outcomes: list[bool], expected: ReplicaState) -> None:
    probe = Probe()
    for passed in outcomes:
        probe = count_probe(probe, passed=passed)
        state = judge(state, probe, HealthCheck(failure_threshold=3, success_threshold=1))
    assert state is expected


def test_starts_are_spaced_out_up_to_half_a_minute() -> None:
    assert [backoff_s(n) for n in range(9)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
