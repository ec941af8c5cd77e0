"""`python -m pilotfish_model_server`: the command line of the bundled model server.

Owns the flags and the exit status: 0 drained, 1 cannot serve, 2 bad flags, 3 the files are not those of
the manifest.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from pilotfish.errors import PilotfishError
from pilotfish_model_server.manifest import ManifestError
from pilotfish_model_server.server import Options, run

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pilotfish-model-server", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--model-dir", type=Path, required=True, help="directory with model.onnx and perhaps signature.json")
    add("--model-name", required=True, help="name to answer to")
    add("--model-version", required=True, help="version to answer to")
    add("--grpc-host", default="127.0.0.1", help="address of both faces")
    add("--grpc-port", type=int, default=0, help="0 = any free one")
    add("--http-port", type=int, default=0, help="0 = any free one")
    add("--deployment", default="", help="id of the deployment")
    add("--replica", default="", help="id of the replica")
    add("--run-dir", type=Path, default=None, help="where ready.json is written")
    add("--tap-socket", type=Path, default=None, help="Unix socket of the sidecar; without it nothing is tapped")
    add("--tap-counters", type=Path, default=None, help="file for the tap's counters")
    add("--manifest", type=Path, default=None, help="JSON list of path, size and sha256 that the files must match")
    add("--threads", type=int, default=1, help="onnxruntime's threads within one operator")
    add("--trusted-network", action="store_true", help="allow an address that is no loopback one")
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve; return the exit status."""
    flags = vars(_parser().parse_args(arguments))
    logging.basicConfig(
        level=flags.pop("log_level"), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    log = logging.getLogger("pilotfish_model_server")
    try:
        run(Options(**flags))
    except ManifestError as error:
        log.error("refused to start: %s", error)
        return 3
    except (PilotfishError, OSError) as error:
        log.error("cannot serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
