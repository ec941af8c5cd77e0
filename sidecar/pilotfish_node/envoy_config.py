"""Render the gateway's routes as Envoy resources. Pure: no clock, no files, the same view gives the same text.

Every deployment is two clusters (gRPC and REST), every endpoint one virtual host's worth of routes that is
reached by its own port, by the header `pilotfish-endpoint` on the shared port, or by REST path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotfish_node.model import DeploymentRoute, EndpointRoute, GatewayView

__all__ = ["TOTAL_BP", "bootstrap", "clusters", "discovery", "endpoints", "files", "listeners", "routes"]

# Envoy's configuration is untyped JSON; its shape is checked by Envoy itself.
Json = dict[str, Any]

TOTAL_BP = 10_000
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
RETRY: Json = {
    # A prediction has no side effect, so a call that never reached the server may be tried on another replica.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 2,
    "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
}


def _typed(name: str, **fields: object) -> Json:
    return {"@type": f"type.googleapis.com/{name}", **fields}


def cluster_name(deployment: str, protocol: str) -> str:
    """Return the cluster's name; protocol is "grpc" or "rest"."""
    return f"{deployment}-{protocol}"


def bootstrap(*, node_id: str, admin_socket: str, files_dir: str, drain_s: int) -> Json:
    """Return Envoy's bootstrap: an admin on a Unix socket, and listeners and clusters from watched files."""

    def from_file(name: str) -> Json:
        return {
            "path_config_source": {"path": f"{files_dir}/{name}.json", "watched_directory": {"path": files_dir}},
            "resource_api_version": "V3",
        }

    return {
        "node": {"id": node_id, "cluster": "pilotfish"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {"lds_config": from_file("listeners"), "cds_config": from_file("clusters")},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": _typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=20_000,
                    ),
                }
            ]
        },
        "stats_flush_interval": "5s",
    }


def files(view: GatewayView, *, host: str, files_dir: str) -> dict[str, list[Json]]:
    """Return every resource file by its name without ending, in the order in which they must be written.

    Members come before their clusters and clusters before the routes that name them, so that no route ever
    points at a cluster that Envoy does not know. Envoy reads one cluster's members and one route table a file.
    """
    found: dict[str, list[Json]] = {f"endpoints-{e['cluster_name']}": [e] for e in endpoints(view)}
    found["clusters"] = clusters(view, files_dir=files_dir)
    found |= {f"routes-{table['name']}": [table] for table in routes(view)}
    found["listeners"] = listeners(view, host=host, files_dir=files_dir)
    return found


def clusters(view: GatewayView, *, files_dir: str) -> list[Json]:
    """Return two clusters per deployment; their members come from the endpoints file."""
    found: list[Json] = []
    for deployment in _deployments(view):
        for protocol in ("grpc", "rest"):
            options: Json = {"http2_protocol_options": {}} if protocol == "grpc" else {"http_protocol_options": {}}
            found.append(
                {
                    "name": cluster_name(deployment.deployment, protocol),
                    "type": "EDS",
                    "connect_timeout": "1s",
                    "lb_policy": "LEAST_REQUEST",
                    "eds_cluster_config": {
                        "service_name": cluster_name(deployment.deployment, protocol),
                        "eds_config": {
                            "path_config_source": {
                                "path": f"{files_dir}/endpoints-{cluster_name(deployment.deployment, protocol)}.json",
                                "watched_directory": {"path": files_dir},
                            },
                            "resource_api_version": "V3",
                        },
                    },
                    "typed_extension_protocol_options": {
                        HTTP_OPTIONS: _typed(HTTP_OPTIONS, explicit_http_config=options)
                    },
                    "circuit_breakers": {
                        "thresholds": [
                            {
                                "max_connections": 4096,
                                "max_pending_requests": 4096,
                                "max_requests": 8192,
                                "max_retries": 64,
                            }
                        ]
                    },
                    # A member that is gone leaves at once: the node knows its health better than a probe here.
                    "ignore_health_on_host_removal": True,
                }
            )
    return found


def endpoints(view: GatewayView) -> list[Json]:
    """Return the members of every cluster: the replicas that the node sees in service."""
    addresses = dict(view.addresses)
    found: list[Json] = []
    for deployment in _deployments(view):
        for protocol in ("grpc", "rest"):
            members = []
            for replica in deployment.replicas:
                address = addresses.get(replica)
                if address is None:
                    continue
                host, _, port = (address.grpc if protocol == "grpc" else address.http).rpartition(":")
                if not port:
                    continue
                socket = {"address": host.strip("[]"), "port_value": int(port)}
                members.append({"endpoint": {"address": {"socket_address": socket}}})
            name = cluster_name(deployment.deployment, protocol)
            found.append({"cluster_name": name, "endpoints": [{"lb_endpoints": members}] if members else []})
    return found


def listeners(view: GatewayView, *, host: str, files_dir: str) -> list[Json]:
    """Return the shared listener and one listener per endpoint with a port of its own."""
    found = [_listener("shared", host, view.shared_port, "shared", files_dir)]
    found += [
        _listener(f"endpoint-{e}", host, port, f"endpoint-{e}", files_dir) for e, port in view.endpoint_ports if port
    ]
    return found


def routes(view: GatewayView) -> list[Json]:
    """Return the route table of the shared port and those of the endpoints' own ports."""
    shared: list[Json] = []
    for endpoint in view.spec.endpoints:
        named: Json = {"headers": [_equals("pilotfish-endpoint", endpoint.endpoint)]}
        shared += _endpoint_routes(endpoint, [named, {"path": f"/v2/models/{endpoint.endpoint}"}])
    shared.append(_refusal("no such endpoint: set the header pilotfish-endpoint, or call /v2/models/{endpoint}/infer"))
    tables = [_table("shared", shared)]
    ports = dict(view.endpoint_ports)
    for endpoint in view.spec.endpoints:
        if ports.get(endpoint.endpoint):
            own = _endpoint_routes(endpoint, [{}])
            own.append(_refusal(f"endpoint {endpoint.endpoint} has no deployment in service"))
            tables.append(_table(f"endpoint-{endpoint.endpoint}", own))
    return tables


