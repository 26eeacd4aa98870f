"""The example, at a small size."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("norse", "bench")

EXAMPLE = Path(__file__).parents[1] / "examples" / "accelerate.py"
SMALL = ["--samples", "70", "--epochs", "1", "--steps", "20", "--hidden", "16", "--rounds", "1"]


def test_example(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *SMALL, "--output", str(picture)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "norse_fast: 2 accelerated, 1 left as they are" in printed
    assert " right; 0 of " in printed
    assert " 0 of 0 " not in printed
    assert "times as fast" in printed
    assert picture.stat().st_size > 0
