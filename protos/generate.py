"""Generate the Python stubs from protos/ into client/.

Run by `make protos` in an environment of its own with grpcio-tools 1.76.0: stubs made by it load on
protobuf 6.31 to 7.x, newer ones refuse protobuf 6, which model servers still need.
"""

import pathlib
import shutil
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "client"


def include_paths(scratch: pathlib.Path) -> list[str]:
    """Return protoc's include path, with google/longrunning/operations.proto under its registered name."""
    import google.longrunning

    wheel = pathlib.Path(next(iter(google.longrunning.__path__)))
    site = wheel.parent.parent
    target = scratch / "google" / "longrunning"
    target.mkdir(parents=True)
    shutil.copy(wheel / "operations_proto.proto", target / "operations.proto")
    return [str(PROTOS), str(scratch), str(site), str(pathlib.Path(grpc_tools.__file__).parent / "_proto")]


def isolate_inference_pool(generated: pathlib.Path) -> None:
    """Give the stubs of a foreign protocol a descriptor pool of their own.

    tritonclient, MLServer, KServe and TensorFlow register the same symbols in the default pool; two definitions in
    one pool stop the second import. The wire is the same either way.
    """
    text = generated.read_text()
    if text.count("_descriptor_pool.Default()") != 1:
        raise SystemExit(f"{generated}: expected one use of the default descriptor pool")
    generated.write_text(text.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"))


def main() -> int:
    """Run protoc over every file; return its exit status."""
    files = sorted(str(p.relative_to(PROTOS)) for p in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        args = ["protoc", *(f"-I{p}" for p in include_paths(pathlib.Path(scratch)))]
        args += [
            f"--python_out={OUT}",
            f"--pyi_out={OUT}",
            f"--grpc_python_out={OUT}",
            f"--mypy_grpc_out={OUT}",
            *files,
        ]
        status = protoc.main(args)
    if status:
        return int(status)
    for foreign in ("oip/grpc_predict_v2_pb2.py", "tfserving/predict_pb2.py"):
        isolate_inference_pool(OUT / "pilotfish" / foreign)
    for grpc_stub in OUT.rglob("*_pb2_grpc.py"):
        if "class " not in grpc_stub.read_text():
            grpc_stub.unlink()
            grpc_stub.with_suffix(".pyi").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