def _deployments(view: GatewayView) -> list[DeploymentRoute]:
    return [d for e in view.spec.endpoints for d in e.deployments]


def _listener(name: str, host: str, port: int, table: str, files_dir: str) -> Json:
    manager = _typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="AUTO",
        # The caller's x-request-id is the prediction id where the body has none: keep it.
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        generate_request_id=True,
        use_remote_address=True,
        skip_xff_append=True,
        common_http_protocol_options={"idle_timeout": "3600s"},
        stream_idle_timeout="0s",
        http2_protocol_options={"max_concurrent_streams": 1024},
        rds={
            "route_config_name": table,
            "config_source": {
                "path_config_source": {
                    "path": f"{files_dir}/routes-{table}.json",
                    "watched_directory": {"path": files_dir},
                },
                "resource_api_version": "V3",
            },
        },
        http_filters=[
            {
                "name": "envoy.filters.http.router",
                "typed_config": _typed("envoy.extensions.filters.http.router.v3.Router"),
            }
        ],
    )
    return {
        "name": name,
        "address": {"socket_address": {"address": host, "port_value": port}},
        "enable_reuse_port": False,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _table(name: str, entries: list[Json]) -> Json:
    host = {"name": name, "domains": ["*"], "routes": entries}
    return {"name": name, "virtual_hosts": [host], "validate_clusters": False}


def _equals(header: str, value: str) -> Json:
    return {"name": header, "string_match": {"exact": value}}


def _refusal(text: str) -> Json:
    return {"match": {"prefix": "/"}, "direct_response": {"status": 503, "body": {"inline_string": text + "\n"}}}


def _endpoint_routes(endpoint: EndpointRoute, matches: list[Json]) -> list[Json]:
    """Return the routes of one endpoint for each way of naming it; the most specific first."""
    found: list[Json] = []
    for match in matches:
        by_path = "path" in match
        for protocol in ("rest",) if by_path else ("grpc", "rest"):
            for deployment in endpoint.deployments:
                found += _named_routes(endpoint, deployment, match, protocol)
            if endpoint.weights:
                found.append(_route(match, protocol, [], _weighted(endpoint, protocol)))
            else:
                text = f"endpoint {endpoint.endpoint} has no live deployment: name one by pilotfish-stage\n"
                refused = _route(match, protocol, [], {})
                refused["direct_response"] = {"status": 503, "body": {"inline_string": text}}
                del refused["route"]
                found.append(refused)
    return found


def _named_routes(endpoint: EndpointRoute, deployment: DeploymentRoute, match: Json, protocol: str) -> list[Json]:
    """Return the routes that pick one deployment past the weights."""
    action: Json = {"cluster": cluster_name(deployment.deployment, protocol), "timeout": "0s", "retry_policy": RETRY}
    found = [
        _route(match, protocol, [_equals("pilotfish-stage", deployment.stage)], action),
        _route(match, protocol, [_equals("pilotfish-deployment", deployment.deployment)], action),
    ]
    newest = next(d.deployment for d in endpoint.deployments if d.version == deployment.version)
    if newest == deployment.deployment:
        found.append(_route(match, protocol, [_equals("pilotfish-version", str(deployment.version))], action))
        if protocol == "rest":
            path = f"/v2/models/{endpoint.endpoint}/versions/{deployment.version}"
            found.append(_route({**match, "path": path}, protocol, [], action))
    return found


def _route(match: Json, protocol: str, headers: list[Json], action: Json) -> Json:
    rule: Json = {"headers": [*match.get("headers", []), *headers]}
    if "path" in match:
        rule["path_separated_prefix"] = match["path"]
    else:
        rule["prefix"] = "/"
    if protocol == "grpc":
        rule["grpc"] = {}
    return {"match": rule, "route": action}


def _weighted(endpoint: EndpointRoute, protocol: str) -> Json:
    weighted: Json = {
        "clusters": [
            {"name": cluster_name(deployment, protocol), "weight": weight}
            for deployment, weight in endpoint.weights
            if weight
        ]
    }
    action: Json = {"weighted_clusters": weighted, "timeout": "0s", "retry_policy": RETRY}
    if endpoint.sticky_header:
        action["hash_policy"] = [{"header": {"header_name": endpoint.sticky_header}}]
        weighted["use_hash_policy"] = True
    if endpoint.shadows:
        action["request_mirror_policies"] = [_mirror(s.deployment, s.fraction_bp, protocol) for s in endpoint.shadows]
    return action


def _mirror(deployment: str, fraction_bp: int, protocol: str) -> Json:
    return {
        "cluster": cluster_name(deployment, protocol),
        "runtime_fraction": {"default_value": {"numerator": fraction_bp, "denominator": "TEN_THOUSAND"}},
        "request_headers_mutations": [
            {
                "append": {
                    "header": {"key": "pilotfish-role", "value": "shadow"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            }
        ],
    }


def discovery(resources: list[Json], *, kind: str, version: str) -> Mapping[str, object]:
    """Return a discovery response as Envoy reads it from a file; kind is the resource's type name."""
    return {
        "version_info": version,
        "type_url": f"type.googleapis.com/{kind}",
        "resources": [{"@type": f"type.googleapis.com/{kind}", **r} for r in resources],
    }
