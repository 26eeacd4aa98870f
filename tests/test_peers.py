"""The programs that compare with other libraries and measure curves run, at tiny sizes, with what is installed here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from norse_fast.benchmark.machine import Neighbours, commit
from norse_fast.benchmark.timing import Effort, compare, quartiles

ROOT = Path(__file__).parents[1]


def run(program: str, results: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / program, "--quick", "--threads", "1", "--output", folder],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / f"{results}.png").stat().st_size > 0
    return json.loads((folder / f"{results}.json").read_text())


@pytest.mark.needs("bench", "norse")
def test_peers(tmp_path: Path):
    results = run("peers/run.py", "peers", tmp_path)
    rows = {(row["kind"], row["contender"]): row for row in results["rows"]}
    assert {kind for kind, _ in rows} == {"layer", "recurrent", "network", "digits"}
    assert not [row for row in rows.values() if "error" in row]
    # The others are in an environment of their own; they are said to be missing, and why.
    assert {"spyx", "brainevent"} <= results["missing"].keys()
    assert rows["layer", "Norse"]["same_model_as"] == "norse_fast"
    assert rows["layer", "Norse"]["neurons_that_differ"] == 0
    assert rows["recurrent", "Norse"]["neurons_that_differ"] == 0
    assert rows["network", "Norse"]["difference"] < 1e-4
    for row in rows.values():
        if row["kind"] != "digits":
            assert row["training"]["ratio"][0] <= row["training"]["ratio"][1] <= row["training"]["ratio"][2]
    assert rows["layer", "norse_fast"]["inference"]["ratio"] == [1, 1, 1]
    # The same network, trained alike; snnTorch's, where it is installed, is another.
    accuracies = {
        name: row["epochs"][-1]["accuracy"]
        for (kind, name), row in rows.items()
        if kind == "digits" and not name.startswith("snnTorch")
    }
    assert len(set(accuracies.values())) == 1, accuracies
    assert "commit" in results["machine"]


@pytest.mark.needs("bench")
def test_scaling(tmp_path: Path):
    results = run("scaling.py", "scaling", tmp_path)
    assert {row["mode"] for row in results["steps"]} == {"inference", "training"}
    assert all(row["ratio"][1] > 0 for row in results["neurons"])
    assert results["peaks"][0]["bytes_per_neuron_step"] > 0


def test_ratios_within_a_turn():
    result = compare({"a": lambda: sum(range(2000)), "b": lambda: None}, Effort(1, rounds=3, seconds=0.001))
    low, high = result["a"]["over_quartiles"]["b"]
    assert low <= result["a"]["over"]["b"] <= high
    assert result["b"]["over"]["a"] < 1 < result["a"]["over"]["b"]
    assert result["a"]["others"] is None or result["a"]["others"] >= 0
    assert quartiles([4, 1, 3, 2, 5]) == [2, 3, 4]


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_own_processes_are_no_others():
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        knowing, unknowing = Neighbours([burner.pid]), Neighbours()
        time.sleep(0.5)
        assert knowing.cores() < unknowing.cores()
    finally:
        burner.kill()
        burner.wait()


def test_commit(tmp_path: Path):
    assert commit(tmp_path / "not" / "there") is None
    assert commit(ROOT / "tests") is None or len(commit(ROOT / "tests")) >= 7
