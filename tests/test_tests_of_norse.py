"""The tests that the installed Norse ships pass after ``sed``, except those listed in docs/differences.md with reasons."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import norse_fast

pytestmark = pytest.mark.needs("norse")

ROOT = Path(norse_fast.__file__).parents[1]


def _documented() -> set[str]:
    """Tests, files and folders that are listed as not passing."""
    section = (ROOT / "docs" / "differences.md").read_text().split("## Tests of Norse 1.1.0", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`.*?) \| (.+) \|$", section, re.MULTILINE)
    return {entry for entries, _ in rows for entry in re.findall(r"`([\w./:]+)`", entries)}


def _migrate(norse: ModuleType, folder: Path) -> int:
    """Norse's test files, with what they import from Norse; the number of files."""
    source = Path(norse.__file__).parent
    files = sorted(source.rglob("test/test_*.py"))
    for path in files:
        home = path.relative_to(source).parent.parts

        def absolute(match: re.Match[str], home: tuple[str, ...] = home) -> str:
            package = home[: len(home) - len(match[1]) + 1]
            return f"from {'.'.join(('norse_fast', *package, match[2]))} import"

        text = re.sub(r"from (\.+)([\w.]+) import", absolute, path.read_text().replace("norse.torch", "norse_fast"))
        migrated = folder.joinpath(*home[:-1], path.name)
        migrated.parent.mkdir(parents=True, exist_ok=True)
        migrated.write_text(text.replace("import onnx\n", ""))  # which is not among what our tests need
    return len(files)


def test_they_pass(norse: ModuleType, tmp_path: Path):
    assert _migrate(norse, tmp_path) > 50
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
    ]
    done = subprocess.run(
        [*command, "--continue-on-collection-errors", "--show-capture=no", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    passed = {name for outcome, name in found if outcome == "PASSED"}
    failed = {name for outcome, name in found if outcome != "PASSED"}
    assert len(passed) > 500, done.stdout[-2000:]

    documented = _documented()
    covered = {name: [entry for entry in documented if name.startswith(entry)] for name in failed}
    assert not [name for name, entries in covered.items() if not entries]
    # So that the page does not outlive what it says.
    assert documented == {entry for entries in covered.values() for entry in entries}
