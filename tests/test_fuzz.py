"""A slice of the fuzz of tests/fuzz, with a fixed seed, and that it finds what is wrong; ``make fuzz`` runs more of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .fuzz.compare import Case, check
from .fuzz.draw import Draw, Finding, minimise

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because cases run in forks, which must not inherit threads."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("kind", ["public", "raw"])
def test_slice(kind: str):
    result = run("-m", "tests.fuzz", kind, "--cases", "300", "--seed", "1000")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "300 cases from seed 1000" in result.stdout


PROGRAM = """import torch, norse_fast as nf
fused = nf.backends()["cpu"] != "none"
x = torch.ones(3, requires_grad=True); leaves = [x]
def run():
    {0}
    some = dict(enumerate(out)); seeds = [torch.ones_like(t) for k, t in some.items()]
    return out, torch.autograd.grad(out, leaves, seeds, materialize_grads=True)"""
WRONG = {
    "out = [x + 1e-7 * fused]": "result differs",
    "out = [(x + fused)[:2]]": "result differs",
    "out = [x[: 2 + fused]]": "shape of a result differs",
    "out = [x.double() if fused else x]": "dtype of a result differs",
    "out = [x] * (1 + fused)": "number of results differs",
    "out = [x.detach() + (1 + fused) * (x - x.detach())]": "gradient differs",
    "out = [x.detach() + (1 if fused else float('nan')) * (x - x.detach())]": "result differs",
    "x.data += fused; out = [x * 0]": "argument x was changed",
    "out = [x if fused else x + torch.ones(2)]": "only plain PyTorch raised RuntimeError",
    "out = [x if not fused else x.no_such_thing]": "only the kernels raised AttributeError",
    "out = [x + torch.ones(2 if fused else 4)]": "different errors",
    "out = [x.no_such_thing]": "unreadable error",
}


@pytest.mark.parametrize("line", WRONG)
def test_differences_are_found(line: str):
    program = PROGRAM.format(line)
    ending, found = check(Case("test", program, program, exact=True, steps=1, narrow=False))
    assert ending in ("compared", "raised")
    assert found is not None
    assert WRONG[line] in found.kind


def test_what_is_equal_is_no_finding():
    program = PROGRAM.format("out = [x * float('nan'), x / 0, x * 2]")
    assert check(Case("test", program, program, exact=True, steps=1, narrow=False)) == ("compared", None)


def test_smallest_case():
    def attempt(forced: dict[str, int]) -> tuple[Finding | None, dict[str, int]]:
        d = Draw(7, forced)
        total = d.pick("a", range(100)) + d.pick("b", range(100))
        return (Finding("large") if total > 60 else None), d.made

    assert attempt({})[0] is not None
    assert sum(attempt(minimise(attempt))[1].values()) == 61


DEATHS = """
import os, signal
from tests.fuzz import workers
class Case:
    target, last = "process", False
    def __init__(self, d):
        self.value = d.pick("value", range(100))
        self.printed = f"dies of {self.value}"
class Fuzz:
    draw_case = staticmethod(Case)
    def check(self, case):
        if case.value >= 50:
            os.kill(os.getpid(), signal.SIGSEGV)
        return "lived", None
raise SystemExit(0 if workers.Run(Fuzz(), 0, 40, 0, 20).run() else 1)
"""


def test_deaths_are_found():
    result = run("-c", DEATHS)
    assert result.returncode == 1, result.stderr
    assert "process: died of SIGSEGV" in result.stdout
    assert "dies of 50\n" in result.stdout
    counts = re.search(r"40 cases .*: (\d+) lived, (\d+) died", result.stdout)
    assert counts is not None
    assert sum(map(int, counts.groups())) == 40
    assert f"{counts[2]} findings" in result.stdout
