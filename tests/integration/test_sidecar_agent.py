"""The agent against a control plane that speaks the real wire, in one process."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, PilotfishError
from pilotfish.stats import WindowCounts, count_window
from pilotfish.v1 import fleet_service_pb2 as fleet
from pilotfish.v1 import monitoring_pb2 as monitoring
from pilotfish.v1 import sidecar_service_pb2 as pb
from pilotfish.v1 import sidecar_service_pb2_grpc as pb_grpc
from pilotfish.wire_errors import from_rpc_error
from pilotfish_sidecar.agent import Agent, AgentSettings
from pilotfish_sidecar.ending import end_tasks
from pilotfish_sidecar.frames import Draft, Kind
from pilotfish_sidecar.health import HealthProbe, parse_target
from pilotfish_sidecar.rows import Who
from pilotfish_sidecar.spool import SpoolLimits
from pilotfish_sidecar.uplink import UplinkSettings
from tests.sidecar_fleet import FEATURES, AgentProcess, Caller, FakeFleet, eventually, reference, sidecar_config


class Bench:
    """A fake control plane, a directory, and agents and callers in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fleet = FakeFleet(config=sidecar_config(profile=reference()))
        self.agent: Agent | None = None
        self.callers: list[Caller] = []

    async def start_agent(self, **changes: Any) -> Agent:
        """Start an agent on this directory."""
        token = self.directory / "token"
        token.write_text("secret-token\n")
        who = changes.pop("who", Who("d1", "r1", "fraud", "fraud", 7))
        settings = AgentSettings(
            self.directory, "sidecar-r1", UplinkSettings(self.fleet.address, token), self.directory / "tap.sock",
            self.directory / "tap.counters", self.directory / "spool", self.directory / "log.sock", who, **changes,
        )  # fmt: skip
        self.agent = Agent(settings)
        await self.agent.start()
        return self.agent

    async def stop_agent(self) -> None:
        """Stop it cleanly."""
        if self.agent is not None:
            agent, self.agent = self.agent, None
            await agent.stop()

    def caller(self, **settings: Any) -> Caller:
        """Return a tap that the test feeds."""
        self.callers.append(Caller(self.directory, **settings))
        return self.callers[-1]

    def log_channel(self) -> Any:
        """Return a channel to the log API."""
        return grpc.aio.insecure_channel(f"unix:{self.directory / 'log.sock'}")


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.fleet.start()
    yield made
    for caller in made.callers:
        await asyncio.to_thread(caller.tap.close)
    await made.stop_agent()
    await made.fleet.stop()
    assert made.fleet.problems == []


def prediction_batch(rows: int, *, first: int = 0, **fields: Any) -> monitoring.PredictionBatch:
    rng = np.random.default_rng(first)
    batch = monitoring.PredictionBatch(prediction_ids=[f"l{first + i}" for i in range(rows)], **fields)
    for name in FEATURES:
        data = rng.normal(size=rows).astype("<f4").tobytes()
        batch.columns.add(name=name, group=monitoring.COLUMN_GROUP_INPUT, datatype="FP32", data=data)
    data = rng.normal(size=rows).astype("<f4").tobytes()
    batch.columns.add(name="prediction", group=monitoring.COLUMN_GROUP_OUTPUT, datatype="FP32", data=data)
    return batch


# Capture to control plane


async def test_every_call_arrives_once_with_windows_outcomes_and_counts(bench: Bench) -> None:
    await bench.start_agent()
    caller = bench.caller()
    caller.serve(350)
    caller.serve(25, code=13)
    fleet_ = bench.fleet
    await eventually(lambda: len(fleet_.ids()) == 375, what="rows")
    await eventually(lambda: len(fleet_.of("windows")) == 3, what="windows")
    await eventually(lambda: sum(r.calls for r in fleet_.of("outcomes")) == 375, what="outcomes")
    assert sorted(fleet_.ids()) == sorted(caller.sent)
    assert sum(r.errors["INTERNAL"] for r in fleet_.of("outcomes")) == 25
    await eventually(
        lambda: fleet_.states and fleet_.states[-1].replicas[0].capture.captured == 375, what="capture counts"
    )
    state = fleet_.states[-1].replicas[0]
    assert (state.replica, state.healthy, state.capture.served, state.capture.in_flight) == ("r1", True, 375, 0)
    assert fleet_.tokens == ["Bearer secret-token"]
    hello = fleet_.hellos[0]
    assert (hello.instance, hello.kind, list(hello.replicas)) == ("sidecar-r1", fleet.MEMBER_KIND_SIDECAR, ["r1"])
    assert fleet_.acks[0].error == "" and fleet_.acks[0].nonce == "n1"


