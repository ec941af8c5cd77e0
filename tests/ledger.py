"""The ledger: docs/ledger.md held against the tests that are marked with its rows.

`make ledger` runs every marked test once and fails when a row that is not open has no passing test, or a test names a
row that the ledger does not have.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

LEDGER = Path(__file__).resolve().parent.parent / "docs" / "ledger.md"
ROW = re.compile(r"^\| ([A-G]\d+) \| (open|thin|whole) \|", re.MULTILINE)


class _Collector:
    """Runs marked tests only, and remembers how each row's tests ended."""

    def __init__(self) -> None:
        self.rows: dict[str, set[str]] = defaultdict(set)
        self.passed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the marked tests."""
        kept = []
        for item in items:
            names = [str(a) for mark in item.iter_markers("ledger") for a in mark.args]
            for name in names:
                self.rows[name].add(item.nodeid)
            if names:
                kept.append(item)
        items[:] = kept

    # Any: pytest's report object.
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what passed."""
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


def states() -> dict[str, str]:
    """Return the state of every row."""
    return dict(ROW.findall(LEDGER.read_text()))


def main() -> int:
    """Run and judge; return the exit status."""
    collector = _Collector()
    code = pytest.main(["-q", "--no-header", "tests/integration", "tests/fault", "tests/unit"], plugins=[collector])
    known = states()
    problems = [f"{row}: no such row in docs/ledger.md" for row in collector.rows if row not in known]
    for row, state in known.items():
        passing = collector.rows.get(row, set()) & collector.passed
        if state != "open" and not passing:
            problems.append(f"{row} is {state}, and no passing test is marked with it")
        sys.stdout.write(f"{row:<3} {state:<5} {len(passing)} passing\n")
    for problem in problems:
        sys.stdout.write(f"✗ {problem}\n")
    return 1 if problems or code not in (0, 5) else 0


if __name__ == "__main__":
    sys.exit(main())
