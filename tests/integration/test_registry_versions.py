"""Versions through real calls: registered, found, listed, moved, changed, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from pilotfish.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PilotfishError,
)
from pilotfish.v1 import registry_pb2
from pilotfish.v1 import registry_service_pb2 as pb
from pilotfish.wire_errors import from_rpc_error
from pilotfish_control_plane.registry.model import NewVersion, VersionStatus
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import registry_lists
from tests.registry_models import Client, bare_files, profile_json, whole_files

AREAS = ["registry", "artifacts", "experiments"]
Status = registry_pb2.VersionStatus


@pytest_asyncio.fixture
async def plane(make_control_plane: Any, engine_name: str) -> AsyncIterator[Any]:
    yield await make_control_plane(areas=AREAS, engine=engine_name)


@pytest.fixture
def client(plane: Any) -> Client:
    return Client(plane.channel)


async def error_of(call: Awaitable[Any]) -> PilotfishError:
    """Return what the call fails with, as the client library would raise it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def seed(plane: Any, model: str = "churn", count: int = 1, **fields: Any) -> list[int]:
    """Register versions without artifacts, past the validator; return their numbers."""
    service = plane.core.services.get(RegistryService)
    made = []
    for _ in range(count):
        new = NewVersion("default", model, "external", **fields)
        made.append((await plane.core.db.write(lambda tx, new=new: service.register(tx, new))).number)
    return made


@pytest.mark.ledger("A3")
@pytest.mark.ledger("B1")
@pytest.mark.ledger("B2")
async def test_a_registered_version_carries_everything_that_was_said_and_measured(plane: Any, client: Client) -> None:
    files = whole_files()
    settings = Struct()
    settings.update({"depth": 3, "rate": 0.25, "layers": [8, 4], "nested": {"on": True}})
    version = await client.register(
        "churn",
        files,
        label="2.1.0",
        description="with debts",
        tags={"team": "risk"},
        metrics={"auc": 0.91},
        hyperparameters=settings,
        training_data_hash="ab" * 32,
        dependencies={"numpy": "2.0", "scipy": "1.14"},
        aliases=["champion"],
    )
    assert (version.name, version.number, version.model) == ("projects/default/models/churn/versions/1", 1, "churn")
    assert (version.label, version.description, version.author) == ("2.1.0", "with debts", "admin")
    assert version.status == Status.VERSION_STATUS_STAGING
    assert dict(version.tags) == {"team": "risk"} and dict(version.metrics) == {"auc": 0.91}
    assert version.hyperparameters == settings
    assert version.training_data_hash == "ab" * 32 == version.lineage.data_hash
    assert version.framework == "onnx"
    assert dict(version.dependencies) == {"numpy": "2.0", "onnxruntime": "1.20", "scipy": "1.14"}
    assert version.artifact_size_bytes == sum(len(data) for data in files.values())
    assert {f.path: f.size_bytes for f in version.files} == {path: len(data) for path, data in files.items()}
    assert list(version.signature.feature_names) == ["age", "income", "debt", "years"]
    assert [list(t.shape) for t in version.signature.inputs] == [[-1, 4]]
    assert list(version.aliases) == ["champion"]
    assert version.create_time == version.update_time and version.create_time.seconds > 0
    # The path is computed from model, number and id, and that is where the very bytes lie.
    assert version.artifact_path == f"models/churn/1/{version.id}"
    stored = plane.home / "artifacts" / version.artifact_path
    assert {p.name: p.read_bytes() for p in stored.iterdir()} == files
    profile = await client.registry.GetProfile(pb.GetProfileRequest(name="churn@champion"))
    assert profile.profile_json == profile_json() and profile.profile_id == version.profile_id


@pytest.mark.ledger("B1")
async def test_a_refused_version_names_every_problem_and_leaves_nothing(plane: Any, client: Client) -> None:
    files = {
        **bare_files(),
        "signature.json": b'{"inputs":[{"name":"X","datatype":"FP64","shape":[-1,9]}]}',
        "example.json": b'{"inputs":{"X":[[1,1,1,1]]},"outputs":{"score":[[7]]}}',
        "profile.json": b"[]",
        "requirements.json": b'{"numpy": 2}',
        "model.pkl": b"\x80\x04.",
        "notes.txt": b"hello",
    }
    error = await error_of(client.register("refused", files))
    assert isinstance(error, FailedPrecondition) and error.reason == "VALIDATION_FAILED"
    found = {(v.field, v.reason) for v in error.violations}
    assert found >= {
        ("signature.json", "SIGNATURE_MISMATCH"),
        ("profile.json", "BAD_PROFILE"),
        ("requirements.json", "BAD_REQUIREMENTS"),
        ("model.pkl", "PICKLE"),
        ("notes.txt", "UNKNOWN_FILE"),
    }
    assert isinstance(await error_of(client.registry.GetModel(pb.GetModelRequest(name="refused"))), NotFound), (
        "a refusal must not create the model"
    )
    listed = await client.registry.ListVersions(pb.ListVersionsRequest())
    assert not listed.versions
    assert not list((plane.home / "artifacts" / "models").iterdir()), "a refusal must leave no file in the store"
    # The number was not used up either.
    assert (await client.register("refused")).number == 1