async def test_the_counts_of_the_windows_are_those_of_the_rows(bench: Bench) -> None:
    await bench.start_agent()
    caller = bench.caller(seed=5)
    caller.serve(200)
    await eventually(lambda: len(bench.fleet.of("windows")) == 2)
    values = np.random.default_rng(5).normal(size=(200, 3)).astype(np.float32)
    inputs = {name: values[:, i] for i, name in enumerate(FEATURES)}
    expected = count_window(reference(), inputs, {"prediction": values.sum(axis=1)}).bins
    found = sum(WindowCounts.from_bytes(window.counts[0].counts).bins for window in bench.fleet.of("windows"))
    assert np.array_equal(found, expected)


async def test_a_row_is_at_the_control_plane_within_a_fraction_of_a_second(bench: Bench) -> None:
    await bench.start_agent()
    caller = bench.caller()
    caller.serve(1)
    await eventually(lambda: len(bench.fleet.ids()) == 1)
    await eventually(lambda: bench.fleet.acks)
    delays = []
    for _ in range(10):
        before = len(bench.fleet.ids())
        begun = time.monotonic()
        caller.serve(1)
        await eventually(lambda before=before: len(bench.fleet.ids()) > before)
        delays.append(bench.fleet.arrivals[-1][0] - begun)
        await asyncio.sleep(0.05)
    assert sorted(delays)[5] < 0.3, delays


async def test_calls_before_the_first_configuration_wait_and_are_decoded_by_it(bench: Bench) -> None:
    config, bench.fleet.config = bench.fleet.config, None
    agent = await bench.start_agent()
    caller = bench.caller()
    caller.serve(300)
    await eventually(lambda: caller.tap._counters.read().captured == 300, what="calls acknowledged")
    assert bench.fleet.ids() == [] and agent.spool.size_bytes > 0
    await bench.stop_agent()
    await bench.start_agent()
    caller.serve(100)
    bench.fleet.config = config
    await eventually(lambda: bench.fleet.hellos and len(bench.fleet.hellos) == 2)
    bench.fleet.push(config=config)
    await eventually(lambda: len(bench.fleet.ids()) == 400, what="rows")
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)
    await eventually(lambda: len(bench.fleet.of("windows")) == 4, what="windows")
    await eventually(lambda: sum(r.calls for r in bench.fleet.of("outcomes")) == 400, what="outcomes")


async def test_calls_that_wait_are_decoded_without_a_control_plane_once_a_configuration_is_kept(bench: Bench) -> None:
    config, bench.fleet.config = bench.fleet.config, None
    agent = await bench.start_agent()
    caller = bench.caller()
    caller.serve(50)
    await eventually(lambda: caller.tap._counters.read().captured == 50)
    assert config is not None
    agent.intake.store_config(config)
    await eventually(lambda: len(bench.fleet.ids()) == 50)


async def test_undecodable_calls_are_counted_by_reason_and_captured(bench: Bench) -> None:
    await bench.start_agent()
    caller = bench.caller()
    await eventually(lambda: bench.fleet.acks)
    for body in (b"\xff", b"", b"\x0a\x01"):
        caller.tap.record("/inference.GRPCInferenceService/ModelInfer", body, b"", 0, 1, 1, "x")
    caller.serve(1)
    await eventually(
        lambda: bench.fleet.states and sum(bench.fleet.states[-1].replicas[0].capture.undecodable.values()) == 3
    )
    assert bench.fleet.states[-1].replicas[0].capture.captured == 4
    await bench.stop_agent()
    agent = await bench.start_agent()
    assert sum(agent.books.counts()["r1"].undecodable.values()) == 3


