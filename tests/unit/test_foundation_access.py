"""Roles, projects named by requests, secrets in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotfish.errors import FailedPrecondition, PermissionDenied
from pilotfish.v1 import fleet_service_pb2, options_pb2, registry_service_pb2, training_service_pb2
from pilotfish_control_plane.access.bootstrap import secret_file
from pilotfish_control_plane.access.model import Principal, Role
from pilotfish_control_plane.grpc_server import roles

ORDER = [Role.PUBLIC, Role.VIEWER, Role.EDITOR, Role.DEPLOYER, Role.ADMIN]


def test_roles_have_the_numbers_of_the_contract() -> None:
    assert {f"ROLE_{r.name}": r.value for r in Role} | {"ROLE_UNSPECIFIED": 0} == dict(options_pb2.Role.items())


def test_each_role_covers_those_before_it_and_sidecar_stands_beside() -> None:
    for i, held in enumerate(ORDER):
        assert [held.covers(needed) for needed in ORDER] == [j <= i for j in range(len(ORDER))]
        assert held.covers(Role.SIDECAR) is (held is Role.ADMIN)
    assert [Role.SIDECAR.covers(needed) for needed in ORDER] == [True, False, False, False, False]
    assert Role.SIDECAR.covers(Role.SIDECAR)


def test_a_binding_in_a_project_adds_to_the_one_in_all() -> None:
    ann = Principal("ann", {"*": frozenset({Role.VIEWER}), "risk": frozenset({Role.DEPLOYER})})
    assert ann.may(Role.DEPLOYER, "risk") and ann.may(Role.VIEWER, "risk")
    assert ann.may(Role.VIEWER, "sales") and not ann.may(Role.EDITOR, "sales")
    assert ann.may(Role.VIEWER) and not ann.may(Role.DEPLOYER)


def test_a_method_needs_the_role_of_its_option() -> None:
    assert roles.required_role("/pilotfish.v1.RegistryService/CreateModel") is Role.EDITOR
    service = fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
    assert roles.required_role(f"/{service}/Connect") is Role.SIDECAR
    assert roles.required_role("/grpc.health.v1.Health/Check") is Role.PUBLIC
    assert roles.required_role("/pilotfish.v1.RegistryService/NoSuch") is None
    assert roles.required_role("/no.such.Service/Do") is None
    admin = Principal("admin", {"*": frozenset({Role.ADMIN})})
    with pytest.raises(PermissionDenied, match="declares no role"):
        roles.authorize(admin, "/no.such.Service/Do")


def test_the_projects_of_a_request_are_found_at_any_depth() -> None:
    assert roles.projects_of(registry_service_pb2.CreateModelRequest()) == {"default"}
    assert roles.projects_of(registry_service_pb2.CreateModelRequest(project="risk")) == {"risk"}
    assert roles.projects_of(
        registry_service_pb2.CreateModelRequest(project="risk", tags={"a": "projects/sales/models/m"})
    ) >= {"risk"}
    request = training_service_pb2.ListPipelinesRequest(project="projects/risk")
    assert roles.projects_of(request) == {"risk"}


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "token"
    first = secret_file(path)
    assert len(first) >= 43
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_file(path) == first
    assert secret_file(tmp_path / "other") != first


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    secret_file(path)
    path.chmod(0o640)
    with pytest.raises(FailedPrecondition, match="chmod 600"):
        secret_file(path)
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(FailedPrecondition, match="is empty"):
        secret_file(path)
