from __future__ import annotations

import os
from types import ModuleType

# Threads that wait leave the cores to the other processes of a run; torch reads it when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

import norse_fast as nf
from norse_fast._kernels.extension import has_kernels
from norse_fast.functional import spike_products

from .packages import BENCHMARK, PACKAGES, find, leave_out

# Programs, which test_migration.py runs; collecting doctests would run them as well.
collect_ignore = ["migration"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def products_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over spikes are taken for any number of them, where small products would be left to PyTorch."""
    for name in ("LEAST_WORK", "MANY_ROWS", "MANY_OUTPUTS"):
        monkeypatch.setattr(spike_products, name, 0)


@pytest.fixture(scope="session")
def norse() -> ModuleType:
    """The reference's ``norse.torch``; a test that asks for it needs Norse."""
    return find("norse.torch")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("norse_fast")
    for name, modules in PACKAGES.items():
        group.addoption(f"--without-{name}", action="store_true", help=f"leave out what needs {', '.join(modules)}")
    group.addoption(
        "--compile", choices=("quick", "all"), default="quick", help="how much of torch.compile to test: quick or all"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): needs packages, which --without-<name> leaves out")
    config.addinivalue_line("markers", "slow_to_compile: runs with --compile=all alone, as in make test-compile")
    if config.getoption("--without-bench"):
        # Some of its modules cannot be imported, and examples in docstrings are collected by importing.
        config.option.ignore = [*(config.option.ignore or ()), str(BENCHMARK)]
    if not has_kernels("cpu") and os.environ.get("NORSE_FAST_PURE_PYTORCH") != "1":
        raise pytest.UsageError(
            "norse_fast has no kernels here, so nothing would test them; build them with 'bash .ci/install', or set "
            "NORSE_FAST_PURE_PYTORCH=1 to test without."
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what needs a GPU where there is none, and what options leave out; the summary of a run counts them."""
    left_out = leave_out(config, items)
    if not torch.cuda.is_available():
        left_out += [item for item in items if item.path.name == "test_cuda.py"]
    if config.getoption("--compile") == "quick":
        left_out += [item for item in items if item.get_closest_marker("slow_to_compile")]
    if left_out:
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=list(gone))


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = ", ".join(f"{name} {value}" for name, value in nf.backends().items())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so tests/test_cuda.py is deselected"
    header = [f"norse_fast: {found}; torch {torch.__version__}; GPU: {gpu}"]
    without = [name for name in PACKAGES if config.getoption(f"--without-{name}")]
    if without:
        header.append(f"deselected: all tests that need {', '.join(without)}")
    return header
