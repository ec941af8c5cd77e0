"""The contract: every rpc declares role and errors, stubs load on the declared floor, nothing clashes."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from google.protobuf.descriptor import ServiceDescriptor

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos" / "pilotfish" / "v1"


def services() -> list[ServiceDescriptor]:
    found: list[ServiceDescriptor] = []
    for path in sorted(PROTOS.glob("*_service.proto")):
        module = importlib.import_module(f"pilotfish.v1.{path.stem}_pb2")
        found += module.DESCRIPTOR.services_by_name.values()
    return found


def test_every_rpc_declares_the_role_that_it_needs() -> None:
    from pilotfish.v1 import options_pb2

    missing = [
        f"{s.full_name}/{m.name}"
        for s in services()
        for m in s.methods
        if not m.GetOptions().Extensions[options_pb2.required_role]
    ]
    assert services() and not missing, missing


def test_every_rpc_lists_its_errors() -> None:
    bare = []
    for path in sorted(PROTOS.glob("*_service.proto")):
        text = path.read_text()
        for match in re.finditer(r"((?:^  //.*\n)+)  rpc (\w+)", text, re.MULTILINE):
            if "Errors:" not in match.group(1):
                bare.append(f"{path.stem}.{match.group(2)}")
    assert not bare, bare


def test_every_mutation_can_be_repeated() -> None:
    """A request that changes something carries a request_id, but for streams and uploads, which have offsets."""
    reads = ("Get", "List", "Watch", "Read", "Export", "Fetch", "Compare", "Verify", "Who")
    streams = {"Connect", "Publish", "WriteChunks", "AbortUpload"}
    bare = [
        f"{s.name}/{m.name}"
        for s in services()
        for m in s.methods
        if not m.name.startswith(reads) and m.name not in streams and "request_id" not in m.input_type.fields_by_name
    ]
    assert not bare, bare


def test_stubs_stay_below_the_declared_floors() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = {re.split(r"[><=]", d)[0]: re.search(r">=([\d.]+)", d) for d in declared}
    for package, pattern in (
        ("protobuf", r"Protobuf Python Version: ([\d.]+)"),
        ("grpcio", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
    ):
        floor = floors[package]
        assert floor is not None
        for stub in (ROOT / "client" / "pilotfish" / "v1").glob("*.py"):
            found = re.search(pattern, stub.read_text())
            if found:
                made = [int(n) for n in found.group(1).split(".")]
                least = [int(n) for n in floor.group(1).split(".")]
                assert made[: len(least)] <= least, (
                    f"{stub.name} needs {package} {found.group(1)}, declared is {floor.group(1)}"
                )


def test_the_inference_stubs_live_beside_others_of_the_same_name() -> None:
    code = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "f = descriptor_pb2.FileDescriptorProto(name='other.proto', package='inference', syntax='proto3')\n"
        "f.message_type.add(name='ModelInferRequest')\n"
        "descriptor_pool.Default().Add(f)\n"
        "from pilotfish.oip import grpc_predict_v2_pb2 as oip\n"
        "assert oip.ModelInferRequest(model_name='m').model_name == 'm'\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_importing_the_statistics_imports_no_grpc() -> None:
    heavy = ("grpc", "google", "pandas", "scipy")
    code = f"import sys, pilotfish.stats; assert not [m for m in sys.modules if m.split('.')[0] in {heavy}]"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_the_public_names_are_these() -> None:
    import pilotfish

    assert sorted(pilotfish.__all__) == ["AsyncClient", "Client", "PilotfishError", "Predictions", "__version__"]
    assert all(getattr(pilotfish, name) is not None for name in pilotfish.__all__)


def test_protos_pass_the_linter() -> None:
    buf = Path(sys.executable).parent / "buf"
    run = subprocess.run([str(buf), "lint"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
