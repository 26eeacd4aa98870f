"""Programs for Norse give the same results with norse_fast.

Either ``sed 's/norse\\.torch/norse_fast/g'`` turns them into programs for norse_fast, or ``accelerate`` is applied to each of
their models. The programs are below ``migration``. Each prints something and leaves numbers and tensors in ``results``.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import io
import runpy
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import norse_fast as nf

pytestmark = pytest.mark.needs("norse")

PROGRAMS = sorted((Path(__file__).parent / "migration").glob("*.py"))
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)

LEFT = {"subclasses"}  # programs of which accelerate leaves every module
LIFTED = {"lifted", "notebook_cells"}  # programs with a Lift that can run layer by layer


def run(path: Path) -> tuple[dict[str, Any], str]:
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        results = runpy.run_path(str(path), run_name="__main__")["results"]
    return results, printed.getvalue()


run_with_norse = functools.cache(run)


def migrate(path: Path, folder: Path) -> Path:
    migrated = folder / path.name
    done = subprocess.run(
        ["sed", r"s/norse\.torch/norse_fast/g", str(path)], capture_output=True, text=True, check=True
    )
    migrated.write_text(done.stdout)
    return migrated


def check(program: Path, actual: dict[str, Any], printed: str) -> None:
    expected, printed_by_norse = run_with_norse(program)
    assert printed
    assert printed == printed_by_norse
    assert expected
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        message = f"{name} of {program.stem}"
        if isinstance(value, torch.Tensor) and torch.equal(value, value.round()):  # spikes, and numbers of them
            assert torch.equal(actual[name], value), message
        torch.testing.assert_close(
            actual[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, name=message: f"{name}: {m}"
        )


@each_program
def test_same_results(program: Path, tmp_path: Path):
    migrated = migrate(program, tmp_path)
    assert "norse.torch" not in migrated.read_text()
    check(program, *run(migrated))


@contextlib.contextmanager
def accelerating(**options: bool) -> Iterator[list[nf.AccelerationReport]]:
    """Accelerates each model before its first call, that is, each module that is not in one called before.

    Not by a hook: PyTorch looks up ``forward`` before it runs hooks, and with hooks Lift goes step by step, as it does where
    ``__call__`` is replaced.
    """
    reports: list[nf.AccelerationReport] = []
    seen = weakref.WeakSet[torch.nn.Module]()
    call = torch.nn.Module._call_impl

    def accelerated_call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if module not in seen:
            nf.accelerate(module, report=reports.append, **options)
            seen.update(module.modules())
        return call(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "_call_impl", accelerated_call)
        yield reports


@pytest.mark.usefixtures("products_of_any_size")
@pytest.mark.parametrize("options", [{}, {"lift": True, "products": True}], ids=["as it is", "all options"])
@each_program
def test_same_results_accelerated(program: Path, options: dict[str, bool]):
    with accelerating(**options) as reports:
        results, printed = run(program)
    check(program, results, printed)
    swapped = {kind for report in reports for kind in report.swapped.values()}
    assert bool(swapped) != (program.stem in LEFT), swapped
    assert ("Lift" in swapped) == (bool(options) and program.stem in LIFTED), swapped


def test_every_program_is_there():
    assert len(PROGRAMS) >= 21
    assert {path.stem for path in PROGRAMS} >= LEFT | LIFTED


def test_page(norse):
    """What changed since Norse 1.1.0, checked with the Norse that is installed."""
    page = Path(__file__).parents[1] / "docs" / "from_1_1_0.md"
    assert doctest.testfile(str(page), module_relative=False) == (0, 14)