async def test_hostile_bytes_on_the_tap_socket_end_their_connection_and_nothing_else(bench: Bench) -> None:
    agent = await bench.start_agent()
    caller = bench.caller()
    rng = np.random.default_rng(1)
    for size in (1, 11, 100, 5000):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(bench.directory / "tap.sock"))
            raw.sendall(rng.bytes(size))
    caller.serve(50)
    await eventually(lambda: len(bench.fleet.ids()) == 50)
    assert stat.S_IMODE((bench.directory / "tap.sock").stat().st_mode) == 0o600
    assert agent.receiver.stats.refused >= 1


async def test_the_books_of_a_server_that_ended_are_closed_and_stay_in_the_counts(bench: Bench) -> None:
    agent = await bench.start_agent()
    caller = bench.caller()
    await eventually(lambda: bench.fleet.acks)
    caller.serve(30)
    await eventually(lambda: caller.tap._counters.read().captured == 30)
    # A process that died with three calls in its memory, as its counters tell.
    counters = bench.directory / "tap.counters.dead"
    data = bytearray((bench.directory / "tap.counters").read_bytes())
    data[12:16] = (2**22 + 5).to_bytes(4, "little")
    data[24:40] = b"D" * 16
    data[256:264] = (33).to_bytes(8, "little")
    counters.write_bytes(bytes(data))
    await eventually(lambda: "44" * 16 in agent.intake.accounts.closed_taps, what="closed")
    counts = agent.books.counts()["r1"]
    assert (counts.served, counts.captured, counts.in_flight) == (63, 60, 0)
    assert dict(counts.dropped) == {"crash": 3}
    assert not counters.exists()
    await bench.stop_agent()
    agent = await bench.start_agent()
    assert agent.books.counts()["r1"] == counts


async def test_nothing_is_acknowledged_before_it_is_durable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await bench.start_agent()
    await eventually(lambda: bench.fleet.acks)
    caller = bench.caller()
    durable, wait = asyncio.Event(), agent.spool.commit.wait_durable

    async def slow(lsn: int) -> None:
        await durable.wait()
        await wait(lsn)

    monkeypatch.setattr(agent.spool.commit, "wait_durable", slow)
    caller.serve(20)
    async with bench.log_channel() as channel:
        request = pb.SidecarServiceLogPredictionsRequest(batch=prediction_batch(5))
        logged = asyncio.ensure_future(pb_grpc.SidecarServiceStub(channel).LogPredictions(request))
        await asyncio.sleep(0.5)
        assert (caller.tap._counters.read().captured, logged.done(), bench.fleet.ids()) == (0, False, [])
        durable.set()
        assert (await logged).stored == 5
    await eventually(lambda: caller.tap._counters.read().captured == 20)
    await eventually(lambda: len(bench.fleet.ids()) == 25)


# The link


async def test_a_control_plane_that_is_away_for_a_while_gets_everything_afterwards(bench: Bench) -> None:
    await bench.start_agent()
    caller = bench.caller()
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.ids()) == 100)
    await bench.fleet.stop()
    caller.serve(250)
    await asyncio.sleep(1.5)
    assert caller.tap._counters.read().captured == 350
    begun = time.monotonic()
    await bench.fleet.start()
    await eventually(lambda: len(bench.fleet.ids()) == 350 and len(bench.fleet.of("windows")) == 3)
    assert time.monotonic() - begun < 8
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)


async def test_lost_acknowledgements_double_nothing(bench: Bench) -> None:
    bench.fleet.lose_acks = True
    await bench.start_agent()
    caller = bench.caller()
    caller.serve(300)
    await eventually(lambda: len(bench.fleet.ids()) == 300 and len(bench.fleet.of("windows")) == 3)
    await bench.fleet.stop()
    bench.fleet.lose_acks = False
    # An older watermark too: what is still held is sent again, and offsets tell that it is the same.
    bench.fleet.watermarks = {key: offset // 2 for key, offset in bench.fleet.watermarks.items()}
    await bench.fleet.start()
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.ids()) == 400)
    await eventually(lambda: bench.agent is not None and bench.agent.spool.unacknowledged()[0] == 0)
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)
    assert [window.rows for window in bench.fleet.of("windows")] == [100] * 4