@pytest.mark.ledger("B1")
async def test_the_example_must_be_reproduced(client: Client) -> None:
    files = {**bare_files(), "example.json": b'{"inputs":{"X":[[1,1,1,1]]},"outputs":{"score":[[7]]}}'}
    error = await error_of(client.register("churn", files))
    assert [(v.field, v.reason) for v in error.violations] == [("example.json", "EXAMPLE_NOT_REPRODUCED")]
    files["example.json"] = b'{"inputs":{"X":[[1,1,1,1]]},"outputs":{"score":[[2.5]]}}'
    assert (await client.register("churn", files)).number == 1


async def test_validate_only_checks_everything_and_registers_nothing(plane: Any, client: Client) -> None:
    upload = await client.upload(whole_files())
    request = pb.RegisterVersionRequest(model="churn", upload=upload, validate_only=True)
    answer = await client.registry.RegisterVersion(request)
    assert (answer.version.name, answer.version.id, answer.version.number) == ("", "", 0)
    assert answer.version.framework == "onnx" and len(answer.version.files) == 6
    assert any("example.json: reproduced" in line for line in answer.checks)
    assert isinstance(await error_of(client.registry.GetModel(pb.GetModelRequest(name="churn"))), NotFound)
    request.validate_only = False
    assert (await client.registry.RegisterVersion(request)).version.number == 1


