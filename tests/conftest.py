from __future__ import annotations

import pytest
import torch

from norse_fast._extension import has_kernels


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what needs a GPU where there is none, which the summary of a run counts."""
    if torch.cuda.is_available():
        return
    gpu = [item for item in items if item.path.name == "test_cuda.py"]
    if gpu:
        items[:] = [item for item in items if item not in gpu]
        config.hook.pytest_deselected(items=gpu)


def pytest_report_header() -> str:
    kernels = torch.ops.norse_fast.cpu_capability() if has_kernels("cpu") else "none"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so tests/test_cuda.py is deselected"
    return f"norse_fast kernels: {kernels}; torch {torch.__version__}; GPU: {gpu}"
