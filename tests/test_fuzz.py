"""A slice of the fuzz of tests/fuzz, with a fixed seed; ``make fuzz`` runs more of it, with others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("kind", ["public", "raw"])
def test_slice(kind: str):
    """In a process of its own, because the cases run in forks, which must not inherit threads."""
    command = [sys.executable, "-m", "tests.fuzz", kind, "--cases", "300", "--seed", "1000"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "300 cases from seed 1000" in run.stdout