async def test_a_control_plane_that_lost_its_newest_rows_gets_again_what_is_still_held(bench: Bench) -> None:
    agent = await bench.start_agent()
    caller = bench.caller()
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.ids()) == 100)
    await eventually(lambda: agent.spool.unacknowledged()[0] == 0)
    await bench.fleet.stop()
    key = (agent.spool.incarnation, "predictions")
    bench.fleet.watermarks[key] = 60
    for offset in range(60, 100):
        del bench.fleet.rows[key][offset]
    await bench.fleet.start()
    await eventually(lambda: sorted(bench.fleet.ids()) == sorted(caller.sent))


async def test_a_newer_watermark_than_ours_is_taken_and_nothing_is_sent_below_it(bench: Bench) -> None:
    agent = await bench.start_agent()
    caller = bench.caller()
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.ids()) == 100)
    await bench.fleet.stop()
    key = (agent.spool.incarnation, "predictions")
    bench.fleet.watermarks[key] = 140
    await bench.fleet.start()
    await eventually(lambda: len(bench.fleet.hellos) == 2)
    caller.serve(10)
    await eventually(lambda: len(bench.fleet.ids()) == 110)
    assert min(offset for offset in bench.fleet.rows[key] if offset >= 100) == 140


async def test_a_frozen_control_plane_is_noticed_by_its_heartbeats(bench: Bench) -> None:
    await bench.start_agent()
    await eventually(lambda: bench.fleet.heartbeats > 1)
    bench.fleet.silent = True
    await eventually(lambda: len(bench.fleet.hellos) >= 2, 10, "connects again")
    bench.fleet.silent = False
    await eventually(
        lambda: bench.agent is not None and bench.agent.uplink is not None and bench.agent.uplink.connected
    )


async def test_a_full_control_plane_is_asked_again_and_gets_everything(bench: Bench) -> None:
    bench.fleet.refusals = 2
    await bench.start_agent()
    caller = bench.caller()
    caller.serve(200)
    await eventually(lambda: len(bench.fleet.ids()) == 200)
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)


async def test_a_message_that_is_refused_for_good_is_given_up_alone(bench: Bench) -> None:
    await bench.fleet.stop()
    bench.fleet = Picky(config=bench.fleet.config)
    await bench.fleet.start()
    agent = await bench.start_agent()
    caller = bench.caller()
    for prefix in ("good", "poison", "fine"):
        caller.serve(20, prefix=prefix)
        await eventually(lambda: caller.tap._counters.read().in_flight == 0)
        await asyncio.sleep(0.15)
    await eventually(lambda: any(i.startswith("fine") for i in bench.fleet.ids()), 20)
    await eventually(lambda: agent.spool.unacknowledged()[0] == 0)
    refused = agent.spool.dropped["refused"]
    assert refused >= 20 and len(bench.fleet.ids()) + refused == 60


class Picky(FakeFleet):
    """A control plane that can't take some rows, whoever sends them."""

    async def Publish(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """Refuse what is poisoned."""

        async def checked() -> AsyncIterator[fleet.PublishRequest]:
            async for request in requests:
                if any(ident.startswith("poison") for ident in request.predictions.prediction_ids):
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these rows cannot be stored")
                yield request

        async for answer in super().Publish(checked(), context):
            yield answer


async def test_messages_stay_below_what_the_control_plane_takes(bench: Bench) -> None:
    bench.fleet.max_publish_bytes = 16 << 10
    bench.fleet.config = sidecar_config(profile=reference(), window_size=100_000)
    await bench.fleet.stop()
    await bench.start_agent()
    caller = bench.caller()
    caller.serve(3000)
    await eventually(lambda: caller.tap._counters.read().captured == 3000)
    await bench.fleet.start()
    await eventually(lambda: len(bench.fleet.ids()) == 3000)
    assert max(bench.fleet.sizes) <= 16 << 10 and len(bench.fleet.sizes) < 300
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)


# Configuration and commands


async def test_a_bad_configuration_is_refused_with_its_reasons_and_the_last_good_one_stays(bench: Bench) -> None:
    agent = await bench.start_agent()
    await eventually(lambda: bench.fleet.acks)
    bench.fleet.push(config=sidecar_config(2, method="magic", window_size=3))
    await eventually(lambda: len(bench.fleet.acks) == 2)
    refusal = bench.fleet.acks[1]
    assert (refusal.version, refusal.nonce) == (2, "n2")
    assert "'magic' is unknown" in refusal.error and "window_size" in refusal.error
    assert agent.intake.config.version == 1
    caller = bench.caller()
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.of("windows")) == 1)
    await bench.stop_agent()
    bench.fleet.config = None
    agent = await bench.start_agent()
    assert agent.intake.config.version == 1
    await eventually(lambda: len(bench.fleet.hellos) == 2)
    assert bench.fleet.hellos[1].config_version == 1
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.of("windows")) == 2)


