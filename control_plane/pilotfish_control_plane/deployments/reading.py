"""What can be asked about endpoints, deployments, replicas, rollouts and decisions.

Owns finding things by the names that callers write. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotfish.errors import NotFound
from pilotfish_control_plane.deployments.model import (
    Deployment,
    Endpoint,
    Quarantine,
    Replica,
    Revision,
    Stage,
)
from pilotfish_control_plane.deployments.rollout_model import Decision, Rollout
from pilotfish_control_plane.fleet.model import LOCAL_NODE, NodeFacts
from pilotfish_control_plane.names import DEFAULT_PROJECT, DeploymentRef, EndpointName, RolloutName
from pilotfish_control_plane.storage import deployments as rows
from pilotfish_control_plane.storage import endpoints as endpoint_rows
from pilotfish_control_plane.storage import fleet as fleet_rows
from pilotfish_control_plane.storage import replicas as replica_rows
from pilotfish_control_plane.storage import rollouts as rollout_rows
from pilotfish_control_plane.storage.paging import Page, PageRequest
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Reading"]


class Reading:
    """The questions; every method works in the caller's transaction."""

    def endpoint(self, tx: Tx, project: str, name: str) -> Endpoint:
        """Return an endpoint by id or full name.

        Raises:
            NotFound: there is no such endpoint.
        """
        wanted = EndpointName.read(name, "endpoint", project)
        found = endpoint_rows.endpoint(tx.conn, wanted.project, wanted.endpoint)
        if found is None:
            raise NotFound(
                f"there is no endpoint {wanted.endpoint} in project {wanted.project}", reason="ENDPOINT_NOT_FOUND"
            )
        return found

    def endpoints_of_model(self, tx: Tx, project: str, model: str) -> list[Endpoint]:
        """Return the endpoints that serve a model."""
        return endpoint_rows.find_endpoint_of(tx.conn, model, project)

    def list_endpoints(self, tx: Tx, project: str, request: PageRequest) -> Page[Endpoint]:
        """Return a page of a project's endpoints."""
        return endpoint_rows.list_endpoints(tx.conn, project, request)

    def get(self, tx: Tx, deployment_id: str) -> Deployment:
        """Return a deployment by its id.

        Raises:
            NotFound: there is no such deployment.
        """
        found = rows.deployment(tx.conn, deployment_id)
        if found is None:
            raise NotFound(f"there is no deployment {deployment_id}", reason="DEPLOYMENT_NOT_FOUND")
        return found

    def find(self, tx: Tx, ref: str, project: str = DEFAULT_PROJECT) -> Deployment:
        """Return a deployment by full name, by `endpoint/stage` (the current one), or by its bare id.

        Raises:
            InvalidArgument: it is none of these.
            NotFound: there is no such deployment.
        """
        if "/" not in ref and (bare := rows.deployment(tx.conn, ref)) is not None and bare.project == project:
            return bare
        wanted = DeploymentRef.parse(ref, "deployment", project)
        if wanted.stage:
            self.endpoint(tx, wanted.project, wanted.endpoint)
            found = self.current(tx, wanted.project, wanted.endpoint, Stage(wanted.stage))
            if found is None:
                raise NotFound(
                    f"endpoint {wanted.endpoint} has no current deployment in {wanted.stage}",
                    reason="DEPLOYMENT_NOT_FOUND",
                )
            return found
        found = rows.deployment(tx.conn, wanted.deployment)
        if found is None or (found.project, found.endpoint) != (wanted.project, wanted.endpoint):
            raise NotFound(f"there is no deployment {ref}", reason="DEPLOYMENT_NOT_FOUND")
        return found

    def current(self, tx: Tx, project: str, endpoint: str, stage: Stage) -> Deployment | None:
        """Return the current deployment of a stage, or None."""
        return rows.slots_of(tx.conn, project, endpoint).get(stage)

    def current_ones(self, tx: Tx, project: str, endpoint: str) -> list[Deployment]:
        """Return the current deployments of an endpoint in the order of the stages."""
        slots = rows.slots_of(tx.conn, project, endpoint)
        return [slots[s] for s in Stage if s in slots]

    def live(self, tx: Tx, project: str, endpoint: str | None = None) -> list[Deployment]:
        """Return the deployments that have not ended, oldest first."""
        return rows.open_deployments(tx.conn, project, endpoint)

    def live_everywhere(self, tx: Tx) -> list[Deployment]:
        """Return the deployments of every project that have not ended, oldest first."""
        return rows.open_deployments(tx.conn)

    def deployments_of_version(self, tx: Tx, project: str, model: str, number: int) -> list[Deployment]:
        """Return every deployment of a version, ended ones too, newest first."""
        return rows.of_version(tx.conn, project, model, number)

    def list_deployments(
        self, tx: Tx, project: str, endpoint: str, show_ended: bool, request: PageRequest
    ) -> Page[Deployment]:
        """Return a page of deployments, newest first; `endpoint` "": of all endpoints."""
        return rows.list_deployments(tx.conn, project, endpoint, show_ended, request)

    def revision(self, tx: Tx, deployment_id: str, number: int) -> Revision:
        """Return a revision of a deployment.

        Raises:
            NotFound: there is no such revision.
        """
        found = rows.revision(tx.conn, deployment_id, number)
        if found is None:
            raise NotFound(f"deployment {deployment_id} has no revision {number}", reason="REVISION_NOT_FOUND")
        return found

    def of_endpoint(self, tx: Tx, project: str, endpoint: str) -> list[Deployment]:
        """Return every deployment of an endpoint, ended ones too, newest first."""
        return rows.of_endpoint(tx.conn, project, endpoint)

    def replicas_of(self, tx: Tx, deployment_ids: Sequence[str]) -> dict[str, list[Replica]]:
        """Return the replicas of deployments that have not ended, oldest first."""
        return replica_rows.replicas_of(tx.conn, deployment_ids)

    def weights_of(self, tx: Tx, deployments: Sequence[Deployment]) -> dict[str, int]:
        """Return each deployment's share of the live traffic in basis points."""
        names = {(d.project, d.endpoint) for d in deployments}
        tables = {n: e.routes for n in names if (e := endpoint_rows.endpoint(tx.conn, *n)) is not None}
        return {
            d.id: tables[d.project, d.endpoint].weight_bp(d.id) if (d.project, d.endpoint) in tables else 0
            for d in deployments
        }

    def traffic_bp(self, tx: Tx, deployment: Deployment) -> int:
        """Return the deployment's share of the live traffic in basis points."""
        endpoint = endpoint_rows.endpoint(tx.conn, deployment.project, deployment.endpoint)
        return 0 if endpoint is None else endpoint.routes.weight_bp(deployment.id)

    def replicas(self, tx: Tx, deployment_id: str, *, show_ended: bool = False) -> list[Replica]:
        """Return the replicas of a deployment, oldest first."""
        return replica_rows.replicas_of(tx.conn, [deployment_id], show_ended=show_ended)[deployment_id]

    def quarantines(self, tx: Tx, endpoint: Endpoint) -> list[Quarantine]:
        """Return the versions that automation may not deploy at an endpoint."""
        return endpoint_rows.quarantines_of(tx.conn, endpoint.project, endpoint.id)

    def rollout(self, tx: Tx, name: str, project: str = DEFAULT_PROJECT) -> Rollout:
        """Return a rollout by full name, or the newest one of an endpoint by the endpoint's id.

        Raises:
            InvalidArgument: it is neither.
            NotFound: there is no such rollout.
        """
        if name.startswith("projects/") and "/rollouts/" in name:
            wanted = RolloutName.parse(name)
            found = rollout_rows.rollout(tx.conn, wanted.rollout)
            if found is not None and (found.project, found.endpoint) == (wanted.project, wanted.endpoint):
                return found
            raise NotFound(f"there is no rollout {name}", reason="ROLLOUT_NOT_FOUND")
        endpoint = self.endpoint(tx, project, name)
        found = rollout_rows.newest_rollout(tx.conn, endpoint.project, endpoint.id)
        if found is None:
            raise NotFound(f"endpoint {endpoint.id} has had no rollout", reason="ROLLOUT_NOT_FOUND")
        return found

    def open_rollout_of(self, tx: Tx, deployment: Deployment) -> Rollout | None:
        """Return the unfinished rollout that brings a deployment in, or None."""
        found = rollout_rows.rollout(tx.conn, deployment.rollout) if deployment.rollout else None
        return found if found is not None and found.state.is_open else None

    def list_rollouts(self, tx: Tx, project: str, endpoint: str, request: PageRequest) -> Page[Rollout]:
        """Return a page of rollouts, newest first; `endpoint` "": of all endpoints."""
        return rollout_rows.list_rollouts(tx.conn, project, endpoint, request)

    def decisions(self, tx: Tx, rollout: Rollout, limit: int = 20) -> list[Decision]:
        """Return the decisions of a rollout, newest first."""
        return rollout_rows.decisions_of(tx.conn, [rollout.id], limit)[rollout.id]

    def node_facts(self, tx: Tx, node: str = LOCAL_NODE) -> NodeFacts | None:
        """Return what is known of a node, or None."""
        return fleet_rows.node(tx.conn, node)
