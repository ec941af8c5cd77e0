"""A configuration is taken whole with its defaults, or refused with everything that is wrong."""

from __future__ import annotations

import random

import pytest

from pilotfish.errors import InvalidArgument
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish_sidecar.accounts import Accounts, Request
from pilotfish_sidecar.backoff import Backoff
from pilotfish_sidecar.config import parse_config, parse_signature
from pilotfish_sidecar.rows import Who
from tests.sidecar_fleet import FEATURES, reference, sidecar_config


def test_defaults_are_those_of_the_contract() -> None:
    config = fleet.SidecarConfig(bindings=[fleet.ReplicaBinding(replica="r1", deployment="d1")])
    (binding,) = parse_config(config)
    assert binding.who == Who("d1", "r1") and binding.profile is None
    assert (binding.learn_rows, binding.sample_bp) == (5000, 10_000)
    assert binding.drift is not None
    assert (binding.drift.method, binding.drift.window_size, binding.drift.min_rows) == ("calibrated", 1000, 100)
    assert (binding.drift.scales, binding.drift.time_limit_s, binding.drift.threshold) == ((1, 4, 16), 300.0, None)
    assert binding.signature.inputs == ()


def test_everything_that_is_given_is_taken() -> None:
    profile = reference()
    config = sidecar_config(profile=profile, method="psi", window_size=200, sample_bp=0).sidecar
    config.bindings[0].monitoring.drift_detection.scales.extend([4, 2])
    config.bindings[0].monitoring.drift_detection.threshold = 0.5
    (binding,) = parse_config(config)
    assert binding.profile is not None and binding.profile.id == profile.id
    assert binding.signature.feature_names == FEATURES and binding.sample_bp == 0
    assert binding.drift is not None
    assert (binding.drift.method, binding.drift.scales, binding.drift.threshold) == ("psi", (1, 2, 4), 0.5)


def test_drift_can_be_switched_off() -> None:
    config = sidecar_config().sidecar
    config.bindings[0].monitoring.drift_detection.enabled = False
    assert parse_config(config)[0].drift is None


def test_fewer_than_a_hundred_rows_never_get_a_verdict() -> None:
    config = sidecar_config(window_size=1000).sidecar
    config.bindings[0].monitoring.drift_detection.min_sample = 5
    drift = parse_config(config)[0].drift
    assert drift is not None and drift.min_rows == 100


def test_all_problems_are_named_at_once() -> None:
    config = sidecar_config(method="magic", window_size=7, learn_rows=5, signature="{nope").sidecar
    config.bindings[0].monitoring.sample_bp = 10_001
    config.bindings[0].profile_json = '{"version": 99}'
    config.bindings.append(config.bindings[0])
    config.bindings.append(fleet.ReplicaBinding())
    with pytest.raises(InvalidArgument) as caught:
        parse_config(config)
    fields = {violation.field.removeprefix("bindings[0].") for violation in caught.value.violations}
    drift = "monitoring.drift_detection"
    assert {f"{drift}.method", f"{drift}.window_size", f"{drift}.learn_rows", "monitoring.sample_bp"} <= fields
    assert {"profile_json", "signature_json", "bindings", "bindings[2].replica", "bindings[2].deployment"} <= fields


@pytest.mark.parametrize("text", ["[]", '{"inputs": {}}', '{"inputs": [{}]}', '{"feature_names": [1]}', "[" * 100_000])
def test_a_signature_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_signature(text)


# The agent's books


def test_a_request_is_remembered_for_ten_minutes_and_no_longer() -> None:
    accounts = Accounts()
    accounts.apply({"request": (Request.digest(b"a"), "body", 3, 1000.0)})
    assert accounts.recall("a", 1599.0) is not None
    assert accounts.recall("a", 1601.0) is None and accounts.recall("b", 1000.0) is None
    accounts.apply({"request": (Request.digest(b"b"), "body", 1, 1700.0)})
    assert list(accounts.requests) == [Request.digest(b"b")]


def test_the_books_of_a_tap_are_closed_once() -> None:
    accounts = Accounts()
    books = {"tap": "aa", "replica": "r1", "served": 10, "captured": 7, "dropped": {"crash": 3}}
    accounts.apply({"tap": ("aa", 7, 7, {})})
    accounts.apply({"books": books})
    accounts.apply({"books": books})
    again = Accounts.from_json(accounts.to_json())
    assert (again.closed["r1"].served, again.closed["r1"].captured) == (10, 7)
    assert again.closed["r1"].dropped == {"crash": 3} and again.tap_marks == {}


def test_the_books_survive_as_json() -> None:
    accounts = Accounts()
    accounts.apply(
        {"tap": ("aa", 7, 5, {"stripped": 2}), "undecodable": {"r1": {"bad_protobuf": 2}}, "logged": ("r1", 4)}
    )
    accounts.apply({"undecodable": {"r1": {"bad_protobuf": 1}}, "request": (Request.digest(b"a"), "b", 3, 5.0)})
    again = Accounts.from_json(accounts.to_json())
    assert again.tap_marks == {"aa": 7} and again.undecodable == {"r1": {"bad_protobuf": 3}}
    assert again.logged == {"r1": 4} and again.recall("a", 5.0) == Request(Request.digest(b"a"), "b", 3, 5.0)


# Waiting


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_waiting_is_quick_at_first_and_never_longer_than_half_a_minute(seed: int) -> None:
    backoff = Backoff(random.Random(seed))
    delays = [backoff.next_s() for _ in range(200)]
    assert all(0.2 <= delay <= 1.0 for delay in delays[:3])
    assert all(0.2 <= delay <= 30.0 for delay in delays)
    assert max(delays[20:]) > 20 and min(delays[20:]) < 5
    backoff.reset()
    assert backoff.next_s() <= 1.0