async def test_a_configuration_for_a_node_is_refused(bench: Bench) -> None:
    bench.fleet.config = fleet.MemberConfig(version=1, nonce="x", node=fleet.NodeConfig())
    await bench.start_agent()
    await eventually(lambda: bench.fleet.acks)
    assert "sidecar" in bench.fleet.acks[0].error


async def test_commands_are_done_once_or_refused_with_a_reason(bench: Bench) -> None:
    await bench.start_agent()
    caller = bench.caller()
    await eventually(lambda: bench.fleet.acks)
    caller.serve(50)
    await eventually(lambda: caller.tap._counters.read().captured == 50)
    flush = fleet.Command(id="c1", generation=5, type="flush")
    late = fleet.Command(id="c2", generation=6, type="flush")
    late.expire_time.FromSeconds(1)
    for command in (
        flush,
        flush,
        late,
        fleet.Command(id="c3", generation=7, type="dance"),
        fleet.Command(id="c4", generation=1, type="flush"),
    ):
        bench.fleet.push(command=command)
    await eventually(lambda: len(bench.fleet.results) == 4)
    results = {result.id: result.error for result in bench.fleet.results}
    assert results["c1"] == "" and "expired" in results["c2"]
    assert "dance" in results["c3"] and "void" in results["c4"]
    assert len(bench.fleet.ids()) == 50 and sum(r.calls for r in bench.fleet.of("outcomes")) == 50


# The log API


async def test_predictions_and_truths_are_logged_and_arrive(bench: Bench) -> None:
    await bench.start_agent()
    await eventually(lambda: bench.fleet.acks)
    async with bench.log_channel() as channel:
        stub = pb_grpc.SidecarServiceStub(channel)
        for first in (0, 150):
            batch = prediction_batch(150, first=first, codes=[0] * 149 + [13])
            answer = await stub.LogPredictions(pb.SidecarServiceLogPredictionsRequest(batch=batch))
            assert answer.stored == 150
        truths = monitoring.GroundTruthBatch(prediction_ids=["l1", "l2"], values=[0.5, 1.0])
        answer = await stub.LogGroundTruth(pb.SidecarServiceLogGroundTruthRequest(batch=truths))
        assert answer.stored == 2
        await eventually(lambda: len(bench.fleet.ids()) == 300 and len(bench.fleet.of("truths")) == 2)
        await eventually(lambda: len(bench.fleet.of("windows")) == 2)
        await eventually(lambda: sum(r.calls for r in bench.fleet.of("outcomes")) == 300)
        assert sum(r.errors["INTERNAL"] for r in bench.fleet.of("outcomes")) == 2
        status = await stub.GetStatus(pb.SidecarServiceGetStatusRequest())
    assert (status.instance, status.connected, status.config_version) == ("sidecar-r1", True, 1)
    assert (status.capture["r1"].served, status.capture["r1"].captured) == (300, 300)
    assert [verdict.method for verdict in status.verdicts] == ["calibrated"]
    assert stat.S_IMODE((bench.directory / "log.sock").stat().st_mode) == 0o600


async def test_a_repeated_request_is_stored_once_and_another_one_with_its_id_is_refused(bench: Bench) -> None:
    await bench.start_agent()
    await eventually(lambda: bench.fleet.acks)
    request = pb.SidecarServiceLogPredictionsRequest(batch=prediction_batch(20), request_id="q1")
    async with bench.log_channel() as channel:
        stub = pb_grpc.SidecarServiceStub(channel)
        answers = await asyncio.gather(*(stub.LogPredictions(request) for _ in range(5)))
        assert [answer.stored for answer in answers] == [20] * 5
    await bench.stop_agent()
    await bench.start_agent()
    async with bench.log_channel() as channel:
        stub = pb_grpc.SidecarServiceStub(channel)
        assert (await stub.LogPredictions(request)).stored == 20
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            other = pb.SidecarServiceLogPredictionsRequest(batch=prediction_batch(3), request_id="q1")
            await stub.LogPredictions(other)
        assert from_rpc_error(caught.value).reason == "REQUEST_ID_REUSED"
    await eventually(lambda: len(bench.fleet.ids()) >= 20)
    await asyncio.sleep(0.2)
    assert len(bench.fleet.ids()) == 20


