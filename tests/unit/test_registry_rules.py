"""Names, paths, transitions and comparisons, against rules written out by hand."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.errors import FailedPrecondition, InvalidArgument
from pilotfish_control_plane import names
from pilotfish_control_plane.artifacts.paths import path_problem
from pilotfish_control_plane.experiments import rules as experiment_rules
from pilotfish_control_plane.experiments.model import Point
from pilotfish_control_plane.names import (
    AlertName,
    DeploymentName,
    DeploymentRef,
    FiringName,
    JobName,
    ModelName,
    ReplicaName,
    ResourceName,
    RolloutName,
    VersionName,
    VersionRef,
)
from pilotfish_control_plane.registry import rules
from pilotfish_control_plane.registry.model import Mover, VersionStatus

ids = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


KINDS = [
    c for c in vars(names).values() if isinstance(c, type) and issubclass(c, ResourceName) and c is not ResourceName
]


@pytest.mark.parametrize("cls", KINDS)
@given(data=st.data())
def test_every_name_is_read_back_as_it_was_written(cls: type[ResourceName], data: st.DataObject) -> None:
    values = {f.name: data.draw(st.integers(1, 10**17) if f.name == "number" else ids) for f in dataclasses.fields(cls)}
    made = cls(**values)
    assert cls.parse(str(made)) == made == cls.read(str(made))
    with pytest.raises(InvalidArgument):
        cls.parse(str(made) + "/x/y")


def test_names_are_written_as_the_contract_says() -> None:
    assert str(ModelName("p", "m")) == "projects/p/models/m"
    assert str(VersionName("p", "m", 7)) == "projects/p/models/m/versions/7"
    assert str(DeploymentName("p", "e", "d")) == "projects/p/endpoints/e/deployments/d"
    assert str(ReplicaName("p", "e", "d", "r")) == "projects/p/endpoints/e/deployments/d/replicas/r"
    assert str(RolloutName("p", "e", "r")) == "projects/p/endpoints/e/rollouts/r"
    assert str(JobName("p", "l", "j")) == "projects/p/pipelines/l/jobs/j"
    assert str(FiringName("p", "r", "f")) == "projects/p/rules/r/firings/f"
    assert str(AlertName("p", "a")) == "projects/p/alerts/a"
    assert ModelName.read("churn") == ModelName("default", "churn")
    assert ModelName.read("models/churn", project="p") == ModelName("p", "churn")
    assert JobName.read("pipelines/l/jobs/j") == JobName("default", "l", "j")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m@7", ("default", "m", "7", 7)),
        ("m@champion", ("default", "m", "champion", None)),
        ("m@2.1.0", ("default", "m", "2.1.0", None)),
        ("m", ("default", "m", "latest", None)),
        ("projects/p/models/m", ("p", "m", "latest", None)),
        ("projects/p/models/m/versions/12", ("p", "m", "12", 12)),
        ("projects/p/models/m@12", ("p", "m", "12", 12)),
    ],
)
def test_a_reference_names_project_model_and_version(text: str, expected: tuple[str, str, str, int | None]) -> None:
    ref = VersionRef.parse(text)
    assert (ref.project, ref.model, ref.which, ref.number) == expected


@pytest.mark.parametrize(
    "text",
    ["", "m@", "@1", "m@0", "m@007", "m@-1", "M@1", "m@a b", "m@1@2", "a/b", "projects/p", "projects/p/models/",
     "projects/p/models/m/versions/", "projects/p/models/m/versions/1/2", "projects//models/m", "projects/p/versions/1",
     "m@" + "9" * 30, "m\n", "m@1\n", "../m@1", "projects/p/models/../versions/1", "m@٣"],
)  # fmt: skip
def test_what_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        VersionRef.parse(text)


def test_a_deployment_is_named_in_full_or_by_endpoint_and_stage() -> None:
    assert DeploymentRef.parse("e/canary") == DeploymentRef("default", "e", stage="canary")
    full = "projects/p/endpoints/e/deployments/d"
    assert DeploymentRef.parse(full) == DeploymentRef("p", "e", deployment="d")
    assert str(DeploymentRef.parse(full)) == full
    for bad in ("e", "e/", "e/prod", "/canary", "e/canary/x", "projects/p/endpoints/e"):
        with pytest.raises(InvalidArgument):
            DeploymentRef.parse(bad)


@given(st.text(max_size=40))
def test_whatever_path_is_allowed_stays_below_its_directory(path: str) -> None:
    if path_problem(path):
        return
    parts = path.split("/")
    assert not path.startswith("/") and "\\" not in path and "\x00" not in path
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        folded = unicodedata.normalize(form, path)
        assert not folded.startswith("/") and ".." not in folded.split("/") and "" not in folded.split("/")
    assert all(part not in ("", ".", "..") for part in parts)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "~", "b c", "x.onnx"]), min_size=1, max_size=5).map("/".join))
def test_no_path_with_a_step_up_is_allowed(path: str) -> None:
    if set(path.split("/")) & {"..", ".", ""}:
        assert path_problem(path)
    else:
        assert not path_problem(path)


# The arrows of the state machine, written out.
ARROWS = {
    ("training", "evaluating"), ("evaluating", "staging"), ("staging", "production"), ("production", "staging"),
    ("training", "failed"), ("evaluating", "failed"), ("staging", "deprecated"), ("deprecated", "staging"),
    ("deprecated", "archived"), ("archived", "deprecated"),
}  # fmt: skip


def test_the_table_of_transitions_is_the_state_machine() -> None:
    assert {(a.value, b.value) for a, b in rules.TRANSITIONS} == ARROWS
    for mover, (before, after) in itertools.product(Mover, itertools.product(VersionStatus, VersionStatus)):
        if before is after:
            assert rules.transition("m@1", before, after, mover) == []
            continue
        if rules.TRANSITIONS.get((before, after)) is mover:
            assert rules.transition("m@1", before, after, mover) == [after]
            continue
        if (mover, before.value, after.value) == (Mover.DEPLOYMENT, "deprecated", "production"):
            # A rollback may take a deprecated version: by two allowed steps.
            assert [s.value for s in rules.transition("m@1", before, after, mover)] == ["staging", "production"]
            continue
        with pytest.raises(FailedPrecondition) as caught:
            rules.transition("m@1", before, after, mover)
        allowed = {v.field for v in caught.value.violations}
        assert allowed == {b for a, b in ARROWS if a == before.value}
        assert all(f"{before.value}" in text for text in (caught.value.message,))


def test_tags_are_asked_for_by_key_or_by_key_and_value() -> None:
    assert rules.tag_filters(["team", "team=risk", "a/b=", "team"]) == [("team", None), ("team", "risk"), ("a/b", "")]
    for bad in ([""], ["=x"], ["a b"], ["x"] * 65):
        with pytest.raises(InvalidArgument):
            rules.tag_filters(bad)


def test_the_newest_value_is_that_of_the_highest_step_however_the_points_come() -> None:
    points = [Point("loss", 3, 0.3), Point("loss", 1, 0.9), Point("acc", 0, 0.5), Point("loss", 3, 0.2)]
    assert experiment_rules.newest({}, points) == {"loss": (3, 0.2), "acc": (0, 0.5)}
    assert experiment_rules.newest({"loss": (9, 0.1)}, points)["loss"] == (9, 0.1)
