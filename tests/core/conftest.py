"""The module that shows native code to the tests."""

from __future__ import annotations

import importlib.util

import pytest

from ..native import build


@pytest.fixture(scope="session")
def core():
    path = build("core", "NORSE_FAST_CORE")
    spec = importlib.util.spec_from_file_location("_core", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
