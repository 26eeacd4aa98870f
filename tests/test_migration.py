"""``sed 's/norse\\.torch/norse_fast/g'`` turns programs for Norse into programs for norse_fast with the same results.

The programs are below ``migration``. Each prints something and leaves numbers and tensors in ``results``.
"""

from __future__ import annotations

import doctest
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.needs("norse")

PROGRAMS = sorted((Path(__file__).parent / "migration").glob("*.py"))


def run(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    torch.manual_seed(0)
    results = runpy.run_path(str(path), run_name="__main__")["results"]
    return results, capsys.readouterr().out


def migrate(path: Path, folder: Path) -> Path:
    migrated = folder / path.name
    done = subprocess.run(
        ["sed", r"s/norse\.torch/norse_fast/g", str(path)], capture_output=True, text=True, check=True
    )
    migrated.write_text(done.stdout)
    return migrated


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_same_results(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    migrated = migrate(program, tmp_path)
    assert "norse.torch" not in migrated.read_text()
    expected, printed = run(program, capsys)
    actual, printed_too = run(migrated, capsys)
    assert printed
    assert printed_too == printed
    assert expected
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_every_program_is_there():
    assert len(PROGRAMS) >= 9


def test_page(norse):
    """What changed since Norse 1.1.0, checked with the Norse that is installed."""
    page = Path(__file__).parents[1] / "docs" / "from_1_1_0.md"
    assert doctest.testfile(str(page), module_relative=False) == (0, 14)
