"""Versions through real calls: registered, found and listed, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct

from pilotfish.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from pilotfish.v1 import registry_pb2
from pilotfish.v1 import registry_service_pb2 as pb
from pilotfish_control_plane.registry.model import NewVersion
from pilotfish_control_plane.registry.service import RegistryService
from pilotfish_control_plane.storage import registry_lists
from tests.registry_models import Client, bare_files, profile_json, whole_files

from .registry_calls_world import AREAS, Status, error_of, seed


@pytest_asyncio.fixture
async def plane(make_control_plane: Any, engine_name: str) -> AsyncIterator[Any]:
    yield await make_control_plane(areas=AREAS, engine=engine_name)


@pytest.fixture
def client(plane: Any) -> Client:
    return Client(plane.channel)


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