async def test_a_repeated_registration_gives_the_same_version(client: Client) -> None:
    upload = await client.upload(bare_files())
    request = pb.RegisterVersionRequest(model="churn", upload=upload, request_id="once")
    answers = [await client.registry.RegisterVersion(request) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    listed = await client.registry.ListVersions(pb.ListVersionsRequest(parent="projects/default/models/churn"))
    assert [v.number for v in listed.versions] == [1]
    request.request_id = "twice"
    error = await error_of(client.registry.RegisterVersion(request))
    assert isinstance(error, FailedPrecondition) and error.reason == "UPLOAD_REGISTERED"
    request.description = "other"
    request.request_id = "once"
    assert isinstance(await error_of(client.registry.RegisterVersion(request)), InvalidArgument)


async def test_the_same_request_sent_twice_at_once_makes_one_version(plane: Any, client: Client) -> None:
    upload = await client.upload(bare_files())
    request = pb.RegisterVersionRequest(model="churn", upload=upload, request_id="once")
    first, second = await asyncio.gather(*(client.registry.RegisterVersion(request) for _ in range(2)))
    assert first == second and first.version.number == 1
    stored = list((plane.home / "artifacts").glob("models/*/*/*"))
    assert [p.name for p in stored] == [first.version.id], "the loser's files must go"


@pytest.mark.ledger("G1")
async def test_sixteen_clients_at_once_leave_no_gap_and_no_duplicate(plane: Any, client: Client) -> None:
    uploads = [await client.upload(bare_files(seed)) for seed in range(16)]

    async def register(upload: str) -> registry_pb2.Version:
        request = pb.RegisterVersionRequest(model="busy", upload=upload)
        return (await client.registry.RegisterVersion(request, timeout=100)).version

    made = await asyncio.gather(*(register(upload) for upload in uploads))
    assert sorted(v.number for v in made) == list(range(1, 17))
    assert len({v.id for v in made}) == 16
    stored = {
        p.relative_to(plane.home / "artifacts").as_posix() for p in (plane.home / "artifacts").glob("models/*/*/*")
    }
    assert stored == {v.artifact_path for v in made}
    # Each version holds the bytes that its own client sent, not a neighbour's.
    for upload_seed, version in enumerate(made):
        content = (plane.home / "artifacts" / version.artifact_path / "model.onnx").read_bytes()
        assert content == bare_files(upload_seed)["model.onnx"]


async def test_numbers_that_others_take_meanwhile_are_not_used(plane: Any, client: Client) -> None:
    """Another control plane on the same database registers between our guess of the number and our commit."""
    service = plane.core.services.get(RegistryService)
    honest, taken = service.next_number, []

    def guess(tx: Any, project: str, model: str) -> int:
        number = honest(tx, project, model)
        return number - 1 if taken else number

    await seed(plane, count=3)
    taken.append(True)
    service.next_number = guess
    version = await client.register("churn")
    assert version.number == 4
    assert (plane.home / "artifacts" / version.artifact_path / "model.onnx").is_file()
    assert [p.name for p in (plane.home / "artifacts" / "models" / "churn").iterdir()] == ["4"]


@pytest.mark.ledger("B3")
async def test_a_version_is_found_by_number_label_alias_and_latest(plane: Any, client: Client) -> None:
    await seed(plane, label="2.1.0")
    await seed(plane, count=2)
    await client.registry.SetAlias(pb.SetAliasRequest(model="churn", alias="champion", version="2"))

    async def number(name: str) -> int:
        return (await client.registry.GetVersion(pb.GetVersionRequest(name=name))).version.number

    expected = {
        "churn@1": 1, "churn@2.1.0": 1, "churn@champion": 2, "churn@latest": 3, "churn": 3,
        "projects/default/models/churn/versions/2": 2, "projects/default/models/churn/versions/champion": 2,
        "projects/default/models/churn/versions/latest": 3, "projects/default/models/churn@2.1.0": 1,
    }  # fmt: skip
    assert {name: await number(name) for name in expected} == expected
    for name in ("churn@4", "churn@nobody", "nothing@1", "projects/other/models/churn/versions/1"):
        assert isinstance(await error_of(number(name)), NotFound), name
    for name in ("", "churn@", "churn@0", "Churn@1", "churn@../x", "projects/default/models/churn/versions/"):
        assert isinstance(await error_of(number(name)), InvalidArgument), name


@pytest.mark.ledger("B3")
async def test_latest_is_the_newest_version_that_can_be_used(plane: Any, client: Client) -> None:
    service = plane.core.services.get(RegistryService)
    db = plane.core.db
    await seed(plane, count=2)
    new = NewVersion("default", "churn", "onnx")
    begun = await db.write(lambda tx: service.begin_version(tx, new))
    assert begun.number == 3

    async def latest() -> int:
        return (await client.registry.GetVersion(pb.GetVersionRequest(name="churn@latest"))).version.number

    assert await latest() == 2, "a version in the making has no artifact"
    await db.write(lambda tx: service.fail_version(tx, begun.id, "the gate said no", {"auc": 0.5}))
    assert await latest() == 2, "a failed one never gets one"
    failed = (await client.registry.GetVersion(pb.GetVersionRequest(name="churn@3"))).version
    assert failed.status == Status.VERSION_STATUS_FAILED and dict(failed.metrics) == {"auc": 0.5}
    assert failed.artifact_path == ""
    for step in (Status.VERSION_STATUS_DEPRECATED, Status.VERSION_STATUS_ARCHIVED):
        await client.registry.UpdateVersionStatus(pb.UpdateVersionStatusRequest(name="churn@2", status=step))
    assert await latest() == 1, "an archived one is gone"
    await client.registry.UpdateVersionStatus(
        pb.UpdateVersionStatusRequest(name="churn@2", status=Status.VERSION_STATUS_DEPRECATED)
    )
    assert await latest() == 2, "an undeleted one is back"


@pytest.mark.ledger("B3")
@pytest.mark.parametrize("few", [1000, 2], ids=["rare tags", "common tags"])
async def test_lists_are_filtered_by_any_of_the_tags_and_statuses_ordered_and_paged(
    plane: Any, client: Client, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """The oracle is plain Python over what was put in; rare and common tags are looked up in two ways."""
    monkeypatch.setattr(registry_lists, "FEW", few)
    rows = []
    for i in range(1, 24):
        tags = {"team": ["risk", "growth", "ops"][i % 3], **({"gpu": "a100"} if i % 4 == 0 else {})}
        model = "churn" if i % 2 else "fraud"
        (number,) = await seed(plane, model, tags=tags, metrics={"auc": i % 7 / 10} if i % 5 else {})
        if i % 6 == 0:
            ref = f"{model}@{number}"
            deprecated = pb.UpdateVersionStatusRequest(name=ref, status=Status.VERSION_STATUS_DEPRECATED)
            await client.registry.UpdateVersionStatus(deprecated)
        rows.append((model, number, tags, i % 7 / 10 if i % 5 else None, i % 6 == 0))

    async def every(**asked: Any) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        token = ""
        while True:
            page = await client.registry.ListVersions(pb.ListVersionsRequest(page_size=4, page_token=token, **asked))
            assert len(page.versions) <= 4
            found += [(v.model, v.number) for v in page.versions]
            token = page.next_page_token
            if not token:
                return found

    def expect(keep: Callable[[Any], bool]) -> set[tuple[str, int]]:
        return {(model, number) for model, number, *rest in rows if keep((model, number, *rest))}

    everything = await every()
    assert len(everything) == 23 and set(everything) == expect(lambda r: True)
    assert [n for _, n in everything] == sorted((n for _, n in everything), reverse=True)
    assert set(await every(any_tags=["team=risk", "gpu"])) == expect(lambda r: r[2]["team"] == "risk" or "gpu" in r[2])
    assert set(await every(any_tags=["team=nobody"])) == set()
    assert set(await every(statuses=[Status.VERSION_STATUS_DEPRECATED])) == expect(lambda r: r[4])
    both = [Status.VERSION_STATUS_DEPRECATED, Status.VERSION_STATUS_STAGING]
    assert len(await every(statuses=both)) == 23
    churn = await every(parent="projects/default/models/churn", order_by="number")
    assert churn == [("churn", n) for n in range(1, 13)]
    assert set(await every(parent="projects/default/models/-", any_tags=["gpu=a100"])) == expect(
        lambda r: "gpu" in r[2]
    )
    filtered = await every(filter='tags.team = "growth" AND NOT status = "deprecated"')
    assert set(filtered) == expect(lambda r: r[2]["team"] == "growth" and not r[4])
    good = await every(filter="metrics.auc >= 0.4", order_by="metrics.auc desc")
    assert set(good) == expect(lambda r: r[3] is not None and r[3] >= 0.4)
    value = {(m, n): auc for m, n, _, auc, _ in rows}
    ordered = await every(order_by="metrics.auc desc")
    known = [value[key] for key in ordered if value[key] is not None]
    assert known == sorted(known, reverse=True) and all(value[key] is None for key in ordered[len(known) :])
    for wrong in ({"filter": "nothing = 1"}, {"order_by": "shoes"}, {"page_token": "xyz"}, {"any_tags": ["a b=c"]}):
        assert isinstance(
            await error_of(client.registry.ListVersions(pb.ListVersionsRequest(**wrong))), InvalidArgument
        )
    page = await client.registry.ListVersions(pb.ListVersionsRequest(page_size=4))
    moved = pb.ListVersionsRequest(page_size=4, page_token=page.next_page_token, any_tags=["gpu"])
    assert isinstance(await error_of(client.registry.ListVersions(moved)), InvalidArgument), "a token of another list"


@pytest.mark.ledger("B3")
async def test_models_are_listed_by_tags_ordered_and_paged(client: Client) -> None:
    for i in range(7):
        tags = {"team": "risk" if i % 2 else "growth"}
        await client.registry.CreateModel(pb.CreateModelRequest(model_id=f"m{i}", tags=tags))
    await client.registry.CreateModel(pb.CreateModelRequest(project="other", model_id="m1", tags={"team": "ops"}))

    async def names(**asked: Any) -> list[str]:
        page = await client.registry.ListModels(pb.ListModelsRequest(**asked))
        found = [m.name.rpartition("/")[2] for m in page.models]
        return found + (await names(**{**asked, "page_token": page.next_page_token}) if page.next_page_token else [])

    assert await names(page_size=2) == [f"m{i}" for i in range(7)]
    assert await names(any_tags=["team=risk"], page_size=1) == ["m1", "m3", "m5"]
    assert await names(order_by="create_time desc", page_size=3) == [f"m{i}" for i in reversed(range(7))]
    assert await names(filter='tags.team = "ops"') == [], "tags of another project's model of that name"
    assert await names(filter='tags.team = "growth" AND name > "m3"') == ["m4", "m6"]
    assert await names(project="other") == ["m1"]


HAND = {
    ("staging", "deprecated"), ("deprecated", "staging"), ("deprecated", "archived"), ("archived", "deprecated"),
}  # fmt: skip
MACHINE = {
    "training": {"evaluating", "failed"}, "evaluating": {"staging", "failed"}, "staging": {"production", "deprecated"},
    "production": {"staging"}, "deprecated": {"staging", "archived"}, "failed": set(), "archived": {"deprecated"},
}  # fmt: skip


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