async def refusal(call: Any) -> PilotfishError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_bad_batches_are_refused_with_every_problem(bench: Bench) -> None:
    await bench.start_agent()
    await eventually(lambda: bench.fleet.acks)
    async with bench.log_channel() as channel:
        stub = pb_grpc.SidecarServiceStub(channel)

        def log(batch: monitoring.PredictionBatch) -> Any:
            return stub.LogPredictions(pb.SidecarServiceLogPredictionsRequest(batch=batch))

        def truth(**fields: Any) -> Any:
            batch = monitoring.GroundTruthBatch(**fields)
            return stub.LogGroundTruth(pb.SidecarServiceLogGroundTruthRequest(batch=batch))

        error = await refusal(log(prediction_batch(2, replica="r9")))
        assert isinstance(error, NotFound) and "bound are: r1" in error.message
        error = await refusal(log(prediction_batch(2, deployment="d9", version=3)))
        assert isinstance(error, InvalidArgument)
        assert {v.field for v in error.violations} == {"batch.deployment", "batch.version"}
        broken = prediction_batch(2)
        broken.columns[0].data = b"123"
        broken.columns[1].datatype = "WORDS"
        error = await refusal(log(broken))
        assert {"columns[0]", "columns[1].datatype"} <= {v.field for v in error.violations}
        assert isinstance(await refusal(log(monitoring.PredictionBatch())), InvalidArgument)
        error = await refusal(truth(prediction_ids=["a", ""], values=[1.0], labels=["x", "y"]))
        assert len(error.violations) == 3
        assert isinstance(await refusal(truth(prediction_ids=["a"], values=[float("nan")])), InvalidArgument)
    assert bench.fleet.ids() == []


async def test_a_full_spool_refuses_the_log_api_while_captured_calls_go_on(bench: Bench) -> None:
    await bench.fleet.stop()
    agent = await bench.start_agent(limits=SpoolLimits(max_bytes=96 << 10))
    stored = 0
    async with bench.log_channel() as channel:
        stub = pb_grpc.SidecarServiceStub(channel)
        error: PilotfishError | None = None
        while error is None:
            try:
                batch = prediction_batch(50, first=stored)
                stored += (await stub.LogPredictions(pb.SidecarServiceLogPredictionsRequest(batch=batch))).stored
            except grpc.aio.AioRpcError as failed:
                error = from_rpc_error(failed)
    assert error.reason == "SPOOL_FULL" and error.retry_after_s
    assert agent.spool.dropped == {}
    caller = bench.caller()
    caller.serve(2000)
    await eventually(lambda: caller.tap._counters.read().captured == 2000)
    assert agent.spool.size_bytes <= 96 << 10 and agent.spool.dropped["spool_full"] > 0
    await bench.fleet.start()
    dropped = agent.spool.dropped
    await eventually(
        lambda: (
            len(bench.fleet.ids()) == stored + 2000 - dropped["spool_full_undecoded"] - dropped["spool_full"]
            and not agent.taps.waiting()
        ),
        what="every row that was not dropped",
    )


async def test_a_second_agent_on_the_same_spool_is_refused(bench: Bench) -> None:
    await bench.start_agent()
    with pytest.raises(FailedPrecondition, match="another sidecar uses the spool"):
        await Bench(bench.directory).start_agent()


# As a process


async def test_sigterm_stores_and_sends_everything_and_exits_clean(bench: Bench) -> None:
    process = AgentProcess(bench.directory, bench.fleet.address)
    process.start()
    await asyncio.to_thread(process.wait_ready)
    ready = json.loads((bench.directory / "sidecar.ready").read_text())
    assert ready["instance"] == "sidecar-r1"
    caller = bench.caller()
    await eventually(lambda: bench.fleet.acks)
    caller.serve(230)
    assert await process.terminate() == 0
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)
    assert sum(r.calls for r in bench.fleet.of("outcomes")) == 230
    assert not (bench.directory / "sidecar.ready").exists() and not (bench.directory / "tap.sock").exists()


