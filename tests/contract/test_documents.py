"""The documents are true: packages are in the code map, links resolve, the README's commands exist and run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
AREA = ROOT / "control_plane" / "pilotfish_control_plane"


def test_every_package_is_in_the_code_map() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    packages = [f"pilotfish_control_plane.{p.parent.name}" for p in AREA.glob("*/__init__.py")]
    packages += [p.parent.name for p in (ROOT / "sidecar").glob("*/__init__.py")]
    packages += [
        f"pilotfish_sidecar.{p.parent.name}" for p in (ROOT / "sidecar" / "pilotfish_sidecar").glob("*/__init__.py")
    ]
    packages += [f"pilotfish.{p.parent.name}" for p in (ROOT / "client" / "pilotfish").glob("*/__init__.py")]
    missing = [p for p in packages if f"`{p}`" not in text]
    assert not missing, f"not in docs/ARCHITECTURE.md: {missing}"


def test_the_architecture_can_be_read_in_one_sitting() -> None:
    assert len((ROOT / "docs" / "ARCHITECTURE.md").read_text().splitlines()) <= 300


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    broken = [
        target for target in LINK.findall(text) if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken, broken


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for d in DOCUMENTS for t in re.findall(r"(?:^|`)make ([a-z-]+)", d.read_text(), re.MULTILINE)}
    assert named <= targets, named - targets


def test_every_pilotfish_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"^pilotfish ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    for command in sorted(named):
        run = subprocess.run(
            [sys.executable, "-m", "pilotfish", command, "--help"], capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, f"pilotfish {command}: {run.stderr}"


def test_the_readmes_python_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
