from __future__ import annotations

from types import ModuleType

import pytest
import torch

import norse_fast as nf
from norse_fast.benchmark.models import import_norse

# Programs, which test_migration.py runs; collecting doctests would run them as well.
collect_ignore = ["migration"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def norse() -> ModuleType:
    """The reference's ``norse.torch``; CI has it."""
    module = import_norse()
    if module is None:
        pytest.skip("Norse is not installed")
    return module


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what needs a GPU where there is none, which the summary of a run counts."""
    if torch.cuda.is_available():
        return
    gpu = [item for item in items if item.path.name == "test_cuda.py"]
    if gpu:
        items[:] = [item for item in items if item not in gpu]
        config.hook.pytest_deselected(items=gpu)


def pytest_report_header() -> str:
    found = ", ".join(f"{name} {value}" for name, value in nf.backends().items())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so tests/test_cuda.py is deselected"
    return f"norse_fast: {found}; torch {torch.__version__}; GPU: {gpu}"