async def test_it_says_why_it_cannot_start(bench: Bench) -> None:
    await bench.start_agent()
    process = AgentProcess(bench.directory, bench.fleet.address)
    process.start()
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == 2
    assert "another sidecar uses the spool" in process.log_path.read_text()


async def test_a_drain_sends_what_a_killed_agent_left_and_says_when_it_cannot(bench: Bench) -> None:
    process = AgentProcess(bench.directory, bench.fleet.address)
    process.start()
    await asyncio.to_thread(process.wait_ready)
    caller = bench.caller()
    await eventually(lambda: bench.fleet.acks)
    await bench.fleet.stop()
    caller.serve(240)
    await eventually(lambda: caller.tap._counters.read().captured == 240)
    process.kill()
    process.command[3] = "drain"
    process.command += ["--timeout-s", "0.5"]
    process.start()
    assert process.process is not None
    assert await asyncio.to_thread(process.process.wait, 20) == 3
    await bench.fleet.start()
    process.command[-1] = "20"
    process.start()
    assert await asyncio.to_thread(process.process.wait, 30) == 0
    assert sorted(bench.fleet.ids()) == sorted(caller.sent)
    assert sum(r.calls for r in bench.fleet.of("outcomes")) == 240 and len(bench.fleet.of("windows")) == 2
    process.kill()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
async def test_an_attached_server_is_healthy_as_long_as_it_answers_its_probe(scheme: str) -> None:
    ready = [True]

    async def grpc_ready(request: bytes, context: Any) -> bytes:
        return b"\x08\x01" if ready[0] else b""

    async def http_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" if ready[0] else b"HTTP/1.1 503 Busy\r\n\r\n")
        writer.close()

    if scheme == "grpc":
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(grpc_ready)
        methods = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ServerReady": handler})
        server.add_generic_rpc_handlers((methods,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    else:
        listener = await asyncio.start_server(http_ready, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
    probe = HealthProbe(parse_target(f"{scheme}://127.0.0.1:{port}/v2/health/ready"), interval_s=0.05)
    assert not probe.healthy
    running = asyncio.ensure_future(probe.run())
    await eventually(lambda: probe.healthy)
    ready[0] = False
    await eventually(lambda: not probe.healthy)
    ready[0] = True
    await eventually(lambda: probe.healthy)
    await end_tasks([running])
    if scheme == "grpc":
        await server.stop(0)
    else:
        listener.close()


@pytest.mark.parametrize("url", ["", "ftp://h:1", "http://nohost", "grpc://:5", "http://h:99999"])
def test_what_cannot_be_probed_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be probed"):
        parse_target(url)


async def test_a_replica_that_the_configuration_forgets_is_read_as_before(bench: Bench) -> None:
    agent = await bench.start_agent()
    caller = bench.caller()
    caller.serve(50)
    await eventually(lambda: len(bench.fleet.ids()) == 50)
    bench.fleet.push(config=fleet.MemberConfig(version=2, nonce="n2", sidecar=fleet.SidecarConfig()))
    await eventually(lambda: len(bench.fleet.acks) == 2 and not bench.fleet.acks[1].error)
    caller.serve(50)
    await eventually(lambda: len(bench.fleet.ids()) == 100 and len(bench.fleet.of("windows")) == 1)
    assert agent.intake.config.version == 2


async def test_state_of_another_release_is_left_and_what_is_to_be_sent_is_sent(bench: Bench) -> None:
    await bench.fleet.stop()
    agent = await bench.start_agent()
    caller = bench.caller()
    agent.intake.store_config(sidecar_config(profile=reference()))
    caller.serve(100)
    await eventually(lambda: caller.tap._counters.read().captured == 100)
    agent.spool.append([Draft(Kind.MARK, 0, meta={"tap": "strange"}), Draft(Kind.OUTCOMES, 0, b"", {})])
    await bench.stop_agent()
    await bench.fleet.start()
    await bench.start_agent()
    await eventually(lambda: len(bench.fleet.ids()) == 100)
    caller.serve(100)
    await eventually(lambda: len(bench.fleet.ids()) == 200 and len(bench.fleet.of("windows")) == 2)
