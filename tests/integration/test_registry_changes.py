"""Versions through real calls: moved, changed and renamed, on SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask

from pilotfish.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from pilotfish.v1 import registry_pb2
from pilotfish.v1 import registry_service_pb2 as pb
from pilotfish_control_plane.registry.model import NewVersion, VersionStatus
from pilotfish_control_plane.registry.service import RegistryService
from tests.registry_models import Client, bare_files

from .registry_calls_world import AREAS, Status, error_of, seed

HAND = {
    ("staging", "deprecated"), ("deprecated", "staging"), ("deprecated", "archived"), ("archived", "deprecated"),
}  # fmt: skip
MACHINE = {
    "training": {"evaluating", "failed"}, "evaluating": {"staging", "failed"}, "staging": {"production", "deprecated"},
    "production": {"staging"}, "deprecated": {"staging", "archived"}, "failed": set(), "archived": {"deprecated"},
}  # fmt: skip


@pytest_asyncio.fixture
async def plane(make_control_plane: Any, engine_name: str) -> AsyncIterator[Any]:
    yield await make_control_plane(areas=AREAS, engine=engine_name)


@pytest.fixture
def client(plane: Any) -> Client:
    return Client(plane.channel)


@pytest.mark.ledger("A1")
async def test_every_status_moves_only_along_allowed_transitions_and_a_refusal_lists_them(
    plane: Any, client: Client
) -> None:
    """All 49 pairs, against the state machine written out by hand above."""
    service, db = plane.core.services.get(RegistryService), plane.core.db

    async def version_in(status: str) -> int:
        if status in ("training", "evaluating", "failed"):
            start = VersionStatus("training" if status == "failed" else status)
            new = NewVersion("default", "churn", "onnx")
            begun = await db.write(lambda tx: service.begin_version(tx, new, start))
            if status == "failed":
                await db.write(lambda tx: service.fail_version(tx, begun.id, "no"))
            return begun.number
        (number,) = await seed(plane)
        steps = {"production": ["production"], "deprecated": ["deprecated"], "archived": ["deprecated", "archived"]}
        for step in steps.get(status, []):
            await db.write(
                lambda tx, step=step: service.set_status(
                    tx, "default", "churn", number, VersionStatus(step), reason="", by_deployment=step == "production"
                )
            )
        return number

    names = [s.value for s in VersionStatus]
    assert set(names) == set(MACHINE)
    for before, after in itertools.product(names, names):
        if before == after:
            continue
        number = await version_in(before)
        wanted = Status.Value(f"VERSION_STATUS_{after.upper()}")
        call = client.registry.UpdateVersionStatus(
            pb.UpdateVersionStatusRequest(name=f"churn@{number}", status=wanted, reason="because")
        )
        if (before, after) in HAND:
            assert (await call).version.status == wanted
            continue
        error = await error_of(call)
        assert isinstance(error, FailedPrecondition) and error.reason == "STATUS_TRANSITION", (before, after)
        assert {v.field for v in error.violations} == MACHINE[before], (before, after)
        assert set(filter(None, error.metadata["allowed"].split(","))) == MACHINE[before]
        current = (await client.registry.GetVersion(pb.GetVersionRequest(name=f"churn@{number}"))).version
        assert current.status == Status.Value(f"VERSION_STATUS_{before.upper()}")
    unset = pb.UpdateVersionStatusRequest(name="churn@1")
    assert isinstance(await error_of(client.registry.UpdateVersionStatus(unset)), InvalidArgument)


async def test_a_version_in_use_is_not_archived(plane: Any, client: Client) -> None:
    service = plane.core.services.get(RegistryService)
    await seed(plane)
    move = pb.UpdateVersionStatusRequest(name="churn@1", status=Status.VERSION_STATUS_DEPRECATED)
    await client.registry.UpdateVersionStatus(move)
    service._users = lambda tx, version: ["projects/default/endpoints/e/deployments/d1"]
    move.status = Status.VERSION_STATUS_ARCHIVED
    error = await error_of(client.registry.UpdateVersionStatus(move))
    assert isinstance(error, FailedPrecondition) and error.reason == "VERSION_IN_USE"
    assert [v.field for v in error.violations] == ["projects/default/endpoints/e/deployments/d1"]


@pytest.mark.ledger("B4")
async def test_metadata_changes_are_guarded_by_etags_and_kept_in_the_history(plane: Any, client: Client) -> None:
    await seed(plane, tags={"team": "risk"})
    name = "projects/default/models/churn/versions/1"
    first = (await client.registry.GetVersion(pb.GetVersionRequest(name=name))).version

    def update(**fields: Any) -> pb.UpdateVersionRequest:
        etag = fields.pop("etag", "")
        mask = FieldMask(paths=list(fields))
        return pb.UpdateVersionRequest(version=registry_pb2.Version(name=name, etag=etag, **fields), update_mask=mask)

    second = (await client.registry.UpdateVersion(update(description="better", etag=first.etag))).version
    assert second.etag != first.etag and second.description == "better" and dict(second.tags) == {"team": "risk"}
    late = await error_of(client.registry.UpdateVersion(update(description="mine", etag=first.etag)))
    assert isinstance(late, Aborted) and late.reason == "ETAG_MISMATCH"
    third = (await client.registry.UpdateVersion(update(tags={"team": "growth"}, label="v-three"))).version
    assert dict(third.tags) == {"team": "growth"} and third.label == "v-three"
    same = (await client.registry.UpdateVersion(update(tags={"team": "growth"}))).version
    assert same.etag == third.etag, "nothing changed, so nothing was written"
    move = pb.UpdateVersionStatusRequest(
        name=name, status=Status.VERSION_STATUS_DEPRECATED, reason="too old", etag=first.etag
    )
    assert isinstance(await error_of(client.registry.UpdateVersionStatus(move)), Aborted)
    move.etag = third.etag
    await client.registry.UpdateVersionStatus(move)
    page = await client.registry.ListChanges(pb.ListChangesRequest(name=name, page_size=3))
    rest = await client.registry.ListChanges(pb.ListChangesRequest(name=name, page_token=page.next_page_token))
    changes = [*page.changes, *rest.changes]
    assert [c.action for c in changes] == ["set_status", "update", "update", "create"]
    assert json.loads(changes[0].before_json) == {"status": "staging"}
    assert json.loads(changes[0].after_json) == {"status": "deprecated"}
    assert (changes[0].reason, changes[0].actor) == ("too old", "admin")
    assert json.loads(changes[1].before_json) == {"label": "", "tags": {"team": "risk"}}
    for wrong in (update(), update(framework="onnx")):
        assert isinstance(await error_of(client.registry.UpdateVersion(wrong)), InvalidArgument)
    nan = await error_of(client.registry.UpdateVersion(update(metrics={"auc": float("nan")})))
    assert isinstance(nan, InvalidArgument) and "auc" in nan.violations[0].field


@pytest.mark.ledger("B4")
async def test_a_model_is_changed_under_its_etag(client: Client) -> None:
    made = (await client.registry.CreateModel(pb.CreateModelRequest(model_id="churn", description="who leaves"))).model
    again = await error_of(client.registry.CreateModel(pb.CreateModelRequest(model_id="churn")))
    assert isinstance(again, AlreadyExists)

    def update(etag: str, **fields: Any) -> pb.UpdateModelRequest:
        model = registry_pb2.Model(name="churn", etag=etag, **fields)
        return pb.UpdateModelRequest(model=model, update_mask=FieldMask(paths=list(fields)))

    changed = (await client.registry.UpdateModel(update(made.etag, description="who leaves soon"))).model
    assert changed.description == "who leaves soon" and changed.etag != made.etag
    assert isinstance(await error_of(client.registry.UpdateModel(update(made.etag, description="x"))), Aborted)
    assert isinstance(await error_of(client.registry.UpdateModel(update("", tags={"a b": "c"}))), InvalidArgument)
    changes = (await client.registry.ListChanges(pb.ListChangesRequest(name=made.name))).changes
    assert [c.action for c in changes] == ["update", "create"]
    for bad in ("", "Churn", "a" * 64, "-x", "a/b", "a\x00"):
        call = client.registry.CreateModel(pb.CreateModelRequest(model_id=bad))
        assert isinstance(await error_of(call), InvalidArgument), bad


@pytest.mark.ledger("B4")
async def test_aliases_move_are_unique_in_meaning_and_never_point_at_failed_versions(
    plane: Any, client: Client
) -> None:
    service, db = plane.core.services.get(RegistryService), plane.core.db
    await seed(plane, label="blue")
    await seed(plane, count=2)
    begun = await db.write(lambda tx: service.begin_version(tx, NewVersion("default", "churn", "onnx")))
    await db.write(lambda tx: service.fail_version(tx, begun.id, "no"))

    def point(alias: str, version: str) -> Any:
        return client.registry.SetAlias(pb.SetAliasRequest(model="churn", alias=alias, version=version))

    first = (await point("champion", "1")).model
    assert dict(first.aliases) == {"champion": 1}
    moved = (await point("champion", "3")).model
    assert dict(moved.aliases) == {"champion": 3} and moved.etag != first.etag
    assert (await point("champion", "3")).model.etag == moved.etag
    assert dict((await point("old", "blue")).model.aliases) == {"champion": 3, "old": 1}
    for alias in ("latest", "7", "Upper", "blue"):
        assert isinstance(await error_of(point(alias, "1")), InvalidArgument), alias
    assert isinstance(await error_of(point("x", "99")), NotFound)
    assert isinstance(await error_of(point("x", "4")), FailedPrecondition)
    label = pb.UpdateVersionRequest(
        version=registry_pb2.Version(name="churn@2", label="champion"), update_mask=FieldMask(paths=["label"])
    )
    assert isinstance(await error_of(client.registry.UpdateVersion(label)), AlreadyExists)
    label.version.label = "blue"
    assert isinstance(await error_of(client.registry.UpdateVersion(label)), AlreadyExists)
    removed = await client.registry.DeleteAlias(pb.DeleteAliasRequest(model="churn", alias="champion"))
    assert dict(removed.model.aliases) == {"old": 1}
    gone = client.registry.DeleteAlias(pb.DeleteAliasRequest(model="churn", alias="champion"))
    assert isinstance(await error_of(gone), NotFound)
    history = (await client.registry.ListChanges(pb.ListChangesRequest(name="churn"))).changes
    told = [(c.action, c.before_json, c.after_json) for c in history][:4]
    assert told == [
        ("delete_alias", '{"champion": 3}', ""),
        ("set_alias", "", '{"old": 1}'),
        ("set_alias", '{"champion": 1}', '{"champion": 3}'),
        ("set_alias", "", '{"champion": 1}'),
    ]
    version = (await client.registry.ListChanges(pb.ListChangesRequest(name="churn@3"))).changes
    assert [c.action for c in version] == ["delete_alias", "set_alias", "create"]


async def test_metadata_problems_are_all_named_before_anything_is_validated(client: Client) -> None:
    await client.register("churn", label="one", aliases=["champion"])
    upload = await client.upload(bare_files(1))
    error = await error_of(
        client.registry.RegisterVersion(
            pb.RegisterVersionRequest(
                model="churn",
                upload=upload,
                label="12",
                tags={"bad key": "x"},
                metrics={"auc": float("inf")},
                training_data_hash="zz",
                framework="pickle",
                dependencies={"a b": "1"},
                aliases=["latest", "one"],
                description="x" * 5000,
            )
        )
    )
    assert isinstance(error, InvalidArgument)
    wrong = {v.field.partition("[")[0] for v in error.violations}
    assert wrong == {
        "label", "tags", "metrics", "training_data_hash", "framework", "dependencies", "aliases", "description",
    }  # fmt: skip
    taken = pb.RegisterVersionRequest(model="churn", upload=upload, label="one")
    assert isinstance(await error_of(client.registry.RegisterVersion(taken)), AlreadyExists)
    missing = pb.RegisterVersionRequest(model="churn", upload="0" * 32)
    assert isinstance(await error_of(client.registry.RegisterVersion(missing)), NotFound)
    assert isinstance(
        await error_of(client.registry.RegisterVersion(pb.RegisterVersionRequest(model="churn"))), InvalidArgument
    )
    opened = await client.open_upload(bare_files(2))
    half = pb.RegisterVersionRequest(model="churn", upload=opened.id)
    error = await error_of(client.registry.RegisterVersion(half))
    assert isinstance(error, FailedPrecondition) and error.reason == "UPLOAD_INCOMPLETE"


async def test_an_external_version_has_no_artifact(client: Client) -> None:
    request = pb.RegisterVersionRequest(model="vendor", framework="external", tags={"who": "them"})
    version = (await client.registry.RegisterVersion(request)).version
    assert (version.number, version.artifact_path, version.artifact_size_bytes) == (1, "", 0)
    assert version.status == Status.VERSION_STATUS_STAGING


async def test_a_jobs_version_takes_its_number_at_the_beginning_and_its_artifact_at_the_end(
    plane: Any, client: Client
) -> None:
    service, db = plane.core.services.get(RegistryService), plane.core.db
    new = NewVersion("default", "churn", "onnx", author="jobs/1")
    begun = await db.write(lambda tx: service.begin_version(tx, new))
    (later,) = await seed(plane)
    assert (begun.number, later) == (1, 2)
    done = NewVersion("default", "ignored", "onnx", metrics={"auc": 0.9}, aliases=["champion"], profile_json="{}")
    version = await db.write(lambda tx: service.complete_version(tx, begun.id, done))
    assert (version.status, version.number, version.model) == (VersionStatus.STAGING, 1, "churn")
    assert version.author == "jobs/1" and version.aliases == ("champion",) and version.metrics == {"auc": 0.9}
    changes = (await client.registry.ListChanges(pb.ListChangesRequest(name="churn@1"))).changes
    walked = [json.loads(c.after_json)["status"] for c in reversed(changes) if "status" in (c.after_json or "{}")]
    assert walked == ["training", "evaluating", "staging"]
    with pytest.raises(FailedPrecondition):
        await db.write(lambda tx: service.complete_version(tx, begun.id, done))


async def test_names_of_every_kind_stay_within_their_project(client: Client) -> None:
    version = await client.register("projects/team-b/models/churn")
    assert version.name == "projects/team-b/models/churn/versions/1"
    assert isinstance(await error_of(client.registry.GetModel(pb.GetModelRequest(name="churn"))), NotFound)
    clash = pb.RegisterVersionRequest(project="team-a", model="projects/team-b/models/churn", upload="0" * 32)
    assert isinstance(await error_of(client.registry.RegisterVersion(clash)), InvalidArgument)
