"""Every example runs in its smallest form, without a warning, and draws its picture."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("bench")

EXAMPLES = Path(__file__).parent.parent / "examples"
FURTHER = {"lightning_classifier": "lightning", "heidelberg_digits": "h5py"}  # packages that they need
#: In processes of their own, one of them of a launcher.
ALONE = ("distributed", "lightning_classifier")
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def arguments(name, picture):
    return [str(EXAMPLES / f"{name}.py"), "--epochs", "1", "--steps", "6", "--output", str(picture)]


def run_here(name, picture, monkeypatch, capsys):
    """In this process, which has imported most of what examples need."""
    monkeypatch.setattr(sys, "argv", arguments(name, picture))
    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(sys.argv[0], run_name="__main__")
    return capsys.readouterr().out


def run_alone(name, picture):
    launcher = TORCHRUN if name == "distributed" else ()
    # Lightning asks for a deprecated class of PyTorch.
    warnings = "error,ignore::FutureWarning" if name == "lightning_classifier" else "error"
    result = subprocess.run(
        [sys.executable, *launcher, *arguments(name, picture)],
        # One thread: two would wait for each other on a busy machine.
        env=os.environ | {"PYTHONWARNINGS": warnings, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


# test_example_accelerate.py runs the one that is left out here.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs(FURTHER[name]) if name in FURTHER else ())
        for name in NAMES
        if name != "accelerate"
    ],
)
def test_example(name, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "folder" / "picture.png"
    printed = run_alone(name, picture) if name in ALONE else run_here(name, picture, monkeypatch, capsys)
    assert f"picture: {picture}" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    if name == "distributed":
        assert "the weights of 2 processes differ by at most 0.0" in printed


def test_readme_shows_every_example():
    readme = (EXAMPLES / "README.md").read_text()
    for name in NAMES:
        assert f"]({name}.py)" in readme
        assert f"](images/{name}.png)" in readme
        assert (EXAMPLES / "images" / f"{name}.png").exists()
