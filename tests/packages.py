"""Packages that some tests need and norse_fast does not. A missing one fails the run, or is left out by an option."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import norse_fast
from norse_fast.benchmark.models import import_norse

#: What ``--without-<name>`` leaves out: the tests that are marked ``needs(<name>)``, by the modules that they import.
PACKAGES = {
    "norse": ("norse.torch",),
    "nir": ("nir", "nirtorch"),
    "bench": ("matplotlib", "rich", "sklearn"),
    "lightning": ("lightning",),
    "h5py": ("h5py",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}

BENCHMARK = Path(norse_fast.__file__).parent / "benchmark"


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # which doctest looks for, for one
        return cls


class Missing(metaclass=_Anything):
    """Stands in for a package that is not there, so that the tests that need it can be collected, and counted."""


def find(module: str) -> Any:
    """A module, or :class:`Missing` in its place."""
    found: ModuleType | None
    if module == "norse.torch":
        found = import_norse()
    else:
        try:
            found = importlib.import_module(module)
        except ImportError:
            found = None
    return Missing if found is None else found


def _is_installed(module: str) -> bool:
    """Without importing it, which takes seconds, but for Norse, whose name another package may have."""
    return find(module) is not Missing if module == "norse.torch" else find_spec(module) is not None


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests that options leave out.

    Raises:
        pytest.UsageError: the others need what is missing.
    """
    left_out, needing, missing, options = [], set(), [], []
    needs = [(item, names) for item in items if (names := _needs(item))]
    for name, modules in PACKAGES.items():
        tests = [item for item, names in needs if name in names]
        if config.getoption(f"--without-{name}"):
            left_out += tests
        elif tests and (absent := [module for module in modules if not _is_installed(module)]):
            needing.update(tests)
            missing += absent
            options.append(f"--without-{name}")
    if missing:
        raise pytest.UsageError(
            f"{len(needing)} tests need {', '.join(missing)}, which cannot be imported; install all that tests need with "
            f"'bash .ci/install', or leave these out with {' '.join(options)}."
        )
    return left_out


def _needs(item: pytest.Item) -> set[str]:
    names = {name for mark in item.iter_markers("needs") for name in mark.args}
    if "norse" in getattr(item, "fixturenames", ()):
        names.add("norse")
    # Examples in docstrings.
    if item.path.name.endswith("_nir.py"):
        names.add("nir")
    if item.path.is_relative_to(BENCHMARK):
        names.add("bench")
    return names
