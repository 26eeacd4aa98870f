from __future__ import annotations

import pytest
import torch

import norse_fast as nf


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_report_header() -> str:
    found = ", ".join(f"{name} {value}" for name, value in nf.backends().items())
    return f"norse_fast: {found}; torch {torch.__version__}"
