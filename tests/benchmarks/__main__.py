"""`make bench BENCH=<name>`: one JSON object per line and figure, peers measured in the same run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIELDS = ("figure", "value", "unit", "peer", "peer_value", "ratio", "n")


def main() -> int:
    """Run the benchmarks named, or all; return the exit status."""
    known = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    asked = sys.argv[1:] or ["all"]
    names = known if asked == ["all"] else asked
    unknown = [n for n in names if n not in known]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there is {', '.join(known)}, or all\n")
        return 2
    for name in names:
        for figure in importlib.import_module(f"tests.benchmarks.bench_{name}").run():
            sys.stdout.write(json.dumps({k: figure.get(k) for k in FIELDS}) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
