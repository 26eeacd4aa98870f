from __future__ import annotations

import pytest
import torch

from norse_fast._extension import has_kernels

# Programs, which test_migration.py runs; collecting doctests would run them as well.
collect_ignore = ["migration"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_report_header() -> str:
    kernels = torch.ops.norse_fast.cpu_capability() if has_kernels("cpu") else "none"
    return f"norse_fast kernels: {kernels}; torch {torch.__version__}"
