"""Requests from plain values and back: words for enums, paths in errors, times, structs, maps."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from pilotfish.errors import InvalidArgument
from pilotfish.messages import build, enum_text, enum_value, plain, timestamp
from pilotfish.v1 import common_pb2, deployment_pb2, lifecycle_pb2, monitoring_pb2, registry_pb2, training_pb2


@pytest.mark.parametrize(
    ("word", "number"),
    [("canary", 3), ("CANARY", 3), ("STAGE_CANARY", 3), ("stage-canary", 3), (3, 3), ("production", 4)],
)
def test_a_word_is_its_full_name_or_the_name_without_prefix(word: str | int, number: int) -> None:
    assert enum_value(deployment_pb2.Stage.DESCRIPTOR, word) == number


@pytest.mark.parametrize(
    ("sign", "word"), [("<", "less_than"), ("<=", "less_than_or_equal"), (">=", "greater_than_or_equal")]
)
def test_a_comparison_may_be_its_sign(sign: str, word: str) -> None:
    number = enum_value(common_pb2.Comparison.DESCRIPTOR, sign)
    assert enum_text(common_pb2.Comparison.DESCRIPTOR, number) == word


def test_an_unknown_word_is_refused_with_its_path_and_all_that_are_known() -> None:
    with pytest.raises(InvalidArgument) as caught:
        build(deployment_pb2.RolloutPlan, {"strategy": "blue_green"}, "plan")
    [violation] = caught.value.violations
    assert violation.field == "plan.strategy" and "canary, all_at_once" in violation.description


def test_every_word_of_every_enum_comes_back() -> None:
    kinds = [
        enum
        for module in (common_pb2, deployment_pb2, lifecycle_pb2, monitoring_pb2, registry_pb2, training_pb2)
        for enum in module.DESCRIPTOR.enum_types_by_name.values()
    ]
    assert len(kinds) > 10
    for kind in kinds:
        assert enum_text(kind, 0) == ""
        for value in kind.values:
            if value.number:
                assert enum_value(kind, enum_text(kind, value.number)) == value.number
        assert enum_text(kind, 999) == "999"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"tigers": 1}, "rule.tigers"),
        ({"triggers": [{"type": "x"}, {"typ": "x"}]}, "rule.triggers[1].typ"),
        ({"actions": [{"parameters": [1]}]}, "rule.actions[0].parameters"),
        ({"conditions": [{"bound": "high"}]}, "rule.conditions[0].bound"),
        ({"cooldown_s": "soon"}, "rule.cooldown_s"),
        ({"create_time": "yesterday"}, "rule.create_time"),
        ({"triggers": "data_drift"}, "rule.triggers"),
        ({"triggers": [5]}, "rule.triggers"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_path(value: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build(lifecycle_pb2.Rule, value, "rule")
    assert caught.value.violations[0].field.startswith(path)


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be a mapping"):
        build(lifecycle_pb2.Rule, ["x"], "rule")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(InvalidArgument):
        build(registry_pb2.Model, {"tags": "team"}, "model")


def test_values_of_every_shape_arrive() -> None:
    at = datetime(2026, 11, 23, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    made = build(
        lifecycle_pb2.Rule,
        {
            "enabled": False,
            "cooldown_s": 5,
            "create_time": at,
            "update_time": "2026-11-23T10:30:00Z",
            "triggers": [lifecycle_pb2.RuleTrigger(type="schedule"), {"type": "data_drift", "stages": ["canary"]}],
            "actions": [{"type": "send_alert", "parameters": {"a": [1, {"b": None}], "c": "x"}}],
            "description": None,
        },
    )
    assert made.HasField("enabled") and not made.enabled
    assert made.create_time == made.update_time == Timestamp(seconds=1795429800)
    assert [t.type for t in made.triggers] == ["schedule", "data_drift"]
    assert plain(made)["actions"][0]["parameters"] == {"a": [1.0, {"b": None}], "c": "x"}
    assert build(lifecycle_pb2.Rule, made) is made and build(lifecycle_pb2.Rule, None) == lifecycle_pb2.Rule()


def test_a_single_value_may_stand_for_a_list_of_one() -> None:
    assert list(build(training_pb2.FeatureConfig, {"features": "amount"}).features) == ["amount"]


def test_an_empty_section_is_present_and_an_absent_one_is_not() -> None:
    assert build(deployment_pb2.DeploymentConfig, {"resources": {}}).HasField("resources")
    assert not build(deployment_pb2.DeploymentConfig, {}).HasField("resources")


def test_a_time_without_zone_is_utc() -> None:
    found = timestamp(datetime(1970, 1, 1, 0, 1))
    assert found is not None and found.seconds == 60
    assert timestamp(None) is None


def test_complete_values_name_zeros_and_leave_out_what_is_unset() -> None:
    verdict = common_pb2.CriterionVerdict(n=0)
    assert plain(verdict) == {}
    assert plain(verdict, complete=True) == {"verdict": "", "bound": 0.0, "n": 0, "explanation": ""}
    verdict.value = 0.0
    assert plain(verdict)["value"] == 0.0


@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, width=32), max_size=8), st.randoms())
def test_maps_come_back_sorted_by_name(metrics: dict[str, float], order: random.Random) -> None:
    keys = list(metrics)
    order.shuffle(keys)
    found = plain(registry_pb2.Version(metrics={k: metrics[k] for k in keys}))
    assert list(found.get("metrics", {}).items()) == sorted(metrics.items())


def test_plain_values_make_the_same_message_again() -> None:
    made = build(
        deployment_pb2.Deployment,
        {
            "id": "d",
            "stage": "canary",
            "state": "ready",
            "create_time": datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
            "config": {
                "scaling": {"replicas": 0},
                "monitoring": {"drift_detection": {"enabled": False, "scales": [1, 4]}},
            },
            "replicas": [{"id": "r", "state": "ready", "link": "connected"}],
        },
    )
    for complete in (False, True):
        assert build(deployment_pb2.Deployment, plain(made, complete=complete)).SerializeToString() == _full(
            made, complete
        )


def _full(message: deployment_pb2.Deployment, complete: bool) -> bytes:
    # What is named at its default is the same message: only sections can be present and empty.
    again = build(deployment_pb2.Deployment, plain(message, complete=complete))
    assert again == message
    return again.SerializeToString()
